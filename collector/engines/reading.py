"""What one exposition says in the terms of serving: counters and gauges by model, whatever the engine calls them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from msgspec import Struct
from prometheus_client.samples import NativeHistogram, Sample

from collector.engines.catalogue import GAUGES, LATENCIES, UNITS, Engine, Source, engines
from collector.exposition import Exposition
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.units import MILLISECONDS_PER_SECOND, PER_MILLE

ABOVE_ALL_US = 2**62
"""The bound of the last bucket of a histogram."""
GREATEST = 2**46
"""Beyond it no count is one, and times a window's length it would not fit a record."""
MOST_FAMILIES_SHOWN = 20
NATIVE_SCHEMA = 3
"""Native histograms are brought to 8 buckets a doubling, so that they stay comparable when they grow coarser."""


class Series(Struct, frozen=True):
    """One counter of an engine, or one bucket of a histogram: what must be compared with itself alone."""

    figure: str
    metric: str
    labels: frozenset[tuple[str, str]]
    """All but those that repeat the series."""
    bound_us: int = 0
    """Of a bucket."""


class Reading(Struct, frozen=True):
    """What an engine says at one moment."""

    started_ms: int | None
    """When its process started, where it tells."""
    sources: dict[str, Source]
    """From what each figure was taken; figures that are not served are absent."""
    counters: dict[Series, int]
    """Counts since some start. Of a histogram, each bucket's own count."""
    models: dict[Series, str | None]
    """Of which model each counter is; None where the engine names none."""
    repeats: dict[Series, int]
    """By how many ranks each counter is told."""
    gauges: dict[str | None, dict[str, int]]
    """By model: running and waiting requests, and the use of the KV cache in per mille."""
    unknown_labels: frozenset[str] = frozenset()
    """Labels that the engine's file does not know."""


def recognise(url: str, exposition: Exposition) -> Engine:
    """The engine most of whose figures are there, by the names of its metrics.

    Raises:
        GigawatchError: none of them, or two as many.
    """
    names = {*exposition.families, *exposition.samples}
    names |= {f"{name}_total" for name in names}

    def served(engine: Engine) -> int:
        return sum(any(source.metric in names for source in sources) for _, sources in engine.figures.each())

    best = sorted(engines().values(), key=served, reverse=True)[:2]
    if served(best[0]) == 0:
        families = sorted(exposition.families)
        shown = ", ".join(families[:MOST_FAMILIES_SHOWN])
        more = len(families) - MOST_FAMILIES_SHOWN
        raise GigawatchError(
            f"{url} serves metrics, and none of an engine that is known:"
            f" {shown or 'nothing at all'}{f' and {more} more' if more > 0 else ''}",
            "Some engines serve theirs after the first request only. `gigawatch engines list` says which are known, and"
            " docs/engines.md how to add one.",
            ExitCode.DATA,
        )
    if served(best[0]) == served(best[1]):
        raise GigawatchError(
            f"{url} serves as much of {best[0].title} as of {best[1].title}",
            f"Say which it is: engine {best[0].name} or {best[1].name}.",
            ExitCode.DATA,
        )
    return best[0]


def read(exposition: Exposition, engine: Engine) -> Reading:
    """What the exposition says, by the engine's file."""
    found: dict[str, tuple[Source, list[Sample]]] = {}
    for figure, alternatives in engine.figures.each():
        for source in alternatives:
            if samples := _samples(exposition, figure, source):
                found[figure] = source, samples
                break
    named = {_model(sample, engine) for _, samples in found.values() for sample in samples} - {None}
    sole = next(iter(named)) if len(named) == 1 else None
    repeating = frozenset({"le", *engine.repeated_by})
    counters: dict[Series, int] = {}
    models: dict[Series, str | None] = {}
    repeats: Counter[Series] = Counter()
    gauges: dict[str | None, dict[str, int]] = {}
    for figure, (source, samples) in found.items():
        if len(named) > 1:
            # Nobody can say which of the models it is of.
            samples = [sample for sample in samples if _model(sample, engine)]  # noqa: PLW2901
        per_unit = UNITS[source.unit] if source.unit else 1
        parts = _buckets(samples, per_unit) if figure in LATENCIES else _values(samples, per_unit)
        once: dict[Series, int] = {}
        for sample, bound_us, value in parts:
            labels = frozenset(it for it in sample.labels.items() if it[0] not in repeating)
            series = Series(figure, source.metric, labels, bound_us)
            models[series] = _model(sample, engine) or sole
            repeats[series] += 1
            # Ranks that repeat a count may be a step apart: the greatest of them never falls.
            once[series] = max(value, once.get(series, 0))
        if figure not in GAUGES:
            counters |= once
            continue
        for series, value in once.items():
            of_model = gauges.setdefault(models[series], {})
            before = of_model.get(figure, 0)
            of_model[figure] = min(max(before, value), PER_MILLE) if figure == "kv_cache_use" else before + value
    known = {*repeating, *engine.model_labels, *engine.split_by}
    return Reading(
        started_ms=None if exposition.started_s is None else round(exposition.started_s * MILLISECONDS_PER_SECOND),
        sources={figure: source for figure, (source, _) in found.items()},
        counters=counters,
        models=models,
        repeats=repeats,
        gauges=gauges,
        unknown_labels=frozenset(
            label for _, samples in found.values() for sample in samples for label in sample.labels
        ).difference(known),
    )


def _samples(exposition: Exposition, figure: str, source: Source) -> list[Sample]:
    """The samples that a source means."""
    found = exposition.find(source.metric)
    if figure in LATENCIES:
        natives = [sample for sample in found if sample.native_histogram]
        found = natives or exposition.find(f"{source.metric}_bucket")
    return [
        sample
        for sample in found
        if all(sample.labels.get(label, "") in values for label, values in source.labels.items())
    ]


def _model(sample: Sample, engine: Engine) -> str | None:
    return next((sample.labels[label] for label in engine.model_labels if sample.labels.get(label)), None)


def _values(samples: Iterable[Sample], per_unit: int) -> Iterator[tuple[Sample, int, int]]:
    """Each sample with its value in whole units; what no count can be is passed over."""
    for sample in samples:
        if 0 <= sample.value <= GREATEST:
            yield sample, 0, round(sample.value * per_unit)


def _buckets(samples: Iterable[Sample], per_unit: int) -> Iterator[tuple[Sample, int, int]]:
    """Each bucket as a sample of its histogram, its upper bound in µs, and how many lie in it alone."""
    cumulative: dict[frozenset[tuple[str, str]], dict[int, tuple[Sample, int]]] = {}
    for sample in samples:
        try:
            if sample.native_histogram:
                for bound_us, count in _native_buckets(sample.native_histogram, per_unit).items():
                    yield sample, bound_us, count
                continue
            bound_us = _bound_us(float(sample.labels["le"]) * per_unit)
        except (KeyError, ValueError, OverflowError):
            # A bound or a count that is no number.
            continue
        for _, _, count in _values([sample], 1):
            histogram = frozenset(it for it in sample.labels.items() if it[0] != "le")
            cumulative.setdefault(histogram, {})[bound_us] = sample, count
    for histogram_buckets in cumulative.values():
        before = 0
        for bound_us, (sample, count) in sorted(histogram_buckets.items(), key=lambda it: it[0]):
            yield sample, bound_us, max(0, count - before)
            before = max(before, count)


def _bound_us(bound_us: float) -> int:
    return round(min(max(bound_us, 0.0), ABOVE_ALL_US))


def _native_buckets(histogram: NativeHistogram, per_unit: int) -> Counter[int]:
    """How many lie in each bucket, by its upper bound in µs. Bucket i of a schema ends at 2 ** (i * 2 ** -schema)."""
    found: Counter[int] = Counter()
    if not -4 <= histogram.schema <= 8:
        return found
    found[_bound_us(histogram.zero_threshold * per_unit)] += round(histogram.zero_count)
    schema = min(histogram.schema, NATIVE_SCHEMA)
    merged = 2 ** (histogram.schema - schema)
    counts = accumulate(histogram.pos_deltas or ())
    index = 0
    for span in histogram.pos_spans or ():
        index += span.offset
        for _, count in zip(range(span.length), counts, strict=False):
            found[_bound_us(2.0 ** (-(-index // merged) * 2**-schema) * per_unit)] += max(0, count)
            index += 1
    return found
