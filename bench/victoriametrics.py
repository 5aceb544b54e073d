"""VictoriaMetrics as a peer of the ingest bench: started on loopback with data of its own, and fed in posts.

Debian 13 has it (`apt-get install victoria-metrics`, 1.112 or newer). Of its acknowledged ways in, the Influx line
protocol is used: with eight fields a line it is the one that names a GPU's labels once for all metrics, and took the
least CPU of those measured (`python -m bench.ingest --protocols`).
"""

import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

from bench.load import GPUS, METRICS, WINDOW_S, WINDOWS, Round
from bench.loader import cpu_s
from tests.servers import free_port

PROGRAM = "victoria-metrics"


class VictoriaMetrics:
    """A running server."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="victoriametrics-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [PROGRAM, f"-storageDataPath={self._folder}", f"-httpListenAddr=127.0.0.1:{self.port}",
             "-retentionPeriod=10y", "-loggerLevel=ERROR"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            with suppress(OSError):
                self._get("/health")
                break
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU time so far."""
        return cpu_s([self.pid])

    def version(self) -> str:
        """As it says itself."""
        said = subprocess.run([PROGRAM, "-version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"\d+\.\d+\.\d+", said)
        return found[0] if found else said.strip()

    def settle(self) -> None:
        """Write out and merge all that it holds."""
        self._get("/internal/force_flush")
        self._get("/internal/force_merge")
        time.sleep(5)

    def bytes_on_disk(self) -> int:
        """Of data and index."""
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())

    def query_range(self, query: str, start_s: float, stop_s: float, step_s: int) -> int:
        """Run a query; the number of points in its answer."""
        address = f"/api/v1/query_range?query={urllib.request.quote(query)}&start={start_s}&end={stop_s}&step={step_s}"
        found = json.loads(self._get(address))
        return sum(len(series["values"]) for series in found["data"]["result"])

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=120) as answer:
            body: bytes = answer.read()
            return body


def labels(node: int, gpu: int) -> str:
    """What a GPU is called, as its exporters call it."""
    return f"gpu={gpu},uuid=GPU-{node:08x}-{gpu},hostname=node-{node:05d},model=H100"


def influx_bodies(of_minute: Round, per_post: int) -> list[bytes]:
    """Bodies of one minute, each with so many nodes."""
    columns = [of_minute.values[name] for name in METRICS]
    nodes = len(columns[0])
    first_s = int(of_minute.start.timestamp())
    times = [f"{first_s + window * WINDOW_S}000000000" for window in range(WINDOWS)]
    lines = []
    for node in range(nodes):
        rows = [column[node].tolist() for column in columns]
        for gpu in range(GPUS):
            head = f"gpu,{labels(node, gpu)} "
            for window in range(WINDOWS):
                fields = ",".join(f"{name}={values[window][gpu]}" for name, values in zip(METRICS, rows, strict=True))
                lines.append(f"{head}{fields} {times[window]}")
    size = per_post * WINDOWS * GPUS
    return ["\n".join(lines[place : place + size]).encode() for place in range(0, len(lines), size)]


def json_bodies(of_minute: Round, per_post: int) -> list[bytes]:
    """The same as JSON lines, a line for each series."""
    columns = [of_minute.values[name] for name in METRICS]
    first_ms = int(of_minute.start.timestamp()) * 1_000
    times = [first_ms + window * WINDOW_S * 1_000 for window in range(WINDOWS)]
    bodies, lines = [], []
    for node in range(len(columns[0])):
        for gpu in range(GPUS):
            named = {"gpu": str(gpu), "uuid": f"GPU-{node:08x}-{gpu}", "hostname": f"node-{node:05d}", "model": "H100"}
            for name, column in zip(METRICS, columns, strict=True):
                metric = {"__name__": f"gpu_{name}", **named}
                line = {"metric": metric, "values": column[node, :, gpu].tolist(), "timestamps": times}
                lines.append(json.dumps(line, separators=(",", ":")))
        if (node + 1) % per_post == 0 or node + 1 == len(columns[0]):
            bodies.append("\n".join(lines).encode())
            lines = []
    return bodies


WAYS = {"influx": ("/write", influx_bodies), "json": ("/api/v1/import", json_bodies)}
