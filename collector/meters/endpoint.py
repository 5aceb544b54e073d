"""Where a meter is: HOST or HOST:PORT of the settings."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from gigawatch.errors import ExitCode, GigawatchError


class Endpoint(NamedTuple):
    """A host, by name or address, and its port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def endpoint(address: str, port: int) -> Endpoint:
    """What an address of the settings says.

    Args:
        address: HOST or HOST:PORT; an address of IPv6 stands in brackets.
        port: where it names none.

    Raises:
        GigawatchError: it is no such address.
    """
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", port if parts.port is None else parts.port
        # What no name server could be asked for is said now, not at every reading.
        host.encode("idna")
        wrong = not host or not port or parts.netloc != address or re.search(r"[\s@]|:$", address) is not None
    except ValueError:
        wrong = True
    if wrong:
        raise GigawatchError(
            f"The address {address!r} of a meter is not HOST or HOST:PORT",
            "Write it such as 10.20.0.5, meter-7.example.net:1502 or [2001:db8::5]:502.",
            ExitCode.CONFIGURATION,
        )
    return Endpoint(host, port)
