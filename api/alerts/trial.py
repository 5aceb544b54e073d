"""`gigawatch alert test`: rules against tables of input and what must fire, as promtool tests those of Prometheus.

In a database of its own, schema report is replaced by tables with the same columns, and its functions by ones that give
the rows of the table of their name. There the rule's own SQL and the state machine run as they do in service, with the
time that the test says.
"""

import math
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DataError

from api.alerts import files, states
from api.alerts.configuration import RuleName
from api.alerts.durations import seconds
from api.alerts.evaluation import EvaluationError, evaluate
from api.alerts.login import rules_engine
from api.alerts.rule import Rule
from api.alerts.states import Alert, Before
from api.declared import values
from api.declared.nodes import Form
from gigawatch import database
from gigawatch.embedded import EmbeddedServer
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.findings import Findings, suggestion
from gigawatch.findings import Path as Place
from gigawatch.schema import rule_login
from gigawatch.settings import Alerts

START = datetime(2026, 1, 1, tzinfo=UTC)
FORM = Form(
    what="a file of tests",
    begin="Begin with `rule:` and the name of a shipped rule, or `rule_file:`.",
    shorter="Give each rule a file of its own.",
    page="docs/alerts.md",
)
MOST_SHOWN = 300
"""Characters of what the database says of a value."""
MOST_EVALUATIONS = 20_000
_OFFSET = re.compile(r"(now)?([+-]?)((?:[0-9]+[smhd])*)")

At = Annotated[str, Meta(pattern=r"^([0-9]+[smhd])+$")]
"""From the test's begin on: `0s`, `4m59s`, `1h30m`."""


class Expected(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be so at a moment."""

    at: At
    firing: tuple[dict[str, Any], ...] = ()
    """The alerts that fire, each by as many of its labels, severity, value, summary and details as one likes."""
    pending: tuple[dict[str, Any], ...] | None = None
    """The same of those that wait; absent: it does not matter."""


class Case(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    rows: tuple[dict[str, Any], ...] = ()
    """Steps: `at`, and rows by table of schema report, which are there from then on until the next step."""
    expect: tuple[Expected, ...]


class Trial(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tests of one rule."""

    rule: RuleName | None = None
    rule_file: Annotated[str, Meta(max_length=1_000)] | None = None
    tests: tuple[Case, ...]


class CaseResult(Struct, frozen=True, kw_only=True):
    """What became of one test."""

    file: str
    line: int | None
    rule: str
    name: str
    differences: tuple[str, ...]
    """What was not as expected; without any it passed."""

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.differences


def said(it: CaseResult) -> str:
    """What became of a test, for people."""
    where = it.file if it.line is None else f"{it.file}:{it.line}"
    head = f"{'ok  ' if it.passed else 'FAIL'} {it.rule}: {it.name}"
    return head if it.passed else "\n".join([f"{head} ({where})", *(f"     {line}" for line in it.differences)])


def run(paths: Sequence[Path], database_url: str | None = None) -> list[CaseResult]:
    """Run files of tests in a scratch database that goes away afterwards.

    Args:
        paths: the files.
        database_url: of a server on which a database may be made; without one an embedded server is started.

    Raises:
        GigawatchError: a file cannot be read or has errors, or there is no server.
    """
    with _scratch(database_url) as url, Stage(url) as stage:
        return [result for path in paths for result in stage.play(path)]


@contextmanager
def _scratch(database_url: str | None) -> Iterator[str]:
    """The URL of a new database of this version's schema. On no other: what is read there would be locked meanwhile."""
    if database_url is None:
        with tempfile.TemporaryDirectory(prefix="gigawatch-trial-", ignore_cleanup_errors=True) as folder:
            # The database's user must pass where this runs as root.
            Path(folder).chmod(0o755)
            with EmbeddedServer(Path(folder) / "data") as server:
                yield _migrated(server.url)
        return
    name = f"gigawatch_trial_{secrets.token_hex(6)}"
    admin = database.engine(database_url).execution_options(isolation_level="AUTOCOMMIT")
    try:
        with database.border(admin.url), admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
            login = None
            try:
                url = _migrated(admin.url.set(database=name).render_as_string(hide_password=False))
                login = _login_of(url)
                yield url
            finally:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
                if login is not None:
                    # Roles are the server's.
                    connection.execute(text(f"DROP ROLE {login}"))
    finally:
        admin.dispose()


def _login_of(url: str) -> str | None:
    """What rules log in as there."""
    engine = database.engine(url)
    with engine.connect() as connection:
        found = connection.scalar(select(rule_login.c.role))
    engine.dispose()
    assert found is None or isinstance(found, str)
    return found


def _migrated(url: str) -> str:
    """Bring it to this version's schema, as the command does: views are made in another room."""
    done = subprocess.run(
        [sys.executable, "-m", "gigawatch", "migrate"],
        env={**os.environ, "GIGAWATCH_STORE__DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise GigawatchError(
            f"The scratch database could not be made: {done.stderr.strip()[-500:]}",
            "Does `gigawatch migrate` work on this machine?",
            ExitCode.SCHEMA,
        )
    return url


class Stage:
    """A database in which rules are tried: its schema report is made of tables.

    Args:
        url: of a database of this version's schema, which is of no use for anything else afterwards.
    """

    def __init__(self, url: str) -> None:
        self._owner = database.engine(url)
        self._rules = rules_engine(self._owner, Alerts())
        with self._owner.begin() as connection:
            self._columns = _replace_views(connection)

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.dispose()
        self._rules.dispose()

    def play(self, path: Path) -> list[CaseResult]:
        """Run the tests of a file.

        Raises:
            GigawatchError: the file cannot be read or has errors.
        """
        trial, findings, lines = values.read(_read(path), Trial, FORM)
        rule = _rule_of(trial, path, findings)
        for place, case in enumerate(trial.tests):
            self._check(case, ("tests", place), findings)
        values.refuse(findings, lines, FORM)
        assert rule is not None, "without one there is an error"
        return [
            CaseResult(
                file=str(path),
                line=lines.get(("tests", place)),
                rule=rule.name,
                name=case.name,
                differences=tuple(_differences(case, rule, _Store(self._owner, self._rules, self._columns))),
            )
            for place, case in enumerate(trial.tests)
        ]

    def _check(self, case: Case, place: Place, findings: Findings) -> None:
        """What types cannot say of a test."""
        for number, step in enumerate(case.rows):
            here = (*place, "rows", number)
            if re.fullmatch(r"([0-9]+[smhd])+", str(step.get("at"))) is None:
                findings.error(here, f"at = {step.get('at')!r} is no time", "Write from when on: at: 0s, at: 4m59s.")
            for table, rows in step.items():
                if table == "at":
                    continue
                columns = self._columns.get(table.removeprefix("report."))
                if columns is None or not table.startswith("report."):
                    known = [f"report.{it}" for it in self._columns]
                    findings.error((*here, table), f"there is no {table[:80]}", suggestion(table, known, "There"))
                elif not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    findings.error(
                        (*here, table), f"{table} has no list of rows", "Write [{column: value, …}, …], or [] for none."
                    )
                else:
                    for column in sorted({name for row in rows for name in row} - columns.keys()):
                        findings.error(
                            (*here, table), f"{table} has no column {column[:80]!r}",
                            suggestion(column, columns, "Its columns"), like=column,
                        )  # fmt: skip
        if [seconds(it.at) for it in case.expect] != sorted(seconds(it.at) for it in case.expect):
            findings.error((*place, "expect"), "moments are not in order of time", "Put the earliest first.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GigawatchError(
            f"{path} cannot be read: {error.strerror}", "Name a file of tests: docs/alerts.md.", ExitCode.DATA
        ) from error


def _rule_of(trial: Trial, path: Path, findings: Findings) -> Rule | None:
    if (trial.rule is None) == (trial.rule_file is None):
        findings.error((), "a file of tests has either rule or rule_file", FORM.begin)
        return None
    if trial.rule_file is not None:
        own = path.parent / trial.rule_file
        if not own.is_file():
            findings.error(("rule_file",), f"rule_file = {trial.rule_file!r}: there is no such file",
                           "Name it from where this file is.")  # fmt: skip
            return None
        return files.read(own)
    found = files.shipped().get(trial.rule or "")
    if found is None:
        findings.error(
            ("rule",), f"rule = {trial.rule!r} is not shipped", suggestion(trial.rule or "", files.shipped(), "Shipped")
        )
    return found


class _Store:
    """What the views give in one test."""

    def __init__(self, owner: Engine, rules: Engine, columns: Mapping[str, Mapping[str, str]]) -> None:
        self.rules = rules
        self._owner, self._columns = owner, columns
        self._there: dict[str, list[dict[str, Any]]] = {}

    def show(self, step: Mapping[str, Any], begun: datetime, now: datetime) -> None:
        """Fill the tables with a step's rows, where these are not there yet."""
        wanted = {
            table.removeprefix("report."): [
                {
                    name: _moment(value, self._columns[table.removeprefix("report.")][name], begun, now)
                    for name, value in row.items()
                }
                for row in rows
            ]
            for table, rows in step.items()
            if table != "at"
        }
        changed = [
            table for table in wanted.keys() | self._there.keys() if wanted.get(table, []) != self._there.get(table, [])
        ]
        if changed:
            with self._owner.begin() as connection:
                for table in changed:
                    _fill(connection, table, wanted.get(table, []))
        self._there = wanted

    def empty(self) -> None:
        """Leave nothing behind."""
        self.show({}, START, START)


def _fill(connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
    connection.execute(text(f"DELETE FROM report.{table}"))
    if not rows:
        return
    try:
        connection.execute(
            text(f"INSERT INTO report.{table} SELECT * FROM jsonb_populate_recordset(NULL::report.{table}, :rows)"),
            {"rows": Jsonb(rows)},
        )
    except DataError as error:
        words = str(error.orig).partition("\n")[0][:MOST_SHOWN]
        raise GigawatchError(
            f"report.{table} cannot hold its rows: {words}",
            "Write what its columns may have, as docs/sql.md says; leave out what is not known.",
            ExitCode.DATA,
        ) from error


def _moment(value: Any, kind: str, begun: datetime, now: datetime) -> Any:
    """A time that is written as an offset: `-30s` from its step's moment, `now-30s` from each evaluation's."""
    found = _OFFSET.fullmatch(value) if kind == "timestamp with time zone" and isinstance(value, str) else None
    if found is None or not value:
        return value
    moving, sign, duration = found.groups()
    offset = timedelta(seconds=seconds(duration)) * (-1 if sign == "-" else 1)
    return ((now if moving else begun) + offset).isoformat()


def _differences(case: Case, rule: Rule, store: _Store) -> Iterator[str]:
    steps = sorted(case.rows, key=lambda it: seconds(it["at"]))
    expected = {seconds(it.at): it for it in case.expect}
    last = max(expected)
    moments = sorted({*range(0, last + 1, rule.interval_s), *expected})
    if len(moments) > MOST_EVALUATIONS:
        yield f"it wants {len(moments)} evaluations, and {MOST_EVALUATIONS} are the most: expect something earlier"
        return
    alerts: dict[str, Alert] = {}
    returns: list[tuple[datetime, str]] = []
    number = 0
    try:
        for second in moments:
            now = START + timedelta(seconds=second)
            step = next((it for it in reversed(steps) if seconds(it["at"]) <= second), {"at": "0s"})
            store.show(step, START + timedelta(seconds=seconds(step["at"])), now)
            try:
                observations = evaluate(store.rules, rule, now, Alerts(), unknown="all")
            except EvaluationError as error:
                yield f"at {_written(second)}: the rule fails: {error}"
                return
            recent = [key for time, key in returns if time > now - states.FLAPS_WITHIN]
            before = Before(alerts=alerts, returns={key: recent.count(key) for key in recent})
            changes = states.advance(rule, before, observations, now)
            kept = {key: it for key, it in alerts.items() if it.alert_id not in changes.gone}
            for it in changes.written:
                number += it.alert_id is None
                kept[it.fingerprint] = it if it.alert_id is not None else msgspec.structs.replace(it, alert_id=number)
            alerts = {key: it for key, it in kept.items() if it.state != "resolved"}
            returns += [(now, it.fingerprint) for it in changes.told if it.change in {"flapped", "resolved"}]
            if second in expected:
                yield from _compared(_written(second), expected[second], alerts)
    finally:
        store.empty()


def _compared(at: str, expected: Expected, alerts: Mapping[str, Alert]) -> Iterator[str]:
    for state, wanted in (("firing", expected.firing), ("pending", expected.pending)):
        if wanted is None:
            continue
        left = [it for it in alerts.values() if it.state == state]
        # Those that say most first, so that one that says little takes none of theirs.
        for want in sorted(wanted, key=len, reverse=True):
            found = next((it for it in left if _fits(want, it)), None)
            if found is None:
                there = "; ".join(_shown(it) for it in alerts.values() if it.state == state) or "nothing"
                yield f"at {at}: {state} lacks {_said(want)}; there is {there}"
            else:
                left.remove(found)
        for it in left:
            yield f"at {at}: {state} has {_shown(it)}, which was not expected"


def _fits(want: Mapping[str, Any], alert: Alert) -> bool:
    of_alert = {**alert.details, **alert.labels, "severity": alert.severity, "value": alert.value,
                "summary": alert.summary, "racks": list(alert.racks or ())}  # fmt: skip
    return all(_equal(value, of_alert.get(name)) for name, value in want.items())


def _equal(want: Any, have: Any) -> bool:
    if isinstance(want, int | float) and isinstance(have, int | float):
        return math.isclose(want, have, rel_tol=1e-6, abs_tol=1e-9)
    return want == have or (have is not None and str(want) == have)


def _shown(alert: Alert) -> str:
    return _said({**alert.labels, "severity": alert.severity, "value": alert.value, "summary": alert.summary})


def _said(values_of: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in values_of.items()) + "}"


def _written(second: int) -> str:
    parts = [(second // 3600, "h"), (second // 60 % 60, "m"), (second % 60, "s")]
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def _replace_views(connection: Connection) -> dict[str, dict[str, str]]:
    """Put tables into the place of the views of schema report; the type of each column, by table."""
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in connection.execute(text(_VIEWS)):
        columns.setdefault(table, {})[name] = kind
    functions = connection.execute(text(_FUNCTIONS)).all()
    for function, names, kinds, _, _ in functions:
        assert function not in columns, f"report.{function} is a view and a function"
        columns[function] = dict(zip(names, kinds, strict=True))
    others = connection.scalars(text(_OTHERS)).all()
    connection.execute(text("DROP SCHEMA report CASCADE"))
    connection.execute(text("CREATE SCHEMA report"))
    driver = connection.connection.driver_connection
    assert driver is not None
    for definition in others:
        driver.execute(definition)
    for table, kinds in columns.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items())
        connection.execute(text(f"CREATE TABLE report.{table} ({listed})"))
    for function, _, _, arguments, result in functions:
        driver.execute(
            f"CREATE FUNCTION report.{function}({arguments}) RETURNS {result} LANGUAGE sql STABLE"
            f" AS 'SELECT * FROM report.{function}'"
        )
    connection.execute(text(f"GRANT USAGE ON SCHEMA report TO {database.REPORT_ROLE}"))
    connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA report TO {database.REPORT_ROLE}"))
    return columns


_VIEWS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = CAST('report' AS regnamespace) AND c.relkind = 'v' ORDER BY c.relname, a.attnum"""
_FUNCTIONS = """
    SELECT p.proname, array_agg(its.name ORDER BY its.place), array_agg(format_type(its.kind, NULL) ORDER BY its.place),
        pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
    FROM pg_proc AS p
    CROSS JOIN LATERAL unnest(p.proallargtypes, p.proargmodes, p.proargnames)
        WITH ORDINALITY AS its (kind, mode, name, place)
    WHERE p.pronamespace = CAST('report' AS regnamespace) AND p.proretset AND its.mode = 't' GROUP BY p.oid"""
_OTHERS = """
    SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p
    WHERE p.pronamespace = CAST('report' AS regnamespace) AND NOT p.proretset"""
