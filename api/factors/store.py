"""Prices, intensities and configured PUE in the store: taken whole or not at all, replaced when asked, never deleted.

What is replaced or removed is retired: it keeps its row with the moment of that, and counts in no figure.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import Connection, text

from api.factors.intervals import Factors, Interval, named, unfit
from api.weighed_rollups import factors_changed
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.known import Unknown, require_known

Method = Literal["location", "market"]
FactorTable = Literal["tariff", "grid_intensity", "configured_pue"]
MOST_TEXT = 500


class Conflict(GigawatchError):
    """There are values for that time already."""


class Kind(Struct, frozen=True, kw_only=True):
    """What values are of: the table, its column of values, and what is the same for all of a file."""

    table: FactorTable
    value: str
    unit: str | None
    """None: a ratio."""
    constants: dict[str, str | None] = {}
    estimated: bool = False
    """Whether a column says of each value if it is an estimate."""
    condition: str = "TRUE"
    """Which rows no two of which count at the same moment."""


CONFIGURED_PUE = Kind(table="configured_pue", value="pue", unit=None)


def price(currency: str) -> Kind:
    """Prices in a currency per kWh."""
    return Kind(table="tariff", value="price_per_kwh", unit=f"{currency}/kWh", constants={"currency": currency})


def intensity(method: Method, instrument: str | None) -> Kind:
    """Carbon intensities in gCO2e/kWh.

    Raises:
        GigawatchError: method market comes without its instrument, or location with one.
    """
    if (method == "market") != bool(instrument):
        raise unfit(
            f"instrument = {instrument!r} does not go with method = {method!r}",
            "Name what was bought for market (--instrument 'PPA wind'), and nothing for location.",
        )
    return Kind(
        table="grid_intensity", value="g_per_kwh", unit="gCO2e/kWh", estimated=True,
        constants={"method": method, "instrument": instrument}, condition=f"method = '{method}'",
    )  # fmt: skip


class Taken(Struct, frozen=True, kw_only=True):
    """What an import did."""

    import_id: int | None
    """None: nothing was stored, it was tried only."""
    site: str
    source: str
    version: str
    start: datetime
    stop: datetime
    intervals: int
    """Stretches of time with one value."""
    unit: str | None
    """None: a PUE, which is a ratio."""
    least: float
    greatest: float
    retired: int
    """Earlier stretches that it replaced, as a whole or in part."""
    notes: list[str]


class Removed(Struct, frozen=True, kw_only=True):
    """What a removal did."""

    import_id: int
    retired: int
    """Stretches of time that no longer count."""


def take(
    connection: Connection,
    site: str,
    kind: Kind,
    factors: Factors,
    *,
    version: str | None,
    source: str | None,
    replace: bool,
    dry_run: bool,
) -> Taken:
    """Store the values of a file for a site, in the caller's transaction.

    Args:
        connection: of the store's owner.
        site: its name.
        kind: what the values are of.
        factors: the file's values, in order.
        version: of the source; None: what the values came with, such as the file's SHA-256.
        source: where they come from; None: as the file says.
        replace: whether values that count for that time already are to be retired.
        dry_run: roll back in the end.

    Raises:
        Unknown: there is no such site.
        Conflict: there are values for that time, and they are not to be replaced: it says when.
    """
    source, version = source or factors.source, version or factors.version
    if not source:
        raise unfit("Nothing says where the values come from", "Name it: --source 'Contract 2026'.")
    for name, words in (("source", source), ("version", version), *kind.constants.items()):
        if words is not None and not 0 < len(words) <= MOST_TEXT:
            raise unfit(f"{name} has {len(words)} characters", f"Write 1 to {MOST_TEXT}.")
    site_id = site_number(connection, site)
    first, beyond = factors.intervals[0].start, factors.intervals[-1].stop
    present = {"site_id": site_id, "first": first, "beyond": beyond}
    taken = _overlaps(connection, kind, present)
    if taken and not replace:
        raise Conflict(
            f"Site {site} has values already: {named(taken)}",
            "Ask for it with --replace (replace=true): what was there is kept and no longer counts.",
            ExitCode.DATA,
        )
    retired = _retire(connection, kind, present) if taken else 0
    import_id = connection.scalar(
        text("""
        INSERT INTO gigawatch.factor_import (site_id, source, version) VALUES (:site_id, :source, :version)
        RETURNING import_id"""),
        {"site_id": site_id, "source": source, "version": version},
    )
    assert import_id is not None
    _copy(connection, kind, import_id, site_id, factors.intervals)
    factors_changed(connection, site_id, first, beyond)
    if dry_run:
        connection.rollback()
    values = [it.value for it in factors.intervals]
    return Taken(
        import_id=None if dry_run else import_id,
        site=site,
        source=source,
        version=version,
        start=first,
        stop=beyond,
        intervals=len(values),
        unit=kind.unit,
        least=float(min(values)),
        greatest=float(max(values)),
        retired=retired,
        notes=list(factors.notes),
    )


def remove(connection: Connection, table: FactorTable, import_id: int) -> Removed:
    """Retire what of an import still counts; what it had replaced does not come back.

    Raises:
        Unknown: there is no such import, or nothing of it counts any more.
    """
    retired = connection.execute(
        text(
            f"UPDATE gigawatch.{table} SET retired = now() WHERE import_id = :import_id AND retired IS NULL"
            " RETURNING site_id, start, stop"
        ),
        {"import_id": import_id},
    ).all()
    if not retired:
        raise Unknown(f"There is no import {import_id} of which anything counts", "The verb `list` names them.")
    factors_changed(connection, retired[0].site_id, min(it.start for it in retired), max(it.stop for it in retired))
    return Removed(import_id=import_id, retired=len(retired))


def site_number(connection: Connection, name: str) -> int:
    """The site's number; its imports now wait for this one to end.

    Raises:
        Unknown: there is no such site.
    """
    require_known(connection, {"site": name})
    statement = text("SELECT site_id FROM gigawatch.site WHERE name = :name FOR NO KEY UPDATE")
    return int(connection.execute(statement, {"name": name}).scalar_one())


def _overlaps(connection: Connection, kind: Kind, present: dict[str, Any]) -> list[tuple[datetime, datetime]]:
    """When values count within the time, joined where they touch."""
    rows = connection.execute(
        text(f"""
        SELECT lower(span), upper(span) FROM (
            SELECT unnest(range_agg(tstzrange(greatest(start, :first), least(stop, :beyond)))) AS span
            FROM gigawatch.{kind.table} WHERE {_counting(kind)}
        ) AS spans ORDER BY 1"""),
        present,
    )
    return [(row[0], row[1]) for row in rows]


def _retire(connection: Connection, kind: Kind, present: dict[str, Any]) -> int:
    """Retire what counts within the time. A stretch across its edge is cut there, and goes on counting outside."""
    columns = ", ".join(_columns(kind))
    outside = connection.execute(
        text(f"""
        SELECT import_id, site_id, start, least(stop, :first) AS stop, {columns} FROM gigawatch.{kind.table}
        WHERE {_counting(kind)} AND start < :first
        UNION ALL
        SELECT import_id, site_id, greatest(start, :beyond), stop, {columns} FROM gigawatch.{kind.table}
        WHERE {_counting(kind)} AND stop > :beyond"""),
        present,
    ).all()
    retired = connection.execute(
        text(f"""
        UPDATE gigawatch.{kind.table}
        SET start = greatest(start, :first), stop = least(stop, :beyond), retired = now()
        WHERE {_counting(kind)}"""),
        present,
    ).rowcount
    for row in outside:
        names = ", ".join(row._fields)
        values = ", ".join(f":{name}" for name in row._fields)
        connection.execute(text(f"INSERT INTO gigawatch.{kind.table} ({names}) VALUES ({values})"), dict(row._mapping))
    return retired


def _counting(kind: Kind) -> str:
    return f"site_id = :site_id AND retired IS NULL AND {kind.condition} AND start < :beyond AND stop > :first"


def _columns(kind: Kind) -> list[str]:
    """What is of the kind alone, in the order in which it is copied."""
    return [*kind.constants, kind.value, *(["estimated"] if kind.estimated else [])]


def _copy(connection: Connection, kind: Kind, import_id: int, site_id: int, intervals: Sequence[Interval]) -> None:
    columns = ["import_id", "site_id", "start", "stop", *_columns(kind)]
    driver = connection.connection.driver_connection
    assert driver is not None
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY gigawatch.{kind.table} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for it in intervals:
            row = [import_id, site_id, it.start, it.stop, *kind.constants.values(), it.value]
            copy.write_row([*row, it.estimated] if kind.estimated else row)
