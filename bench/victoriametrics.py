"""VictoriaMetrics as a peer of the ingest benches: python -m bench.victoriametrics.

It is started on loopback with data of its own, and fed the same values of the same GPUs as Gigawatch, in posts of the
same size: one node's 6 windows of 8 GPUs (an agent's minute), or those of 100 nodes (a relay's). Bodies are prepared
before the clock starts. What it took by each of its acknowledged ways in is in bench/README.md; FASTEST is the one to
compare with. bench/install-victoria-metrics installs it.

Its acknowledgement means less than Gigawatch's receipt: samples are in memory, and on disk within 5 s
(-inmemoryDataFlushInterval); a power cut loses them. Samples carry the time of their window's end.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bench.load import GPUS, METRICS, MODEL, WINDOW_S, WINDOWS, Load, Round, hostname, make, site, uuids
from bench.loader import Sent, cpu_s, lanes, request, send_apart
from tests.processes import free_port

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PROGRAM = "victoria-metrics"
RELAY = 100
"""Nodes in one post of a relay."""
START_TIMEOUT_S = 30
SETTLE_TIMEOUT_S = 300
FLAGS = {
    "retentionPeriod": "10y",
    "search.latencyOffset": "0s",  # the newest samples are to be found at once, as in Gigawatch
    "loggerLevel": "ERROR",
}
"""All else is as it comes: bodies of up to 32 MiB, two inserts at once for each core, data on disk within 5 s."""
SERIES = len(METRICS) * GPUS
"""Of a node."""


class VictoriaMetrics:
    """A running server, with a folder of its own that is removed at the end."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="victoriametrics-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        flags = {"storageDataPath": self._folder, "httpListenAddr": f"127.0.0.1:{self.port}", **FLAGS}
        self._process = subprocess.Popen(
            [PROGRAM, *(f"-{name}={value}" for name, value in flags.items())],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            with suppress(OSError):
                self.get("/health")
                return self
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.__exit__()
                raise RuntimeError(f"{PROGRAM} does not start")
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of its only process."""
        assert self._process is not None
        return self._process.pid

    @staticmethod
    def version() -> str:
        """As it says itself, or the package that it came in."""
        said = subprocess.run([PROGRAM, "-version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\d+\.\d+\.\d+", said)
        if found:
            return found[0]
        query = ["dpkg-query", "-W", "-f", "${Version}", PROGRAM]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout

    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_s([self.pid])

    def rss_mib(self) -> float:
        """Greatest resident memory so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024

    def flush(self) -> None:
        """Let it write out what it holds in memory: samples to be found now, files within 5 s."""
        self.get("/internal/force_flush")
        self._wait_for("vm_rows", "inmemory")

    def merge(self) -> None:
        """Let it merge all parts on disk into one, as it does by itself in the course of days."""
        self.get("/internal/force_merge")
        self._wait_for("vm_active(?:_force)?_merges")
        before = 0
        while before != (before := self.bytes_on_disk()):  # what was merged is removed a little later
            time.sleep(2)

    def _wait_for(self, metric: str, labels: str = "") -> None:
        """Wait until a metric of its own is zero."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while self.metric(metric, labels):
            assert time.monotonic() < deadline_s, f"{metric} does not become zero"

    def bytes_on_disk(self) -> int:
        """Of data and index, in the file system's blocks."""
        total = 0
        for path in self._folder.rglob("*"):
            with suppress(FileNotFoundError):  # a merge may be removing parts
                total += path.stat().st_blocks * 512
        return total

    def metric(self, name: str, labels: str = "") -> float:
        """One of its own metrics, summed over labels; as of now, for it keeps what it answered for a second."""
        time.sleep(1.1)
        pattern = rf"^{name}(?:\{{.*{labels}.*\}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, self.get("/metrics").decode(), re.MULTILINE))

    def query(self, address: str) -> Any:
        """The answer to a query."""
        return json.loads(self.get(address))["data"]["result"]

    def get(self, path: str) -> bytes:
        """The body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SETTLE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, body[:500].decode(errors="replace")
        return body


def labels(node: int, gpu: int) -> dict[str, str]:
    """What tells a GPU's series from others, in the order of names: fewer than dcgm-exporter gives."""
    return {
        "gpu": str(gpu), "hostname": hostname(node), "model": MODEL, "site": site(node), "uuid": uuids(node)[gpu],
    }  # fmt: skip


def times_ms(of_minute: Round) -> list[int]:
    """Of a round's samples."""
    return [of_minute.start_ms + (window + 1) * WINDOW_S * 1_000 for window in range(WINDOWS)]


def by_series(of_minute: Round) -> NDArray[np.int64]:
    """The samples, shaped (nodes, SERIES, WINDOWS): GPU after GPU, with its metrics in order."""
    stacked = np.stack([values.astype(np.int64) for values in of_minute.values.values()])
    return np.ascontiguousarray(stacked.transpose(1, 3, 0, 2)).reshape(of_minute.nodes, SERIES, WINDOWS)


def posts(nodes: Sequence[bytes], per_post: int, joint: bytes = b"") -> list[bytes]:
    """Bodies with so many nodes each, of the parts of single nodes."""
    if per_post == 1:
        return list(nodes)
    return [joint.join(nodes[first : first + per_post]) for first in range(0, len(nodes), per_post)]


# Prometheus remote write: one protobuf message, whose layout is the same for all nodes.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


SAMPLE = _field(2, b"\x09" + bytes(8) + b"\x10" + bytes(6))
"""A double and a time in ms, of six varint bytes from the year 2004 to 2109."""


@cache
def _remote_write_template(nodes: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """The message of each node without values, and where each sample is."""
    templates = []
    places: list[int] = []
    for node in range(nodes):
        message = bytearray()
        for gpu in range(GPUS):
            named = b"".join(
                _field(1, _field(1, k.encode()) + _field(2, v.encode())) for k, v in labels(node, gpu).items()
            )
            for metric in METRICS:
                series = _field(1, _field(1, b"__name__") + _field(2, f"gpu_{metric}".encode())) + named
                message += _field(1, series + SAMPLE * WINDOWS)
                if node == 0:
                    places += [len(message) - len(SAMPLE) * (WINDOWS - window) for window in range(WINDOWS)]
        templates.append(np.frombuffer(bytes(message), np.uint8))
    return np.stack(templates), np.array(places).reshape(SERIES, WINDOWS)


def _remote_write(of_minute: Round, per_post: int) -> list[bytes]:
    template, places = _remote_write_template(of_minute.nodes)
    whole = template.copy()
    values = by_series(of_minute).astype("<f8").view(np.uint8).reshape(of_minute.nodes, -1)
    whole[:, (places[..., None] + 3 + np.arange(8)).reshape(-1)] = values
    stamps = np.frombuffer(b"".join(_varint(time_ms) for time_ms in times_ms(of_minute)), np.uint8).reshape(WINDOWS, 6)
    whole[:, (places[..., None] + 12 + np.arange(6)).reshape(-1)] = np.tile(stamps.reshape(-1), SERIES)
    return posts([row.tobytes() for row in whole], per_post)


def remote_write_snappy(of_minute: Round, per_post: int) -> list[bytes]:
    """Snappy as one literal, which is the cheapest for the server to undo."""
    return [
        _varint(len(body)) + b"\xfc" + (len(body) - 1).to_bytes(4, "little") + body
        for body in _remote_write(of_minute, per_post)
    ]


def remote_write_zstd(of_minute: Round, per_post: int) -> list[bytes]:
    """As its own agent sends."""
    return [zstd.compress(body, 1) for body in _remote_write(of_minute, per_post)]


# Its own format: a block for each series, with values as varints of their differences.


@cache
def _native_names(nodes: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Each series' name behind its length, in rows of equal width, and what of a row is used."""
    names = []
    for node in range(nodes):
        for gpu in range(GPUS):
            tags = b"".join(f"{key}\x01{value}\x01".encode() for key, value in labels(node, gpu).items())
            names += [f"gpu_{metric}\x01".encode() + tags for metric in METRICS]
    rows = [len(name).to_bytes(4, "big") + name for name in names]
    width = max(map(len, rows))
    return (
        np.frombuffer(b"".join(row.ljust(width, b"\0") for row in rows), np.uint8).reshape(-1, width),
        np.array([len(row) for row in rows]),
    )


def _varints(values: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Signed integers of less than 35 bits as varints, five bytes for each, and which of the bytes are used."""
    zigzag = ((values << 1) ^ (values >> 63)).astype(np.uint64)
    parts = zigzag[..., None] >> np.arange(0, 35, 7, dtype=np.uint64)
    used = parts > 0
    used[..., 0] = True
    more = np.zeros_like(used)
    more[..., :-1] = used[..., 1:]
    return ((parts & 0x7F) | more.astype(np.uint64) << np.uint64(7)).astype(np.uint8), used


def native(of_minute: Round, per_post: int) -> list[bytes]:
    """Blocks as it exports them, not compressed: so few samples would not be."""
    names, name_sizes = _native_names(of_minute.nodes)
    values = by_series(of_minute).reshape(-1, WINDOWS)
    stamps = times_ms(of_minute)

    def constant(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return np.tile(np.frombuffer(content, np.uint8), (len(values), 1)), np.ones((len(values), len(content)), bool)

    first, first_used = _varints(values[:, 0])
    deltas, deltas_used = _varints(np.diff(values, axis=1))
    deltas, deltas_used = deltas.reshape(len(values), -1), deltas_used.reshape(len(values), -1)
    range_ = constant(_varint(stamps[0] << 1) + _varint(stamps[-1] << 1))
    # Rows, scale, kinds of encoding (equal steps of time, differences of values), precision, step of time.
    fixed = constant(bytes([WINDOWS, 0, 2, 6, 64, 3]) + _varint(WINDOW_S * 1_000 << 1))
    size = deltas_used.sum(axis=1)
    assert size.max() < 128
    delta_size = size.astype(np.uint8)[:, None], np.ones((len(values), 1), bool)
    block = [range_, (first, first_used), fixed, delta_size, (deltas, deltas_used)]
    block_size = sum(used.sum(axis=1) for _, used in block).astype(">u4")[:, None].view(np.uint8)
    name_used = np.arange(names.shape[1]) < name_sizes[:, None]
    parts = [(names, name_used), (block_size, np.ones_like(block_size, bool)), *block]
    used = np.concatenate([it for _, it in parts], axis=1)
    ends = np.cumsum(used.reshape(of_minute.nodes, -1).sum(axis=1)).tolist()
    packed = np.concatenate([it for it, _ in parts], axis=1)[used].tobytes()
    nodes = [packed[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    head = b"".join((stamp << 1).to_bytes(8, "big") for stamp in (stamps[0], stamps[-1]))
    return [head + body for body in posts(nodes, per_post)]


# Its ways in as text.


def json_lines(of_minute: Round, per_post: int) -> list[bytes]:
    """A line for each series."""
    end = f'],"timestamps":{times_ms(of_minute)}}}\n'.replace(" ", "")
    nodes = []
    for node, values in enumerate(by_series(of_minute).tolist()):
        lines = [
            f"{head}{','.join(map(str, of_series))}{end}"
            for head, of_series in zip(_json_heads(node), values, strict=True)
        ]
        nodes.append("".join(lines).encode())
    return posts(nodes, per_post)


@cache
def _json_heads(node: int) -> list[str]:
    return [
        json.dumps({"metric": {"__name__": f"gpu_{metric}", **labels(node, gpu)}})[:-1] + ',"values":['
        for gpu in range(GPUS)
        for metric in METRICS
    ]


def prometheus_text(of_minute: Round, per_post: int) -> list[bytes]:
    """A line for each sample."""
    stamps = times_ms(of_minute)
    nodes = []
    for node, values in enumerate(by_series(of_minute).tolist()):
        lines = [
            f"{head} {value} {stamp}\n"
            for head, of_series in zip(_text_heads(node), values, strict=True)
            for value, stamp in zip(of_series, stamps, strict=True)
        ]
        nodes.append("".join(lines).encode())
    return posts(nodes, per_post)


@cache
def _text_heads(node: int) -> list[str]:
    return [
        f"gpu_{metric}{{" + ",".join(f'{key}="{value}"' for key, value in labels(node, gpu).items()) + "}"
        for gpu in range(GPUS)
        for metric in METRICS
    ]


def _rows(of_minute: Round) -> Iterable[Iterable[tuple[int, int, int, list[int]]]]:
    """For each node its rows: GPU, window, time in ms and the values of all metrics."""
    stamps = times_ms(of_minute)
    by_row = np.stack([values.astype(np.int64) for values in of_minute.values.values()], axis=-1).tolist()
    for of_node in by_row:
        yield (
            (gpu, window, stamps[window], of_node[window][gpu]) for gpu in range(GPUS) for window in range(WINDOWS)
        )  # fmt: skip


FIELDS = ",".join(f"{metric}=%d" for metric in METRICS)


def influx(of_minute: Round, per_post: int) -> list[bytes]:
    """A line for each GPU and window: labels once for eight samples."""
    nodes = []
    for node, rows in enumerate(_rows(of_minute)):
        heads = _influx_heads(node)
        nodes.append("".join(f"{heads[gpu]}{FIELDS % tuple(row)} {stamp}\n" for gpu, _, stamp, row in rows).encode())
    return posts(nodes, per_post)


@cache
def _influx_heads(node: int) -> list[str]:
    return [
        "gpu," + ",".join(f"{key}={value}".replace(" ", r"\ ") for key, value in labels(node, gpu).items()) + " "
        for gpu in range(GPUS)
    ]


def csv(of_minute: Round, per_post: int) -> list[bytes]:
    """The same as comma-separated values."""
    nodes = []
    for node, rows in enumerate(_rows(of_minute)):
        heads = _csv_heads(node)
        nodes.append(
            "".join(f"{heads[gpu]},{stamp},{','.join(map(str, row))}\n" for gpu, _, stamp, row in rows).encode()
        )
    return posts(nodes, per_post)


@cache
def _csv_heads(node: int) -> list[str]:
    return [",".join(labels(node, gpu).values()) for gpu in range(GPUS)]


CSV_FORMAT = ",".join(
    f"{column}:{what}"
    for column, what in enumerate(
        [*(f"label:{key}" for key in labels(0, 0)), "time:unix_ms", *(f"metric:gpu_{metric}" for metric in METRICS)], 1
    )
)


class Way(Struct, frozen=True):
    """A way in that answers when it has taken the samples."""

    path: str
    bodies: Callable[[Round, int], list[bytes]]
    """Bodies of one minute, with so many nodes each."""
    headers: dict[str, str] = {}

    def requests(self, port: int, of_minute: Round, per_post: int) -> list[bytes]:
        """A minute's posts."""
        return [request(port, self.path, body, self.headers) for body in self.bodies(of_minute, per_post)]


WAYS = {
    "remote write, snappy": Way("/api/v1/write", remote_write_snappy, {"Content-Encoding": "snappy"}),
    "remote write, zstd": Way("/api/v1/write", remote_write_zstd, {"Content-Encoding": "zstd"}),
    "native": Way("/api/v1/import/native", native),
    "influx": Way("/write?precision=ms", influx),
    "csv": Way(f"/api/v1/import/csv?format={CSV_FORMAT}", csv),
    "json lines": Way("/api/v1/import", json_lines),
    "prometheus text": Way("/api/v1/import/prometheus", prometheus_text),
}
FASTEST = "remote write, snappy"
"""Within the noise its zstd is as fast: bench/README.md."""


class Fed(Struct, frozen=True, kw_only=True):
    """What feeding it took."""

    way: str
    per_post: int
    gpu_windows: int
    """Sent while the clock ran."""
    all_gpu_windows: int
    """On its disk, with the first minute."""
    sent: Sent
    first_cpu_s: float
    """Of the server for the first minute, in which all series are new."""
    server_cpu_s: float
    """To the last acknowledgement."""
    settled_cpu_s: float
    """With what it put off: writing to disk."""
    rss_mib: float
    flushed_bytes: int
    merged_bytes: int
    sent_bytes: int

    def row(self) -> str:
        """As a line of a table."""
        count = self.gpu_windows
        cells = [
            self.way,
            f"{self.per_post}",
            f"{count / self.sent.took_s:,.0f}",
            f"{count * len(METRICS) / self.sent.took_s:,.0f}",
            f"{self.sent.took_s:.1f}",
            f"{self.server_cpu_s / count * 1e6:.2f}",
            f"{self.settled_cpu_s / count * 1e6:.2f}",
            f"{self.sent.cpu_s / count * 1e6:.2f}",
            f"{self.sent.latency_ms(0.5):.1f}",
            f"{self.sent.latency_ms(0.99):.1f}",
            f"{self.sent_bytes / count:.0f}",
            f"{self.flushed_bytes / self.all_gpu_windows:.1f}",
            f"{self.merged_bytes / self.all_gpu_windows:.1f}",
            f"{self.rss_mib:.0f}",
            f"{self.first_cpu_s:.1f}",
        ]
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| way in | nodes a post | rows/s | samples/s | s | server CPU, µs/row | with flush | loader CPU, µs/row "
    "| p50, ms | p99, ms | sent, bytes/row | on disk | merged | MiB | first minute, CPU s |\n| --- |" + " ---: |" * 14
)
"""A row is a GPU window of eight metrics: eight samples."""


def feed(server: VictoriaMetrics, load: Load, per_post: int, connections: int, way: str = FASTEST) -> Fed:
    """Send all of the load and look at what it took.

    Bodies are prepared before the clock starts, and the first minute is sent before it: the server then knows all
    series, as Gigawatch knows all GPUs.
    """
    assert len(load) > 1, "the first minute is not measured"
    dealt = [lanes(WAYS[way].requests(server.port, of_minute, per_post), connections) for of_minute in load]
    queues = [[it for of_minute in dealt[1:] for it in of_minute[lane]] for lane in range(connections)]
    rows_before = server.metric("vm_rows_inserted_total")
    first_cpu_s = -server.cpu_s()
    first = send_apart(server.port, dealt[0])
    server.flush()
    first_cpu_s += server.cpu_s()
    before_s = server.cpu_s()
    sent = send_apart(server.port, queues)
    server_cpu_s = server.cpu_s() - before_s
    assert not sent.refused, sent.refusals
    assert not first.refused, first.refusals
    server.flush()
    settled_cpu_s = server.cpu_s() - before_s
    samples = load.values["energy_mj"].size * len(METRICS)
    taken = server.metric("vm_rows_inserted_total") - rows_before
    assert taken == samples, f"{taken:.0f} of {samples} samples were taken"
    rss_mib, flushed_bytes = server.rss_mib(), server.bytes_on_disk()
    server.merge()
    return Fed(
        way=way,
        per_post=per_post,
        gpu_windows=load.values["energy_mj"][1:].size,
        all_gpu_windows=load.values["energy_mj"].size,
        sent=sent,
        first_cpu_s=first_cpu_s,
        server_cpu_s=server_cpu_s,
        settled_cpu_s=settled_cpu_s,
        rss_mib=rss_mib,
        flushed_bytes=flushed_bytes,
        merged_bytes=server.bytes_on_disk(),
        sent_bytes=sum(len(it) for queue in queues for it in queue),
    )


def _address(path: str, **parameters: str | float) -> str:
    """Of a query, to be answered without the cache."""
    return f"{path}?{urlencode({**parameters, 'nocache': 1})}"


def check(server: VictoriaMetrics, load: Load) -> None:
    """That it has these values, and no others: each metric's sum over each GPU."""
    end_s = times_ms(load[len(load) - 1])[-1] / 1_000
    server.flush()
    for metric, values in load.values.items():
        query = f"sum_over_time(gpu_{metric}[{len(load)}m])"
        found = {
            (it["metric"]["hostname"], it["metric"]["uuid"]): int(float(it["value"][1]))
            for it in server.query(_address("/api/v1/query", query=query, time=end_s))
        }
        sums = values.astype(np.int64).sum(axis=(0, 2))
        expected = {
            (hostname(node), uuid): int(sums[node, gpu])
            for node in range(len(sums))
            for gpu, uuid in enumerate(uuids(node))
        }
        assert found == expected, metric


class Read(Struct, frozen=True):
    """How long a question took."""

    question: str
    answers_ms: list[float]
    """Sorted."""
    cpu_ms: float
    """Of the server, mean."""

    def row(self) -> str:
        """As a line of a table."""
        p95_ms = self.answers_ms[int(0.95 * (len(self.answers_ms) - 1) + 0.5)]
        return f"| {self.question} | {statistics.median(self.answers_ms):.0f} | {p95_ms:.0f} | {self.cpu_ms:.0f} |"


def read(server: VictoriaMetrics, load: Load, runs: int = 20) -> list[Read]:
    """Ask for the fleet's power by minute and each GPU's energy over the load's time, without the answers' cache."""
    first_s, last_s = load.start.timestamp() + 60, load.start.timestamp() + 60 * len(load)
    by_minute = f"sum(sum_over_time(gpu_energy_mj[1m])) / {60 * 1_000}"
    by_gpu = f"sum_over_time(gpu_energy_mj[{len(load)}m])"
    ask_power = _address("/api/v1/query_range", query=by_minute, start=first_s, end=last_s, step=60)
    ask_energy = _address("/api/v1/query", query=by_gpu, time=last_s)
    power = server.query(ask_power)[0]["values"]
    energies = server.query(ask_energy)
    expected_w = load.values["energy_mj"].sum(axis=(1, 2, 3), dtype=np.int64) / 60_000
    assert np.allclose([float(value) for _, value in power], expected_w), "the fleet's power is wrong"
    total = load.values["energy_mj"].sum(dtype=np.int64)
    assert sum(int(float(it["value"][1])) for it in energies) == total, "the energy is wrong"
    reads = []
    for question, paths in (
        ("fleet power by minute", [ask_power]),
        ("energy of each GPU", [ask_energy]),
        ("both, one after the other", [ask_power, ask_energy]),
    ):
        answers_ms = []
        before_s = server.cpu_s()
        for _ in range(runs):
            began_s = time.perf_counter()
            for path in paths:
                server.get(path)
            answers_ms.append((time.perf_counter() - began_s) * 1_000)
        reads.append(Read(question, sorted(answers_ms), (server.cpu_s() - before_s) * 1_000 / runs))
    return reads


def main() -> None:
    """Run and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=10, help="minutes of the fleet (default 10)")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--per-post", type=int, choices=(1, RELAY), action="append", help="nodes in a post")
    parser.add_argument("--way", choices=WAYS, action="append", help=f"default: {FASTEST}")
    parser.add_argument("--check", action="store_true", help="feed each way a little, and look for the same values")
    parser.add_argument("--read", action="store_true", help="time questions instead, over --rounds minutes")
    options = parser.parse_args()
    nodes = options.gpus // GPUS
    print(f"VictoriaMetrics {VictoriaMetrics.version()}, {os.cpu_count()} cores shared with the loader, "
          f"{options.connections} connections, {options.gpus:,} GPUs, {options.rounds} min")  # fmt: skip
    if options.check:
        load = make(2 * RELAY, 3)
        for way in WAYS:
            for per_post in (1, RELAY):
                with VictoriaMetrics() as server:
                    feed(server, load, per_post, options.connections, way)
                    check(server, load)
            print(f"{way}: the same values")
    elif options.read:
        load = make(nodes, options.rounds)
        with VictoriaMetrics() as server:
            print(HEAD)
            print(feed(server, load, RELAY, options.connections).row())
            print("\n| question | median, ms | p95, ms | server CPU, ms |\n| --- | ---: | ---: | ---: |")
            for it in read(server, load):
                print(it.row())
    else:
        print(HEAD)
        for _ in range(options.repeat):
            for way in options.way or [FASTEST]:
                for per_post in options.per_post or [1, RELAY]:
                    load = make(nodes, options.rounds)
                    with VictoriaMetrics() as server:
                        print(feed(server, load, per_post, options.connections, way).row(), flush=True)


if __name__ == "__main__":
    main()
