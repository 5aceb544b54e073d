"""A store as a fleet leaves it that has sent for a month: python -m bench.stored FOLDER keeps one for questions.

A minute of the simulated fleet is stored and folded by the very code of the API; its rows are then copied back in
time. What sums are kept of (sites, racks) is there in full: a day of minutes, 30 days of hours. So are the windows,
the nodes' and the GPUs' minutes of the newest hour or less, and the nodes' hours; of the rest every k-th node has
all, since all minutes of 600,000 GPUs would take 65 GB a day. A question about one node or one rack
reads the same number of rows as it would in the full store, through indexes about as deep.
"""

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct
from sqlalchemy import Engine, text

from api.decode import Parcel, decode
from api.retention import retain
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
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


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
        for table in ("gpu_window", "node_window"):
            tell(f"{table}: {depth.window_minutes} minutes")
            copy_back(connection, table, table, newest, MINUTE, 1, depth.window_minutes - 1)
        for group in ("site", "rack", "gpu", "node"):
            thinned = group in {"gpu", "node"}
            first_hour = hour - HOUR
            tell(f"{group}_1h: {depth.all_hours if thinned else depth.hours} hours, and to {depth.hours} of some")
            hours = depth.all_hours if thinned else depth.hours
            copy_back(connection, f"{group}_1m", f"{group}_1h", newest, HOUR, 0, hours - 1, to=first_hour)
            if thinned:
                copy_back(connection, f"{group}_1m", f"{group}_1h", newest, HOUR, hours, depth.hours - 1, every,
                           to=first_hour)  # fmt: skip
            minutes = depth.all_minutes if thinned else depth.minutes
            tell(f"{group}_1m: {minutes} minutes, and to {depth.minutes} of some")
            copy_back(connection, f"{group}_1m", f"{group}_1m", newest, MINUTE, 1, minutes - 1)
            if thinned:
                copy_back(connection, f"{group}_1m", f"{group}_1m", newest, MINUTE, minutes, depth.minutes - 1, every)
        copy_back(connection, "site_second", "site_second", newest, MINUTE, 1, depth.minutes - 1)
        connection.execute(
            "UPDATE gigawatch.rollup SET closed = %(end)s, folded = %(end)s, node_id = 0 WHERE level = '1m'",
            {"end": end},
        )
        for level, mark in (("1h", hour), ("1d", hour.replace(hour=0) - timedelta(days=depth.hours // 24))):
            connection.execute(
                "INSERT INTO gigawatch.rollup (level, closed, folded, node_id)"
                " VALUES (%(level)s, %(mark)s, %(mark)s, 0)"
                " ON CONFLICT (level) DO UPDATE SET closed = excluded.closed, folded = excluded.folded, node_id = 0",
                {"level": level, "mark": mark},
            )
        tell("statistics")
        connection.execute("VACUUM (ANALYZE)")
    connection.close()
    tell("filled")


def freshen(engine: Engine) -> None:
    """Have all nodes be heard of just now, as they would be where data go on coming."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE gigawatch.node_now SET last_seen = now(), time = date_bin('10 s', now(), '2000-01-01Z')"
                 " - interval '20 s'")
        )  # fmt: skip


def send(engine: Engine, count: int, start: datetime, tell: Callable[[str], None]) -> None:
    """Store the nodes' inventories and their windows of the minute that starts then, as the API does."""
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
    for place in range(60 // WINDOW_S):
        tell(f"window {place + 1} of {60 // WINDOW_S}")
        for places in groups:
            batches = prepared.windows(places, start_s + place * WINDOW_S)
            send(body(batches, [place + 1] * len(places), now, is_relay=True))
    store.close()


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
    """Copy the rows of the newest minute, as many steps back as first to last say, from `to` or their own time."""
    names = [
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'gigawatch' AND table_name = %s"
            " AND column_name <> 'time' ORDER BY ordinal_position",
            [source],
        )
    ]
    columns = ", ".join(names)
    shift = timedelta(0) if to is None else to - newest
    # A chunk's worth at a time, in order of time as it would have come.
    for place in range(last, first - 1, -60):
        connection.execute(
            f"INSERT INTO gigawatch.{target} (time, {columns})"
            f" SELECT time + %(shift)s - back * %(step)s, {columns}"
            f" FROM generate_series(%(far)s::integer, %(near)s::integer, -1) AS back CROSS JOIN gigawatch.{source}"
            f" WHERE time >= %(newest)s AND time < %(newest)s + interval '1 min' AND {where} ORDER BY back DESC",
            {"shift": shift, "step": step, "newest": newest, "far": place, "near": max(first, place - 59)},
        )


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
    options = parser.parse_args()
    filled(options.folder, options.nodes, Depth())


if __name__ == "__main__":
    main()
