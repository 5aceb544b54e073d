"""The verbs `gigawatch meter import` and `gigawatch meter list`: what meters counted, from files."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
from msgspec import Struct
from sqlalchemy import Connection, text

from api import meters as stored
from api.commands import store_of
from api.factors.commands import SHOWN, read_file
from api.factors.intervals import named, unfit
from api.factors.store import Conflict, site_number
from api.meter_files import windows
from api.meters import Kept, hour_of
from api.retention import HOURS_MARGIN, WINDOWS_MARGIN, taken
from api.rollups import CLOSE_LOCK
from api.rows import LARGEST_LEAD
from gigawatch import facility_readings, settings
from gigawatch.errors import ExitCode
from gigawatch.known import require_known
from gigawatch.records import MeterWindow
from gigawatch.serving import store_flags
from gigawatch.settings import Retention


class Taken(Struct, frozen=True, kw_only=True):
    """What an import did for one meter."""

    site: str
    meter: str
    start: datetime
    stop: datetime
    windows: int
    """None crosses a full hour."""
    energy_kwh: float | None
    volume_m3: float | None
    replaced: int
    """Windows that were there, and are gone."""
    placed: bool
    """Whether the topology says what the meter is; if not it is in no figure yet."""


@click.command("import")
@click.argument("file", type=click.File("rb"))
@store_flags
@click.option("--site", required=True, help="Site that the meters are of.")
@click.option("--meter", help="Name of the meter, where the file has no column meter.")
@click.option("--time-zone", metavar="ZONE", help="Of times without offset, e.g. Europe/Oslo.")
@click.option("--replace", is_flag=True, help="Remove what is there of that time already.")
@click.option("--dry-run", is_flag=True, help="Check everything, store nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def import_(
    config: Path | None,
    /,
    file: BinaryIO,
    site: str,
    meter: str | None,
    time_zone: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **of_store: Any,
) -> None:
    """Take in what meters counted by FILE: all of it or nothing.

    FILE is CSV with columns start, stop (or not), meter (or --meter), and one of energy_kwh, energy_mwh, energy_wh,
    volume_m3, volume_l, or of a register's readings register_kwh, register_mwh, register_wh, register_m3, register_l;
    - is standard input. Longer intervals are spread evenly over their hours, and marked as interpolated.
    """
    found = windows(read_file(file), meter, time_zone)
    retention = settings.load(config).retention
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        done = take(connection, site, found, retention, datetime.now(UTC), replace=replace)
        if dry_run:
            connection.rollback()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(done)).decode())
        return
    for it in done:
        amount = f"{it.energy_kwh:g} kWh" if it.energy_kwh is not None else f"{it.volume_m3:g} m³"
        click.echo(
            f"{'Could take in' if dry_run else 'Took in'} {amount} of {it.meter} in {it.site},"
            f" {it.start:{SHOWN}} to {it.stop:{SHOWN}} UTC, {it.windows} windows."
            + (f" {it.replaced} were replaced." if it.replaced else "")
            + ("" if it.placed else " No topology says what this meter is: it is in no figure yet.")
        )


def take(
    connection: Connection,
    site: str,
    found: dict[str, list[MeterWindow]],
    retention: Retention,
    now: datetime,
    *,
    replace: bool,
) -> list[Taken]:
    """Store windows of a site's meters, in the caller's transaction.

    Args:
        connection: of the store's owner.
        site: its name.
        found: windows by meter, in order of time.
        retention: how long windows and hours are kept.
        now: the time.
        replace: whether what is there of that time is to be removed.

    Raises:
        GigawatchError: there is no such site, the file reaches into the future or further back than hours are kept, or
            there are windows already and they are not to be replaced: it says when.
    """
    site_id = site_number(connection, site)
    connection.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": CLOSE_LOCK})
    driver = connection.connection.driver_connection
    assert driver is not None
    closed = stored.closed_until(driver)
    kept = Kept(now - taken(retention.windows_d, WINDOWS_MARGIN), now - taken(retention.hours_d, HOURS_MARGIN))
    done = []
    for name, its in sorted(found.items()):
        start, stop = its[0].start, its[-1].start + timedelta(milliseconds=its[-1].covered_ms)
        if start < kept.hours:
            raise unfit(
                f"{name}: the file begins {start:{SHOWN}} UTC, and hours are kept from {kept.hours:{SHOWN}} UTC on",
                "Cut it there, or raise retention.hours_d.",
            )
        if stop > now + LARGEST_LEAD:
            raise unfit(f"{name}: the file ends {stop:{SHOWN}} UTC, in the future", "Is the time zone right?")
        meter_id, placed = _meter(connection, site_id, name)
        replaced = _make_room(connection, meter_id, name, start, stop, kept, closed, replace=replace)
        count = stored.insert(driver, [(meter_id, it) for it in its], closed)
        energies = [it.energy_mj for it in its if it.energy_mj is not None]
        volumes = [it.volume_ml for it in its if it.volume_ml is not None]
        done.append(
            Taken(
                site=site, meter=name, start=start, stop=stop, windows=count, replaced=replaced, placed=placed,
                energy_kwh=sum(energies) / 3_600_000_000 if energies else None,
                volume_m3=sum(volumes) / 1_000_000 if volumes else None,
            )
        )  # fmt: skip
    return done


def _meter(connection: Connection, site_id: int, name: str) -> tuple[int, bool]:
    """The meter's number, which is made where it is not there, and whether the topology places it."""
    row = connection.execute(
        text("""
        INSERT INTO gigawatch.meter (site_id, name, last_seen) VALUES (:site_id, :name, now())
        ON CONFLICT (site_id, name) DO UPDATE SET last_seen = now() RETURNING meter_id, role IS NOT NULL, virtual"""),
        {"site_id": site_id, "name": name},
    ).one()
    if row[2]:
        raise unfit(f"{name} is a virtual meter, a sum of others", "Import what it is the sum of.")
    return row[0], row[1]


def _make_room(
    connection: Connection,
    meter_id: int,
    name: str,
    start: datetime,
    stop: datetime,
    kept: Kept,
    closed: datetime | None,
    *,
    replace: bool,
) -> int:
    """Remove what is there of a time, if it may be; how many windows that was."""
    values = {"meter_id": meter_id, "start": start, "stop": stop, "kept": kept.windows, "first": hour_of(start)}
    # Of hours of which no windows are kept, the hour itself is what is there.
    there = connection.execute(
        text("""
        SELECT time, time + covered_ms * interval '1 ms' AS beyond FROM gigawatch.meter_window
        WHERE meter_id = :meter_id AND time >= :first AND time < :stop AND time + covered_ms * interval '1 ms' > :start
        UNION
        SELECT time, time + interval '1 hour' FROM gigawatch.meter_1h
        WHERE meter_id = :meter_id AND time >= :first AND time < :stop AND time < :kept
        ORDER BY 1"""),
        values,
    ).all()
    if not there:
        return 0
    spans = [(max(row[0], start), min(row[1], stop)) for row in there]
    if not replace:
        raise Conflict(
            f"{name} has windows already: {named(spans)}",
            "Ask for it with --replace: what was there is removed.",
            ExitCode.DATA,
        )
    cut = [row for row in there if row[0] < start or row[1] > stop]
    if cut:
        raise unfit(f"{name}: what is there reaches beyond the file: {named([(row[0], row[1]) for row in cut])}",
                    "Let the file begin and end at full hours.")  # fmt: skip
    gone = connection.execute(
        text("DELETE FROM gigawatch.meter_window WHERE meter_id = :meter_id AND time >= :start AND time < :stop"),
        values,
    ).rowcount
    if closed is not None:
        connection.execute(
            text("""
            INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
            SELECT 'meter_1h', hour, :meter_id
            FROM generate_series(
                CAST(:first AS timestamptz), least(:stop, CAST(:closed AS timestamptz)) - interval '1 us', '1 hour'
            ) AS hour"""),
            values | {"closed": closed},
        )
    return gone


@click.command("list")
@store_flags
@click.option("--site", help="Of this site alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(config: Path | None, /, site: str | None, as_json: bool, **of_store: Any) -> None:
    """List the meters, whether they are heard of, and whether what they say can be right."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        require_known(connection, {"site": site})
        found = facility_readings.meter_health(connection, site)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    for it in found:
        click.echo(_line(it))


def _line(it: facility_readings.MeterHealth) -> str:
    parts: Sequence[str | None] = (
        f"{it.site} / {it.meter}",
        it.role or "(no role)",
        f"hall {it.hall}" if it.hall else None,
        "virtual" if it.virtual else None,
        it.state,
        f"{it.power_w / 1_000:.6g} kW" if it.power_w is not None else None,
        f"{it.coverage_24h:.0%} of the last 24 h",
        f"last heard of {it.last_seen:{SHOWN}} UTC" if it.last_seen else None,
        "simulated" if it.simulated else None,
    )
    return "  ".join(part for part in parts if part)
