"""The verb `gigawatch report`."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection

from api.commands import store_of
from api.factors import clocks
from api.reports import eu_eed, monthly
from api.reports.formats import FORMATS, file_name, snapshot
from api.reports.model import Report
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.serving import store_flags

STANDARD_OUTPUT = "-"
FLAGS = (
    click.option("--site", required=True, help="Name of the site."),
    click.option(
        "--category",
        type=click.IntRange(1, 3),
        help="Where IT is metered: 1 UPS output, 2 PDU output, 3 IT input; default: of the month all, nearest to IT "
        "first, of the year that nearest to the UPS.",
    ),
    click.option(
        "--format",
        "formats",
        type=click.Choice(list(FORMATS)),
        multiple=True,
        default=("html",),
        help="What to write, default html; give it several times for several.",
    ),
    click.option(
        "--output",
        metavar="PATH",
        help="A file, a folder, or - for standard output; default: a file named by site and period, here.",
    ),
)


def report_flags(command: Any) -> Any:
    """Decorate a verb with the flags of all reports."""
    for flag in reversed(FLAGS):
        command = flag(command)
    return store_flags(command)


@click.group()
def report() -> None:
    """Write reports that people sign: figures with boundary, coverage, missing hours, methods and versions.

    \b
      gigawatch report monthly --site oslo --month 2026-01
      gigawatch report eu-eed --site oslo --year 2025 --format html --format xlsx

    HTML is one page that prints on A4, with charts and room for signatures; XLSX has a sheet for each table; CSV has a
    line for each value; JSON has all of it.
    """


@report.command("eu-eed")
@report_flags
@click.option(
    "--year",
    type=click.IntRange(eu_eed.FIRST_YEAR, eu_eed.LAST_YEAR),
    required=True,
    help="Calendar year of the figures.",
)
@click.option("--strict", is_flag=True, help="End with status 1 where an input is missing.")
@click.pass_obj
def eu_eed_(config: Path | None, /, site: str, category: int | None, year: int, strict: bool, **given: Any) -> None:
    """Write a site's yearly report under Delegated Regulation (EU) 2024/1364.

    Each input that is missing is named on standard error, with its field and what to do. The year is that of the
    figures, of the calendar, UTC; the next is the reporting year, which chooses the formulas.

    \b
      gigawatch report eu-eed --site oslo --year 2025
      gigawatch report eu-eed --site oslo --year 2025 --format json --output - | jq .tables.indicators.rows
      gigawatch report eu-eed --site oslo --year 2025 --strict --format xlsx --output /srv/reports/

    Exit status: 0 where the report was written, whatever it lacks; with --strict 1 where an input is missing.
    """
    done = _write(config, lambda connection, now: eu_eed.make(connection, site, year, category, now), **given)
    if done.missing:
        click.echo(f"Missing inputs: {len(done.missing)}", err=True)
        for it in done.missing:
            click.echo(f"  {it.indicator}: {it.lacks}\n    {it.remedy}", err=True)
        if strict:
            raise SystemExit(ExitCode.FAILURE)


@report.command("monthly")
@report_flags
@click.option("--month", required=True, help="The month, as 2026-01.")
@click.option("--time-zone", metavar="ZONE", default="UTC", help="Of month and days, e.g. Europe/Oslo; default UTC.")
@click.pass_obj
def monthly_(config: Path | None, /, site: str, category: int | None, month: str, time_zone: str, **given: Any) -> None:
    """Write a site's monthly report.

    PUE by day, energy by role, losses, water, carbon, cost, energy per token, peaks against limits, meters and missing
    hours. A month that is not over is reported up to its last full hour, and says so.

    \b
      gigawatch report monthly --site oslo --month 2026-01 --time-zone Europe/Oslo
      gigawatch report monthly --site oslo --month 2026-01 --format csv --output - > oslo.csv
    """
    zone = clocks.zone(time_zone)
    _write(config, lambda connection, now: monthly.make(connection, site, month, zone, category, now), **given)


def _write(
    config: Path | None,
    make: Callable[[Connection, datetime], Report],
    formats: Sequence[str],
    output: str | None,
    **of_store: Any,
) -> Report:
    """Make a report, from one snapshot of the store, and write it in each format."""
    _check_output(formats, output)
    with store_of(config, **of_store) as engine, snapshot(engine) as connection:
        done = make(connection, datetime.now(UTC))
    for name in dict.fromkeys(formats):
        body = FORMATS[name].write(done)
        if output == STANDARD_OUTPUT:
            click.echo(body, nl=False)
            continue
        path = Path(output or ".")
        if path.is_dir():
            path /= file_name(done, name)
        try:
            path.write_bytes(body)
        except OSError as error:
            raise GigawatchError(
                f"{path} cannot be written: {error.strerror}", "Name another place with --output."
            ) from error
        click.echo(f"Wrote {path}", err=True)
    return done


def _check_output(formats: Sequence[str], output: str | None) -> None:
    """Refuse before any work what cannot be written."""
    if output == STANDARD_OUTPUT and not all(FORMATS[name].is_text for name in formats):
        raise GigawatchError("--output -: xlsx is no text", "Name a file or a folder.", ExitCode.USAGE)
    if output is not None and len(set(formats)) > 1 and not Path(output).is_dir():
        raise GigawatchError(
            f"--output {output}: several formats need several files", "Name a folder that is there.", ExitCode.USAGE
        )
