"""Endpoints over real sockets: those that hang, never end, are web pages or are cut off cost nobody else anything."""

import gzip
import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.answers import connections
from collector.engines import exposition
from collector.engines.commands import engines as command
from collector.engines.exposition import fetch
from collector.engines.scraper import Engines
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import ServingWindow
from gigawatch.settings import Engine
from gigawatch.units import MILLISECONDS_PER_SECOND
from tests.agents import wait_for

EXPOSITIONS = Path(__file__).parents[1] / "engines"
Behaviour = Callable[[socket.socket], None]


class Server(socketserver.ThreadingTCPServer):
    """Reads one request after the other, and answers each as it is told to."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.ending = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/metrics"


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        buffer = b""
        try:
            while not self.server.ending.is_set():
                received = self.request.recv(65_536)
                if not received:
                    return
                buffer += received
                if b"\r\n\r\n" in buffer:
                    buffer = b""
                    self.server.behaviour(self.request)
        except OSError:
            return


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers = []

    def start(behaviour: Behaviour) -> Server:
        servers.append(Server(behaviour))
        return servers[-1]

    yield start
    for server in servers:
        server.ending.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time limit, shortened for tests."""
    monkeypatch.setattr(exposition, "TIME_LIMIT_S", 0.4)
    return 0.4


def whole(body: bytes, status: str = "200 OK", **headers: str) -> Behaviour:
    """An answer with its length."""
    fields = {"Content-Type": "text/plain; version=0.0.4", "Content-Length": str(len(body)),
              **{name.replace("_", "-"): value for name, value in headers.items()}}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return lambda it: it.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body)


def served(name: str) -> bytes:
    return (EXPOSITIONS / f"{name}.prom").read_bytes()


def hang(connection: socket.socket) -> None:
    connection.recv(1)


def trickle(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        connection.sendall(b"2\r\n# \r\n")
        time.sleep(0.05)


def trickle_head(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
    for number in range(90):
        connection.sendall(f"X-{number}: and so on\r\n".encode())
        time.sleep(0.05)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        connection.sendall(b"# and so on\n" * 10_000)


def cut_off(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1000\r\n\r\nvllm:x 1\n")
    connection.shutdown(socket.SHUT_RDWR)


def cut_off_chunk(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nvllm:x 1\n")
    connection.shutdown(socket.SHUT_RDWR)


def not_http(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


REFUSED: dict[str, tuple[Behaviour, str, ExitCode]] = {
    "hangs": (hang, "does not answer within 0.4 s", ExitCode.UNREACHABLE),
    "trickles from its head on": (trickle_head, "does not answer within 0.4 s", ExitCode.UNREACHABLE),
    "trickles": (trickle, "does not end its answer within 0.4 s", ExitCode.UNREACHABLE),
    "never ends": (endless, "answers more than 1 MiB", ExitCode.DATA),
    "is cut off": (cut_off, "cannot be reached", ExitCode.UNREACHABLE),
    "is cut off in a chunk": (cut_off_chunk, "cannot be reached", ExitCode.UNREACHABLE),
    "resets": (lambda it: it.shutdown(socket.SHUT_RDWR), "cannot be reached", ExitCode.UNREACHABLE),
    "is not HTTP": (not_http, "cannot be reached", ExitCode.UNREACHABLE),
    "is a web page": (whole(b"<!doctype html>", Content_Type="text/html"), "a web page", ExitCode.DATA),
    "is a web page that says it is not": (whole(b" <html>hello</html>"), "a web page", ExitCode.DATA),
    "is compressed unasked": (whole(gzip.compress(b"x 1"), Content_Encoding="gzip"), "coding gzip", ExitCode.DATA),
    "is elsewhere": (whole(b"", "307 Moved", Location="/metrics/"), "leads to /metrics/", ExitCode.CONFIGURATION),
    "is not found": (whole(b"{}", "404 Not Found"), "404 Not Found", ExitCode.CONFIGURATION),
    "is locked": (whole(b"", "401 Unauthorized"), "401 Unauthorized", ExitCode.CONFIGURATION),
    "fails": (whole(b"", "503 Unavailable"), "503 Unavailable", ExitCode.UNREACHABLE),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_answer_that_is_none_is_refused_in_time(
    kind: str, serve: Callable[[Behaviour], Server], quick: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.exposition.MOST_BYTES", 1_048_576)
    behaviour, words, code = REFUSED[kind]
    server = serve(behaviour)
    began_s = time.monotonic()
    with connections() as pool, pytest.raises(GigawatchError) as caught:
        fetch(pool, server.url)
    assert time.monotonic() - began_s < 5 * quick
    assert words in caught.value.problem
    assert server.url in caught.value.problem
    assert caught.value.exit_code == code
    assert caught.value.remedy


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused = r"/metrics cannot be reached: Failed to establish a new connection: .*Connection refused"
    with connections() as pool, pytest.raises(GigawatchError, match=refused):
        fetch(pool, f"http://127.0.0.1:{port}/metrics")
    with connections() as pool, pytest.raises(GigawatchError, match=r"no address of metrics: .*scheme ftp") as caught:
        fetch(pool, "ftp://127.0.0.1/metrics")
    assert caught.value.exit_code == ExitCode.CONFIGURATION


def test_an_answer_that_says_it_is_not_compressed_is_read(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(whole(served("tgi"), Content_Encoding="identity"))
    with connections() as pool:
        assert fetch(pool, server.url).text == served("tgi").decode()


def test_what_no_text_of_the_store_may_have_is_replaced(serve: Callable[[Behaviour], Server]) -> None:
    """A window whose model has a NUL in its name would be refused by the server, and its tokens lost."""
    server = serve(whole(b'vllm:generation_tokens_total{model_name="a\0b"} 1\n'))
    assert fetch(connections(), server.url).text == 'vllm:generation_tokens_total{model_name="a\ufffdb"} 1\n'


def test_an_answer_is_read_again_over_the_same_connection(serve: Callable[[Behaviour], Server]) -> None:
    seen = set()

    def answer(connection: socket.socket) -> None:
        seen.add(connection.getpeername())
        whole(served("vllm"))(connection)

    server = serve(answer)
    with connections() as pool:
        first, second = fetch(pool, server.url), fetch(pool, server.url)
    assert first.text == second.text == served("vllm").decode()
    assert len(seen) == 1


class Counting:
    """An engine that counts tokens while it is asked for its metrics."""

    def __init__(self) -> None:
        self.tokens = 1_000
        self.last_told: list[int] = []

    def __call__(self, connection: socket.socket) -> None:
        self.tokens += 37
        self.last_told.append(self.tokens)
        text = (
            "# TYPE vllm:generation_tokens_total counter\n"
            f'vllm:generation_tokens_total{{engine="0",model_name="m"}} {self.tokens:e}\n'
            f'vllm:num_requests_running{{engine="0",model_name="m"}} 3\n'
        )
        whole(text.encode())(connection)


def settings(url: str, deployment: str = "chat", **more: str) -> Engine:
    return Engine(url=url, deployment=deployment, interval_s=0.1, **more)


def now_ms() -> int:
    return round(time.time() * MILLISECONDS_PER_SECOND)


def gather(engines: Engines, seconds: float) -> tuple[list[ServingWindow], float]:
    """The windows of some seconds of an agent's ticks, and how long the slowest of them took."""
    windows: list[ServingWindow] = []
    slowest_s = 0.0
    until_s = time.monotonic() + seconds
    engines.start()
    while time.monotonic() < until_s:
        began_s = time.monotonic()
        engines.tick(now_ms())
        windows += engines.close(now_ms())
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        time.sleep(0.05)
    engines.shut()
    time.sleep(0.3)
    engines.tick(now_ms())
    return windows + engines.close(now_ms(), stop=True), slowest_s


def test_tokens_of_a_real_endpoint_are_conserved(serve: Callable[[Behaviour], Server]) -> None:
    counting = Counting()
    engines = Engines((settings(serve(counting).url),), 1_000, now_ms())
    windows, _ = gather(engines, 2.5)
    told = counting.last_told
    assert len(told) > 3
    # An answer under way at the end may not have been taken in.
    assert sum(it.generated_tokens or 0 for it in windows) in {told[-1] - told[0], told[-2] - told[0]}
    assert {(it.deployment, it.engine, it.model) for it in windows} == {("chat", "vllm", "m")}
    observed_ms = sum(it.observed_ms for it in windows)
    assert sum(it.running_request_ms or 0 for it in windows) == 3 * observed_ms
    assert sum(it.active_ms or 0 for it in windows) == observed_ms
    assert engines.take() == []


def test_an_endpoint_that_hangs_delays_neither_ticks_nor_others(serve: Callable[[Behaviour], Server]) -> None:
    counting = Counting()
    urls = [serve(hang).url, serve(counting).url, serve(trickle).url]
    engines = Engines(tuple(settings(url, f"d{number}") for number, url in enumerate(urls)), 1_000, now_ms())
    windows, slowest_s = gather(engines, 1.5)
    assert {it.deployment for it in windows} == {"d1"}
    # Behind the one that hangs it would not have been asked twice.
    assert len(counting.last_told) > 3
    assert slowest_s < exposition.TIME_LIMIT_S / 2, "a tick waited for an endpoint"


def test_an_engine_is_recognised_anew_when_another_takes_its_place(serve: Callable[[Behaviour], Server]) -> None:
    asked: list[str] = []

    def telling(name: str) -> Behaviour:
        def behave(connection: socket.socket) -> None:
            asked.append(name)
            whole(served(name))(connection)

        return behave

    server = serve(telling("vllm_v0"))
    engines = Engines((settings(server.url),), 1_000, now_ms())
    engines.start()
    wait_for("windows of the one", lambda: asked.count("vllm_v0") >= 5)
    server.behaviour = telling("llamacpp")
    wait_for("windows of the other", lambda: asked.count("llamacpp") >= 10)
    engines.tick(now_ms())
    engines.shut()
    assert {it.engine for it in engines.close(now_ms(), stop=True)} == {"vllm", "llamacpp"}


def test_an_engine_that_is_not_known_is_refused_before_anything_is_read() -> None:
    with pytest.raises(GigawatchError, match="'vlllm'"):
        Engines((settings("http://127.0.0.1:1/metrics", engine="vlllm"),), 10_000, now_ms())


@pytest.mark.parametrize(
    "other",
    ["http://127.0.0.1:1/metrics", "http://localhost:1/metrics", "http://LOCALHOST:1/metrics/", "http://[::1]:1"],
)
def test_an_address_that_is_named_twice_is_refused(other: str) -> None:
    """However it is written: its tokens would be counted twice, without a word."""
    twice = (settings("http://127.0.0.1:1"), settings(other, "other"))
    with pytest.raises(GigawatchError, match="2 times") as caught:
        Engines(twice, 10_000, now_ms())
    assert caught.value.exit_code == ExitCode.CONFIGURATION


def test_models_of_a_router_are_told_apart_by_their_addresses(serve: Callable[[Behaviour], Server]) -> None:
    url = serve(whole(served("llamacpp"))).url
    engines = Engines((settings(f"{url}?model=a", model="a"), settings(f"{url}?model=b", model="b")), 1_000, now_ms())
    windows, _ = gather(engines, 0.5)
    host = url.removeprefix("http://")
    assert {(it.endpoint, it.model) for it in windows} == {(f"{host}?model=a", "a"), (f"{host}?model=b", "b")}


def test_an_agent_without_engines_does_not_load_the_parser() -> None:
    code = "import sys, collector.commands; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_probe_says_what_is_there_and_what_is_missing(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(whole(served("tgi")))
    done = invoke("probe", server.url)
    assert done.exit_code == 0, done.output
    for words in (
        "is Hugging Face TGI", "2,400, counted when a request ends  (tgi_request_generated_tokens_sum)",
        "time to first token not served: no quantiles", "p50 ≤ 0.03 s, p95 beyond the histogram, of 30 since the start",
        "It does not name its model: set `model`",
    ):  # fmt: skip
        assert words in done.output, done.output


def test_probe_in_json_with_rates(serve: Callable[[Behaviour], Server]) -> None:
    counting = Counting()
    done = invoke("probe", serve(counting).url, "--seconds", "0.2", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.output)
    assert (report["engine"], report["models"][0]["model"]) == ("vllm", "m")
    figures = {it["figure"]: it for it in report["models"][0]["figures"]}
    assert figures["generated_tokens"]["per_second"] == pytest.approx(37 / report["seconds"], rel=0.01)
    assert figures["running_requests"]["value"] == 3
    assert "metric" not in figures["prompt_tokens"]
    assert figures["prompt_tokens"]["missing"]


def test_probe_tells_labels_that_are_not_known(serve: Callable[[Behaviour], Server]) -> None:
    text = b'vllm:generation_tokens_total{model_name="m",shard="1"} 5\nprocess_start_time_seconds 1.79e9\n'
    done = invoke("probe", serve(whole(text)).url)
    assert "Labels that are not known of vLLM: shard" in done.output


def test_probe_ends_with_1_where_no_generated_tokens_are_counted(serve: Callable[[Behaviour], Server]) -> None:
    server = serve(whole(b'vllm:prompt_tokens_total{model_name="m"} 5\n'))
    done = invoke("probe", server.url)
    assert done.exit_code == ExitCode.FAILURE
    assert "energy per token cannot be formed" in done.output


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("is a web page", "/prometheus/metrics (trtllm), /v1/metrics (nim)"),
        ("is not found", "/prometheus/metrics (trtllm), /v1/metrics (nim)"),
        ("is cut off", "30000 (sglang)"),
        ("fails", "the log of what serves them"),
    ],
)
def test_probe_teaches_where_it_fails(kind: str, remedy: str, serve: Callable[[Behaviour], Server]) -> None:
    behaviour, words, code = REFUSED[kind]
    done = invoke("probe", serve(behaviour).url)
    assert done.exit_code == code
    assert words in done.output
    assert remedy in done.output


def test_probe_lists_what_it_saw_where_it_recognises_nothing(serve: Callable[[Behaviour], Server]) -> None:
    done = invoke("probe", serve(whole(b"# TYPE node_load1 gauge\nnode_load1 0.5\n")).url)
    assert done.exit_code == ExitCode.DATA
    assert "node_load1" in done.output


def test_list_names_every_engine_with_its_address() -> None:
    done = invoke("list")
    assert done.exit_code == 0
    assert len(done.output.splitlines()) == len(json.loads(invoke("list", "--json").output)) >= 9
    assert "http://HOST:8000/prometheus/metrics" in done.output
