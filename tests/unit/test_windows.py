"""Laws of the windows: energy is conserved to the millijoule, no window twice, nothing invented."""

from collections import Counter
from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from collector.sources.host import HostReading
from collector.sources.nvml import GpuReading
from collector.windows import LONGEST_GAP_MS, GpuFolder, GpusAtTick, Mark, NodeFolder, from_ms
from gigawatch.records import EnergyMethod, GpuWindow, NodeWindow

START_MS = 1_790_000_003_456
LIMIT_MW = 700_000


def reading(**values: int | None) -> GpuReading:
    return GpuReading(uuid="GPU-1", **{"power_limit_mw": LIMIT_MW, **values})


def total_mj(windows: list[GpuWindow]) -> int:
    return sum(window.energy_mj or 0 for window in windows)


def end(window: GpuWindow) -> int:
    return round(window.start.timestamp() * 1000) + window.covered_ms


intervals = st.lists(
    st.tuples(
        st.one_of(st.integers(200, 3_000), st.integers(1, 400_000)),  # ms since the reading before
        st.integers(0, LIMIT_MW),  # mean power between, mW
    ),
    min_size=1,
    max_size=60,
)
window_lengths = st.sampled_from([1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000])


@given(intervals, window_lengths, st.integers(1, 10**15))
def test_windows_add_up_to_the_counters_difference(steps: list[tuple[int, int]], window_ms: int, first_mj: int) -> None:
    folder = GpuFolder("GPU-1", window_ms, 1_000)
    at_ms, counter_mj = START_MS, first_mj
    folder.add(at_ms, reading(energy_counter_mj=counter_mj))
    windows: list[GpuWindow] = []
    for length_ms, power_mw in steps:
        at_ms += length_ms
        counter_mj += power_mw * length_ms // 1_000
        assert folder.add(at_ms, reading(energy_counter_mj=counter_mj)) == []
        windows += folder.close(at_ms)
        mark = folder.mark()
        assert mark is not None
        assert first_mj + total_mj(windows) == mark.counter_mj, "the mark is not what was handed out"
    windows += folder.close(at_ms, stop=True)

    assert total_mj(windows) == counter_mj - first_mj
    assert sum(window.covered_ms for window in windows) == at_ms - START_MS
    assert max(Counter(window.start for window in windows).values(), default=0) <= 1
    for before, after in pairwise(windows):
        assert end(before) <= round(after.start.timestamp() * 1000)
    for window in windows:
        start_ms = round(window.start.timestamp() * 1000)
        assert start_ms // window_ms == (end(window) - 1) // window_ms, "it crosses the end of a window"
        assert window.ticks_taken <= window.ticks_expected


@given(intervals, st.integers(0, 59))
def test_a_killed_agent_loses_no_energy(steps: list[tuple[int, int]], killed_after: int) -> None:
    """The next agent goes on from the mark: what the open windows held is interpolated, not lost."""
    folder = GpuFolder("GPU-1", 10_000, 1_000)
    at_ms, counter_mj = START_MS, 1_000
    folder.add(at_ms, reading(energy_counter_mj=counter_mj))
    windows: list[GpuWindow] = []
    mark = folder.mark()
    for number, (length_ms, power_mw) in enumerate(steps):
        at_ms += length_ms
        counter_mj += power_mw * length_ms // 1_000
        folder.add(at_ms, reading(energy_counter_mj=counter_mj))
        closed = folder.close(at_ms)
        windows += closed
        if closed:
            mark = folder.mark()  # as the spool keeps it, with the batch
        if number == killed_after:
            folder = GpuFolder("GPU-1", 10_000, 1_000, mark)
    at_ms += 1_000
    folder.add(at_ms, reading(energy_counter_mj=counter_mj))
    windows += folder.close(at_ms, stop=True)
    assert total_mj(windows) == counter_mj - 1_000
    assert max(Counter(window.start for window in windows).values()) == 1


@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, LIMIT_MW)), min_size=2, max_size=60),
    window_lengths,
)
def test_windows_of_a_gpu_without_counter_add_up_to_the_trapezoid(
    points: list[tuple[int, int]], window_ms: int
) -> None:
    folder = GpuFolder("GPU-1", window_ms, 1_000)
    at_ms, last_mw, exact_mj = START_MS, None, 0.0
    windows: list[GpuWindow] = []
    for length_ms, power_mw in points:
        if last_mw is not None:
            at_ms += length_ms
            exact_mj += (last_mw + power_mw) / 2 * length_ms / 1_000
        folder.add(at_ms, reading(power_mw=power_mw))
        windows += folder.close(at_ms)
        last_mw = power_mw
    windows += folder.close(at_ms, stop=True)
    assert abs(total_mj(windows) - exact_mj) <= 1.001
    assert {window.energy_method for window in windows} <= {EnergyMethod.INTEGRATED}


def fold(
    points: list[tuple[int, dict[str, int | None]]], mark: Mark | None = None
) -> tuple[list[GpuWindow], list[str]]:
    """Windows of 10 s and the kinds of events of readings at these milliseconds after a full minute."""
    minute_ms = 1_790_000_040_000
    folder = GpuFolder("GPU-1", 10_000, 1_000, mark)
    windows: list[GpuWindow] = []
    kinds: list[str] = []
    for at_ms, values in points:
        kinds += [event.kind for event in folder.add(minute_ms + at_ms, reading(**values))]
        windows += folder.close(minute_ms + at_ms)
    return windows + folder.close(minute_ms + points[-1][0], stop=True), kinds


def counters(*values: tuple[int, int]) -> list[tuple[int, dict[str, int | None]]]:
    return [(at_ms, {"energy_counter_mj": mj, "power_mw": 300_000}) for at_ms, mj in values]


def test_an_interval_across_a_boundary_is_split_by_time() -> None:
    windows, _ = fold(counters((9_600, 1_000_000), (10_600, 1_300_000)))
    assert [(window.covered_ms, window.energy_mj) for window in windows] == [(400, 120_000), (600, 180_000)]


def test_a_gap_is_spread_evenly_and_marked() -> None:
    windows, kinds = fold(counters((0, 1), (1_000, 300_001), (31_000, 3_300_001)))
    assert [window.energy_mj for window in windows] == [1_200_000, 1_000_000, 1_000_000, 100_000]
    assert {window.energy_method for window in windows} == {EnergyMethod.INTERPOLATED}
    assert [window.ticks_taken for window in windows] == [2, 0, 0, 1]
    assert kinds == []


def test_a_gap_longer_than_a_day_is_left_out_and_told() -> None:
    folder = GpuFolder("GPU-1", 10_000, 1_000)
    folder.add(START_MS, reading(energy_counter_mj=1))
    folder.add(START_MS + LONGEST_GAP_MS + 1, reading(energy_counter_mj=5_000_001))
    assert folder.close(START_MS + LONGEST_GAP_MS + 1, stop=True) == []
    assert [(gap.energy_mj, gap.attributed) for gap in folder.gaps] == [(5_000_000, False)]


def test_a_reset_starts_a_new_epoch_and_its_part_is_estimated() -> None:
    windows, kinds = fold(counters((0, 9_000_000), (1_000, 9_300_000), (2_000, 50_000), (3_000, 350_000)))
    # 300 J by the counter, 1 s at 300 W estimated, 300 J by the new epoch's counter.
    assert total_mj(windows) == 900_000
    assert kinds == ["counter_reset"]
    assert windows[0].energy_method == EnergyMethod.ESTIMATED


def test_a_single_impossible_reading_is_left_out_and_costs_nothing() -> None:
    for wrong_mj in (0, 99_000_000):
        windows, kinds = fold(counters((0, 1_000_000), (1_000, wrong_mj), (2_000, 1_600_000)))
        assert total_mj(windows) == 600_000
        assert windows[0].energy_method == EnergyMethod.COUNTER
        assert kinds == ["counter_rejected"]


def test_more_than_the_limit_allows_is_refused() -> None:
    # METHODS: 0 ≤ ΔE ≤ 1.2 · P_limit · Δt, here with 200 ms for the counter's own steps.
    most_mj = 12 * LIMIT_MW * 1_200 // 10_000
    for energy_mj, refused in ((most_mj, False), (most_mj + 1, True)):
        _, kinds = fold(counters((0, 1), (1_000, 1 + energy_mj), (2_000, 1 + energy_mj)))
        assert (kinds != []) == refused


def test_a_missing_counter_reading_is_bridged_by_the_next() -> None:
    windows, _ = fold([*counters((0, 1)), (1_000, {"power_mw": 500_000}), *counters((2_000, 600_001))])
    assert total_mj(windows) == 600_000
    assert windows[0].energy_method == EnergyMethod.COUNTER


def test_no_bridge_over_more_than_five_seconds_without_a_counter() -> None:
    windows, _ = fold([(0, {"power_mw": 100_000}), (5_000, {"power_mw": 100_000}), (10_001, {"power_mw": 100_000})])
    assert total_mj(windows) == 500_000
    assert sum(window.covered_ms for window in windows) == 5_000


def test_what_a_gpu_does_not_support_is_absent_not_zero() -> None:
    windows, _ = fold([(0, {"gpu_util_pct": 50}), (1_000, {"gpu_util_pct": 51})])
    assert windows == [
        GpuWindow(
            gpu_uuid="GPU-1", start=from_ms(1_790_000_040_000), covered_ms=1_000, ticks_taken=2, ticks_expected=2,
            power_limit_mw=LIMIT_MW, gpu_util_pm=505,
        )
    ]  # fmt: skip


def test_temperatures_are_maxima_and_clock_events_a_union() -> None:
    windows, _ = fold([
        (0, {"energy_counter_mj": 1, "gpu_temp_c": 60, "clock_event_reasons": 4, "power_instant_mw": 10}),
        (1_000, {"energy_counter_mj": 2, "gpu_temp_c": 80, "clock_event_reasons": 64, "power_instant_mw": 30}),
        (2_000, {"energy_counter_mj": 3, "gpu_temp_c": 70, "clock_event_reasons": 0, "power_mw": 20}),
    ])  # fmt: skip
    assert (windows[0].gpu_temp_max_c, windows[0].clock_event_reasons) == (80, 68)
    assert (windows[0].power_min_mw, windows[0].power_max_mw, windows[0].power_mean_mw) == (10, 30, 20)


def test_throughput_is_the_difference_of_the_counters_and_a_reset_is_passed_over() -> None:
    windows, _ = fold([
        (0, {"energy_counter_mj": 1, "pcie_tx_kib": 100}),
        (1_000, {"energy_counter_mj": 2, "pcie_tx_kib": 150}),
        (2_000, {"energy_counter_mj": 3, "pcie_tx_kib": 5}),
        (3_000, {"energy_counter_mj": 4, "pcie_tx_kib": 9}),
    ])  # fmt: skip
    assert windows[0].pcie_tx_kib == 54
    assert windows[0].nvlink_tx_kib is None


def test_a_set_wall_clock_moves_the_windows_and_costs_no_energy() -> None:
    folder = GpuFolder("GPU-1", 10_000, 1_000)
    folder.add(START_MS, reading(energy_counter_mj=1))
    folder.add(START_MS + 1_000, reading(energy_counter_mj=300_001))
    windows = folder.close(START_MS + 2_000, stop=True)
    folder.shift(-600_000)
    folder.add(START_MS + 2_000 - 600_000, reading(energy_counter_mj=600_001))
    windows += folder.close(START_MS + 2_000 - 600_000, stop=True)
    assert [window.energy_mj for window in windows] == [300_000, 300_000]
    assert windows[1].start - windows[0].start == timedelta(milliseconds=-599_000)


def test_node_windows_keep_the_power_tick_by_tick() -> None:
    folder = NodeFolder(10_000, 1_000)
    minute_ms = 1_790_000_040_000
    windows: list[NodeWindow] = []
    for tick in range(-3, 23):
        if tick == 7:
            continue  # a tick that was missed
        at_ms = minute_ms + 1_000 * tick + 3
        power_mw = None if tick == 4 else 1_000 * tick + 5_000
        host = HostReading(cpu_energy_uj=tick * 2_500_000, node_power_mw=900_000 + tick)
        folder.add(at_ms, GpusAtTick(power_mw, 8, 8, 1 if tick == 10 else 0), host)
        windows += folder.close(at_ms)
    windows += folder.close(minute_ms + 22_003, stop=True)
    assert [window.start for window in windows] == [from_ms(minute_ms + ms) for ms in (-2_997, 3, 10_003, 20_003)]
    assert windows[0].gpu_power_mw == (2_000, 3_000, 4_000)
    assert windows[1].gpu_power_mw == (
        5_000, 6_000, 7_000, 8_000, None, 10_000, 11_000, None, 13_000, 14_000,
    )  # fmt: skip
    assert [(window.ticks_taken, window.ticks_expected) for window in windows] == [
        (3, 3),
        (9, 10),
        (10, 10),
        (3, 3),
    ]
    assert [window.rejected_readings for window in windows] == [0, 0, 1, 0]
    assert [window.cpu_energy_mj for window in windows] == [5_000, 25_000, 25_000, 7_500]
    assert windows[1].node_power_max_mw == 900_009
