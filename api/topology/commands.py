"""The verb `gigawatch topology`."""

from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from api.commands import store_of
from api.declared.nodes import MOST_BYTES
from api.declared.values import said
from api.topology import files, store
from api.topology.store import SiteApplied
from gigawatch import facility_readings
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.findings import Finding, some
from gigawatch.known import require_known
from gigawatch.serving import store_flags
from gigawatch.topology import picture
from gigawatch.topology.checks import SiteChecked
from gigawatch.topology.document import Topology
from gigawatch.topology.plan import in_force

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def topology() -> None:
    """Check, apply and show what stands in the sites: halls, racks, meters, and what they feed.

    \b
      gigawatch topology check oslo.yaml
      gigawatch topology apply oslo.yaml --dry-run
      gigawatch topology show --site oslo --svg oslo.svg
    """


@topology.command()
@click.argument("file", type=click.File("rb"))
@JSON_FLAG
def check(file: BinaryIO, as_json: bool) -> None:
    """Say everything that is wrong with FILE, by line. Needs no database; - is standard input.

    Exit status: 0 where it could be applied, warnings or not; 7 where it could not.
    """
    _, checked = files.examine(_read(file))
    if as_json:
        _print(checked)
    else:
        for finding in checked.findings:
            click.echo(_said(finding))
        for site in checked.sites:
            click.echo(_summary(site))
    if checked.errors:
        raise SystemExit(ExitCode.DATA)


@topology.command()
@store_flags
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Check everything and show what would change; change nothing.")
@JSON_FLAG
@click.pass_obj
def apply(config: Path | None, /, file: BinaryIO, dry_run: bool, as_json: bool, **of_store: Any) -> None:
    """Bring FILE into force, all of it or nothing; - is standard input. Sites that it does not name stay as they are.

    A meter that the file no longer names keeps its data and is in no figure any more.
    """
    found = files.read(_read(file))
    source = Path(file.name).name
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        done = store.apply(connection, found, source=source, dry_run=dry_run)
    if as_json:
        _print(done)
        return
    for finding in done.warnings:
        click.echo(_said(finding))
    for site in done.sites:
        _tell(site, dry_run)


@topology.command()
@store_flags
@click.option("--site", help="Of this site alone.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print a file that `apply` takes.")
@JSON_FLAG
@click.option("--svg", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the picture there.")
@click.pass_obj
def show(
    config: Path | None, /, site: str | None, as_yaml: bool, as_json: bool, svg: Path | None, **of_store: Any
) -> None:
    """Show the topologies in force."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        require_known(connection, {"site": site})
        found = facility_readings.topologies(connection, site)
    if site is not None and not found:
        raise GigawatchError(f"No topology was applied to the site {site[:200]!r}", "Apply one: topology apply FILE.")
    if svg is not None:
        if len(found) != 1:
            raise GigawatchError(f"There are {len(found)} topologies, and a picture is of one", "Choose with --site.")
        svg.write_text(picture.drawn(in_force(found[0].site, found[0].document)), encoding="utf-8")
    if as_json:
        _print(found)
    elif as_yaml:
        click.echo(files.written(Topology(sites={it.site: it.document for it in found})), nl=False)
    elif svg is None:
        for it in found:
            click.echo(f"{it.site}  applied {it.applied:%Y-%m-%d %H:%M} UTC  {it.source}  {it.sha256[:12]}")
            (checked,) = files.check_in_force(it.site, it.document).sites
            click.echo(f"  {_summary(checked)}")


def _read(file: BinaryIO) -> bytes:
    return file.read(MOST_BYTES + 1)


def _print(found: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def _said(it: Finding) -> str:
    return f"{it.severity}: {said(it)}"


def _summary(it: SiteChecked) -> str:
    pue = f"PUE of category {', '.join(map(str, it.pue_categories))}" if it.pue_categories else "no measured PUE"
    return (
        f"{it.site}: {it.halls} halls, {it.rows} rows, {it.racks} racks, {it.meters} meters"
        f" ({it.virtual_meters} virtual); {pue}."
    )


def _tell(site: SiteApplied, dry_run: bool) -> None:
    """What changes, or changed: what is alike in one line, and of what changed what it was."""
    if not site.changes:
        click.echo(f"{site.site}: nothing changes.")
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for change in site.changes:
        alike[change.did, change.what].append(change.name)
    for (did, what), names in alike.items():
        would = "would be " if dry_run else ""
        click.echo(f"{site.site}: {would}{did}: {len(names)} {what}{'s' * (len(names) != 1)}: {some(names)}")
        for change in [it for it in site.changes if (it.did, it.what) == (did, what) and it.details][:20]:
            click.echo(f"  {change.name}: {'; '.join(change.details)}")
    for note in site.notes:
        click.echo(f"{site.site}: {note}")
