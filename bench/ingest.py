"""Ingest against a bare binary COPY and against VictoriaMetrics, in one run: python -m bench.ingest.

The same values of the same GPUs go into each: posts of one node (6 windows of 8 GPUs, an agent's minute) and posts of
many nodes (a relay's). Bodies are prepared before the clock starts, and each store has been told of all GPUs by then
(Gigawatch by their inventories, VictoriaMetrics by a first minute). Rows are GPU windows of eight metrics.
"""

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import psycopg
from msgspec import Struct

from api import copying
from api.rows import Rows
from bench.load import GPUS, METRICS, WINDOW_S, WINDOWS, Load, Round, hostname, make, site, uuids
from bench.loader import Sent, cpu_s, lanes, request, send_apart
from bench.victoriametrics import FASTEST, VictoriaMetrics, feed
from gigawatch import database, wire
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.records import Gpu, Inventory
from gigawatch.wire import Batch
from migrations.run import migrate
from tests.merged import together
from tests.servers import Api, running_api

try:
    from compression import zstd
except ImportError:
    from backports import zstd

RELAY = 100
"""Nodes in one post of a relay."""
RELAYS = 64
"""Connections of relays: 60,000 GPUs have 75 relays."""
WIRE = {column.name: column for column in wire.columns()}
FIXED = {"covered_ms": WINDOW_S * 1_000, "ticks_taken": WINDOW_S, "ticks_expected": WINDOW_S, "energy_method": 1}


class Figure(Struct, frozen=True):
    """What one way took."""

    name: str
    rows: int
    took_s: float
    server_cpu_s: float
    loader_cpu_s: float
    bytes_per_row: float
    p99_ms: float | None

    @property
    def rows_per_s(self) -> float:
        """GPU windows, acknowledged."""
        return self.rows / self.took_s


def batches(of_minute: Round, seq: int) -> list[bytes]:
    """One batch of each node, as an agent encodes it."""
    sent_at = datetime.now(UTC)
    return [
        msgspec.msgpack.encode(
            Batch(
                machine_id=hostname(node), sent_at=sent_at, spool_id=f"spool-{node:05d}", seq=seq, oldest_seq=seq,
                simulated=True, packed_gpu_windows=of_minute.packed(node),
            )
        )
        for node in range(of_minute.nodes)
    ]  # fmt: skip


def inventories(nodes: int) -> list[bytes]:
    """The first batch of each node: what it is."""
    return [
        wire.encode(
            Batch(machine_id=hostname(node), sent_at=datetime.now(UTC), spool_id=f"spool-{node:05d}", seq=0),
            inventory=Inventory(
                hostname=hostname(node), site=site(node), rack=f"r{node // 8:04d}",
                gpus=tuple(Gpu(uuid=uuid, index=index, model="H100") for index, uuid in enumerate(uuids(node))),
            ),
        )
        for node in range(nodes)
    ]  # fmt: skip


def requests(api: Api, encoded: Sequence[bytes], per_post: int) -> list[bytes]:
    """Requests of an agent (per_post = 1) or a relay."""
    headers = {"Authorization": f"Bearer {api.tokens['agent']}", "Content-Encoding": "zstd"}
    if per_post == 1:
        headers["Content-Type"] = wire.MSGPACK
        return [request(api.port, "/api/v1/batches", zstd.compress(body, 3), headers) for body in encoded]
    headers["Content-Type"] = wire.BATCHES
    bodies = (
        together([msgspec.msgpack.decode(body, type=Batch) for body in encoded[place : place + per_post]])
        for place in range(0, len(encoded), per_post)
    )
    return [request(api.port, "/api/v1/batches", zstd.compress(body, 3), headers) for body in bodies]


def queues(by_round: Sequence[Sequence[bytes]], connections: int) -> list[list[bytes]]:
    """Requests by connection: those of one node follow each other on one."""
    dealt = [lanes(of_round, connections) for of_round in by_round]
    return [[it for of_round in dealt for it in of_round[lane]] for lane in range(connections)]


def rows_of(of_minute: Round, nodes: int) -> tuple[Rows, np.ndarray, np.ndarray]:
    """A minute as api.rows gives it."""
    count = nodes * WINDOWS * GPUS
    columns = {name: np.full(count, it.absent, f"<{it.typecode}") for name, it in WIRE.items()}
    columns |= {name: np.full(count, value, f"<{WIRE[name].typecode}") for name, value in FIXED.items()}
    start_ms = of_minute.start_ms + np.repeat(np.arange(WINDOWS) * WINDOW_S * 1_000, GPUS)
    columns["start"] = np.tile(start_ms, nodes)
    columns |= {name: of_minute.values[name].reshape(-1).astype(f"<{WIRE[name].typecode}") for name in METRICS}
    node_id = np.repeat(np.arange(1, nodes + 1, dtype=np.int32), WINDOWS * GPUS)
    slot = np.tile(np.arange(1, GPUS + 1, dtype=np.int16), nodes * WINDOWS)
    return Rows(np.zeros(count, np.int32), columns), node_id, slot


class Bench:
    """A database server for all runs, with a new database for each."""

    def __init__(self, server: EmbeddedServer, nodes: int, count: int, workers: int, connections: int) -> None:
        self._server = server
        self._nodes = nodes
        self._workers = workers
        self._connections = connections
        self._load: Load = make(nodes, count)
        self.rounds = list(self._load)
        self.rows = sum(it.gpu_windows for it in self.rounds)

    def _database(self, name: str) -> str:
        url = self._server.url.replace("/gigawatch?", f"/{name}?")
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        engine = database.engine(url)
        migrate(engine)
        engine.dispose()
        return url

    def _bytes_per_row(self, url: str) -> float:
        engine = database.engine(url)
        with engine.connect() as connection:
            plain = not database.capabilities(connection).hypertables
            function = "pg_total_relation_size" if plain else "hypertable_size"
            size = connection.exec_driver_sql(f"SELECT {function}('gigawatch.gpu_window')").scalar_one()
        engine.dispose()
        return float(size) / self.rows

    def _cpu_s(self) -> float:
        return tree_cpu_s(self._server.process.pid)

    def copy(self) -> Figure:
        """The same rows by a bare COPY: one connection, a transaction for each 40,000 rows."""
        url = self._database("bench_copy")
        names = ", ".join(f'"{name}"' for name in copying.GPU_COLUMNS)
        blocks = []
        share = max(1, 40_000 // (WINDOWS * GPUS))
        for of_minute in self.rounds:
            for first in range(0, self._nodes, share):
                part = Round(of_minute.start, {key: it[first : first + share] for key, it in of_minute.values.items()})
                rows, node_id, slot = rows_of(part, len(part.values["energy_mj"]))
                grids = copying.grids(rows, node_id + np.int32(first), slot)
                blocks.append(b"".join(block for grid in grids for block in copying.gpu_windows(grid)))
        before_s, own_s, began_s = self._cpu_s(), time.process_time(), time.perf_counter()
        with psycopg.connect(url) as connection:
            for block in blocks:
                with connection.cursor().copy(
                    f"COPY gigawatch.gpu_window ({names}) FROM STDIN (FORMAT BINARY)"
                ) as copy:
                    copy.write(copying.SIGNATURE)
                    copy.write(block)
                    copy.write(copying.TRAILER)
                connection.commit()
        took_s = time.perf_counter() - began_s
        server_s, loader_s = self._cpu_s() - before_s, time.process_time() - own_s
        return Figure("bare COPY", self.rows, took_s, server_s, loader_s, self._bytes_per_row(url), None)

    def gigawatch(self, per_post: int, log: Path) -> Figure:
        """Posts to the API."""
        url = self._database("bench_api")
        settings = {"GIGAWATCH_SERVER__WORKERS": str(self._workers), "GIGAWATCH_SERVER__SCHEDULER": "false"}
        with running_api(url, log, **settings) as api:
            _checked(send_apart(api.port, queues([requests(api, inventories(self._nodes), RELAY)], 8)))
            prepared = [requests(api, batches(it, place), per_post) for place, it in enumerate(self.rounds, 1)]
            before_s = self._cpu_s() + tree_cpu_s(api.pid)
            sent = _checked(send_apart(api.port, queues(prepared, self._connections if per_post == 1 else RELAYS)))
            server_s = self._cpu_s() + tree_cpu_s(api.pid) - before_s
        engine = database.engine(url)
        with engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT sum(slots) FROM gigawatch.gpu_window").scalar_one()
        engine.dispose()
        assert stored == self.rows, f"{stored} of {self.rows} rows are there"
        name = f"Gigawatch, {'agents' if per_post == 1 else 'relays'}"
        return Figure(
            name, self.rows, sent.took_s, server_s, sent.cpu_s, self._bytes_per_row(url), sent.latency_ms(0.99)
        )

    def victoriametrics(self, per_post: int) -> Figure:
        """The same values in posts of the same size."""
        with VictoriaMetrics() as server:
            fed = feed(server, self._load, per_post, self._connections if per_post == 1 else RELAYS)
        name = f"VictoriaMetrics, {'agents' if per_post == 1 else 'relays'}"
        size = fed.merged_bytes / fed.all_gpu_windows
        return Figure(
            name, fed.gpu_windows, fed.sent.took_s, fed.settled_cpu_s, fed.sent.cpu_s, size, fed.sent.latency_ms(0.99)
        )


def _checked(sent: Sent) -> Sent:
    assert sent.refused == 0, f"{sent.refused} requests were refused"
    return sent


def tree_cpu_s(pid: int) -> float:
    """CPU time of a process, its children and those that have ended."""
    return cpu_s([pid, *_children(pid)])


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in path.read_text(encoding="ascii").split()] if path.exists() else []
    return [*found, *(grandchild for child in found for grandchild in _children(child))]


def show(figures: Sequence[Figure]) -> None:
    """Print a table."""
    print("| | rows/s | server CPU, µs/row | loader CPU, µs/row | bytes/row | p99, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for it in figures:
        p99 = "–" if it.p99_ms is None else f"{it.p99_ms:.0f}"
        print(
            f"| {it.name} | {it.rows_per_s:,.0f} | {it.server_cpu_s / it.rows * 1e6:.2f}"
            f" | {it.loader_cpu_s / it.rows * 1e6:.2f} | {it.bytes_per_row:.1f} | {p99} |"
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=10, help="minutes of the fleet")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=1_000, help="of agents; relays have 64")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", choices=("copy", "agents", "relays", "peer"), action="append")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    only = options.only or ["copy", "agents", "relays", "peer"]
    figures = []
    with EmbeddedServer(folder, installations()[0]) as server:
        bench = Bench(server, options.gpus // GPUS, options.rounds, options.workers, options.connections)
        for _ in range(options.repeat):
            if "copy" in only:
                figures.append(bench.copy())
            if "agents" in only:
                figures.append(bench.gigawatch(1, folder / "api.log"))
            if "relays" in only:
                figures.append(bench.gigawatch(RELAY, folder / "api.log"))
            if "peer" in only:
                figures += [bench.victoriametrics(per_post) for per_post in (1, RELAY)]
        engine = database.engine(server.url)
        migrate(engine)
        with engine.connect() as connection:
            kind = str(database.capabilities(connection))
        engine.dispose()
    show(figures)
    by_name: dict[str, list[float]] = {}
    for it in figures:
        by_name.setdefault(it.name, []).append(it.rows_per_s)
    medians = {name: statistics.median(values) for name, values in by_name.items()}
    for size in ("agents", "relays"):
        ours = medians.get(f"Gigawatch, {size}")
        for other in ("bare COPY", f"VictoriaMetrics, {size}"):
            if ours and other in medians:
                print(f"Gigawatch, {size} / {other}: {ours / medians[other]:.2f}")
    print(f"{kind}; VictoriaMetrics {VictoriaMetrics.version()} by {FASTEST}; Python {platform.python_version()};"
          f" {os.cpu_count()} cores; {options.gpus:,} GPUs, {options.rounds} rounds")  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
