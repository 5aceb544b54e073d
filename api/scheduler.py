"""What the server does by the clock: folding, retention, compression, alerts; by one of a store's processes."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine, text

from api import columnstore, retention
from api.alerts.keeper import Keeper
from api.rollups import Folder
from gigawatch.settings import Alerts, Retention

LEADER_LOCK, FOLD_LOCK = 0x6769_676C, 0x6769_6766
"""Held by the leader's connections for as long as they live: they end with its process. The fold has one of its own: it
is busy for long at times, and one of a former leader may go on for a step."""
LEAD_EVERY_S = 1
FOLD_EVERY_S = 10
RETAIN_EVERY_S = 600
TELL_EVERY_S = 2
# A leader whose host is gone is noticed, and its lock free, after some 25 s.
KEEP_ALIVE = ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 3")
log = logging.getLogger(__name__)


class Scheduler:
    """Runs the jobs in threads of this process, while it is the leader.

    Args:
        engine: of the store's owner.
        kept: how long data are kept.
        alerts: how long alerts are kept.
        keeper: makes what keeps the alerts while this process leads; None: nobody does.
    """

    def __init__(
        self, engine: Engine, kept: Retention, alerts: Alerts, keeper: Callable[[], Keeper] | None = None
    ) -> None:
        self._engine = engine
        self._kept = kept
        self._alerts = alerts
        self._make_keeper = keeper
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._leading: sqlalchemy.PoolProxiedConnection | None = None
        self._folding: sqlalchemy.PoolProxiedConnection | None = None
        """Of the fold's job alone."""
        self._folder: Folder | None = None
        self._folds_s = 0.0
        """Not before then."""
        self._keeper: Keeper | None = None
        self._told_s = 0.0
        # A run that is missed while the one before it goes on is made up for by that one, and needs no warning.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        now = datetime.now(UTC)
        self._scheduler.add_job(self._lead, "interval", seconds=LEAD_EVERY_S, next_run_time=now)
        self._scheduler.add_job(self._fold, "interval", seconds=LEAD_EVERY_S)
        self._scheduler.add_job(self._retain, "interval", seconds=RETAIN_EVERY_S)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End after the step under way, and let another process lead."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)
        self._resign()
        self._end_folding()

    def _lead(self) -> None:
        """Become the leader if nobody is, and see whether we still are."""
        if self._stopping.is_set():
            return
        try:
            if self._leading is None:
                self._leading = self._hold(LEADER_LOCK)
                if self._leading is None:
                    return
                log.info("%s leads", self._name)
                self._folds_s = 0
                if self._make_keeper is not None:
                    self._keeper = self._make_keeper()
                    self._keeper.start()
            else:
                _driver(self._leading).execute("SELECT 1")
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("nobody leads until the database answers: %s", str(error).partition("\n")[0])
            self._resign()

    def _resign(self) -> None:
        leading, self._leading = self._leading, None
        keeper, self._keeper = self._keeper, None
        # While what it does comes to its end, another may lead: alerts and folding have locks of their own.
        if leading is not None:
            _let_go(leading)
        if keeper is not None:
            keeper.stop()

    def _hold(self, lock: int) -> "sqlalchemy.PoolProxiedConnection | None":
        """A connection that holds the lock; None: another does."""
        pooled = self._engine.raw_connection()
        connection = _driver(pooled)
        connection.autocommit = True
        taken = connection.execute("SELECT pg_try_advisory_lock(%s)", [lock]).fetchone()
        if taken is None or not taken[0]:
            connection.autocommit = False
            pooled.close()
            return None
        for setting in KEEP_ALIVE:
            connection.execute(f"SET {setting}")
        return pooled

    def _fold(self) -> None:
        if self._leading is None:
            self._end_folding()
            return
        if time.monotonic() < self._folds_s:
            return
        self._folds_s = time.monotonic() + FOLD_EVERY_S
        try:
            if self._folder is None:
                self._folding = self._hold(FOLD_LOCK)
                if self._folding is None:
                    self._folds_s = 0
                    return
                self._folder = Folder(_driver(self._folding), self._tell)
            folder = self._folder
            self._run("fold", lambda: f"{folder.run(datetime.now(UTC), self._ceases)} buckets folded")
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("folding stopped, and goes on when the database answers: %s", str(error).partition("\n")[0])
            self._end_folding()

    def _ceases(self) -> bool:
        return self._stopping.is_set() or self._leading is None

    def _end_folding(self) -> None:
        folding, self._folding, self._folder = self._folding, None, None
        if folding is not None:
            _let_go(folding)

    def _retain(self) -> None:
        if self._leading is None:
            return
        try:
            self._run("retain", self._keep_within_bounds)
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("old data were not removed or compressed: %s", str(error).partition("\n")[0])

    def _keep_within_bounds(self) -> str:
        """Remove what is old, then compress what is not new: a chunk that goes need not be compressed first."""
        now = datetime.now(UTC)
        removed = retention.retain(self._engine, self._kept, now, self._alerts.resolved_d)
        after = timedelta(hours=self._kept.compress_after_h)
        compressed = columnstore.compress(self._engine, after, now, self._ceases)
        return f"{removed}, {compressed}" if compressed else removed

    def _run(self, name: str, work: Callable[[], str]) -> None:
        """Do a job and note how it went, for people to see."""
        # What failed last stays to be seen until a run succeeds.
        self._note(name, "started = now(), finished = NULL")
        try:
            done = work()
        except Exception as error:
            self._note(name, "finished = now(), error = :text", str(error).partition("\n")[0][:500])
            raise
        self._note(name, "finished = now(), progress = :text, error = NULL", done)

    def _tell(self, progress: str) -> None:
        log.debug("folding %s", progress)
        if time.monotonic() >= self._told_s + TELL_EVERY_S:
            self._told_s = time.monotonic()
            self._note("fold", "progress = :text", progress)

    def _note(self, name: str, change: str, words: str | None = None) -> None:
        values: dict[str, Any] = {"name": name, "leader": self._name, "text": words}
        with self._engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO gigawatch.job (name, leader, started) VALUES (:name, :leader, now())"
                    f" ON CONFLICT (name) DO UPDATE SET leader = :leader, {change}"
                ),
                values,
            )


def _driver(pooled: sqlalchemy.PoolProxiedConnection) -> "psycopg.Connection[Any]":
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


def _let_go(pooled: sqlalchemy.PoolProxiedConnection) -> None:
    # Its session holds a lock and settings that no other may get.
    pooled.invalidate()
