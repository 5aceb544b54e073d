"""The verbs `gigawatch tariff`, `gigawatch intensity` and `gigawatch pue`."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, get_args

import click
import msgspec
from msgspec import Struct
from sqlalchemy import Connection

from api.commands import store_of
from api.factors import clocks, files, store
from api.factors.intervals import Factors, Interval, check_pue, in_order, unfit
from api.factors.layouts import Emissions
from api.factors.store import FactorTable, Kind, Method
from gigawatch import readings
from gigawatch.known import require_known
from gigawatch.readings import FactorImport
from gigawatch.serving import store_flags
from gigawatch.units import BYTES_PER_MIB

MOST_BYTES = 64 * BYTES_PER_MIB
SHOWN = "%Y-%m-%d %H:%M"
TAKE_FLAGS = (
    click.option("--site", required=True, help="Site that the values are of."),
    click.option("--source", help="Where the values come from; needed unless the file says it."),
    click.option("--version", help="Version of the source; default of a file its SHA-256, 12 digits."),
    click.option("--replace", is_flag=True, help="Retire what counts for that time already."),
    click.option("--dry-run", is_flag=True, help="Check everything, store nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)
IMPORT_FLAGS = (
    click.argument("file", type=click.File("rb")),
    click.option("--time-zone", metavar="ZONE", help="Of times without offset, e.g. Europe/Berlin."),
)


def take_flags(command: Any) -> Any:
    """Decorate a verb with the flags of all that take values in."""
    for flag in reversed(TAKE_FLAGS):
        command = flag(command)
    return store_flags(command)


def import_flags(command: Any) -> Any:
    """Decorate a verb with the flags of every import."""
    command = take_flags(command)
    for flag in reversed(IMPORT_FLAGS):
        command = flag(command)
    return command


def list_and_remove(
    group: click.Group, table: FactorTable, imports: Callable[[Connection, str | None], list[FactorImport]], what: str
) -> None:
    """Add the verbs that are alike for all kinds of values."""

    @group.command("list", help=f"List the imports of {what}.")
    @store_flags
    @click.option("--site", help="Of this site alone.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_obj
    def _list(config: Path | None, /, site: str | None, as_json: bool, **of_store: Any) -> None:
        with store_of(config, **of_store) as engine, engine.connect() as connection:
            require_known(connection, {"site": site})
            _show(imports(connection, site), as_json)

    @group.command(
        "remove",
        help=f"Remove the {what} of an import from all figures."
        " What it had replaced does not come back: import that anew.",
    )
    @store_flags
    @click.argument("import_id", type=click.IntRange(1, 2**31 - 1))
    @click.pass_obj
    def _remove(config: Path | None, /, import_id: int, **of_store: Any) -> None:
        with store_of(config, **of_store) as engine, engine.begin() as connection:
            done = store.remove(connection, table, import_id)
        click.echo(f"Removed import {done.import_id}: {done.retired} values no longer count.")


@click.group()
def tariff() -> None:
    """Take in, list and remove prices of the sites' energy.

    \b
      gigawatch tariff import day-ahead-2026.csv --site oslo
      gigawatch tariff import contract.toml --site paris
    """


@tariff.command("import")
@click.option("--currency", help="Of the prices, e.g. EUR; needed where the file does not say.")
@import_flags
@click.pass_obj
def import_tariff(
    config: Path | None, /, file: BinaryIO, currency: str | None, time_zone: str | None, **given: Any
) -> None:
    """Take the prices of FILE in: all of it or nothing.

    FILE is CSV with columns start, stop and price_per_kwh (or price_per_mwh), an export of day-ahead prices from
    ENTSO-E's Transparency Platform, or a time-of-use schedule in TOML; - is standard input.
    """
    found = files.prices(read_file(file), currency=currency, time_zone=time_zone)
    _take(config, store.price(found.currency or ""), found, **given)


list_and_remove(tariff, "tariff", readings.tariff_imports, "prices")


@click.group()
def intensity() -> None:
    """Take in, list and remove carbon intensities of the sites' energy.

    \b
      gigawatch intensity import DE_2026_hourly.csv --site frankfurt --method location
      gigawatch intensity import ppa.csv --site frankfurt --method market --instrument 'PPA wind'
    """


@intensity.command("import")
@click.option(
    "--method", type=click.Choice(get_args(Method)), required=True, help="Of the grid, or of what was bought."
)
@click.option("--instrument", help="What was bought, for method market, e.g. 'PPA wind'.")
@click.option(
    "--emissions",
    type=click.Choice(get_args(Emissions)),
    default="direct",
    show_default=True,
    help="Which column of an export of Electricity Maps.",
)
@import_flags
@click.pass_obj
def import_intensity(
    config: Path | None,
    /,
    file: BinaryIO,
    method: Method,
    instrument: str | None,
    emissions: Emissions,
    time_zone: str | None,
    **given: Any,
) -> None:
    """Take the carbon intensities of FILE in: all of it or nothing.

    FILE is CSV with columns start, stop and g_per_kwh, or an export of Electricity Maps; - is standard input.
    """
    kind = store.intensity(method, instrument)
    _take(config, kind, files.intensities(read_file(file), emissions=emissions, time_zone=time_zone), **given)


list_and_remove(intensity, "grid_intensity", readings.intensity_imports, "carbon intensities")


@click.group()
def pue() -> None:
    """Configure the PUE of sites without facility meters. Figures say that it is configured, not measured.

    \b
      gigawatch pue set --site oslo --pue 1.2 --from 2026-01-01 --to 2027-01-01 --source 'design value'
      gigawatch pue import by-month.csv --site oslo --time-zone Europe/Oslo --source 'design value'
    """


@pue.command("set")
@click.option("--pue", "value", type=float, required=True, help="The facility's energy over that of its IT equipment.")
@click.option("--from", "first", metavar="TIME", required=True, help="It holds from this date, or date and time, on.")
@click.option("--to", "beyond", metavar="TIME", required=True, help="Up to this one, which is not part of it.")
@click.option("--time-zone", metavar="ZONE", default="UTC", show_default=True, help="Of times without offset.")
@take_flags
@click.pass_obj
def set_pue(config: Path | None, /, value: float, first: str, beyond: str, time_zone: str, **given: Any) -> None:
    """Give a site one PUE for a time."""
    local = clocks.zone(time_zone)
    start, stop = clocks.moment(first, local, "--from"), clocks.moment(beyond, local, "--to")
    interval = Interval(start, stop, Decimal(str(value)))
    check_pue([interval])
    found = Factors(intervals=in_order([interval]), source="", version="set on the command line")
    _take(config, store.CONFIGURED_PUE, found, **given)


@pue.command("import")
@import_flags
@click.pass_obj
def import_pue(config: Path | None, /, file: BinaryIO, time_zone: str | None, **given: Any) -> None:
    """Take the configured PUE of FILE in: all of it or nothing.

    FILE is CSV with columns start, stop and pue; - is standard input.
    """
    _take(config, store.CONFIGURED_PUE, files.pues(read_file(file), time_zone=time_zone), **given)


list_and_remove(pue, "configured_pue", readings.pue_imports, "configured PUE")


def read_file(file: BinaryIO) -> bytes:
    """What a file holds.

    Raises:
        GigawatchError: it is too large.
    """
    body = file.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise unfit(f"The file is larger than {MOST_BYTES} bytes", "Split it by year.")
    return body


def _take(
    config: Path | None,
    kind: Kind,
    found: Factors,
    *,
    site: str,
    source: str | None,
    version: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **of_store: Any,
) -> None:
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        done = store.take(
            connection, site, kind, found, version=version, source=source, replace=replace, dry_run=dry_run
        )
    if as_json:
        _print(done)
        return
    did = "Could take in" if dry_run else f"Import {done.import_id}:"
    click.echo(
        f"{did} {done.intervals} values of {done.start:{SHOWN}} to {done.stop:{SHOWN}} UTC for {done.site},"
        f" {done.least:g} to {done.greatest:g} {done.unit or '(configured PUE)'}, from {done.source},"
        f" version {done.version}."
    )
    if done.retired:
        click.echo(f"{'Would replace' if dry_run else 'Replaced'} {done.retired} earlier values.")
    for note in done.notes:
        click.echo(note)


def _show(found: list[FactorImport], as_json: bool) -> None:
    if as_json:
        _print(found)
        return
    for it in found:
        click.echo(
            f"{it.import_id}  {it.site}  {it.kind}  {it.start:{SHOWN}} to {it.stop:{SHOWN}} UTC"
            f"  {it.counting} of {it.intervals} values count  {it.source}  version {it.version}"
            f"  imported {it.imported:{SHOWN}} UTC"
        )


def _print(found: Struct | list[FactorImport]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
