"""The verbs `gigawatch engines list` and `gigawatch engines probe`."""

import sys

import click
import msgspec

from collector.engines.catalogue import engines as known_engines
from collector.engines.probe import format_report
from collector.engines.probe import probe as probe_endpoint
from gigawatch.errors import ExitCode


@click.group()
def engines() -> None:
    """See what inference engines tell of tokens, before the agent reads them.

    Energy per token wants the tokens: the agent reads them from the engines' own metrics, which [[engines]] in the
    settings name. docs/engines.md says what is read of which engine.

    \b
      gigawatch engines list                                   engines that are known, and where their metrics are
      gigawatch engines probe http://127.0.0.1:8000/metrics    what this one tells, and what is missing
    """


@engines.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with each engine's whole file.")
def list_engines(*, as_json: bool) -> None:
    """List the engines that are known, with the usual address of their metrics."""
    known = known_engines()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(list(known.values()))).decode())
        return
    for name, engine in known.items():
        address = f"http://HOST:{engine.port}{engine.path}"
        click.echo(f"{name:<9} {address:<36} {engine.title}, {engine.versions}")


@engines.command()
@click.argument("url")
@click.option("--engine", help="What it is, where it is not to be recognised: a name from `gigawatch engines list`.")
@click.option("--seconds", type=click.FloatRange(0.1, 3_600), help="Read twice with this between, for rates.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probe(url: str, engine: str | None, seconds: float | None, *, as_json: bool) -> None:
    """Read the metrics at URL, and say what they tell and what is missing for energy per token.

    URL is the address of an engine's metrics; without a path, /metrics is read.

    Ends with 0 where energy per token can be formed, with 1 where the engine does not count generated tokens, with 3
    where the address is wrong or locked, with 4 where it does not answer, with 7 where the answer is not that of an
    engine that is known.

    \b
      gigawatch engines probe 127.0.0.1:8000
      gigawatch engines probe http://127.0.0.1:8000/prometheus/metrics --seconds 10
    """
    report = probe_endpoint(url, engine, seconds or 0.0)
    click.echo(msgspec.json.format(msgspec.json.encode(report)).decode() if as_json else format_report(report))
    if not report.has_generated_tokens:
        sys.exit(ExitCode.FAILURE)
