"""Windows in the format of PostgreSQL's binary COPY, without any Python per row.

A numpy structured array with big-endian fields and a length before each value is that format. A NULL has the
length -1 and no bytes, so that rows of unlike NULLs have unlike widths: rows are grouped by the shape of their
columns, and each group is one array.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from api.rows import DTYPES, NodeRows, Rows
from gigawatch import schema
from gigawatch.records import INT4_MAX
from gigawatch.wire import ABSENT_TICK, Column, columns, node_columns

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
EPOCH_MS = 946_684_800_000
"""2000-01-01 UTC, from which PostgreSQL counts, in milliseconds since 1970."""
BIG_ENDIAN: dict[str, np.dtype[Any]] = {"h": np.dtype(">i2"), "i": np.dtype(">i4"), "q": np.dtype(">i8")}
ELEMENT_OIDS = {"h": 21, "i": 23, "q": 20}
GPU_COLUMNS = tuple(column.name for column in schema.gpu_window.columns)
NODE_COLUMNS = tuple(column.name for column in schema.node_window.columns)
BOOKKEEPING = ("covered_ms", "ticks_taken", "ticks_expected", "energy_method")
"""Stored once for a row where all its GPUs are alike in them, as they nearly always are; else in column `each`."""
OFTEN_ALIKE = ("power_limit_mw", "mem_clock_mhz", "clock_event_reasons", "fan_pct", "assignment_id")
"""Stored as an array of one element where all GPUs of the row are alike."""
MOST_CELLS = 500_000
"""Slots that are laid out at a time: about 100 bytes each."""
KINDS: Mapping[str, Column] = {
    **{column.name: column for column in columns()},
    # It travels beside a GPU's UUID, and becomes a number in the store.
    "assignment_id": Column("assignment_id", "i", 1, INT4_MAX, required=False),
}
ABSENT = {name: kind.absent for name, kind in KINDS.items()}
_Matrices = dict[str, NDArray[Any]]
METRICS = tuple(name for name in GPU_COLUMNS if name in KINDS and name not in BOOKKEEPING)


class NodeGrid(Struct, frozen=True):
    """GPU windows as rows of gpu_window: for each node and start one row with a place for each slot."""

    node_id: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    slots: NDArray[np.int64]
    first: NDArray[np.int64]
    """Where the row's slots begin in the arrays below."""
    present: NDArray[np.bool_]
    """Whether the slot has a window."""
    columns: dict[str, NDArray[Any]]
    """By slot; absent where the slot has no window. What no slot has a value of may be missing."""

    def matrices(self, slots: int) -> "_Matrices":
        """The columns by row and slot, where all rows have so many slots."""
        return {name: values.reshape(-1, slots) for name, values in self.columns.items()}

    def column(self, name: str) -> NDArray[Any]:
        """The column by slot, even where no slot has a value."""
        if name in self.columns:
            return self.columns[name]
        return np.full(len(self.present), ABSENT[name], DTYPES[KINDS[name].typecode])


def grids(
    rows: Rows, node_id: NDArray[np.int32], slot: NDArray[np.int16], most_cells: int = MOST_CELLS
) -> Iterator[NodeGrid]:
    """The windows, row by row of the table, in pieces of bounded size.

    Args:
        rows: windows; at most one for each node, start and slot.
        node_id: of each window.
        slot: of each window, from 1.
        most_cells: slots in a piece; a single row may have more.
    """
    if not rows.count:
        return
    start_ms = rows.columns["start"]
    order = np.lexsort((start_ms, node_id))
    node_id, start_ms, slot = node_id[order], start_ms[order], slot[order]
    changes = (node_id[1:] != node_id[:-1]) | (start_ms[1:] != start_ms[:-1])
    begins = np.flatnonzero(np.concatenate(([True], changes)))
    ends = np.concatenate((begins[1:], [len(node_id)]))
    slots = np.maximum.reduceat(slot, begins).astype(np.int64)
    # What one GPU in a far slot would take must not be multiplied by all rows at once.
    piece = np.cumsum(slots) // most_cells
    for number in np.unique(piece):
        chosen = np.flatnonzero(piece == number)
        windows = slice(begins[chosen[0]], ends[chosen[-1]])
        sizes = slots[chosen]
        first = np.cumsum(sizes) - sizes
        place = np.repeat(first, ends[chosen] - begins[chosen]) + slot[windows] - 1
        present = np.zeros(int(sizes.sum()), bool)
        present[place] = True
        dense = {}
        for name, of_rows in rows.columns.items():
            if name != "start":
                values = np.full(len(present), ABSENT[name], of_rows.dtype)
                values[place] = of_rows[order[windows]]
                dense[name] = values
        yield NodeGrid(node_id[begins[chosen]], start_ms[begins[chosen]], sizes, first, present, dense)


def gpu_windows(grid: NodeGrid) -> Iterator[bytes]:
    """The rows for `COPY gigawatch.gpu_window (GPU_COLUMNS) FROM STDIN (FORMAT BINARY)`, without head and trailer."""
    sizes = np.unique(grid.slots)
    for slots in sizes.tolist():
        if len(sizes) == 1:
            # As it nearly always is: nothing needs to be picked out.
            yield from _gpu_windows(grid.node_id, grid.start_ms, grid.present.reshape(-1, slots), grid.matrices(slots))
            continue
        chosen = np.flatnonzero(grid.slots == slots)
        places = grid.first[chosen][:, None] + np.arange(slots)
        matrices = {name: values[places] for name, values in grid.columns.items()}
        yield from _gpu_windows(grid.node_id[chosen], grid.start_ms[chosen], grid.present[places], matrices)


def _gpu_windows(
    node_id: NDArray[np.int32], start_ms: NDArray[np.int64], present: NDArray[np.bool_], matrices: _Matrices
) -> Iterator[bytes]:
    """Rows with the same number of slots, each with its node and start.

    Args:
        node_id: of each row.
        start_ms: of each row.
        present: by row and slot.
        matrices: of those columns that there are, by row and slot.
    """
    slots = present.shape[1]
    # No energy, and so no method, is written as 0.
    book = {
        name: np.where(present, matrices[name], 0).clip(0) if name in matrices else np.zeros(present.shape, np.int32)
        for name in BOOKKEEPING
    }
    absents = {name: matrices[name] == ABSENT[name] for name in METRICS if name in matrices}
    alike = {name: _alike(matrices[name]) for name in OFTEN_ALIKE if name in matrices}
    whole = np.asarray(present.all(axis=1))
    for values in book.values():
        whole &= (values == values[:, :1]).all(axis=1)
    # Rows of one shape have their values and their NULLs in the same places.
    marks = [~whole[:, None], *(it[:, None] for it in alike.values())]
    marks += [absent for absent in absents.values() if absent.any()]
    for sample, members in _groups(np.concatenate(marks, axis=1)):
        block = _Block(len(start_ms[members]), len(GPU_COLUMNS))
        block.scalar("time", "q", (start_ms[members] - EPOCH_MS) * 1_000)
        block.scalar("node_id", "i", node_id[members])
        for name, kind in _BOOK_KINDS.items():
            block.scalar(name, kind, slots if name == "slots" else book[name][members].max(axis=1))
        if whole[sample]:
            block.null("each")
        else:
            block.array("each", "i", np.stack([book[name][members] for name in BOOKKEEPING], axis=2))
        for name in METRICS:
            if name not in matrices or absents[name][sample].all():
                block.null(name)
                continue
            values = matrices[name][members]
            if name in alike and alike[name][sample]:
                block.array(name, KINDS[name].typecode, values[:, :1])
            else:
                block.array(name, KINDS[name].typecode, values, absents[name][sample])
        yield block.to_bytes()


_BOOK_KINDS = {"covered_ms": "i", "slots": "h", "ticks_taken": "h", "ticks_expected": "h", "energy_method": "h"}
"""Columns of gpu_window between node_id and each, in order."""


def _alike(matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows hold one value alone, in more than one slot."""
    return np.asarray((matrix == matrix[:, :1]).all(axis=1) & (matrix.shape[1] > 1))


def _groups(marks: NDArray[np.bool_]) -> list[tuple[int, Any]]:
    """Rows that are marked alike: the place of one, and where all are."""
    if (marks == marks[0]).all():
        return [(0, slice(None))]
    packed = np.ascontiguousarray(np.packbits(marks, axis=1))
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(keys[order][1:] != keys[order][:-1]) + 1
    return [(int(members[0]), members) for members in np.split(order, ends)]


def node_windows(rows: NodeRows, node_id: NDArray[np.int32]) -> Iterator[bytes]:
    """The rows for `COPY gigawatch.node_window (NODE_COLUMNS) FROM STDIN (FORMAT BINARY)`, without head and trailer.

    Args:
        rows: what to store.
        node_id: of each row.
    """
    kinds = {column.name: column for column in node_columns()}
    found = rows.rows.columns
    values: dict[str, Any] = {
        **found,
        "time": (found["start"] - EPOCH_MS) * 1_000,
        "node_id": node_id,
        # Absent where nothing was counted.
        "rejected_readings": np.maximum(found.get("rejected_readings", np.zeros(rows.rows.count, np.int32)), 0),
    }
    widths = {name: kinds[name].typecode for name in NODE_COLUMNS if name in kinds} | {"time": "q", "node_id": "i"}
    absents = {
        name: values[name] == kinds[name].absent for name in NODE_COLUMNS if name in found and not kinds[name].required
    }
    longest = int(rows.ticks.max(initial=0))
    places = rows.first_tick[:, None] + np.arange(longest)
    within = np.arange(longest) < rows.ticks[:, None]
    missed = np.asarray(within & (rows.gpu_power_mw[np.where(within, places, 0)] == ABSENT_TICK))
    marks = [within, *(absent[:, None] for absent in absents.values())]
    for sample, members in _groups(np.concatenate([*marks, missed] if missed.any() else marks, axis=1)):
        block = _Block(len(node_id[members]), len(NODE_COLUMNS))
        for name in NODE_COLUMNS:
            if name == "gpu_power_mw":
                ticks = int(rows.ticks[sample])
                block.array(name, "i", rows.gpu_power_mw[places[members, :ticks]], missed[sample, :ticks])
            elif name not in values or (name in absents and absents[name][sample]):
                block.null(name)
            else:
                block.scalar(name, widths[name], values[name][members])
        yield block.to_bytes()


class _Block:
    """Rows of one shape."""

    def __init__(self, count: int, fields: int) -> None:
        self._count = count
        self._fields: list[tuple[str, Any]] = [("fields", ">i2")]
        self._values: list[tuple[str, Any]] = [("fields", fields)]

    def null(self, name: str) -> None:
        """A NULL in each row."""
        self._add(f"{name}_length", ">i4", -1)

    def scalar(self, name: str, kind: str, values: NDArray[Any]) -> None:
        """A number in each row."""
        width = BIG_ENDIAN[kind]
        self._add(f"{name}_length", ">i4", width.itemsize)
        self._add(name, width, values)

    def array(self, name: str, kind: str, values: NDArray[Any], absent: NDArray[np.bool_] | None = None) -> None:
        """An array in each row; the elements that are absent are so in all rows."""
        width = BIG_ENDIAN[kind]
        shape: Sequence[int] = values.shape[1:]
        size = int(np.prod(shape))
        missing = 0 if absent is None else int(np.count_nonzero(absent))
        empty = size == 0
        dimensions = 0 if empty else len(shape)
        length = 12 + 8 * dimensions + 4 * size + width.itemsize * (size - missing)
        self._add(f"{name}_length", ">i4", length)
        head = [dimensions, 1 if missing else 0, ELEMENT_OIDS[kind]]
        if not empty:
            for extent in shape:
                head += [extent, 1]
        self._add(f"{name}_head", np.dtype((">i4", (len(head),))), head)
        if empty:
            return
        flat = values.reshape(len(values), size)
        if not missing:
            element = np.dtype([("length", ">i4"), ("value", width)])
            elements = np.empty((self._count, size), element)
            elements["length"] = width.itemsize
            elements["value"] = flat
            self._add(f"{name}_elements", np.dtype((element, (size,))), elements)
            return
        assert absent is not None
        for place in range(size):
            self._add(f"{name}_{place}_length", ">i4", -1 if absent[place] else width.itemsize)
            if not absent[place]:
                self._add(f"{name}_{place}", width, flat[:, place])

    def _add(self, name: str, kind: Any, values: Any) -> None:
        self._fields.append((name, kind))
        self._values.append((name, values))

    def to_bytes(self) -> bytes:
        """The rows as COPY takes them."""
        block = np.empty(self._count, np.dtype(self._fields))
        for name, values in self._values:
            block[name] = values
        return block.tobytes()
