"""How a simulated fleet sends: no window twice or missing, in order, past every trouble of the server."""

import json
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from collector import simulate as command
from collector.client import BatchRefused, Client, Hello, ServerUnreachable
from collector.simulated import fleet, sending
from collector.simulated.faults import Faults
from collector.simulated.sending import Simulation
from gigawatch.errors import GigawatchError
from gigawatch.wire import Batch, Receipt

NOW_S = 1_790_000_040
HOUR_S = 3_600


class Clock:
    """Time that goes on when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = NOW_S + 17.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Server(Client):
    """A client that stores what it gets, or fails as it is told."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.errors: list[Exception] = []
        self.received: list[tuple[float, Batch]] = []
        self.refused_rows = 0

    def hello(self) -> Hello:
        if self.errors:
            raise self.errors.pop(0)
        return Hello(
            server_time=datetime.fromtimestamp(self.clock(), UTC), version="1", max_clock_offset_s=300, role="agent"
        )

    def post(self, batch: bytes) -> Receipt:
        decoded = msgspec.msgpack.decode(batch, type=Batch)
        self.received.append((self.clock(), decoded))
        if self.errors:
            raise self.errors.pop(0)
        packed = decoded.packed_gpu_windows
        refusals: list[Any] = [{"where": "gpu_windows[0]", "error": "e", "remedy": "r"}] * self.refused_rows
        return msgspec.convert(
            {
                "gpu_windows": packed.rows if packed else 0,
                "node_windows": len(decoded.node_windows),
                "refused": refusals,
                "server_time": datetime.now(UTC),
            },
            Receipt,
        )

    def windows(self, machine_id: str) -> list[tuple[str, int, int]]:
        """GPU, start in ms and length in ms of all windows of a node, in the order of their arrival."""
        found = []
        for _, batch in self.received:
            packed = batch.packed_gpu_windows
            if packed is None or batch.machine_id != machine_id:
                continue
            gpus = memoryview(packed.gpu).cast("i")
            starts = memoryview(packed.columns["start"]).cast("q")
            lengths = memoryview(packed.columns["covered_ms"]).cast("i")
            found += [
                (packed.gpu_uuids[gpu], start, length) for gpu, start, length in zip(gpus, starts, lengths, strict=True)
            ]
        return found


def simulation(nodes: int = 2, *faults: Faults) -> tuple[Simulation, Server, Clock, list[fleet.Node]]:
    machines = fleet.of_nodes(nodes, seed=1, gpus_per_node=2)
    clock = Clock()
    server = Server(clock)
    struck = [*faults, *(Faults(now_s=NOW_S) for _ in range(nodes - len(faults)))]
    made = Simulation(machines, struck, server, seed=1, clock=clock, sleep=clock.sleep)
    return made, server, clock, machines


def sequences(server: Server, machine_id: str) -> list[int | None]:
    return [batch.seq for _, batch in server.received if batch.machine_id == machine_id]


@pytest.mark.parametrize("window_s", [1, 10, 60])
def test_live_windows_begin_where_the_history_ends(window_s: int) -> None:
    made, server, clock, machines = simulation()
    shares: list[float] = []
    made.introduce(NOW_S - HOUR_S)
    made.send_history(NOW_S - HOUR_S, NOW_S, lambda share, _: shares.append(share))
    clock.sleep(33)  # the history took its time
    made.run(NOW_S, window_s, speed=1, stop_s=clock() + 180)
    assert shares[-1] == 1.0
    for node in machines:
        for uuid in node.gpu_uuids:
            windows = [window[1:] for window in server.windows(node.machine_id) if window[0] == uuid]
            assert windows[0][0] == (NOW_S - HOUR_S) * 1_000
            ends = [start + length for start, length in windows]
            assert [start for start, _ in windows[1:]] == ends[:-1]
            assert {length for start, length in windows if start >= NOW_S * 1_000} == {window_s * 1_000}
            assert clock() * 1_000 - ends[-1] <= 2 * window_s * 1_000
        assert sequences(server, node.machine_id) == list(range(len(sequences(server, node.machine_id))))


def test_batches_say_that_they_are_simulated_and_introduce_their_node_first() -> None:
    made, server, clock, machines = simulation(2, Faults(now_s=NOW_S, clock_ahead_s=3.0))
    made.introduce(NOW_S)
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 60)
    assert all(batch.simulated for _, batch in server.received)
    assert len({batch.spool_id for _, batch in server.received}) == 2
    for node in machines:
        batches = [batch for _, batch in server.received if batch.machine_id == node.machine_id]
        assert [batch.inventory is msgspec.UNSET for batch in batches] == [
            False,
            *[True] * (len(batches) - 1),
        ]
    ahead, right = (
        next(batch.sent_at for _, batch in server.received if batch.machine_id == node.machine_id) for node in machines
    )
    assert 2 < (ahead - right).total_seconds() < 4


def test_live_batches_are_spread_over_the_window() -> None:
    made, server, clock, _ = simulation(10)
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 120)
    last = [at_s for at_s, _ in server.received[-10:]]
    assert 7 < max(last) - min(last) < 10


def test_a_node_that_is_cut_off_sends_what_it_kept_when_it_is_back() -> None:
    made, server, clock, machines = simulation(2, Faults(now_s=NOW_S, cut_off=True))
    made.introduce(NOW_S)
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 15 * 60)
    node = machines[0]
    arrivals = [at_s for at_s, batch in server.received if batch.machine_id == node.machine_id]
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert 350 < max(gaps) < 380
    starts = [start for uuid, start, _ in server.windows(node.machine_id) if uuid == node.gpu_uuids[0]]
    assert starts == list(range(NOW_S * 1_000, starts[-1] + 1, 10_000))
    assert sequences(server, node.machine_id) == list(range(len(arrivals)))


def test_a_node_that_is_off_says_no_more_and_comes_first_in_the_history() -> None:
    made, server, clock, machines = simulation(2, Faults(now_s=NOW_S), Faults(now_s=NOW_S, silent_from_s=NOW_S - 600))
    made.introduce(NOW_S - HOUR_S)
    made.send_history(NOW_S - HOUR_S, NOW_S, lambda *_: None)
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 60)
    of_node = [batch.machine_id for _, batch in server.received]
    assert of_node[0] == machines[1].machine_id
    assert of_node.count(machines[1].machine_id) == 1
    last_ms = max(start for _, start, _ in server.windows(machines[1].machine_id))
    assert last_ms == (NOW_S - 660) * 1_000


def test_a_batch_goes_again_as_it_was_until_the_server_takes_it() -> None:
    made, server, clock, _ = simulation(1)
    server.errors = [ServerUnreachable("away"), ServerUnreachable("busy", 40.0), ServerUnreachable("away")]
    began_s = clock()
    made.send_history(NOW_S - HOUR_S, NOW_S, lambda *_: None)
    assert [batch.seq for _, batch in server.received] == [0] * 4
    assert len({batch.packed_gpu_windows.columns["energy_mj"] for _, batch in server.received
                if batch.packed_gpu_windows}) == 1  # fmt: skip
    times = [at_s - began_s for at_s, _ in server.received]
    assert times[0] == 0
    assert 1 <= times[1] <= 2
    assert times[2] - times[1] >= 40
    assert 4 <= times[3] - times[2] <= 8
    assert made.totals.gpu_windows == 120


def test_what_a_live_fleet_records_while_the_server_is_away_comes_in_few_batches() -> None:
    made, server, clock, machines = simulation(1)
    server.errors = [ServerUnreachable("away", 300.0)]
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 400)
    starts = [start for uuid, start, _ in server.windows(machines[0].machine_id)[2:]
              if uuid == machines[0].gpu_uuids[0]]  # fmt: skip
    assert starts == list(range(NOW_S * 1_000, starts[-1] + 1, 10_000))
    # The batch that was tried stays as it was; the half hour after it goes in one.
    rows = [batch.packed_gpu_windows.rows for _, batch in server.received if batch.packed_gpu_windows]
    assert rows[:2] == [2, 2]
    assert rows[2] > 50


def test_a_node_keeps_so_much_and_drops_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_PARCEL_ROWS", 4)
    monkeypatch.setattr(sending, "MAX_PARCELS", 3)
    made, server, clock, _ = simulation(1)
    server.errors = [ServerUnreachable("away", 300.0)]
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 400)
    assert made.totals.dropped_batches > 5
    taken = [batch for _, batch in server.received[1:]]
    assert taken[0].seq == taken[0].oldest_seq == made.totals.dropped_batches
    assert [batch.seq for batch in taken] == list(range(taken[0].seq, taken[0].seq + len(taken)))


def test_refused_batches_and_rows_are_counted_and_the_rest_goes_on() -> None:
    made, server, clock, _ = simulation(1)
    server.errors = [BatchRefused("422: no")]
    server.refused_rows = 2
    made.run(NOW_S, 10, speed=1, stop_s=clock() + 40)
    assert made.totals.refused_batches == 1
    assert made.totals.batches == len(server.received) - 1 > 2
    assert made.totals.refused == 2 * made.totals.batches
    assert server.received[1][1].seq == server.received[1][1].oldest_seq == 1


def test_with_speed_the_fleet_catches_up_and_then_keeps_time() -> None:
    made, server, clock, _ = simulation(1)
    clock.now_s = float(NOW_S)
    made.run(NOW_S - HOUR_S, 60, speed=61, stop_s=clock() + 180)
    arrivals = [at_s - NOW_S for at_s, _ in server.received]
    # An hour at sixty-one times the pace of the clock takes a minute; then a window a minute.
    assert sum(at_s <= 61 for at_s in arrivals) in {60, 61}
    assert arrivals[0] == pytest.approx(60 / 61, abs=0.1)
    assert len(arrivals) in {62, 63}


def test_the_first_contact_waits_for_the_server_and_looks_at_the_clock() -> None:
    _, server, clock, _ = simulation(1)
    server.errors = [ServerUnreachable("away", 20.0)]
    began_s = clock()
    sending.connect(server, clock=clock, sleep=clock.sleep)
    assert 20 <= clock() - began_s < 22
    server.clock = Clock()
    server.clock.now_s = clock() - 400
    with pytest.raises(GigawatchError, match="400 s off"):
        sending.connect(server, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("0", 0), ("1.5h", 5_400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert command.Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "5x"], "'5x' is no duration"),
        (["--history", "24"], "'24' is no duration"),
        (["--history", "-1h"], "'-1h' is no duration"),
        (["--history", "90s"], "full minutes"),
        (["--history", "400d"], "longer than 366d"),
        (["--for", "soon"], "'soon' is no duration"),
        (["--nodes", "0"], "0 is not in the range"),
        (["--nodes", "3", "--megawatts", "1"], "give one of them"),
        (["--megawatts", "0"], "not in the range"),
        (["--speed", "2", "--history", "0"], "--history is 0"),
        (["--window-s", "7"], "7"),
        (["--faults", "some"], "some"),
        (["--requests", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["--prepared", "--metrics-port", "8610"], "--requests, --metrics-host and --metrics-port need --detailed"),
        (["--detailed", "--relay-size", "2"], "need --prepared"),
        (["--metrics-port", "65536"], "65536 is not in the range"),
    ],
)
def test_wrong_input_is_a_clear_error(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(command.simulate, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_the_command_tells_its_progress_and_sums_up_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.now_s = time.time()
    server = Server(clock)
    monkeypatch.setattr(command, "Client", lambda _: server)
    monkeypatch.setattr(server, "close", lambda: None)
    arguments = ["--nodes", "5", "--gpus-per-node", "2", "--history", "30m", "--for", "0", "--json"]
    result = CliRunner().invoke(command.simulate, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["nodes"], summary["gpus"]) == (5, 10)
    assert summary["gpu_windows"] == sum(len(server.windows(b.machine_id)) for _, b in server.received)
    lines = result.stderr.splitlines()
    assert len(lines) == 6
    assert re.fullmatch(r"The metrics of 2 simulated engines are at http://127\.0\.0\.1:\d+/", lines[0])
    assert lines[-1] == f"history 100%, {summary['gpu_windows']:,} GPU windows stored"


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_signals_stop_it_within_two_seconds(numbers: list[int]) -> None:
    # Nothing listens on port 1: it waits for its server.
    code = "from collector.simulate import simulate; simulate()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--server-url", "http://127.0.0.1:1", "--nodes", "1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "cannot be reached" in process.stderr.readline()
    began_s = time.monotonic()
    for number in numbers:
        process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - began_s < 2
    assert process.returncode == 0
    assert "Traceback" not in told
