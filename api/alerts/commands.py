"""The verb `gigawatch alert`."""

import getpass
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
import yaml

from api.alerts import configured, trial
from api.alerts.configuration import Duration
from api.alerts.durations import seconds
from api.alerts.login import rules_engine
from api.commands import store_of
from api.declared import values
from api.declared.nodes import MOST_BYTES
from gigawatch import settings
from gigawatch.alerts import actions, matchers, readings, sending
from gigawatch.alerts.actions import Wrong
from gigawatch.alerts.notification import with_unit
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.known import require_known
from gigawatch.serving import store_flags

JSON_FLAG = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
AUTHOR_FLAG = click.option("--author", default=getpass.getuser, help="Who does it; default your user name.")
SHOWN = "%Y-%m-%d %H:%M"
TEST_WAIT_S = 30


@click.group()
def alert() -> None:
    """See what fires, silence and acknowledge it, and say who is told of what.

    \b
      gigawatch alert list
      gigawatch alert ack 17 --note "on my way"
      gigawatch alert silence site=oslo rack=~"A1-.*" --for 2h --reason "new fans"
      gigawatch alert apply alerts.yaml
      gigawatch alert test my-rules-tests.yaml

    docs/alerts.md lists the rules that ship, and how to write your own.
    """


@alert.command("list")
@store_flags
@click.option("--state", "states", multiple=True, type=click.Choice(["firing", "pending", "resolved"]),
              help="Of these states; default firing and pending.")  # fmt: skip
@click.option("--site", help="Of this site.")
@click.option("--rule", help="Of this rule.")
@click.option("--severity", type=click.Choice(["critical", "warning", "info"]), help="Of this severity.")
@click.option("--loud", is_flag=True, help="Those alone that nothing keeps quiet.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=500, show_default=True, help="Most of them.")
@JSON_FLAG
@click.pass_obj
def list_(config: Path | None, /, as_json: bool, states: tuple[Any, ...], loud: bool, **how: Any) -> None:
    """List alerts: those that fire first, the worst of them first.

    \b
    Exit status: 0; 1 where the list is not empty and --loud was given, so that scripts can ask.

    \b
      gigawatch alert list --json | jq '.[] | select(.severity == "critical") | .summary'
    """
    of_store = {name: how.pop(name) for name in ("database_url", "data_dir")}
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = readings.alerts(
            connection, states=states or ("firing", "pending"), quiet=False if loud else None, **how
        )
        if not found:
            require_known(connection, {"site": how["site"], "rule": how["rule"]})
    if as_json:
        _print(found)
    else:
        _table(
            ("number", "state", "severity", "since", "rule", "what", "quiet"),
            (
                (
                    str(it.alert_id),
                    it.state,
                    it.severity,
                    _time(it.fired or it.started),
                    it.rule,
                    it.summary,
                    _quiet(it),
                )
                for it in found
            ),
            "No such alerts.",
        )
    if loud and found:
        raise SystemExit(ExitCode.FAILURE)


@alert.command()
@store_flags
@click.argument("number", type=int)
@JSON_FLAG
@click.pass_obj
def show(config: Path | None, /, number: int, as_json: bool, **of_store: Any) -> None:
    """Show alert NUMBER: what explains it, what became of it, and who was told."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = readings.alert(connection, number)
        if found is None:
            raise GigawatchError(f"There is no alert {number}", "See `gigawatch alert list --state resolved`.")
        changes, told = readings.changes(connection, number), readings.deliveries(connection, alert_id=number)
    if as_json:
        _print({"alert": found, "changes": changes, "deliveries": told})
        return
    value = "no data to tell" if found.value is None else with_unit(f"{found.value:.12g}", found.unit)
    click.echo(
        f"{found.severity} {found.rule}: {_plain(found.summary)}\n"
        f"{found.state}, {value}; began {_time(found.started)} UTC"
    )
    for name, text in {**found.labels, **found.details}.items():
        if text is not None:
            click.echo(f"  {name}: {_plain(text)}")
    if found.runbook:
        click.echo(f"What to do: {found.runbook}")
    for change in changes:
        click.echo(
            f"{_time(change.time)}  {change.change}"
            + "".join(f"  {_plain(it)}" for it in (change.author, change.note) if it)
        )
    for it in told:
        click.echo(f"{_time(it.created)}  {it.why} to {it.target}: {it.state}")


def _plain(found: object) -> str:
    """Numbers without the .0 and the noise that JSON gives them; texts in a line, and nothing that a terminal obeys."""
    if isinstance(found, float):
        return f"{found:.12g}"
    return "".join(it for it in " ".join(str(found).split()) if it.isprintable())


@alert.command()
@store_flags
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.option("--note", default="", help="What to tell the others.")
@AUTHOR_FLAG
@click.pass_obj
def ack(config: Path | None, /, numbers: tuple[int, ...], note: str, author: str, **of_store: Any) -> None:
    """Acknowledge alerts: you take them on, and nobody is told of them again while nothing changes."""
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        done = actions.acknowledge(connection, numbers, author, note)
    click.echo(f"{author} takes on {done} alert{'s' * (done != 1)}.")


@alert.command()
@store_flags
@click.argument("matcher", nargs=-1, required=True)
@click.option("--for", "for_", help="How long, as 30m, 2h or 1d.")
@click.option("--until", type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]), help="Until when, UTC.")
@click.option("--from", "from_", type=click.DateTime(["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
              help="From when, UTC; default now.")  # fmt: skip
@click.option("--reason", required=True, help="Why.")
@click.option("--maintenance", is_flag=True, help="It is a maintenance window that was planned.")
@AUTHOR_FLAG
@click.pass_obj
def silence(
    config: Path | None,
    /,
    matcher: tuple[str, ...],
    for_: str | None,
    until: datetime | None,
    from_: datetime | None,
    reason: str,
    maintenance: bool,
    author: str,
    **of_store: Any,
) -> None:
    """Tell nobody of alerts whose labels, rule and severity fit every MATCHER, for a while.

    A matcher is LABEL=VALUE, or with !=, =~ (a regular expression, of the whole value) or !~ in place of =.

    \b
      gigawatch alert silence rule=gpu_temperature hostname=n7 --for 4h --reason "fan ordered"
      gigawatch alert silence site=oslo --from 2026-12-01T06:00 --for 3h --maintenance --reason "UPS service"
    """
    starts = datetime.now(UTC) if from_ is None else from_.replace(tzinfo=UTC)
    ends = _end(starts, for_, until)
    try:
        found = [matchers.parse(it) for it in matcher]
    except ValueError as error:
        raise Wrong(f"{error}", "As in: site=oslo rack=~'A1-.*'") from error
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        number = actions.silence(
            connection, found, starts=starts, ends=ends, author=author, reason=reason,
            kind="maintenance" if maintenance else "silence",
        )  # fmt: skip
    click.echo(f"Silence {number}: {', '.join(map(str, found))}, {_time(starts)} to {_time(ends)} UTC.")


@alert.command()
@store_flags
@click.argument("number", type=int)
@AUTHOR_FLAG
@click.pass_obj
def unsilence(config: Path | None, /, number: int, author: str, **of_store: Any) -> None:
    """End silence NUMBER now."""
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        actions.end_silence(connection, number, author)
    click.echo(f"Silence {number} is over.")


@alert.command()
@store_flags
@click.option("--all", "ended", is_flag=True, help="Those that are over as well.")
@JSON_FLAG
@click.pass_obj
def silences(config: Path | None, /, ended: bool, as_json: bool, **of_store: Any) -> None:
    """List silences and maintenance windows, the newest first."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = readings.silences(connection, ended=ended)
    if as_json:
        _print(found)
        return
    _table(
        ("number", "kind", "state", "from", "until", "matchers", "author", "reason", "alerts"),
        (
            (str(it.silence_id), it.kind, it.state, _time(it.starts), _time(it.ends), " ".join(map(str, it.matchers)),
             it.author, it.reason, str(it.alerts))
            for it in found
        ),
        "No silences.",
    )  # fmt: skip


@alert.command()
@store_flags
@click.argument("name", required=False)
@JSON_FLAG
@click.pass_obj
def rules(config: Path | None, /, name: str | None, as_json: bool, **of_store: Any) -> None:
    """List the rules in force with their last evaluation; of NAME all there is, its SQL too.

    They are what the server last took up: without a running server it is what was so then.
    """
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = [it for it in readings.rules(connection) if name in {None, it.name}]
    if name is not None and not found:
        raise GigawatchError(f"There is no rule {name!r}", "See `gigawatch alert rules`.")
    if as_json:
        _print(found)
        return
    if name is not None:
        it = found[0]
        click.echo(
            f"{it.name} ({it.origin}): {it.about}\n{it.sql}\nthresholds: {msgspec.json.encode(it.thresholds).decode()}"
        )
    _table(
        ("rule", "severity", "for", "every", "firing", "pending", "evaluated", "took", "state"),
        (
            (it.name, it.severity, f"{it.for_s} s", f"{it.interval_s} s", str(it.firing), str(it.pending),
             _time(it.evaluated), "" if it.duration_ms is None else f"{it.duration_ms} ms", _state(it))
            for it in found
        ),
        "No rules yet: the server makes the list when it starts.",
    )  # fmt: skip


@alert.command()
@store_flags
@JSON_FLAG
@click.pass_obj
def targets(config: Path | None, /, as_json: bool, **of_store: Any) -> None:
    """List the targets, and how sending to them goes."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = readings.targets(connection)
    if as_json:
        _print(found)
        return
    _table(
        ("target", "kind", "address", "routed", "waiting", "dead", "last success", "last failure", "why"),
        (
            (it.name, it.kind, it.address, "yes" if it.routed else "no", str(it.waiting), str(it.dead),
             _time(it.succeeded), _time(it.failed), it.error or "")
            for it in found
        ),
        "No targets: `gigawatch alert apply` brings them into force.",
    )  # fmt: skip


@alert.command("send-test")
@store_flags
@click.argument("target")
@click.option("--wait/--no-wait", default=True, help="Wait for the outcome; default.")
@AUTHOR_FLAG
@click.pass_obj
def send_test(config: Path | None, /, target: str, wait: bool, author: str, **of_store: Any) -> None:
    """Send TARGET a notification that says that it is a test. A server must be running.

    Exit status: 1 where it was not delivered within half a minute.
    """
    with store_of(config, **of_store) as engine:
        with engine.begin() as connection:
            number = sending.send_test(connection, target, author)
        end_s = time.monotonic() + TEST_WAIT_S
        while wait:
            with engine.connect() as connection:
                found = next(it for it in readings.deliveries(connection, target=target) if it.delivery_id == number)
            if found.state != "waiting" or time.monotonic() > end_s:
                click.echo(f"{found.state} (attempts: {found.attempts}): {found.answer or 'no answer yet'}")
                if found.state != "sent":
                    raise SystemExit(ExitCode.FAILURE)
                return
            time.sleep(0.2)
    click.echo(f"Notification {number} waits to be sent.")


@alert.command()
@store_flags
@click.option("--target", help="To this target.")
@click.option("--state", type=click.Choice(["waiting", "sent", "dead"]), help="In this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Most of them.")
@JSON_FLAG
@click.pass_obj
def deliveries(
    config: Path | None, /, as_json: bool, target: str | None, state: Any, limit: int, **of_store: Any
) -> None:
    """List notifications with what their targets answered, the newest first."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = readings.deliveries(connection, target=target, state=state, limit=limit)
    if as_json:
        _print(found)
        return
    _table(
        ("number", "target", "state", "made", "attempts", "status", "what", "answer"),
        (
            (str(it.delivery_id), it.target, it.state, _time(it.created), str(it.attempts), str(it.status or ""),
             it.notification.title, (it.answer or "").partition("\n")[0])
            for it in found
        ),
        "No notifications.",
    )  # fmt: skip


@alert.command()
@store_flags
@click.argument("numbers", type=int, nargs=-1, required=True)
@click.pass_obj
def resend(config: Path | None, /, numbers: tuple[int, ...], **of_store: Any) -> None:
    """Send notifications again that were given up as dead, with the same key."""
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        for number in numbers:
            sending.resend(connection, number)
    click.echo(f"{len(numbers)} to be sent again.")


@alert.command()
@click.argument("file", type=click.File("rb"))
@JSON_FLAG
def check(file: BinaryIO, as_json: bool) -> None:
    """Say everything that is wrong with a configuration, by line. Needs no database; - is standard input.

    Exit status: 0 where it could be applied, warnings or not; 7 where it could not.
    """
    found = configured.read(file.read(MOST_BYTES + 1))
    if as_json:
        _print(found.warnings)
        return
    for warning in found.warnings:
        click.echo(f"warning: {values.said(warning)}")
    at_work = sum(it.enabled for it in found.configured.rules.values())
    click.echo(f"Good; targets: {len(found.configured.configuration.targets)}, rules at work: {at_work}.")


@alert.command()
@store_flags
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Check everything; change nothing.")
@AUTHOR_FLAG
@JSON_FLAG
@click.pass_obj
def apply(config: Path | None, /, file: BinaryIO, dry_run: bool, author: str, as_json: bool, **of_store: Any) -> None:
    """Bring FILE into force: rules, targets, routes, tenants and budgets, all of it or nothing; - is standard input.

    It takes the place of what was applied before. A running server takes it up at once.
    """
    found = configured.read(file.read(MOST_BYTES + 1))
    alerts = settings.load(config).alerts
    with store_of(config, **of_store) as engine, engine.begin() as connection:
        rules = rules_engine(engine, alerts)
        done = configured.apply(
            connection, rules, alerts, found, author=author, source=Path(file.name).name, dry_run=dry_run
        )
        rules.dispose()
    if as_json:
        _print(done)
        return
    for warning in done.warnings:
        click.echo(f"warning: {values.said(warning)}")
    would = "Would be in force" if dry_run else "In force"
    others = f"; otherwise than shipped: {', '.join(done.changed_rules)}" if done.changed_rules else ""
    click.echo(f"{would}; targets: {done.targets}, rules: {done.rules}, budgets: {done.budgets}{others}.")


@alert.command("config")
@store_flags
@JSON_FLAG
@click.pass_obj
def config_(config: Path | None, /, as_json: bool, **of_store: Any) -> None:
    """Show the configuration in force; of URLs, whose paths may be secret, scheme and host alone."""
    with store_of(config, **of_store) as engine, engine.connect() as connection:
        found = configured.shown(configured.in_force(connection).configuration)
    if as_json:
        _print(found)
    else:
        click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120), nl=False)


@alert.command("test")
@click.argument("files", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--database-url", help="A database on whose server a scratch database is made; default: one of its own.")
@JSON_FLAG
def test_(files: tuple[Path, ...], database_url: str | None, as_json: bool) -> None:
    """Run rules against tables of input and say whether they fire as expected. docs/alerts.md explains the format.

    Exit status: 0 where all fire as expected; 1 where one does not; 7 where a file cannot be understood.
    """
    found = trial.run(files, database_url)
    if as_json:
        _print(found)
    else:
        click.echo("\n".join(map(trial.said, found)))
    if not all(it.passed for it in found):
        raise SystemExit(ExitCode.FAILURE)


def _end(starts: datetime, for_: str | None, until: datetime | None) -> datetime:
    if (for_ is None) == (until is None):
        raise Wrong("A silence needs an end", "Give either --for 2h or --until 2026-12-31T18:00.")
    if until is not None:
        return until.replace(tzinfo=UTC)
    try:
        return starts + timedelta(seconds=seconds(msgspec.convert(for_, Duration)))
    except (msgspec.ValidationError, OverflowError) as error:
        raise Wrong(f"--for {for_!r} is no length of time", "Write it as 30m, 2h, 1d or 1h30m.") from error


def _quiet(it: readings.Alert) -> str:
    if it.silenced_by is not None:
        return f"silence {it.silenced_by}"
    if it.inhibited_by is not None:
        return f"explained by {it.inhibited_by}"
    return f"taken on by {it.acknowledged_by}" if it.acknowledged_by else ""


def _state(it: readings.RuleNow) -> str:
    if not it.enabled:
        return "off"
    if it.error is not None:
        return f"fails since {_time(it.failing_since)}: {it.error}"
    return f"{it.missed} missed" if it.missed else "ok"


def _time(it: datetime | None) -> str:
    return "" if it is None else it.astimezone(UTC).strftime(SHOWN)


def _print(found: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
    """Columns as wide as they need to be, the last as it is."""
    found = [head, *([_plain(cell) for cell in row] for row in rows)]
    if len(found) == 1:
        click.echo(empty)
        return
    widths = [max(len(row[place]) for row in found) for place in range(len(head) - 1)]
    for row in found:
        click.echo(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        )
