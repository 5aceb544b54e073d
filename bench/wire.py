"""What the formats of a batch cost that were considered: python -m bench.wire.

The same windows of a hundred simulated nodes, eight GPUs each and a window of ten seconds, in each format: bytes,
plain and compressed, and the processor's time to write and to read them, by the API's own code (api.decode and
api.rows), until numpy has their columns, checked.
"""

import argparse
import gc
import gzip
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import msgspec
from msgspec import Struct

from api.decode import Parcel, decode
from api.rows import gpu_rows, node_rows
from collector.simulated import fleet
from collector.simulated.faults import Faults
from collector.simulated.machine import Parcel as Measured
from collector.simulated.machine import SimulatedNode
from gigawatch.wire import BATCHES, JSON, MSGPACK, Batch, encode, pack, pack_nodes
from tests.merged import together

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GPUS = 8
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AGENTS_LEVEL = 3
"""Of zstd, as agents compress."""


class Format(Struct, frozen=True):
    """One way to write the nodes' windows, in one body for each node or in one for all."""

    name: str
    content_type: str
    write: Callable[[list[Measured], datetime], list[bytes]]


def head(place: int, now: datetime) -> Batch:
    """Of a node's batch."""
    return Batch(machine_id=f"node-{place:05d}", sent_at=now, spool_id=f"spool-{place:05d}", seq=place, oldest_seq=0)


def objects(encoder: Callable[[object], bytes]) -> Callable[[list[Measured], datetime], list[bytes]]:
    """A list of windows by name, as people write them."""

    def write(measured: list[Measured], now: datetime) -> list[bytes]:
        return [
            encoder(
                {
                    **msgspec.to_builtins(head(place, now), builtin_types=(datetime,)),
                    "gpu_windows": of_node.gpu_windows,
                    "node_windows": of_node.node_windows,
                }
            )
            for place, of_node in enumerate(measured)
        ]

    return write


def packed(measured: list[Measured], now: datetime) -> list[bytes]:
    """A column of integers for each metric: what agents send."""
    return [
        encode(head(place, now), gpu_windows=of_node.gpu_windows, node_windows=of_node.node_windows)
        for place, of_node in enumerate(measured)
    ]


def merged(measured: list[Measured], now: datetime) -> list[bytes]:
    """The columns of all nodes end to end: what relays send."""
    batches = [
        msgspec.structs.replace(
            head(place, now),
            packed_gpu_windows=pack(of_node.gpu_windows),
            packed_node_windows=pack_nodes(of_node.node_windows),
        )
        for place, of_node in enumerate(measured)
    ]
    return [together(batches)]


FORMATS = (
    Format("JSON, list of windows", JSON, objects(msgspec.json.encode)),
    Format("msgpack, list of windows", MSGPACK, objects(msgspec.msgpack.encode)),
    Format("msgpack, packed columns (agents)", MSGPACK, packed),
    Format("msgpack, packed columns of all nodes (relays)", BATCHES, merged),
)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: gzip.compress(body, 6),
    "zstd": lambda body: zstd.compress(body, AGENTS_LEVEL),
}


def read(bodies: list[bytes], content_type: str, now: datetime) -> int:
    """Until columns are checked, as the API does; how many GPU windows there are."""
    parcels = [it for body in bodies for it in decode(body, content_type, now, 1e9) if isinstance(it, Parcel)]
    gpus, nodes = gpu_rows(parcels, EARLIEST), node_rows(parcels, EARLIEST)
    assert nodes.rows.count == len(parcels)
    assert not any(parcel.refused for parcel in parcels)
    return gpus.rows.count


def cpu_us(work: Callable[[], object], times: int, rows: int) -> float:
    """The processor's time for a row, the least of several runs."""
    marks = [time.process_time()]
    for _ in range(times):
        work()
        marks.append(time.process_time())
    return min(after - before for before, after in pairwise(marks)) / rows * 1e6


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    # As the API has it.
    gc.set_threshold(50_000)
    now = datetime.now(UTC)
    start_s = round(now.timestamp()) // 60 * 60 - 60
    nodes = fleet.of_nodes(options.nodes, seed=1, gpus_per_node=GPUS)
    measured = [SimulatedNode(node, Faults(now_s=0), 1).window(start_s, 10, 1) for node in nodes]
    present = [it for it in measured if it is not None]
    rows = sum(len(it.gpu_windows) for it in present)
    print("| format | bytes | gzip | zstd | write, µs | read, µs | zstd and back, µs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for it in FORMATS:
        bodies = it.write(present, now)
        assert read(bodies, it.content_type, now) == rows
        sizes = [sum(map(len, bodies))]
        sizes += [sum(len(compress(body)) for body in bodies) for compress in COMPRESSIONS.values()]
        write_us = cpu_us(lambda it=it: it.write(present, now), options.times, rows)
        read_us = cpu_us(lambda it=it, bodies=bodies: read(bodies, it.content_type, now), options.times, rows)
        there_us = cpu_us(
            lambda bodies=bodies: [zstd.decompress(zstd.compress(body, AGENTS_LEVEL)) for body in bodies],
            options.times, rows,
        )  # fmt: skip
        shown = " | ".join(f"{size / rows:,.0f}" for size in sizes)
        print(f"| {it.name} | {shown} | {write_us:.2f} | {read_us:.2f} | {there_us:.2f} |")
    print(
        f"For a GPU window, with its share of its node's; {options.nodes} nodes with {GPUS} GPUs and a window each;"
        f" Python {platform.python_version()}; {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
