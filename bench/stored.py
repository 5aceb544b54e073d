"""A store as a fleet leaves it that has sent for a month: python -m bench.stored FOLDER keeps one for questions.

A minute of the simulated fleet is stored and folded by the very code of the API; its rows are then copied back in
time, for hours and days as sixty and 1,440 such minutes, so that each level has the sums of the one below.

In full: sites, racks and sites' seconds, a day of minutes and 30 days of hours and days. Thinned: of nodes and GPUs
the newest 10 minutes, 24 hours and the last day are all there, and all the past of every 50th node; of windows the
newest 2 minutes. All minutes of 600,000 GPUs would take 65 GB a day. A question about one such node or its rack
reads as many rows as it would in the full store, through indexes about as deep. Every GPU has a slow reading, and one
in 200 an XID of the last day. 75,000 nodes take about 28 GB of disk, 4 of them PostgreSQL's log.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from sqlalchemy import Connection, Engine, text

from api.decode import Parcel, decode
from api.retention import CHUNKED, chunk_interval, retain
from api.rollup_sql import GROUP_SUMS, METRICS, NODE_COLUMNS
from api.rollups import Folder
from api.store import Store
from collector.simulated import fleet
from collector.simulated.prepared import PreparedFleet, body
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.settings import Retention
from gigawatch.wire import BATCHES
from migrations.run import migrate

SEED = 7
WINDOW_S = 10
GROUP = 800
"""Nodes in a transaction."""
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ARRAY_SUMS = frozenset(it.name for it in METRICS if it.how == "sum")
"""Columns of gpu_1m that add up over time."""
PLAIN_SUMS = frozenset(
    it
    for it in (*NODE_COLUMNS, *GROUP_SUMS)
    if "_min_" not in it and "_max_" not in it and it not in {"gpus", "gpus_known", "power_mw"}
)
"""The same of nodes, racks and sites; a group's power and GPUs are of a moment."""


class Depth(Struct, frozen=True, kw_only=True):
    """How much there is, back from the newest minute."""

    minutes: int = 1_440
    """Of sites, of racks and of each `every`-th node."""
    hours: int = 720
    """Of sites, racks and each `every`-th node."""
    all_minutes: int = 10
    """Of all nodes and GPUs."""
    all_hours: int = 24
    """Of all nodes and GPUs."""
    window_minutes: int = 2
    """Of windows of all nodes and GPUs."""
    every: int = 50


def fill(engine: Engine, nodes: int, depth: Depth, end: datetime) -> None:
    """Fill a new store.

    Args:
        engine: of a migrated store without data.
        nodes: how many, of 8 GPUs.
        depth: how much of their past.
        end: full minute at which the newest one ends.
    """
    began_s = time.monotonic()

    def tell(words: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {words}", file=sys.stderr, flush=True)

    newest = end - MINUTE
    send(engine, nodes, newest, tell)
    raw = engine.raw_connection()
    connection = raw.driver_connection
    assert isinstance(connection, psycopg.Connection)
    raw.detach()
    with connection:
        connection.autocommit = True
        tell("folding the minute")
        Folder(connection).run(end + MINUTE)
        connection.execute("RESET ALL")
        every = f"node_id %% {depth.every} = 1"
        hour = newest.replace(minute=0)
        midnight, days = hour.replace(hour=0), depth.hours // 24
        for table in ("gpu_window", "node_window"):
            tell(f"{table}: {depth.window_minutes} minutes")
            copy_back(connection, table, table, newest, MINUTE, 1, depth.window_minutes - 1)
        for group in ("site", "rack", "gpu", "node"):
            minutes = f"{group}_1m"
            thinned = group in {"gpu", "node"}
            # Each level: its width, to where it is folded, how far back all go and how far some.
            for level, width, to, of_all, of_some in (
                ("1d", DAY, midnight - DAY, min(1, days), days),
                ("1h", HOUR, hour - HOUR, depth.all_hours, depth.hours),
                ("1m", MINUTE, newest, depth.all_minutes, depth.minutes),
            ):
                full = of_all if thinned else of_some
                tell(f"{group}_{level}: {full}" + (f", and {of_some} of every {depth.every}th node" if thinned else ""))
                first, target = int(level == "1m"), f"{group}_{level}"
                copy_back(connection, minutes, target, newest, width, first, full - 1, to=to)
                if thinned:
                    copy_back(connection, minutes, target, newest, width, full, of_some - 1, every, to=to)
        copy_back(connection, "site_second", "site_second", newest, MINUTE, 1, depth.minutes - 1)
        # Seconds differ from minute to minute: of equal arrays PostgreSQL would remember what it took from the first.
        connection.execute(
            "UPDATE gigawatch.site_second SET power_mw = ARRAY("
            "SELECT mw + mw / 100 * (extract(minute FROM time) + place)::bigint %% 7"
            " FROM unnest(power_mw) WITH ORDINALITY AS second (mw, place) ORDER BY place) WHERE time < %s",
            [newest],
        )
        connection.execute(
            "UPDATE gigawatch.rollup SET closed = %(end)s, folded = %(end)s, node_id = 0 WHERE level = '1m'",
            {"end": end},
        )
        for level, mark in (("1h", hour), ("1d", midnight if days else midnight - DAY)):
            connection.execute(
                "INSERT INTO gigawatch.rollup (level, closed, folded, node_id)"
                " VALUES (%(level)s, %(mark)s, %(mark)s, 0)"
                " ON CONFLICT (level) DO UPDATE SET closed = excluded.closed, folded = excluded.folded, node_id = 0",
                {"level": level, "mark": mark},
            )
        tell("slow readings and events")
        slow_and_events(connection, newest, every)
        tell("statistics")
        connection.execute("VACUUM (ANALYZE)")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    connection.close()
    assert row is not None
    tell(f"filled: {row[0] / 1_024**3:.1f} GiB")


def slow_and_events(connection: "psycopg.Connection[Any]", newest: datetime, every: str) -> None:
    """Slow readings of each GPU, hourly where there is all the past; and events of the last day."""
    connection.execute(
        f"""
        INSERT INTO gigawatch.gpu_health (time, gpu_id, ecc_volatile_corrected, ecc_volatile_uncorrected,
            rows_remapped_corrected, rows_remapped_uncorrected, row_remap_pending, row_remap_failed, pcie_replays,
            performance_state)
        SELECT %(newest)s - back * interval '1 hour' - gpu_id %% 3600 * interval '1 s', gpu_id, gpu_id %% 7, 0, 0, 0,
            false, false, 0, 0
        FROM generate_series(23, 0, -1) AS back CROSS JOIN gigawatch.gpu
        WHERE back = 0 OR {every}
        ON CONFLICT DO NOTHING""",
        {"newest": newest},
    )
    connection.execute(
        """
        INSERT INTO gigawatch.event (time, node_id, gpu_id, kind, severity, code, message)
        SELECT %(newest)s - gpu_id %% 86400 * interval '1 s', node_id, gpu_id, 'xid', 'warning', 94, 'XID 94'
        FROM gigawatch.gpu WHERE gpu_id %% 200 = 0 ORDER BY 1""",
        {"newest": newest},
    )


def freshen(engine: Engine) -> None:
    """Have all nodes heard of just now, with a window, as they would be where data go on coming."""
    with engine.begin() as connection:
        mark = connection.scalar(text("SELECT folded FROM gigawatch.rollup WHERE level = '1m'"))
        now = connection.scalar(text("SELECT date_bin('10 s', now(), '2000-01-01Z') - interval '10 s'"))
        known = connection.scalar(text("SELECT max(time) FROM gigawatch.node_now"))
        assert mark is not None
        assert now is not None
        assert known is not None
        if now - known > MINUTE:
            for table in ("gpu_window", "node_window"):
                columns = columns_of(connection, table)
                connection.execute(
                    text(f"INSERT INTO gigawatch.{table} (time, {columns}) SELECT :now, {columns}"
                         f" FROM gigawatch.{table} WHERE time >= :last AND time < :mark ON CONFLICT DO NOTHING"),
                    {"now": now, "last": mark - timedelta(seconds=WINDOW_S), "mark": mark},
                )  # fmt: skip
            known = now
        connection.execute(text("UPDATE gigawatch.node_now SET last_seen = now(), time = :time"), {"time": known})


def columns_of(connection: Connection, table: str) -> str:
    """All but the time."""
    return ", ".join(
        connection.scalars(
            text(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'gigawatch'"
                " AND table_name = :table AND column_name <> 'time' ORDER BY ordinal_position"
            ),
            {"table": table},
        )
    )


def send(
    engine: Engine, count: int, start: datetime, tell: Callable[[str], None], chunks_of: int | None = None
) -> None:
    """Store the nodes' inventories and their windows of the minute that starts then, as the API does.

    Args:
        engine: of the store.
        count: how many nodes.
        start: of the minute.
        tell: called with what is done.
        chunks_of: the fleet whose chunks' length these data are to have; by default this one.
    """
    nodes = fleet.of_nodes(count, seed=SEED, gpus_per_node=8)
    prepared = PreparedFleet(nodes, seed=SEED, processes=1, amount="none", window_s=WINDOW_S)
    store = Store(engine, timedelta(days=3_650))
    start_s, now = round(start.timestamp()), datetime.now(UTC)
    groups = [range(first, min(count, first + GROUP)) for first in range(0, count, GROUP)]

    def send(bodies: bytes) -> None:
        found = decode(bodies, BATCHES, now, 1e9)
        store.store([it for it in found if isinstance(it, Parcel)])

    tell(f"{count:,} nodes say what they are")
    for places in groups:
        send(body(prepared.introductions(places, start_s), [0] * len(places), now, is_relay=True))
    # Chunks as long as they are to be for so many nodes.
    retain(engine, Retention(), now)
    if chunks_of is not None:
        shorten_chunks(engine, chunks_of)
    for place in range(60 // WINDOW_S):
        tell(f"window {place + 1} of {60 // WINDOW_S}")
        for places in groups:
            batches = prepared.windows(places, start_s + place * WINDOW_S)
            send(body(batches, [place + 1] * len(places), now, is_relay=True))
    store.close()


def shorten_chunks(engine: Engine, nodes: int) -> None:
    """Have new chunks as long as in a fleet of so many nodes, where there are chunks."""
    with engine.begin() as connection:
        if database.capabilities(connection).hypertables:
            for table, (row_s, row_bytes) in CHUNKED.items():
                connection.execute(
                    text("SELECT set_chunk_time_interval(CAST(:table AS regclass), CAST(:interval AS interval))"),
                    {"table": f"gigawatch.{table}", "interval": chunk_interval(nodes, row_s, row_bytes)},
                )


def copy_back(
    connection: "psycopg.Connection[Any]",
    source: str,
    target: str,
    newest: datetime,
    step: timedelta,
    first: int,
    last: int,
    where: str = "true",
    to: datetime | None = None,
) -> None:
    """Copy the rows of the newest minute, as many steps back as first to last say, from `to` or their own time.

    Where the target's step is longer than a minute, its rows are what so many such minutes come to.
    """
    if last < first:
        return
    names = [
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'gigawatch' AND table_name = %s"
            " AND column_name <> 'time' ORDER BY ordinal_position",
            [source],
        )
    ]
    columns = ", ".join(names)
    times = {"1h": 60, "1d": 1_440}.get(target.rpartition("_")[2], 1)
    connection.execute("DROP TABLE IF EXISTS pg_temp.source_row")
    connection.execute(
        f"CREATE TEMPORARY TABLE source_row AS SELECT time, {', '.join(_times(source, it, times) for it in names)}"
        f" FROM gigawatch.{source} WHERE time >= %(newest)s AND time < %(newest)s + interval '1 min' AND {where}",
        {"newest": newest},
    )
    connection.execute("ANALYZE pg_temp.source_row")
    shift = timedelta(0) if to is None else to - newest
    # An hour of minutes at a time, in order of time as it would have come.
    for place in range(last, first - 1, -60):
        connection.execute(
            f"INSERT INTO gigawatch.{target} (time, {columns})"
            f" SELECT time + %(shift)s - back * %(step)s, {columns}"
            " FROM generate_series(%(far)s::integer, %(near)s::integer, -1) AS back CROSS JOIN pg_temp.source_row"
            " ORDER BY back DESC",
            {"shift": shift, "step": step, "far": place, "near": max(first, place - 59)},
        )


def _times(source: str, name: str, times: int) -> str:
    """A column of rows that are made of so many equal minutes."""
    if times > 1 and source == "gpu_1m" and name in ARRAY_SUMS:
        # An empty array is none.
        return f"nullif(ARRAY(SELECT it::bigint * {times} FROM unnest({name}) AS it), '{{}}') AS {name}"
    if times > 1 and source != "gpu_1m" and name in PLAIN_SUMS:
        return f"{name}::bigint * {times} AS {name}"
    return name


def filled(folder: Path, nodes: int, depth: Depth) -> None:
    """Make a store in a new folder, and leave it stopped."""
    with EmbeddedServer(folder, installations()[0]) as server:
        engine = database.engine(server.url)
        migrate(engine)
        fill(engine, nodes, depth, datetime.now(UTC).replace(second=0, microsecond=0))
        engine.dispose()


def main() -> None:
    """Fill a store in a folder, and leave it stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=75_000)
    for it in msgspec.structs.fields(Depth):
        parser.add_argument(
            f"--{it.name.replace('_', '-')}", type=int, default=it.default, help=f"default {it.default}"
        )
    options = parser.parse_args()
    depth = Depth(**{it: getattr(options, it) for it in Depth.__struct_fields__})
    filled(options.folder, options.nodes, depth)


if __name__ == "__main__":
    main()
