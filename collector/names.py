"""Hosts by name, in time: the system's own look-up waits for a name server that hangs for half a minute and longer.

A look-up that hangs goes on in a thread of its own; whoever asks for the same name meanwhile waits for that one.
"""

import socket
import threading
import time
from concurrent.futures import Future
from typing import Any, NamedTuple

_lock = threading.Lock()
_pending: "dict[tuple[str, int, socket.SocketKind], Future[list[Place]]]" = {}


class Place(NamedTuple):
    """An address of a host, as sockets take it."""

    family: socket.AddressFamily
    address: tuple[Any, ...]


def look_up(host: str, port: int, kind: socket.SocketKind, limit_s: float) -> list[Place]:
    """The addresses of a host, those to prefer first.

    Args:
        host: its name, or an address, which is not looked up.
        port: at which it is to be reached.
        kind: of the socket.
        limit_s: how long that may take, s.

    Raises:
        socket.gaierror: it has none, or no name server answered in time.
    """
    try:
        return _ask(host, port, kind, socket.AI_NUMERICHOST)
    except socket.gaierror:
        key = (host, port, kind)
    with _lock:
        found = _pending.get(key)
        if found is None:
            found = _pending[key] = Future()
            threading.Thread(target=_tell, args=(key, found), name=f"look-up of {host}", daemon=True).start()
    try:
        return found.result(limit_s)
    except TimeoutError:
        raise socket.gaierror(
            socket.EAI_AGAIN, f"no name server told the address of {host} within {limit_s:.3g} s"
        ) from None


def connect(host: str, port: int, limit_s: float) -> socket.socket:
    """A TCP connection, to the first of a host's addresses that takes it, within limit_s in all.

    Raises:
        OSError: there is none.
    """
    deadline_s = time.monotonic() + limit_s
    failure: OSError = TimeoutError("timed out")
    for place in look_up(host, port, socket.SOCK_STREAM, limit_s):
        its = socket.socket(place.family, socket.SOCK_STREAM)
        try:
            its.settimeout(max(deadline_s - time.monotonic(), 0.01))
            its.connect(place.address)
        except OSError as error:
            its.close()
            failure = error
        else:
            its.settimeout(limit_s)
            return its
    raise failure


def _tell(key: tuple[str, int, socket.SocketKind], found: "Future[list[Place]]") -> None:
    try:
        found.set_result(_ask(*key))
    except Exception as error:  # noqa: BLE001 # whoever waits is told
        found.set_exception(error)
    finally:
        with _lock:
            del _pending[key]


def _ask(host: str, port: int, kind: socket.SocketKind, flags: int = 0) -> list[Place]:
    return [Place(it[0], it[4]) for it in socket.getaddrinfo(host, port, type=kind, flags=flags)]
