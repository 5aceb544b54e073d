"""PUE and the facility as figures: pure functions, without I/O, as those of the fleet."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from textwrap import wrap
from types import MappingProxyType

from dashboard import quantities
from dashboard.drawing import Drawing
from dashboard.facility_rows import CATEGORIES, CHAIN, FACILITY, SOURCES, Flow
from dashboard.plots import (
    Chart,
    Series,
    Values,
    any_known,
    bins,
    blank,
    coverage_strip,
    draw_line,
    faint,
    gaps_in_words,
    in_words,
    middles,
    say_empty,
    short,
    value_axis,
)
from dashboard.theme import FONT, Theme
from dashboard.view import Period
from gigawatch.facility_readings import Pue, PueConditions
from gigawatch.findings import some

MOST_NAMES = 4
"""Of sites in a line of words."""
LABEL_CHARACTERS = 13
"""Of a line beside a part of the flow."""
MOST_SITES = 7
"""Sites with a colour of their own; the others share one."""
Value = Callable[[PueConditions], float | None]


def each(step: timedelta) -> str:
    """What one bin is called."""
    names = {timedelta(hours=1): "hour", timedelta(hours=6): "six-hour bin", timedelta(days=1): "day"}
    return names.get(step, "week")


def trend(
    rows: Sequence[Pue],
    category: int | None,
    period: Period,
    theme: Theme,
    without: Mapping[datetime, Sequence[str]] = MappingProxyType({}),
) -> Chart:
    """PUE over time, with the coverage of each bin below it.

    Args:
        rows: of one site, or of all together.
        category: to show.
        period: to show.
        theme: the look.
        without: sites that are not in a bin's sums, though they are in others'.
    """
    found = {row.time: row for row in rows if row.category == category}
    values: Values = [found[time].pue if time in found else None for time in bins(period)]
    figure = blank(theme, period, height=280, rows=(0.16, 1.0))
    draw_line(figure, bins(period), period.step, Series("PUE", values), theme.series[0], 1, quantities.ratio,
              width=1.8, legend=False)  # fmt: skip
    # Of the last bin, which may end before its middle, nothing is seen.
    hollow = [
        time for time in without
        if time + period.step / 2 <= period.stop and time in found and found[time].pue is not None
    ]  # fmt: skip
    if hollow:
        figure.trace(
            "scatter",
            x=middles(hollow, period.step), y=[short(found[time].pue or 0.0) for time in hollow],
            mode="markers", name="not all sites", showlegend=True,
            marker={"symbol": "circle-open", "size": 8, "color": theme.warn, "line": {"width": 2}},
            customdata=[f"without {some(without[time], MOST_NAMES)}" for time in hollow],
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    coverage = [row.coverage or 0.0 for row in found.values()]
    coverage_strip(figure, list(found), period.step, coverage, theme)
    value_axis(figure, "PUE")
    figure.lay_out(
        yaxis={"tickformat": ".3~f"},
        yaxis2={"domain": [0, 0.055], "range": [0, 1], "visible": False, "fixedrange": True},
    )
    said = f"PUE by the {each(period.step)}"
    if category is not None:
        said += f", category {category}, IT metered at {CATEGORIES[category]}"
    if not any_known(values):
        say_empty(figure, theme, "Nothing was measured in this period")
        return Chart(figure, f"{said}. Nothing was measured in this period.")
    said += f". {in_words(values, quantities.ratio)}{gaps_in_words(coverage)}"
    if hollow:
        said += f" Not all sites are in {len(hollow)} of {len(values)} bins, which are hollow."
    return Chart(figure, said)


def flow(found: Flow, theme: Theme) -> Chart:
    """Mean power from the sources to the GPUs, and what nothing below explains, as a Sankey diagram."""
    if not found.links:
        figure = blank(theme, None, height=160)
        say_empty(figure, theme, "No power is known in this period")
        return Chart(figure, "Mean power from the sources to the IT equipment. None is known in this period.")
    names = list(dict.fromkeys(name for link in found.links for name in (link.source, link.target)))
    inward, outward = defaultdict[str, float](float), defaultdict[str, float](float)
    for link in found.links:
        outward[link.source] += link.power_w
        inward[link.target] += link.power_w
    power_w = {name: max(inward[name], outward[name]) for name in names}
    unexplained = {link.target for link in found.links if link.unexplained}
    equipment = {name for name, _ in CHAIN.values()}
    chain = equipment | {link.source for link in found.links}
    powers = [quantities.power(power_w[name]) for name in names]

    def colour(name: str) -> str:
        if name in unexplained:
            return theme.absent
        if name in SOURCES.values():
            return theme.series[1]
        if name == FACILITY:
            return theme.series[7]
        return theme.series[0] if name in equipment else theme.series[4]

    figure = Drawing(
        height=400, autosize=True, paper_bgcolor="rgba(0,0,0,0)", margin={"l": 4, "r": 4, "t": 12, "b": 12},
        font={"family": FONT, "size": 12, "color": theme.text}, uirevision="keep",
        hoverlabel={"bgcolor": theme.surface_raised, "bordercolor": theme.border,
                    "font": {"family": FONT, "size": 12, "color": theme.text}},
    )  # fmt: skip
    figure.trace(
        "sankey",
        arrangement="snap", orientation="h",
        node={
            # Beside a part of the chain the next one stands; at the end lines are near one another.
            "label": [
                "<br>".join([*wrap(name, LABEL_CHARACTERS), power]) if name in chain else f"{name} {power}"
                for name, power in zip(names, powers, strict=True)
            ],
            "color": [colour(name) for name in names], "pad": 18, "thickness": 14,
            "line": {"width": 0}, "customdata": [f"{name} {quantities.power(power_w[name])}" for name in names],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
        link={
            "source": [names.index(link.source) for link in found.links],
            "target": [names.index(link.target) for link in found.links],
            "value": [short(link.power_w) for link in found.links],
            "color": [faint(theme.absent if link.unexplained else colour(link.target), 0.45) for link in found.links],
            "customdata": [
                f"{link.source} → {link.target}: {quantities.power(link.power_w)}" for link in found.links
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )  # fmt: skip
    steps = "; ".join(f"{link.source} to {link.target} {quantities.power(link.power_w)}" for link in found.links)
    return Chart(
        figure, f"Mean power from the sources to the IT equipment, which the table below lists as well: {steps}."
    )


def against_load(rows: Sequence[PueConditions], step: timedelta, theme: Theme) -> Chart:
    """PUE against the load of IT: of one site its power, of several the part of each site's greatest."""
    greatest: dict[str, float] = defaultdict(float)
    for row in rows:
        greatest[row.site] = max(greatest[row.site], row.it_power_w or 0.0)
    if len(greatest) > 1:
        return _against(
            rows, lambda it: None if not it.it_power_w else 100 * it.it_power_w / greatest[it.site], step, theme,
            words=quantities.percent, title="IT load, % of each site's greatest", what="the IT load",
        )  # fmt: skip
    factor, unit = quantities.scale(max(greatest.values(), default=0.0), "W")
    return _against(
        rows, lambda it: None if it.it_power_w is None else it.it_power_w / factor, step, theme,
        words=lambda value: quantities.power(None if value is None else value * factor),
        title=f"IT power, {unit}", what="the IT load",
    )  # fmt: skip


def against_temperature(rows: Sequence[PueConditions], step: timedelta, theme: Theme) -> Chart:
    """PUE against the temperature of the air outside."""
    return _against(
        rows, lambda it: it.outside_temp_c, step, theme,
        words=lambda value: quantities.UNKNOWN if value is None else f"{value:.1f}\u00a0°C",
        title="outside temperature, °C", what="the outside temperature",
    )  # fmt: skip


def _against(
    rows: Sequence[PueConditions],
    value: Value,
    step: timedelta,
    theme: Theme,
    *,
    words: Callable[[float | None], str],
    title: str,
    what: str,
) -> Chart:
    counted = [row for row in rows if row.pue is not None]
    shown = [row for row in counted if value(row) is not None]
    energy: dict[str, float] = defaultdict(float)
    for row in shown:
        energy[row.site] += (row.it_power_w or 0.0) * row.hours
    named = sorted(energy, key=lambda site: -energy[site])[:MOST_SITES]
    figure = blank(theme, None, height=320)
    groups = [
        (site, [row for row in shown if row.site == site], theme.series[place]) for place, site in enumerate(named)
    ]
    groups.append(("Other sites", [row for row in shown if row.site not in named], theme.series[7]))
    for name, points, colour in groups:
        if points:
            figure.trace(
                "scatter",
                x=[short(value(row) or 0.0) for row in points], y=[short(row.pue or 0.0) for row in points],
                mode="markers", name=name, marker={"color": colour, "size": 6, "opacity": 0.6, "line": {"width": 0}},
                customdata=[f"{row.site}, {row.time:%b %d %H:%M}<br>{words(value(row))}" for row in points],
                hovertemplate="PUE %{y:.2f}<br>%{customdata}<extra></extra>", showlegend=len(energy) > 1,
            )  # fmt: skip
    value_axis(figure, "PUE")
    figure.lay_out(
        yaxis={"tickformat": ".3~f"}, hovermode="closest",
        xaxis={"title": {"text": title}, "showspikes": False, "showgrid": True, "tickformat": "~g"},
    )  # fmt: skip
    said = f"PUE against {what} by the {each(step)}. {left_out(rows, step)}"
    if not shown:
        say_empty(figure, theme, f"No {each(step)} with both is known")
        figure.lay_out(xaxis={"showticklabels": False, "title": {"text": ""}})
        return Chart(figure, said)
    values = [known for row in shown if (known := value(row)) is not None]
    pues = [row.pue for row in shown if row.pue is not None]
    said += f" PUE from {quantities.ratio(min(pues))} to {quantities.ratio(max(pues))}"
    return Chart(figure, f"{said}, at {words(min(values))} to {words(max(values))}.")


def left_out(rows: Sequence[PueConditions], step: timedelta) -> str:
    """How many points there are, and which hours are in none of them, in words."""
    points = sum(1 for row in rows if row.pue is not None)
    said = f"{quantities.count(points)} {each(step)}{'' if points == 1 else 's'} with a PUE"
    sums = {"missing": sum(row.hours_missing for row in rows), "faulty": sum(row.hours_faulty for row in rows)}
    left = [f"{quantities.count(hours)} h {what}" for what, hours in sums.items() if hours]
    if left:
        said += f"; not drawn: {' and '.join(left)}"
    return f"{said}."


ALL, MOST, PART, NONE, FAULTY = range(5)
KINDS: Mapping[int, tuple[str, str]] = {
    ALL: ("", "all hours counted"), MOST: ("", "95 % or more"), PART: ("–", "less"), NONE: ("×", "none"),
    FAULTY: ("!", "faulty hours"),
}  # fmt: skip
"""The sign and the words of each."""


def kind_of(row: Pue) -> int:
    """How a day looks in the calendar: a faulty hour goes before all else."""
    if row.hours_faulty:
        return FAULTY
    if not row.hours:
        return NONE
    coverage = row.coverage or 0.0
    return ALL if coverage >= 1 else MOST if coverage >= 0.95 else PART


def key(theme: Theme) -> list[tuple[str, str, str]]:
    """Sign, colour and words of each kind of day."""
    colours = (theme.sequence[3], theme.sequence[1], theme.warn, theme.text_muted, theme.bad)
    return [(sign, colour, words) for (sign, words), colour in zip(KINDS.values(), colours, strict=True)]


def calendar(days: Sequence[Pue], theme: Theme) -> Chart:
    """Each day's hours in the sums of PUE: a row for each month, a column for each day of it."""
    if not days:
        figure = blank(theme, None, height=120)
        say_empty(figure, theme, "No hour was measured yet")
        return Chart(figure, "Calendar of coverage. No hour was measured yet.")
    months = sorted({_month(row.time) for row in days})
    cells = {(_month(row.time), row.time.day): row for row in days}
    grid = [[cells.get((month, day)) for day in range(1, 32)] for month in months]
    steps = [(place, colour) for place, (_, colour, _) in enumerate(key(theme))]
    figure = blank(theme, None, height=90 + 24 * len(months))
    figure.trace(
        "heatmap",
        x=list(range(1, 32)), y=[f"{month:%b %Y}" for month in months],
        z=[[None if row is None else kind_of(row) for row in line] for line in grid],
        text=[["" if row is None else KINDS[kind_of(row)][0] for row in line] for line in grid],
        texttemplate="%{text}", textfont={"size": 12, "color": theme.surface},
        customdata=[["" if row is None else _of_day(row) for row in line] for line in grid],
        hovertemplate="%{customdata}<extra></extra>", hoverongaps=False, xgap=2, ygap=2,
        zmin=-0.5, zmax=len(steps) - 0.5, showscale=False,
        colorscale=[
            [edge / len(steps), colour] for place, colour in steps for edge in (place, place + 1)
        ],
    )  # fmt: skip
    figure.lay_out(
        xaxis={"showspikes": False, "side": "top", "tickvals": [1, 5, 10, 15, 20, 25, 31], "fixedrange": True,
               "showline": False},
        yaxis={"autorange": "reversed", "type": "category", "fixedrange": True, "showgrid": False, "showline": False},
    )  # fmt: skip
    kinds = [kind_of(row) for row in days]
    counts = ", ".join(f"{kinds.count(kind)} {words}" for kind, (_, words) in KINDS.items() if kind in kinds)
    first = min(row.time for row in days)
    return Chart(figure, f"Calendar of coverage since {first:%Y-%m-%d}, days by their hours: {counts}.")


def _month(time: datetime) -> datetime:
    return time.replace(day=1, hour=0)


def _of_day(row: Pue) -> str:
    said = f"{row.time:%Y-%m-%d}: {row.hours or 0} h counted"
    if row.hours_missing:
        said += f", {row.hours_missing} h missing"
    if row.hours_faulty:
        said += f", {row.hours_faulty} h faulty"
    return f"{said}<br>PUE {quantities.ratio(row.pue)}"
