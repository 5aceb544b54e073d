"""A relay's spool and forwarder: what was acknowledged goes up once and in order, whatever is lost or restarted."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from collector import client as client_module
from collector import sender as pauses
from collector.client import Client, SequenceGap, ServerUnreachable
from collector.relay.forwarder import MOST_BYTES, Forwarder
from collector.relay.intake import Arrival, decode
from collector.relay.spool import ForeignSpool, RelaySpool
from collector.spool import SpoolFull, Windows
from gigawatch.bodies import Unacceptable, decompress
from gigawatch.errors import GigawatchError
from gigawatch.records import Event, Inventory
from gigawatch.settings import Agent, Relay
from gigawatch.wire import JSON, MSGPACK, Batch, Outcome, Receipt, Refusal
from tests.agents import wait_for
from tests.relays import Upstream, running_upstream

MANY = 1_000


def arrival(
    machine_id: str = "node-1", seq: int | None = None, oldest_seq: int | None = None, *, spool_id: str | None = None,
    offset_s: float = 0.0, **more: Any,
) -> Arrival:  # fmt: skip
    """A batch of a node; a numbered one is of the node's own spool."""
    if seq is not None:
        spool_id = spool_id or f"spool-of-{machine_id}"
    sent_at = datetime.now(UTC) + timedelta(seconds=offset_s)
    batch = Batch(machine_id=machine_id, sent_at=sent_at, spool_id=spool_id, seq=seq, oldest_seq=oldest_seq, **more)
    return Arrival(batch, offset_s, msgspec.msgpack.encode(batch))


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as upstream:
        yield upstream


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[RelaySpool]:
    spool = RelaySpool(tmp_path / "relay.sqlite", 4_096, 72)
    yield spool
    spool.close()


def forwarder(spool: RelaySpool, upstream: Upstream, **relay: Any) -> Forwarder:
    return Forwarder(spool, Client(Agent(server_url=upstream.url, token="relay-secret")), Relay(**relay))


def forward(sender: Forwarder, spool: RelaySpool) -> None:
    """Send what the spool has to give now."""
    while waiting := spool.take(MANY, MOST_BYTES, sender._held):
        sender._send(waiting)


def sent(upstream: Upstream) -> list[tuple[str, int | None]]:
    return [(batch.machine_id, batch.seq) for batch in upstream.stored]


def events(upstream: Upstream) -> list[tuple[str, Event]]:
    return [
        (batch.machine_id, msgspec.msgpack.decode(raw, type=Event)) for batch in upstream.stored for raw in batch.events
    ]


def test_numbers_are_admitted_as_the_api_admits_them(spool: RelaySpool) -> None:
    def answer(*given: Any, **more: Any) -> Any:
        return spool.append([arrival(*given, **more)])[0]

    first = answer("node-1", 7, 7)
    assert isinstance(first, Receipt)
    assert (first.duplicate, first.next_seq) == (False, 8)
    again = answer("node-1", 7, 7)
    assert (again.duplicate, again.next_seq) == (True, 8)
    gap = answer("node-1", 9, 7)
    assert isinstance(gap, SequenceGap)
    assert gap.expected == 8
    # Its own spool dropped 8 and 9.
    assert answer("node-1", 10, 10).next_seq == 11
    assert isinstance(answer("node-2", 11, spool_id="spool-of-node-1"), ForeignSpool)
    # An agent that does not say what it still has begins where it begins.
    assert answer("node-3", 4).next_seq == 5
    # One whose first number comes too early waits for its oldest.
    gap = answer("node-4", 5, 3)
    assert isinstance(gap, SequenceGap)
    assert gap.expected == 3
    assert answer("node-5").next_seq is None
    assert spool.totals().batches == 4


def test_batches_of_one_transaction_may_come_in_any_order(spool: RelaySpool) -> None:
    answers = spool.append([arrival("node-1", seq, 0) for seq in (2, 0, 1)])
    assert [it.next_seq for it in answers if isinstance(it, Receipt)] == [3, 1, 2]


STEPS = st.one_of(
    st.tuples(st.just("post"), st.integers(0, 2), st.integers(-3, 2)),
    st.tuples(st.just("drop"), st.integers(0, 2), st.integers(1, 3)),
    st.tuples(st.just("unnumbered"), st.integers(0, 2), st.just(0)),
    st.tuples(st.sampled_from(["forward", "lose", "restart", "crash"]), st.integers(1, 4), st.just(0)),
)


@hypothesis_settings(max_examples=60)
@given(st.lists(STEPS, max_size=40))
def test_each_batch_that_was_acknowledged_is_stored_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    with running_upstream() as upstream, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.sqlite"
        spool = RelaySpool(path, 4_096, 72)
        sender = forwarder(spool, upstream)
        next_seq, oldest_seq = [0, 0, 0], [0, 0, 0]
        acknowledged: dict[str, list[int]] = {f"node-{node}": [] for node in range(3)}
        unnumbered = 0
        for step, node, change in steps:
            name = f"node-{node}"
            match step:
                case "post":
                    seq = max(0, next_seq[node] + change)
                    (answer,) = spool.append([arrival(name, seq, min(seq, oldest_seq[node]))])
                    if isinstance(answer, Receipt) and not answer.duplicate:
                        assert seq == next_seq[node]
                        acknowledged[name].append(seq)
                        next_seq[node] += 1
                    else:
                        assert seq != next_seq[node]
                case "drop":
                    # The agent's own spool was at its bound.
                    next_seq[node] = oldest_seq[node] = next_seq[node] + change
                    spool.append([arrival(name, next_seq[node], oldest_seq[node])])
                    acknowledged[name].append(next_seq[node])
                    next_seq[node] += 1
                case "unnumbered":
                    spool.append([arrival(name, node_windows=[msgspec.Raw(b"\xc0")])])
                    unnumbered += 1
                case "restart":
                    spool.close()
                    spool = RelaySpool(path, 4_096, 72)
                    sender = forwarder(spool, upstream)
                case _ if waiting := spool.take(node, MOST_BYTES):
                    if step == "crash":
                        # The server has them, and the relay does not live to know.
                        numbered = [msgspec.msgpack.decode(it.body, type=Batch) for it in waiting]
                        upstream.take([
                            msgspec.structs.replace(batch, spool_id=it.spool_id, seq=it.seq, oldest_seq=it.oldest_seq)
                            for batch, it in zip(numbered, waiting, strict=True)
                        ])  # fmt: skip
                        continue
                    upstream.lose_answers = step == "lose"
                    if step == "lose":
                        with pytest.raises(ServerUnreachable):
                            sender._send(waiting)
                    else:
                        sender._send(waiting)
        upstream.lose_answers = False
        forward(sender, spool)
        assert spool.totals().batches == 0
        assert spool.totals().bytes == 0
        spool.close()
        for name, seqs in acknowledged.items():
            assert [batch.seq for batch in upstream.stored if batch.spool_id == f"spool-of-{name}"] == seqs
        assert sum(bool(batch.node_windows) for batch in upstream.stored) == unnumbered
        assert not sender._held


def test_what_follows_a_gap_of_the_agent_waits_until_what_is_before_it_is_stored(
    spool: RelaySpool, upstream: Upstream
) -> None:
    spool.append([arrival("node-1", 0, 0), arrival("node-1", 1, 0), arrival("node-2", 0, 0)])
    spool.append([arrival("node-1", 5, 5)])
    sender = forwarder(spool, upstream)
    upstream.judge = lambda batch: Outcome(status=422, code="clock") if batch.machine_id == "node-1" else None
    forward(sender, spool)
    assert sent(upstream) == [("node-2", 0)]
    upstream.judge = lambda batch: None
    sender._held.clear()
    forward(sender, spool)
    assert sent(upstream) == [("node-2", 0), ("node-1", 0), ("node-1", 1), ("node-1", 5)]
    assert upstream.stored[-1].oldest_seq == 5


def test_the_oldest_number_is_the_least_that_the_relay_holds(spool: RelaySpool) -> None:
    spool.append([arrival("node-1", seq, 3) for seq in (3, 4, 5)])
    assert [(it.seq, it.oldest_seq) for it in spool.take(MANY, MOST_BYTES)] == [(3, 3), (4, 3), (5, 3)]
    spool.settle(spool.take(1, MOST_BYTES), [])
    assert [(it.seq, it.oldest_seq) for it in spool.take(MANY, MOST_BYTES)] == [(4, 4), (5, 4)]


def test_a_server_that_begins_anew_is_given_what_is_left(spool: RelaySpool, upstream: Upstream) -> None:
    spool.append([arrival("node-1", seq, 0) for seq in range(4)])
    upstream.cursors["spool-of-node-1"] = "node-1", 2
    spool.settle(spool.take(1, MOST_BYTES), [])
    forward(forwarder(spool, upstream), spool)
    # 1 is a duplicate to it.
    assert sent(upstream) == [("node-1", 2), ("node-1", 3)]


def test_what_the_server_waits_for_later_numbers_is_done_with(spool: RelaySpool, upstream: Upstream) -> None:
    spool.append([arrival("node-1", 0, 0)])
    upstream.judge = lambda batch: Outcome(status=409, code="gap", expected_seq=9)
    sender = forwarder(spool, upstream)
    forward(sender, spool)
    assert spool.totals().batches == 0
    assert sender.counts.duplicates == 1


def test_refusals_are_told_of_the_node_and_hold_up_nobody(spool: RelaySpool, upstream: Upstream) -> None:
    spool.append([arrival("node-1", seq, 0, offset_s=7.0, simulated=True) for seq in range(3)])
    spool.append([arrival("node-2", 0, 0)])

    def judge(batch: Batch) -> Outcome | None:
        if batch.machine_id == "node-1" and batch.seq == 1 and batch.spool_id == "spool-of-node-1":
            return Outcome(status=422, detail="no good")
        return None

    upstream.judge = judge
    forward(forwarder(spool, upstream), spool)
    assert sorted(sent(upstream)[:2]) == [("node-1", 0), ("node-2", 0)]
    assert ("node-1", 2) in sent(upstream)
    ((machine_id, event),) = events(upstream)
    assert (machine_id, event.kind) == ("node-1", "batch_refused")
    assert event.message == "The server refused batch 1 whole: 422: no good"
    told = next(batch for batch in upstream.stored if batch.events)
    assert told.simulated
    assert (told.sent_at - datetime.now(UTC)).total_seconds() == pytest.approx(7, abs=5)


def test_refused_items_are_told_but_not_of_the_relays_own_events(spool: RelaySpool, upstream: Upstream) -> None:
    spool.append([arrival("node-1", 0, 0)])
    receipt = Receipt(
        refused=[Refusal(where="events[0]", error="bad", remedy="none", count=3)], server_time=datetime.now(UTC)
    )

    def judge(batch: Batch) -> Outcome:
        upstream.stored.append(batch)
        return Outcome(status=200, receipt=receipt)

    upstream.judge = judge
    forward(forwarder(spool, upstream), spool)
    assert [event.kind for _, event in events(upstream)] == ["items_refused"]
    assert spool.totals().batches == 0


def test_a_batch_that_cannot_be_read_any_more_is_passed_over(spool: RelaySpool, upstream: Upstream) -> None:
    spool.append([arrival("node-1", 0, 0), arrival("node-2", 0, 0)])
    spool._database.execute("UPDATE body SET body = x'c1' WHERE id = 0")
    forward(forwarder(spool, upstream), spool)
    assert ("node-2", 0) in sent(upstream)
    assert [event.kind for _, event in events(upstream)] == ["batch_refused"]


def test_the_bounds_drop_the_oldest_and_tell_each_node_once(tmp_path: Path, upstream: Upstream) -> None:
    spool = RelaySpool(tmp_path / "relay.sqlite", 1, 72)
    large = [msgspec.Raw(msgspec.msgpack.encode("x" * 200_000))]
    for seq in range(4):
        for name in ("node-1", "node-2"):
            spool.append([arrival(name, seq, 0, events=large, meter_windows=[msgspec.Raw(b"\xc0")] * 2)])
    assert spool.dropped == 3
    assert [it.seq for it in spool.take(MANY, 2**30)] == [1, 2, 2, 3, 3]
    assert {it.oldest_seq for it in spool.take(MANY, 2**30) if it.sender.machine_id == "node-1"} == {2}
    upstream.judge = lambda batch: Outcome(status=200) if batch.events == large else None
    spool.close()

    spool = RelaySpool(tmp_path / "relay.sqlite", 1, 72)
    forward(forwarder(spool, upstream), spool)
    messages = {machine_id: event.message for machine_id, event in events(upstream)}
    assert "dropped 2 batches with 4 meter windows of this node" in messages["node-1"]
    assert "dropped 1 batches with 2 meter windows of this node" in messages["node-2"]
    assert len(events(upstream)) == 2
    spool.close()


def test_the_bound_in_age_drops_the_oldest(tmp_path: Path) -> None:
    spool = RelaySpool(tmp_path / "relay.sqlite", 512, 1e-9)
    spool.append([arrival("node-1", 0, 0)])
    spool.append([arrival("node-1", 1, 0)])
    assert [it.seq for it in spool.take(MANY, MOST_BYTES)] == [1]
    spool.close()


def test_a_batch_that_a_bound_drops_on_its_way_is_counted_once(tmp_path: Path) -> None:
    spool = RelaySpool(tmp_path / "relay.sqlite", 512, 1e-9)
    spool.append([arrival("node-1", 0, 0)])
    waiting = spool.take(MANY, MOST_BYTES)
    spool.append([arrival("node-1", 1, 0)])
    spool.settle(waiting, [])
    totals = spool.totals()
    assert totals.batches == 1
    assert totals.bytes == len(spool.take(1, MOST_BYTES)[0].body)
    spool.close()


def test_a_full_disk_takes_nothing_by_halves_and_mends(spool: RelaySpool) -> None:
    spool.append([arrival("node-1", 0, 0)])
    before = spool.totals()
    spool._database.execute("PRAGMA max_page_count = 1")  # what SQLite itself offers to be full
    large = [msgspec.Raw(msgspec.msgpack.encode("x" * 1_000_000))]
    with pytest.raises(SpoolFull, match="full"):
        spool.append([arrival("node-1", 1, 0), arrival("node-2", 0, 0, events=large)])
    assert (spool.totals().batches, spool.totals().bytes) == (before.batches, before.bytes)
    spool._database.execute("PRAGMA max_page_count = 1000000")
    assert all(isinstance(it, Receipt) for it in spool.append([arrival("node-1", 1, 0), arrival("node-2", 0, 0)]))
    assert [it.seq for it in spool.take(MANY, MOST_BYTES)] == [0, 0, 1]


def test_requests_are_bounded_in_batches_and_bytes_but_never_empty(spool: RelaySpool) -> None:
    large = [msgspec.Raw(msgspec.msgpack.encode("x" * 1_000))]
    spool.append([arrival("node-1", seq, 0, events=large) for seq in range(5)])
    assert len(spool.take(2, MOST_BYTES)) == 2
    assert len(spool.take(MANY, 2_500)) == 2
    assert len(spool.take(MANY, 10)) == 1


def test_a_file_that_was_large_becomes_small_again(tmp_path: Path) -> None:
    spool = RelaySpool(tmp_path / "relay.sqlite", 4_096, 72)
    large = [msgspec.Raw(msgspec.msgpack.encode("x" * 1_000_000))]
    spool.append([arrival("node-1", seq, 0, events=large) for seq in range(60)])
    while waiting := spool.take(5, 2**30):
        spool.settle(waiting, [])
    assert spool._database.execute("PRAGMA page_count").fetchone()[0] * 4_096 < 30_000_000
    spool.close()


@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_batch_that_spoils_every_request_holds_up_nobody(
    spool: RelaySpool, upstream: Upstream, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "SHORTEST_PAUSE_S", 0.01)
    spool.append([arrival(f"node-{node}", seq, 0) for node in range(20) for seq in range(2)])
    upstream.trouble = lambda batches: (
        status if any((it.machine_id, it.seq) == ("node-3", 0) and not it.events for it in batches) else None
    )
    sender = forwarder(spool, upstream, forward_ms=1)
    sender.start()
    sender.notify()
    wait_for("batches of the others", lambda: len({it.machine_id for it in upstream.stored}) >= 19)
    if status == 500:
        # Nothing says that it is the batch's own fault: it waits, and what is behind it.
        wait_for("only those", lambda: spool.totals().batches == 2)
        upstream.trouble = lambda batches: None
    wait_for("the rest", lambda: not spool.totals().batches)
    sender.finish(5)
    told = [(name, event.kind) for name, event in events(upstream)]
    assert told == ([] if status == 500 else [("node-3", "batch_refused")])
    assert len(upstream.stored) == 40
    assert max(upstream.requests) > 1


def test_a_slow_server_is_asked_for_less(
    spool: RelaySpool, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", urllib3.Timeout(0.3))
    monkeypatch.setattr(pauses, "SHORTEST_PAUSE_S", 0.01)
    spool.append([arrival(f"node-{node}", 0, 0) for node in range(64)])
    upstream.trouble = lambda batches: time.sleep(0.4) if len(batches) > 16 else None
    sender = forwarder(spool, upstream, forward_ms=1)
    sender.start()
    sender.notify()
    wait_for("all batches", lambda: not spool.totals().batches)
    sender.finish(5)
    assert len(upstream.stored) == 64


def test_a_second_relay_on_the_same_spool_is_refused(spool: RelaySpool, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from collector.relay.spool import RelaySpool;"
        " RelaySpool(Path(sys.argv[1]), 1, 1)"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "relay.sqlite")], capture_output=True, text=True, check=False
    )
    assert second.returncode != 0
    assert "another relay uses it" in second.stderr


def test_a_file_that_is_no_spool_is_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(GigawatchError, match="cannot be opened"):
        RelaySpool(path, 512, 72)


def test_json_goes_on_as_msgpack_with_each_item_in_its_place() -> None:
    now = datetime.now(UTC)
    body = msgspec.json.encode({
        "machine_id": "node-1", "sent_at": now, "inventory": {"hostname": "n"},
        "events": [{"time": now, "kind": "xid", "severity": "info", "message": "m"}, {"n": 2**70}, 1.5],
        "gpu_windows": [{"gpu_uuid": "GPU-1"}, "no window"],
    })  # fmt: skip
    found = decode(body, f"{JSON}; charset=utf-8", now, 300)
    batch = msgspec.msgpack.decode(found.body, type=Batch)
    assert isinstance(batch.inventory, msgspec.Raw)
    assert msgspec.msgpack.decode(batch.inventory, type=Inventory) == Inventory(hostname="n")
    assert msgspec.msgpack.decode(batch.events[0], type=Event).time == now
    assert [msgspec.msgpack.decode(raw) for raw in batch.events[1:]] == [None, 1.5]
    assert msgspec.msgpack.decode(batch.gpu_windows[1]) == "no window"
    assert found.windows == Windows(gpu=2)


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"sent_at": "2020-01-01T00:00:00Z"}, 422, "clock", "off this relay's clock"),
        ({"seq": 1}, 422, None, "spool_id and seq go together"),
        ({"spool_id": "s", "seq": 1, "oldest_seq": 2}, 422, None, "oldest_seq = 2 is after seq = 1"),
        ({"machine_id": ""}, 400, None, "machine_id"),
        ({"colour": "red"}, 400, None, "colour"),
    ],
)
def test_what_is_no_batch_is_refused_as_the_api_does(
    change: dict[str, Any], status: int, code: str | None, words: str
) -> None:
    now = datetime.now(UTC)
    with pytest.raises(Unacceptable, match=words) as caught:
        decode(msgspec.msgpack.encode({"machine_id": "node-1", "sent_at": now, **change}), MSGPACK, now, 300)
    assert (caught.value.status, caught.value.code) == (status, code)


@given(st.binary(max_size=200), st.sampled_from([JSON, MSGPACK, "", "text/plain"]), st.sampled_from(["", "zstd", "br"]))
def test_any_body_is_refused_or_a_batch(body: bytes, content_type: str, encoding: str) -> None:
    with pytest.raises(Unacceptable) as caught:
        decode(decompress(body, encoding, 100), content_type, datetime.now(UTC), 300)
    assert caught.value.status in {400, 413, 415}
