"""Where targets may be: names, spellings of addresses, resolvers that lie, and what is on the wire."""

import asyncio
import ssl
from pathlib import Path

import httpcore
import pytest

from api.alerts.network import Guard, GuardedBackend, Place, Refused, look_up
from gigawatch.errors import ExitCode, GigawatchError
from tests.receivers import self_signed

METADATA = (
    *("169.254.169.254", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "192.0.0.192"),
    "168.63.129.16",
)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        *((address, "metadata") for address in METADATA),
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::1", "loopback"),
        ("169.254.7.7", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "link-local"),
        ("0.0.0.0", "unspecified"),  # noqa: S104 # nobody binds to it
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        # IPv4 addresses within IPv6 ones: mapped, compatible, NAT64, its local prefix, 6to4, Teredo.
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "metadata"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b:1::127.0.0.1", "loopback"),
        # As prefixes of 48, 56 and 64 bits have it, before what a translator does not look at.
        ("64:ff9b:1:a9fe:a9:fe00:808:808", "metadata"),
        ("64:ff9b:1:a9:fe:a9fe:808:808", "metadata"),
        ("64:ff9b:1:0:7f:0:108:808", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a9fe:a9fe::1", "metadata"),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", "loopback"),
    ],
)
def test_special_addresses_are_refused(address: str, reason: str) -> None:
    with pytest.raises(Refused, match=rf"is a.* {reason}.* address, .*alerts\.allow_targets"):
        Guard(()).judge("receiver.example.com", address)


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "192.168.0.9", "172.16.0.1", "100.64.0.1", "93.184.216.34", "fd00::1", "2606:2800:220:1::1"),
        # What NAT64 and 6to4 make of ordinary addresses.
        *("64:ff9b::93.184.216.34", "64:ff9b:1::93.184.216.34", "::ffff:10.0.0.1", "2002:5db8:d822::1"),
    ],
)
def test_private_networks_and_the_internet_are_not(address: str) -> None:
    Guard(()).judge("receiver.example.com", address)


def test_administrators_allow_networks_and_hosts() -> None:
    guard = Guard(("127.0.0.0/8", "fe80::/64", "Meta.Example.com.", "::1"))
    guard.judge("localhost", "127.0.0.1")
    guard.judge("localhost", "::1")
    guard.judge("localhost", "::ffff:127.0.0.1")
    guard.judge("x", "fe80::1")
    guard.judge("meta.example.com", "169.254.169.254")
    for host, address in (("other.example.com", "169.254.169.254"), ("x", "fe80:0:0:1::1"), ("x", "0.0.0.0")):  # noqa: S104
        with pytest.raises(Refused):
            guard.judge(host, address)


@pytest.mark.parametrize(
    "entry", ["", "10.0.0.1/8", "10.0.0.0/33", "2130706433", "0x7f.1", "a b", "http://x", "-x", "*"]
)
def test_what_is_neither_network_nor_host_is_named(entry: str) -> None:
    with pytest.raises(GigawatchError) as error:
        Guard(("10.0.0.0/8", entry))
    assert repr(entry) in error.value.problem and error.value.exit_code == ExitCode.CONFIGURATION


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("/hook", "http://"),
        ("https://", "host or port"),
        ("https://example.com:99999/", "host or port"),
        ("https://example.com:0/", "host or port"),
        ("https://[::1/", "host or port"),
        ("https://ada:s3cret@example.com/", "user or password"),
        ("https://example.com@127.0.0.1/", "user or password"),
        ("https://exa mple.com/", "characters"),
        ("https://example.com/\r\nHost: x", "characters"),
        ("https://exämple.com/", "characters"),
    ],
)
def test_urls_that_are_none_are_told_without_what_they_hide(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        Place(url)
    assert "s3cret" not in str(error.value)


def test_a_place_is_shown_without_its_path() -> None:
    place = Place("https://Hooks.example.com:8443/services/T1/s3cret?key=k#part")
    assert place.address == "https://hooks.example.com:8443" and place.path == "/services/T1/s3cret?key=k"
    assert Place("http://[::1]:9093").netloc == "[::1]:9093" and Place("http://[::1]:9093").path == "/"


class Receiver:
    """Counts connections, and keeps what the first request was."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.names: list[str | None] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()


async def post(backend: GuardedBackend, url: str, context: ssl.SSLContext | None = None) -> int:
    async with httpcore.AsyncConnectionPool(ssl_context=context, network_backend=backend) as pool:
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
        parsed = Place(url).parsed
        return (await pool.request("POST", parsed, content=b"{}", extensions={"timeout": timeout})).status


def test_every_spelling_of_loopback_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> Receiver:
        receiver = Receiver()
        server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        # A proxy of the environment would be an address that nobody judges.
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::1]")
        for host in (*hosts, "0.0.0.0"):  # noqa: S104 # nobody binds to it
            with pytest.raises(Refused, match=r"alerts\.allow_targets"):
                await post(GuardedBackend(Guard(())), f"http://{host}:{port}/")
        assert receiver.requests == []
        # The same name goes where it is allowed.
        assert await post(GuardedBackend(Guard(("127.0.0.0/8",))), f"http://2130706433:{port}/") == 200
        server.close()
        return receiver

    assert b"Host: 2130706433:" in asyncio.run(run()).requests[0]


def test_a_name_that_answers_differently_the_second_time_gains_nothing() -> None:
    answers = iter([["127.0.0.2"], ["169.254.169.254"], ["169.254.169.254", "127.0.0.2"]])
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async def run() -> None:
        receiver = Receiver()
        server = await asyncio.start_server(receiver.answer, "127.0.0.2", 0)
        url = f"http://rebinding.example.com:{server.sockets[0].getsockname()[1]}/"
        backend = GuardedBackend(Guard(("127.0.0.2",)), resolve)
        # One look-up a connection: what was judged is what is connected to.
        assert await post(backend, url) == 200 and len(asked) == 1
        with pytest.raises(
            Refused, match=r"rebinding\.example\.com \(169\.254\.169\.254\) is a cloud's metadata address"
        ):
            await post(backend, url)
        # Of several addresses those that are refused are left out.
        assert await post(backend, url) == 200
        assert len(receiver.requests) == 2
        server.close()

    asyncio.run(run())


def test_a_host_that_is_none_or_away_is_told() -> None:
    async def none(host: str, port: int) -> list[str]:
        return []

    async def run() -> None:
        with pytest.raises(httpcore.ConnectError, match="its name cannot be looked up"):
            await post(GuardedBackend(Guard(())), "http://nowhere.invalid/")
        with pytest.raises(httpcore.ConnectError, match="cannot be looked up: it is no host name"):
            await post(GuardedBackend(Guard(())), f"http://{'x' * 64}.example.com/")
        with pytest.raises(httpcore.ConnectError, match="has no address"):
            await post(GuardedBackend(Guard(()), none), "http://example.com/")
        with pytest.raises(Refused):
            await GuardedBackend(Guard(())).connect_unix_socket("/run/x")
        assert await look_up("localhost", 80)

    asyncio.run(run())


def test_certificates_are_the_names_though_the_address_is_pinned(tmp_path: Path) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    certificate = self_signed(tmp_path, "receiver.example.com")

    async def run() -> None:
        receiver = Receiver()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _, name, __: receiver.names.append(name)
        server = await asyncio.start_server(receiver.answer, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        backend = GuardedBackend(Guard(("127.0.0.1",)), resolve)
        trusting = ssl.create_default_context(cafile=certificate)
        assert await post(backend, f"https://receiver.example.com:{port}/", trusting) == 200
        assert receiver.names == ["receiver.example.com"]
        assert f"Host: receiver.example.com:{port}".encode() in receiver.requests[0]
        with pytest.raises(httpcore.ConnectError, match=r"(?i)hostname mismatch"):
            await post(backend, f"https://other.example.com:{port}/", trusting)
        with pytest.raises(httpcore.ConnectError, match="self-signed"):
            await post(backend, f"https://receiver.example.com:{port}/", ssl.create_default_context())
        server.close()

    asyncio.run(run())
