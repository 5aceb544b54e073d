"""What charts are drawn with: an empty figure in a theme's look, lines, areas, gaps, and what they say in words."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from dashboard import quantities
from dashboard.drawing import Drawing
from dashboard.theme import FONT, Theme
from dashboard.view import Period

GOOD_COVERAGE = 0.95
Values = list[float | None]


class Chart(Struct, frozen=True):
    """A figure, and what it says in words."""

    figure: Drawing
    summary: str


class Series(Struct, frozen=True):
    """One line: a value for each bin."""

    label: str
    values: Values


def bins(period: Period) -> list[datetime]:
    """Starts of the bins of a period, whether there are rows for them or not."""
    times = []
    time = period.start
    while time < period.stop:
        times.append(time)
        time += period.step
    return times


def is_late(time: datetime, period: Period) -> bool:
    """Whether a moment is so near to the end of a period that words behind it would be cut off."""
    return time > period.stop - 0.15 * (period.stop - period.start)


DASHES = ("solid", "dot", "dash")


def blank(theme: Theme, period: Period | None, *, height: int, rows: tuple[float, float] = (0, 1)) -> Drawing:
    """An empty figure in the theme's look, with a period's axis of time.

    Args:
        theme: the look.
        period: to show all of; None: the axis is not of time.
        height: in px.
        rows: where of it the values stand, from 0 at the bottom to 1.
    """
    axis = {
        "gridcolor": theme.grid, "linecolor": theme.border, "zeroline": False, "automargin": True,
        "showticklabels": True,
        "tickfont": {"size": 11, "color": theme.text_muted}, "title": {"font": {"size": 11}, "standoff": 6},
    }  # fmt: skip
    figure = Drawing(
        height=height, autosize=True, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": theme.text_muted}, margin={"l": 8, "r": 12, "t": 8, "b": 8},
        uirevision="keep", separators=".\u202f", dragmode="zoom",
        xaxis={**axis, "showgrid": False, "showspikes": True, "spikemode": "across", "spikethickness": 1,
               "spikedash": "solid", "spikecolor": theme.border_strong, "anchor": "free" if rows[0] else "y",
               "position": 0},
        yaxis={**axis, "domain": rows, "ticksuffix": " "},
        hoverlabel={"bgcolor": theme.surface_raised, "bordercolor": theme.border,
                    "font": {"family": FONT, "size": 12, "color": theme.text}},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12, "color": theme.text},
                "itemsizing": "constant"},
    )  # fmt: skip
    if period is not None:
        figure.lay_out(
            xaxis={
                "type": "date",
                "hoverformat": "%b %d %H:%M:%S",
                # Not as a range: one that moves on with each refresh would undo the reader's zoom.
                "autorangeoptions": {
                    "clipmin": ms(period.start),
                    "clipmax": ms(period.stop),
                    "include": [ms(period.start), ms(period.stop)],
                },
            }
        )
    return figure


def say_empty(figure: Drawing, theme: Theme, words: str = "No data in this period") -> None:
    """Say that there is nothing to see."""
    figure.note(
        text=words, x=0.5, y=0.5, xref="paper", yref="paper",
        font={"size": 14, "color": theme.text_muted},
    )  # fmt: skip
    # An axis of numbers would pretend that there is something to read off.
    figure.lay_out(yaxis={"showticklabels": False, "title": {"text": ""}})
    if not figure["data"]:
        # Nor is there a period to read off: the axis would show the year 2000.
        figure.lay_out(xaxis={"showticklabels": False})


def value_axis(figure: Drawing, unit: str, top: float | None = None) -> None:
    """Give the axis of values its unit, and a top where it has one."""
    figure.lay_out(
        yaxis={"title": {"text": unit}, "tickformat": "~g", **({"range": [0, top]} if top else {})},
        hovermode="x unified",
    )


def draw_line(
    figure: Drawing,
    times: Sequence[datetime],
    step: timedelta,
    line: Series,
    colour: str,
    factor: float,
    words: Callable[[float | None], str],
    *,
    width: float = 1.6,
    dash: str = "solid",
    legend: bool = True,
) -> None:
    """Draw one line; what is None is a gap."""
    alone = _alone(line.values)
    figure.trace(
        "scatter",
        x=middles(times, step), y=[None if value is None else short(value / factor) for value in line.values],
        # A lone bin between two gaps has no line to be on.
        mode="lines+markers" if any(alone) else "lines", marker={"size": [5 if it else 0 for it in alone]},
        name=line.label, line={"color": colour, "width": width, "dash": dash}, connectgaps=False,
        customdata=[words(value) for value in line.values],
        hovertemplate="%{customdata}<extra>%{fullData.name}</extra>", showlegend=legend,
    )  # fmt: skip


def draw_area(
    figure: Drawing,
    times: Sequence[datetime],
    step: timedelta,
    low: Sequence[float],
    high: Sequence[float],
    present: Sequence[bool],
    colour: str,
    label: str,
    opacity: float = 0.45,
    group: str | None = None,
) -> None:
    """Polygons between low and high, one for each run of bins that are there."""
    xs: list[int | None] = []
    ys: list[float | None] = []
    for first, last in _runs(present):
        at = [times[first], *(times[i] + step / 2 for i in range(first, last)), times[last - 1] + step]
        top = [high[first], *high[first:last], high[last - 1]]
        bottom = [low[first], *low[first:last], low[last - 1]]
        xs += [ms(time) for time in (*at, *reversed(at))] + [None]
        ys += [short(value) for value in (*top, *reversed(bottom))] + [None]
    figure.trace(
        "scatter",
        x=xs, y=ys, mode="lines", line={"width": 0}, fill="toself", fillcolor=faint(colour, opacity),
        hoverinfo="skip", showlegend=False, name=label, legendgroup=group,
    )  # fmt: skip


def coverage_strip(
    figure: Drawing, times: Sequence[datetime], step: timedelta, coverage: Sequence[float], theme: Theme
) -> None:
    """Draw the coverage of each bin below the values, in the figure's second axis."""
    figure.trace(
        "bar",
        x=middles(times, step), y=[1] * len(times), width=step.total_seconds() * 1000, yaxis="y2", showlegend=False,
        marker={"color": [_shade(share, theme) for share in coverage], "line": {"width": 0}}, name="Coverage",
        customdata=[quantities.share(share) for share in coverage],
        hovertemplate="%{customdata}<extra>Coverage</extra>",
    )  # fmt: skip


def _shade(share: float, theme: Theme) -> str:
    if share >= GOOD_COVERAGE:
        return theme.border
    return theme.warn if share > 0 else theme.bad


def _runs(present: Sequence[bool]) -> list[tuple[int, int]]:
    """Runs of what is present: from the first to before the last."""
    runs: list[tuple[int, int]] = []
    for number, there in enumerate(present):
        if there and runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        elif there:
            runs.append((number, number + 1))
    return runs


def _alone(values: Values) -> list[bool]:
    padded = [None, *values, None]
    return [
        value is not None and padded[number] is None and padded[number + 2] is None
        for number, value in enumerate(values)
    ]


def only_where(values: Sequence[float], present: Sequence[bool]) -> Values:
    """The values that are present; the others are gaps."""
    return [short(value) if there else None for value, there in zip(values, present, strict=True)]


def middles(times: Sequence[datetime], step: timedelta) -> list[int]:
    """Middles of the bins, ms since 1970 UTC."""
    return [ms(time + step / 2) for time in times]


def ms(time: datetime) -> int:
    """A time in ms since 1970 UTC, as plotly.js takes it."""
    return int(time.timestamp() * 1000)


def short(value: float) -> float:
    """A value in five digits: more cannot be seen, and would have to be sent."""
    return float(f"{value:.5g}")


def faint(colour: str, opacity: float) -> str:
    """A colour that lets what is behind it through."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def any_known(values: Values) -> bool:
    """Whether anything was measured."""
    return any(value is not None for value in values)


def in_words(values: Values, words: Callable[[float | None], str]) -> str:
    """The latest value, the least and the greatest, in words."""
    known = [value for value in values if value is not None]
    if not known:
        return "No data in this period."
    return f"Latest {words(known[-1])}, from {words(min(known))} to {words(max(known))}."


def gaps_in_words(coverage: Sequence[float]) -> str:
    """How many bins have a poor coverage, in words; nothing where none has."""
    poor = sum(1 for share in coverage if share < GOOD_COVERAGE)
    return f" Coverage is below 95 % in {poor} of {len(coverage)} bins." if poor else ""
