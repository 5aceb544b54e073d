"""What the API and a relay alike ask of a request's body before they look at what a batch holds."""

import sys
import zlib
from datetime import datetime

from gigawatch.wire import Batch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NTP = "Check the node's clock, e.g. with chrony."


class Unacceptable(Exception):
    """The whole request, or one batch of a relay's, cannot be taken.

    Args:
        status: of the HTTP answer.
        problem: what is wrong and what to do.
        code: for programs, where they should tell it from others.
        retry_after_s: when to come again, for what may pass.
    """

    def __init__(self, status: int, problem: str, code: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(problem)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


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


def clock_offset_s(batch: Batch, now: datetime, most_s: float, whose: str) -> float:
    """The node's clock minus ours, of a batch whose head is as it must be.

    Args:
        batch: what came.
        now: our time.
        most_s: how far off its clock may be.
        whose: what we are, for the error's words.

    Raises:
        Unacceptable: its clock is further off, or its numbers do not go together.
    """
    offset_s = (batch.sent_at - now).total_seconds()
    if abs(offset_s) > most_s:
        raise Unacceptable(
            422,
            f"sent_at is {batch.sent_at.isoformat()}, {offset_s:+.0f} s off this {whose}'s clock"
            f" ({now.isoformat()}), and at most {most_s:g} s are allowed. {NTP}",
            "clock",
        )
    if (batch.spool_id is None) != (batch.seq is None):
        raise Unacceptable(422, "spool_id and seq go together: send both, or neither")
    if batch.seq is not None and (batch.oldest_seq or 0) > batch.seq:
        raise Unacceptable(422, f"oldest_seq = {batch.oldest_seq} is after seq = {batch.seq}")
    return offset_s
