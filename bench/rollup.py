"""What folding costs, against how much is stored and how late data are: python -m bench.rollup.

A store of a few nodes gets ten more minutes of windows when it holds one hour, ten and a hundred, and the time is
that of the API's own Folder until they are minutes. Then windows of one node and of some come hours late, all others'
having been folded, and are marked as ingest marks them. Last, a minute of 75,000 nodes is stored and folded.

After each fold the energy of windows, racks and sites is the same, and each GPU's minutes are those of its windows.
Of the history every minute's rollups are there and a sixth of its windows, in chunks as short as a large fleet's.
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
from bench.loader import cpu_s
from bench.stored import HOUR, MINUTE, WINDOW_S, copy_back, send
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate

HISTORY_H = (1, 10, 100)
NEW_MINUTES = 10
GPUS = 8
WINDOWS = 60 // WINDOW_S
"""Of a node in a minute."""
Connection = psycopg.Connection[Any]


class Folded(Struct, frozen=True):
    """What one fold took."""

    name: str
    gpu_windows: int
    """That came since the last."""
    buckets: int
    """Of nodes: minutes, hours and days."""
    took_s: float
    cpu_s: float
    """Of the store's process that folds."""

    @property
    def window_us(self) -> float:
        """Processor's time for a GPU window."""
        return self.cpu_s / self.gpu_windows * 1e6

    def row(self) -> str:
        """As a line of a table."""
        each = 1e6 / max(1, self.buckets)
        return (
            f"| {self.name} | {self.gpu_windows:,} | {self.buckets:,} | {self.took_s:.2f} | {self.took_s * each:,.0f}"
            f" | {self.cpu_s * each:,.0f} | {self.window_us:.2f} |"
        )


HEAD = (
    "| | GPU windows | buckets folded | s | µs a bucket | CPU, µs a bucket | CPU, µs a GPU window |\n"
    "| --- |" + " ---: |" * 6
)


class Bench:
    """One store.

    Args:
        server: that it is in.
        nodes: how many.
        start: of the first minute, which is stored and not yet folded.
        chunks_of: the fleet whose chunks are as long.
    """

    def __init__(self, server: EmbeddedServer, nodes: int, start: datetime, chunks_of: int) -> None:
        self._server = server
        self._engine = database.engine(server.url)
        migrate(self._engine)
        self.nodes = nodes
        self.start = start
        send(self._engine, nodes, start, lambda words: print(words, file=sys.stderr), chunks_of)
        self.connection: Connection = psycopg.connect(server.url, autocommit=True)
        self.folded: list[Folded] = []

    def fold(self, name: str, came: tuple[int, int], until: datetime) -> None:
        """Fold what is there up to a time; the sums are right afterwards.

        Args:
            name: of the row.
            came: nodes and minutes of new windows.
            until: the time.
        """
        nodes, minutes = came
        with psycopg.connect(self._server.url, autocommit=True, options="-c jit=off") as connection:
            pid = connection.info.backend_pid
            used_s, began_s = -cpu_s([pid]), time.perf_counter()
            buckets = Folder(connection).run(until + SETTLED)
            took_s = time.perf_counter() - began_s
            used_s += cpu_s([pid])
        self.folded.append(Folded(name, nodes * minutes * WINDOWS * GPUS, buckets, took_s, used_s))
        print(self.folded[-1].row(), file=sys.stderr)
        self._check(until - minutes * MINUTE, until)

    def _check(self, start: datetime, stop: datetime) -> None:
        sums = [
            self._one(f"SELECT coalesce(sum({energy}), 0)::bigint FROM gigawatch.{table}"
                      " WHERE time >= %s AND time < %s", start, stop)
            for table, energy in (
                ("gpu_window", "(SELECT sum(mj) FROM unnest(energy_mj) AS mj)"),
                ("site_1m", "energy_mj"),
                ("rack_1m", "energy_mj"),
            )
        ]  # fmt: skip
        assert sums[0] == sums[1] == sums[2] > 0, sums
        wrong = self._one(
            """
            SELECT count(*) FROM (
                SELECT date_bin('1 min', time, '2000-01-01Z') AS time, gpu_id, sum(energy_mj) AS mj
                FROM expanded.gpu_window WHERE time >= %s AND time < %s GROUP BY 1, 2
            ) AS raw FULL JOIN (
                SELECT time, gpu_id, energy_mj AS mj FROM expanded.gpu_1m WHERE time >= %s AND time < %s
            ) AS folded USING (time, gpu_id)
            WHERE raw.mj IS DISTINCT FROM folded.mj""",
            start, stop, start, stop,
        )  # fmt: skip
        assert wrong == 0, wrong

    def _one(self, sql: str, *values: object) -> int:
        row = self.connection.execute(sql, values).fetchone()
        assert row is not None
        return int(row[0])

    def add(self, first: datetime, minutes: int, where: str = "true") -> None:
        """Windows of some more minutes, copies of the first."""
        for table in ("gpu_window", "node_window"):
            copy_back(self.connection, table, table, self.start, -MINUTE, 0, minutes - 1, where, to=first)

    def grow(self, hours: int, before: int) -> None:
        """Have so many hours before the first minute, where there are some already: windows and rollups."""
        back, present = hours * 60, before * 60
        for table in ("gpu_window", "node_window", "gpu_1m", "node_1m", "rack_1m", "site_1m", "site_second"):
            where = f"extract(second FROM time) < {WINDOW_S}" if table.endswith("window") else "true"
            copy_back(self.connection, table, table, self.start, MINUTE, present + 1, back, where)
        for table in ("gpu", "node", "rack", "site"):
            hour = self.start.replace(minute=0) - HOUR
            copy_back(self.connection, f"{table}_1m", f"{table}_1h", self.start, HOUR, before, hours - 1, to=hour)
        self.connection.execute("ANALYZE")

    def come_late(self, nodes: int, minutes: int, end: datetime) -> None:
        """Minutes are folded without some nodes, whose windows come then."""
        first = end - minutes * MINUTE
        who = "1 node" if nodes == 1 else f"{nodes:,} nodes"
        if nodes < self.nodes:
            self.add(first, minutes, f"node_id > {nodes}")
            self.fold(
                f"{minutes} new minutes of the others, {HISTORY_H[-1]} h stored", (self.nodes - nodes, minutes), end
            )
        else:
            # Closed without data.
            Folder(self.connection).run(end + SETTLED)
            self.connection.execute("RESET ALL")
        self.add(first, minutes, f"node_id <= {nodes}")
        for level, table in (("1m", "gpu_window"), ("1s", "node_window")):
            time = "date_bin('1 min', time, '2000-01-01Z')" if level == "1m" else "time"
            self.connection.execute(
                "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
                f" SELECT DISTINCT %s, {time}, node_id FROM gigawatch.{table}"
                " WHERE time >= %s AND time < %s AND node_id <= %s",
                [level, first, end, nodes],
            )
        self.fold(f"{minutes} late minutes of {who}, {HISTORY_H[-1]} h stored", (nodes, minutes), end)

    def close(self) -> None:
        """Leave it."""
        self.connection.close()
        self._engine.dispose()


def in_a_store(work: Callable[[EmbeddedServer], list[Folded]]) -> list[Folded]:
    """Do it with a new server."""
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    try:
        with EmbeddedServer(folder, installations()[0]) as server:
            return work(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def history(bench: Bench) -> datetime:
    """New minutes at each length of history; up to when there are minutes now."""
    end, before = bench.start + MINUTE, 0
    bench.fold("the first minute", (bench.nodes, 1), end)
    for hours in HISTORY_H:
        bench.grow(hours, before)
        before = hours
        bench.add(end, NEW_MINUTES)
        end += NEW_MINUTES * MINUTE
        bench.fold(f"{NEW_MINUTES} new minutes, {hours} h stored", (bench.nodes, NEW_MINUTES), end)
    return end


def lateness(bench: Bench, end: datetime) -> None:
    """Windows that come when their minutes are folded."""
    for nodes, minutes in ((bench.nodes, NEW_MINUTES), (1, 120), (max(1, bench.nodes // 100), 60)):
        end += minutes * MINUTE
        bench.come_late(nodes, minutes, end)


def history_and_lateness(nodes: int, chunks_of: int) -> Callable[[EmbeddedServer], list[Folded]]:
    """Both, in one store."""

    def work(server: EmbeddedServer) -> list[Folded]:
        # The new minutes are of one hour, so that none of them has to fold it as well.
        start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 6 * HOUR
        bench = Bench(server, nodes, start, chunks_of)
        lateness(bench, history(bench))
        bench.close()
        return bench.folded

    return work


def one_minute(nodes: int) -> Callable[[EmbeddedServer], list[Folded]]:
    """A minute of a large fleet."""

    def work(server: EmbeddedServer) -> list[Folded]:
        bench = Bench(server, nodes, datetime.now(UTC).replace(second=0, microsecond=0) - 5 * MINUTE, nodes)
        # A store that runs has statistics.
        bench.connection.execute("ANALYZE")
        bench.fold(f"a minute of {nodes:,} nodes", (nodes, 1), bench.start + MINUTE)
        bench.close()
        return bench.folded

    return work


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=200, help="of the store that grows: 25 MiB of disk for each")
    parser.add_argument("--large", type=int, default=75_000, help="nodes of the minute that is folded last; 0: none")
    parser.add_argument(
        "--chunks-of",
        type=int,
        default=75_000,
        help="chunks of the store that grows are as long"
        " as a fleet of so many nodes has them, so that there are as many (default %(default)s)",
    )
    options = parser.parse_args()
    found = in_a_store(history_and_lateness(options.nodes, options.chunks_of))
    large = in_a_store(one_minute(options.large)) if options.large else []
    print(HEAD)
    for it in (*found, *large):
        print(it.row())
    least, most, late = found[1], found[len(HISTORY_H)], found[len(HISTORY_H) + 1]
    print(f"\n{HISTORY_H[-1]} h stored against {HISTORY_H[0]} h: {most.window_us / least.window_us:.2f} times the CPU")
    print(f"All of {NEW_MINUTES} minutes late against new: {late.window_us / most.window_us:.2f} times the CPU")
    if large:
        print(f"A minute of {options.large:,} nodes takes {large[-1].took_s / 60:.2f} of a minute")
    print(f"{options.nodes} nodes of {GPUS} GPUs; Python {platform.python_version()}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
