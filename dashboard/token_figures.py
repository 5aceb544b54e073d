"""Energy per token as figures: pure functions, without I/O, as those of the fleet."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from dashboard import quantities
from dashboard.figures import lines
from dashboard.plots import (
    Chart,
    Series,
    Values,
    any_known,
    bins,
    blank,
    coverage_strip,
    draw_area,
    draw_line,
    gaps_in_words,
    in_words,
    only_where,
    say_empty,
    short,
    value_axis,
)
from dashboard.theme import Theme
from dashboard.token_rows import Row, frontier
from dashboard.view import Period, Wait
from gigawatch.token_readings import BOUNDARIES, Boundary, EnergyPerToken, Idle, Serving

PARTS: Mapping[str, tuple[Callable[[Idle], float], int]] = {
    "Active": (lambda it: it.active_j, 0),
    "Provisioned idle": (lambda it: it.provisioned_idle_j, 1),
    "Unobserved": (lambda it: it.unobserved_j, 3),
    "Unallocated": (lambda it: it.unallocated_j, 7),
}
"""Parts of the energy, with the place of their colour among the theme's series."""
MOST_NAMED = 12
"""Points of the frontier that bear their name."""


def joules(value: float | None) -> str:
    """Energy per token in words."""
    return quantities.digits(value, "J")


def trend(rows: Sequence[EnergyPerToken], boundary: Boundary, period: Period, theme: Theme) -> Chart:
    """Energy per token over time, with the coverage of each bin below it."""
    table = {row.time: row for row in rows}
    values: Values = [table[time].j_per_generated_token if time in table else None for time in bins(period)]
    figure = blank(theme, period, height=300, rows=(0.16, 1.0))
    line = Series("J per token", values)
    colour = theme.series[BOUNDARIES.index(boundary)]
    draw_line(figure, bins(period), period.step, line, colour, 1, joules, width=1.8, legend=False)
    # Where no GPU is assigned there is no row, and nothing that would be missing.
    coverage = [row.coverage or 0.0 for row in rows]
    coverage_strip(figure, [row.time for row in rows], period.step, coverage, theme)
    value_axis(figure, "J per token")
    figure.lay_out(
        yaxis={"rangemode": "tozero"},
        yaxis2={"domain": [0, 0.055], "range": [0, 1], "visible": False, "fixedrange": True},
    )
    if not any_known(values):
        say_empty(figure, theme, _nothing(rows, boundary))
    said = f"Energy per generated token over time, boundary {boundary}. {in_words(values, joules)}"
    return Chart(figure, said + gaps_in_words(coverage))


def _nothing(rows: Sequence[EnergyPerToken], boundary: Boundary) -> str:
    """Why there is no figure."""
    if not rows:
        return "No data in this period"
    return "No token was generated" if any(row.energy_j for row in rows) else f"No figure at boundary {boundary}"


def _from_zero(drawn: Chart) -> Chart:
    drawn.figure.lay_out(yaxis={"rangemode": "tozero"})
    return drawn


def generated(rows: Sequence[EnergyPerToken], period: Period, theme: Theme) -> Chart:
    """Generated tokens per second over time."""
    table = {row.time: row.generated_tokens_per_s for row in rows}
    series = [Series("Tokens/s", [table.get(time) for time in bins(period)])]
    drawn = lines(
        series, period, theme, unit="tokens/s", title="Generated tokens",
        words=lambda value: quantities.digits(value, "tokens/s"), scaled=True,
    )  # fmt: skip
    return _from_zero(drawn)


def served(
    rows: Sequence[Serving],
    period: Period,
    theme: Theme,
    of: Mapping[str, Callable[[Serving], float | None]],
    *,
    title: str,
    unit: str,
    words: Callable[[float | None], str],
    top: float | None = None,
) -> Chart:
    """One or a few figures of serving over time, a line for each."""
    table = {row.time: row for row in rows}
    found = [table.get(time) for time in bins(period)]
    series = [Series(name, [value(row) if row else None for row in found]) for name, value in of.items()]
    drawn = lines(
        [it for it in series if any_known(it.values)], period, theme, unit=unit, words=words, title=title, top=top
    )
    return _from_zero(drawn)


def energy_parts(rows: Sequence[Idle], period: Period, theme: Theme) -> Chart:
    """Mean GPU power of each bin in its parts, stacked, all labels together."""
    times = bins(period)
    sums: dict[datetime, dict[str, float]] = defaultdict(lambda: dict.fromkeys(PARTS, 0.0))
    for row in rows:
        for name, (part, _) in PARTS.items():
            sums[row.time][name] += part(row)
    present = [time in sums for time in times]
    lengths_s = [
        max(1.0, (min(time + period.step, period.stop) - max(time, period.start)).total_seconds()) for time in times
    ]
    power = {
        name: [sums[time][name] / length if there else 0.0
               for time, length, there in zip(times, lengths_s, present, strict=True)]
        for name in PARTS
    }  # fmt: skip
    greatest = max((sum(values) for values in zip(*power.values(), strict=True)), default=0.0)
    factor, unit = quantities.scale(greatest, "W")
    figure = blank(theme, period, height=300)
    base = [0.0] * len(times)
    for name, (_, place) in PARTS.items():
        if not any(power[name]):
            continue
        colour = theme.series[place]
        upper = [low + value / factor for low, value in zip(base, power[name], strict=True)]
        draw_area(figure, times, period.step, base, upper, present, colour, name, group=name)
        line = Series(name, only_where(upper, present))
        draw_line(figure, times, period.step, line, colour, 1, str, width=1.2)
        figure["data"][-1] |= {
            "legendgroup": name,
            "customdata": [quantities.power(value) for value in power[name]],
        }
        base = upper
    value_axis(figure, unit)
    figure.lay_out(yaxis={"rangemode": "tozero"})
    if not any(present):
        say_empty(figure, theme)
        return Chart(figure, "GPU power by what it was for. No data in this period.")
    total_j = {name: sum(it[name] for it in sums.values()) for name in PARTS}
    whole_j = sum(total_j.values()) or 1.0
    said = ", ".join(f"{name.lower()} {quantities.share(part / whole_j)}" for name, part in total_j.items() if part)
    return Chart(figure, f"GPU power by what it was for, of {quantities.work(whole_j)}: {said or 'nothing'}.")


def trade_off(rows: Sequence[Row], boundary: Boundary, wait: Wait, links: Callable[[Row], str], theme: Theme) -> Chart:
    """Energy per token against the time to first token, a point for each row, its area the batch; and the frontier."""
    shown = [row for row in rows if row.wait_s(wait) is not None and row.energy.j_per_generated_token is not None]
    best = frontier(rows, wait)
    on = {row.label for row in best}
    figure = blank(theme, None, height=360)
    most = max((row.serving.batch or 0 for row in shown if row.serving), default=0) or 1.0

    def points(chosen: Sequence[Row], name: str, colour: str, symbol: str, mode: str) -> None:
        figure.trace(
            "scatter",
            x=[short(row.wait_s(wait) or 0) for row in chosen],
            y=[short(row.energy.j_per_generated_token or 0) for row in chosen],
            mode=mode, name=name,
            text=[row.label for row in chosen] if "text" in mode else None,
            textposition="top center", textfont={"size": 11, "color": theme.text},
            line={"color": colour, "width": 1.4, "shape": "hv", "dash": "dot"},
            marker={"color": colour, "opacity": 0.85,
                    # Hollow where it is not to be relied upon.
                    "symbol": [f"{symbol}-open" if row.doubts else symbol for row in chosen],
                    "line": {"width": [2 if row.doubts else 1 for row in chosen],
                             "color": [colour if row.doubts else theme.surface for row in chosen]},
                    "size": [short(8 + 20 * (_batch(row) / most) ** 0.5) for row in chosen]},
            customdata=[links(row) for row in chosen],
            hovertext=[
                f"<b>{row.label}</b><br>{joules(row.energy.j_per_generated_token)} per token"
                f"<br>{wait} {quantities.latency(row.wait_s(wait))}"
                f"<br>batch {quantities.digits(row.serving.batch if row.serving else None, '')}"
                + "".join(f"<br>{doubt}" for doubt in row.doubts)
                for row in chosen
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )  # fmt: skip

    points([row for row in shown if row.label not in on], "Others", theme.series[0], "circle", "markers")
    named = "markers+lines+text" if len(best) <= MOST_NAMED else "markers+lines"
    points(best, "Frontier: none is better in both", theme.series[1], "diamond", named)
    value_axis(figure, "J per token")
    figure.lay_out(
        yaxis={"rangemode": "tozero"}, hovermode="closest", margin={"t": 34},
        xaxis={"rangemode": "tozero", "title": {"text": f"time to first token, {wait}, s"}, "showspikes": False,
               "showgrid": True, "tickformat": "~g"},
        legend={"y": 1.04},
    )  # fmt: skip
    if not shown:
        nothing = _nothing([row.energy for row in rows], boundary)
        say_empty(figure, theme, nothing)
        figure.lay_out(xaxis={"showticklabels": False, "title": {"text": ""}})
        return Chart(figure, f"Energy per token against the time to first token. {nothing}.")
    said = "; ".join(
        f"{row.label}: {joules(row.energy.j_per_generated_token)}, {quantities.latency(row.wait_s(wait))}"
        for row in best[:MOST_NAMED]
    )
    return Chart(
        figure,
        f"Energy per token against the time to first token ({wait}) of {len(shown)}, which the table lists as well."
        f" No other is better in both than these: {said}.",
    )


def _batch(row: Row) -> float:
    return (row.serving.batch or 0.0) if row.serving else 0.0
