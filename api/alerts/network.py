"""Where targets may be: addresses are looked up and judged here, and connected to as they were judged.

Whoever names a target's host can have it answer to any address, and to another one a moment later. So the name is not
looked up again between judgement and connection; certificates and the header Host are still the name's.
"""

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import httpcore

from gigawatch.errors import ExitCode, GigawatchError

IpAddress = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to addresses, as texts; raises OSError."""

METADATA = {
    ip_address(text)
    # EC2, GCP, Azure and most others; EC2 by IPv6, and its pods' identity; GCP by IPv6; Alibaba; Oracle; Azure's host.
    for text in (
        "169.254.169.254", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "192.0.0.192",
        "168.63.129.16",
    )
}  # fmt: skip
_THIS_NETWORK = ip_network("0.0.0.0/8")
# Prefixes of IPv6 addresses that hold an IPv4 address, and the bits to the right of it.
_HOLDERS = (
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("64:ff9b:1::/48"), 0),
    (IPv6Network("2002::/16"), 80),
)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""Whoever runs such a translator chooses where in the address the IPv4 address stands (RFC 6052, 2.2)."""
MOST_BYTES = 256 << 10
"""Of what a target sends, heads and chunks included."""
PIECE_BYTES = 4 << 10
"""Read at a time: while a piece is parsed, which takes the longer the more chunks are in it, all others wait."""
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*")


class Refused(Exception):
    """A target may not be there; the message says why and what to do about it."""


class Guard:
    """Which addresses targets may have.

    Args:
        allow: networks and host names that may be special addresses (settings, alerts.allow_targets).

    Raises:
        GigawatchError: an entry is neither a network nor a host name.
    """

    def __init__(self, allow: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[str] = set()
        for entry in allow:
            try:
                self._networks.append(ip_network(entry))
            except ValueError as error:
                host = _plain(entry)
                # What ends in a number is an address in one of its many spellings, or wants to be a network.
                if not _HOST.fullmatch(host) or re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]):
                    raise GigawatchError(
                        f"alerts.allow_targets has {entry!r}, which is neither a network nor a host name: {error}",
                        "Write a network such as 127.0.0.0/8 or fd00::/8, an address, or a host name.",
                        ExitCode.CONFIGURATION,
                    ) from error
                self._hosts.add(host)

    def judge(self, host: str, address: str) -> None:
        """Raise Refused unless a target of this host name may have this address."""
        judged = ip_address(address.partition("%")[0])
        held = _held(judged)
        allowed = _plain(host) in self._hosts or any(
            it in network for network in self._networks for it in (judged, held)
        )
        reason = None if allowed else next(filter(None, map(_special, (held, *_also_held(judged)))), None)
        if reason is not None:
            shown = address if host == address else f"{host} ({address})"
            raise Refused(
                f"{shown} is {reason}, where targets are refused;"
                " if it is meant, name it in the setting alerts.allow_targets"
            )


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def _held(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.is_loopback or address.is_unspecified:
        return address
    for network, right in _HOLDERS:
        if address in network:
            return IPv4Address((int(address) >> right) & 0xFFFF_FFFF)
    # Teredo has it inverted.
    return address.teredo[1] if address.teredo else address


def _also_held(address: IpAddress) -> list[IPv4Address]:
    """Other IPv4 addresses that one of a local NAT64 may stand for, but for those that are zeros as a rule."""
    if address not in _LOCAL_NAT64:
        return []
    # Bits 64 to 71 are nothing's.
    bits = int(address) >> 64 << 56 | int(address) & (1 << 56) - 1
    found = [IPv4Address(bits >> (120 - prefix - 32) & 0xFFFF_FFFF) for prefix in (48, 56, 64)]
    return [it for it in found if it not in _THIS_NETWORK]


def _special(address: IpAddress) -> str | None:
    """What an address is, in words, if it is one that targets do not have."""
    if address in METADATA:
        return "a cloud's metadata address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local or (isinstance(address, IPv6Address) and address.is_site_local):
        return "a link-local address"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "an unspecified address"
    if address.is_multicast:
        return "a multicast address"
    return "a reserved address" if address.is_reserved else None


class Place:
    """A target's URL in its parts.

    Raises:
        ValueError: it is none that can be sent to; the message says why, without the URL, which may be secret.
    """

    def __init__(self, url: str) -> None:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("the URL has characters that none has: percent-encode them, and hosts as xn--")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError("the URL's host or port is none") from error
        if parts.scheme not in {"http", "https"}:
            raise ValueError("the URL must begin with http:// or https://")
        if "@" in parts.netloc:
            raise ValueError("the URL names a user or password: use bearer_file")
        if not parts.hostname or port == 0:
            raise ValueError("the URL's host or port is none")
        self.host = parts.hostname
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.netloc = f"{shown}:{port}" if port is not None else shown
        self.address = f"{parts.scheme}://{self.netloc}"
        """Scheme and host: all of it that may be shown."""
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.parsed = httpcore.URL(scheme=parts.scheme, host=self.host, port=port, target=self.path)


async def look_up(host: str, port: int) -> list[str]:
    """Addresses of a host.

    In a thread that nobody waits for: a name server may keep it for longer than anybody would.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str], error: OSError | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def ask() -> None:
        addresses: list[str] = []
        failure = None
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except OSError as error:
            failure = error
        except UnicodeError:
            failure = OSError("it is no host name")
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, addresses, failure)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    return await found


class _BoundedStream(httpcore.AsyncNetworkStream):
    """A connection from which so much is read and no more: a target can send heads and no answer for ever."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left_bytes = MOST_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 # the base's
        if self._left_bytes <= 0:
            raise httpcore.ReadError(f"it sends more than {MOST_BYTES >> 10} KiB")
        found = await self._stream.read(min(max_bytes, PIECE_BYTES), timeout)
        self._left_bytes -= len(found)
        return found

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 # the base's
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 # the base's
    ) -> httpcore.AsyncNetworkStream:
        return _BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens httpcore's connections, to addresses that the guard let pass.

    Args:
        guard: judges each address.
        resolve: finds them.
    """

    def __init__(self, guard: Guard, resolve: Resolve = look_up) -> None:
        self._guard = guard
        self._resolve = resolve
        self._plain = httpcore.AnyIOBackend()
        self._opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 # the base's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that may be connected to and answers.

        Raises:
            Refused: all its addresses are refused.
            httpcore.ConnectError: none answers.
        """
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"its name cannot be looked up: {error.strerror or error}") from error
        refusal: Refused | None = None
        failure: Exception | None = None
        for address in addresses:
            try:
                self._guard.judge(host, address)
                stream = await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
                self._opened.append(stream)
                return _BoundedStream(stream)
            except Refused as error:
                refusal = error
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        if failure is None and refusal is not None:
            raise refusal
        raise failure or httpcore.ConnectError("its name has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 # the base's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Targets have none."""
        raise Refused("a Unix socket is no target")

    async def aclose(self) -> None:
        """Close what was opened: httpcore forgets a connection whose TLS handshake is cancelled."""
        for stream in self._opened:
            await stream.aclose()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
