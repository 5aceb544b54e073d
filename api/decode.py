"""Turns a request's body into parcels, and says which of their items were refused and why.

Bytes from outside are hostile until they came through here and, as for windows, through api.rows. Items are looked at
one by one, so that a bad one is refused with its field named and costs nothing else.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Raw, Struct

from gigawatch.bodies import Unacceptable, clock_offset_s
from gigawatch.records import Event, GpuHealth, GpuWindow, Inventory, MeterWindow, NodeWindow, ServingWindow
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import (
    BATCHES,
    JSON,
    MSGPACK,
    Batch,
    Batches,
    PackedGpuWindows,
    PackedNodeWindows,
    Refusal,
    columns,
    fits,
    node_columns,
    pack,
    pack_nodes,
    ticks_of,
)

T = TypeVar("T")
Fault = tuple[str, str, str]
"""A field that is wrong, why, and what to do."""
MOST_REFUSALS = 100
MOST_BATCHES = 10_000
"""In one request of a relay."""
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Packed(Struct, frozen=True):
    """Windows of a batch as columns whose values nobody looked at yet: some rows of what may be many batches'."""

    name: str
    windows: PackedGpuWindows | PackedNodeWindows
    """They fit (wire.fits)."""
    first: int
    rows: int
    first_gpu: int = 0
    """Of its own among windows.gpu_uuids, of which there are so many:"""
    gpus: int = 0
    places: list[int] | None = None
    """Of each row in the batch's list; None: they came packed."""

    def where(self, row: int, column: str) -> str:
        """The path of a field in the batch; row counts from the first."""
        if self.places is None:
            return f"{self.name}.columns.{column}[{row}]"
        return f"{self.name}[{self.places[row]}].{column}"


class Parcel(Struct, kw_only=True):
    """A batch with its items decoded; its windows are looked at by api.rows."""

    batch: Batch
    clock_offset_ms: int
    """Node's clock minus ours."""
    received: datetime
    inventory: Inventory | None
    gpu_windows: list[Packed]
    node_windows: list[Packed]
    serving_windows: list[ServingWindow]
    serving_places: list[int]
    """Of each of them in the batch's list."""
    meter_windows: list[MeterWindow]
    meter_places: list[int]
    events: list[Event]
    health: list[GpuHealth]
    refused: list[Refusal]


def decode(body: bytes, content_type: str, now: datetime, max_clock_offset_s: float) -> list[Parcel | Unacceptable]:
    """The body's batches: one, or a relay's many of which some may be unacceptable.

    Raises:
        Unacceptable: it is no batch at all, or its node's clock is further off than max_clock_offset_s.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == BATCHES:
        return _of_relay(body, now, max_clock_offset_s)
    if kind not in {MSGPACK, JSON}:
        raise Unacceptable(415, f"Content-Type {kind[:60]!r} is not known: send {MSGPACK} or {JSON}")
    decoder: Callable[..., Any] = msgspec.json.decode if kind == JSON else msgspec.msgpack.decode
    return [_parcel(body, decoder, now, max_clock_offset_s)]


def _of_relay(body: bytes, now: datetime, max_clock_offset_s: float) -> list[Parcel | Unacceptable]:
    try:
        found = msgspec.msgpack.decode(body, type=Batches)
    except _BROKEN as error:
        raise Unacceptable(400, f"The body is not a relay's batches: {error}") from error
    count = len(found.batches)
    if count > MOST_BATCHES:
        raise Unacceptable(413, f"The body has {count} batches, and at most {MOST_BATCHES} are taken at once")
    parcels: list[Parcel | Unacceptable] = []
    for raw in found.batches:
        try:
            parcels.append(_parcel(raw, msgspec.msgpack.decode, now, max_clock_offset_s))
        except Unacceptable as error:
            # One agent's trouble is not that of the others behind the relay.
            parcels.append(error)
    gpus = _shares("gpus", found.gpus, count, len(found.gpu_windows.gpu_uuids) if found.gpu_windows else 0)
    rows = _shares("gpu_rows", found.gpu_rows, count, found.gpu_windows.rows if found.gpu_windows else 0)
    node_rows = _shares("node_rows", found.node_rows, count, found.node_windows.rows if found.node_windows else 0)
    for name in ("gpu_windows", "node_windows"):
        windows = getattr(found, name)
        if windows is not None and not fits(windows):
            raise Unacceptable(400, f"{name}: its columns are not known, or not as long as its rows")
    for place, parcel in enumerate(parcels):
        if isinstance(parcel, Parcel):
            if found.gpu_windows and rows[place][1]:
                parcel.gpu_windows.append(Packed("packed_gpu_windows", found.gpu_windows, *rows[place], *gpus[place]))
            if found.node_windows and node_rows[place][1]:
                parcel.node_windows.append(Packed("packed_node_windows", found.node_windows, *node_rows[place]))
    return parcels


def _shares(name: str, counts: bytes, batches: int, total: int) -> list[tuple[int, int]]:
    """Of each batch, the place of its first row and how many it has."""
    if not counts and not total:
        return [(0, 0)] * batches
    if len(counts) != 4 * batches:
        raise Unacceptable(400, f"{name} has {len(counts)} bytes, and {batches} batches need {4 * batches}")
    sizes = np.frombuffer(counts, "<i4").astype(np.int64)
    if (sizes < 0).any() or sizes.sum() != total:
        raise Unacceptable(400, f"{name} add up to {sizes.sum()}, and there are {total}")
    return list(zip((np.cumsum(sizes) - sizes).tolist(), sizes.tolist(), strict=True))


def _parcel(body: bytes | Raw, decoder: Callable[..., Any], now: datetime, max_clock_offset_s: float) -> Parcel:
    try:
        batch: Batch = decoder(body, type=Batch)
    except _BROKEN as error:
        raise Unacceptable(400, f"The body is not a batch: {error}") from error
    offset_s = clock_offset_s(batch, now, max_clock_offset_s, "server")
    refused: list[Refusal] = []
    serving = _items("serving_windows", batch.serving_windows, ServingWindow, decoder, refused)
    meters = _items("meter_windows", batch.meter_windows, MeterWindow, decoder, refused)
    return Parcel(
        batch=batch,
        clock_offset_ms=round(offset_s * MILLISECONDS_PER_SECOND),
        received=now,
        inventory=_inventory(batch, decoder, refused),
        gpu_windows=_packed(
            "gpu_windows", batch.gpu_windows, GpuWindow, pack, batch.packed_gpu_windows, decoder, refused
        ),
        node_windows=_packed(
            "node_windows", batch.node_windows, NodeWindow, pack_nodes, batch.packed_node_windows, decoder, refused
        ),
        serving_windows=[it for _, it in serving],
        serving_places=[place for place, _ in serving],
        meter_windows=[it for _, it in meters],
        meter_places=[place for place, _ in meters],
        events=_all("events", batch.events, Event, decoder, refused),
        health=_all("health", batch.health, GpuHealth, decoder, refused),
        refused=refused,
    )


def _packed(
    name: str,
    raws: Sequence[Raw],
    kind: type[T],
    pack_: Callable[[Sequence[T]], PackedGpuWindows | PackedNodeWindows],
    packed: PackedGpuWindows | PackedNodeWindows | None,
    decoder: Callable[..., Any],
    refused: list[Refusal],
) -> list[Packed]:
    """All windows of one kind as columns, whether they came as objects or packed."""
    parts = []
    if raws:
        found = _items(name, raws, kind, decoder, refused)
        if found:
            windows = pack_([window for _, window in found])
            parts.append(_whole(name, windows, [place for place, _ in found]))
    if packed is not None and packed.rows:
        fitting = packed if fits(packed) else _mended(f"packed_{name}", packed, refused)
        if fitting is not None:
            parts.append(_whole(f"packed_{name}", fitting))
    return parts


def _whole(name: str, windows: PackedGpuWindows | PackedNodeWindows, places: list[int] | None = None) -> Packed:
    gpus = len(windows.gpu_uuids) if isinstance(windows, PackedGpuWindows) else 0
    return Packed(name, windows, 0, windows.rows, 0, gpus, places)


def _mended(
    name: str, packed: PackedGpuWindows | PackedNodeWindows, refused: list[Refusal]
) -> PackedGpuWindows | PackedNodeWindows | None:
    """The windows without the columns that we do not know; None where what is left does not fit. Says why."""
    kinds = {it.name: it for it in (columns() if isinstance(packed, PackedGpuWindows) else node_columns())}
    rows, known = packed.rows, {column: data for column, data in packed.columns.items() if column in kinds}
    for column in packed.columns.keys() - known.keys():
        unknown = Refusal(
            where=f"{name}.columns.{column[:60]}",
            error="there is no such column; the others are kept",
            remedy="docs/api.md lists the columns.",
        )
        refuse(refused, unknown)
    mended = msgspec.structs.replace(packed, columns=known)
    if fits(mended):
        return mended
    faults = [
        (f"columns.{column}", f"{len(data)} bytes, and {rows} rows need {len(kinds[column].absent_rows(rows))}")
        for column, data in known.items()
        if len(data) != len(kinds[column].absent_rows(rows))
    ]
    faults += [
        (f"columns.{column}", "it is missing, and each row needs it")
        for column, kind in kinds.items()
        if kind.required and column not in known
    ]
    if isinstance(packed, PackedGpuWindows):
        if len(packed.gpu) != 4 * rows:
            faults.append(("gpu", f"{len(packed.gpu)} bytes, and {rows} rows need {4 * rows}"))
        if packed.serves and len(packed.serves) != len(packed.gpu_uuids):
            faults.append(("serves", f"there are {len(packed.serves)}, and {len(packed.gpu_uuids)} gpu_uuids"))
    elif len(packed.ticks) != 2 * rows:
        faults.append(("ticks", f"{len(packed.ticks)} bytes, and {rows} rows need {2 * rows}"))
    elif not faults:
        ticks = ticks_of(packed)
        words = f"from {min(ticks)} to {max(ticks)} and {sum(ticks)} in all, and gpu_power_mw has"
        faults.append(("ticks", f"the rows' ticks are {words} {len(packed.gpu_power_mw)} bytes"))
    for where, error in faults:
        refuse(refused, Refusal(where=f"{name}.{where}", error=error, remedy="Pack all columns alike.", count=rows))
    return None


def _all(name: str, raws: Sequence[Raw], kind: type[T], decoder: Callable[..., Any], refused: list[Refusal]) -> list[T]:
    return [it for _, it in _items(name, raws, kind, decoder, refused)] if raws else []


def _items(
    name: str, raws: Sequence[Raw], kind: type[T], decoder: Callable[..., Any], refused: list[Refusal]
) -> list[tuple[int, T]]:
    """The items that are what they should be, with their places; the others go to refused."""
    good = []
    for place, raw in enumerate(raws):
        try:
            good.append((place, decoder(raw, type=kind)))
        except _BROKEN as error:
            refuse(refused, _explain(f"{name}[{place}]", error, raw, decoder))
    return good


def _inventory(batch: Batch, decoder: Callable[..., Any], refused: list[Refusal]) -> Inventory | None:
    if not isinstance(batch.inventory, Raw):
        return None
    try:
        found: Inventory | None = decoder(batch.inventory, type=Inventory | None)
    except _BROKEN as error:
        refuse(refused, _explain("inventory", error, batch.inventory, decoder))
        return None
    return found


def _explain(where: str, error: Exception, raw: Raw, decoder: Callable[..., Any]) -> Refusal:
    """The error with the path of the field and the value that it has."""
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    value: Any = None
    try:
        value = decoder(raw)
        for key, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
            value = value[key] if key else value[int(index)]
    except (*_BROKEN, KeyError, IndexError, TypeError):
        value = None
    shown = "" if value is None else f", and got {repr(value)[:80]}"
    return Refusal(
        where=where + path,
        error=message[:300] + shown,
        remedy="docs/api.md lists the fields with their units and bounds; leave out what is not known.",
    )


def good_windows(
    refused: list[Refusal], name: str, places: Sequence[int], windows: Sequence[T], fault: Callable[[T], Fault | None]
) -> tuple[list[int], list[T]]:
    """The windows without a fault, and their places in the batch's list; of the others it is said why.

    Args:
        refused: takes what is said.
        name: of the list.
        places: of each window in it.
        windows: that are looked at.
        fault: what is wrong with one, if anything.
    """
    good = []
    for place, window in zip(places, windows, strict=True):
        found = fault(window)
        if found is None:
            good.append((place, window))
        else:
            field, error, remedy = found
            refuse(refused, Refusal(where=f"{name}[{place}].{field}", error=error, remedy=remedy))
    return [place for place, _ in good], [window for _, window in good]


def refuse(refused: list[Refusal], refusal: Refusal) -> None:
    """Keep a refusal; past a bound only their number."""
    if len(refused) < MOST_REFUSALS:
        refused.append(refusal)
    else:
        last = refused[-1]
        refused[-1] = Refusal(
            where=last.where if last.where.startswith("…") else "…",
            error="more items were refused",
            remedy=last.remedy,
            count=(last.count if last.where == "…" else 1) + refusal.count,
        )
