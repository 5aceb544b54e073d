"""Keeps the alerts, in the process that leads: runs each rule at its interval, and at once upon its events."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import sqlalchemy
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobExecutionEvent, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor as JobExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from msgspec import to_builtins
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, text

from api.alerts import states
from api.alerts.evaluation import EvaluationError, Observation, evaluate
from api.alerts.rule import Rule
from api.alerts.telling import Telling
from gigawatch.alerts.actions import ALERTS_LOCK
from gigawatch.settings import Alerts

EVENTS, ALERTS = "gigawatch_event", "gigawatch_alerts"
"""Channels: kinds of events that were stored; and silences, acknowledgements or the configuration changed."""
EVALUATORS, HURRIED, SLOW = 3, 2, 1
"""Threads for rules at their intervals, for those that must be evaluated at once, and for slow ones."""
SLOW_S = 1.0
"""A rule of one's own that took longer is slow."""
TICK_S = 1.0
AGAIN_S = 1.0
MOST_ERROR = 1_000
_LOST = (psycopg.Error, sqlalchemy.exc.SQLAlchemyError)
log = logging.getLogger(__name__)


class Keeper:
    """Evaluates rules, writes what they come to, and has it told, from start() to stop().

    Args:
        engine: of the store's owner.
        rules_engine: of the login for rules.
        settings: bounds of rules.
        rules_in_force: reads the rules, by name.
        telling: what follows upon evaluations.
    """

    def __init__(
        self,
        engine: Engine,
        rules_engine: Engine,
        settings: Alerts,
        rules_in_force: Callable[[Connection], Mapping[str, Rule]],
        telling: Telling,
    ) -> None:
        self._engine = engine
        self._rules_engine = rules_engine
        self._settings = settings
        self._rules_in_force = rules_in_force
        self._telling = telling
        self._stopping = threading.Event()
        self._changed = threading.Event()
        self._rules: dict[str, Rule] = {}
        self._scheduled: dict[str, Rule] = {}
        """Those of them that have a job: not yet, where the database was lost amid reading them."""
        self._evaluating: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        """Of the four below."""
        self._hurried: set[str] = set()
        self._slow: set[str] = set()
        self._missed: Counter[str] = Counter()
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": JobExecutor(EVALUATORS)},
            job_defaults={"coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_listener(self._note_missed, EVENT_JOB_MISSED | EVENT_JOB_MAX_INSTANCES)
        self._pool = ThreadPoolExecutor(HURRIED, "hurried")
        # Rules that failed the last time, and those of one's own that took long or were not evaluated yet, wait for
        # each other, so that no other waits for them.
        self._slow_pool = ThreadPoolExecutor(SLOW, "slow")
        self._threads = [threading.Thread(target=it, name=it.__name__) for it in (self._listen, self._route)]

    def start(self) -> None:
        """Begin; whether the database answers now or later."""
        self._scheduler.start()
        self._telling.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the evaluations under way."""
        self._stopping.set()
        self._changed.set()
        for thread in self._threads:
            thread.join()
        self._scheduler.shutdown(wait=True)
        for pool in (self._pool, self._slow_pool):
            pool.shutdown(wait=True, cancel_futures=True)
        self._telling.stop()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._listening() as connection:
                    # What was notified while nobody listened is lost.
                    self._reload()
                    self._hurry(sorted(self._rules, key=lambda name: not self._rules[name].events))
                    while not self._stopping.is_set():
                        for notify in connection.notifies(timeout=TICK_S):
                            self._hear(notify)
                            if self._stopping.is_set():
                                break
            except _LOST as error:
                log.warning("alerts wait, and go on when the database answers: %s", str(error).partition("\n")[0])
                self._stopping.wait(AGAIN_S)
            except Exception:
                log.exception("rules cannot be read")
                self._stopping.wait(AGAIN_S)

    @contextmanager
    def _listening(self) -> "Iterator[psycopg.Connection[object]]":
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        pooled.detach()
        with connection:
            connection.autocommit = True
            for channel in (EVENTS, ALERTS):
                connection.execute(f"LISTEN {channel}")
            yield connection

    def _hear(self, notify: psycopg.Notify) -> None:
        if notify.channel == ALERTS:
            self._hurry(self._reload())
            return
        kinds = set(notify.payload.split(","))
        # A payload that would have been too long is empty.
        self._hurry(
            name
            for name, rule in self._rules.items()
            if rule.events and (not notify.payload or not kinds.isdisjoint(rule.events))
        )

    def _reload(self) -> list[str]:
        """Read the rules and bring them into force; names of those that are new or other than before."""
        before = self._scheduled
        with self._changing() as (connection, now):
            found = dict(self._rules_in_force(connection))
            bring_into_force(connection, found, now)
            enabled = {name: rule for name, rule in found.items() if rule.enabled}
            # Before others may change alerts again: they are routed by rules and configuration that belong together.
            self._rules = enabled
            self._telling.reload(connection)
        changed = [name for name, rule in enabled.items() if before.get(name) != rule]
        for name in changed:
            self._evaluating.setdefault(name, threading.Lock())
        with self._lock:
            self._slow.difference_update(before.keys() - enabled.keys())
            self._slow.update(name for name in changed if enabled[name].origin == "own")
        for name in before.keys() - enabled.keys():
            self._scheduler.remove_job(name)
        for place, name in enumerate(changed):
            interval = timedelta(seconds=enabled[name].interval_s)
            self._scheduler.add_job(
                self._evaluate_at_interval, "interval", seconds=enabled[name].interval_s, args=[name], id=name,
                replace_existing=True, misfire_grace_time=enabled[name].interval_s,
                # One after the other, not all at the same moment.
                next_run_time=datetime.now(UTC) + interval * (place + 1) / len(changed),
            )  # fmt: skip
        self._scheduled = enabled
        self._changed.set()
        return changed

    def _hurry(self, names: Iterable[str]) -> None:
        """Evaluate rules at once: those that wait for it already, once."""
        with self._lock:
            new = [name for name in names if name not in self._hurried]
            self._hurried.update(new)
            slow = self._slow.intersection(new)
        for name in new:
            (self._slow_pool if name in slow else self._pool).submit(self._evaluate_hurried, name)

    def _evaluate_hurried(self, name: str) -> None:
        with self._lock:
            self._hurried.discard(name)
        self._evaluate(name)

    def _evaluate_at_interval(self, name: str) -> None:
        with self._lock:
            slow = name in self._slow
            self._missed[name] += slow and name in self._hurried
        if slow:
            self._hurry([name])
        else:
            self._evaluate(name)

    def _note_missed(self, event: JobExecutionEvent | JobSubmissionEvent) -> None:
        times = event.scheduled_run_times if isinstance(event, JobSubmissionEvent) else [event.scheduled_run_time]
        with self._lock:
            self._missed[event.job_id] += len(times)

    def _evaluate(self, name: str) -> None:
        with self._evaluating[name]:
            rule = self._rules.get(name)
            if rule is None or self._stopping.is_set():
                return
            try:
                self._run(rule)
            except _LOST as error:
                log.warning("rule %s was not evaluated: %s", name, str(error).partition("\n")[0])
            except Exception:
                log.exception("rule %s was not evaluated", name)

    def _run(self, rule: Rule) -> None:
        with self._engine.connect() as connection:
            now = _now(connection)
        began_s = time.monotonic()
        found: list[Observation] | None = None
        error = None
        try:
            found = evaluate(self._rules_engine, rule, now, self._settings)
        except EvaluationError as problem:
            error = str(problem)
        except _LOST:
            raise
        except Exception as problem:
            log.exception("rule %s", rule.name)
            error = f"{type(problem).__name__}: {problem}"
        took_s = time.monotonic() - began_s
        with self._lock:
            missed = self._missed.pop(rule.name, 0)
            slow = found is None or (rule.origin == "own" and took_s > SLOW_S)
            (self._slow.add if slow else self._slow.discard)(rule.name)
        values = {
            "name": rule.name, "now": now, "took_ms": round(took_s * 1_000),
            "rows": None if found is None else len(found),
            "error": None if error is None else error[:MOST_ERROR], "missed": missed,
        }  # fmt: skip
        with self._changing() as (connection, _):
            noted = connection.execute(text(_EVALUATED), values).rowcount
            # Another process led meanwhile, or the rule is no longer in force.
            if noted and found is not None:
                before = states.read(connection, rule.name, now)
                states.write(connection, rule.name, states.advance(rule, before, found, now), now)
        self._changed.set()

    def _route(self) -> None:
        changed = True
        while not self._stopping.is_set():
            try:
                with self._changing() as (connection, now):
                    put_out = self._telling.route(connection, self._rules, now, changed=changed)
                if put_out:
                    self._telling.wake()
                changed = False
            except _LOST as error:
                log.warning("alerts are told when the database answers: %s", str(error).partition("\n")[0])
                changed = True
            except Exception:
                log.exception("alerts cannot be routed")
                changed = True
            if self._changed.wait(TICK_S):
                self._changed.clear()
                changed = True

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, datetime]]:
        """A transaction that may change alerts, with the time."""
        with self._engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ALERTS_LOCK})
            yield connection, _now(connection)


def bring_into_force(connection: Connection, rules: Mapping[str, Rule], now: datetime) -> None:
    """Write which rules there are, each with its last evaluation as it was, and end alerts of those that are not."""
    rows = [
        {name: value for name, value in to_builtins(rule).items() if name in _RULE_COLUMNS} for rule in rules.values()
    ]
    connection.execute(text("DELETE FROM gigawatch.alert_rule WHERE name <> ALL (:names)"), {"names": list(rules)})
    connection.execute(text(_INTO_FORCE), {"rows": Jsonb(rows)})
    enabled = [name for name, rule in rules.items() if rule.enabled]
    ended = connection.scalars(
        text("SELECT DISTINCT rule FROM gigawatch.alert WHERE state <> 'resolved' AND rule <> ALL (:enabled)"),
        {"enabled": enabled},
    ).all()
    for note, names in (
        ("rule disabled", [name for name in ended if name in rules]),
        ("rule removed", [name for name in ended if name not in rules]),
    ):
        states.end(connection, names, note, now)


def _now(connection: Connection) -> datetime:
    """The database's clock, which all processes that ever lead have in common."""
    found = connection.scalar(text("SELECT clock_timestamp()"))
    assert isinstance(found, datetime)
    return found


_RULE_COLUMNS = (
    "name", "origin", "enabled", "severity", "unit", "about", "summary", "runbook", "sql", "thresholds", "for_s",
    "keep_firing_for_s", "interval_s",
)  # fmt: skip
_INTO_FORCE = f"""
    INSERT INTO gigawatch.alert_rule AS rule ({", ".join(_RULE_COLUMNS)})
    SELECT {", ".join(_RULE_COLUMNS)} FROM jsonb_populate_recordset(CAST(NULL AS gigawatch.alert_rule), :rows)
    ON CONFLICT (name) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _RULE_COLUMNS)},
        error = CASE WHEN excluded.enabled THEN rule.error END,
        failing_since = CASE WHEN excluded.enabled THEN rule.failing_since END"""
_EVALUATED = """
    UPDATE gigawatch.alert_rule SET evaluated = :now, duration_ms = :took_ms, rows = :rows,
        error = CAST(:error AS text),
        failing_since = CASE WHEN CAST(:error AS text) IS NOT NULL THEN coalesce(failing_since, :now) END,
        evaluations = evaluations + 1, failures = failures + CASE WHEN CAST(:error AS text) IS NULL THEN 0 ELSE 1 END,
        missed = missed + :missed
    WHERE name = :name AND enabled AND (evaluated IS NULL OR evaluated < :now
        -- The clock was set back.
        OR evaluated > clock_timestamp())"""
