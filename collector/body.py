"""Reads the body of an answer over HTTP that may hang, trickle or never end."""

import time

import urllib3

CHUNK_BYTES = 65_536


class TooLong(Exception):
    """The body is longer than it may be."""


class TooSlow(Exception):
    """The body did not end in time."""


def read(response: urllib3.BaseHTTPResponse, deadline_s: float, most_bytes: int) -> bytes:
    """The body of an answer that was asked for with preload_content=False.

    Args:
        response: whose body is read.
        deadline_s: until when, by the monotonic clock.
        most_bytes: its greatest length.

    Raises:
        TooLong: it has more bytes.
        TooSlow: the deadline is over.
        urllib3.exceptions.HTTPError: it was cut off, or cannot be decoded.
        ValueError: it is no HTTP.
    """
    chunks, size = [], 0
    # read1 returns what came: a server that sends a byte now and then cannot hold us beyond the deadline.
    while chunk := response.read1(CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            raise TooLong
        if time.monotonic() > deadline_s:
            raise TooSlow
    return b"".join(chunks)
