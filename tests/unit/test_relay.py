"""The relay's process over real HTTP: an agent sees the API, the server one client, and nothing is lost between."""

import gzip
import hashlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from collector import commands
from collector.client import Client, SequenceGap, zstd
from collector.sender import Sender
from collector.spool import Spool, Windows
from gigawatch.records import Event, MeterWindow, NodeWindow
from gigawatch.settings import Agent
from gigawatch.wire import BATCHES, JSON, MSGPACK, Batch, Outcome, encode, pack_nodes
from tests.agents import environment, wait_for
from tests.processes import GIGAWATCH, STOP_TIMEOUT_S
from tests.relays import Relay, Upstream, running_relay, running_upstream

NOW = datetime.now(UTC)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def relay(upstream: Upstream, tmp_path: Path) -> Iterator[Relay]:
    with running_relay(tmp_path / "relay", upstream.url, GIGAWATCH_RELAY__FORWARD_MS="20") as relay:
        yield relay
        assert relay.stop() == 0, relay.words()
        assert "Traceback" not in relay.words()


def batch(seq: int | None = None, node: str = "node-1", **more: Any) -> bytes:
    spool_id = None if seq is None else f"spool-of-{node}"
    return msgspec.msgpack.encode(
        Batch(machine_id=node, sent_at=datetime.now(UTC), spool_id=spool_id, seq=seq, oldest_seq=seq and 0, **more)
    )


def post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/api/v1/batches", content=body, headers={"Content-Type": MSGPACK, **headers})


def numbers(upstream: Upstream, node: str) -> list[int | None]:
    return [it.seq for it in upstream.stored if it.machine_id == node]


def test_an_agents_client_is_answered_as_by_the_api(relay: Relay, upstream: Upstream) -> None:
    client = Client(Agent(server_url=relay.url, token="agent-secret"))
    hello = client.hello()
    assert (hello.role, hello.max_clock_offset_s) == ("agent", 300)
    assert abs(hello.server_time - datetime.now(UTC)) < timedelta(seconds=5)
    window = NodeWindow(start=NOW, covered_ms=1, ticks_taken=1, ticks_expected=1, gpus_read=0, gpus_expected=0,
                        tick_ms=1_000, gpu_power_mw=(7,))  # fmt: skip
    numbered = Batch(machine_id="node-1", sent_at=datetime.now(UTC), spool_id="s", seq=3, oldest_seq=3)
    body = encode(numbered, node_windows=[window])
    receipt = client.post(body)
    assert (receipt.duplicate, receipt.node_windows, receipt.next_seq) == (False, 1, 4)
    assert client.post(body).duplicate
    with pytest.raises(SequenceGap, match="batch 4") as caught:
        client.post(encode(Batch(machine_id="node-1", sent_at=datetime.now(UTC), spool_id="s", seq=9, oldest_seq=3)))
    assert caught.value.expected == 4
    wait_for("the batch upstream", lambda: upstream.stored)
    (stored,) = upstream.stored
    assert (stored.machine_id, stored.spool_id, stored.seq, stored.oldest_seq) == ("node-1", "s", 3, 3)
    assert stored.packed_node_windows == pack_nodes([window])
    client.close()


def test_an_agents_sender_empties_its_spool_through_it(relay: Relay, upstream: Upstream, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 512, 72)
    for _ in range(30):
        spool.append(encode(Batch(machine_id="node-1", sent_at=NOW, spool_id=spool.spool_id)), Windows(), None)
    told: list[Event] = []
    sender = Sender(spool, Client(Agent(server_url=relay.url, token="agent-secret")), told.append)
    sender.start()
    wait_for("batches upstream", lambda: len(upstream.stored) == 30)
    sender.finish(5)
    assert numbers(upstream, "node-1") == list(range(30))
    assert not told
    spool.close()


def test_many_agents_batches_go_in_one_request(relay: Relay, upstream: Upstream) -> None:
    with relay.client() as client, ThreadPoolExecutor(16) as threads:

        def agent(node: int) -> list[int]:
            return [post(client, batch(seq, f"node-{node}")).status_code for seq in range(10)]

        statuses = list(threads.map(agent, range(40)))
    assert {status for of_one in statuses for status in of_one} == {200}
    wait_for("batches upstream", lambda: len(upstream.stored) == 400)
    for node in range(40):
        assert numbers(upstream, f"node-{node}") == list(range(10))
    assert len(upstream.requests) < 200
    assert upstream.duplicates == 0


def test_encodings_and_json_are_taken_as_by_the_api(relay: Relay, upstream: Upstream) -> None:
    event = {"time": NOW, "kind": "xid", "severity": "info", "message": "m"}
    window = {"meter": "m", "start": NOW, "covered_ms": 1, "readings_taken": 1, "readings_expected": 1, "energy_mj": 7}
    json = msgspec.json.encode(
        {"machine_id": "meter-7", "sent_at": datetime.now(UTC), "events": [event], "meter_windows": [window]}
    )
    with relay.client() as client:
        assert post(client, batch(node="a")).json()["next_seq"] is None
        assert post(client, zstd.compress(batch(node="b")), **{"Content-Encoding": "zstd"}).status_code == 200
        assert post(client, gzip.compress(batch(node="c")), **{"Content-Encoding": "gzip"}).status_code == 200
        answer = post(client, json, **{"Content-Type": JSON})
        assert answer.status_code == 200
        assert answer.json()["events"] == 1
    wait_for("batches upstream", lambda: len(upstream.stored) == 4)
    stored = {it.machine_id: it for it in upstream.stored}
    assert set(stored) == {"a", "b", "c", "meter-7"}
    assert msgspec.msgpack.decode(stored["meter-7"].events[0], type=Event).kind == "xid"
    assert msgspec.msgpack.decode(stored["meter-7"].meter_windows[0], type=MeterWindow).energy_mj == 7


def test_what_is_wrong_is_refused_as_by_the_api(upstream: Upstream, tmp_path: Path) -> None:
    far = msgspec.msgpack.encode(Batch(machine_id="m", sent_at=NOW - timedelta(hours=1)))
    cases: list[tuple[bytes, dict[str, str], int]] = [
        (b"\xc1", {}, 400),
        (batch()[:-3], {}, 400),
        (zstd.compress(batch())[:-3], {"Content-Encoding": "zstd"}, 400),
        (bytes(1_100_000), {}, 413),
        (zstd.compress(bytes(1_100_000)), {"Content-Encoding": "zstd"}, 413),
        (batch(), {"Content-Encoding": "br"}, 415),
        (batch(), {"Content-Type": "text/plain"}, 415),
        (batch(), {"Content-Type": BATCHES}, 415),
        (far, {}, 422),
    ]
    settings = {"GIGAWATCH_RELAY__MAX_BODY_MIB": "1"}
    with running_relay(tmp_path / "relay", upstream.url, **settings) as relay, relay.client() as client:
        for body, headers, status in cases:
            answer = post(client, body, **headers)
            assert (answer.status_code, set(answer.json()) - {"code"}) == (status, {"detail"}), answer.text
        assert post(client, far).json()["code"] == "clock"
        assert post(client, batch(0)).status_code == 200
        gap = post(client, batch(5))
        assert (gap.status_code, gap.json()["code"], gap.json()["expected_seq"]) == (409, "gap", 1)
        foreign = msgspec.msgpack.encode(Batch(machine_id="x", sent_at=datetime.now(UTC), spool_id="spool-of-node-1",
                                               seq=2))  # fmt: skip
        assert post(client, foreign).status_code == 422
        assert client.get("/api/v1/fleet").status_code == 404
        assert client.get("/api/v1/batches").status_code == 405


def test_tokens_are_those_of_the_server(relay: Relay, upstream: Upstream) -> None:
    for secret, path, status in [
        ("agent-secret", "/api/v1/hello", 200), ("viewer-secret", "/api/v1/hello", 200),
        ("admin-secret", "/metrics", 200), ("viewer-secret", "/metrics", 200), ("agent-secret", "/metrics", 403),
        ("unknown", "/metrics", 401), ("unknown", "/api/v1/hello", 401), ("é", "/api/v1/hello", 401),
        ("x" * 300, "/api/v1/hello", 401),
    ]:  # fmt: skip
        answer = httpx.get(relay.url + path, headers={"Authorization": f"Bearer {secret}".encode()})
        assert answer.status_code == status, (secret, path)
        assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    for secret, status in [("agent-secret", 200), ("admin-secret", 200), ("viewer-secret", 403), ("unknown", 401)]:
        with relay.client(secret) as client:
            assert post(client, batch(node="a")).status_code == status
    # Each was asked about once.
    asked = [digest for digest in upstream.asked if digest != hashlib.sha256(b"relay-secret").hexdigest()]
    assert len(asked) == len(set(asked)) == 4


def test_tokens_that_were_good_are_taken_while_the_server_is_away(upstream: Upstream, tmp_path: Path) -> None:
    with running_relay(tmp_path / "relay", upstream.url) as relay:
        with relay.client() as client:
            assert post(client, batch(0)).status_code == 200
        wait_for("the batch upstream", lambda: upstream.stored)
        upstream.stop()
        relay.kill()
        relay.start()
        with relay.client() as client:
            assert post(client, batch(1)).status_code == 200
        with relay.client("admin-secret") as client:
            answer = post(client, batch(2))
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
        for path in relay.data_dir.iterdir():
            assert b"agent-secret" not in path.read_bytes()
        upstream.start()
        wait_for("what came meanwhile", lambda: numbers(upstream, "node-1") == [0, 1])


def test_a_killed_relay_has_what_it_acknowledged_and_sends_it_once(upstream: Upstream, tmp_path: Path) -> None:
    with running_relay(tmp_path / "relay", upstream.url, GIGAWATCH_RELAY__FORWARD_MS="5") as relay:
        ended = threading.Event()
        acknowledged: dict[str, int] = {}

        def agent(node: str) -> None:
            seq = 0
            with relay.client() as client:
                while not ended.is_set():
                    try:
                        answer = post(client, batch(seq, node))
                    except httpx.HTTPError:
                        ended.wait(0.02)
                        continue
                    if answer.status_code == 200:
                        seq = answer.json()["next_seq"]
                        acknowledged[node] = seq
                    else:
                        assert answer.status_code == 503, answer.text

        threads = [threading.Thread(target=agent, args=(f"node-{node}",)) for node in range(6)]
        for thread in threads:
            thread.start()
        for turn in range(6):
            ended.wait(0.3)
            upstream.lose_answers = turn % 2 == 1
            ended.wait(0.2)
            relay.kill()
            upstream.lose_answers = False
            relay.start()
        ended.wait(0.3)
        ended.set()
        for thread in threads:
            thread.join()
        wait_for("all that was acknowledged", lambda: len(upstream.stored) >= sum(acknowledged.values()))
        wait_for("an empty spool", lambda: relay.figures()["batches_waiting"] == 0)
    assert len(acknowledged) == 6
    for node, next_seq in acknowledged.items():
        found = numbers(upstream, node)
        # One more may have been stored whose answer the agent never got.
        assert found == list(range(len(found)))
        assert len(found) in {next_seq, next_seq + 1}


def test_sigterm_answers_forwards_and_ends_with_0(upstream: Upstream, tmp_path: Path) -> None:
    with running_relay(tmp_path / "relay", upstream.url, GIGAWATCH_RELAY__FORWARD_MS="60000") as relay:
        with relay.client() as client:
            for seq in range(20):
                assert post(client, batch(seq)).status_code == 200
        assert relay.stop() == 0
        assert numbers(upstream, "node-1") == list(range(20))


def test_an_end_while_the_server_is_away_leaves_all_to_the_next_relay(upstream: Upstream, tmp_path: Path) -> None:
    with running_relay(tmp_path / "relay", upstream.url) as relay:
        with relay.client() as client:
            post(client, batch(0))
            wait_for("the batch upstream", lambda: upstream.stored)
            upstream.stop()
            for seq in range(1, 4):
                assert post(client, batch(seq)).status_code == 200
        # Nothing but that: Python, as it ends, no longer heeds what it is sent next.
        relay.process.send_signal(signal.SIGINT)
        assert relay.process.wait(STOP_TIMEOUT_S) == 0, relay.words()
        assert "3 batches wait for the next relay" in relay.words()
        upstream.start()
        relay.start()
        wait_for("the rest", lambda: numbers(upstream, "node-1") == [0, 1, 2, 3])


def test_nodes_keep_their_own_clock_offset(relay: Relay, upstream: Upstream) -> None:
    upstream.trouble = lambda batches: 503
    ahead = msgspec.msgpack.encode(Batch(machine_id="ahead", sent_at=datetime.now(UTC) + timedelta(seconds=90)))
    with relay.client() as client:
        assert post(client, ahead).status_code == 200
        assert post(client, batch(node="right")).status_code == 200
    wait_for("a failure", lambda: relay.figures()["upstream_failures_total"] >= 2)
    upstream.trouble = lambda batches: None
    wait_for("batches upstream", lambda: len(upstream.stored) == 2)
    offsets = {it.machine_id: (it.sent_at - datetime.now(UTC)).total_seconds() for it in upstream.stored}
    # What it took from saying the time to posting it, and to looking at what came, is a part.
    assert offsets["ahead"] - offsets["right"] == pytest.approx(90, abs=10)
    assert offsets["right"] == pytest.approx(0, abs=10)


def test_a_server_that_says_clock_gets_the_batch_later(relay: Relay, upstream: Upstream) -> None:
    upstream.judge = lambda batch: Outcome(status=422, code="clock") if batch.machine_id == "off" else None
    with relay.client() as client:
        post(client, batch(0, "off"))
        post(client, batch(0, "right"))
    wait_for("the other's batch", lambda: upstream.stored)
    upstream.judge = lambda batch: None
    wait_for("the batch", lambda: len(upstream.stored) == 2)
    assert not any(it.events for it in upstream.stored)


def test_what_waits_and_what_came_is_told(upstream: Upstream, tmp_path: Path) -> None:
    with running_relay(tmp_path / "relay", upstream.url) as relay:
        with relay.client() as client:
            post(client, batch(0))
            wait_for("the batch upstream", lambda: upstream.stored)
            upstream.trouble = lambda batches: 503
            for seq in (0, 1, 2, 7):
                post(client, batch(seq))
        figures = wait_for("a failure", lambda: (it := relay.figures())["upstream_failures_total"] and it)
        assert figures["batches_received_total"] == 4
        assert figures["batches_received_duplicate_total"] == 1
        assert figures["batches_not_taken_total"] == 1
        assert figures["batches_forwarded_total"] == 1
        assert figures["batches_waiting"] == 2
        assert figures["bytes_waiting"] == 2 * len(batch(1))
        assert 0 < figures["oldest_waiting_seconds"] < 30
        assert figures["batches_dropped_total"] == 0


def test_a_relay_whose_token_is_refused_ends_with_3(upstream: Upstream, tmp_path: Path) -> None:
    for token in ("viewer-secret", "unknown"):
        done = subprocess.run(
            [*GIGAWATCH, "collect", "--relay", "--server-url", upstream.url, "--data-dir", tmp_path],
            env=environment(None, GIGAWATCH_AGENT__TOKEN=token, GIGAWATCH_RELAY__PORT="0"),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 3
        assert "refuses the token" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--relay", "--once"], "give one of them"),
        (["--port", "1"], "go with --relay"),
        (["--relay", "--json"], "--json goes with --once"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(commands.collect, arguments)
    assert result.exit_code == 2
    assert words in result.output
