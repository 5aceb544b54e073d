"""Brings hours and days of meters up to date, and with them the facility's sums and ratios.

An hour of a meter is folded from its windows once it is over, and again when some came late. It marks the day of its
site (rollup_dirty, level facility_1d), and so does a change of the topology; a day of a site is then made anew from its
meters' hours: at most a few hundred meters, where a difference would have to know what each figure was made of. Each
step is one transaction with its marks: stopped at any point, the next leader goes on there.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import text

from api.deployment_rollups import floor
from api.meter_sql import (
    FOLD_MARKED,
    FOLD_NEW,
    FORGET_MARKED,
    MARK_SITES,
    MARK_SITES_OF_KEYS,
    MOST_DAYS,
    MOST_KEYS,
    OF_DAYS,
)

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def topology_changed(connection: sqlalchemy.Connection, site_ids: Sequence[int]) -> None:
    """Have the figures of these sites made again from their meters' hours, in the caller's transaction.

    Args:
        connection: of the store's owner.
        site_ids: sites of which a meter was placed, moved, dated, joined to others or taken out.
    """
    connection.execute(
        text("""
        INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
        SELECT 'facility_1d', day, its.site_id
        FROM (
            SELECT m.site_id, min(first.time) AS time
            FROM gigawatch.meter AS m
            CROSS JOIN LATERAL (
                SELECT h.time FROM gigawatch.meter_1h AS h WHERE h.meter_id = m.meter_id ORDER BY h.time LIMIT 1
            ) AS first
            WHERE m.site_id = ANY (:site_ids)
            GROUP BY m.site_id
        ) AS its
        JOIN gigawatch.rollup ON rollup.level = 'meter_1h'
        CROSS JOIN generate_series(
            date_bin('1 day', its.time, '2000-01-01Z'), rollup.folded - interval '1 us', '1 day'
        ) AS day"""),
        {"site_ids": list(site_ids)},
    )


class MeterFolder:
    """Folds meters, on the connection of the leader, whose transactions are REPEATABLE READ.

    Args:
        connection: of the leader, in autocommit.
        tell: called with what is being done, in words, before each step.
        closing: within it no transaction writes windows.
        uncompressing: within it, where it gives True, no chunk is compressed.
    """

    def __init__(
        self,
        connection: "psycopg.Connection[Any]",
        tell: Callable[[str], None],
        closing: Callable[[], AbstractContextManager[None]],
        uncompressing: Callable[[], AbstractContextManager[bool]],
    ) -> None:
        self._connection = connection
        self._tell = tell
        self._closing = closing
        self._uncompressing = uncompressing

    def run(self, until: datetime, stopping: Callable[[], bool]) -> None:
        """Fold what is to be folded until it is done or stopping.

        Args:
            until: hours that end by then are over, and their windows came.
            stopping: asked between steps.
        """
        closed = floor(until, HOUR)
        row = self._connection.execute(
            "SELECT folded FROM gigawatch.rollup WHERE level = 'meter_1h' AND closed >= %s", [closed]
        ).fetchone()
        folded = row[0] if row is not None else self._close(closed)
        if folded is None:
            return
        while folded < closed and not stopping():
            folded = self._fold_new(folded, min(closed, floor(folded, DAY) + DAY))
        with self._uncompressing() as free:
            # Late data wait for the next time where a chunk is being compressed; new data do not.
            while free and not stopping() and self._fold_marked():
                pass
            while free and not stopping() and self._fold_days(folded):
                pass

    def _close(self, until: datetime) -> datetime | None:
        """Close hours that end by then; up to when hours are folded, or None: there is nothing to fold yet."""
        run = self._connection.execute
        with self._closing(), self._connection.transaction():
            row = run("SELECT folded FROM gigawatch.rollup WHERE level = 'meter_1h'").fetchone()
            if row is None:
                first = run("SELECT min(time) FROM gigawatch.meter_window").fetchone()
                if first is None or first[0] is None:
                    return None
                row = (min(floor(first[0], HOUR), until),)
                run(
                    "INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES ('meter_1h', %s, %s, 0)",
                    [until, row[0]],
                )
            run("UPDATE gigawatch.rollup SET closed = greatest(closed, %s) WHERE level = 'meter_1h'", [until])
        folded: datetime = row[0]
        return folded

    def _fold_new(self, start: datetime, stop: datetime) -> datetime:
        """Fold hours that were closed since the last time; up to when they are folded now."""
        self._tell(f"meters, hours of {start:%Y-%m-%d %H:%M}")
        values = {"start": start, "stop": stop}
        with self._connection.transaction():
            self._connection.execute(FOLD_NEW, values)
            self._connection.execute(MARK_SITES, values)
            self._connection.execute("UPDATE gigawatch.rollup SET folded = %s WHERE level = 'meter_1h'", [stop])
        return stop

    def _fold_marked(self) -> bool:
        """Fold some hours again that data came late for; False: there were none."""
        with self._connection.transaction():
            keys = self._take("meter_1h", MOST_KEYS)
            if keys:
                values = _values(keys, HOUR)
                self._tell(f"meters, {len(keys)} hours again from {values['least']:%Y-%m-%d %H:%M} on")
                for statement in (FORGET_MARKED, FOLD_MARKED, MARK_SITES_OF_KEYS):
                    self._connection.execute(statement, values)
        return bool(keys)

    def _fold_days(self, folded: datetime) -> bool:
        """Make some days of sites anew; False: there were none."""
        with self._connection.transaction():
            days = self._take("facility_1d", MOST_DAYS)
            if days:
                values = _values(days, DAY) | {"folded": folded}
                self._tell(f"facilities, {len(days)} days of sites from {values['least']:%Y-%m-%d} on")
                for statement in OF_DAYS:
                    self._connection.execute(statement, values)
        return bool(days)

    def _take(self, level: str, most: int) -> list[tuple[datetime, int]]:
        """Some of what is marked, the newest first; it is no longer marked if this transaction commits."""
        rows = self._connection.execute(
            "WITH taken AS ("
            "    SELECT DISTINCT time, node_id FROM gigawatch.rollup_dirty WHERE level = %(level)s"
            "    AND time < (SELECT folded FROM gigawatch.rollup WHERE level = 'meter_1h')"
            "    ORDER BY time DESC LIMIT %(most)s"
            "), gone AS ("
            "    DELETE FROM gigawatch.rollup_dirty USING taken WHERE level = %(level)s"
            "    AND rollup_dirty.time = taken.time AND rollup_dirty.node_id = taken.node_id"
            ") SELECT time, node_id FROM taken",
            {"level": level, "most": most},
        )
        return [(row[0], row[1]) for row in rows]


def _values(keys: Sequence[tuple[datetime, int]], width: timedelta) -> dict[str, Any]:
    times = [it[0] for it in keys]
    return {"times": times, "ids": [it[1] for it in keys], "least": min(times), "most": max(times) + width}
