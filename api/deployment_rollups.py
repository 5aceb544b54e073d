"""Brings the sums of deployments up to date, once those of nodes are.

A minute of a deployment is summed anew from its nodes' rows (assigned_1m) and its engines' windows; an hour and a day
from what is below. Deployments are few where nodes are many, so that nothing needs to be added to what is there: late
data have the deployment's bucket made again.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from api.deployment_sql import FIND_SILENT, FORGET_SILENT, NOTE_FIRST, SUM_MINUTE, above_sql, clear_sql
from api.weighed_rollups import MARK_DEPLOYMENTS
from gigawatch.schema import LEVELS

STEPS = {"1m": timedelta(minutes=30), "1h": timedelta(days=2), "1d": timedelta(days=60)}
"""How much is folded in one transaction."""
MOST_MARKED = 2_000
"""Buckets made again in one transaction."""
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class DeploymentFolder:
    """Folds deployments, on the connection of the leader, whose transactions are REPEATABLE READ.

    Args:
        connection: of the leader, in autocommit.
        tell: called with what is being done, in words, before each step.
    """

    def __init__(self, connection: "psycopg.Connection[Any]", tell: Callable[[str], None]) -> None:
        self._connection = connection
        self._tell = tell

    def run(self, stopping: Callable[[], bool]) -> None:
        """Fold what is to be folded until it is done or stopping."""
        until = self._folded("1m")
        for level, width in LEVELS.items():
            if until is None:
                return
            self._fold_new(level, floor(until, width), stopping)
            self._fold_marked(level, stopping)
            until = self._folded(f"deployment_{level}")

    def mark(self, level: str, pairs: Sequence[tuple[datetime, int]]) -> None:
        """Have buckets of deployments made again, where they are folded already."""
        if pairs:
            self._connection.execute(
                "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
                " SELECT %(level)s, time, deployment_id"
                " FROM unnest(%(times)s::timestamptz[], %(ids)s::integer[]) AS marked (time, deployment_id)"
                " WHERE time < (SELECT folded FROM gigawatch.rollup WHERE level = %(level)s)",
                {"level": level, "times": [it[0] for it in pairs], "ids": [it[1] for it in pairs]},
            )

    def _folded(self, level: str) -> datetime | None:
        row = self._connection.execute("SELECT folded FROM gigawatch.rollup WHERE level = %s", [level]).fetchone()
        return None if row is None else row[0]

    def _fold_new(self, level: str, until: datetime, stopping: Callable[[], bool]) -> None:
        """Fold buckets that were not folded yet, up to some moment."""
        name = f"deployment_{level}"
        folded = self._folded(name)
        if folded is None:
            # A minute before the first, so that it is noted that there is nothing where there are no deployments.
            folded = min(self._begin(level) or until, until) - LEVELS[level]
        while folded < until and not stopping():
            stop = min(until, floor(folded, LEVELS[level]) + STEPS[level])
            self._tell(f"deployments, {level} of {folded:%Y-%m-%d %H:%M}")
            with self._connection.transaction():
                self._fold(level, folded, stop, None)
                self._connection.execute(
                    "INSERT INTO gigawatch.rollup (level, closed, folded, node_id)"
                    " VALUES (%(level)s, %(at)s, %(at)s, 0)"
                    " ON CONFLICT (level) DO UPDATE SET closed = %(at)s, folded = %(at)s",
                    {"level": name, "at": stop},
                )
            folded = stop

    def _begin(self, level: str) -> datetime | None:
        """The first bucket of a level that nothing was folded into yet."""
        row = self._connection.execute(
            "SELECT least((SELECT min(time) FROM gigawatch.{}), (SELECT min(time) FROM gigawatch.{}))".format(
                *(("assigned_1m", "serving_window") if level == "1m" else ("deployment_1m", "serving_1m"))
            )
        ).fetchone()
        return None if row is None or row[0] is None else floor(row[0], LEVELS[level])

    def _fold(self, level: str, start: datetime, stop: datetime, ids: Sequence[int] | None) -> None:
        """Make the buckets of a period, which are not there, of these deployments or of all."""
        values: dict[str, Any] = {"start": start, "stop": stop, "ids": ids, "width": LEVELS[level]}
        if level == "1m":
            for minute in minutes(start, stop):
                of_minute = values | {"start": minute, "stop": minute + LEVELS["1m"]}
                for statement in (FIND_SILENT, SUM_MINUTE, NOTE_FIRST):
                    self._connection.execute(statement, of_minute)
            return
        below = list(LEVELS)[list(LEVELS).index(level) - 1]
        for statement in above_sql(level, below):
            self._connection.execute(statement, values)

    def _fold_marked(self, level: str, stopping: Callable[[], bool]) -> None:
        """Make buckets again that data came late for."""
        width = LEVELS[level]
        levels = list(LEVELS)
        above = levels[levels.index(level) + 1 :][:1]
        while not stopping():
            with self._connection.transaction():
                marked = self._take_marked(f"deployment_{level}")
                for start, ids in sorted(marked.items()):
                    self._tell(f"deployments, {level} of {start:%Y-%m-%d %H:%M} again")
                    values = {"start": start, "stop": start + width, "ids": ids}
                    if level == "1h":
                        self._connection.execute(MARK_DEPLOYMENTS, values)
                    for group in ("deployment", "serving", "latency"):
                        self._connection.execute(clear_sql(f"{group}_{level}"), values)
                    if level == "1m":
                        self._connection.execute(FORGET_SILENT, values)
                    self._fold(level, start, start + width, ids)
                    if level == "1h":
                        # They may be at another site now.
                        self._connection.execute(MARK_DEPLOYMENTS, values)
                    for upper in above:
                        self.mark(f"deployment_{upper}", [(floor(start, LEVELS[upper]), it) for it in ids])
            if not marked:
                return

    def _take_marked(self, name: str) -> dict[datetime, list[int]]:
        """Deployments by bucket, of some that are marked: all roles of each, since they are whole together."""
        rows = self._connection.execute(
            "WITH taken AS ("
            "    SELECT DISTINCT time, node_id FROM gigawatch.rollup_dirty WHERE level = %(name)s"
            "    AND time < (SELECT folded FROM gigawatch.rollup WHERE level = %(name)s)"
            "    ORDER BY time LIMIT %(most)s"
            "), gone AS ("
            "    DELETE FROM gigawatch.rollup_dirty USING taken WHERE level = %(name)s"
            "    AND rollup_dirty.time = taken.time AND rollup_dirty.node_id = taken.node_id"
            ") SELECT DISTINCT time, other.deployment_id FROM taken"
            " JOIN gigawatch.deployment ON deployment.deployment_id = taken.node_id"
            " JOIN gigawatch.deployment AS other USING (name)",
            {"name": name, "most": MOST_MARKED},
        )
        found: dict[datetime, list[int]] = defaultdict(list)
        for time, deployment_id in rows:
            found[time].append(deployment_id)
        return found


def minutes(start: datetime, stop: datetime) -> list[datetime]:
    """The full minutes from start on, before stop."""
    return [start + number * LEVELS["1m"] for number in range((stop - start) // LEVELS["1m"])]


def floor(time: datetime, width: timedelta) -> datetime:
    """As date_bin() does it."""
    return _EPOCH + (time - _EPOCH) // width * width
