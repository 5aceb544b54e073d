"""The verbs `gigawatch meter probe` and `gigawatch meter maps`."""

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from collector.meters.maps import load
from collector.meters.maps import maps as known_maps
from collector.meters.probe import format_report
from collector.meters.probe import probe as probe_meter
from gigawatch import settings
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter


@click.command("maps")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with each map's whole file.")
def list_maps(name: str | None, *, as_json: bool) -> None:
    """List the maps of meters that are known, or show the one called NAME."""
    found = known_maps()
    if name is not None:
        if name not in found:
            raise GigawatchError(
                f"No map is named {name!r}", "`gigawatch meter maps` lists them.", ExitCode.CONFIGURATION
            )
        found = {name: found[name]}
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(list(found.values()))).decode())
        return
    for map_name, it in found.items():
        click.echo(f"{map_name:<30} {it.__struct_config__.tag:<11} {it.title}")
        if name is not None:
            click.echo(f"  tells {', '.join(it.readings)}")
            for word, index in it.index.items():
                default = "to be given" if index.default is None else f"by default {index.default}"
                click.echo(f"  --index {word}=…  {index.about} ({default})")
            for line in (*it.notes, *it.sources):
                click.echo(f"  {line}")


def _words(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str | int]:
    words: dict[str, str | int] = {}
    for it in given:
        word, separator, value = it.partition("=")
        if not separator or not word or not value:
            raise click.BadParameter(f"{it!r} is not of the form WORD=VALUE")
        words[word] = int(value) if value.isascii() and value.isdigit() else value
    return words


@click.command()
@click.argument("address", required=False)
@click.option("--name", help="A meter of [[meters]] in the settings, in place of ADDRESS.")
@click.option("--map", "map_", help="A map's name from `gigawatch meter maps`, or a file of your own.")
@click.option("--index", multiple=True, callback=_words, metavar="WORD=VALUE", help="Which of several, e.g. unit=3.")
@click.option("--user", help="Name to log in with.")
@click.option("--secret-file", help="File that holds the password or community.")
@click.option("--ca-file", help="Certificates to trust.")
@click.option("--rated-kw", type=float, help="Most power that can flow through it.")
@click.option("--timeout-s", type=float, help="How long an answer may take; default 4.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3_600), help="Read twice with this between, for the register's power."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def probe(
    config: Path | None, /, address: str | None, name: str | None, map_: str | None, seconds: float | None,
    *, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Read one meter, and show each figure with its raw value, where it was read, and what was refused.

    ADDRESS is HOST or HOST:PORT, or the URL of redfish and prometheus. Compare the figures with the meter's own
    display: a wrong unit, scale or word order shows there. With --seconds the growth of the register of energy stands
    beside the power that is told.

    Ends with 0 where nothing was refused, with 1 where something was, with 3 where settings, map or login are wrong,
    with 4 where the meter does not answer, with 7 where its answer is not that of such a meter.

    \b
      gigawatch meter probe 10.20.0.5 --map schneider-pm5000
      gigawatch meter probe 10.20.0.6:502 --map eastron-sdm630 --index unit=3 --seconds 60
      gigawatch meter probe pdu-12-a.example.net --map apc-rpdu2 --secret-file community
      gigawatch meter probe --name hall-1-main --json
    """
    report = probe_meter(_settings(config, address, name, {**given, "map": map_}), seconds or 0.0)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else format_report(report))
    if any(it.refused for it in report.figures):
        sys.exit(ExitCode.FAILURE)


def _settings(config: Path | None, address: str | None, name: str | None, given: dict[str, Any]) -> Meter:
    """The meter that the command names."""
    given = {key: value for key, value in given.items() if value not in (None, {})}
    if name is not None:
        if address is not None or given:
            raise click.UsageError("--name reads a meter of the settings: leave ADDRESS and the other options out.")
        configured = {it.name: it for it in settings.load(config).meters}
        if name not in configured:
            raise GigawatchError(
                f"No [[meters]] of the settings is named {name!r}",
                f"Known are: {', '.join(configured)}." if configured else "There are none: give ADDRESS.",
                ExitCode.CONFIGURATION,
            )
        return configured[name]
    if address is None or "map" not in given:
        raise click.UsageError("Give ADDRESS and --map, or --name.")
    is_of = type(load(given["map"])).__struct_config__.tag
    try:
        return msgspec.convert({"name": address, "address": address, "driver": is_of, **given}, Meter)
    except msgspec.ValidationError as error:
        raise click.UsageError(str(error)) from error
