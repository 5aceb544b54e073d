"""How records travel: the batch, windows packed as columns, and many nodes' batches merged.

A batch is one msgpack (agents) or JSON (people) object. Agents pack windows as one little-endian
column of integers per field, where the least integer of the column's width stands for "absent": this
costs a server no Python per row. JSON carries the same windows as a list of objects. A relay puts the
columns of many batches end to end: this costs a server next to no Python per batch either.
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gigawatch.records import (
    INT2_MAX,
    INT4_MAX,
    INT8_MAX,
    MOST_SHARING,
    Assignment,
    Event,
    GpuHealth,
    GpuWindow,
    Identity,
    Inventory,
    MeterWindow,
    NodeWindow,
    ServingWindow,
    Time,
)
from gigawatch.units import MILLISECONDS_PER_SECOND

MSGPACK = "application/msgpack"
JSON = "application/json"
BATCHES = "application/vnd.gigawatch.batches+msgpack"
"""What a relay sends: Batches in msgpack."""
MAX_ROWS = 1_000_000
"""GPU windows in one batch."""

ABSENT_TICK = -(2**31)
MAX_TICKS = 6_000
"""In one node window."""

Sequence63 = Annotated[int, Meta(ge=0, le=INT8_MAX)]


class Column(Struct, frozen=True):
    """A packed column: a field of GpuWindow or NodeWindow, its bounds and its width."""

    name: str
    typecode: Literal["h", "i", "q"]
    """As in the standard module array: 2, 4 or 8 bytes, signed."""
    lower: int
    upper: int
    required: bool

    @property
    def absent(self) -> int:
        """The integer that stands for "absent" in this column."""
        return {"h": -(2**15), "i": -(2**31), "q": -(2**63)}[self.typecode]

    def absent_rows(self, rows: int) -> bytes:
        """The column of so many rows without a value."""
        size = array(self.typecode).itemsize
        return self.absent.to_bytes(size, "little", signed=True) * rows


Serving = Annotated[tuple[Assignment, ...], Meta(max_length=MOST_SHARING)]
"""What one GPU serves at the same time; mostly one deployment, or nothing."""


class PackedGpuWindows(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """GPU windows as columns. Row k is about the GPU gpu_uuids[gpu[k]], which served serves[gpu[k]] meanwhile."""

    rows: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    gpu_uuids: Annotated[list[Identity], Meta(max_length=MAX_ROWS)]
    gpu: bytes
    """Index into gpu_uuids, four bytes each, little-endian."""
    columns: dict[str, bytes]
    """By the name of a GpuWindow field; `start` is milliseconds since 1970 UTC. An absent column is absent
    in all rows."""
    serves: Annotated[list[Serving], Meta(max_length=MAX_ROWS)] = []
    """Of each of gpu_uuids, where a GPU stands once for all that it served; empty: none of them served anything."""


class PackedNodeWindows(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Windows of the batch's node as columns."""

    rows: Annotated[int, Meta(ge=0, le=MAX_ROWS)]
    columns: dict[str, bytes]
    """By the name of a NodeWindow field but gpu_power_mw, as in PackedGpuWindows."""
    ticks: bytes
    """How many ticks each row has, two bytes each, little-endian."""
    gpu_power_mw: bytes
    """The ticks of all rows, one row after the other, four bytes each; the least integer stands for "absent"."""


class Batch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an agent sends in one request, as it is before its items were looked at.

    Numbered batches (spool_id and seq) are stored exactly once. oldest_seq is the least number that the
    agent still has: the server takes the number after the last it stored, or oldest_seq where the spool's
    bound dropped some.
    """

    machine_id: Identity
    sent_at: Time
    version: Literal[1] = 1
    spool_id: Identity | None = None
    seq: Sequence63 | None = None
    oldest_seq: Sequence63 | None = None
    simulated: bool = False
    inventory: Raw | UnsetType = UNSET
    gpu_windows: list[Raw] = []
    packed_gpu_windows: PackedGpuWindows | None = None
    node_windows: list[Raw] = []
    packed_node_windows: PackedNodeWindows | None = None
    serving_windows: list[Raw] = []
    meter_windows: list[Raw] = []
    events: list[Raw] = []
    health: list[Raw] = []


class Batches(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Many nodes' batches as a relay sends them, each as its agent numbered it, their packed windows merged.

    Rows of gpu_windows and node_windows belong to the batches in order, each to as many as gpu_rows and node_rows
    say; so do the gpu_uuids, as many as gpus says, and `gpu` counts from the batch's own first. These three are four
    bytes for each batch, little-endian.
    """

    batches: list[Raw]
    gpu_rows: bytes = b""
    gpus: bytes = b""
    gpu_windows: PackedGpuWindows | None = None
    node_rows: bytes = b""
    node_windows: PackedNodeWindows | None = None


class Refusal(Struct, frozen=True, kw_only=True):
    """An item that was not stored, and why."""

    where: str
    """The path of the field in the batch, e.g. gpu_windows[3].energy_mj."""
    error: str
    remedy: str
    count: int = 1
    """How many rows were refused for this reason."""


class Receipt(Struct, frozen=True, kw_only=True):
    """The server's answer to a batch, given after the commit."""

    duplicate: bool = False
    """The batch was stored by an earlier request: nothing was written now."""
    gpu_windows: int = 0
    node_windows: int = 0
    serving_windows: int = 0
    meter_windows: int = 0
    events: int = 0
    health: int = 0
    refused: list[Refusal] = []
    next_seq: int | None = None
    server_time: datetime


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one of a relay's batches, as its agent would have been told."""

    status: int
    """As of HTTP: 200 with a receipt; 409 with expected_seq; 400 and 422 for what will never be stored."""
    receipt: Receipt | None = None
    detail: str | None = None
    code: str | None = None
    expected_seq: int | None = None


@cache
def columns() -> tuple[Column, ...]:
    """Columns of GpuWindow in the order of its fields, without gpu_uuid and serves."""
    return _columns(GpuWindow, "gpu_uuid", "serves")


@cache
def node_columns() -> tuple[Column, ...]:
    """Columns of NodeWindow in the order of its fields, without gpu_power_mw."""
    return _columns(NodeWindow, "gpu_power_mw")


def _columns(kind: type[Struct], *without: str) -> tuple[Column, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        _column(field.name, hints[field.name], required=field.required)
        for field in msgspec.structs.fields(kind)
        if field.name not in without
    )


def _column(name: str, hint: Any, *, required: bool) -> Column:
    if name == "start":
        return Column(name, "q", 946_684_800_000, 4_102_444_800_000, required)  # years 2000 to 2100
    if name == "energy_method":
        return Column(name, "h", 1, 4, required)
    bounds = next(meta for option in (hint, *get_args(hint)) for meta in get_args(option) if isinstance(meta, Meta))
    lower, upper = int(bounds.ge or 0), int(bounds.le or INT8_MAX)
    return Column(
        name,
        "h" if upper <= INT2_MAX else "i" if upper <= INT4_MAX else "q",
        lower,
        upper,
        required,
    )


def pack(windows: Sequence[GpuWindow]) -> PackedGpuWindows:
    """The windows as packed columns; columns without any value are left out."""
    keys = [(window.gpu_uuid, window.serves) for window in windows]
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return PackedGpuWindows(
        rows=len(windows),
        gpu_uuids=[uuid for uuid, _ in place],
        gpu=_little_endian(array("i", [place[key] for key in keys])),
        columns=_packed(windows, columns()),
        serves=[serves for _, serves in place] if any(serves for _, serves in place) else [],
    )


def pack_nodes(windows: Sequence[NodeWindow]) -> PackedNodeWindows:
    """The windows of one node as packed columns."""
    ticks = [ABSENT_TICK if mw is None else mw for window in windows for mw in window.gpu_power_mw]
    return PackedNodeWindows(
        rows=len(windows),
        columns=_packed(windows, node_columns()),
        ticks=_little_endian(array("h", [len(window.gpu_power_mw) for window in windows])),
        gpu_power_mw=_little_endian(array("i", ticks)),
    )


def _packed(windows: Sequence[Struct], kinds: Sequence[Column]) -> dict[str, bytes]:
    packed = {}
    for column in kinds:
        values: Iterator[Any] = (getattr(window, column.name) for window in windows)
        if column.name == "start":
            values = (round(time.timestamp() * MILLISECONDS_PER_SECOND) for time in values)
        integers = [column.absent if value is None else value for value in values]
        if any(value != column.absent for value in integers):
            packed[column.name] = _little_endian(array(column.typecode, integers))
    return packed


def encode(
    batch: Batch,
    *,
    inventory: Inventory | None = None,
    gpu_windows: Sequence[GpuWindow] = (),
    node_windows: Sequence[NodeWindow] = (),
    serving_windows: Sequence[ServingWindow] = (),
    meter_windows: Sequence[MeterWindow] = (),
    events: Sequence[Event] = (),
    health: Sequence[GpuHealth] = (),
) -> bytes:
    """The batch with these records, as msgpack."""
    raw = msgspec.msgpack.encode
    return raw(
        msgspec.structs.replace(
            batch,
            inventory=UNSET if inventory is None else Raw(raw(inventory)),
            packed_gpu_windows=pack(gpu_windows) if gpu_windows else None,
            packed_node_windows=pack_nodes(node_windows) if node_windows else None,
            serving_windows=[Raw(raw(window)) for window in serving_windows],
            meter_windows=[Raw(raw(window)) for window in meter_windows],
            events=[Raw(raw(event)) for event in events],
            health=[Raw(raw(item)) for item in health],
        )
    )


def fits(windows: PackedGpuWindows | PackedNodeWindows) -> bool:
    """Whether what must be there is, all columns are known, and each is as long as there are rows."""
    rows, found = windows.rows, windows.columns
    if isinstance(windows, PackedGpuWindows):
        sizes, required = _sizes(columns())
        whole = len(windows.gpu) == 4 * rows and len(windows.serves) in {0, len(windows.gpu_uuids)}
    else:
        sizes, required = _sizes(node_columns())
        whole = len(windows.ticks) == 2 * rows and _ticks_fit(windows)
    return (
        whole
        and found.keys() <= sizes.keys()
        and (required <= found.keys() or not rows)
        and all(len(data) == sizes[name] * rows for name, data in found.items())
    )


def _ticks_fit(windows: PackedNodeWindows) -> bool:
    ticks = ticks_of(windows)
    least, most = min(ticks, default=0), max(ticks, default=0)
    return least >= 0 and most <= MAX_TICKS and 4 * sum(ticks) == len(windows.gpu_power_mw)


@cache
def _sizes(kinds: tuple[Column, ...]) -> tuple[dict[str, int], frozenset[str]]:
    """Bytes of a value, by column, and which columns are required."""
    sizes = {column.name: array(column.typecode).itemsize for column in kinds}
    return sizes, frozenset(column.name for column in kinds if column.required)


def ticks_of(windows: PackedNodeWindows) -> "array[int]":
    """How many ticks each row has."""
    ticks = array("h", windows.ticks)
    if sys.byteorder == "big":
        ticks.byteswap()
    return ticks


def merge(
    batches: Sequence[Batch | Raw],
    gpu_windows: Sequence[PackedGpuWindows | None],
    node_windows: Sequence[PackedNodeWindows | None],
) -> bytes:
    """Batches, as msgpack.

    Args:
        batches: without the windows below.
        gpu_windows: of each batch, which `fits`.
        node_windows: of each batch, likewise.
    """
    gpus = [it for it in gpu_windows if it is not None]
    nodes = [it for it in node_windows if it is not None]
    merged: dict[str, Any] = {"batches": batches}
    if gpus:
        merged["gpu_rows"] = _counts(0 if it is None else it.rows for it in gpu_windows)
        merged["gpus"] = _counts(0 if it is None else len(it.gpu_uuids) for it in gpu_windows)
        merged["gpu_windows"] = PackedGpuWindows(
            rows=sum(it.rows for it in gpus),
            gpu_uuids=[uuid for it in gpus for uuid in it.gpu_uuids],
            gpu=b"".join([it.gpu for it in gpus]),
            columns=_joined(gpus, columns()),
            serves=[serves for it in gpus for serves in it.serves or [()] * len(it.gpu_uuids)]
            if any(it.serves for it in gpus)
            else [],
        )
    if nodes:
        merged["node_rows"] = _counts(0 if it is None else it.rows for it in node_windows)
        merged["node_windows"] = PackedNodeWindows(
            rows=sum(it.rows for it in nodes),
            columns=_joined(nodes, node_columns()),
            ticks=b"".join([it.ticks for it in nodes]),
            gpu_power_mw=b"".join([it.gpu_power_mw for it in nodes]),
        )
    return msgspec.msgpack.encode(merged)


def _joined(parts: Sequence[PackedGpuWindows | PackedNodeWindows], kinds: Sequence[Column]) -> dict[str, bytes]:
    """The parts' columns end to end; what no part has is left out."""
    names = set().union(*(part.columns for part in parts))
    return {
        kind.name: b"".join([part.columns.get(kind.name) or kind.absent_rows(part.rows) for part in parts])
        for kind in kinds
        if kind.name in names
    }


def _counts(values: Iterable[int]) -> bytes:
    return _little_endian(array("i", values))


def _little_endian(values: "array[int]") -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
