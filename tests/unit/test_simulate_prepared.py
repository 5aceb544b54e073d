"""A prepared fleet: its bodies are the records that were meant, and each is stored once, past every trouble."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from api import decode, rows
from collector import simulate as command
from collector.client import ServerUnreachable
from collector.simulated import fleet, sending, traffic
from collector.simulated.faults import Faults
from collector.simulated.fleet import NODES_PER_ROUND, ROUNDS_PER_PAIR, Node
from collector.simulated.machine import SimulatedNode
from collector.simulated.prepared import MODELLED_ROUNDS, PreparedFleet, body
from collector.simulated.processes import figures, summed
from collector.simulated.sending import Pace, Retry
from collector.simulated.traffic import Meter, Plan, Tally, Traffic
from gigawatch.errors import GigawatchError
from gigawatch.records import Inventory
from gigawatch.settings import Agent
from gigawatch.wire import BATCHES, MSGPACK, Batch, Outcome, Receipt, pack, pack_nodes
from tests.merged import apart

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOW_S = 1_790_000_040
SENT_AT = datetime(2026, 9, 21, 14, 15, 16, 123456, UTC)


def prepared(nodes: list[Node], *, processes: int = 1, amount: Any = "none", window_s: int = 10) -> PreparedFleet:
    return PreparedFleet(nodes, seed=1, processes=processes, amount=amount, window_s=window_s)


@settings(max_examples=25)
@given(
    first=st.sampled_from([0, 5, NODES_PER_ROUND * (ROUNDS_PER_PAIR - 1), NODES_PER_ROUND * (ROUNDS_PER_PAIR + 3) + 7]),
    count=st.integers(1, 40),
    seq=st.integers(0, 2**40),
    window_s=st.sampled_from([1, 10, 60]),
    rounds=st.integers(1, 3),
    is_relay=st.booleans(),
)
def test_a_body_is_the_records_that_were_meant(
    first: int, count: int, seq: int, window_s: int, rounds: int, is_relay: bool
) -> None:
    nodes = fleet.of_nodes(first + count, seed=1, gpus_per_node=2)[first:]
    made = prepared(nodes, window_s=window_s)
    places = range(count)
    # All are in one round of racks or in the next, and no round copies another: each node measures for itself.
    models = [SimulatedNode(node, Faults(now_s=0), 1) for node in nodes]
    for turn in range(rounds):
        start_s = NOW_S // 60 * 60 + turn * window_s
        seqs = [seq + turn + place % 3 for place in places]
        batches = made.windows(places, start_s)
        if is_relay:
            decoded = apart(body(batches, seqs, SENT_AT, is_relay=True))
        else:
            bodies = [body([one], [its], SENT_AT, is_relay=False) for one, its in zip(batches, seqs, strict=True)]
            decoded = [msgspec.msgpack.decode(one, type=Batch) for one in bodies]
        for batch, node, model, its in zip(decoded, nodes, models, seqs, strict=True):
            meant = model.window(start_s, window_s, 1)
            assert meant is not None
            assert (batch.machine_id, batch.seq, batch.oldest_seq) == (node.machine_id, its, its)
            assert (batch.sent_at, batch.simulated, batch.version) == (SENT_AT, True, 1)
            assert batch.packed_gpu_windows == pack(meant.gpu_windows)
            assert batch.packed_node_windows == pack_nodes(meant.node_windows)
            assert (batch.inventory, batch.events, batch.health) == (msgspec.UNSET, [], [])
        assert len({batch.spool_id for batch in decoded}) == count


@pytest.mark.parametrize("processes", [1, 3])
def test_copies_keep_identity_place_and_site_and_the_api_refuses_nothing_of_them(processes: int) -> None:
    nodes = [
        node
        for node in fleet.of_nodes(NODES_PER_ROUND * (MODELLED_ROUNDS * processes + 4), seed=1, gpus_per_node=2)
        if node.number // NODES_PER_ROUND % processes == 0
    ]
    made = prepared(nodes, processes=processes)
    batches = numbered_all(made, NOW_S)
    now = datetime.fromtimestamp(NOW_S + 12, UTC)
    parcels = [it for one in batches for it in decode.decode(one, MSGPACK, now, 1e9) if isinstance(it, decode.Parcel)]
    gpus = rows.gpu_rows(parcels, datetime.fromtimestamp(0, UTC))
    ticks = rows.node_rows(parcels, datetime.fromtimestamp(0, UTC))
    powers: dict[tuple[Any, ...], set[bytes]] = {}
    for place, (node, parcel) in enumerate(zip(nodes, parcels, strict=True)):
        assert parcel.refused == []
        columns = gpus.rows.chosen(gpus.rows.parcel == place).columns
        (of_node,) = np.flatnonzero(ticks.rows.parcel == place)
        first, count = ticks.first_tick[of_node], ticks.ticks[of_node]
        ticks_mw = ticks.gpu_power_mw[first : first + count]
        assert [gpus.uuids[it] for it in gpus.gpu[gpus.rows.parcel == place]] == list(node.gpu_uuids)
        tick_ms = int(ticks.rows.columns["tick_ms"][of_node])
        assert columns["energy_mj"].sum() == int(ticks_mw[ticks_mw >= 0].sum()) * tick_ms // 1_000 > 0
        assert set(columns["power_limit_mw"]) == {node.model.limit_w * 1_000}
        kind = (node.site.name, node.role, node.model.name, node.place)
        powers.setdefault(kind, set()).add(columns["power_mean_mw"].tobytes())
    # Nodes of a kind are not in lockstep: as many rounds differ as are modelled.
    assert {len(found) for found in powers.values()} <= {MODELLED_ROUNDS, MODELLED_ROUNDS + 1, MODELLED_ROUNDS * 2}
    assert len({parcel.batch.spool_id for parcel in parcels}) == len(nodes)


def numbered_all(made: PreparedFleet, start_s: int) -> list[bytes]:
    return [body([one], [1], SENT_AT, is_relay=False) for one in made.windows(range(len(made.nodes)), start_s)]


def test_windows_change_with_time_and_are_forgotten_when_nobody_needs_them() -> None:
    made = prepared(fleet.of_nodes(3, seed=1, gpus_per_node=2))
    first = numbered_all(made, NOW_S)
    second = numbered_all(made, NOW_S + 10)
    assert first != second
    # A connection that is late finds what the others had.
    assert numbered_all(made, NOW_S) == first
    made.forget(NOW_S + 10)
    assert numbered_all(made, NOW_S + 10) == second
    assert [len(model._measured) for model in made._modelled] == [1, 1, 1]


def test_each_node_says_what_it_is() -> None:
    nodes = fleet.of_nodes(40, seed=1, gpus_per_node=3)
    made = prepared(nodes)
    for node, one in zip(nodes, made.introductions(range(40), NOW_S), strict=True):
        batch = msgspec.msgpack.decode(body([one], [0], SENT_AT, is_relay=False), type=Batch)
        meant = SimulatedNode(node, Faults(now_s=0), 1).introduction(NOW_S)
        assert isinstance(batch.inventory, msgspec.Raw)
        assert msgspec.msgpack.decode(batch.inventory, type=Inventory) == meant.inventory
        assert [msgspec.msgpack.decode(raw)["kind"] for raw in batch.events] == ["agent_started"]
        assert (batch.machine_id, batch.seq, batch.simulated) == (node.machine_id, 0, True)


def test_a_share_of_the_nodes_is_silent() -> None:
    nodes = fleet.of_nodes(4_000, seed=1, gpus_per_node=1)
    assert prepared(nodes).silent == set()
    assert 1 <= len(prepared(nodes, amount="few").silent) <= 12
    assert 20 <= len(prepared(nodes, amount="many").silent) <= 70


class Store:
    """What the API keeps, and the troubles that it is told to make: each is for one request."""

    def __init__(self) -> None:
        self.next_seq: dict[str, int] = {}
        self.batches: list[Batch] = []
        self.requests: list[tuple[float, list[tuple[str, int]]]] = []
        self.kinds: set[str] = set()
        self.troubles: list[str] = []
        self.gaps = 0
        self.lock = threading.Lock()
        self.url = ""

    def take(self, batch: Batch, trouble: str) -> Outcome:
        """As api.store numbers batches."""
        assert batch.spool_id is not None and batch.seq is not None and batch.oldest_seq is not None
        expected = max(self.next_seq.setdefault(batch.spool_id, batch.oldest_seq), batch.oldest_seq)
        if batch.seq < expected:
            return Outcome(status=200, receipt=Receipt(duplicate=True, server_time=datetime.now(UTC)))
        if trouble == "gap":
            self.gaps += 1
            # As if the store had been set back and then told of batches that nobody else knows.
            self.next_seq[batch.spool_id] = batch.seq + 5
            return Outcome(status=409, code="gap", detail="gap", expected_seq=batch.seq + 5)
        if trouble == "refused":
            return Outcome(status=422, detail="no")
        if trouble == "clock":
            return Outcome(status=422, detail="clock", code="clock")
        self.next_seq[batch.spool_id] = batch.seq + 1
        self.batches.append(batch)
        rows = batch.packed_gpu_windows.rows if batch.packed_gpu_windows else 0
        receipt = Receipt(
            gpu_windows=rows,
            node_windows=batch.packed_node_windows.rows if batch.packed_node_windows else 0,
            events=len(batch.events),
            server_time=datetime.now(UTC),
        )
        return Outcome(status=200, receipt=receipt)

    def starts(self) -> dict[str, list[int]]:
        """Starts of the windows in ms, by GPU, in the order of their arrival."""
        found: dict[str, list[int]] = {}
        for batch in self.batches:
            if packed := batch.packed_gpu_windows:
                for uuid, start in zip(packed.gpu_uuids, memoryview(packed.columns["start"]).cast("q"), strict=True):
                    found.setdefault(uuid, []).append(start)
        return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:  # as http.server wants it
        hello = {"server_time": datetime.now(UTC), "version": "1", "role": "agent", "max_clock_offset_s": 300}
        self.answer(200, msgspec.json.encode(hello))

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "zstd":
            sent = zstd.decompress(sent)
        is_relay = self.headers["Content-Type"] == BATCHES
        batches = apart(sent) if is_relay else [msgspec.msgpack.decode(sent, type=Batch)]
        store = self.store
        with store.lock:
            store.kinds.add(self.headers["Content-Type"])
            store.requests.append((time.monotonic(), [(batch.machine_id, batch.seq) for batch in batches]))
            trouble = store.troubles.pop(0) if store.troubles else ""
            if trouble == "busy":
                self.answer(503, b'{"detail": "busy"}', {"Retry-After": "1"})
                return
            if trouble == "many":
                self.answer(429, b"slow down")
                return
            if trouble == "token":
                self.answer(403, b'{"detail": "no such token"}')
                return
            # A trouble with batches is the last one's, so that the others of a relay are taken.
            outcomes = [store.take(batch, trouble if batch is batches[-1] else "") for batch in batches]
        if trouble == "lost":
            self.close_connection = True  # stored, and the answer never comes
        elif is_relay:
            self.answer(200, msgspec.json.encode(outcomes))
        elif outcomes[0].receipt:
            self.answer(200, msgspec.json.encode(outcomes[0].receipt))
        else:
            self.answer(outcomes[0].status, msgspec.json.encode(outcomes[0]))

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"store": made}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_DELAY_S", 0.05)


def plan(store: Store, *, relay_size: int = 1, connections: int = 2, compress: bool = True) -> Plan:
    return Plan(
        agent=Agent(server_url=store.url),
        seed=1,
        amount="none",
        window_s=10,
        relay_size=relay_size,
        processes=1,
        connections=connections,
        compress=compress,
    )


def run(traffic_: Traffic, windows: int) -> None:
    """Send so many windows of the past as fast as may be."""
    traffic_.introduce(NOW_S)
    pace = Pace(origin_s=NOW_S, began_s=time.time(), window_s=10, speed=1_000_000.0)
    # Windows after these are due far in the future, and the run stops before.
    original = Pace.due_s

    def due_s(self: Pace, start_s: int, share: float) -> float:
        return original(self, start_s, share) + (1e12 if start_s >= NOW_S + windows * 10 else -1e9)

    Pace.due_s = due_s  # type: ignore[method-assign]
    try:
        traffic_.run(pace, time.time() + 60)
    finally:
        Pace.due_s = original  # type: ignore[method-assign]


def sends(store: Store, nodes: int, windows: int, **options: Any) -> Tally:
    machines = fleet.of_nodes(nodes, seed=1, gpus_per_node=2)
    made = Traffic(prepared(machines), plan(store, **options), lambda _: None)
    run(made, windows)
    expected = [(NOW_S + 10 * turn) * 1_000 for turn in range(windows)]
    uuids = {uuid for node in machines for uuid in node.gpu_uuids}
    # Each window of each GPU once, in order: nothing twice, nothing missing.
    assert store.starts() == dict.fromkeys(uuids, expected)
    assert all(batch.simulated for batch in store.batches)
    assert made.tally.introduced == nodes
    return made.tally


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(("relay_size", "kind"), [(1, MSGPACK), (3, BATCHES), (100, BATCHES)])
def test_every_window_is_stored_once(store: Store, relay_size: int, kind: str, compress: bool) -> None:
    tally = sends(store, 7, 4, relay_size=relay_size, compress=compress)
    assert store.kinds == {kind}
    assert len(store.requests) == -(-7 // relay_size) * 5
    assert (tally.batches, tally.node_windows, tally.gpu_windows, tally.events) == (35, 28, 56, 7)
    assert (tally.unreachable, tally.gaps, tally.refused_batches, tally.duplicate_batches) == (0, 0, 0, 0)
    assert sum(tally.acks.values()) == -(-7 // relay_size) * 4
    assert (tally.ack_ms(0.5) or 0) <= (tally.ack_ms(0.99) or 0) < 10_000


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("relay_size", [1, 3])
@settings(max_examples=10)
@given(troubles=st.lists(st.sampled_from(["", "many", "lost", "gap", "clock"]), max_size=20))
def test_no_trouble_makes_a_window_missing_or_stored_twice(relay_size: int, troubles: list[str]) -> None:
    serving = store.__wrapped__()  # type: ignore[attr-defined] # a server anew for each example
    one: Store = next(serving)
    one.troubles = list(troubles)
    try:
        tally = sends(one, 5, 4, relay_size=relay_size)
    finally:
        next(serving, None)
    made = troubles[: len(troubles) - len(one.troubles)]
    assert tally.gaps == one.gaps
    assert tally.batches == 25
    assert (tally.duplicate_batches > 0) == ("lost" in made)


def test_a_server_that_is_busy_is_given_the_time_it_asks_for_and_gets_the_same_batch(store: Store) -> None:
    store.troubles = ["busy"]
    tally = sends(store, 2, 1, connections=1)
    (first_s, first), (again_s, again) = store.requests[:2]
    assert first == again
    assert 1.0 <= again_s - first_s < 3
    assert tally.unreachable == 1


def test_a_long_pause_that_the_server_asks_for_has_jitter() -> None:
    def pause_s() -> float:
        retry = Retry(lambda: 0.0)
        retry.failed(ServerUnreachable("busy", 100.0))
        return retry.not_before_s

    pauses_s = [pause_s() for _ in range(50)]
    assert min(pauses_s) >= 100
    assert max(pauses_s) <= 110
    assert len(set(pauses_s)) > 10


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("relay_size", [1, 3])
def test_a_refused_batch_costs_only_itself(store: Store, relay_size: int) -> None:
    machines = fleet.of_nodes(3, seed=1, gpus_per_node=2)
    made = Traffic(prepared(machines), plan(store, relay_size=relay_size, connections=1), lambda _: None)
    store.troubles = [""] * -(-3 // relay_size) + ["refused"]
    run(made, 3)
    assert made.tally.refused_batches == 1
    assert made.tally.node_windows == 8
    assert made.tally.unreachable == 0


def test_a_refused_token_ends_it(store: Store) -> None:
    store.troubles = ["token"]
    made = Traffic(prepared(fleet.of_nodes(1, seed=1, gpus_per_node=1)), plan(store), lambda _: None)
    with pytest.raises(GigawatchError, match="no such token"):
        made.introduce(NOW_S)


def test_windows_are_due_in_the_window_after_them_and_sooner_with_speed() -> None:
    live = Pace(origin_s=NOW_S, began_s=NOW_S + 3.0, window_s=10, speed=1)
    assert live.due_s(NOW_S, 0.0) == NOW_S + 10
    assert live.due_s(NOW_S, 0.999) < NOW_S + 20
    assert live.due_s(NOW_S + 50, 0.5) == NOW_S + 64.5
    # Ten times as fast through an hour: it is now after 400 s, nine tenths of which the clock spends itself.
    quick = Pace(origin_s=NOW_S - 3_600, began_s=float(NOW_S), window_s=10, speed=10)
    assert quick.due_s(NOW_S - 3_600, 0.0) == NOW_S + 1
    assert quick.due_s(NOW_S - 3_590, 0.0) == NOW_S + 2
    assert quick.due_s(NOW_S + 400 - 10, 0.0) == NOW_S + 400
    assert quick.due_s(NOW_S + 1_000, 0.0) == NOW_S + 1_010


def test_it_is_bound_by_the_generator_only_where_that_is_busy_and_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(traffic.time, "time", lambda: NOW_S + now["wall"])
    monkeypatch.setattr(traffic.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(traffic.time, "process_time", lambda: now["cpu"])
    pace = Pace(origin_s=NOW_S, began_s=float(NOW_S), window_s=10, speed=10)

    def read(*, late_s: float, busy_s: float) -> Tally:
        now.update(wall=0.0, cpu=0.0)
        tally = Tally()
        meter = Meter(tally, pace)
        now.update(wall=10.0, cpu=busy_s)
        line: Any = object()
        meter.due_s[line] = NOW_S + 10 - late_s
        meter.read()
        return tally

    assert not read(late_s=5, busy_s=2).generator_bound
    assert not read(late_s=0.5, busy_s=9.9).generator_bound
    assert not read(late_s=-3, busy_s=9.9).generator_bound
    bound = read(late_s=5, busy_s=9.9)
    assert bound.generator_bound
    assert (bound.behind_s, bound.live_took_s, bound.busy_s) == (5, 10, 9.9)


def test_processes_are_summed() -> None:
    one = Tally(node_windows=100, gpu_windows=800, live_took_s=10.0, busy_s=2.0, behind_s=1.0, acks={0: 99, 50: 1})
    two = Tally(node_windows=50, gpu_windows=400, live_took_s=9.0, busy_s=8.0, bound_s=5.0, acks={0: 1, 2: 99})
    total = summed([one, two])
    assert (total.node_windows, total.live_took_s, total.behind_s, total.acks) == (
        150,
        10.0,
        1.0,
        {0: 100, 50: 1, 2: 99},
    )
    found = figures(total, 10, 10)
    assert found["node_windows_per_s"] == 15
    assert found["real_time_factor"] == 15
    assert found["generator_busy"] == 0.8
    assert found["generator_bound"] is True
    assert (found["ack_p50_ms"], found["ack_p99_ms"]) == (1.0, round(1.05**2, 3))
    assert Tally().ack_ms(0.5) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detailed", "--relay-size", "5"], "need --prepared"),
        (["--detailed", "--no-compress"], "need --prepared"),
        (["--prepared", "--history", "1h"], "no history but what --speed"),
        (["--prepared", "--speed", "5", "--history", "0"], "--history is 0"),
        (["--relay-size", "0"], "0 is not in the range"),
        (["--processes", "0"], "0 is not in the range"),
    ],
)
def test_wrong_input_is_a_clear_error(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command.simulate, arguments)
    assert result.exit_code == 2
    assert message in result.output


def start(store: Store, *options: str) -> "subprocess.Popen[str]":
    code = "from collector.simulate import simulate; simulate()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "--server-url", store.url, "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_several_processes_send_a_fleet_and_the_summary_is_what_the_server_has(store: Store) -> None:
    process = start(
        store, "--nodes", "40", "--gpus-per-node", "2", "--processes", "2", "--relay-size", "8",
        "--history", "1h", "--speed", "200", "--for", "3s",
    )  # fmt: skip
    told, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    summary = json.loads(told)
    starts = store.starts()
    assert len(starts) == 80
    assert summary["gpu_windows"] == sum(map(len, starts.values()))
    assert summary["node_windows"] == sum(
        batch.packed_node_windows.rows for batch in store.batches if batch.packed_node_windows
    )
    assert sum(one["batches"] for one in summary["processes"]) == summary["batches"] == len(store.batches)
    assert summary["introduced"] == 40
    for found in starts.values():
        assert found == list(range(found[0], found[-1] + 1, 10_000))
    # Three seconds at two hundred times the pace of the clock, which a busy machine may not keep.
    assert 10 <= max(map(len, starts.values())) <= 61
    assert {"generator_busy", "generator_bound", "behind_s", "ack_p50_ms", "ack_p99_ms", "node_windows_per_s",
            "gpu_windows_per_s", "real_time_factor", "introduction_took_s"} <= summary.keys()  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_all_processes_and_it_still_sums_up(store: Store, number: signal.Signals) -> None:
    process = start(store, "--nodes", "20", "--gpus-per-node", "1", "--processes", "2", "--window-s", "1")
    wait_until(store.starts)
    process.send_signal(number)
    began_s = time.monotonic()
    told, complaint = process.communicate(timeout=60)
    assert time.monotonic() - began_s < 4
    assert process.returncode == 0, complaint
    assert "Traceback" not in complaint
    assert json.loads(told)["introduced"] == 20


def test_the_processes_end_when_their_parent_is_killed(store: Store) -> None:
    process = start(store, "--nodes", "20", "--gpus-per-node", "1", "--processes", "2", "--window-s", "1")
    wait_until(store.starts)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children))


def test_a_refused_token_ends_all_processes_with_its_status(store: Store) -> None:
    store.troubles = ["", "", "token"]
    process = start(store, "--nodes", "20", "--gpus-per-node", "1", "--processes", "2", "--window-s", "1")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "no such token" in complaint
