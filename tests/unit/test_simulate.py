"""What a simulated fleet records: possible, consistent, the same for the same seed, and with its faults in it."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.simulated import faults, fleet
from collector.simulated.faults import Faults
from collector.simulated.fleet import Node
from collector.simulated.hardware import H100
from collector.simulated.load import CHECKPOINT_S, Inference, Training, day_curve, work_of
from collector.simulated.machine import Parcel, SimulatedNode
from gigawatch.records import EnergyMethod, GpuWindow

NOW_S = 1_790_000_040
"""A full minute."""
HOUR_S = 3_600
DAY_S = 86_400
MODELS_AND_ROLES = 6
"""Racks before RACKS begins anew."""


def recorded(node: Node, struck: Faults, hours: float, *, seed: int = 1, window_s: int = 60, tick_s: int = 5) -> Parcel:
    """The hours before NOW_S of this node."""
    machine = SimulatedNode(node, struck, seed)
    start_s = NOW_S - int(hours * HOUR_S)
    parcel = machine.introduction(start_s)
    for at_s in range(start_s, NOW_S, window_s):
        if window := machine.window(at_s, window_s, tick_s):
            parcel.add(window)
    return parcel


def healthy() -> Faults:
    return Faults(now_s=NOW_S)


def of_role(role: str, gpus_per_node: int = 2) -> Node:
    nodes = fleet.of_nodes(16, seed=1, gpus_per_node=gpus_per_node)
    return next(node for node in nodes if node.role == role)


def reasons(windows: Sequence[GpuWindow]) -> int:
    union = 0
    for window in windows:
        union |= window.clock_event_reasons or 0
    return union


@settings(max_examples=60)
@given(
    number=st.integers(0, 15),
    seed=st.integers(0, 2**31 - 1),
    start_min=st.integers(NOW_S // 60 - 60 * 24 * 7, NOW_S // 60),
    window_s=st.sampled_from([1, 2, 5, 10, 15, 20, 30, 60]),
    tick_s=st.sampled_from([1, 5]),
    hot=st.booleans(),
    brake=st.booleans(),
)
def test_energy_is_the_integral_of_the_power_reported_tick_by_tick(
    number: int, seed: int, start_min: int, window_s: int, tick_s: int, hot: bool, brake: bool
) -> None:
    node = fleet.of_nodes(16, seed=seed, gpus_per_node=3)[number]
    struck = Faults(now_s=NOW_S, hot=(1, 0.0) if hot else None, brake=brake)
    machine = SimulatedNode(node, struck, seed)
    tick_s = min(tick_s, window_s) if window_s % tick_s == 0 else 1
    for start_s in range(start_min * 60, start_min * 60 + 120, window_s):
        parcel = machine.window(start_s, window_s, tick_s)
        assert parcel is not None
        (of_node,) = parcel.node_windows
        energy_mj = sum(window.energy_mj or 0 for window in parcel.gpu_windows)
        assert energy_mj * 1_000 == sum(mw or 0 for mw in of_node.gpu_power_mw) * of_node.tick_ms
        for window in parcel.gpu_windows:
            assert window.energy_mj is not None
            assert window.power_mean_mw == window.energy_mj // window_s
            # What goes in at the plug is more than what the GPUs and the CPUs take.
        assert of_node.cpu_energy_mj is not None
        assert of_node.node_power_mean_mw is not None
        assert of_node.node_power_mean_mw * window_s > energy_mj + of_node.cpu_energy_mj


@pytest.mark.parametrize("number", range(16))
def test_records_are_within_their_bounds(number: int) -> None:
    nodes = fleet.of_nodes(16, seed=3, gpus_per_node=2)
    struck = faults.plan(nodes, "many", seed=3, now_s=NOW_S, history_s=HOUR_S)
    node = nodes[number]
    parcel = recorded(node, struck[number], 1, seed=3)
    packed = msgspec.msgpack.encode(parcel)
    assert msgspec.msgpack.decode(packed, type=Parcel) == parcel
    limit_mw = node.model.limit_w * 1_000
    for window in parcel.gpu_windows:
        start_ms = round(window.start.timestamp() * 1_000)
        assert start_ms // 60_000 == (start_ms + window.covered_ms - 1) // 60_000
        assert window.power_min_mw is not None
        assert window.power_max_mw is not None
        assert window.power_mean_mw is not None
        assert window.power_min_mw <= window.power_mean_mw <= window.power_max_mw <= limit_mw
        assert window.power_min_mw >= 0.9 * node.model.idle_w * 1_000
        assert (window.gpu_temp_max_c or 0) < node.model.shutdown_c
        assert (window.sm_clock_mhz or 0) <= node.model.sm_max_mhz
        assert (window.mem_used_mib or 0) <= node.model.mem_total_mib
        method = EnergyMethod.COUNTER if node.model.energy_counter else EnergyMethod.INTEGRATED
        assert window.energy_method is method
        assert (window.mem_temp_max_c is None) == (node.model.mem_rise_k is None)


def test_the_same_seed_gives_the_same_records_and_another_gives_others() -> None:
    def of_seed(seed: int) -> list[Parcel]:
        nodes = fleet.of_nodes(7, seed=seed, gpus_per_node=2)
        struck = faults.plan(nodes, "few", seed=seed, now_s=NOW_S, history_s=HOUR_S)
        return [recorded(*pair, 0.5, seed=seed) for pair in zip(nodes, struck, strict=True)]

    assert of_seed(5) == of_seed(5)
    assert of_seed(5) != of_seed(6)


def test_a_greater_fleet_contains_a_smaller_one_and_no_identity_twice() -> None:
    small = fleet.of_nodes(16, seed=1, gpus_per_node=8)
    great = fleet.of_nodes(1_000, seed=1, gpus_per_node=8)
    assert great[:16] == small
    assert len({node.machine_id for node in great}) == 1_000
    assert len({(node.site.name, node.rack, node.hostname) for node in great}) == 1_000
    assert len({uuid for node in great for uuid in node.gpu_uuids}) == 8_000
    assert {node.site.name for node in small} == {"lulea", "dublin"}
    assert len({node.model.name for node in small}) == 4
    assert sum(not node.model.energy_counter for node in small) == 1
    assert len({(node.site.name, node.rack) for node in small}) == MODELS_AND_ROLES


def test_megawatts_size_the_fleet_in_proportion() -> None:
    one = fleet.of_megawatts(1, seed=1, gpus_per_node=8)
    ten = fleet.of_megawatts(10, seed=1, gpus_per_node=8)
    assert 1e6 <= sum(node.rated_w for node in one) < 1.02e6
    assert len(ten) / len(one) == pytest.approx(10, rel=0.03)
    assert len(fleet.of_megawatts(0.000_001, seed=1, gpus_per_node=1)) == 1


def test_an_h100_node_at_full_load_draws_about_what_was_measured() -> None:
    # Latif et al., IEEE Access 13 (2025): at most about 8.4 kW, of 10.2 kW that the maker rates.
    node = of_role("training", 8)
    assert node.model is H100
    assert node.rated_w == pytest.approx(8_400, rel=0.07)


def test_demand_has_its_trough_at_night_and_its_peak_in_the_afternoon() -> None:
    thursday = [day_curve(hour * HOUR_S) for hour in range(24)]
    assert min(thursday) == thursday[4] == pytest.approx(0.25)
    assert max(thursday) == thursday[16] == pytest.approx(1.0)
    saturday = 2 * DAY_S
    assert day_curve(saturday + 16 * HOUR_S) == pytest.approx(0.75)


def test_inference_follows_the_local_day_and_the_last_node_rests_at_night() -> None:
    nodes = [node for node in fleet.of_nodes(16, seed=1, gpus_per_node=1) if node.rack_nodes == 4]
    first, last = Inference(nodes[0], 1), Inference(nodes[3], 1)
    midnight_s = NOW_S // DAY_S * DAY_S
    night, day = midnight_s + 4 * HOUR_S, midnight_s + 16 * HOUR_S

    def mean(work: Inference, start_s: int) -> float:
        return sum(work.at(start_s + tick_s).util for tick_s in range(0, 900, 5)) / 180

    assert mean(last, night) == 0
    assert mean(last, day) > 0.5
    assert mean(first, day) > mean(first, night) > 0


def test_a_training_job_dips_on_all_nodes_of_its_rack_at_once() -> None:
    nodes = [node for node in fleet.of_nodes(3, seed=1, gpus_per_node=1) if node.role == "training"]
    assert len(nodes) == 3
    works = [Training(node, 1) for node in nodes]
    day = [[work.at(NOW_S - DAY_S + tick_s) for work in works] for tick_s in range(0, DAY_S, 5)]
    assert all(loads == [loads[0]] * 3 for loads in day)
    checkpoints = sum(loads[0].draw == 0.1 for loads in day) * 5
    computing = sum(loads[0].util == 1.0 for loads in day) * 5
    assert computing > 12 * HOUR_S
    assert checkpoints >= 10 * CHECKPOINT_S
    assert any(loads[0].mem == 0 for loads in day)


def test_work_depends_on_time_alone() -> None:
    for node in fleet.of_nodes(16, seed=1, gpus_per_node=1):
        forwards, backwards = work_of(node, 1), work_of(node, 1)
        times = range(NOW_S - 4 * HOUR_S, NOW_S, 97)
        there = [forwards.at(time_s) for time_s in times]
        assert there == [backwards.at(time_s) for time_s in reversed(times)][::-1]


def test_temperature_follows_power_with_a_lag() -> None:
    node = of_role("training")
    parcel = recorded(node, healthy(), 24)
    of_one = [window for window in parcel.gpu_windows if window.gpu_uuid == node.gpu_uuids[0]]
    idle = [w for w in of_one if (w.power_max_mw or 0) < 1_100 * node.model.idle_w]
    busy = [w for w in of_one if (w.power_mean_mw or 0) > 0.8 * 1_000 * node.model.limit_w]
    coolest = min(window.gpu_temp_max_c or 0 for window in idle)
    warmest = max(window.gpu_temp_max_c or 0 for window in busy)
    assert 18 <= coolest <= 35
    assert 55 <= warmest <= 75
    # The first idle minute after work still has the heat of it: the greatest temperature says so.
    assert max(window.gpu_temp_max_c or 0 for window in idle) > coolest + 10


def test_clocks_fall_where_the_power_cap_holds() -> None:
    node = of_role("training")
    windows = recorded(node, healthy(), 24).gpu_windows
    # A minute that is capped in all but its dips.
    capped = [w for w in windows if w.clock_event_reasons == 0x4 and (w.power_max_mw or 0) > 695_000]
    assert capped
    assert all((window.sm_clock_mhz or 0) < node.model.sm_max_mhz for window in capped)
    free = [window for window in windows if window.clock_event_reasons == 0]
    assert {window.sm_clock_mhz for window in free} == {node.model.sm_max_mhz}


def test_a_gpu_with_failed_cooling_is_slowed_and_held_below_its_shutdown() -> None:
    node = of_role("training")
    parcel = recorded(node, Faults(now_s=NOW_S, hot=(1, NOW_S - 12 * HOUR_S)), 24)
    struck, other = (
        [window for window in parcel.gpu_windows if window.gpu_uuid == uuid]
        for uuid in (node.gpu_uuids[1], node.gpu_uuids[0])
    )
    before = [window for window in struck if window.start.timestamp() < NOW_S - 12 * HOUR_S]
    assert reasons(struck) & 0x60 == 0x60
    assert not reasons(before) & 0x60
    assert not reasons(other) & 0x60
    hottest = max(window.gpu_temp_max_c or 0 for window in struck)
    assert node.model.slowdown_c - 3 <= hottest < node.model.shutdown_c
    slowed = [w for w in struck if (w.clock_event_reasons or 0) & 0x20]
    assert all((window.sm_clock_mhz or 0) < node.model.sm_max_mhz for window in slowed)


def test_the_power_brake_halves_power_and_says_so() -> None:
    node = of_role("training")
    # Six minutes from twenty minutes after now, and every six hours before.
    parcel = recorded(node, Faults(now_s=NOW_S, brake=True), 24)
    braked = [w for w in parcel.gpu_windows if (w.clock_event_reasons or 0) & 0x80]
    assert braked
    assert all((window.power_max_mw or 0) <= 350_000 for window in braked)
    minutes = {window.start for window in braked}
    assert len(minutes) <= 4 * 6


def test_a_lost_gpu_leaves_its_events_and_no_windows() -> None:
    node = of_role("inference", 4)
    parcel = recorded(node, Faults(now_s=NOW_S, lost=(2, NOW_S - HOUR_S)), 2)
    counts = dict.fromkeys(node.gpu_uuids, 0)
    for window in parcel.gpu_windows:
        counts[window.gpu_uuid] += 1
    assert list(counts.values()) == [120, 120, 60, 120]
    lost = [event for event in parcel.events if event.gpu_uuid == node.gpu_uuids[2]]
    assert [(event.kind, event.code, event.severity) for event in lost] == [
        ("xid", 79, "critical"),
        ("gpu_lost", None, "critical"),
    ]
    assert all(event.time.timestamp() == NOW_S - HOUR_S for event in lost)
    after = parcel.node_windows[-1]
    assert (after.gpus_read, after.gpus_expected) == (3, 4)
    assert set(after.gpu_power_mw) == {None}
    # The node still knows it, so that it is missing and not removed.
    assert parcel.inventory is not None
    assert len(parcel.inventory.gpus) == 4
    assert all(item.time.timestamp() < NOW_S - HOUR_S for item in parcel.health if item.gpu_uuid == node.gpu_uuids[2])


def test_memory_errors_show_in_the_health_and_once_as_events() -> None:
    node = of_role("inference")
    struck = Faults(now_s=NOW_S, uncorrected=(0, NOW_S - HOUR_S), corrected=1)
    parcel = recorded(node, struck, 3)
    first, second = ([i for i in parcel.health if i.gpu_uuid == uuid] for uuid in node.gpu_uuids)
    assert not first[0].row_remap_pending
    assert first[-1].row_remap_pending
    assert first[-1].ecc_volatile_uncorrected == 1
    assert [event.code for event in parcel.events if event.kind == "xid"] == [94, 63]
    counts = [item.ecc_volatile_corrected or 0 for item in second]
    assert counts == sorted(counts)
    assert counts[-1] - counts[0] in {11, 12}


def test_health_is_sent_when_it_changed_and_once_an_hour() -> None:
    parcel = recorded(of_role("research", 1), healthy(), 24)
    times = [item.time for item in parcel.health]
    assert len(times) == len(set(times))
    assert {time.hour for time in times} == set(range(24))
    assert len(times) < 24 * 5
    assert {process.name for item in parcel.health for process in item.processes or ()} == {"python3"}


def test_few_faults_are_one_of_each_kind_and_many_are_more() -> None:
    nodes = fleet.of_nodes(32, seed=1, gpus_per_node=8)

    def counts(amount: faults.Amount) -> set[int]:
        planned = faults.plan(nodes, amount, seed=1, now_s=NOW_S, history_s=DAY_S)
        kinds = {
            "cut_off": False,
            "restarts": False,
            "clock_ahead_s": 0.0,
            **dict.fromkeys(("silent_from_s", "lost", "hot", "uncorrected", "corrected")),
        }
        return {sum(getattr(one, kind) != sound for one in planned) for kind, sound in kinds.items()}

    assert counts("none") == {0}
    assert counts("few") == {1}
    assert min(counts("many")) >= 3


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 16, 100])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_has_a_silent_node_and_a_missing_gpu_now(nodes: int, seed: int) -> None:
    machines = fleet.of_nodes(nodes, seed=seed, gpus_per_node=8)
    planned = faults.plan(machines, "few", seed=seed, now_s=NOW_S, history_s=DAY_S)
    silent = [struck for struck in planned if struck.is_silent(NOW_S)]
    missing = [struck for struck in planned if struck.lost and not struck.is_silent(NOW_S)]
    # One node alone stays: a fleet of none would show nothing.
    assert len(silent) == (1 if nodes > 1 else 0)
    assert len(missing) == 1


def test_without_history_faults_begin_now() -> None:
    machines = fleet.of_nodes(16, seed=1, gpus_per_node=8)
    planned = faults.plan(machines, "few", seed=1, now_s=NOW_S, history_s=0)
    times = [found[1] for struck in planned for found in (struck.lost, struck.hot) if found]
    assert times == [NOW_S, NOW_S]
