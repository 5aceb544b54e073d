"""Whether what is asked of is there: an empty answer to a mistyped name would look like one to a quiet site."""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from gigawatch.errors import GigawatchError

MOST_NAMED = 40
# Of each parameter: what it names, and where the store has all of its names.
_NAMES: Mapping[str, tuple[str, str]] = {
    "site": ("site", "SELECT site FROM report.racks"),
    "rack": (
        "rack",
        "SELECT rack FROM report.racks WHERE rack IS NOT NULL AND (CAST(:site AS text) IS NULL OR site = :site)",
    ),
    "gpu_model": ("GPU model", "SELECT gpu_model FROM report.gpus"),
    "gpu_uuid": ("GPU", "SELECT gpu_uuid FROM report.gpus"),
    "deployment": ("deployment", "SELECT deployment FROM report.deployments"),
    "rule": ("rule", "SELECT name FROM report.alert_rules"),
}


class Unknown(GigawatchError):
    """Nothing in the store has that name or number."""


def require_known(connection: Connection, asked: Mapping[str, str | None]) -> None:
    """Refuse names that no agent, topology or import ever gave.

    Args:
        connection: of the report role, or the store's owner.
        asked: values by parameter; of those without names (_NAMES), and of None, nothing is asked.

    Raises:
        Unknown: there is none of that name; it names those that there are.
    """
    for parameter, (what, names) in _NAMES.items():
        values = {"name": asked.get(parameter), "site": asked.get("site"), "most": MOST_NAMED + 1}
        if values["name"] is None or connection.scalar(
            text(f"SELECT EXISTS (SELECT FROM ({names}) AS its (name) WHERE name = :name)"), values
        ):
            continue
        known = connection.scalars(
            text(f"SELECT DISTINCT name FROM ({names}) AS its (name) ORDER BY 1 LIMIT :most"), values
        ).all()
        where = f" in site {values['site']!r}" if parameter == "rack" and values["site"] is not None else ""
        shown = ", ".join(known[:MOST_NAMED]) or "none yet"
        more = " and more" if len(known) > MOST_NAMED else ""
        raise Unknown(f"There is no {what} named {str(values['name'])[:200]!r}{where}", f"There are: {shown}{more}.")
