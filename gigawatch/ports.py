"""Whether a port can be had, asked before a server is started on it, for an error that names the setting."""

import errno
import socket

from gigawatch.errors import ExitCode, GigawatchError


def require_free(host: str, port: int, setting: str, flag: str) -> None:
    """Raise GigawatchError if the port is taken or may not be used.

    Args:
        host: address to listen on.
        port: 0 is always free.
        setting: where it is set, e.g. server.port.
        flag: the flag that sets it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise GigawatchError(
            f"{setting} = {port}: {'another process listens on it' if taken else error.strerror or error}"
            f" (address {host})",
            f"Stop that process, or choose another port with {flag}." if taken else f"Choose another with {flag}.",
            ExitCode.FAILURE,
        ) from error
