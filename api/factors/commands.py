"""The verbs `gigawatch tariff` and `gigawatch intensity`."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO, get_args

import click
import msgspec
from msgspec import Struct

from api.commands import store_of
from api.factors import files, store
from api.factors.intervals import Factors, unfit
from api.factors.layouts import Emissions
from api.factors.store import Kind, Method
from gigawatch import readings
from gigawatch.readings import FactorImport
from gigawatch.serving import store_flags
from gigawatch.units import BYTES_PER_MIB

MOST_BYTES = 64 * BYTES_PER_MIB
SHOWN = "%Y-%m-%d %H:%M"
IMPORT_FLAGS = (
    click.argument("file", type=click.File("rb")),
    click.option("--site", required=True, help="Site that the values are of."),
    click.option("--time-zone", metavar="ZONE", help="Of times without offset, e.g. Europe/Berlin."),
    click.option("--source", help="Where the values come from; default as the file says."),
    click.option("--version", help="Version of the source; default the file's SHA-256, 12 digits."),
    click.option("--replace", is_flag=True, help="Retire what counts for that time already."),
    click.option("--dry-run", is_flag=True, help="Check everything, store nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def import_flags(command: Any) -> Any:
    """Decorate a verb with the flags of every import."""
    for flag in reversed(IMPORT_FLAGS):
        command = flag(command)
    return store_flags(command)


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
    body = _read(file)
    found = files.prices(body, currency=currency, time_zone=time_zone)
    _take(config, store.price(found.currency or ""), found, body, **given)


@tariff.command("list")
@store_flags
@click.option("--site", help="Of this site alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_tariffs(config: Path | None, /, site: str | None, as_json: bool, **of_store: Any) -> None:
    """List the files of prices that were taken in."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        _show(readings.tariff_imports(connection, site), as_json)


@tariff.command("remove")
@store_flags
@click.argument("import_id", type=click.IntRange(1, 2**31 - 1))
@click.pass_obj
def remove_tariff(config: Path | None, /, import_id: int, **of_store: Any) -> None:
    """Remove the prices of an import from all figures. What it had replaced does not come back: import that anew."""
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        _say_removed(store.remove(connection, "tariff", import_id))


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
    body = _read(file)
    _take(config, kind, files.intensities(body, emissions=emissions, time_zone=time_zone), body, **given)


@intensity.command("list")
@store_flags
@click.option("--site", help="Of this site alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_intensities(config: Path | None, /, site: str | None, as_json: bool, **of_store: Any) -> None:
    """List the files of carbon intensities that were taken in."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        _show(readings.intensity_imports(connection, site), as_json)


@intensity.command("remove")
@store_flags
@click.argument("import_id", type=click.IntRange(1, 2**31 - 1))
@click.pass_obj
def remove_intensity(config: Path | None, /, import_id: int, **of_store: Any) -> None:
    """Remove the intensities of an import from all figures. What it had replaced does not come back."""
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        _say_removed(store.remove(connection, "grid_intensity", import_id))


def _read(file: BinaryIO) -> bytes:
    body = file.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise unfit(f"The file is larger than {MOST_BYTES} bytes", "Split it by year.")
    return body


def _take(
    config: Path | None,
    kind: Kind,
    found: Factors,
    body: bytes,
    *,
    site: str,
    source: str | None,
    version: str | None,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **of_store: Any,
) -> None:
    name = version or hashlib.sha256(body).hexdigest()[:12]
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        done = store.take(connection, site, kind, found, version=name, source=source, replace=replace, dry_run=dry_run)
    if as_json:
        _print(done)
        return
    did = "Could take in" if dry_run else f"Import {done.import_id}:"
    click.echo(
        f"{did} {done.intervals} values of {done.start:{SHOWN}} to {done.stop:{SHOWN}} UTC for {done.site},"
        f" {done.least:g} to {done.greatest:g} {done.unit}, from {done.source}, version {done.version}."
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


def _say_removed(done: store.Removed) -> None:
    click.echo(f"Removed import {done.import_id}: {done.retired} values no longer count.")


def _print(found: Struct | list[FactorImport]) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
