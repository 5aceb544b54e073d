"""Counters and the store's progress for Prometheus, in its text format 0.0.4."""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Literal

import sqlalchemy
from msgspec import Struct
from sqlalchemy import Engine

from api.counts import WAITING_BYTES, Counts
from gigawatch import readings
from gigawatch.readings import FiringAlerts, RuleEvaluations, StoreJob, StoreRollup
from gigawatch.units import MILLISECONDS_PER_SECOND

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READ_EVERY_S = 5.0
"""However often and by however many it is asked, the database is read once in so long."""
COUNTERS: Mapping[str, tuple[str, str]] = {
    "batches": ("batches", "Batches stored, or found to be stored already"),
    "gpu_windows": ("gpu_windows", "GPU windows stored"),
    "node_windows": ("node_windows", "Node windows stored"),
    "serving_windows": ("serving_windows", "Serving windows stored"),
    "meter_windows": ("meter_windows", "Meter windows stored"),
    "duplicates": ("duplicates", "Batches that were stored before"),
    "refused": ("refused_items", "Items that were not stored, since something in them is wrong"),
    "transactions": ("transactions", "Transactions committed"),
    "failed": ("failed_transactions", "Transactions that the database did not take"),
    "turned_away": ("turned_away", "Requests that were to come again, since too much waited"),
}
"""Of the counts: what each is called here, and what it says."""


class Sample(Struct, frozen=True):
    """One value of a metric."""

    labels: Mapping[str, str]
    value: float


class Family(Struct, frozen=True):
    """A metric with its values."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: list[Sample]


class Metrics:
    """What the serving processes count, and how the store is doing.

    Args:
        engine: of the report role.
        counts: those of this process and the others.
    """

    def __init__(self, engine: Engine, counts: Counts) -> None:
        self._engine = engine
        self._counts = counts
        self._lock = threading.Lock()
        self._until_s = 0.0
        self._reachable = False
        self._rollups: list[StoreRollup] = []
        self._jobs: list[StoreJob] = []
        self._firing: list[FiringAlerts] = []
        self._rules: list[RuleEvaluations] = []
        self._succeeded: dict[str, float] = {}

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        with self._lock:
            if time.monotonic() >= self._until_s:
                self._read()
                self._until_s = time.monotonic() + READ_EVERY_S
            families = [*self._of_processes(), *self._of_store(), *self._of_alerts()]
        return "".join(_lines(family) for family in families)

    def _read(self) -> None:
        try:
            with self._engine.connect() as connection:
                self._rollups, self._jobs = readings.store_rollups(connection), readings.store_jobs(connection)
                self._firing, self._rules = readings.firing_alerts(connection), readings.rule_evaluations(connection)
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError):
            # What was counted matters most when the database is away.
            self._reachable, self._rollups, self._jobs, self._firing, self._rules = False, [], [], [], []
            return
        self._reachable = True
        for job in self._jobs:
            # A job that runs, or failed, says nothing of the run before.
            if job.finished is not None and job.error is None:
                self._succeeded[job.name] = job.finished.timestamp()

    def _of_processes(self) -> Iterator[Family]:
        totals = self._counts.totals()
        for field, (name, words) in COUNTERS.items():
            yield Family(f"gigawatch_ingest_{name}_total", "counter", words, [Sample({}, totals[field])])
        yield Family(
            "gigawatch_ingest_waiting_bytes", "gauge", "Size of the batches that wait to be stored",
            [Sample({}, totals[WAITING_BYTES])],
        )  # fmt: skip

    def _of_store(self) -> Iterator[Family]:
        yield Family(
            "gigawatch_store_reachable", "gauge", "Whether the database answered", [Sample({}, int(self._reachable))]
        )
        yield Family(
            "gigawatch_rollup_folded_timestamp_seconds", "gauge", "Buckets before it are folded, time since 1970 UTC",
            [Sample({"level": it.level}, it.folded.timestamp()) for it in self._rollups if it.folded is not None],
        )  # fmt: skip
        yield Family(
            "gigawatch_rollup_lag_seconds", "gauge", "Time since the end of what is folded",
            [Sample({"level": it.level}, it.lag_s) for it in self._rollups if it.lag_s is not None],
        )  # fmt: skip
        yield Family(
            "gigawatch_rollup_dirty_buckets", "gauge", "Buckets that wait to be folded again for late data",
            [Sample({"level": it.level}, it.dirty_buckets) for it in self._rollups],
        )  # fmt: skip
        yield Family(
            "gigawatch_job_last_success_timestamp_seconds", "gauge",
            "When the last run without error that this process saw ended, time since 1970 UTC",
            [Sample({"job": name}, ended) for name, ended in sorted(self._succeeded.items())],
        )  # fmt: skip
        yield Family(
            "gigawatch_job_last_duration_seconds", "gauge", "How long the last run took",
            [Sample({"job": it.name}, it.took_s) for it in self._jobs if it.took_s is not None],
        )  # fmt: skip
        yield Family(
            "gigawatch_job_failed", "gauge", "Whether the last run failed",
            [Sample({"job": it.name}, int(it.error is not None)) for it in self._jobs],
        )  # fmt: skip

    def _of_alerts(self) -> Iterator[Family]:
        yield Family(
            "gigawatch_alerts_firing", "gauge", "Alerts that fire",
            [Sample({"severity": it.severity}, it.alerts) for it in self._firing],
        )  # fmt: skip
        yield Family(
            "gigawatch_alert_rule_evaluations_total", "counter", "Evaluations of the rule",
            [Sample({"rule": it.name}, it.evaluations) for it in self._rules],
        )  # fmt: skip
        yield Family(
            "gigawatch_alert_rule_failures_total", "counter", "Evaluations of the rule that failed",
            [Sample({"rule": it.name}, it.failures) for it in self._rules],
        )  # fmt: skip
        yield Family(
            "gigawatch_alert_rule_missed_total", "counter", "Evaluations of the rule that were due and left out",
            [Sample({"rule": it.name}, it.missed) for it in self._rules],
        )  # fmt: skip
        yield Family(
            "gigawatch_alert_rule_failing", "gauge", "Whether the rule's last evaluation failed",
            [Sample({"rule": it.name}, int(it.failing)) for it in self._rules],
        )  # fmt: skip
        yield Family(
            "gigawatch_alert_rule_last_duration_seconds", "gauge", "How long the rule's last evaluation took",
            [Sample({"rule": it.name}, it.duration_ms / MILLISECONDS_PER_SECOND) for it in self._rules
             if it.duration_ms is not None],
        )  # fmt: skip


def _lines(family: Family) -> str:
    words = family.help.replace("\\", r"\\").replace("\n", r"\n")
    lines = [f"# HELP {family.name} {words}", f"# TYPE {family.name} {family.kind}"]
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        lines.append(f"{family.name}{{{labels}}} {sample.value!r}" if labels else f"{family.name} {sample.value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
