"""Simulated deployments: published energy per token, and what they serve agrees with the energy of their GPUs."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.simulated import fleet
from collector.simulated.faults import Faults
from collector.simulated.load import IDLE, Load
from collector.simulated.machine import SimulatedNode
from collector.simulated.serving import ANSWER_TOKENS, BEST_BATCH, CATALOGUE, SMALL_BATCH, Deployment, Served

START = datetime(2026, 11, 1, tzinfo=UTC)
EVERY = [served for of_gpu in CATALOGUE.values() for served in of_gpu]


@pytest.mark.parametrize("served", EVERY, ids=lambda it: it.name)
@pytest.mark.parametrize(("batch", "point"), [(SMALL_BATCH, "small_batch_j"), (BEST_BATCH, "best_batch_j")])
def test_the_measured_points_are_met(served: Served, batch: int, point: str) -> None:
    """J per generated token at a batch of 8 and at the best (ML.ENERGY v3), by what windows say."""
    deployment = Deployment(served, 8)
    load = Load(batch / BEST_BATCH, 0.7, 0.9)
    windows = [
        deployment.window(START + timedelta(seconds=10 * it), 10_000, [load] * 10, 50_000_000) for it in range(360)
    ]
    tokens = sum(it.generated_tokens or 0 for it in windows)
    assert 50_000 * 360 / tokens == pytest.approx(getattr(served, point), rel=1e-4)
    mean_batch = sum(it.running_request_ms or 0 for it in windows) / sum(it.observed_ms for it in windows)
    assert mean_batch == pytest.approx(batch * (8 // served.gpus))


@given(
    st.sampled_from(EVERY), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60_000_000)), min_size=1, max_size=30)
)
def test_nothing_is_lost_between_windows(served: Served, course: list[tuple[float, int]]) -> None:
    deployment = Deployment(served, 8)
    exact_tokens = tokens = requests = 0.0
    for place, (util, energy_mj) in enumerate(course):
        loads = [Load(util, util, 0.9)] * 5 + [IDLE] * 5
        window = deployment.window(START + timedelta(seconds=10 * place), 10_000, loads, energy_mj)
        if util > 0:
            exact_tokens += energy_mj / 2_000 / served.token_j(max(1.0, BEST_BATCH * util))
        tokens += window.generated_tokens or 0
        requests += window.requests_finished or 0
        for latencies, count in (
            (window.time_to_first_token, window.requests_finished),
            (window.inter_token_latency, window.generated_tokens),
            (window.end_to_end_latency, window.requests_finished),
        ):
            assert latencies is not None
            assert min(latencies.counts) >= 0
            assert sum(latencies.counts) == count
        assert (window.active_ms or 0) == (5_000 if util > 0 else 0)
    assert tokens == pytest.approx(exact_tokens, abs=1.001)
    assert requests == pytest.approx(exact_tokens / ANSWER_TOKENS, abs=1.02)


def test_inference_nodes_with_measured_gpus_serve_and_no_others() -> None:
    for node in fleet.of_nodes(64, seed=1, gpus_per_node=8):
        machine = SimulatedNode(node, Faults(now_s=0), 1, serving=True)
        parcel = machine.window(round(START.timestamp()), 10, 1)
        assert parcel is not None
        serves = {window.serves for window in parcel.gpu_windows}
        if node.role == "inference" and node.model.name in CATALOGUE:
            (served,) = parcel.serving_windows
            assert {(it.deployment, it.endpoint) for its in serves for it in its} == {
                (served.deployment, served.endpoint)
            }
        else:
            assert (serves, parcel.serving_windows) == ({()}, [])
