"""Simulated engines: published energy per token, laws of what they count, and what is read of them over HTTP."""

from collections import Counter
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.engines import catalogue
from collector.engines.catalogue import named
from collector.engines.commands import engines as command
from collector.engines.exposition import parse
from collector.engines.reading import Reading, read
from collector.exposition import Answer, Exposition
from collector.simulated import deployment as deployments
from collector.simulated import fleet
from collector.simulated.deployment import FULL_BATCH, Deployment, Tick
from collector.simulated.engine import Arrival, Batcher
from collector.simulated.faults import Faults
from collector.simulated.fleet import Node
from collector.simulated.load import IDLE, Load
from collector.simulated.metrics import MetricsServer
from collector.simulated.requests import synthetic
from collector.simulated.sending import Simulation
from collector.simulated.serving import BEST_BATCH, CATALOGUE, SMALL_BATCH, Served, served_by
from gigawatch.errors import GigawatchError
from gigawatch.records import Event, ServingWindow
from gigawatch.settings import Engine
from gigawatch.wire import Batch
from tests.unit.test_simulate_sending import NOW_S, Clock, Server

EVERY = [served for of_gpu in CATALOGUE.values() for served in of_gpu]
SETTINGS = Engine(url="http://127.0.0.1:8000/metrics", deployment="d")
REQUESTS = synthetic(1)
NODE = next(it for it in fleet.of_nodes(16, seed=1, gpus_per_node=8) if served_by(it))


def counters(text: bytes) -> dict[str, float]:
    """Its counters and gauges by name; labels are the same for all, and finished_reason is stop."""
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, _, value in lines
            if "_bucket" not in name and "length" not in name and "abort" not in name}  # fmt: skip


def served_in(batch: Batch) -> list[ServingWindow]:
    return [msgspec.msgpack.decode(it, type=ServingWindow) for it in batch.serving_windows]


@pytest.mark.parametrize("served", EVERY, ids=lambda it: it.name)
@pytest.mark.parametrize(("batch", "point"), [(SMALL_BATCH, "small_batch_j"), (BEST_BATCH, "best_batch_j")])
def test_the_measured_points_are_met(served: Served, batch: int, point: str) -> None:
    """J per generated token at a batch of 8 and at the best (ML.ENERGY v3), of an engine that always has as many."""
    replicas = 8 // served.gpus
    batcher = Batcher(served, replicas, 0.0)
    batcher.take(Arrival(0.0, batch * replicas, 1, 10**9))
    for second in range(1, 3_601):
        batcher.work(second, 5_000.0 + second % 700)
    energy_j = sum(5_000.0 + second % 700 for second in range(1, 3_601))
    assert batcher.running == batch * replicas
    assert energy_j / batcher.counts.generated_tokens == pytest.approx(getattr(served, point), rel=1e-3)
    # By Little's law.
    step_s = batcher.counts.inter_token_latency.sum_s / batcher.counts.generated_tokens
    assert step_s == pytest.approx(batcher.running * 3_600 / batcher.counts.generated_tokens, rel=1e-3)


@pytest.mark.parametrize("util", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("requests_per_s", [1_000.0, 8.0])
def test_the_batch_follows_the_load_and_energy_per_token_the_batch(util: float, requests_per_s: float) -> None:
    node, served = NODE, CATALOGUE[NODE.model.name][1]
    made = Deployment(node, served, REQUESTS, 0)
    made.observe(SETTINGS, 60, 0, requests_per_s)
    load = Load(util, 0.76 * util**0.7, 0.9)
    energy_j = 8 * node.model.wanted_w(load.draw, load.mem) * 5
    windows = []
    for minute in range(60):
        made.feed([Tick(60 * minute + 5 * it, 5, load, 8, energy_j, False) for it in range(12)])
        for at_s in range(60 * minute + 5, 60 * minute + 61, 5):
            made.read(at_s)
        windows += made.close(60 * minute + 60)[0]
    settled = windows[5:]
    batch = sum(it.running_request_ms or 0 for it in settled) / sum(it.observed_ms for it in settled) / 2
    tokens = sum(it.generated_tokens or 0 for it in settled)
    assert batch == pytest.approx(FULL_BATCH * util, rel=0.15)
    assert energy_j * 12 * len(settled) / tokens == pytest.approx(served.token_j(batch), rel=0.05)
    assert sum(it.prompt_tokens or 0 for it in settled) / tokens == pytest.approx(1_155 / 211, rel=0.1)


@given(
    st.sampled_from(EVERY),
    st.lists(
        st.tuples(
            st.floats(0, 20),
            st.sampled_from([0.0, 300.0, 4_000.0]),
            st.integers(1, 32),
            st.integers(1, 20_000),
            st.integers(1, 2_000),
        ),
        min_size=1,
        max_size=40,
    ),
)
def test_no_token_and_no_request_is_lost(served: Served, course: list[tuple[float, float, int, int, int]]) -> None:
    replicas = 8 // served.gpus
    batcher, counts, at_s = Batcher(served, replicas, 0.0), None, 0.0
    taken: list[Arrival] = []
    before = (0, 0, 0)
    for gap_s, power_w, copies, prompt, generated in course:
        at_s += gap_s
        batcher.work(at_s, power_w)
        counts = batcher.counts
        after = (counts.prompt_tokens, counts.generated_tokens, counts.requests_finished)
        assert all(old <= new for old, new in zip(before, after, strict=True))
        before = after
        arrival = Arrival(at_s, copies, prompt, generated)
        if batcher.waiting < replicas * BEST_BATCH:
            taken.append(arrival)
        batcher.take(arrival)
        assert batcher.running + batcher.waiting + counts.requests_finished == sum(it.copies for it in taken)
        assert 0 <= batcher.running <= replicas * BEST_BATCH
        assert 0 <= batcher.cache_use <= 1
        # Whoever waits does so for a place.
        assert batcher.waiting == 0 or batcher.running + 32 > replicas * BEST_BATCH
    batcher.work(at_s + 1e7, 5_000.0)
    assert counts is not None
    assert (batcher.running, batcher.waiting, batcher.cache_use) == (0, 0, 0)
    requests = sum(it.copies for it in taken)
    assert counts.requests_finished == requests
    assert counts.prompt_tokens == sum(it.copies * it.prompt_tokens for it in taken)
    assert counts.generated_tokens == sum(it.copies * it.generated_tokens for it in taken)
    for latency, count in (
        (counts.time_to_first_token, requests),
        (counts.inter_token_latency, counts.generated_tokens - requests),
        (counts.end_to_end_latency, requests),
    ):
        assert latency.buckets()[-1] == ("+Inf", count)
    assert 0 < counts.time_to_first_token.sum_s <= counts.end_to_end_latency.sum_s


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.03, 0.4, 1.0]), st.sampled_from([0.0, 500.0, 4_000.0])),
        min_size=1,
        max_size=30,
    ),
    st.integers(2, 40),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([5.0, 1_000.0]),
)
def test_windows_hold_what_was_counted_to_the_token(
    course: list[tuple[float, float]], restart_at: int, reads_every: int, requests_per_s: float
) -> None:
    """However readings lie about the ends of windows; what a process counted after its last reading ends with it."""
    made = Deployment(NODE, CATALOGUE[NODE.model.name][0], REQUESTS, NOW_S)
    made.observe(SETTINGS, 10, NOW_S, requests_per_s)
    names = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:request_success_total")
    tokens, last, last_at = Counter[str](), Counter[str](), 0
    for second, (util, power_w) in enumerate(course):
        load = Load(util, util, 0.9) if util else IDLE
        made.feed([Tick(NOW_S + second, 1, load, 8, power_w, second == restart_at)])
        if second % reads_every and second != len(course) - 1:
            continue
        made.read(NOW_S + second + 1)
        if last_at <= restart_at <= second:
            last.clear()
        found = counters(made.metrics(NOW_S + second + 1))
        for name in names:
            tokens[name] += int(found[name]) - last[name]
            last[name] = int(found[name])
        last_at = second + 1
    windows, _ = made.close(NOW_S + len(course) + 100)
    assert sum(it.covered_ms for it in windows) == len(course) * 1_000
    figures = ("generated_tokens", "prompt_tokens", "requests_finished")
    for name, figure in zip(names, figures, strict=True):
        assert sum(getattr(it, figure) for it in windows) == tokens[name]


def test_what_is_taken_without_an_endpoint_is_what_its_text_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Deployment(NODE, CATALOGUE[NODE.model.name][0], REQUESTS, NOW_S)
    made.observe(SETTINGS, 10, NOW_S, 1_000)
    made.feed([Tick(NOW_S + it, 1, Load(0.7, 0.6, 0.9), 8, 4_000.0, False) for it in range(60)])
    readings = []

    def kept(exposition: Exposition, engine: catalogue.Engine) -> Reading:
        readings.append(read(exposition, engine))
        return readings[-1]

    monkeypatch.setattr(deployments, "read", kept)
    made.read(NOW_S + 60)
    text = made.metrics(NOW_S + 60)
    vllm = named("vllm")
    answer = Answer(text.decode(), "text/plain", 0.0)
    assert readings == [read(parse("", answer), vllm)] == [read(parse("", answer, vllm.metrics()), vllm)]
    # As Python's client writes them.
    assert b'\nvllm:generation_tokens_total{engine="0",model_name=' in text
    assert b"\nprocess_start_time_seconds 1.79000004e+09\n" in text


def test_inference_nodes_with_measured_gpus_serve_and_no_others() -> None:
    nodes = fleet.of_nodes(64, seed=1, gpus_per_node=1)
    clock = Clock()
    server = Server(clock)
    made = Simulation(nodes, [Faults(now_s=NOW_S)] * 64, server, seed=1, clock=clock, sleep=clock.sleep)
    made.send_history(NOW_S - 120, NOW_S, lambda *_: None)
    serving = {batch.machine_id for _, batch in server.received if batch.serving_windows}
    assert serving == {node.machine_id for node in nodes if node.role == "inference" and node.model.name in CATALOGUE}
    for _, batch in server.received:
        served = {(it.deployment, it.endpoint) for it in served_in(batch)}
        assert batch.packed_gpu_windows is not None
        assigned = {(it.deployment, it.endpoint) for its in batch.packed_gpu_windows.serves for it in its}
        assert served == assigned


@pytest.fixture
def metrics() -> Iterator[MetricsServer]:
    with MetricsServer("127.0.0.1", 0).serving() as server:
        yield server


class Fleet:
    """Two engines that are simulated and read over HTTP, with the clock of a test."""

    def __init__(self, metrics: MetricsServer, monkeypatch: pytest.MonkeyPatch, *faults: Faults) -> None:
        self.nodes = [it for it in fleet.of_nodes(5, seed=1, gpus_per_node=8) if served_by(it)]
        self.clock = Clock()
        self.clock.now_s = float(NOW_S)
        self.server = Server(self.clock)
        self.journal: dict[str, list[tuple[float, dict[str, float]]]] = {node.hostname: [] for node in self.nodes}
        struck = [*faults, *(Faults(now_s=NOW_S) for _ in self.nodes[len(faults) :])]
        self.simulation = Simulation(
            self.nodes, struck, self.server, seed=1, metrics=metrics, clock=self.clock, sleep=self.clock.sleep
        )
        answer = deployments.Deployment.metrics

        def journalled(it: Deployment, now_s: float) -> bytes:
            text = answer(it, now_s)
            name = next(name for name, ask in metrics.engines.items() if ask.__self__.deployment is it)  # type: ignore[attr-defined]
            self.journal[name].append((now_s, counters(text)))
            return text

        monkeypatch.setattr(deployments.Deployment, "metrics", journalled)

    def windows(self, node: Node) -> list[ServingWindow]:
        return [window for _, batch in self.server.received if batch.machine_id == node.machine_id
                for window in served_in(batch)]  # fmt: skip


def test_live_windows_hold_what_was_served_over_http(metrics: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fleet(metrics, monkeypatch)
    made.simulation.send_history(NOW_S - 600, NOW_S, lambda *_: None)
    assert not any(made.journal.values())
    made.clock.now_s += 22.0  # the history took its time: until the fleet has caught up there is nothing to scrape
    made.simulation.run(NOW_S, 10, speed=1, stop_s=made.clock() + 150)
    for node in made.nodes:
        windows, served = made.windows(node), made.journal[node.hostname]
        starts = [round(it.start.timestamp()) for it in windows]
        assert starts == [*range(NOW_S - 600, NOW_S, 60), *range(NOW_S, starts[-1] + 1, 10)]
        assert {(it.scrapes_taken, it.scrapes_expected, it.covered_ms, it.observed_ms) for it in windows[10:]} == {
            (2, 2, 10_000, 10_000)
        }
        # What was served at the times at which windows begin and end.
        told = {at_s: it["vllm:generation_tokens_total"] for at_s, it in served}
        assert len(told) > 25
        live = [it for it in windows if it.start.timestamp() >= min(told)]
        assert len(live) > 8
        for window in live:
            start_s = window.start.timestamp()
            assert window.generated_tokens == told[start_s + 10] - told[start_s]
        assert sum(it.generated_tokens or 0 for it in windows) == told[starts[-1] + 10] > 0


def test_an_engine_that_is_restarted_counts_from_zero(metrics: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fleet(metrics, monkeypatch, Faults(now_s=NOW_S, restarts=True))
    made.simulation.run(NOW_S, 10, speed=1, stop_s=NOW_S + 720)
    struck, _ = made.nodes
    events = [
        (batch.machine_id, event.kind, round(event.time.timestamp()) - NOW_S)
        for _, batch in made.server.received
        for event in (msgspec.msgpack.decode(it, type=Event) for it in batch.events)
    ]
    assert events == [(struck.machine_id, "engine_restarted", 620)]
    served = made.journal[struck.hostname]
    starts = [it["process_start_time_seconds"] for _, it in served]
    assert set(starts) == {NOW_S, NOW_S + 617}
    lives = [[it["vllm:generation_tokens_total"] for _, it in served if it["process_start_time_seconds"] == start]
             for start in (NOW_S, NOW_S + 617)]  # fmt: skip
    assert lives[1][0] < lives[0][-1]
    windows = made.windows(struck)
    ends_s = round(windows[-1].start.timestamp()) + 10
    last = next(it["vllm:generation_tokens_total"] for at_s, it in served if at_s == ends_s)
    assert sum(it.generated_tokens or 0 for it in windows) == lives[0][-1] + last


def test_the_endpoints_answer_to_everybody(metrics: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    off = Faults(now_s=NOW_S, silent_from_s=NOW_S)
    made = Fleet(metrics, monkeypatch, Faults(now_s=NOW_S), off)
    made.simulation.run(NOW_S, 10, speed=1, stop_s=NOW_S + 60)
    first, second = (f"{metrics.url}{node.hostname}/metrics" for node in made.nodes)
    assert sorted(httpx.get(metrics.url).text.split()) == [first, second]
    assert httpx.get(second).status_code == 503
    assert made.journal[made.nodes[1].hostname] == []
    for path in ("metrics", "nowhere/metrics", made.nodes[0].hostname, f"{made.nodes[0].hostname}/other"):
        assert httpx.get(metrics.url + path).status_code == 404
    done = CliRunner().invoke(command, ["probe", first])
    assert done.exit_code == 0, done.output
    assert f"{first} is vLLM" in done.output
    for figure in ("generated tokens", "running requests", "time to first token", "inter token latency"):
        assert figure in done.output
    assert done.output.count("not served") == 1


def test_a_port_that_is_taken_is_a_clear_error(metrics: MetricsServer) -> None:
    port = metrics.server_address[1]
    with pytest.raises(GigawatchError, match="another process listens") as caught:
        MetricsServer("127.0.0.1", port)
    assert "--metrics-port" in str(caught.value)
