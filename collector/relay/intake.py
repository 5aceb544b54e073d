"""From the body of a request to a batch that can be spooled. Its items are for the server to judge."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from collector.spool import Windows
from gigawatch.bodies import Unacceptable, clock_offset_s
from gigawatch.wire import JSON, MSGPACK, Batch


class Arrival(Struct, frozen=True):
    """A batch that came."""

    batch: Batch
    clock_offset_s: float
    """Node's clock minus ours."""
    body: bytes
    """The batch in msgpack."""

    @property
    def windows(self) -> Windows:
        """How many windows it has."""
        batch = self.batch
        gpu, node = (it.rows if it else 0 for it in (batch.packed_gpu_windows, batch.packed_node_windows))
        return Windows(
            len(batch.gpu_windows) + gpu, len(batch.node_windows) + node, len(batch.serving_windows),
            len(batch.meter_windows),
        )  # fmt: skip


def decode(body: bytes, content_type: str, now: datetime, max_clock_offset_s: float) -> Arrival:
    """The body's batch.

    Raises:
        Unacceptable: it is no batch at all, or its node's clock is further off than max_clock_offset_s.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {MSGPACK, JSON}:
        raise Unacceptable(415, f"Content-Type {kind[:60]!r} is not known: send {MSGPACK} or {JSON}")
    try:
        if kind == JSON:
            batch = _as_msgpack(msgspec.json.decode(body, type=Batch))
            body = msgspec.msgpack.encode(batch)
        else:
            batch = msgspec.msgpack.decode(body, type=Batch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unacceptable(400, f"The body is not a batch: {error}") from error
    offset_s = clock_offset_s(batch, now, max_clock_offset_s, "relay")
    return Arrival(batch, offset_s, body)


def _as_msgpack(batch: Batch) -> Batch:
    """The batch with its items in msgpack, which are in JSON as they came."""
    return msgspec.structs.replace(
        batch,
        inventory=_transcode(batch.inventory) if isinstance(batch.inventory, Raw) else batch.inventory,
        gpu_windows=_transcode_all(batch.gpu_windows),
        node_windows=_transcode_all(batch.node_windows),
        serving_windows=_transcode_all(batch.serving_windows),
        meter_windows=_transcode_all(batch.meter_windows),
        events=_transcode_all(batch.events),
        health=_transcode_all(batch.health),
    )


def _transcode_all(items: Sequence[Raw]) -> list[Raw]:
    return [_transcode(item) for item in items]


def _transcode(item: Raw) -> Raw:
    """The item in msgpack; nil where msgpack cannot say it, which the server refuses at the item's own place."""
    try:
        return Raw(msgspec.msgpack.encode(msgspec.json.decode(item)))
    except (msgspec.DecodeError, UnicodeError, OverflowError, RecursionError):
        return Raw(msgspec.msgpack.encode(None))
