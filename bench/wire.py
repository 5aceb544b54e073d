"""What the formats of a batch cost that were considered: python -m bench.wire.

The same windows of a hundred simulated nodes, eight GPUs each and a window of ten seconds, in each format: bytes,
plain and compressed, and the processor's time to write and to read them until numpy has their columns, checked. What
the API accepts it reads itself (api.decode and api.rows); what it does not, msgspec does by the same types and bounds.
"""

import argparse
import gc
import gzip
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct

from api.decode import Parcel, decode
from api.rows import gpu_rows, node_rows
from collector.simulated import fleet
from collector.simulated.faults import Faults
from collector.simulated.machine import Parcel as Measured
from collector.simulated.machine import SimulatedNode
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import BATCHES, JSON, MSGPACK, Batch, Column, columns, encode, node_columns, pack, pack_nodes
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
    write: Callable[[list[Measured], datetime], list[bytes]]
    read: Callable[[list[bytes], datetime], int]
    """Until columns are checked; how many GPU windows there are."""
    accepted: bool = True
    """By the API."""


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


def column_lists(measured: list[Measured], now: datetime) -> list[bytes]:
    """A list for each metric, in JSON."""
    return [
        msgspec.json.encode(
            {
                **msgspec.to_builtins(head(place, now), builtin_types=(datetime,)),
                "gpu_windows": {
                    "gpu_uuid": [it.gpu_uuid for it in of_node.gpu_windows],
                    **_lists(of_node.gpu_windows, columns()),
                },
                "node_windows": {
                    "gpu_power_mw": [it.gpu_power_mw for it in of_node.node_windows],
                    **_lists(of_node.node_windows, node_columns()),
                },
            }
        )
        for place, of_node in enumerate(measured)
    ]


def _lists(windows: Sequence[Any], kinds: Sequence[Column]) -> dict[str, list[int | None]]:
    """What is absent in all rows is left out, as in packed columns."""
    lists: dict[str, list[int | None]] = {}
    for it in kinds:
        values = [getattr(window, it.name) for window in windows]
        if it.name == "start":
            values = [round(value.timestamp() * MILLISECONDS_PER_SECOND) for value in values]
        if any(value is not None for value in values):
            lists[it.name] = values
    return lists


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


def array(measured: list[Measured], now: datetime) -> list[bytes]:
    """Agents' batches one after another: what relays would send that look into none."""
    return [msgspec.msgpack.encode([Raw(body) for body in packed(measured, now)])]


def by_api(content_type: str) -> Callable[[list[bytes], datetime], int]:
    """Read as the API does."""

    def read(bodies: list[bytes], now: datetime) -> int:
        return _checked([it for body in bodies for it in decode(body, content_type, now, 1e9)])

    return read


def read_array(bodies: list[bytes], now: datetime) -> int:
    """Each batch as the API does."""
    batches = [raw for body in bodies for raw in msgspec.msgpack.decode(body, type=list[Raw])]
    return _checked([it for raw in batches for it in decode(bytes(raw), MSGPACK, now, 1e9)])


def _checked(parcels: Sequence[object]) -> int:
    good = [it for it in parcels if isinstance(it, Parcel)]
    assert len(good) == len(parcels)
    gpus, nodes = gpu_rows(good, EARLIEST), node_rows(good, EARLIEST)
    assert nodes.rows.count == len(good)
    assert not any(parcel.refused for parcel in good)
    return gpus.rows.count


def _column_type(kinds: Sequence[Column], **more: Any) -> type[Struct]:
    fields = [(it.name, list[Annotated[int, Meta(ge=it.lower, le=it.upper)] | None] | None, None) for it in kinds]
    return msgspec.defstruct("Columns", [*more.items(), *fields], kw_only=True, forbid_unknown_fields=True)


_GPU_COLUMNS = _column_type(columns(), gpu_uuid=list[str])
_NODE_COLUMNS = _column_type(node_columns(), gpu_power_mw=list[list[int | None]])
_COLUMN_BATCH = msgspec.defstruct(
    "ColumnBatch",
    [
        *((it.name, it.type, it.default) for it in msgspec.structs.fields(Batch)
          if it.name in {"spool_id", "seq", "oldest_seq"}),
        ("machine_id", str), ("sent_at", datetime), ("gpu_windows", _GPU_COLUMNS), ("node_windows", _NODE_COLUMNS),
    ],
    kw_only=True, forbid_unknown_fields=True,
)  # fmt: skip
_column_decoder = msgspec.json.Decoder(_COLUMN_BATCH)


def read_column_lists(bodies: list[bytes], _: datetime) -> int:
    """Lists with their bounds, and an array of each column of all."""
    batches: list[Any] = [_column_decoder.decode(body) for body in bodies]
    for name, kinds in (("gpu_windows", columns()), ("node_windows", node_columns())):
        for it in kinds:
            values: list[int] = []
            for batch in batches:
                windows = getattr(batch, name)
                found = getattr(windows, it.name)
                rows = len(windows.start)
                if found is None:
                    values += [it.absent] * rows
                else:
                    assert len(found) == rows
                    values += [it.absent if value is None else value for value in found]
            np.array(values, it.typecode)
    assert all(len(batch.node_windows.start) == 1 for batch in batches)
    return sum(len(batch.gpu_windows.start) for batch in batches)


FORMATS = (
    Format("JSON, list of windows", objects(msgspec.json.encode), by_api(JSON)),
    Format("JSON, a list for each column", column_lists, read_column_lists, accepted=False),
    Format("msgpack, list of windows", objects(msgspec.msgpack.encode), by_api(MSGPACK)),
    Format("msgpack, packed columns (agents)", packed, by_api(MSGPACK)),
    Format("msgpack, the same one after another", array, read_array, accepted=False),
    Format("msgpack, packed columns of all nodes (relays)", merged, by_api(BATCHES)),
)
COMPRESSIONS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (partial(gzip.compress, compresslevel=6), gzip.decompress),
    "zstd": (partial(zstd.compress, level=AGENTS_LEVEL), zstd.decompress),
}
"""There and back."""


def each(work: Callable[[bytes], bytes], bodies: list[bytes]) -> list[bytes]:
    """What it makes of them."""
    return [work(body) for body in bodies]


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
    print("| format | bytes | gzip | zstd | write, µs | read, µs | gzip, µs | back, µs | zstd, µs | back, µs |")
    print("| --- |" + " ---: |" * 9)
    for it in FORMATS:
        bodies = it.write(present, now)
        assert it.read(bodies, now) == rows
        sizes, times_us = [sum(map(len, bodies))], []
        for there, back in COMPRESSIONS.values():
            smaller = each(there, bodies)
            assert each(back, smaller) == bodies
            sizes.append(sum(map(len, smaller)))
            times_us.append(cpu_us(partial(each, there, bodies), options.times, rows))
            times_us.append(cpu_us(partial(each, back, smaller), options.times, rows))
        write_us = cpu_us(partial(it.write, present, now), options.times, rows)
        read_us = cpu_us(partial(it.read, bodies, now), options.times, rows)
        shown = [f"{size / rows:,.0f}" for size in sizes] + [f"{us:.2f}" for us in (write_us, read_us, *times_us)]
        print(f"| {it.name}{'' if it.accepted else ', not accepted'} | {' | '.join(shown)} |", flush=True)
    print(
        f"For a GPU window, with its share of its node's; {options.nodes} nodes with {GPUS} GPUs and a window each;"
        f" Python {platform.python_version()}; {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
