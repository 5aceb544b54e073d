"""Charts as SVG, without scripts and outside resources; what each shows is said in words and in tables as well."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from api.reports.model import Chart
from api.reports.shown import grouped, number

WIDTH, HEIGHT = 720, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 8, 26, 22
_BAR = 20
"""Height of a bar with its room, in units of the picture."""
_NAMES = 210
"""Width of what stands before bars."""
_VALUES = 70
"""Width of what stands behind them."""
_LONGEST_NAME = 36
_MOST_LABELS = 16


def drawn(chart: Chart, name: str) -> str:
    """A chart as an SVG element; nothing where it has no value.

    Args:
        chart: what to draw.
        name: for the identifiers in it, unique on the page.
    """
    if not any(value is not None for series in chart.series for value in series.values):
        return ""
    if chart.kind == "bars":
        height, parts = _TOP + _BAR * len(chart.labels), _bars(chart)
    else:
        height, parts = HEIGHT, _along_time(chart, name)
    title = f"{escape(chart.title)}{'' if chart.unit == '1' else f', {escape(chart.unit)}'}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{title}</title><desc id="{name}-desc">{escape(described(chart))}</desc>'
        f'<text class="title" x="0" y="12">{title}</text>{"".join(parts)}</svg>'
    )


def described(chart: Chart) -> str:
    """What a chart shows, in words."""
    said = []
    for series in chart.series:
        known = [(value, label) for label, value in zip(chart.labels, series.values, strict=True) if value is not None]
        if not known:
            said.append(f"{series.name}: no values.")
            continue
        least, most = min(known), max(known)
        absent = len(chart.labels) - len(known)
        said.append(
            f"{series.name}: lowest {number(least[0])} at {least[1]}, highest {number(most[0])} at {most[1]},"
            f" {len(known)} values, {absent} without."
        )
    return " ".join(said)


def _along_time(chart: Chart, name: str) -> Iterator[str]:
    known = [value for series in chart.series for value in series.values if value is not None]
    ticks = _ticks(min(chart.floor, *known), max(chart.floor, *known))
    low, high = ticks[0], ticks[-1]
    slot = (WIDTH - _LEFT - _RIGHT) / len(chart.labels)
    bottom = HEIGHT - _BOTTOM

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - _TOP - 8)

    yield (
        f'<pattern id="{name}-gap" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="gap" y2="5"/></pattern>'
    )
    for tick in ticks:
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        words = grouped(f"{tick:,.6g}")
        yield f'<text class="end" x="{_LEFT - 5}" y="{y(tick) + 3.5:.1f}">{words}</text>'
    gaps = [all(series.values[place] is None for series in chart.series) for place in range(len(chart.labels))]
    every = math.ceil(len(chart.labels) / _MOST_LABELS)
    for place, label in enumerate(chart.labels):
        x = _LEFT + slot * place
        if gaps[place]:
            yield (
                f'<rect fill="url(#{name}-gap)" x="{x:.1f}" y="{_TOP + 8}" width="{slot:.1f}"'
                f' height="{bottom - _TOP - 8}"/>'
            )
        if place % every == 0:
            yield f'<text class="middle" x="{x + slot / 2:.1f}" y="{HEIGHT - 6}">{escape(label)}</text>'
    for number_, series in enumerate(chart.series):
        if chart.kind == "line":
            points = [
                None if value is None else (_LEFT + slot * (place + 0.5), y(value))
                for place, value in enumerate(series.values)
            ]
            yield from _line(points, number_)
        else:
            width = slot * 0.76 / len(chart.series)
            for place, value in enumerate(series.values):
                if value is not None:
                    x = _LEFT + slot * (place + 0.12) + width * number_
                    top, height = min(y(value), y(chart.floor)), abs(y(value) - y(chart.floor))
                    yield (
                        f'<rect class="s{number_}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}"'
                        f' height="{height:.1f}"/>'
                    )
    yield from _legend(chart, name, any(gaps))


def _line(points: Sequence[tuple[float, float] | None], number_: int) -> Iterator[str]:
    """Stretches of known points, and a mark on each, so that one alone is seen."""
    stretch: list[tuple[float, float]] = []
    for point in [*points, None]:
        if point is not None:
            stretch.append(point)
            continue
        if len(stretch) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in stretch)
            yield f'<polyline class="l{number_}" points="{path}"/>'
        stretch = []
    for point in points:
        if point is not None:
            yield f'<circle class="s{number_}" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.6"/>'


def _legend(chart: Chart, name: str, gaps: bool) -> Iterator[str]:
    said = [(f'class="s{place}"', series.name) for place, series in enumerate(chart.series)]
    if gaps:
        said.append((f'fill="url(#{name}-gap)" stroke="#999"', "not known"))
    x = WIDTH - _RIGHT - sum(22 + 6 * len(words) for _, words in said)
    for look, words in said:
        yield f'<rect {look} x="{x}" y="3" width="10" height="10"/><text x="{x + 14}" y="12">{escape(words)}</text>'
        x += 22 + 6 * len(words)


def _bars(chart: Chart) -> Iterator[str]:
    (series,) = chart.series
    known = [value for value in series.values if value is not None]
    low, high = min(0, *known), max(0, *known)
    room = WIDTH - _NAMES - _VALUES

    def x(value: float) -> float:
        return _NAMES + (value - low) / ((high - low) or 1) * room

    for place, (label, value) in enumerate(zip(chart.labels, series.values, strict=True)):
        top = _TOP + _BAR * place
        shown = label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"
        yield f'<text class="end" x="{_NAMES - 6}" y="{top + 12}">{escape(shown)}</text>'
        if value is None:
            yield f'<text x="{x(0) + 4:.1f}" y="{top + 12}">not known</text>'
            continue
        left, right = sorted((x(0), x(value)))
        yield f'<rect class="s0" x="{left:.1f}" y="{top + 2}" width="{right - left:.1f}" height="{_BAR - 6}"/>'
        yield f'<text x="{right + 5:.1f}" y="{top + 12}">{number(value)}</text>'
    yield f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{_TOP}" y2="{_TOP + _BAR * len(chart.labels)}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Round values from at or below the lowest to at or above the highest, six at most."""
    span = high - low or abs(high) or 1
    size = 10 ** math.floor(math.log10(span))
    step = next(it * size / 10 for it in (1, 2, 2.5, 5, 10, 20, 25, 50, 100) if span / (it * size / 10) <= 4)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number_ * step for number_ in range(first, last + 1)]
