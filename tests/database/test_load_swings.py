"""Load swings against computations of the test's own: ramps, swings, coverage, and the spectrum."""

import cmath
import itertools
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from gigawatch import database, readings
from tests.processes import processor_s

BASE = datetime(2026, 11, 23, 8, tzinfo=UTC)
Second = tuple[int, int]
"""Power in W, and nodes."""


@pytest.fixture(scope="module")
def module_engine(embedded_server: Any) -> Iterator[Engine]:
    url = embedded_server.create()
    engine = database.engine(url)
    yield engine
    engine.dispose()
    embedded_server.drop(url)


@pytest.fixture
def connection(module_engine: Engine) -> Iterator[Connection]:
    """A connection whose writes are never committed."""
    with module_engine.connect() as connection:
        yield connection


def store(connection: Connection, sites: Mapping[str, Mapping[int, Second]], folded_s: int = 86_400) -> None:
    """In place of what there was: each site's power and nodes by the second since BASE, and how far it is folded."""
    connection.execute(text("DELETE FROM gigawatch.site_second"))
    connection.execute(text("DELETE FROM gigawatch.rollup"))
    connection.execute(
        text("INSERT INTO gigawatch.rollup (level, closed, folded, node_id) VALUES ('1m', :until, :until, 0)"),
        {"until": BASE + timedelta(seconds=folded_s)},
    )
    for site, seconds in sites.items():
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES (:it) ON CONFLICT DO NOTHING"), {"it": site})
        for minute in sorted({second // 60 for second in seconds}):
            found = [seconds.get(60 * minute + place, (0, 0)) for place in range(60)]
            connection.execute(
                text("INSERT INTO gigawatch.site_second (time, site_id, power_mw, nodes)"
                     " SELECT :time, site_id, :power_mw, :nodes FROM gigawatch.site WHERE name = :site"),
                {"time": BASE + timedelta(minutes=minute), "site": site,
                 "power_mw": [power_w * 1000 for power_w, _ in found], "nodes": [nodes for _, nodes in found]},
            )  # fmt: skip


def at(second: float) -> datetime:
    return BASE + timedelta(seconds=second)


def sine(amplitude_w: float, period_s: float, length_s: int, mean_w: float = 2e6) -> dict[int, Second]:
    return {
        second: (round(mean_w + amplitude_w * math.sin(2 * math.pi * second / period_s)), 8)
        for second in range(length_s)
    }


def brute(seconds: Mapping[int, Second], over_s: int) -> tuple[float | None, list[int], list[int]]:
    """The largest swing within over_s, and the differences over 1 s and over over_s, within comparable stretches."""
    runs: list[list[int]] = []
    before: int | None = None
    for second in sorted(seconds):
        follows = before is not None and second == before + 1 and seconds[second][1] == seconds[before][1]
        if not follows:
            runs.append([])
        runs[-1].append(seconds[second][0])
        before = second
    swings = [
        max(part) - min(part)
        for run in runs if len(run) > 1
        for part in (run[first : first + over_s + 1] for first in range(len(run)))
    ]  # fmt: skip
    ramps = [later - earlier for run in runs for earlier, later in zip(run, run[1:], strict=False)]
    long = [later - earlier for run in runs for earlier, later in zip(run, run[over_s:], strict=False)]
    return max(swings, default=None), ramps, long


few = settings(max_examples=30)
some_seconds = st.dictionaries(
    st.integers(0, 179),
    st.tuples(st.integers(0, 5_000_000), st.sampled_from((1, 3, 3, 3, 3))),
    min_size=1, max_size=180,
)  # fmt: skip
runs_of_seconds = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from((1, 2, 2)), st.lists(st.integers(0, 9_000), min_size=1, max_size=40)),
    min_size=1, max_size=6,
).map(
    lambda runs: {
        second: value
        for second, value in enumerate(
            it for gap, nodes, powers in runs for it in [None] * gap + [(power_w, nodes) for power_w in powers]
        )
        if value is not None
    }
)  # fmt: skip


def greatest(differences: list[int], sign: int) -> float | None:
    return max([0, *(sign * it for it in differences)]) if differences else None


@few
@given(some_seconds | runs_of_seconds, st.integers(1, 30))
def test_swings_and_ramps_equal_a_computation_by_hand(
    connection: Connection, seconds: dict[int, Second], over_s: int
) -> None:
    store(connection, {"oslo": seconds})
    found = readings.load_swing_summary(connection, at(0), at(300), "oslo", timedelta(seconds=over_s))
    swing_w, ramps, long = brute(seconds, over_s)
    assert found.over_s == over_s
    assert found.swing_max_w == swing_w
    assert found.seconds_comparable == len(ramps)
    for said, differences, sign, length in (
        (found.ramp_up_max_megawatts_per_s, ramps, 1, 1), (found.ramp_down_max_megawatts_per_s, ramps, -1, 1),
        (found.ramp_up_over_max_megawatts_per_s, long, 1, over_s),
        (found.ramp_down_over_max_megawatts_per_s, long, -1, over_s),
    ):  # fmt: skip
        expected = greatest(differences, sign)
        assert said == (None if expected is None else pytest.approx(expected / 1e6 / length, abs=1e-12))
    most = max(nodes for _, nodes in seconds.values())
    assert found.coverage == pytest.approx(sum(nodes for _, nodes in seconds.values()) / (300 * most))
    if swing_w:
        assert found.swing_began is not None
        first = round((found.swing_began - BASE).total_seconds())
        nodes = seconds[first][1]
        stretch = itertools.takewhile(lambda it: seconds.get(it, (0, 0))[1] == nodes, range(first, first + over_s + 1))
        assert any(abs(seconds[it][0] - seconds[first][0]) == swing_w for it in stretch)


@few
@given(some_seconds)
def test_missing_seconds_stay_missing_and_the_view_by_minute_says_the_same(
    connection: Connection, seconds: dict[int, Second]
) -> None:
    store(connection, {"oslo": seconds})
    rows = readings.site_seconds(connection, at(0), at(180), "oslo")
    assert {round((row.time - BASE).total_seconds()): (row.power_w, row.nodes) for row in rows} == seconds
    most = {minute: max(it[1] for second, it in seconds.items() if second // 60 == minute)
            for minute in {second // 60 for second in seconds}}  # fmt: skip
    minutes = readings.load_swings(connection, at(0), at(180))
    assert [round((it.time - BASE).total_seconds()) // 60 for it in minutes] == sorted(most)
    for minute in minutes:
        of_minute = [row for row in rows if minute.time <= row.time < minute.time + timedelta(minutes=1)]
        nodes = most[round((minute.time - BASE).total_seconds()) // 60]
        assert all(row.complete == (row.nodes == nodes) for row in of_minute)
        whole = [row.power_w for row in of_minute if row.complete]
        assert (minute.power_min_w, minute.power_max_w) == (min(whole), max(whole))
        assert minute.swing_w == pytest.approx(max(whole) - min(whole))
        assert minute.power_mean_w == pytest.approx(sum(whole) / len(whole))
        ramps = [row.ramp_w_per_s for row in of_minute if row.ramp_w_per_s is not None]
        assert minute.seconds_comparable == len(ramps)
        assert minute.ramp_up_max_w_per_s == (max([0, *ramps]) if ramps else None)
        assert minute.ramp_down_max_w_per_s == (max([0, *(-it for it in ramps)]) if ramps else None)
        assert minute.nodes == nodes
        assert minute.coverage == pytest.approx(sum(row.nodes for row in of_minute) / (60 * nodes))


@few
@given(some_seconds, some_seconds)
def test_the_fleet_is_the_sum_of_its_sites(
    connection: Connection, oslo: dict[int, Second], paris: dict[int, Second]
) -> None:
    store(connection, {"oslo": oslo, "paris": paris})
    expected: dict[datetime, list[float]] = {}
    for site in ("oslo", "paris"):
        for row in readings.site_seconds(connection, at(0), at(180), site):
            sums = expected.setdefault(row.time, [0, 0])
            sums[0] += row.power_w
            sums[1] += row.nodes
    fleet = readings.site_seconds(connection, at(0), at(180))
    assert {row.time: [row.power_w, row.nodes] for row in fleet} == expected


@pytest.mark.parametrize("change", [-1, 1])
def test_a_node_that_falls_silent_or_joins_is_no_ramp_and_lowers_the_coverage(
    connection: Connection, change: int
) -> None:
    nodes = {second: 8 if second < 95 else 8 + change for second in range(180)}
    store(connection, {"oslo": {second: (1_000 * count + second % 2, count) for second, count in nodes.items()}})
    found = readings.load_swing_summary(connection, at(0), at(180))
    assert (found.swing_max_w, found.ramp_up_max_megawatts_per_s, found.ramp_down_max_megawatts_per_s) == (
        1,
        1e-6,
        1e-6,
    )
    assert found.seconds_comparable == 178
    assert found.coverage == pytest.approx(sum(nodes.values()) / (180 * max(nodes.values())))
    assert found.coverage < 1
    minutes = readings.load_swings(connection, at(0), at(180))
    assert [it.swing_w for it in minutes] == [1, 1, 1]
    assert [it.coverage < 1 for it in minutes] == [False, True, False]
    assert {it.ramp_up_max_w_per_s for it in minutes} == {1}


def test_a_node_that_goes_while_one_of_another_site_comes_is_no_ramp(connection: Connection) -> None:
    store(connection, {
        "oslo": {second: (1_000, 2) if second < 30 else (500, 1) for second in range(60)},
        "paris": {second: (100, 1) if second < 30 else (200, 2) for second in range(60)},
    })  # fmt: skip
    found = readings.load_swing_summary(connection, at(0), at(60))
    assert (found.swing_max_w, found.ramp_down_max_megawatts_per_s, found.seconds_comparable) == (0, 0, 58)


def test_nothing_is_known_of_nothing(connection: Connection) -> None:
    store(connection, {})
    found = readings.load_swing_summary(connection, at(0), at(60))
    assert {found.swing_max_w, found.swing_began, found.ramp_up_max_megawatts_per_s, found.power_mean_w,
            found.coverage} == {None}  # fmt: skip
    assert readings.site_seconds(connection, at(0), at(60)) == readings.load_spectrum(connection, at(0), at(60)) == []
    connection.execute(text("DELETE FROM gigawatch.rollup"))
    assert readings.load_swing_summary(connection, at(0), at(60)).coverage is None


def test_what_is_not_folded_yet_is_not_due(connection: Connection) -> None:
    store(connection, {"oslo": sine(10, 7, 120)}, folded_s=120)
    assert readings.load_swing_summary(connection, at(0), at(600)).coverage == 1
    store(connection, {"oslo": sine(10, 7, 120)}, folded_s=240)
    assert readings.load_swing_summary(connection, at(0), at(600)).coverage == 0.5


@few
@given(st.floats(1_000, 1e6), st.floats(2.6, 60), st.integers(64 * 4, 1_500))
def test_a_sine_gives_its_amplitude_and_its_period(
    connection: Connection, amplitude_w: float, period_s: float, length_s: int
) -> None:
    store(connection, {"oslo": sine(amplitude_w, period_s, length_s)})
    lines = readings.load_spectrum(connection, at(0), at(2_000))
    n = lines[0].seconds
    assert n == min(1_024, length_s // 32 * 32) == 2 * len(lines)
    assert lines[0].began == at(length_s - n)
    assert [line.frequency_hz for line in lines] == pytest.approx([k / n for k in range(1, n // 2 + 1)])
    assert lines[0].resolution_hz == pytest.approx(1 / n)
    largest = max(lines, key=lambda line: line.amplitude_w)
    assert largest.frequency_hz == pytest.approx(1 / period_s, abs=0.51 / n)
    peaks = [line for line in lines if line.peak_frequency_hz is not None]
    if largest.frequency_hz * n < 4:
        assert peaks == []
        return
    assert peaks == [largest]
    assert largest.peak_frequency_hz == pytest.approx(1 / period_s, abs=0.05 / n)
    assert largest.peak_amplitude_w == pytest.approx(amplitude_w, rel=0.02)
    assert largest.variance_share == pytest.approx(1, abs=0.03)


@few
@given(st.sets(st.integers(0, 1_999), max_size=6), st.integers(0, 2_000))
def test_the_spectrum_of_the_stretch_alone_is_that_of_the_period(
    connection: Connection, missing: set[int], length_s: int
) -> None:
    whole = sine(1_000, 7, length_s)
    store(connection, {"oslo": {second: value for second, value in whole.items() if second not in missing}})
    lines = readings.load_spectrum(connection, at(0), at(2_000))
    found = readings.load_swing_summary(connection, at(0), at(2_000))
    if found.stretch_began is None or found.stretch_s is None:
        assert lines == []
        return
    assert (found.stretch_began, found.stretch_s) == (lines[0].began, lines[0].seconds)
    stop = found.stretch_began + timedelta(seconds=found.stretch_s)
    assert readings.load_spectrum(connection, found.stretch_began, stop) == lines


def test_a_sine_at_a_frequency_of_the_spectrum_gives_exactly_its_amplitude_there(connection: Connection) -> None:
    store(connection, {"oslo": sine(250_000, 32, 1_024)})
    lines = readings.load_spectrum(connection, at(0), at(1_024))
    assert [round(line.amplitude_w) for line in lines[30:33]] == [125_000, 250_000, 125_000]
    assert max(line.amplitude_w for line in lines[:30] + lines[33:]) < 1


@few
@given(st.lists(st.integers(0, 1_000_000), min_size=64, max_size=400))
def test_the_spectrum_is_the_transform_and_holds_all_of_the_variance(connection: Connection, powers: list[int]) -> None:
    store(connection, {"oslo": {second: (power_w, 2) for second, power_w in enumerate(powers)}})
    lines = readings.load_spectrum(connection, at(0), at(400))
    n = len(powers) // 32 * 32
    kept = powers[-n:]
    mean = sum(kept) / n
    windowed = [(it - mean) * (0.5 - 0.5 * math.cos(2 * math.pi * t / n)) for t, it in enumerate(kept)]
    for k in (1, 2, n // 4 + 1, n // 2 - 1, n // 2):
        term = sum(it * cmath.exp(-2j * math.pi * (k * t % n) / n) for t, it in enumerate(windowed))
        expected = abs(term) / (n / 2) * (1 if 2 * k == n else 2)
        assert lines[k - 1].amplitude_w == pytest.approx(expected, abs=1e-5, rel=1e-6)
    # Parseval: amplitudes of a window that adds up to n / 2 are twice what the variance of its values is made of.
    spectral = sum(line.amplitude_w**2 * (1 if line.frequency_hz == 0.5 else 0.5) for line in lines) / 4
    variance = sum(it * it for it in windowed) / n - (sum(windowed) / n) ** 2
    assert spectral == pytest.approx(variance, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("walk", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_no_peak_stands_out_of_noise(connection: Connection, seed: int, walk: bool) -> None:
    random = Random(seed)  # noqa: S311 # the same noise each time is what is wanted
    power_w = 5e6
    seconds: dict[int, Second] = {}
    for second in range(1_024):
        power_w = power_w + random.gauss(0, 1e4) if walk else 5e6 + random.gauss(0, 1e4)
        seconds[second] = (round(power_w), 4)
    store(connection, {"oslo": seconds})
    lines = readings.load_spectrum(connection, at(0), at(1_024))
    assert [line for line in lines if line.peak_frequency_hz is not None] == []


def test_the_spectrum_is_of_the_longest_stretch_that_can_be_compared(connection: Connection) -> None:
    seconds = sine(10_000, 16, 900)
    del seconds[200]
    seconds[700] = (5, 7)
    store(connection, {"oslo": seconds})
    first = readings.load_spectrum(connection, at(0), at(900))[0]
    assert (first.began, first.seconds) == (at(700 - 480), 480)
    assert readings.load_spectrum(connection, at(0), at(63)) == []


def test_an_hour_of_a_site_takes_less_than_300_ms(connection: Connection) -> None:
    store(connection, {"oslo": sine(1e6, 31, 4 * 3_600), "paris": sine(1e6, 31, 4 * 3_600)})
    for read in (
        readings.site_seconds, readings.load_swings, readings.load_swing_summary, readings.load_spectrum,
    ):  # fmt: skip
        before_s = processor_s(connection)
        for _ in range(5):
            read(connection, at(1_800), at(5_400), "oslo")
        assert (processor_s(connection) - before_s) / 5 < 0.3, read.__name__


def test_people_may_read_them(report_engine: Engine) -> None:
    with report_engine.connect() as connection:
        assert readings.load_swings(connection, at(0), at(60)) == []
        assert readings.site_seconds(connection, at(0), at(60)) == []
        assert readings.load_swing_summary(connection, at(0), at(60)).swing_max_w is None
        assert readings.load_spectrum(connection, at(0), at(60)) == []
