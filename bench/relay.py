"""How many agents' posts a relay takes, on this machine: python -m bench.relay.

The relay is the real one, on a real disk; the server above it answers by the contract and stores nothing. Agents are
imagined by connections that post one batch of 8 GPUs after the other, each with its own numbers, as fast as they are
answered. CPU time is the kernel's, from /proc.
"""

import argparse
import http.client
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from bench.agent import cpu_s, rss_mib
from collector.client import zstd
from gigawatch.records import EnergyMethod, GpuWindow, NodeWindow
from gigawatch.wire import MSGPACK, Batch, Outcome, Receipt, encode
from tests.relays import Upstream, running_relay

GPUS = 8
AGENTS = 1_000
POSTERS = 2
"""Processes that post."""


class Swallowing(Upstream):
    """An upstream that stores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def take(self, batches: list[Batch]) -> list[Outcome]:
        self.requests.append(len(batches))
        self.taken += len(batches)
        return [Outcome(status=200, receipt=Receipt(server_time=datetime.now(UTC)))] * len(batches)


def template(node: int) -> Batch:
    """What an agent sends of 10 s."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=20)
    start = start.replace(second=start.second // 10 * 10)
    windows = [
        GpuWindow(
            gpu_uuid=f"GPU-{node:08d}-0000-0000-0000-{gpu:012d}", start=start, covered_ms=10_000, ticks_taken=10,
            ticks_expected=10, energy_mj=5_123_456 + gpu, energy_method=EnergyMethod.COUNTER, power_mean_mw=512_345,
            power_min_mw=401_234, power_max_mw=601_234, power_limit_mw=700_000, gpu_util_pm=987, mem_util_pm=456,
            gpu_temp_max_c=66, mem_temp_max_c=77, sm_clock_mhz=1_755, mem_clock_mhz=2_619, mem_used_mib=70_123,
            clock_event_reasons=4, pcie_tx_kib=123_456, pcie_rx_kib=234_567,
        )
        for gpu in range(GPUS)
    ]  # fmt: skip
    window = NodeWindow(
        start=start, covered_ms=10_000, ticks_taken=10, ticks_expected=10, gpus_read=8, gpus_expected=8, tick_ms=1_000,
        gpu_power_mw=tuple(4_000_000 + tick for tick in range(10)),
    )  # fmt: skip
    body = encode(
        Batch(machine_id=f"node-{node}", sent_at=start, spool_id=f"spool-{node}"), gpu_windows=windows,
        node_windows=[window],
    )  # fmt: skip
    return msgspec.msgpack.decode(body, type=Batch)


def post(port: int, connections: int, first: int, agents: int, seconds: float) -> None:
    """Post in the name of so many agents over so many connections; prints the posts and their latencies."""
    templates = [template(first + node) for node in range(agents)]
    latencies: list[float] = []
    stop_s = time.monotonic() + seconds

    def work(place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Authorization": "Bearer agent-secret", "Content-Type": MSGPACK, "Content-Encoding": "zstd"}
        mine = templates[place::connections]
        seq = 0
        while time.monotonic() < stop_s:
            for batch in mine:
                whole = msgspec.structs.replace(batch, sent_at=datetime.now(UTC), seq=seq, oldest_seq=seq)
                body = zstd.compress(msgspec.msgpack.encode(whole), 3)
                began_s = time.monotonic()
                connection.request("POST", "/api/v1/batches", body, headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, answer.status
                latencies.append(time.monotonic() - began_s)
            seq += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(len(latencies), statistics.median(latencies), statistics.quantiles(latencies, n=100)[98])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--post", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.post:
        port, connections, first = options.post
        post(port, connections, first, AGENTS // POSTERS, options.seconds)
        return
    upstream = Swallowing()
    upstream.start()
    with tempfile.TemporaryDirectory() as folder, running_relay(Path(folder), upstream.url) as relay:
        assert relay.process is not None
        before, began_s = cpu_s(relay.process.pid), time.monotonic()
        posters = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.relay", "--seconds", str(options.seconds), "--post", str(relay.port),
                 str(options.connections // POSTERS), str(place * AGENTS // POSTERS)],
                stdout=subprocess.PIPE, text=True,
            )
            for place in range(POSTERS)
        ]  # fmt: skip
        told = [poster.communicate()[0].split() for poster in posters]
        wall_s, used_s = time.monotonic() - began_s, cpu_s(relay.process.pid) - before
        waiting = relay.figures()["batches_waiting"]
        posts = sum(int(it[0]) for it in told)
        print(f"{platform.machine()}, {os.cpu_count()} cores, {AGENTS} agents, {options.connections} connections")
        print(
            f"{posts / options.seconds:.0f} posts/s; relay {100 * used_s / wall_s:.0f} % of a core,"
            f" so {posts / used_s:.0f} posts per second of CPU; {rss_mib(relay.process.pid):.0f} MiB"
        )
        print(f"latency {1000 * float(told[0][1]):.1f} ms at the median, {1000 * float(told[0][2]):.1f} ms at 99 %")
        print(f"upstream {upstream.taken} batches in {len(upstream.requests)} requests, {waiting:.0f} wait")
    upstream.stop()


if __name__ == "__main__":
    main()
