"""What the server does by the clock: folding, retention, compression; by one leader among a store's API processes."""

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
from api.rollups import Folder
from gigawatch.settings import Retention

LEADER_LOCK = 0x6769_676C
"""Held by the leader's connection for as long as it lives: it ends with its process."""
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
    """

    def __init__(self, engine: Engine, kept: Retention) -> None:
        self._engine = engine
        self._kept = kept
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._leading: sqlalchemy.PoolProxiedConnection | None = None
        self._folder: Folder | None = None
        self._told_s = 0.0
        # A run that is missed while the one before it goes on is made up for by that one, and needs no warning.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_job(self._fold, "interval", seconds=FOLD_EVERY_S, next_run_time=datetime.now(UTC))
        self._scheduler.add_job(self._retain, "interval", seconds=RETAIN_EVERY_S)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """End after the step under way, and let another process lead."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)
        self._resign()

    def _fold(self) -> None:
        try:
            if self._lead():
                assert self._folder is not None
                folder = self._folder
                self._run("fold", lambda: f"{folder.run(datetime.now(UTC), self._stopping.is_set)} buckets folded")
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("folding stopped, and goes on when the database answers: %s", str(error).partition("\n")[0])
            self._resign()

    def _retain(self) -> None:
        if self._folder is None:
            return
        try:
            self._run("retain", self._keep_within_bounds)
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("old data were not removed or compressed: %s", str(error).partition("\n")[0])

    def _keep_within_bounds(self) -> str:
        """Remove what is old, then compress what is not new: a chunk that goes need not be compressed first."""
        now = datetime.now(UTC)
        removed = retention.retain(self._engine, self._kept, now)
        after = timedelta(hours=self._kept.compress_after_h)
        compressed = columnstore.compress(self._engine, after, now, self._stopping.is_set)
        return f"{removed}, {compressed}" if compressed else removed

    def _lead(self) -> bool:
        """Whether this process is the leader; it becomes so if nobody is."""
        if self._leading is not None:
            return True
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        assert isinstance(connection, psycopg.Connection)
        connection.autocommit = True
        taken = connection.execute("SELECT pg_try_advisory_lock(%s)", [LEADER_LOCK]).fetchone()
        if taken is None or not taken[0]:
            connection.autocommit = False
            pooled.close()
            return False
        for setting in KEEP_ALIVE:
            connection.execute(f"SET {setting}")
        log.info("%s leads", self._name)
        self._leading, self._folder = pooled, Folder(connection, self._tell)
        return True

    def _resign(self) -> None:
        leading, self._leading, self._folder = self._leading, None, None
        if leading is not None:
            # Its session holds the lock and settings that no other may get.
            leading.invalidate()

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
