"""Laws of meter windows: energy and volume are conserved, to the last unit, through wraps, replacements, gaps and
glitches; what is not known is not covered, and each fault that one meter shows is told."""

from collections.abc import Iterable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.meters.folder import LEAST_GAP_MS, Folder, window_length_ms
from collector.meters.power import FLAT_AFTER_MS
from collector.meters.reading import Reading
from collector.meters.register import MeterMark
from collector.windows import LONGEST_GAP_MS
from gigawatch.records import EnergyMethod, MeterDoubt, MeterWindow, Severity
from gigawatch.settings import Meter

HOUR_MS = 1_790_002_800_000
KWH = 3_600_000_000
"""In mJ."""
KW = 1_000_000
"""In mW."""


def settings(**more: Any) -> Meter:
    given = {"name": "m", "driver": "modbus", "address": "127.0.0.1", "map": "m", "interval_s": 10.0, **more}
    return Meter(**given)


class Watched:
    """A meter whose windows and notices are gathered, by an agent that may be killed."""

    def __init__(self, it: Meter | None = None, window_s: int = 10) -> None:
        self.settings = it or settings()
        self.window_ms = window_length_ms(self.settings, window_s)
        self.folder = Folder(self.settings, self.window_ms)
        self.windows: list[MeterWindow] = []
        self.mark = MeterMark()
        self.notices: list[tuple[str, Severity]] = []
        self.refused: list[str] = []
        self.at_ms = 0

    def read(self, at_ms: int, **told: Any) -> None:
        """A reading so long after the full hour."""
        self.at_ms = HOUR_MS + at_ms
        self.refused += self.folder.add(self.at_ms, Reading(at_s=at_ms / 1000, **told))
        self._take(self.folder.close(self.at_ms))

    def end(self) -> list[MeterWindow]:
        self._take(self.folder.close(self.at_ms, stop=True))
        return self.windows

    def _take(self, windows: list[MeterWindow]) -> None:
        self.windows += windows
        self.mark = self.folder.mark()
        self.notices += [(it.kind, it.severity) for it in self.folder.notices]
        self.folder.notices.clear()

    def restart(self, *, killed: bool) -> None:
        """Another agent goes on; of one that was killed the open windows are lost."""
        if not killed:
            self.end()
        self.folder = Folder(self.settings, self.window_ms, self.mark)

    def energy_mj(self, *methods: EnergyMethod) -> int:
        return sum(it.energy_mj or 0 for it in self.windows if not methods or it.energy_method in methods)

    def covered_ms(self) -> int:
        return sum(it.covered_ms for it in counted(self.windows))

    def doubts(self) -> set[MeterDoubt | None]:
        return {it.doubt for it in self.windows}


def start_ms(window: MeterWindow) -> int:
    return round(window.start.timestamp() * 1000)


def counted(windows: Iterable[MeterWindow]) -> list[MeterWindow]:
    """Without those that have power alone, since the register is not believed."""
    return [it for it in windows if it.energy_mj is not None or it.doubt is None]


def check(windows: Iterable[MeterWindow]) -> None:
    """What holds of all windows of a meter, whatever happened."""
    ordered = sorted(windows, key=lambda it: it.start)
    assert len({it.start for it in ordered}) == len(ordered)
    for it in ordered:
        assert it.covered_ms >= 1
        last = it.start + timedelta(milliseconds=it.covered_ms - 1)
        assert (last.date(), last.hour) == (it.start.date(), it.start.hour), "it crosses a full hour"
        assert it.readings_taken <= it.readings_expected
        assert it.energy_mj is None or it.energy_mj >= 0
        assert (it.energy_mj is None) == (it.energy_method is None)


def check_apart(windows: Iterable[MeterWindow]) -> None:
    """Windows of a single register cover no moment twice; such as have power alone cover none."""
    ordered = sorted(windows, key=lambda it: it.start)
    check(ordered)
    assert all(it.energy_mj is not None or it.power_mean_mw is not None for it in ordered if it.doubt is not None)
    for before, after in pairwise(counted(ordered)):
        assert start_ms(before) + before.covered_ms <= start_ms(after)


class FakeMeter:
    """Counts as a meter does, and what of it a reader can know."""

    def __init__(self, first: int, step: int, wraps: int | None, *, tells_identity: bool) -> None:
        self.step, self.wraps, self.tells_identity = step, wraps, tells_identity
        self.exact = first // step * step
        self.serial = 1
        self.seen: int | None = None
        self.knowable = 0

    @property
    def register(self) -> int:
        return self.exact // self.step * self.step

    def read(self) -> tuple[int, str | None]:
        if self.seen is not None:
            self.knowable += self.register - self.seen
        self.seen = self.register
        value = self.register if self.wraps is None else self.register % self.wraps
        return value, f"serial {self.serial}" if self.tells_identity else None

    def replace(self, first: int) -> None:
        self.serial += 1
        self.exact = first // self.step * self.step
        self.seen = None


RANGES = ((16, KWH), (16, KWH // 10), (16, 3 * KWH // 5), (32, KWH // 1000), (62, 1), (None, KWH), (None, KWH // 1000))
"""How many steps a register has before it begins anew, as a power of two, and its step; an hour does not exhaust it."""
FAULTS = ("none", "none", "none", "none", "gap", "glitch", "replaced", "restart", "kill", "step")


BEATS = st.lists(st.tuples(st.integers(8_000, 12_000), st.integers(0, 100_000), st.sampled_from(FAULTS)), max_size=80)


@given(st.sampled_from(RANGES), BEATS)
def test_windows_add_up_to_what_the_register_counted(
    kind: tuple[int | None, int], beats: list[tuple[int, int, str]]
) -> None:
    """A meter of 100 kW: from reading to reading a time, a power in W, and what befalls it."""
    bits, step = kind
    wraps = None if bits is None else 2**bits * step
    # One whose range is not known says who it is, or a new one cannot be told from one that began anew.
    meter = FakeMeter((wraps or 5_000_000 * KWH) - 2 * KWH, step, wraps, tells_identity=wraps is not None)
    watched = Watched(settings(rated_kw=100.0))
    at_ms, sane = 0, 0
    for length_ms, watts, fault in [*beats, (10_000, 50_000, "none"), (10_000, 50_000, "none")]:
        sane += 1
        gone_ms = 3_600_000 if fault == "gap" else length_ms
        at_ms += gone_ms
        meter.exact += watts * gone_ms
        if fault == "glitch" and sane > 2:
            # Two that agree would be believed.
            sane = 0
            watched.read(at_ms, energy_mj=7 * 10**17 + at_ms, energy_wraps_mj=wraps)
            continue
        if fault == "replaced" and sane > 2:
            sane = 0
            # One that goes on where the other ended cannot be told from it.
            meter.replace(4_000_000 * KWH // (meter.serial + 1))
        value, identity = meter.read()
        watched.read(at_ms, energy_mj=value, energy_wraps_mj=wraps, identity=identity)
        if fault in {"restart", "kill"} and sane > 2:
            watched.restart(killed=fault == "kill")
            # What a killed agent held is lost with its meter, where that is replaced at once.
            sane = 0
    windows = watched.end()
    check(windows)
    check_apart(windows)
    assert watched.energy_mj() == meter.knowable


@given(BEATS)
def test_volume_and_energy_of_a_heat_meter_add_up_each_for_itself(beats: list[tuple[int, int, str]]) -> None:
    heat, water = (FakeMeter(2**16 * step - step, step, 2**16 * step, tells_identity=True) for step in (KWH, 1_000))
    watched = Watched()
    at_ms, sane, named = 0, 0, False
    for length_ms, amount, fault in [*beats, (10_000, 50_000, "none"), (10_000, 50_000, "none")]:
        sane += 1
        gone_ms = 3_600_000 if fault == "gap" else length_ms
        at_ms += gone_ms
        heat.exact += amount * gone_ms
        water.exact += amount * gone_ms // 1_000_000
        # One whose name was never believed, since not all that it said could be, cannot be told from another.
        if fault == "replaced" and sane > 2 and named:
            heat.replace(0)
            water.replace(0)
        told: dict[str, Any] = {
            "energy_wraps_mj": heat.wraps,
            "volume_wraps_ml": water.wraps,
            "power_mw": amount * 1_000,
        }
        if fault == "step":
            told["refused"] = ("volume: '': it is no number",)
        else:
            told["volume_ml"], told["identity"] = water.read()
            named = True
        if fault == "glitch" and sane > 2:
            sane = 0
            told["energy_mj"] = heat.register % heat.wraps + 30_000 * KWH + 1_234_567
        else:
            told["energy_mj"], told["identity"] = heat.read()
        watched.read(at_ms, **told)
        if fault in {"restart", "kill"} and sane > 2:
            watched.restart(killed=fault == "kill")
            sane = 0
    windows = watched.end()
    check(windows)
    assert sum(it.volume_ml or 0 for it in windows) == water.knowable
    estimated = watched.energy_mj() - watched.energy_mj(EnergyMethod.COUNTER, EnergyMethod.INTERPOLATED)
    assert abs(watched.energy_mj() - heat.knowable) <= estimated


@given(st.lists(st.tuples(st.integers(1_000, 40_000), st.integers(0, 10**9)), min_size=2, max_size=100))
def test_a_meter_without_a_register_is_integrated_and_no_gap_is_bridged(beats: list[tuple[int, int]]) -> None:
    watched = Watched()
    at_ms, before_mw, exact_mj, covered_ms = 0, None, 0.0, 0
    for length_ms, power_mw in beats:
        at_ms += length_ms
        if before_mw is not None and length_ms <= 30_000:
            exact_mj += (before_mw + power_mw) / 2 * length_ms / 1_000
            covered_ms += length_ms
        before_mw = power_mw
        watched.read(at_ms, power_mw=power_mw)
    windows = watched.end()
    check(windows)
    check_apart(windows)
    assert watched.covered_ms() == covered_ms
    assert abs(watched.energy_mj() - exact_mj) <= 1 + exact_mj * 1e-12
    assert {it.energy_method for it in windows} <= {EnergyMethod.INTEGRATED}


@pytest.mark.parametrize(
    ("interval_s", "window_s", "length_s"),
    [(1.0, 10, 10), (10.0, 10, 10), (10.5, 10, 12), (25.0, 10, 25), (26.0, 10, 30), (900.0, 10, 900),
     (1_000.0, 60, 1_200), (3_600.0, 1, 3_600)],
)  # fmt: skip
def test_windows_are_as_long_as_the_agents_or_hold_an_interval(interval_s: float, window_s: int, length_s: int) -> None:
    assert window_length_ms(settings(interval_s=interval_s), window_s) == 1_000 * length_s


def test_energy_is_split_by_time_and_a_window_waits_for_the_reading_after_its_end() -> None:
    watched = Watched()
    watched.read(0, energy_mj=1_000)
    watched.read(12_000, energy_mj=1_013, power_mw=5, current_ma=7, temp_mc=-3)
    assert [(start_ms(it) - HOUR_MS, it.energy_mj, it.covered_ms) for it in watched.windows] == [(0, 10, 10_000)]
    watched.read(20_000, energy_mj=1_021)
    last = watched.windows[-1]
    assert (last.energy_mj, last.covered_ms, last.energy_method) == (11, 10_000, EnergyMethod.COUNTER)
    assert (last.readings_taken, last.readings_expected) == (1, 1)
    assert (last.power_mean_mw, last.power_min_mw, last.power_max_mw, last.current_max_ma, last.temp_mean_mc) == (
        5, 5, 5, 7, -3
    )  # fmt: skip


def test_a_gap_is_spread_over_windows_of_up_to_an_hour() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0)
    gone_ms = 5 * 3_600_000 + 1_234_567
    watched.read(gone_ms, energy_mj=gone_ms)
    windows = watched.end()
    check(windows)
    check_apart(windows)
    assert len(windows) == 7
    assert {it.energy_method for it in windows} == {EnergyMethod.INTERPOLATED}
    assert [it.energy_mj for it in windows] == [it.covered_ms for it in windows]
    assert watched.covered_ms() == gone_ms
    assert [(it.figure, it.length_ms, it.amount, it.attributed) for it in watched.folder.gaps] == [
        ("energy", gone_ms, gone_ms, True)
    ]


def test_a_gap_of_more_than_a_day_is_told_and_in_no_window() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0)
    watched.read(LONGEST_GAP_MS + 1, energy_mj=5 * KWH)
    watched.read(LONGEST_GAP_MS + 10_001, energy_mj=6 * KWH)
    assert watched.end() and watched.energy_mj() == KWH
    assert [(it.amount, it.attributed) for it in watched.folder.gaps] == [(5 * KWH, False)]


def test_the_energy_between_two_agents_is_known_also_after_a_reboot() -> None:
    watched = Watched()
    for second in range(0, 60, 10):
        watched.read(1_000 * second, energy_mj=1_000 * second)
    watched.restart(killed=True)
    watched.read(660_000, energy_mj=660_000)
    windows = watched.end()
    check_apart(windows)
    assert watched.energy_mj() == watched.covered_ms() == 660_000
    # What an agent that was killed had not handed out belongs to the gap.
    assert watched.energy_mj(EnergyMethod.INTERPOLATED) == 610_000


def test_a_register_that_wraps_goes_on_and_is_told() -> None:
    watched = Watched(settings(rated_kw=100.0))
    for second, kwh in ((0, 65_534), (60, 65_535), (120, 0), (180, 1)):
        watched.read(1_000 * second, energy_mj=kwh * KWH, energy_wraps_mj=65_536 * KWH)
    watched.end()
    assert watched.energy_mj() == 3 * KWH
    assert watched.notices == [("meter_wrapped", Severity.INFO)]


def test_a_register_that_may_have_wrapped_twice_is_not_guessed_at() -> None:
    watched = Watched(settings(rated_kw=100.0))
    for second, wh in ((0, 10_000), (10, 10_200), (4_000, 20_000), (4_010, 20_200)):
        watched.read(1_000 * second, energy_mj=wh * KWH // 1_000, energy_wraps_mj=65_536 * KWH // 1_000)
    check(watched.end())
    assert watched.energy_mj() == 400 * KWH // 1_000
    assert watched.covered_ms() == 20_000
    assert watched.notices == [("meter_wrapped", Severity.WARNING)]


def test_the_part_of_a_replaced_meter_is_estimated_from_power() -> None:
    watched = Watched(settings(rated_kw=100.0))
    for second, kwh, serial in ((0, 5_000.0, "a"), (36, 5_001.0, "a"), (46, 7.0, "b"), (82, 8.0, "b")):
        watched.read(1_000 * second, energy_mj=round(kwh * KWH), power_mw=90 * KW, identity=serial)
    check_apart(watched.end())
    # 90 kW for 10 s are 0.25 kWh.
    assert watched.energy_mj() == 2 * KWH + KWH // 4
    assert watched.covered_ms() == 82_000
    assert EnergyMethod.ESTIMATED in {it.energy_method for it in watched.windows}
    assert watched.notices == [("meter_replaced", Severity.WARNING)]


def test_a_garbled_answer_is_no_other_meter() -> None:
    """Its values are refused, and its serial number is no more to be believed."""
    watched = Watched(settings(rated_kw=100.0))
    watched.read(0, energy_mj=5_000 * KWH, power_mw=90 * KW, identity="a")
    watched.read(36_000, energy_mj=5_001 * KWH, power_mw=90 * KW, identity="a")
    watched.read(46_000, identity="\x7f@", refused=("power = nan",))
    watched.read(72_000, energy_mj=5_002 * KWH, power_mw=90 * KW, identity="a")
    watched.end()
    assert watched.energy_mj(EnergyMethod.COUNTER, EnergyMethod.INTERPOLATED) == watched.energy_mj() == 2 * KWH
    assert "meter_replaced" not in {kind for kind, _ in watched.notices}


def test_a_replaced_meter_without_a_serial_number_is_known_by_the_next_reading() -> None:
    watched = Watched()
    for second, kwh in ((0, 5_000.0), (36, 5_001.0), (46, 0.0), (56, 0.25)):
        watched.read(1_000 * second, energy_mj=round(kwh * KWH), power_mw=90 * KW)
    watched.end()
    assert watched.energy_mj() == KWH + KWH // 4 + KWH // 4
    assert watched.notices == [("meter_replaced", Severity.WARNING)]


@pytest.mark.parametrize("rated_kw", [100.0, None])
def test_a_glitch_is_left_out_and_counted_with_or_without_a_rating(rated_kw: float | None) -> None:
    watched = Watched(settings(rated_kw=rated_kw))
    for second, wh in ((0, 1_000), (10, 1_250), (20, 65_535), (30, 1_750), (40, 0), (50, 2_250), (60, 2_500)):
        watched.read(1_000 * second, energy_mj=wh * KWH // 1_000, power_mw=90 * KW)
    windows = watched.end()
    check_apart(windows)
    assert watched.energy_mj() == 1_500 * KWH // 1_000
    assert watched.covered_ms() == 60_000
    assert sum(it.rejected_readings for it in windows) == 2
    assert len(watched.refused) == 2 and watched.notices == []


def test_bursts_that_power_did_not_show_are_believed_of_a_meter_without_a_rating() -> None:
    watched = Watched()
    for turn in range(1, 11):
        watched.read(10_000 * turn, energy_mj=turn * turn * KWH // 1_000, power_mw=0)
    watched.end()
    assert watched.energy_mj() == 99 * KWH // 1_000
    assert watched.notices == [] and watched.refused == []


def test_a_leap_that_no_flow_explains_begins_a_new_count() -> None:
    watched = Watched(settings(rated_kw=100.0))
    for second, kwh in ((0, 100.0), (10, 100.25), (20, 9_000.0), (30, 9_000.25)):
        watched.read(1_000 * second, energy_mj=round(kwh * KWH), power_mw=90 * KW)
    watched.end()
    assert watched.energy_mj() == 3 * KWH // 4
    assert watched.notices == [("meter_replaced", Severity.WARNING)]


@pytest.mark.parametrize("rated_kw", [150.0, None])
@pytest.mark.parametrize("step", [KWH, 3 * KWH // 4, KWH // 8, KWH // 1_000])
def test_a_coarse_register_is_not_taken_for_stuck(step: int, rated_kw: float | None) -> None:
    watched = Watched(settings(rated_kw=rated_kw))
    exact = 1_234_567 * KWH
    for turn in range(500):
        watched.read(10_000 * turn, energy_mj=exact // step * step, power_mw=100 * KW)
        exact += 100 * KW * 10
    windows = watched.end()
    assert watched.notices == [] and watched.refused == []
    # The last readings in which it did not move wait for the next that it does.
    assert 4_970_000 <= watched.covered_ms() <= 4_990_000
    assert sum(it.rejected_readings for it in windows) == 0
    assert abs(watched.energy_mj() - 100 * KW * 4_990) <= step


def test_a_register_that_is_renewed_once_a_minute_is_waited_for_only_while_that_is_not_known() -> None:
    watched = Watched(settings(rated_kw=150.0))
    for turn in range(100):
        if turn == 50:
            watched.restart(killed=False)
        watched.read(10_000 * turn, energy_mj=500 * KWH + turn // 6 * 100 * KW * 60, power_mw=100 * KW)
    windows = watched.end()
    check_apart(windows)
    assert watched.notices == [] and watched.energy_mj() == 100 * KW * 960
    assert watched.energy_mj(EnergyMethod.INTERPOLATED) <= 100 * KW * 60
    assert len([it for it in windows if it.power_mean_mw is not None]) >= 92


@pytest.mark.parametrize("away_ms", [0, 600_000])
@pytest.mark.parametrize("restarts", [True, False])
def test_a_register_that_did_not_move_in_a_gap_although_power_flowed_is_not_believed(
    restarts: bool, away_ms: int
) -> None:
    watched = Watched(settings(rated_kw=150.0))
    for turn in range(160):
        at_ms = 10_000 * turn + (away_ms if turn >= 80 else 0)
        counted = min(turn, 40) if turn < 120 else turn - 79
        if turn == 80 and restarts:
            watched.restart(killed=False)
        watched.read(at_ms, energy_mj=500 * KWH + counted * 100 * KW * 10, power_mw=100 * KW)
    check_apart(watched.end())
    assert watched.energy_mj() == 100 * KW * 10 * 80
    assert watched.covered_ms() == 800_000
    assert watched.notices[0] == ("meter_stuck", Severity.WARNING)


def stuck(watched: Watched, moves_kwh: float) -> None:
    """100 kW; an hour of it the register says nothing, and then goes on from so much more."""
    per_reading = 100 * KW * 10
    for turn in range(460):
        lost = 0 if turn < 50 else round((100 - moves_kwh) * KWH)
        counted = 50 * per_reading if 50 <= turn < 410 else turn * per_reading - lost
        watched.read(10_000 * turn, energy_mj=5_000 * KWH + counted, power_mw=100 * KW)


def test_a_stuck_register_is_told_and_what_it_counted_all_the_same_is_spread() -> None:
    watched = Watched(settings(rated_kw=150.0))
    stuck(watched, 100.0)
    windows = watched.end()
    check_apart(windows)
    assert watched.energy_mj() == 100 * KW * 4_590
    # Two windows begin a millisecond later than they might, beside those that have power alone.
    assert watched.covered_ms() == 4_590_000 - 2
    assert watched.doubts() == {None, MeterDoubt.STUCK}
    assert watched.notices == [("meter_stuck", Severity.WARNING), ("meter_answers", Severity.INFO)]
    assert watched.energy_mj(EnergyMethod.INTERPOLATED) > 90 * KWH


def test_the_time_that_a_register_did_not_count_is_not_covered() -> None:
    watched = Watched(settings(rated_kw=150.0))
    stuck(watched, 0.0)
    windows = watched.end()
    check_apart(windows)
    assert watched.energy_mj() == 100 * KW * 4_590 - 100 * KWH
    # Not from when on it is told, but from the first reading that it should have moved in.
    assert watched.covered_ms() == 4_590_000 - 3_600_000
    assert sum(it.covered_ms for it in windows if it.energy_mj is None) == pytest.approx(3_300_000, abs=20_000)
    assert watched.notices == [("meter_stuck", Severity.WARNING), ("meter_answers", Severity.INFO)]


def test_a_meter_on_which_nothing_flows_is_not_stuck() -> None:
    watched = Watched()
    for turn in range(1_000):
        watched.read(10_000 * turn, energy_mj=77 * KWH, power_mw=0)
    watched.end()
    assert watched.notices == [] and watched.covered_ms() == 9_990_000 and watched.energy_mj() == 0


def test_power_that_never_changes_is_told_where_it_is_all_there_is() -> None:
    watched = Watched()
    for turn in range(FLAT_AFTER_MS // 10_000 + 50):
        watched.read(10_000 * turn, power_mw=100 * KW)
    assert watched.notices == [("meter_stuck", Severity.WARNING)]
    # A coarse one has been as long without a change before.
    watched = Watched()
    for turn in range(3_000):
        watched.read(10_000 * turn, power_mw=(100 + turn // 120) * KW)
    assert watched.notices == []


@pytest.mark.parametrize("falls", [True, False])
def test_swapped_current_transformers_are_told_and_not_covered(falls: bool) -> None:
    watched = Watched(settings(rated_kw=150.0))
    kwh = 500.0
    for turn in range(200):
        backwards = 50 <= turn < 150
        watched.read(10_000 * turn, energy_mj=round(kwh * KWH), power_mw=-90 * KW if backwards else 90 * KW)
        kwh += (-0.25 if falls else 0.0) if 50 <= turn + 1 < 150 else 0.25
    windows = watched.end()
    check_apart(windows)
    assert {it for it, _ in watched.notices} == {"meter_reversed"}
    forward_kwh = 0.25 * 99
    assert watched.energy_mj() == pytest.approx(forward_kwh * KWH, rel=0.02)
    assert watched.covered_ms() <= 1_060_000


@pytest.mark.parametrize("step_kwh", [0.01, 1.0])
def test_one_current_transformer_of_three_that_is_swapped_is_told_and_not_covered(step_kwh: float) -> None:
    """Of 90 kW, 30 in each phase, the meter counts 30: too little, and nothing else shows it."""
    watched = Watched(settings(rated_kw=150.0))
    kwh = 500.0
    for turn in range(400):
        swapped = 100 <= turn < 300
        shown_kwh = kwh // step_kwh * step_kwh
        watched.read(
            10_000 * turn, energy_mj=round(shown_kwh * KWH), power_mw=(30 if swapped else 90) * KW,
            least_phase_mw=(-30 if swapped else 29) * KW,
        )  # fmt: skip
        kwh += (30 if 100 <= turn + 1 < 300 else 90) / 360
    windows = watched.end()
    check_apart(windows)
    assert watched.notices == [("meter_reversed", Severity.WARNING)]
    assert watched.doubts() == {None, MeterDoubt.REVERSED}
    # It is seen after 30 s; and what it counted last before that, in a step of its own, may be of that time too.
    assert watched.energy_mj() == pytest.approx(0.25 * 198 * KWH, abs=(step_kwh + 0.35) * KWH)
    assert 1_900_000 < watched.covered_ms() < 2_050_000
    assert watched.energy_mj() / watched.covered_ms() == pytest.approx(90 * KW / 1_000, rel=0.03)


def test_a_phase_that_flows_back_a_little_or_may_is_no_fault() -> None:
    for its, least_mw in ((settings(rated_kw=150.0), -2 * KW), (settings(rated_kw=150.0, both_ways=True), -40 * KW)):
        watched = Watched(its)
        for turn in range(60):
            watched.read(10_000 * turn, energy_mj=turn * KWH // 4, power_mw=90 * KW, least_phase_mw=least_mw)
        watched.end()
        assert watched.notices == [] and watched.energy_mj() == 59 * KWH // 4
    watched = Watched()
    for turn in range(60):
        watched.read(10_000 * turn, power_mw=30 * KW, least_phase_mw=-30 * KW)
    watched.end()
    assert watched.notices == [("meter_reversed", Severity.WARNING)], "of a meter without a register, too"
    assert watched.energy_mj() <= 30 * 30 * KW


def test_time_that_flowed_backwards_is_not_covered_by_the_first_reading_after_it() -> None:
    watched = Watched(settings(rated_kw=150.0))
    for turn in range(40):
        backwards = 10 <= turn < 20
        # It moves again three readings after the power flows forward.
        kwh = 0.25 * (min(turn, 9) + max(0, turn - 22))
        watched.read(10_000 * turn, energy_mj=round(kwh * KWH), power_mw=-90 * KW if backwards else 90 * KW)
    check_apart(watched.end())
    assert watched.energy_mj() == round(0.25 * (9 + 17) * KWH)
    assert watched.covered_ms() == (9 + 17) * 10_000
    assert watched.doubts() == {None, MeterDoubt.REVERSED}


def test_a_meter_without_register_that_flows_backwards_is_not_covered() -> None:
    watched = Watched()
    for turn in range(20):
        watched.read(10_000 * turn, power_mw=-90 * KW)
    windows = watched.end()
    check_apart(windows)
    assert watched.notices == [("meter_reversed", Severity.WARNING)]
    assert watched.doubts() == {MeterDoubt.REVERSED} and watched.energy_mj() == 0


def test_noise_below_nothing_is_nothing() -> None:
    watched = Watched(settings(rated_kw=100.0))
    for turn in range(20):
        watched.read(10_000 * turn, power_mw=-1_000 * (turn % 3))
    watched.end()
    assert watched.notices == [] and watched.covered_ms() == 190_000 and watched.energy_mj() == 0


def test_where_energy_may_flow_back_import_is_what_counts() -> None:
    watched = Watched(settings(both_ways=True))
    for turn in range(100):
        watched.read(10_000 * turn, energy_mj=500 * KWH, power_mw=-90 * KW)
    watched.end()
    assert watched.notices == [] and watched.covered_ms() == 990_000 and watched.energy_mj() == 0


def test_a_meter_of_temperature_alone_covers_the_time_that_it_was_read() -> None:
    watched = Watched()
    for turn, temp_mc in enumerate((20_000, 21_000, 25_000)):
        watched.read(10_000 * turn, temp_mc=temp_mc)
    watched.read(500_000, temp_mc=0)
    windows = watched.end()
    assert [(it.temp_mean_mc, it.covered_ms, it.energy_mj) for it in windows] == [
        (20_000, 10_000, None), (21_000, 10_000, None)
    ]  # fmt: skip


def test_what_a_driver_refused_is_counted_and_the_next_register_covers_it() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0)
    watched.read(10_000, power_mw=7, refused=("energy: 'x': it is no number",))
    watched.read(20_000, energy_mj=2_000)
    windows = watched.end()
    assert watched.energy_mj() == 2_000 and watched.covered_ms() == 20_000
    assert sum(it.rejected_readings for it in windows) == 1
    assert watched.refused == ["energy: 'x': it is no number"]


def test_a_register_that_is_told_no_more_after_a_restart_is_replaced_by_power() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0, power_mw=KW)
    watched.read(10_000, energy_mj=10_000, power_mw=KW)
    watched.restart(killed=False)
    watched.read(20_000, power_mw=KW)
    watched.read(30_000, power_mw=KW)
    watched.end()
    assert watched.energy_mj(EnergyMethod.INTEGRATED) == 10 * KW


def test_the_same_message_twice_is_one_reading() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0)
    watched.read(0, energy_mj=0)
    watched.read(10_000, energy_mj=5)
    assert [(it.energy_mj, it.readings_taken) for it in watched.end()] == [(5, 1)]


def test_a_set_wall_clock_moves_the_windows_and_costs_nothing() -> None:
    watched = Watched()
    watched.read(0, energy_mj=0, volume_ml=0)
    watched.read(15_000, energy_mj=15_000, volume_ml=15)
    watched.end()
    watched.folder.shift(-600_000)
    watched.read(25_000 - 600_000, energy_mj=25_000, volume_ml=25)
    watched.read(35_000 - 600_000, energy_mj=35_000, volume_ml=35)
    windows = watched.end()
    check(windows)
    assert watched.energy_mj() == 35_000
    assert sum(it.volume_ml or 0 for it in windows) == 35


def test_readings_that_come_late_are_no_gap_before_three_intervals() -> None:
    watched = Watched(settings(interval_s=1.0))
    watched.read(0, energy_mj=0)
    watched.read(LEAST_GAP_MS, energy_mj=1)
    watched.read(2 * LEAST_GAP_MS + 1, energy_mj=2)
    assert {it.energy_method for it in watched.end()} == {EnergyMethod.COUNTER, EnergyMethod.INTERPOLATED} - (
        {EnergyMethod.COUNTER} if len(watched.windows) == 1 else set()
    )


def water(*readings_ml: int, **more: Any) -> Watched:
    """A meter of volume, read every 10 s."""
    watched = Watched(settings(**more))
    for place, value in enumerate(readings_ml):
        watched.read(10_000 * place, volume_ml=value)
    watched.end()
    return watched


def total_ml(watched: Watched) -> int:
    return sum(it.volume_ml or 0 for it in watched.windows)


def test_a_leap_of_volume_beyond_the_rated_flow_is_refused_and_counted() -> None:
    # 36 m³/h are 10 L/s: 100 L in 10 s.
    given = (0, 100_000, 200_000, 900_000_000, 400_000, 500_000)
    watched = water(*given, rated_m3_h=36)
    assert total_ml(watched) == 500_000, "the glitch costs nothing"
    assert sum(it.rejected_readings for it in watched.windows) == 1
    assert len(watched.refused) == 1
    # Confirmed, it is another meter: what is between is nobody's.
    watched = water(0, 100_000, 900_000_000, 900_100_000, 900_200_000, rated_m3_h=36)
    assert total_ml(watched) == 300_000
    assert watched.notices == [("meter_replaced", Severity.WARNING)]
    # 1.2 times the rated flow is believed, and all of it where nobody says what can flow.
    assert total_ml(water(0, 120_000, rated_m3_h=36)) == 120_000
    assert total_ml(water(*given[:4])) == 900_000_000
