"""Turns a request's body into parcels, and says which of their items were refused and why.

Bytes from outside are hostile until they came through here and, as for windows, through api.rows. Items are looked at
one by one, so that a bad one is refused with its field named and costs nothing else.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from gigawatch.bodies import Unacceptable, clock_offset_s
from gigawatch.records import Event, GpuHealth, GpuWindow, Inventory, NodeWindow
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import (
    BATCHES,
    JSON,
    MSGPACK,
    Batch,
    PackedGpuWindows,
    PackedNodeWindows,
    Refusal,
    pack,
    pack_nodes,
)

T = TypeVar("T")
MOST_REFUSALS = 100
MOST_BATCHES = 10_000
"""In one request of a relay."""
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Packed(Struct, frozen=True):
    """Windows of a batch as columns that nobody looked at yet, and how to name their fields in a refusal."""

    name: str
    windows: PackedGpuWindows | PackedNodeWindows
    places: list[int] | None = None
    """Of each row in the batch's list; None: they came packed."""

    def where(self, row: int, column: str) -> str:
        """The path of a field in the batch."""
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
        return [_of_relay(raw, now, max_clock_offset_s) for raw in _raw_batches(body)]
    if kind not in {MSGPACK, JSON}:
        raise Unacceptable(415, f"Content-Type {kind[:60]!r} is not known: send {MSGPACK} or {JSON}")
    decoder: Callable[..., Any] = msgspec.json.decode if kind == JSON else msgspec.msgpack.decode
    return [_parcel(body, decoder, now, max_clock_offset_s)]


def _raw_batches(body: bytes) -> list[Raw]:
    try:
        raws = msgspec.msgpack.decode(body, type=list[Raw])
    except _BROKEN as error:
        raise Unacceptable(400, f"The body is not an array of batches: {error}") from error
    if len(raws) > MOST_BATCHES:
        raise Unacceptable(413, f"The body has {len(raws)} batches, and at most {MOST_BATCHES} are taken at once")
    return raws


def _of_relay(raw: Raw, now: datetime, max_clock_offset_s: float) -> Parcel | Unacceptable:
    try:
        return _parcel(raw, msgspec.msgpack.decode, now, max_clock_offset_s)
    except Unacceptable as error:
        # One agent's trouble is not that of the others behind the relay.
        return error


def _parcel(body: bytes | Raw, decoder: Callable[..., Any], now: datetime, max_clock_offset_s: float) -> Parcel:
    try:
        batch: Batch = decoder(body, type=Batch)
    except _BROKEN as error:
        raise Unacceptable(400, f"The body is not a batch: {error}") from error
    offset_s = clock_offset_s(batch, now, max_clock_offset_s, "server")
    refused: list[Refusal] = []
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
        events=[it for _, it in _items("events", batch.events, Event, decoder, refused)] if batch.events else [],
        health=[it for _, it in _items("health", batch.health, GpuHealth, decoder, refused)] if batch.health else [],
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
        parts.append(Packed(name, pack_([window for _, window in found]), [place for place, _ in found]))
    if packed is not None:
        parts.append(Packed(f"packed_{name}", packed))
    return parts


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
