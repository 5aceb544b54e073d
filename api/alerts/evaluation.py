"""Runs a rule: what its SELECT gives becomes observations, and whatever is wrong with it an error in words."""

import math
import re
import string
import threading
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal

import psycopg
from msgspec import Struct
from psycopg import pq
from sqlalchemy import Connection, Engine

from api.alerts.rule import SPECIAL, Rule, Threshold
from gigawatch.alerts.notification import SEVERITIES, Severity
from gigawatch.settings import Alerts
from gigawatch.units import MILLISECONDS_PER_SECOND

MOST_CHARACTERS = 2_000
"""Of one column of one row; the rest is cut off by the database."""
MOST_SUMMARY = 1_000
MOST_RACKS = 10_000
MOST_RACK_CHARACTERS = 255
MOST_COLUMNS = 100
MOST_BYTES = 32 << 20
"""Of all rows, as the database holds them."""
GRACE_S = 1.0
"""How long after its time a rule is ended from here, where the database did not do so itself."""
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)")
# Told in words, before the database refuses it (migrations/rules.py): locks that our processes agree by, ending those
# that run other rules, and filling the log. Where the store's owner is no superuser the database does not refuse them.
_REFUSED = re.compile(
    r'advisory|pg_cancel_backend|pg_terminate_backend|logical_emit|query_to_xml|ts_stat|ts_rewrite|u&"', re.IGNORECASE
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDE = re.compile(r"\d{4}")
_TEXT = "text"
_TEXTS = "text[]"
_NUMBER = "double precision"
# By OIDs.
_AS_THEY_ARE = {16: "boolean", 20: "bigint", 21: "smallint", 23: "integer", 1082: "date", 1184: "timestamptz"}
_REALS = {700, 701, 1700}
_MOMENT, _NUMBERS, _WORDS = 1184, 1022, 1009
"""Types of what a rule is given: $1, its time, $2, its numbers, and $3, its texts."""
_WRITTEN_OTHERWISE = _REALS | {1082, 1184}
"""As text a number with a point, or a time, is not what it is as a label."""
_SPECIAL = {
    "value": (_NUMBER, "CAST({name} AS double precision)"),
    "severity": (_TEXT, "left(CAST({name} AS text), 80)"),
    "summary": (_TEXT, f"left(CAST({{name}} AS text), {MOST_SUMMARY})"),
    "racks": (
        _TEXTS,
        (
            f"CASE WHEN {{name}} IS NOT NULL THEN ARRAY(SELECT left(rack, {MOST_RACK_CHARACTERS})"
            f" FROM unnest(CAST({{name}} AS text[])) AS rack LIMIT {MOST_RACKS}) END"
        ),
    ),
    "simulated": ("boolean", "CAST({name} AS boolean)"),
}
QUERY_CANCELED = "57014"

Detail = str | int | float | bool | datetime | date | None


class EvaluationError(Exception):
    """The rule cannot be evaluated; the message says why and what to do."""


class Observation(Struct, frozen=True, kw_only=True):
    """A row of a rule: one thing for which its condition holds, or of which nobody can tell."""

    labels: dict[str, str]
    value: float | None
    """None: there are no data to tell."""
    severity: Severity
    racks: tuple[str, ...] | None
    simulated: bool
    summary: str
    details: dict[str, Any]
    """The other columns, as JSON has them."""


def evaluate(
    engine: Engine, rule: Rule, now: datetime, settings: Alerts, *, unknown: Literal["open", "all"] = "open"
) -> list[Observation]:
    """Run the rule, read-only, within the time and to the number of rows and bytes that a rule may have.

    Args:
        engine: of the login for rules.
        rule: what to run.
        now: the time that it is evaluated for.
        settings: bounds of time and rows.
        unknown: of which things rows without a value are wanted: of those with an open alert, which they hold; or of
            all. A site in the dark has tens of thousands of things of which nobody can tell, and hardly an alert.

    Raises:
        EvaluationError: the rule is wrong, takes too long or gives too much, or there is no login for it.
        sqlalchemy.exc.DBAPIError: the database is out of reach: this says nothing of the rule.
    """
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        watch = threading.Timer(settings.rule_timeout_s + GRACE_S, driver.cancel_safe)
        watch.start()
        try:
            return _observed(driver, rule, now, settings, unknown)
        except psycopg.Error as error:
            if driver.closed or error.sqlstate is None:
                # Where the database answers, the rule has ended its own connection.
                engine.connect().close()
                raise EvaluationError(f"its connection ended amid it: {_in_words(error, settings)}") from error
            raise EvaluationError(_in_words(error, settings)) from error
        finally:
            watch.cancel()
            watch.join()
            _forget(connection, driver)


def problem_of(engine: Engine, rule: Rule, now: datetime, settings: Alerts) -> str | None:
    """Why a rule would fail now, in words; None: it would not. As evaluate() has it."""
    try:
        evaluate(engine, rule, now, settings)
    except EvaluationError as error:
        return str(error)
    return None


def _forget(connection: Connection, driver: "psycopg.Connection[Any]") -> None:
    """Leave the session as it was: whatever a rule set goes with its transaction, and locks go after it."""
    try:
        driver.rollback()
        driver.autocommit = True
        driver.execute("DISCARD ALL")
        driver.autocommit = False
    except psycopg.Error:
        connection.invalidate()


def _observed(
    driver: "psycopg.Connection[Any]", rule: Rule, now: datetime, settings: Alerts, unknown: Literal["open", "all"]
) -> list[Observation]:
    driver.execute(
        "SELECT set_config('statement_timeout', %s, true)",
        [str(round(settings.rule_timeout_s * MILLISECONDS_PER_SECOND))],
    )
    inner, numbers, texts = _bound(rule)
    kinds = _kinds(rule, _described(driver, f"SELECT * FROM (\n{inner}\n) AS rule"))
    taken = {name: _taken(name, kind) for name, kind in kinds.items()}
    columns = ", ".join(expression for _, expression in taken.values())
    wanted = "true"
    if unknown == "open" and not any(kinds[name] in _WRITTEN_OTHERWISE for name in rule.labels):
        labels = ", ".join(f"'{name}', CAST(\"{name}\" AS text)" for name in rule.labels)
        texts.append(rule.name)
        wanted = (
            f"value IS NOT NULL OR jsonb_strip_nulls(jsonb_build_object({labels})) IN (SELECT labels FROM report.alerts"
            f" WHERE rule = ($3)[{len(texts)}] AND state <> 'resolved')"
        )
    # psycopg has a % for itself in its statements; a column's name has none.
    types = ", ".join(f'"{name}" {kind}' for name, (kind, _) in taken.items())
    names = ", ".join(f'"{name}"' for name in taken)
    found_rows = f"SELECT * FROM (SELECT {columns} FROM (\n{inner}\n) AS rule) AS taken ({names})"
    found = driver.execute(
        f"SELECT * FROM rules.answer(%s, %s, %s, %s, %s) AS it ({types})",
        [f"{found_rows} WHERE {wanted} LIMIT {settings.rule_max_rows + 1}", MOST_BYTES, now, numbers, texts],
    ).fetchall()  # fmt: skip
    if len(found) > settings.rule_max_rows:
        raise EvaluationError(
            f"it gives more than {settings.rule_max_rows:,} rows (alerts.rule_max_rows): let it sum up by rack or site"
        )
    observations = [_observation(rule, dict(zip(kinds, row, strict=True))) for row in found]
    _require_unlike(rule, observations)
    return observations


def _described(driver: "psycopg.Connection[Any]", query: str) -> list[tuple[str, int]]:
    """Name and type, as OID, of each column that a statement would give: it is parsed, and neither planned nor run.

    So nothing of it is evaluated, and a second statement in it is refused.
    """
    for result in (
        driver.pgconn.prepare(b"", query.encode(), [_MOMENT, _NUMBERS, _WORDS]),
        described := driver.pgconn.describe_prepared(b""),
    ):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
    return [((described.fname(column) or b"").decode(), described.ftype(column)) for column in range(described.nfields)]


def _in_words(error: psycopg.Error, settings: Alerts) -> str:
    if error.sqlstate == QUERY_CANCELED:
        return f"it took longer than {settings.rule_timeout_s:g} s (alerts.rule_timeout_s)"
    return (error.diag.message_primary or str(error)).partition("\n")[0][:MOST_SUMMARY]


def _bound(rule: Rule) -> tuple[str, list[float], list[str]]:
    """The rule's SQL with the time and its thresholds as expressions of what it is given, and the numbers and texts."""
    refused = _REFUSED.search(rule.sql)
    if refused is not None:
        raise EvaluationError(f"its sql has {refused[0]!r}, which a rule may not have: leave it out")
    numbers: list[float] = []
    texts: list[str] = []

    def expression(found: re.Match[str]) -> str:
        name = found[1]
        if name == "now":
            return "$1"
        if name not in rule.thresholds:
            known = ", ".join(f":{it}" for it in ("now", *rule.thresholds))
            raise EvaluationError(
                f"its sql asks for :{name}, and has {known}: write \\: for a colon that is none of these"
            )
        return _threshold(rule.thresholds[name], numbers, texts)

    return _PARAMETER.sub(expression, rule.sql.strip().rstrip(";")).replace("\\:", ":"), numbers, texts


def _threshold(threshold: Threshold, numbers: list[float], texts: list[str]) -> str:
    """A CASE over the columns of its overrides, the one with the most conditions first, of equals the last."""

    def number(value: float) -> str:
        numbers.append(float(value))
        return f"($2)[{len(numbers)}]"

    def word(value: str) -> str:
        texts.append(value)
        return f"($3)[{len(texts)}]"

    usual = number(threshold.value)
    ranked = sorted(enumerate(threshold.overrides), key=lambda it: (len(it[1].where), it[0]), reverse=True)
    cases = [
        f"WHEN {' AND '.join(f'{column} = {word(value)}' for column, value in override.where.items())}"
        f" THEN {number(override.value)}"
        for _, override in ranked
    ]
    return f"(CASE {' '.join(cases)} ELSE {usual} END)" if cases else usual


def _kinds(rule: Rule, columns: Sequence[tuple[str, int]]) -> dict[str, int]:
    """The type of each column by its name, if they are what a rule must have."""
    names = [name for name, _ in columns]
    if len(names) > MOST_COLUMNS:
        raise EvaluationError(f"it gives {len(names)} columns, and {MOST_COLUMNS} are the most: name those that matter")
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise EvaluationError(f"its column {name[:80]!r} has no name of letters, digits and _: write … AS name")
        if names.count(name) > 1:
            raise EvaluationError(f"it gives column {name} twice: write … AS another_name")
    for name in ("value", *rule.labels):
        if name not in names:
            raise EvaluationError(f"it gives no column {name}: add it, or NULL AS {name} where there is none")
    return dict(columns)


def _taken(name: str, kind: int) -> tuple[str, str]:
    """The type as which a column is taken, and the expression that makes it that."""
    quoted = f'"{name}"'
    if name in _SPECIAL:
        special, expression = _SPECIAL[name]
        return special, expression.format(name=quoted)
    if kind in _AS_THEY_ARE:
        return _AS_THEY_ARE[kind], quoted
    if kind in _REALS:
        return _NUMBER, f"CAST({quoted} AS double precision)"
    return _TEXT, f"left(CAST({quoted} AS text), {MOST_CHARACTERS})"


def _observation(rule: Rule, row: Mapping[str, Any]) -> Observation:
    row = {name: _finite(value) for name, value in row.items()}
    severity = row.get("severity")
    if severity is None:
        severity = rule.severity
    elif severity not in SEVERITIES:
        raise EvaluationError(
            f"its column severity has {severity[:80]!r}, and may have {', '.join(SEVERITIES)} or NULL"
        )
    racks = row.get("racks")
    return Observation(
        labels={name: _label(row[name]) for name in rule.labels if row[name] is not None},
        value=row["value"],
        severity=severity,
        racks=None if racks is None else tuple(sorted({rack for rack in racks if rack is not None})),
        simulated=bool(row.get("simulated")),
        summary=row.get("summary") or in_words(rule.summary, row),
        details={
            name: value.isoformat() if isinstance(value, date) else value
            for name, value in row.items()
            if name not in rule.labels and name not in SPECIAL
        },
    )


def _finite(value: Any) -> Any:
    """Not a number, or infinite, is no measurement."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _label(value: Detail) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    return value.isoformat() if isinstance(value, date) else str(value)


def _require_unlike(rule: Rule, observations: Sequence[Observation]) -> None:
    seen = set()
    for it in observations:
        key = tuple(sorted(it.labels.items()))
        if key in seen:
            labels = ", ".join(f"{name}={value[:80]}" for name, value in key) or "no labels"
            by = ", ".join(rule.labels) or "nothing"
            raise EvaluationError(f"it gives two rows of {labels}: its sql must group by {by}")
        seen.add(key)


class _Words(string.Formatter):
    """str.format() without attributes and indexes: a name in braces is a column, and ? where it has no value."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        return kwargs.get(field_name), field_name

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value if value is None else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "?"
        try:
            # A width of millions is nobody's wish.
            return str(value) if _WIDE.search(format_spec) else format(value, format_spec)
        except (TypeError, ValueError):
            return str(value)


def in_words(summary: str, row: Mapping[str, Any]) -> str:
    """The summary with the row's values; itself where its braces are wrong."""
    try:
        return _Words().vformat(summary, (), row)[:MOST_SUMMARY]
    except (ValueError, TypeError, IndexError, KeyError):
        return summary[:MOST_SUMMARY]
