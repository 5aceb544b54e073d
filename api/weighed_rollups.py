"""Keeps the energy of each hour that is over weighed by price and carbon intensity, as budgets are summed from it.

An hour is weighed once sites and deployments are folded so far, and again where late data or other prices, intensities
or configured PUEs change it: they mark the hour of their site (rollup_dirty, level weighed_1h). Each step is one
transaction with its marks: stopped at any point, the next leader goes on there.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy import text

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KEPT = timedelta(days=40)
"""For so long, which is longer than any month."""
MOST_MARKED = 24
"""Hours of sites weighed again in one transaction: a day of a site."""

_WEIGH = """
    INSERT INTO gigawatch.weighed_1h
    SELECT its.* FROM unnest(ARRAY['price', 'location']) AS kind CROSS JOIN unnest(ARRAY['site', 'deployment']) AS of
    CROSS JOIN LATERAL expanded.weighed_hours(%(start)s, %(stop)s, kind, of, %(site)s) AS its"""

# Marks of one site, the newest first, as spans of hours in a row.
_TAKE = f"""
    WITH taken AS (
        SELECT DISTINCT time, node_id FROM gigawatch.rollup_dirty
        WHERE level = 'weighed_1h' AND time < (SELECT folded FROM gigawatch.rollup WHERE level = 'weighed_1h')
        ORDER BY node_id, time DESC LIMIT {MOST_MARKED}
    ), gone AS (
        DELETE FROM gigawatch.rollup_dirty USING taken
        WHERE level = 'weighed_1h' AND rollup_dirty.time = taken.time AND rollup_dirty.node_id = taken.node_id
    )
    SELECT taken.node_id, site.name, range_agg(tstzrange(taken.time, taken.time + interval '1 hour'))
    FROM taken JOIN gigawatch.site ON site.site_id = taken.node_id GROUP BY 1, 2"""

MARK_DEPLOYMENTS = """
    INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
    SELECT DISTINCT 'weighed_1h', time, site_id FROM gigawatch.deployment_1h
    WHERE time >= %(start)s AND time < %(stop)s AND deployment_id = ANY (%(ids)s)"""
"""Has the hours of these deployments' sites weighed again."""
MARK_NODES = """
    INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
    SELECT DISTINCT 'weighed_1h', time, site_id FROM gigawatch.gpu_1h
    JOIN unnest(%(times)s::timestamptz[], %(node_ids)s::integer[]) AS marked (time, node_id) USING (time, node_id)
    WHERE time >= %(least)s AND time < %(most)s"""
"""Has the hours of these nodes' sites weighed again."""


def factors_changed(connection: sqlalchemy.Connection, site_id: int, first: datetime, beyond: datetime) -> None:
    """Have hours of a site weighed again, in the caller's transaction.

    Hours that are not over are marked as well: one may be being weighed now, by what was before.

    Args:
        connection: of the store's owner.
        site_id: whose prices, intensities or configured PUEs are others.
        first: from when.
        beyond: until when.
    """
    connection.execute(
        text("""
        INSERT INTO gigawatch.rollup_dirty (level, time, node_id)
        SELECT 'weighed_1h', hour, :site_id
        FROM generate_series(
            date_bin('1 hour', greatest(CAST(:first AS timestamptz), now() - :kept), '2000-01-01Z'),
            least(CAST(:beyond AS timestamptz) - interval '1 us', now()), interval '1 hour'
        ) AS hour"""),
        {"site_id": site_id, "first": first, "beyond": beyond, "kept": KEPT},
    )


class WeighedFolder:
    """Weighs hours, on the connection of the leader, whose transactions are REPEATABLE READ.

    Args:
        connection: of the leader, in autocommit.
        tell: called with what is being done, in words, before each step.
    """

    def __init__(self, connection: "psycopg.Connection[Any]", tell: Callable[[str], None]) -> None:
        self._connection = connection
        self._tell = tell

    def run(self, stopping: Callable[[], bool]) -> None:
        """Weigh what is to be weighed until it is done or stopping."""
        self._weigh_new(stopping)
        while not stopping() and self._weigh_marked():
            pass

    def _weigh_new(self, stopping: Callable[[], bool]) -> None:
        row = self._connection.execute(
            "SELECT least(site.folded, deployment.folded) AS until, coalesce(of_hours.folded, greatest("
            "    date_bin('1 hour', least(site.folded, deployment.folded) - %s, '2000-01-01Z'),"
            "    least((SELECT min(time) FROM gigawatch.site_1h), (SELECT min(time) FROM gigawatch.deployment_1h))))"
            " FROM gigawatch.rollup AS site JOIN gigawatch.rollup AS deployment ON deployment.level = 'deployment_1h'"
            " LEFT JOIN gigawatch.rollup AS of_hours ON of_hours.level = 'weighed_1h' WHERE site.level = '1h'",
            [KEPT],
        ).fetchone()
        if row is None:
            return
        until, folded = row
        while folded < until and not stopping():
            stop = min(until, folded + DAY)
            self._tell(f"prices and intensities, hours of {folded:%Y-%m-%d %H:%M}")
            with self._connection.transaction():
                self._connection.execute(_WEIGH, {"start": folded, "stop": stop, "site": None})
                self._connection.execute(
                    "INSERT INTO gigawatch.rollup (level, closed, folded, node_id)"
                    " VALUES ('weighed_1h', %(at)s, %(at)s, 0)"
                    " ON CONFLICT (level) DO UPDATE SET closed = %(at)s, folded = %(at)s",
                    {"at": stop},
                )
            folded = stop

    def _weigh_marked(self) -> bool:
        """Weigh some hours again; False: there were none."""
        with self._connection.transaction():
            marked = self._connection.execute(_TAKE).fetchall()
            for site_id, site, spans in marked:
                for span in spans:
                    self._tell(f"prices and intensities of {site}, hours of {span.lower:%Y-%m-%d %H:%M} again")
                    values = {"start": span.lower, "stop": span.upper, "site": site, "site_id": site_id}
                    self._connection.execute(
                        "DELETE FROM gigawatch.weighed_1h"
                        " WHERE time >= %(start)s AND time < %(stop)s AND site_id = %(site_id)s",
                        values,
                    )
                    self._connection.execute(_WEIGH, values)
        return bool(marked)
