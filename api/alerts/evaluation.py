"""Runs a rule: what its SELECT gives becomes observations, and whatever is wrong with it an error in words."""

import math
import re
import string
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import sqlalchemy
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from api.alerts.rule import SPECIAL, Rule, Threshold
from gigawatch.alerts.notification import SEVERITIES, Severity
from gigawatch.database import REPORT_ROLE
from gigawatch.settings import Alerts

MOST_CHARACTERS = 2_000
"""Of one column of one row; the rest is cut off by the database."""
MOST_SUMMARY = 1_000
MOST_RACKS = 10_000
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)")
# The session is the owner's, who took the report role: what sets it back, and what runs SQL made of text, would get
# round it; a lock of the session would outlive the rule, and messages fill the log. An identifier may be spelt in
# escapes.
_REFUSED = re.compile(r'set_config|query_to_xml|ts_stat|ts_rewrite|advisory|logical_emit|u&"', re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDE = re.compile(r"\d{4}")
_INTEGERS = {20, 21, 23}
_REALS = {700, 701, 1700}
_AS_THEY_ARE = _INTEGERS | {16, 1082, 1184}
"""Types, by their OIDs, whose values are small: integers, boolean, date and timestamptz."""
_RACKS = f"(CAST({{name}} AS text[]))[1:{MOST_RACKS}]"
_SPECIAL = {"value": "CAST({name} AS double precision)", "severity": "CAST({name} AS text)", "racks": _RACKS,
            "simulated": "CAST({name} AS boolean)"}  # fmt: skip
QUERY_CANCELED = "57014"

Detail = str | int | float | bool | datetime | date | None


class EvaluationError(Exception):
    """The rule cannot be evaluated; the message says why and what to do."""


class Observation(Struct, frozen=True, kw_only=True):
    """A row of a rule: one thing for which its condition holds, or of which nobody can tell."""

    labels: dict[str, str]
    value: float | None
    """None: there are no data to tell."""
    severity: Severity
    racks: tuple[str, ...] | None
    simulated: bool
    summary: str
    details: dict[str, Any]
    """The other columns, as JSON has them."""


def evaluate(engine: Engine, rule: Rule, now: datetime, settings: Alerts) -> list[Observation]:
    """Run the rule, read-only, within the time and to the number of rows that a rule may have.

    Args:
        engine: of the report role.
        rule: what to run.
        now: the time that it is evaluated for.
        settings: bounds of time and rows.

    Raises:
        EvaluationError: the rule is wrong, takes too long or gives too much.
        sqlalchemy.exc.DBAPIError: the database is out of reach: this says nothing of the rule.
    """
    with engine.connect() as connection:
        try:
            return observe(connection, rule, now, settings)
        except sqlalchemy.exc.DBAPIError as error:
            if error.connection_invalidated or not getattr(error.orig, "sqlstate", None):
                raise
            raise EvaluationError(_in_words(error, settings)) from error
        finally:
            # Whatever the rule set goes with its transaction.
            connection.rollback()


def observe(connection: Connection, rule: Rule, now: datetime, settings: Alerts) -> list[Observation]:
    """As evaluate(), in the connection's transaction."""
    connection.execute(
        text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": str(round(settings.rule_timeout_s * 1000))}
    )
    inner, values = _bound(rule, now)
    # What columns hold is known only when they are asked for, and one text could be of a gigabyte. Since a value is
    # bound, the database takes no second statement.
    nothing = connection.execute(
        text(f"SELECT * FROM (\n{inner}\n) AS rule LIMIT :MOST_ROWS"), {**values, "MOST_ROWS": 0}
    )
    columns: Any = nothing.cursor.description
    kinds = _kinds(rule, [(column.name, column.type_code) for column in columns])
    taken = ", ".join(_taken(name, kind) for name, kind in kinds.items())
    found = connection.execute(
        text(f"SELECT {taken} FROM (\n{inner}\n) AS rule LIMIT :MOST_ROWS"),
        {**values, "MOST_ROWS": settings.rule_max_rows + 1},
    ).all()
    if len(found) > settings.rule_max_rows:
        raise EvaluationError(
            f"it gives more than {settings.rule_max_rows:,} rows (alerts.rule_max_rows): let it sum up by rack or site"
        )
    observations = [_observation(rule, dict(zip(kinds, row, strict=True))) for row in found]
    _require_unlike(rule, observations)
    return observations


def problem_of(connection: Connection, rule: Rule, now: datetime, settings: Alerts) -> str | None:
    """Why a rule would fail now, in words; None: it would not.

    Args:
        connection: of the store's owner, whose transaction stays as it is.
        rule: what to try, as the report role.
        now: the time that it is evaluated for.
        settings: bounds of time and rows.
    """
    attempt = connection.begin_nested()
    try:
        connection.execute(text(f"SET LOCAL ROLE {REPORT_ROLE}"))
        observe(connection, rule, now, settings)
    except EvaluationError as error:
        return str(error)
    except sqlalchemy.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return _in_words(error, settings)
    finally:
        if attempt.is_active:
            attempt.rollback()
    return None


def _in_words(error: sqlalchemy.exc.DBAPIError, settings: Alerts) -> str:
    if getattr(error.orig, "sqlstate", None) == QUERY_CANCELED:
        return f"it took longer than {settings.rule_timeout_s:g} s (alerts.rule_timeout_s)"
    return str(error.orig).partition("\n")[0][:MOST_SUMMARY]


def _bound(rule: Rule, now: datetime) -> tuple[str, dict[str, Any]]:
    """The rule's SQL with its thresholds as expressions of bound values, and the values."""
    refused = _REFUSED.search(rule.sql)
    if refused is not None:
        raise EvaluationError(f"its sql has {refused[0]!r}, which a rule may not have: leave it out")
    values: dict[str, Any] = {}

    def expression(found: re.Match[str]) -> str:
        name = found[1]
        if name == "now":
            values["now"] = now
            return "CAST(:now AS timestamptz)"
        if name not in rule.thresholds:
            known = ", ".join(f":{it}" for it in ("now", *rule.thresholds))
            raise EvaluationError(
                f"its sql asks for :{name}, and has {known}: write \\: for a colon that is none of these"
            )
        return _threshold(name, rule.thresholds[name], values)

    return _PARAMETER.sub(expression, rule.sql.strip().rstrip(";")), values


def _threshold(name: str, threshold: Threshold, values: dict[str, Any]) -> str:
    """A CASE over the columns of its overrides, the one with the most conditions first, of equals the last."""
    values[name] = threshold.value
    usual = f"CAST(:{name} AS double precision)"
    cases = []
    for place, override in sorted(
        enumerate(threshold.overrides), key=lambda it: (len(it[1].where), it[0]), reverse=True
    ):
        # No threshold's own name has capitals.
        key = f"{name}_OF_{place}"
        values[key] = override.value
        conditions = []
        for column, value in override.where.items():
            values[f"{key}_{column}"] = value
            conditions.append(f"{column} = CAST(:{key}_{column} AS text)")
        cases.append(f"WHEN {' AND '.join(conditions)} THEN CAST(:{key} AS double precision)")
    return f"(CASE {' '.join(cases)} ELSE {usual} END)" if cases else usual


def _kinds(rule: Rule, columns: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The type of each column by its name, if they are what a rule must have."""
    names = [name for name, _ in columns]
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise EvaluationError(f"its column {name[:80]!r} has no name of letters, digits and _: write … AS name")
        if names.count(name) > 1:
            raise EvaluationError(f"it gives column {name} twice: write … AS another_name")
    for name in ("value", *rule.labels):
        if name not in names:
            raise EvaluationError(f"it gives no column {name}: add it, or NULL AS {name} where there is none")
    return dict(columns)


def _taken(name: str, kind: int) -> str:
    quoted = f'"{name}"'
    if name in _SPECIAL:
        return _SPECIAL[name].format(name=quoted)
    if kind in _AS_THEY_ARE:
        return quoted
    if kind in _REALS:
        return f"CAST({quoted} AS double precision)"
    return f"left(CAST({quoted} AS text), {MOST_CHARACTERS})"


def _observation(rule: Rule, row: Mapping[str, Any]) -> Observation:
    row = {name: _finite(value) for name, value in row.items()}
    severity = row.get("severity")
    if severity is None:
        severity = rule.severity
    elif severity not in SEVERITIES:
        raise EvaluationError(
            f"its column severity has {severity[:80]!r}, and may have {', '.join(SEVERITIES)} or NULL"
        )
    racks = row.get("racks")
    return Observation(
        labels={name: _label(row[name]) for name in rule.labels if row[name] is not None},
        value=row["value"],
        severity=severity,
        racks=None if racks is None else tuple(sorted({rack for rack in racks if rack is not None})),
        simulated=bool(row.get("simulated")),
        summary=in_words(rule.summary, row),
        details={
            name: value.isoformat() if isinstance(value, date) else value
            for name, value in row.items()
            if name not in rule.labels and name not in SPECIAL
        },
    )


def _finite(value: Any) -> Any:
    """Not a number, or infinite, is no measurement."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _label(value: Detail) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    return value.isoformat() if isinstance(value, date) else str(value)


def _require_unlike(rule: Rule, observations: Sequence[Observation]) -> None:
    seen = set()
    for it in observations:
        key = tuple(sorted(it.labels.items()))
        if key in seen:
            labels = ", ".join(f"{name}={value[:80]}" for name, value in key) or "no labels"
            by = ", ".join(rule.labels) or "nothing"
            raise EvaluationError(f"it gives two rows of {labels}: its sql must group by {by}")
        seen.add(key)


class _Words(string.Formatter):
    """str.format() without attributes and indexes: a name in braces is a column, and ? where it has no value."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        return kwargs.get(field_name), field_name

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value if value is None else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "?"
        try:
            # A width of millions is nobody's wish.
            return str(value) if _WIDE.search(format_spec) else format(value, format_spec)
        except (TypeError, ValueError):
            return str(value)


def in_words(summary: str, row: Mapping[str, Any]) -> str:
    """The summary with the row's values; itself where its braces are wrong."""
    try:
        return _Words().vformat(summary, (), row)[:MOST_SUMMARY]
    except (ValueError, TypeError, IndexError, KeyError):
        return summary[:MOST_SUMMARY]
