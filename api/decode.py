"""Turns a request's body into rows that are fit to be stored, and says which were not and why.

Bytes from outside are hostile until they came through here. Items are looked at one by one (or, packed, column
by column), so that a bad one is refused with its field named and costs nothing else.
"""

import re
import sys
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from gigawatch.records import Event, GpuHealth, GpuWindow, Inventory, NodeWindow
from gigawatch.units import MILLISECONDS_PER_MINUTE, MILLISECONDS_PER_SECOND
from gigawatch.wire import JSON, MSGPACK, Batch, Column, PackedGpuWindows, Refusal, columns, pack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T = TypeVar("T")
DTYPES: dict[str, np.dtype[Any]] = {"h": np.dtype("<i2"), "i": np.dtype("<i4"), "q": np.dtype("<i8")}
LARGEST_LEAD = timedelta(seconds=60)
"""How far ahead of the server's clock a window may end."""
MOST_REFUSALS = 100
NTP = "Check the node's clock, e.g. with chrony."


class Unacceptable(Exception):
    """The whole request cannot be taken.

    Args:
        status: of the HTTP answer.
        problem: what is wrong and what to do.
        code: for programs, where they should tell it from others.
    """

    def __init__(self, status: int, problem: str, code: str | None = None) -> None:
        super().__init__(problem)
        self.status = status
        self.code = code


class GpuRows(Struct, frozen=True):
    """GPU windows as columns; an absent value is its column's wire.Column.absent."""

    uuids: list[str]
    gpu: NDArray[np.int32]
    """Place in uuids, by row."""
    columns: dict[str, NDArray[Any]]
    """One array for every wire.columns(), by name."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.gpu)


class Parcel(Struct, kw_only=True):
    """A batch's good items."""

    batch: Batch
    clock_offset_ms: int
    """Node's clock minus ours."""
    inventory: Inventory | None
    gpu_rows: GpuRows
    node_windows: list[NodeWindow]
    events: list[Event]
    health: list[GpuHealth]
    refused: list[Refusal]


def decompress(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body as it was before compression, never more than most_bytes.

    Raises:
        Unacceptable: it is too large, damaged, or compressed in another way.
    """
    try:
        match encoding.strip().lower():
            case "" | "identity":
                plain, whole = body, True
            case "gzip":
                unzip = zlib.decompressobj(wbits=31)
                plain = unzip.decompress(body, most_bytes + 1)
                whole = unzip.eof
            case "zstd":
                unpack = zstd.ZstdDecompressor()
                plain = unpack.decompress(body, most_bytes + 1)
                whole = unpack.eof
            case other:
                raise Unacceptable(415, f"Content-Encoding {other[:40]!r} is not known: send gzip, zstd or none")
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        raise Unacceptable(400, f"The body is not {encoding}: {error}") from error
    if len(plain) > most_bytes:
        raise Unacceptable(413, f"The body is larger than {most_bytes} bytes: send smaller batches")
    if not whole:
        raise Unacceptable(400, f"The body ends before its {encoding} data do: was it cut short?")
    return plain


def decode(body: bytes, content_type: str, now: datetime, max_clock_offset_s: float) -> Parcel:
    """The body's batch, with its bad items refused.

    Raises:
        Unacceptable: it is no batch at all, or its node's clock is further off than max_clock_offset_s.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {MSGPACK, JSON}:
        raise Unacceptable(415, f"Content-Type {kind[:60]!r} is not known: send {MSGPACK} or {JSON}")
    decoder: Callable[..., Any] = msgspec.json.decode if kind == JSON else msgspec.msgpack.decode
    try:
        batch: Batch = decoder(body, type=Batch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unacceptable(400, f"The body is not a batch: {error}") from error
    offset_s = (batch.sent_at - now).total_seconds()
    if abs(offset_s) > max_clock_offset_s:
        raise Unacceptable(
            422,
            f"sent_at is {batch.sent_at.isoformat()}, {offset_s:+.0f} s off this server's clock"
            f" ({now.isoformat()}), and at most {max_clock_offset_s:g} s are allowed. {NTP}",
            "clock",
        )
    if (batch.spool_id is None) != (batch.seq is None):
        raise Unacceptable(422, "spool_id and seq go together: send both, or neither")
    if batch.seq is not None and (batch.oldest_seq or 0) > batch.seq:
        raise Unacceptable(422, f"oldest_seq = {batch.oldest_seq} is after seq = {batch.seq}")
    refused: list[Refusal] = []
    gpu_rows = _gpu_rows(batch, decoder, now, refused)
    inventory = _inventory(batch, decoder, refused)
    latest = now + LARGEST_LEAD
    return Parcel(
        batch=batch,
        clock_offset_ms=round(offset_s * MILLISECONDS_PER_SECOND),
        inventory=inventory,
        gpu_rows=gpu_rows,
        node_windows=[
            window
            for place, window in _items("node_windows", batch.node_windows, NodeWindow, decoder, refused)
            if _in_time(f"node_windows[{place}]", window.start, window.covered_ms, latest, refused)
        ],
        events=[event for _, event in _items("events", batch.events, Event, decoder, refused)],
        health=[item for _, item in _items("health", batch.health, GpuHealth, decoder, refused)],
        refused=refused,
    )


def _items(
    name: str, raws: Sequence[Raw], kind: type[T], decoder: Callable[..., Any], refused: list[Refusal]
) -> list[tuple[int, T]]:
    """The items that are what they should be, with their places; the others go to refused."""
    good = []
    for place, raw in enumerate(raws):
        try:
            good.append((place, decoder(raw, type=kind)))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            _refuse(refused, _explain(f"{name}[{place}]", error, raw, decoder))
    return good


def _inventory(batch: Batch, decoder: Callable[..., Any], refused: list[Refusal]) -> Inventory | None:
    if not isinstance(batch.inventory, Raw):
        return None
    try:
        found: Inventory | None = decoder(batch.inventory, type=Inventory | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse(refused, _explain("inventory", error, batch.inventory, decoder))
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, IndexError, TypeError):
        value = None
    shown = "" if value is None else f", and got {repr(value)[:80]}"
    return Refusal(
        where=where + path,
        error=message[:300] + shown,
        remedy="docs/api.md lists the fields with their units and bounds; leave out what is not known.",
    )


def _refuse(refused: list[Refusal], refusal: Refusal) -> None:
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


def _in_time(where: str, start: datetime, covered_ms: int, latest: datetime, refused: list[Refusal]) -> bool:
    """Whether a node's window ends neither in the future nor in another minute than it began in."""
    start_ms = round(start.timestamp() * MILLISECONDS_PER_SECOND)
    if start + timedelta(milliseconds=covered_ms) > latest:
        _refuse(refused, Refusal(where=f"{where}.start", error=f"{start.isoformat()} is in the future", remedy=NTP))
        return False
    if start_ms // MILLISECONDS_PER_MINUTE != (start_ms + covered_ms - 1) // MILLISECONDS_PER_MINUTE:
        _refuse(refused, _crosses(f"{where}.covered_ms", 1))
        return False
    return True


def _crosses(where: str, count: int) -> Refusal:
    return Refusal(
        where=where,
        error="the window crosses a full minute",
        remedy="End windows on full minutes: their length divides 60 s.",
        count=count,
    )


def _gpu_rows(batch: Batch, decoder: Callable[..., Any], now: datetime, refused: list[Refusal]) -> GpuRows:
    """All GPU windows of the batch, packed or not, that can be stored."""
    parts = []
    if batch.gpu_windows:
        found = _items("gpu_windows", batch.gpu_windows, GpuWindow, decoder, refused)
        rows = _unpack(pack([window for _, window in found]), "gpu_windows", [])
        places = [place for place, _ in found]
        parts.append(_check(rows, lambda row, name: f"gpu_windows[{places[row]}].{name}", now, refused))
    if batch.packed_gpu_windows is not None:
        name = "packed_gpu_windows"
        rows = _unpack(batch.packed_gpu_windows, name, refused)
        parts.append(_check(rows, lambda row, column: f"{name}.columns.{column}[{row}]", now, refused))
    if not parts:
        return GpuRows([], np.empty(0, np.int32), {it.name: np.empty(0, DTYPES[it.typecode]) for it in columns()})
    return join(parts)


def join(parts: Sequence[GpuRows]) -> GpuRows:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    uuids: list[str] = []
    gpu = []
    for part in parts:
        gpu.append(part.gpu + np.int32(len(uuids)))
        uuids.extend(part.uuids)
    return GpuRows(
        uuids,
        np.concatenate(gpu),
        {it.name: np.concatenate([part.columns[it.name] for part in parts]) for it in columns()},
    )


def _unpack(packed: PackedGpuWindows, name: str, refused: list[Refusal]) -> GpuRows:
    """The columns as arrays; all rows are refused if a column has another length than they."""
    known = {column.name: column for column in columns()}
    count = packed.rows
    arrays: dict[str, NDArray[Any]] = {}
    faults = []
    if len(packed.gpu) != 4 * count:
        faults.append(("gpu", f"{len(packed.gpu)} bytes, and {count} rows need {4 * count}"))
    for key, data in packed.columns.items():
        if key not in known:
            _refuse(
                refused,
                Refusal(
                    where=f"{name}.columns.{key[:60]}",
                    error="there is no such column; the others are kept",
                    remedy="docs/api.md lists the columns.",
                ),
            )
            continue
        dtype = DTYPES[known[key].typecode]
        if len(data) != dtype.itemsize * count:
            faults.append((f"columns.{key}", f"{len(data)} bytes, and {count} rows need {dtype.itemsize * count}"))
        else:
            arrays[key] = np.frombuffer(data, dtype)
    faults += [
        (f"columns.{column.name}", "it is missing, and each row needs it")
        for column in columns()
        if column.required and column.name not in packed.columns
    ]
    if faults and count:
        for where, error in faults:
            _refuse(
                refused,
                Refusal(where=f"{name}.{where}", error=error, remedy="Pack all columns alike.", count=count),
            )
        count = 0
        arrays = {}
    for column in columns():
        if column.name not in arrays:
            arrays[column.name] = np.full(count, column.absent, DTYPES[column.typecode])
    return GpuRows(packed.gpu_uuids, np.frombuffer(packed.gpu, "<i4") if count else np.empty(0, np.int32), arrays)


def _check(rows: GpuRows, where: Callable[[int, str], str], now: datetime, refused: list[Refusal]) -> GpuRows:
    """The rows that mean something possible; the others go to refused, one refusal for each field."""
    good = np.ones(rows.count, bool)

    def refuse(bad: NDArray[np.bool_], column: str, error: Callable[[int], str], remedy: str) -> None:
        bad = bad & good
        if bad.any():
            row = int(np.argmax(bad))
            refusal = Refusal(
                where=where(row, column), error=error(row), remedy=remedy, count=int(np.count_nonzero(bad))
            )
            _refuse(refused, refusal)
            good[bad] = False

    refuse(
        (rows.gpu < 0) | (rows.gpu >= len(rows.uuids)),
        "gpu",
        lambda row: f"{rows.gpu[row]} is no place in gpu_uuids, which has {len(rows.uuids)}",
        "Count from 0.",
    )
    mig = np.array([uuid.startswith("MIG-") for uuid in rows.uuids] or [False])
    refuse(
        mig[np.where(good, rows.gpu, 0)] & good if rows.count else np.zeros(0, bool),
        "gpu_uuid",
        lambda row: f"{rows.uuids[rows.gpu[row]]} is a MIG instance",
        "Send the physical GPU's window: its energy is counted once.",
    )
    for column in columns():
        values = rows.columns[column.name]
        absent = values == column.absent
        outside = (values < column.lower) | (values > column.upper)
        refuse(
            outside if column.required else outside & ~absent,
            column.name,
            lambda row, values=values, column=column: _bounds(column, int(values[row])),  # type: ignore[misc]
            "Leave out what is not known; docs/api.md lists the bounds.",
        )
    start_ms, covered_ms = rows.columns["start"], rows.columns["covered_ms"]
    end_ms = start_ms + covered_ms.astype(np.int64)
    refuse(
        start_ms // MILLISECONDS_PER_MINUTE != (end_ms - 1) // MILLISECONDS_PER_MINUTE,
        "covered_ms",
        lambda _: _crosses("", 1).error,
        _crosses("", 1).remedy,
    )
    latest_ms = (now + LARGEST_LEAD).timestamp() * MILLISECONDS_PER_SECOND
    refuse(end_ms > latest_ms, "start", lambda row: f"{start_ms[row]} ms is in the future", NTP)
    by_name = {column.name: column for column in columns()}
    has_energy = rows.columns["energy_mj"] != by_name["energy_mj"].absent
    has_method = rows.columns["energy_method"] != by_name["energy_method"].absent
    refuse(
        has_energy != has_method,
        "energy_method",
        lambda _: "energy_mj and energy_method come together, or neither",
        "Say how the energy was obtained: 1 counter, 2 interpolated, 3 integrated, 4 estimated.",
    )
    if good.all():
        return rows
    return GpuRows(rows.uuids, rows.gpu[good], {name: values[good] for name, values in rows.columns.items()})


def _bounds(column: Column, value: int) -> str:
    if value == column.absent:
        return "it is absent, and each row needs it"
    return f"{value} is not within {column.lower} to {column.upper}"
