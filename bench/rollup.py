"""What folding costs, against how much is stored and how late data are: python -m bench.rollup.

A store of a few nodes gets ten more minutes of windows when it holds one hour, ten and a hundred, and the time is
that of the API's own Folder until they are minutes. Then buckets of the last hours are marked as ingest marks late
windows, those of one node and of several, and folded again. Last, a minute of 75,000 nodes is stored and folded.
The sums are compared with the windows each time.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct

from api.rollups import SETTLED, Folder
from bench.ingest import tree_cpu_s
from bench.stored import HOUR, MINUTE, copy_back, send
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate

HISTORY_H = (1, 10, 100)
NEW_MINUTES = 10
GPUS = 8
Connection = psycopg.Connection[Any]


class Folded(Struct, frozen=True):
    """What one fold took."""

    name: str
    buckets: int
    took_s: float
    cpu_s: float

    def row(self) -> str:
        """As a line of a table."""
        each = 1e6 / max(1, self.buckets)
        return (
            f"| {self.name} | {self.buckets:,} | {self.took_s:.2f} | {self.took_s * each:,.0f}"
            f" | {self.cpu_s * each:,.0f} |"
        )


class Bench:
    """One store.

    Args:
        server: that it is in.
        nodes: how many.
        start: of the first minute, which is stored and not yet folded.
    """

    def __init__(self, server: EmbeddedServer, nodes: int, start: datetime) -> None:
        self._server = server
        self._engine = database.engine(server.url)
        migrate(self._engine)
        self.nodes = nodes
        self.start = start
        send(self._engine, nodes, start, lambda words: print(words, file=sys.stderr))
        self.connection: Connection = psycopg.connect(server.url, autocommit=True)
        self.folded: list[Folded] = []

    def fold(self, name: str, until: datetime) -> Folded:
        """Fold what is there up to a time; the sums are right afterwards."""
        cpu_s, began_s = self._cpu_s(), time.perf_counter()
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            buckets = Folder(connection).run(until + SETTLED)
        self.folded.append(Folded(name, buckets, time.perf_counter() - began_s, self._cpu_s() - cpu_s))
        print(self.folded[-1].row(), file=sys.stderr)
        self._check(until - NEW_MINUTES * MINUTE, until)
        return self.folded[-1]

    def _cpu_s(self) -> float:
        return tree_cpu_s(self._server.process.pid)

    def _check(self, start: datetime, stop: datetime) -> None:
        sums = [
            self.connection.execute(
                f"SELECT coalesce(sum({energy}), 0)::bigint FROM gigawatch.{table} WHERE time >= %s AND time < %s",
                [start, stop],
            ).fetchone()
            for table, energy in (
                ("gpu_window", "(SELECT sum(mj) FROM unnest(energy_mj) AS mj)"),
                ("site_1m", "energy_mj"),
                ("rack_1m", "energy_mj"),
            )
        ]
        assert sums[0] == sums[1] == sums[2] != (0,), sums

    def add(self, first: datetime, minutes: int) -> None:
        """Windows of some more minutes, copies of the first."""
        for table in ("gpu_window", "node_window"):
            copy_back(self.connection, table, table, self.start, -MINUTE, 0, minutes - 1, to=first)

    def grow(self, hours: int, before: int) -> None:
        """Have so many hours before the first minute, where there are some already: windows and rollups."""
        back, present = hours * 60, before * 60
        for table in ("gpu_window", "node_window", "gpu_1m", "node_1m", "rack_1m", "site_1m", "site_second"):
            copy_back(self.connection, table, table, self.start, MINUTE, present + 1, back)
        for table in ("gpu", "node", "rack", "site"):
            hour = self.start.replace(minute=0) - HOUR
            copy_back(self.connection, f"{table}_1m", f"{table}_1h", self.start, HOUR, before, hours - 1, to=hour)
        self.connection.execute("VACUUM ANALYZE")

    def mark(self, nodes: int, minutes: int, until: datetime) -> None:
        """Mark minutes of some nodes as ingest does when their windows come late."""
        self.connection.execute(
            "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
            " SELECT '1m', minute, node_id FROM gigawatch.node,"
            "     generate_series(%(until)s - %(back)s, %(until)s - interval '1 min', interval '1 min') AS minute"
            " WHERE node_id <= %(nodes)s",
            {"until": until, "back": minutes * MINUTE, "nodes": nodes},
        )

    def close(self) -> None:
        """Leave it."""
        self.connection.close()
        self._engine.dispose()


def in_a_store(work: Callable[[EmbeddedServer], list[Folded]]) -> list[Folded]:
    """Do it with a new server."""
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    with EmbeddedServer(folder, installations()[0]) as server:
        found = work(server)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def history_and_lateness(nodes: int) -> Callable[[EmbeddedServer], list[Folded]]:
    """Both, in one store."""

    def work(server: EmbeddedServer) -> list[Folded]:
        # All is past, and whole hours of it are closed.
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 3 * HOUR
        bench = Bench(server, nodes, start)
        bench.fold("the first minute", start + MINUTE)
        end, before = start + MINUTE, 0
        for hours in HISTORY_H:
            bench.grow(hours, before)
            before = hours
            bench.add(end, NEW_MINUTES)
            end += NEW_MINUTES * MINUTE
            bench.fold(f"{NEW_MINUTES} new minutes, {hours} h stored", end)
        for late, minutes in ((1, 120), (max(1, nodes // 100), 60), (nodes, 10)):
            bench.mark(late, minutes, end)
            name = "1 node" if late == 1 else f"{late} nodes"
            bench.fold(f"{minutes} minutes of {name} again, {HISTORY_H[-1]} h stored", end)
        bench.close()
        return bench.folded

    return work


def one_minute(nodes: int) -> Callable[[EmbeddedServer], list[Folded]]:
    """A minute of a large fleet."""

    def work(server: EmbeddedServer) -> list[Folded]:
        start = datetime.now(UTC).replace(second=0, microsecond=0) - 5 * MINUTE
        bench = Bench(server, nodes, start)
        # A store that runs has statistics.
        bench.connection.execute("VACUUM ANALYZE")
        bench.fold(f"a minute of {nodes:,} nodes", start + MINUTE)
        bench.close()
        return bench.folded

    return work


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=200, help="of the store that grows")
    parser.add_argument("--large", type=int, default=75_000, help="nodes of the minute that is folded last; 0: none")
    options = parser.parse_args()
    found = in_a_store(history_and_lateness(options.nodes))
    if options.large:
        found += in_a_store(one_minute(options.large))
    print("| | buckets of nodes | s | µs a bucket | CPU of the store, µs a bucket |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for it in found:
        print(it.row())
    least, most = found[1], found[len(HISTORY_H)]
    ratio = (most.took_s / most.buckets) / (least.took_s / least.buckets)
    print(f"{HISTORY_H[-1]} h stored against {HISTORY_H[0]} h: {ratio:.2f} times as long for a bucket")
    if options.large:
        print(f"A minute of {options.large:,} nodes takes {found[-1].took_s / 60:.2f} of a minute")
    print(f"{options.nodes} nodes of {GPUS} GPUs; Python {platform.python_version()}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
