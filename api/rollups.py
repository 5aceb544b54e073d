"""Folds windows into minutes, hours and days: each node's buckets once, and again what came late.

Whatever a bucket holds is a sum, an extreme or a union, so that a coarser bucket is folded from finer ones, and sums
over racks and sites take the difference that a bucket makes. The work is linear in new data: a bucket of a node
reads that node's rows alone, by index.

A minute is *closed* before it is folded: from then on ingest marks what it writes there (rollup_dirty). Closing waits
for the transactions under way (CLOSE_LOCK), so that each window is either seen by the fold or marked. Each
step runs in one REPEATABLE READ transaction with the mark of how far it came: stopped at any point, the next
leader goes on there, and nothing is folded twice.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import psycopg
from msgspec import Struct
from psycopg import IsolationLevel

from api.deployment_rollups import DeploymentFolder, floor
from api.deployment_sql import assigned_sql
from api.meter_rollups import MeterFolder
from api.rollup_sql import (
    MARKED,
    MOST_BUCKETS,
    RANGE,
    WINDOWS_MARKED,
    WINDOWS_OF_KEYS,
    bounded,
    gpu_sql,
    node_sql,
    seconds_sql,
)
from api.weighed_rollups import MARK_NODES, WeighedFolder
from gigawatch.schema import LEVELS

CLOSE_LOCK = 0x6769_6763
"""Held shared by each transaction that writes windows, and exclusively to close minutes."""
COMPRESS_LOCK = 0x6769_6770
"""Held exclusively while a chunk is compressed, and shared while late data are folded."""
SETTLED = timedelta(seconds=20)
"""A minute is closed so long after its end: by then windows of 10 s have come, and few have to be folded again."""
log = logging.getLogger(__name__)


class Mark(Struct, frozen=True):
    """How far a level is folded."""

    closed: datetime
    folded: datetime
    node_id: int


class Folder:
    """Brings the rollups up to date, on one connection.

    Args:
        connection: of the leader, in autocommit.
        tell: called with what is being done, in words, before each step.
    """

    def __init__(self, connection: "psycopg.Connection[Any]", tell: Callable[[str], None] = log.debug) -> None:
        self._connection = connection
        self._tell = tell
        self._deployments = DeploymentFolder(connection, tell)
        self._weighed = WeighedFolder(connection, tell)
        self._meters = MeterFolder(connection, tell, self._closing, self._uncompressing)
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        # Sums over a few thousand buckets fit; plans are for index look-ups, whatever the statistics say at the moment.
        # A step of late data may have to unpack all that it changes, however many rows are compressed with it; where
        # there is no TimescaleDB, its setting is a name like any other.
        for setting in ("work_mem = '256MB'", "max_parallel_workers_per_gather = 0", "synchronous_commit = off",
                        "enable_mergejoin = off",
                        "timescaledb.max_tuples_decompressed_per_dml_transaction = 0"):  # fmt: skip
            connection.execute(f"SET {setting}")

    def run(self, now: datetime, stopping: Callable[[], bool] = lambda: False) -> int:
        """Fold what is to be folded until it is done or stopping; how many buckets of nodes were.

        Args:
            now: the time.
            stopping: asked between steps.
        """
        buckets = self._fold_nodes(now, stopping)
        if not stopping():
            self._meters.run(now - SETTLED, stopping)
        return buckets

    def _fold_nodes(self, now: datetime, stopping: Callable[[], bool]) -> int:
        buckets = 0
        before = floor(now - SETTLED, LEVELS["1m"])
        for level, width in LEVELS.items():
            mark = self._close(level, floor(before, width))
            if mark is None:
                return buckets
            buckets += self._fold_new(level, mark, stopping)
            buckets += self._fold_marked(level, stopping)
            before = self._mark(level).folded
            if stopping():
                return buckets
        self._deployments.run(stopping)
        self._weighed.run(stopping)
        return buckets

    def _mark(self, level: str) -> Mark:
        row = self._connection.execute(
            "SELECT closed, folded, node_id FROM gigawatch.rollup WHERE level = %s", [level]
        ).fetchone()
        assert row is not None
        return Mark(*row)

    def _close(self, level: str, until: datetime) -> Mark | None:
        """Close buckets that end by then; None: there is nothing to fold yet."""
        if level != "1m":
            return self._set_closed(level, until)
        with self._closing():
            return self._set_closed(level, until)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Let no transaction write windows meanwhile; ours begin within, with all that was committed without marks."""
        self._connection.execute("SELECT pg_advisory_lock(%s)", [CLOSE_LOCK])
        try:
            yield
        finally:
            self._connection.execute("SELECT pg_advisory_unlock(%s)", [CLOSE_LOCK])

    def _set_closed(self, level: str, until: datetime) -> Mark | None:
        with self._connection.transaction():
            known = self._connection.execute("SELECT 1 FROM gigawatch.rollup WHERE level = %s", [level]).fetchone()
            if known is None:
                begin = self._first_window() if level == "1m" else self._first_minute()
                if begin is None:
                    return None
                start = min(floor(begin, LEVELS[level]), until)
                self._connection.execute(
                    "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES (%s, %s, %s, 0)",
                    [level, until, start],
                )
            self._connection.execute(
                "UPDATE gigawatch.rollup SET closed = %s WHERE level = %s AND closed < %s", [until, level, until]
            )
            return self._mark(level)

    def _first_minute(self) -> datetime | None:
        row = self._connection.execute(
            "SELECT least((SELECT min(time) FROM gigawatch.gpu_1m), (SELECT min(time) FROM gigawatch.node_1m))"
        ).fetchone()
        assert row is not None
        found: datetime | None = row[0]
        return found

    def _first_window(self) -> datetime | None:
        row = self._connection.execute(
            "SELECT least((SELECT min(time) FROM gigawatch.gpu_window), (SELECT min(time) FROM gigawatch.node_window))"
        ).fetchone()
        assert row is not None
        found: datetime | None = row[0]
        return found

    def _fold_new(self, level: str, mark: Mark, stopping: Callable[[], bool]) -> int:
        """Fold buckets that were closed since the last time."""
        width, buckets = LEVELS[level], 0
        row = self._connection.execute("SELECT coalesce(max(node_id), 0) FROM gigawatch.node").fetchone()
        assert row is not None
        nodes = row[0] + 1
        folded, first = mark.folded, mark.node_id
        while folded < mark.closed and not stopping():
            # Few nodes: several buckets at a time. Many: a part of them at a time.
            several = max(1, MOST_BUCKETS // nodes)
            stop = folded + width if first else min(mark.closed, folded + several * width)
            beyond = min(nodes, first + MOST_BUCKETS)
            self._tell(f"{level} of {folded:%Y-%m-%d %H:%M}, nodes {first} to {beyond - 1}")
            values = {
                "start": folded, "stop": stop, "width": width, "first": first, "beyond": beyond, "least": folded,
                "most": stop,
            }  # fmt: skip
            with self._connection.transaction():
                buckets += self._fold(level, RANGE, values, WINDOWS_OF_KEYS.format(keys=bounded(RANGE)))
                if level == "1m":
                    # They are in the sums now, since this transaction's snapshot has both.
                    self._connection.execute(
                        "DELETE FROM gigawatch.rollup_dirty WHERE level = '1s'"
                        " AND time >= %(start)s AND time < %(stop)s AND node_id >= %(first)s AND node_id < %(beyond)s",
                        values,
                    )
                folded, first = (stop, 0) if beyond >= nodes else (folded, beyond)
                self._connection.execute(
                    "UPDATE gigawatch.rollup SET folded = %s, node_id = %s WHERE level = %s", [folded, first, level]
                )
        return buckets

    def _fold_marked(self, level: str, stopping: Callable[[], bool]) -> int:
        """Fold again what data came late for."""
        buckets = 0
        while not stopping():
            with self._uncompressing() as free:
                if not free:
                    # Late data wait for the next time; new data do not.
                    break
                with self._connection.transaction():
                    pairs = self._take_marked(level)
                    if pairs:
                        values = _marked(pairs, LEVELS[level]) | {"width": LEVELS[level]}
                        self._tell(f"{level} again: {len(pairs)} buckets from {min(pairs)[0]:%Y-%m-%d %H:%M} on")
                        buckets += self._fold(level, MARKED, values, None)
                        self._mark_above(level, pairs)
                        if level == "1h":
                            self._connection.execute(MARK_NODES, values)
                    late = self._take_marked("1s") if level == "1m" else []
                    if late:
                        seconds = _marked(late, timedelta(milliseconds=1))
                        self._connection.execute(seconds_sql(WINDOWS_MARKED), seconds)
            if not pairs and not late:
                break
        return buckets

    @contextmanager
    def _uncompressing(self) -> Iterator[bool]:
        """Let no chunk be compressed meanwhile; False: one is being compressed now.

        Compression puts rows elsewhere: to a snapshot from before, they would be neither here nor there. Only what came
        late is folded from and into chunks so old.
        """
        taken = self._connection.execute("SELECT pg_try_advisory_lock_shared(%s)", [COMPRESS_LOCK]).fetchone()
        free = taken is not None and bool(taken[0])
        try:
            yield free
        finally:
            if free:
                self._connection.execute("SELECT pg_advisory_unlock_shared(%s)", [COMPRESS_LOCK])

    def _take_marked(self, level: str) -> list[tuple[datetime, int]]:
        """Some of what is marked in buckets that are folded; it is no longer marked if this transaction commits."""
        upper = "1m" if level == "1s" else level
        rows = self._connection.execute(
            "WITH taken AS ("
            "    SELECT DISTINCT time, node_id FROM gigawatch.rollup_dirty WHERE level = %(level)s"
            "    AND time < (SELECT folded FROM gigawatch.rollup WHERE level = %(upper)s) LIMIT %(most)s"
            "), gone AS ("
            "    DELETE FROM gigawatch.rollup_dirty USING taken WHERE level = %(level)s"
            "    AND rollup_dirty.time = taken.time AND rollup_dirty.node_id = taken.node_id"
            ") SELECT time, node_id FROM taken",
            {"level": level, "upper": upper, "most": MOST_BUCKETS},
        )
        return [(row[0], row[1]) for row in rows]

    def _mark_above(self, level: str, pairs: Sequence[tuple[datetime, int]]) -> None:
        levels = list(LEVELS)
        if level == levels[-1]:
            return
        above = levels[levels.index(level) + 1]
        marked = sorted({(floor(time, LEVELS[above]), node_id) for time, node_id in pairs})
        self._connection.execute(
            "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
            " SELECT %s, time, node_id FROM unnest(%s::timestamptz[], %s::integer[]) AS marked (time, node_id)"
            " WHERE time < (SELECT closed FROM gigawatch.rollup WHERE level = %s)",
            [above, [it[0] for it in marked], [it[1] for it in marked], above],
        )

    def _fold(self, level: str, keys: str, values: dict[str, Any], windows: str | None) -> int:
        """Fold the buckets of some keys; how many had anything."""
        # Nodes first: their meters say what hosts use beside their GPUs.
        self._connection.execute(node_sql(level, keys), values)
        row = self._connection.execute(gpu_sql(level, keys), values).fetchone()
        assert row is not None
        if level == "1m":
            self._fold_assigned(keys, values)
            if windows is not None:
                self._connection.execute(seconds_sql(windows), values)
        return int(row[0])

    def _fold_assigned(self, keys: str, values: dict[str, Any]) -> None:
        """Fold what deployments used of these minutes and nodes, and have their own minutes made again if they are."""
        serves = "SELECT EXISTS (SELECT FROM gigawatch.assignment) OR EXISTS (SELECT FROM gigawatch.serving_window)"
        row = self._connection.execute(serves).fetchone()
        if row is not None and row[0]:
            changed = self._connection.execute(assigned_sql(keys), values).fetchall()
            self._deployments.mark("deployment_1m", changed)


def _marked(pairs: Sequence[tuple[datetime, int]], width: timedelta) -> dict[str, Any]:
    """Parameters of MARKED, and between which times its buckets lie."""
    times = [it[0] for it in pairs]
    return {
        "times": times, "node_ids": [it[1] for it in pairs], "least": min(times), "most": max(times) + width,
    }  # fmt: skip
