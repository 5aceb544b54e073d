"""Laws of serving windows: tokens are conserved, to the token, through resets, restarts, gaps and changing labels."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.engines.catalogue import Source, named
from collector.engines.endpoint import MOST_MODELS, REPEAT_MS, Endpoint
from collector.engines.exposition import parse
from collector.engines.folder import LONGEST_GAP_MS
from collector.engines.growth import CLOCK_SLACK_MS, MOST_SERIES, Counters
from collector.engines.reading import ABOVE_ALL_US, Reading, Series, read
from collector.exposition import Answer
from collector.windows import from_ms
from gigawatch.records import Latencies, Role, ServingWindow, Severity
from gigawatch.settings import Engine

MINUTE_MS = 1_790_000_040_000
SETTINGS = Engine(url="http://127.0.0.1:8000/metrics", deployment="chat", interval_s=1.0)
TTFT_US = (1_000, 250_000, ABOVE_ALL_US)


def tokens(model: str | None = "m", figure: str = "generated_tokens", rank: int = 0, metric: str = "t") -> Series:
    return Series(figure, metric, frozenset({("model", model or ""), ("rank", str(rank))}))


def bucket(bound_us: int, model: str = "m") -> Series:
    return Series("time_to_first_token", "ttft", frozenset({("model", model)}), bound_us)


def reading(
    counters: dict[Series, int], started_ms: int | None = None, gauges: dict[str | None, dict[str, int]] | None = None
) -> Reading:
    return Reading(
        started_ms=started_ms,
        sources={series.figure: Source(series.metric) for series in counters},
        counters=counters,
        models={series: dict(series.labels)["model"] or None for series in counters},
        repeats=dict.fromkeys(counters, 1),
        gauges=gauges or {},
    )


class Watched:
    """An endpoint whose windows and events are gathered."""

    def __init__(self, settings: Engine = SETTINGS, window_ms: int = 10_000, at_ms: int = MINUTE_MS - 1) -> None:
        self.endpoint = Endpoint(settings, "127.0.0.1:8000", window_ms, at_ms)
        self.windows: list[ServingWindow] = []
        self.at_ms = at_ms

    def take(self, at_ms: int, it: Reading) -> None:
        self.at_ms = at_ms
        self.endpoint.take(at_ms, "vllm", it)
        self.endpoint.tick(at_ms)
        self.windows += self.endpoint.close(at_ms)

    def fold(self, readings: list[tuple[int, Reading]]) -> list[ServingWindow]:
        for at_ms, it in readings:
            self.take(MINUTE_MS + at_ms, it)
        return self.end()

    def end(self) -> list[ServingWindow]:
        self.windows += self.endpoint.close(self.at_ms, stop=True)
        return self.windows


def start_ms(window: ServingWindow) -> int:
    return round(window.start.timestamp() * 1000)


def total(windows: list[ServingWindow], figure: str = "generated_tokens", model: str | None = "m") -> int:
    return sum(getattr(window, figure) or 0 for window in windows if window.model == model)


class FakeEngine:
    """Counts as an engine does, and what of it a reader can know."""

    def __init__(self, *, tells_start: bool, at_ms: int) -> None:
        self.tells_start = tells_start
        self.started_ms = at_ms - 1_000_000
        self.counts: Counter[Series] = Counter()
        self.seen: dict[Series, int] | None = None
        self.knowable: Counter[Series] = Counter()
        """What was counted between the first reading and the last, but for what a restart hid."""

    def restart(self, at_ms: int) -> None:
        self.started_ms = at_ms
        self.counts.clear()
        if self.seen is not None:
            self.seen = {}

    def read(self, hidden: set[Series]) -> Reading:
        """Its counters; some hidden for this once."""
        shown = {series: count for series, count in self.counts.items() if series not in hidden}
        if self.seen is None:
            self.seen = dict(shown)
        for series, count in shown.items():
            self.knowable[series] += count - self.seen.get(series, 0)
            self.seen[series] = count
        return reading(shown, self.started_ms if self.tells_start else None)


SERIES = (tokens("m"), tokens("m", rank=1), tokens("m", "prompt_tokens"), tokens("other"),
          *(bucket(bound_us) for bound_us in TTFT_US))  # fmt: skip
steps = st.lists(
    st.tuples(
        st.one_of(st.integers(500, 2_000), st.integers(1, 80_000)),  # ms since the reading before
        st.dictionaries(st.sampled_from(SERIES), st.integers(0, 10**9), max_size=len(SERIES)),  # counted in between
        st.booleans(),  # whether the engine restarted before that
        st.sets(st.sampled_from(SERIES), max_size=2),  # series that are not served this once
    ),
    min_size=1,
    max_size=40,
)
window_lengths = st.sampled_from([1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000])


@given(steps, window_lengths, st.integers(0, 59_999))
def test_tokens_are_conserved(
    course: list[tuple[int, dict[Series, int], bool, set[Series]]], window_ms: int, offset_ms: int
) -> None:
    """Engines that tell when they started: whatever happens, windows hold what is knowable, to the token."""
    at_ms = MINUTE_MS + offset_ms
    engine = FakeEngine(tells_start=True, at_ms=at_ms)
    watched = Watched(window_ms=window_ms, at_ms=at_ms - 1)
    engine.counts.update(dict.fromkeys(SERIES, 1_000))
    watched.take(at_ms, engine.read(set()))
    for length_ms, counted, restarts, hidden in course:
        if restarts and length_ms > 1_000:
            engine.restart(at_ms + length_ms // 2)
        at_ms += length_ms
        engine.counts.update(counted)
        watched.take(at_ms, engine.read(hidden))
    windows = watched.end()

    for figure in ("generated_tokens", "prompt_tokens"):
        expected = sum(engine.knowable[series] for series in SERIES if series.figure == figure and is_of(series, "m"))
        assert total(windows, figure) == expected
    assert total(windows, model="other") == engine.knowable[tokens("other")]
    latencies = [it.time_to_first_token for it in windows if it.time_to_first_token and it.model == "m"]
    for bound_us in TTFT_US:
        assert sum(at_bound(it, bound_us) for it in latencies) == engine.knowable[bucket(bound_us)]
    of_m = sorted((window for window in windows if window.model == "m"), key=start_ms)
    for before, after in pairwise(of_m):
        assert start_ms(before) + before.covered_ms <= start_ms(after), "they overlap"
    for window in windows:
        assert start_ms(window) // window_ms == (start_ms(window) + window.covered_ms - 1) // window_ms
        assert window.observed_ms <= window.covered_ms
        assert window.scrapes_taken <= window.scrapes_expected


def is_of(series: Series, model: str) -> bool:
    return ("model", model) in series.labels


def at_bound(it: Latencies, bound_us: int) -> int:
    """The count of the bucket up to a bound; of those above all for the last."""
    if bound_us == ABOVE_ALL_US:
        return it.counts[-1]
    return it.counts[it.bounds_us.index(bound_us)] if bound_us in it.bounds_us else 0


@given(st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 10**6)), min_size=1, max_size=40))
def test_a_counter_that_falls_began_anew(course: list[tuple[int, int]]) -> None:
    """Engines that do not tell their start: what they count after a fall is what was counted since a restart."""
    watched = Watched()
    at_ms, last, expected = MINUTE_MS + 5, 500, 0
    watched.take(at_ms, reading({tokens(): last}))
    for length_ms, value in course:
        at_ms += length_ms
        expected += value - last if value >= last else value
        last = value
        watched.take(at_ms, reading({tokens(): value}))
    assert total(watched.end()) == expected


def test_a_count_that_falls_since_a_rank_is_gone_is_not_counted_anew() -> None:
    """The greatest of two ranks that repeat a count is gone: the other is a few of millions of tokens behind."""
    sglang = named("sglang")

    def told(**ranks: int) -> Reading:
        lines = [f'sglang:generation_tokens_total{{model_name="m",tp_rank="{rank[1:]}"}} {value}'
                 for rank, value in ranks.items()]  # fmt: skip
        return read(parse("", Answer("\n".join(lines) + "\n", "", 0.0)), sglang)

    watched = Watched()
    windows = watched.fold([
        (0, told(r0=8_000_000, r1=8_000_040)),
        (1_000, told(r0=8_000_020)),
        (2_000, told(r0=8_000_060, r1=8_000_100)),
    ])  # fmt: skip
    assert [(it.covered_ms, it.generated_tokens) for it in windows] == [(1_000, 80)]
    assert [it.kind for it in watched.endpoint.take_events()] == ["engine_changed"]


def test_growth_across_the_end_of_a_window_is_split_by_time() -> None:
    windows = Watched().fold([(9_600, reading({tokens(): 100})), (10_600, reading({tokens(): 110}))])
    assert [(it.start, it.covered_ms, it.generated_tokens) for it in windows] == [
        (from_ms(MINUTE_MS + 9_600), 400, 4),
        (from_ms(MINUTE_MS + 10_000), 600, 6),
    ]


def test_a_window_waits_for_the_reading_after_its_end() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 9_000, reading({tokens(): 0}))
    watched.take(MINUTE_MS + 9_900, reading({tokens(): 9}))
    assert watched.endpoint.close(MINUTE_MS + 10_500) == []
    watched.take(MINUTE_MS + 10_900, reading({tokens(): 19}))
    assert [it.generated_tokens for it in watched.windows] == [10]
    # It does not wait for ever.
    assert watched.endpoint.close(MINUTE_MS + 24_999) == []
    assert [it.generated_tokens for it in watched.endpoint.close(MINUTE_MS + 25_000)] == [9]


def test_after_a_gap_growth_is_spread_evenly_and_not_observed() -> None:
    running = {"m": {"running_requests": 4}}
    windows = Watched().fold([
        (0, reading({tokens(): 0}, gauges=running)),
        (1_000, reading({tokens(): 10}, gauges=running)),
        (41_000, reading({tokens(): 410}, gauges=running)),
    ])  # fmt: skip
    assert [it.generated_tokens for it in windows] == [100, 100, 100, 100, 10]
    assert [it.covered_ms for it in windows] == [10_000, 10_000, 10_000, 10_000, 1_000]
    assert [it.observed_ms for it in windows] == [1_000, 0, 0, 0, 0]
    assert [it.running_request_ms for it in windows] == [4_000, None, None, None, None]
    assert [it.active_ms for it in windows] == [1_000, None, None, None, None]


def test_after_too_long_a_gap_growth_is_left_out_and_told() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 5}))
    watched.take(MINUTE_MS + 1_001 + LONGEST_GAP_MS, reading({tokens(): 12}))
    events = watched.endpoint.take_events()
    assert total(watched.end()) == 0
    assert "7 generated tokens" in next(event.message for event in events if event.kind == "engine_gap")


def test_the_mean_batch_is_a_ratio_of_sums() -> None:
    def at(running: int, waiting: int, use: int) -> dict[str | None, dict[str, int]]:
        return {"m": {"running_requests": running, "waiting_requests": waiting, "kv_cache_use": use}}

    windows = Watched().fold([
        (0, reading({tokens(): 0}, gauges=at(0, 0, 100))),
        (2_000, reading({tokens(): 0}, gauges=at(8, 2, 700))),
        (5_000, reading({tokens(): 0}, gauges=at(4, 0, 300))),
        (6_000, reading({tokens(): 0}, gauges=at(0, 0, 0))),
        (9_000, reading({tokens(): 0}, gauges=at(0, 0, 0))),
    ])  # fmt: skip
    assert len(windows) == 1
    # A value holds until the next reading: 0 for 2 s, 8 for 3 s, 4 for 1 s, 0 for 3 s.
    assert windows[0].running_request_ms == 8 * 3_000 + 4 * 1_000
    assert windows[0].waiting_request_ms == 2 * 3_000
    assert windows[0].observed_ms == 9_000
    # A request ran at one end of the first three intervals.
    assert windows[0].active_ms == 6_000
    assert windows[0].running_requests_max == 8
    assert windows[0].kv_cache_use_max_pm == 700


def test_tokens_between_two_readings_without_a_request_make_them_active() -> None:
    none_runs: dict[str | None, dict[str, int]] = {"m": {"running_requests": 0}}
    windows = Watched().fold([
        (0, reading({tokens(): 0}, gauges=none_runs)),
        (1_000, reading({tokens(): 7}, gauges=none_runs)),
        (2_000, reading({tokens(): 7}, gauges=none_runs)),
    ])  # fmt: skip
    assert windows[0].active_ms == 1_000


def test_what_an_engine_does_not_tell_is_absent_not_zero() -> None:
    windows = Watched(
        Engine(url="http://h/metrics", deployment="chat", model="mine", role=Role.DECODE, interval_s=1.0)
    ).fold([(0, reading({tokens(None): 3})), (1_000, reading({tokens(None): 3}))])
    assert windows == [
        ServingWindow(
            deployment="chat", endpoint="127.0.0.1:8000", engine="vllm", model="mine", role=Role.DECODE,
            start=from_ms(MINUTE_MS), covered_ms=1_000, observed_ms=1_000, scrapes_taken=2, scrapes_expected=2,
            generated_tokens=0,
        )
    ]  # fmt: skip


def test_a_model_that_is_new_began_at_zero_and_one_that_was_away_is_compared() -> None:
    windows = Watched().fold([
        (1_000, reading({tokens("m"): 100})),
        (2_000, reading({tokens("m"): 110, tokens("late"): 30})),
        (3_000, reading({tokens("late"): 31})),
        (4_000, reading({tokens("m"): 115, tokens("late"): 32})),
    ])  # fmt: skip
    assert total(windows, model="m") == 15
    assert total(windows, model="late") == 32


def test_a_figure_from_another_metric_is_not_taken_for_new() -> None:
    windows = Watched().fold([
        (1_000, reading({tokens(metric="old"): 1_000})),
        (2_000, reading({tokens(metric="new"): 5_000})),
        (3_000, reading({tokens(metric="new"): 5_007})),
    ])  # fmt: skip
    assert total(windows) == 7


def test_an_engine_that_takes_anothers_place_has_windows_of_its_own() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 100}))
    watched.take(MINUTE_MS + 2_000, reading({tokens(): 101}))
    watched.endpoint.take(MINUTE_MS + 3_000, "sglang", reading({tokens(metric="other"): 50}))
    watched.endpoint.take(MINUTE_MS + 4_000, "sglang", reading({tokens(metric="other"): 57}))
    assert [(it.engine, it.generated_tokens) for it in watched.end()] == [("vllm", 1), ("sglang", 7)]


def test_models_that_count_no_tokens_have_no_windows_where_others_do() -> None:
    def at(done: int) -> Reading:
        return reading({tokens("llm"): done, tokens("llm", "requests_finished"): done,
                        tokens("preprocessing", "requests_finished"): done})  # fmt: skip

    windows = Watched().fold([(1_000, at(1)), (2_000, at(2))])
    assert {it.model for it in windows} == {"llm"}


def test_a_restart_that_no_counter_shows_is_known_by_the_start() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 100}, started_ms=MINUTE_MS - 500_000))
    watched.take(MINUTE_MS + 11_000, reading({tokens(): 140}, started_ms=MINUTE_MS + 5_000))
    assert total(watched.end()) == 140
    assert [(it.kind, it.severity) for it in watched.endpoint.take_events()] == [("engine_restarted", Severity.INFO)]


def test_start_times_that_are_reckoned_anew_are_no_restart() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 100}, started_ms=MINUTE_MS - 500_000))
    watched.take(MINUTE_MS + 2_000, reading({tokens(): 140}, started_ms=MINUTE_MS - 499_990))
    assert total(watched.end()) == 40
    assert watched.endpoint.take_events() == []


def test_several_processes_behind_one_address_invent_nothing() -> None:
    watched = Watched()
    for number in range(10):
        value, started_ms = [(1_000, -900_000), (5_000, -800_000)][number % 2]
        watched.take(MINUTE_MS + 1_000 * (number + 1), reading({tokens(): value}, started_ms=MINUTE_MS + started_ms))
    assert watched.end() == []
    assert [it.kind for it in watched.endpoint.take_events()] == ["engine_changed"], "it is told once"
    assert CLOCK_SLACK_MS < 800_000


def test_an_engine_that_falls_silent_is_told_with_the_reason_and_its_return_too() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 1}))
    watched.endpoint.fail("connection refused")
    for second in range(2, 30):
        watched.endpoint.tick(MINUTE_MS + 1_000 * second)
    watched.take(MINUTE_MS + 30_000, reading({tokens(): 2}))
    events = watched.endpoint.take_events()
    assert [it.kind for it in events] == ["engine_unreachable", "engine_back"]
    assert "connection refused" in events[0].message
    assert events[0].time == from_ms(MINUTE_MS + 7_000)


def test_an_answer_with_nothing_in_it_is_as_good_as_none() -> None:
    watched = Watched()
    for second in range(1, 8):
        watched.take(MINUTE_MS + 1_000 * second, reading({}))
    assert ["serves no metric that is known of vllm" in it.message for it in watched.endpoint.take_events()] == [True]
    # But its counters are known to be new when they come.
    watched.take(MINUTE_MS + 8_000, reading({tokens(): 40}))
    assert total(watched.end()) == 40


def test_resets_over_and_over_are_told_now_and_then() -> None:
    watched = Watched()
    for second in range(1, REPEAT_MS // 1_000 + 100):
        watched.take(MINUTE_MS + 1_000 * second, reading({tokens(): second % 2}))
    assert len(watched.endpoint.take_events()) == 2


def test_a_set_wall_clock_moves_the_windows_and_costs_no_token() -> None:
    watched = Watched()
    watched.take(MINUTE_MS + 1_000, reading({tokens(): 0}))
    watched.take(MINUTE_MS + 2_000, reading({tokens(): 10}))
    watched.end()
    watched.endpoint.shift(-600_000)
    watched.take(MINUTE_MS + 3_000 - 600_000, reading({tokens(): 25}))
    assert [it.generated_tokens for it in watched.end()] == [10, 15]
    assert start_ms(watched.windows[1]) == MINUTE_MS + 2_000 - 600_000


def test_two_readings_at_the_same_moment_lose_nothing() -> None:
    watched = Watched()
    for value in (5, 6, 9):
        watched.take(MINUTE_MS + 1_000, reading({tokens(): value}))
    assert total(watched.end()) == 4


def test_what_an_endpoint_makes_us_remember_is_bounded() -> None:
    counters = Counters()
    for turn in range(3):
        counters.take(reading({tokens(rank=MOST_SERIES * turn + rank): 1 for rank in range(MOST_SERIES)}), turn)
    assert len(counters._values) == MOST_SERIES


def test_models_that_come_and_go_are_forgotten_and_lose_no_token() -> None:
    """As of a proxy that names its models as its callers do."""
    watched = Watched()
    steady, of_turn = tokens("steady"), MOST_MODELS // 2
    for turn in range(8):
        passing = {tokens(f"{turn}-{number}"): 3 for number in range(of_turn)}
        watched.take(MINUTE_MS + 10_000 * turn, reading({steady: 7 * turn} | passing))
    assert len(watched.endpoint._folders) <= MOST_MODELS + of_turn
    windows = watched.end()
    assert total(windows, model="steady") == 7 * 7
    assert sum(it.generated_tokens or 0 for it in windows if it.model != "steady") == 3 * of_turn * 7


@pytest.mark.parametrize(
    ("bounds_us", "counts"), [((1, 2), (1, 2)), ((2, 1), (1, 2, 3)), ((1, 1), (1, 2, 3)), ((), ())]
)
def test_a_histogram_that_is_none_is_refused(bounds_us: tuple[int, ...], counts: tuple[int, ...]) -> None:
    import msgspec

    good = msgspec.convert({"bounds_us": [1, 2], "counts": [1, 2, 3]}, Latencies)
    assert good.counts == (1, 2, 3)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"bounds_us": bounds_us, "counts": counts}, Latencies)
