"""Measures what the simulator itself costs: a prepared fleet against a sink that stores nothing.

    python -m bench.simulate

The sink is a process of its own that reads each request and answers at once, as a server that took it all. The
fleet hurries through a day as fast as it is let.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import socket
import subprocess
import sys
from datetime import UTC, datetime

import msgspec

from collector.simulated.traffic import zstd
from gigawatch.wire import BATCHES, Outcome, Receipt

HELLO = {"version": "0", "role": "agent", "max_clock_offset_s": 300}


class Sink(asyncio.Protocol):
    """One connection: answers each request in the length of what it announces."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._end = 0
        receipt = Receipt(gpu_windows=8, node_windows=1, server_time=datetime.now(UTC))
        self._receipt = msgspec.json.encode(receipt)
        self._outcome = msgspec.json.encode(Outcome(status=200, receipt=receipt))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        while True:
            if not self._end:
                place = self._got.find(b"\r\n\r\n")
                if place < 0:
                    return
                lines = bytes(self._got[:place]).lower().split(b"\r\n")
                self._headers = dict(line.split(b": ", 1) for line in lines[1:])
                self._body = place + 4
                self._end = self._body + int(self._headers.get(b"content-length", b"0"))
            if len(self._got) < self._end:
                return
            answer = self._answer()
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
                + answer
            )
            del self._got[: self._end]
            self._end = 0

    def _answer(self) -> bytes:
        if self._end == self._body:
            return msgspec.json.encode({**HELLO, "server_time": datetime.now(UTC)})
        if self._headers[b"content-type"].decode() != BATCHES:
            return self._receipt
        body = bytes(self._got[self._body : self._end])
        if b"content-encoding" in self._headers:
            body = zstd.ZstdDecompressor().decompress(body, max_length=OPENING_BYTES)
        # A map whose first member is the array of batches.
        batches = body[:OPENING_BYTES].partition(b"batches")[2]
        count = int.from_bytes(batches[1:3]) if batches[0] == ARRAY_16 else batches[0] & SHORT_ARRAY
        return b"[" + b",".join([self._outcome] * count) + b"]"


OPENING_BYTES = 16
ARRAY_16, SHORT_ARRAY = 0xDC, 0x0F
"""Msgpack's opening of an array of 16 items and more, and what holds the length of a shorter one."""


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", port)
    await server.serve_forever()


def _sink(port: int) -> None:
    asyncio.run(_serve(port))


def _measured(port: int, arguments: argparse.Namespace, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "gigawatch", "simulate", "--json", "--megawatts", str(arguments.megawatts), "--speed",
         "100000", "--history", "24h", "--for", f"{arguments.seconds}s", "--server-url", f"http://127.0.0.1:{port}",
         "--prepared", *options],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megawatts", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=15)
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    sink = multiprocessing.get_context("fork").Process(target=_sink, args=(port,), daemon=True)
    sink.start()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for relay_size in ("1", "100"):
        for compress in ("--no-compress", "--compress"):
            found = _measured(port, arguments, "--relay-size", relay_size, compress)
            # The sink takes introductions for windows.
            windows = found["node_windows"] - found["introduced"]
            print(
                f"--relay-size {relay_size} {compress}: {found['nodes']:,} nodes ready and introduced in"
                f" {found['introduction_took_s']:.1f} s; {windows / found['live_took_s']:,.0f} node-windows/s,"
                f" {windows / found['busy_s']:,.0f} per second of a core,"
                f" {found['sent_bytes'] / windows:,.0f} bytes each"
            )
    largest_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"greatest resident memory of a process: {largest_kib / 1_024:,.0f} MiB")
    sink.terminate()


if __name__ == "__main__":
    main()
