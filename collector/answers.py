"""Answers over HTTP that may hang, trickle or never end: connections, heads and bodies come in time, or not at all."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from collector.names import connect

CHUNK_BYTES = 65_536


class TooLong(Exception):
    """The body is longer than it may be."""


class TooSlow(Exception):
    """The body did not end in time."""


def _in_time(connection: HTTPConnection, head: Callable[[], urllib3.HTTPResponse]) -> urllib3.HTTPResponse:
    """The head of an answer within the request's time limit, which is else one for each of its lines."""
    late = threading.Event()
    its, limit_s = connection.sock, connection.timeout
    assert isinstance(limit_s, int | float), "each request has a time limit"

    def shut() -> None:
        late.set()
        with suppress(OSError):
            its.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, shut)
    timer.daemon = True
    timer.start()
    try:
        response = head()
    except (OSError, HTTPException) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        # What is cut off between two lines is the end of the head to http.client.
        response.close()
        raise TimeoutError
    return response


def _connected(connection: HTTPConnection) -> socket.socket:
    """What urllib3 does, the look-up of the name within the time limit, too."""
    limit_s = connection.timeout
    assert isinstance(limit_s, int | float), "each request has a time limit"
    try:
        its = connect(connection._dns_host, connection.port, limit_s)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"Connection to {connection.host} timed out") from error
    except OSError as error:
        raise NewConnectionError(connection, f"Failed to establish a new connection: {error}") from error
    for option in connection.socket_options or ():
        its.setsockopt(*option)
    return its


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3's own
        return _in_time(self, super().getresponse)


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3's own
        return _in_time(self, super().getresponse)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def connections(**options: Any) -> urllib3.PoolManager:
    """What asks one server again and again, over the same connection; each request names its time limit.

    Args:
        options: of urllib3.PoolManager beside these.
    """
    pool = urllib3.PoolManager(maxsize=1, retries=False, **options)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


def body(response: urllib3.BaseHTTPResponse, deadline_s: float, most_bytes: int) -> bytes:
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
