"""Takes what a relay sends apart again, as its agents' batches, and puts batches together as a relay does."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np

from gigawatch.wire import (
    Batch,
    Batches,
    PackedGpuWindows,
    PackedNodeWindows,
    columns,
    fits,
    merge,
    node_columns,
    ticks_of,
)


def together(batches: Sequence[Batch]) -> bytes:
    """The body of a relay with these batches, all of which fit."""
    bare = [msgspec.structs.replace(it, packed_gpu_windows=None, packed_node_windows=None) for it in batches]
    return merge(bare, [it.packed_gpu_windows for it in batches], [it.packed_node_windows for it in batches])


def apart(body: bytes) -> list[Batch]:
    """The batches, each with its own packed windows."""
    found = msgspec.msgpack.decode(body, type=Batches)
    batches = [msgspec.msgpack.decode(raw, type=Batch) for raw in found.batches]
    if found.gpu_windows is not None:
        assert fits(found.gpu_windows)
        rows, gpus = np.frombuffer(found.gpu_rows, "<i4").tolist(), np.frombuffer(found.gpus, "<i4").tolist()
        assert (sum(rows), sum(gpus)) == (found.gpu_windows.rows, len(found.gpu_windows.gpu_uuids))
        places = zip(_firsts(rows), rows, _firsts(gpus), gpus, strict=True)
        for number, place in enumerate(places):
            if rows[number]:
                own = _own_gpus(found.gpu_windows, *place)
                batches[number] = msgspec.structs.replace(batches[number], packed_gpu_windows=own)
    if found.node_windows is not None:
        assert fits(found.node_windows)
        rows = np.frombuffer(found.node_rows, "<i4").tolist()
        assert sum(rows) == found.node_windows.rows
        for number, (first, count) in enumerate(zip(_firsts(rows), rows, strict=True)):
            if count:
                own_node = _own_node(found.node_windows, first, count)
                batches[number] = msgspec.structs.replace(batches[number], packed_node_windows=own_node)
    return batches


def _firsts(sizes: list[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]


def _own_gpus(windows: PackedGpuWindows, first: int, rows: int, first_gpu: int, gpus: int) -> PackedGpuWindows:
    return PackedGpuWindows(
        rows=rows,
        gpu_uuids=windows.gpu_uuids[first_gpu : first_gpu + gpus],
        gpu=windows.gpu[4 * first : 4 * (first + rows)],
        columns={
            it.name: own
            for it in columns()
            if it.name in windows.columns
            and (own := _cut(windows.columns[it.name], windows.rows, first, rows)) != it.absent_rows(rows)
        },
    )


def _own_node(windows: PackedNodeWindows, first: int, rows: int) -> PackedNodeWindows:
    ticks = ticks_of(windows)
    before, own_ticks = sum(ticks[:first]), sum(ticks[first : first + rows])
    return PackedNodeWindows(
        rows=rows,
        columns={
            it.name: own
            for it in node_columns()
            if it.name in windows.columns
            and (own := _cut(windows.columns[it.name], windows.rows, first, rows)) != it.absent_rows(rows)
        },
        ticks=windows.ticks[2 * first : 2 * (first + rows)],
        gpu_power_mw=windows.gpu_power_mw[4 * before : 4 * (before + own_ticks)],
    )


def _cut(data: bytes, all_rows: int, first: int, rows: int) -> bytes:
    size = len(data) // all_rows
    return data[size * first : size * (first + rows)]
