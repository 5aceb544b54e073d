"""Reads an endpoint for somebody who wants to know what of it can be used, and what will be missing."""

import time
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from collector.answers import connections
from collector.engines.address import complete
from collector.engines.catalogue import GAUGES, LATENCIES, Engine, named
from collector.engines.exposition import fetch, parse
from collector.engines.growth import Counters
from collector.engines.reading import ABOVE_ALL_US, Reading, Series, read, recognise
from gigawatch.units import MILLISECONDS_PER_SECOND

MISSING = {
    "prompt_tokens": "no energy per token of prompt and answer together, only per generated token",
    "cached_tokens": "prompt tokens that cost no prefill cannot be told from those that did",
    "generated_tokens": "no energy per token at all",
    "requests_finished": "no energy per request",
    "running_requests": "no mean batch, and energy in use cannot be told from idle energy",
    "waiting_requests": "a queue is not seen",
    "kv_cache_use": "a cache that is full is not seen",
    "time_to_first_token": "no quantiles of the time to first token",
    "inter_token_latency": "no quantiles of the time between tokens",
    "end_to_end_latency": "no quantiles of the time that requests take",
}
"""What it means for energy per token and what stands beside it when a figure is not served."""
US_PER_S = 1_000_000


class Quantiles(Struct, frozen=True):
    """Of a latency. None is more than the histogram's last bound."""

    count: int
    p50_at_most_s: float | None
    p95_at_most_s: float | None


class Figure(Struct, frozen=True, omit_defaults=True):
    """One figure of one model."""

    figure: str
    metric: str | None = None
    """Where it was found; None: it is not served."""
    at_end: bool = False
    value: int | float | None = None
    """A counter's sum, or a gauge; the use of the cache as a fraction."""
    per_second: float | None = None
    latency: Quantiles | None = None
    missing: str | None = None
    """What its absence means."""


class Model(Struct, frozen=True):
    """What is served of one model."""

    model: str | None
    figures: list[Figure]


class Report(Struct, frozen=True):
    """What an endpoint serves."""

    url: str
    engine: str
    title: str
    versions: str
    seconds: float
    """Between the two readings that rates and latencies are from; 0: one reading, and latencies since the start."""
    models: list[Model]
    notes: list[str]

    @property
    def has_generated_tokens(self) -> bool:
        """Whether energy per token can be formed."""
        return any(it.figure == "generated_tokens" and it.metric for model in self.models for it in model.figures)


def probe(url: str, engine_name: str | None = None, seconds: float = 0.0) -> Report:
    """Read an endpoint once, or twice with some seconds between.

    Raises:
        GigawatchError: it does not answer, or not with metrics of a known engine.
    """
    url = complete(url, named(engine_name).path if engine_name else "/metrics")
    pool = connections()
    counters = Counters()
    answer = fetch(pool, url)
    exposition = parse(url, answer)
    engine = named(engine_name) if engine_name else recognise(url, exposition)
    reading = read(exposition, engine)
    counters.take(reading, 0)
    first_s, first_ms, grown = answer.at_s, round(time.time() * MILLISECONDS_PER_SECOND), Counter(reading.counters)
    if seconds:
        time.sleep(seconds)
        answer = fetch(pool, url)
        reading = read(parse(url, answer), engine)
        seconds = answer.at_s - first_s
        growth = counters.take(reading, first_ms)
        grown = growth.by_series if growth else Counter()
    models = sorted({*reading.models.values(), *reading.gauges}, key=lambda it: it or "") or [None]
    return Report(
        url=url,
        engine=engine.name,
        title=engine.title,
        versions=engine.versions,
        seconds=round(seconds, 3),
        models=[Model(model, _figures(reading, engine, model, grown, seconds)) for model in models],
        notes=_notes(reading, engine),
    )


def _figures(
    reading: Reading, engine: Engine, model: str | None, grown: Mapping[Series, int], seconds: float
) -> list[Figure]:
    figures = []
    for name, _ in engine.figures.each():
        source = reading.sources.get(name)
        counters = [it for it, of in reading.models.items() if it.figure == name and of == model]
        gauge = reading.gauges.get(model, {}).get(name)
        if source is None or not (counters or gauge is not None):
            figures.append(Figure(name, missing=MISSING[name]))
        elif name in GAUGES:
            assert gauge is not None
            figures.append(Figure(name, source.metric, value=gauge / 1_000 if name == "kv_cache_use" else gauge))
        elif name in LATENCIES:
            figures.append(Figure(name, source.metric, latency=_quantiles(counters, grown)))
        else:
            rate = round(sum(grown[it] for it in counters) / seconds, 3) if seconds else None
            value = sum(reading.counters[it] for it in counters)
            figures.append(Figure(name, source.metric, source.at_end, value, rate))
    return figures


def _quantiles(buckets: list[Series], grown: Mapping[Series, int]) -> Quantiles:
    """In which bucket the quantiles lie."""
    counts: Counter[int] = Counter()
    for series in buckets:
        counts[series.bound_us] += grown.get(series, 0)
    total = sum(counts.values())

    def bound_s(share: float) -> float | None:
        below = 0
        for bound_us, count in sorted(counts.items()):
            below += count
            if below >= share * total:
                return None if bound_us == ABOVE_ALL_US else bound_us / US_PER_S
        return None

    return Quantiles(total, bound_s(0.5) if total else None, bound_s(0.95) if total else None)


def _notes(reading: Reading, engine: Engine) -> list[str]:
    """What somebody should know who reads figures of this engine."""
    notes = list(engine.notes)
    if any(source.at_end for source in reading.sources.values()):
        notes.append(
            "Tokens that are counted when their request ends fall into the window of its end: energy per token is right"
            " over times that are long against a request, and not over single windows."
        )
    if reading.started_ms is None:
        notes.append("It does not tell when its process started: a restart is seen where a counter falls.")
    if reading.unknown_labels:
        notes.append(
            f"Labels that are not known of {engine.title}: {', '.join(sorted(reading.unknown_labels))}. Their series"
            " are added up; if they repeat a count, name them in repeated_by of the engine's file."
        )
    if None in {*reading.models.values(), *reading.gauges}:
        notes.append("It does not name its model: set `model` in [[engines]].")
    return notes


def format_report(report: Report) -> str:
    """The report for a terminal."""
    lines = [f"{report.url} is {report.title} (names of {report.versions})"]
    for model in report.models:
        lines.append(f"model {model.model or 'not named'}")
        lines += [f"  {it.figure.replace('_', ' '):<20}{_shown(it, report.seconds)}" for it in model.figures]
    if not report.has_generated_tokens:
        lines.append("No generated tokens: energy per token cannot be formed from this endpoint.")
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines)


def _shown(figure: Figure, seconds: float) -> str:
    if figure.missing:
        return f"not served: {figure.missing}"
    if figure.latency:
        latency = figure.latency
        since = f"in {seconds:.1f} s" if seconds else "since the start"
        if not latency.count:
            return f"none {since}  ({figure.metric})"
        p50, p95 = (
            "beyond the histogram" if it is None else f"≤ {it:g} s"
            for it in (latency.p50_at_most_s, latency.p95_at_most_s)
        )
        return f"p50 {p50}, p95 {p95}, of {latency.count:,} {since}  ({figure.metric})"
    value = f"{figure.value:,}" if isinstance(figure.value, int) else f"{figure.value:.1%}"
    rate = "" if figure.per_second is None else f", {figure.per_second:,.1f} per s"
    late = ", counted when a request ends" if figure.at_end else ""
    return f"{value}{rate}{late}  ({figure.metric})"
