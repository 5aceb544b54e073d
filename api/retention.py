"""Keeps the store within its bounds: old windows and rollups are removed, chunk by chunk where there are chunks.

Chunks are as long as the fleet is small: one is to be removed at a time, and the newest ones' indexes are to stay in
memory, since each window of a node goes to another place of its index.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from api.weighed_rollups import KEPT
from gigawatch.database import hypertables
from gigawatch.settings import Retention

CHUNK_BYTES = 2 * 1024**3
"""Of the table in a chunk, more or less; its index is a tenth of it."""
CHUNKED = {"gpu_window": (10, 600), "node_window": (10, 180), "gpu_1m": (60, 700), "node_1m": (60, 200)}
"""Seconds between two rows of a node, and their bytes."""
SHORTEST_CHUNK, LONGEST_CHUNK = timedelta(hours=1), timedelta(days=7)
ALERTS = (
    ("alert", "resolved < :before"),
    ("alert_delivery", "created < :before AND state <> 'waiting'"),
    ("alert_silence", "ends < :before"),
)
"""What of alerts is old; what became of an alert goes with it."""
REPEATED = "created < :before AND state = 'sent' AND why = 'repeat'"
REPEATED_D = 7.0
"""An Alertmanager is told of all that fires every five minutes: that it was is of no use for longer."""
MOST_ROWS = 20_000
"""Rows deleted in one transaction, so that it is short and the table can be cleaned between."""


LONGEST = timedelta(days=36_525)
WINDOWS_MARGIN, HOURS_MARGIN = timedelta(hours=1), timedelta(days=1)
"""What of windows, and of meters' hours, is removed within so long is no longer taken: it must be folded before."""


def taken(kept_d: float | None, margin: timedelta) -> timedelta:
    """How old a window may be to be taken.

    Args:
        kept_d: for how many days what comes of it is kept; None: for ever.
        margin: how much younger it must be.
    """
    return LONGEST if kept_d is None else max(timedelta(days=kept_d) - margin, timedelta(hours=1))


def retain(engine: Engine, kept: Retention, now: datetime, alerts_d: float | None = None) -> str:
    """Remove what is older than is kept; what was removed, in words.

    Args:
        engine: of the store's owner.
        kept: how long data are kept.
        now: the time.
        alerts_d: how long ended alerts and their notifications are kept, days; None: for ever.
    """
    bounds = [
        *((table, kept.windows_d, "1m") for table in ("gpu_window", "node_window")),
        *((table, kept.windows_d, "deployment_1m") for table in ("serving_window", "assigned_1m")),
        *((f"{group}_1m", kept.minutes_d, "deployment_1h") for group in ("deployment", "serving", "latency")),
        *((table, kept.minutes_d, "1h") for table in ("gpu_1m", "node_1m", "rack_1m", "site_1m", "site_second")),
        *((f"{group}_1h", kept.hours_d, "deployment_1d") for group in ("deployment", "serving", "latency")),
        *((table, kept.hours_d, "1d") for table in ("gpu_1h", "node_1h", "rack_1h", "site_1h")),
        *((f"{group}_1d", kept.days_d, None) for group in ("deployment", "serving", "latency")),
        *((table, kept.days_d, None) for table in ("gpu_1d", "node_1d", "rack_1d", "site_1d")),
        *((table, kept.events_d, None) for table in ("event", "gpu_health")),
        ("meter_window", kept.windows_d, "meter_1h"),
        *((f"{group}_1h", kept.hours_d, "facility_1d") for group in ("meter", "facility", "facility_ratio")),
        *((f"{group}_1d", kept.days_d, None) for group in ("meter", "facility", "facility_ratio")),
        ("weighed_1h", KEPT / timedelta(days=1), None),
    ]
    removed = []
    with engine.connect() as connection:
        marks = connection.execute(text("SELECT level, folded FROM gigawatch.rollup"))
        folded: dict[str, datetime] = {row.level: row.folded for row in marks}
        folded |= _of_meters(connection, folded)
        chunked = hypertables(connection)
    for table in CHUNKED.keys() & chunked:
        removed += _fit_chunks(engine, table)
    for table, days, above in bounds:
        if days is None or (above is not None and above not in folded):
            continue
        # What was not folded yet is nowhere else.
        before = min(now - timedelta(days=days), now if above is None else folded[above])
        if above == "facility_1d":
            before = before.replace(hour=0, minute=0, second=0, microsecond=0)
        if table in chunked:
            with engine.begin() as connection:
                chunks = _drop_chunks(connection, table, before)
            if chunks:
                removed.append(f"removed {chunks} chunks of {table}")
        else:
            rows = _delete(engine, table, "time < :before", before)
            if rows:
                removed.append(f"removed {rows} rows of {table}")
    if alerts_d is not None:
        of_alerts = [(*it, alerts_d) for it in ALERTS] + [("alert_delivery", REPEATED, min(REPEATED_D, alerts_d))]
        for table, old, kept_d in of_alerts:
            rows = _delete(engine, table, old, now - timedelta(days=kept_d))
            if rows:
                removed.append(f"removed {rows} rows of {table}")
    return ", ".join(removed) if removed else "nothing to remove"


def _of_meters(connection: Connection, folded: dict[str, datetime]) -> dict[str, datetime]:
    """Before when meters' windows and hours are needed no more: what waits to be folded may be long ago, by an import.

    Hours go by whole days, since days of sites are made anew from them.
    """
    if "meter_1h" not in folded:
        return {}
    found = {}
    for level, of in (("meter_1h", ["meter_1h"]), ("facility_1d", ["meter_1h", "facility_1d"])):
        waiting = connection.scalar(
            text("SELECT min(time) FROM gigawatch.rollup_dirty WHERE level = ANY (:levels)"), {"levels": of}
        )
        found[level] = folded["meter_1h"] if waiting is None else min(folded["meter_1h"], waiting)
    return found


def chunk_interval(nodes: int, row_s: int, row_bytes: int) -> timedelta:
    """How long the chunks of a table are to be: of whole hours, or whole days from a day on."""
    fitting = timedelta(seconds=CHUNK_BYTES / row_bytes * row_s / max(1, nodes))
    bounded = max(SHORTEST_CHUNK, min(LONGEST_CHUNK, fitting))
    unit = timedelta(days=1) if bounded >= timedelta(days=1) else timedelta(hours=1)
    return bounded // unit * unit


def _fit_chunks(engine: Engine, table: str) -> list[str]:
    """Make new chunks of the length that fits the fleet, where it is off by more than a half; what was changed."""
    with engine.begin() as connection:
        nodes = connection.scalar(text("SELECT count(*) FROM gigawatch.node")) or 0
        present = connection.scalar(
            text(
                "SELECT time_interval FROM timescaledb_information.dimensions"
                " WHERE hypertable_schema = 'gigawatch' AND hypertable_name = :table"
            ),
            {"table": table},
        )
        fitting = chunk_interval(nodes, *CHUNKED[table])
        if present is None or fitting / 2 < present < fitting * 2:
            return []
        connection.execute(
            text("SELECT set_chunk_time_interval(CAST(:table AS regclass), CAST(:interval AS interval))"),
            {"table": f"gigawatch.{table}", "interval": fitting},
        )
    return [f"chunks of {table} are of {fitting} from now on"]


def _drop_chunks(connection: Connection, table: str, before: datetime) -> int:
    # A chunk goes when all of it is old: what is kept is never less than was asked for.
    return len(
        connection.execute(
            text("SELECT drop_chunks(CAST(:table AS regclass), older_than => CAST(:before AS timestamptz))"),
            {"table": f"gigawatch.{table}", "before": before},
        ).all()
    )


def _delete(engine: Engine, table: str, old: str, before: datetime) -> int:
    total = 0
    while True:
        with engine.begin() as connection:
            rows = connection.execute(
                text(
                    f"DELETE FROM gigawatch.{table} WHERE ctid = ANY (ARRAY("
                    f"SELECT ctid FROM gigawatch.{table} WHERE {old} LIMIT {MOST_ROWS}))"
                ),
                {"before": before},
            ).rowcount
        total += rows
        if rows < MOST_ROWS:
            return total
