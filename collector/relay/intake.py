"""From the body of a request to a batch that can be spooled. Its items are for the server to judge."""

import sys
import zlib
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from gigawatch.wire import JSON, MSGPACK, Batch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Refused(Exception):
    """A request that is not served.

    Args:
        status: of the HTTP answer.
        detail: what is wrong and what to do.
        code: for programs, where they should tell it from others.
        retry_after_s: when to come again, for what may pass.
    """

    def __init__(self, status: int, detail: str, code: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class Arrival(Struct, frozen=True):
    """A batch that came."""

    batch: Batch
    clock_offset_s: float
    """Node's clock minus ours."""
    body: bytes
    """The batch in msgpack."""

    @property
    def gpu_windows(self) -> int:
        """How many GPU windows it has."""
        packed = self.batch.packed_gpu_windows
        return len(self.batch.gpu_windows) + (packed.rows if packed else 0)

    @property
    def node_windows(self) -> int:
        """How many node windows it has."""
        packed = self.batch.packed_node_windows
        return len(self.batch.node_windows) + (packed.rows if packed else 0)


def decompress(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body as it was before compression, never more than most_bytes.

    Raises:
        Refused: it is too large, damaged, or compressed in another way.
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
                raise Refused(415, f"Content-Encoding {other[:40]!r} is not known: send gzip, zstd or none")
    except (zlib.error, zstd.ZstdError, EOFError) as error:
        raise Refused(400, f"The body is not {encoding}: {error}") from error
    if len(plain) > most_bytes:
        raise Refused(413, f"The body is larger than {most_bytes} bytes: send smaller batches")
    if not whole:
        raise Refused(400, f"The body ends before its {encoding} data do: was it cut short?")
    return plain


def decode(body: bytes, content_type: str, now: datetime, max_clock_offset_s: float) -> Arrival:
    """The body's batch.

    Raises:
        Refused: it is no batch at all, or its node's clock is further off than max_clock_offset_s.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in {MSGPACK, JSON}:
        raise Refused(415, f"Content-Type {kind[:60]!r} is not known: send {MSGPACK} or {JSON}")
    try:
        if kind == JSON:
            batch = _as_msgpack(msgspec.json.decode(body, type=Batch))
            body = msgspec.msgpack.encode(batch)
        else:
            batch = msgspec.msgpack.decode(body, type=Batch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"The body is not a batch: {error}") from error
    offset_s = (batch.sent_at - now).total_seconds()
    if abs(offset_s) > max_clock_offset_s:
        raise Refused(
            422,
            f"sent_at is {batch.sent_at.isoformat()}, {offset_s:+.0f} s off this relay's clock"
            f" ({now.isoformat()}), and at most {max_clock_offset_s:g} s are allowed."
            " Check the node's clock, e.g. with chrony.",
            "clock",
        )
    if (batch.spool_id is None) != (batch.seq is None):
        raise Refused(422, "spool_id and seq go together: send both, or neither")
    if batch.seq is not None and (batch.oldest_seq or 0) > batch.seq:
        raise Refused(422, f"oldest_seq = {batch.oldest_seq} is after seq = {batch.seq}")
    return Arrival(batch, offset_s, body)


def _as_msgpack(batch: Batch) -> Batch:
    """The batch with its items in msgpack, which are in JSON as they came."""
    return msgspec.structs.replace(
        batch,
        inventory=_transcode(batch.inventory) if isinstance(batch.inventory, Raw) else batch.inventory,
        gpu_windows=_transcode_all(batch.gpu_windows),
        node_windows=_transcode_all(batch.node_windows),
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
