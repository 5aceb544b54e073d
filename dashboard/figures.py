"""Rows to figures: pure functions, without I/O.

What was not measured is a gap, never a line across it and never zero: bins that the rows lack become None, and
areas are polygons over runs of bins that are there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from msgspec import Struct

from dashboard import quantities
from dashboard.drawing import Drawing
from dashboard.plots import (
    DASHES,
    Chart,
    Series,
    Values,
    any_known,
    bins,
    blank,
    coverage_strip,
    draw_area,
    draw_line,
    faint,
    gaps_in_words,
    in_words,
    is_late,
    middles,
    ms,
    only_where,
    say_empty,
    short,
    value_axis,
)
from dashboard.theme import Theme
from dashboard.view import Heat, Period
from gigawatch.readings import (
    EventRow,
    GpuNow,
    GpuPoint,
    LoadBin,
    LoadSwing,
    NodePoint,
    PowerPoint,
    RackNow,
    SiteSecond,
    SpectrumLine,
    Tick,
)

MOST_GROUPS = 7
OTHERS = "Others"


def power(rows: Sequence[PowerPoint], period: Period, theme: Theme, known: datetime | None = None) -> Chart:
    """Power over time by group, stacked, with the coverage of each bin below it, as far as it can be known yet."""
    times = bins(period)
    series = by_label(rows, times, lambda row: row.power_w)
    greatest = max((value or 0 for value in totals(series)), default=0)
    factor, unit = quantities.scale(greatest, "W")
    figure = blank(theme, period, height=360, rows=(0.16, 1.0))
    base = [0.0] * len(times)
    for number, line in enumerate(series):
        colour = theme.series[number % len(theme.series)]
        upper = [low + (value or 0) / factor for low, value in zip(base, line.values, strict=True)]
        present = [value is not None for value in line.values]
        draw_area(figure, times, period.step, base, upper, present, colour, line.label, group=line.label)
        figure.trace(
            "scatter",
            x=middles(times, period.step), y=only_where(upper, present), mode="lines", name=line.label,
            legendgroup=line.label, line={"color": colour, "width": 1.4}, connectgaps=False,
            customdata=[quantities.power(value) for value in line.values],
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>", showlegend=len(series) > 1,
        )  # fmt: skip
        base = upper
    due = [time for time in times if known is None or time < known]
    coverage = coverages(rows, due)
    coverage_strip(figure, due, period.step, coverage, theme)
    if not rows:
        say_empty(figure, theme)
    figure.lay_out(
        yaxis={"title": {"text": unit}, "rangemode": "tozero", "tickformat": "~g"},
        yaxis2={"domain": [0, 0.055], "range": [0, 1], "visible": False, "fixedrange": True},
        hovermode="x unified",
    )
    return Chart(figure, f"Power over time. {in_words(totals(series), quantities.power)}{gaps_in_words(coverage)}")


def utilisation(rows: Sequence[PowerPoint], period: Period, theme: Theme) -> Chart:
    """Mean GPU utilisation over time by group."""
    times = bins(period)
    # In the groups' order by energy, so that a group has the same colour as in the chart of power.
    kept = [line.label for line in by_label(rows, times, lambda row: row.power_w)]
    values = _table(rows, lambda row: row.gpu_util_pct)
    series = [Series(label, [values[label].get(time) for time in times]) for label in kept if label in values]
    return lines(series, period, theme, unit="%", top=100, words=quantities.percent, title="Mean GPU utilisation")


def lines(
    series: Sequence[Series],
    period: Period,
    theme: Theme,
    *,
    unit: str,
    words: Callable[[float | None], str],
    title: str,
    top: float | None = None,
    height: int = 240,
    scaled: bool = False,
) -> Chart:
    """Lines over time, one for each series."""
    times = bins(period)
    greatest = max((value for line in series for value in line.values if value is not None), default=0.0)
    factor, unit = quantities.scale(greatest, unit) if scaled else (1.0, unit)
    figure = blank(theme, period, height=height)
    for number, line in enumerate(series):
        draw_line(
            figure, times, period.step, line, theme.series[number % len(theme.series)], factor, words,
            legend=len(series) > 1, dash=DASHES[number // len(theme.series) % len(DASHES)],
        )  # fmt: skip
    value_axis(figure, unit, top)
    if not any(any_known(line.values) for line in series):
        say_empty(figure, theme)
    said = "; ".join(f"{line.label}: {in_words(line.values, words)}" for line in series[:8])
    return Chart(figure, f"{title}. {said or 'No data in this period.'}")


def gpu_power(rows: Sequence[GpuPoint], events: Sequence[EventRow], period: Period, theme: Theme) -> Chart:
    """One GPU's mean power in its band from least to greatest, its limit, and its critical events."""
    times = bins(period)
    table = {row.time: row for row in rows}
    found = [table.get(time) for time in times]
    mean: Values = [row.power_w if row else None for row in found]
    figure = blank(theme, period, height=300)
    colour = theme.series[0]
    low = [(row.power_min_w or 0) if row else 0 for row in found]
    high = [(row.power_max_w or 0) if row else 0 for row in found]
    banded = [row is not None and None not in (row.power_min_w, row.power_max_w) for row in found]
    draw_area(figure, times, period.step, low, high, banded, colour, "Least to greatest", opacity=0.18)
    draw_line(figure, times, period.step, Series("Mean power", mean), colour, 1, quantities.power, width=1.8)
    limit: Values = [row.power_limit_w if row else None for row in found]
    draw_line(
        figure, times, period.step, Series("Power limit", limit), theme.text_muted, 1, quantities.power,
        width=1.2, dash="dash",
    )  # fmt: skip
    weak = [
        (time, row) for time, row in zip(times, found, strict=True)
        if row and row.energy_method not in {None, "counter"}
    ]  # fmt: skip
    if weak:
        figure.trace(
            "scatter",
            x=[ms(time + period.step / 2) for time, _ in weak], y=[0] * len(weak), mode="markers",
            name="Not from the counter", marker={"symbol": "line-ns-open", "size": 7, "color": theme.warn},
            customdata=[row.energy_method for _, row in weak], hovertemplate="energy %{customdata}<extra></extra>",
        )  # fmt: skip
    _marks(figure, events, period, theme)
    value_axis(figure, "W")
    figure.lay_out(yaxis={"rangemode": "tozero"})
    if not any_known(mean):
        say_empty(figure, theme)
    said = f"Power. {in_words(mean, quantities.power)}"
    return Chart(figure, said + (f" In {len(weak)} bins not from the energy counter." if weak else ""))


def temperatures(rows: Sequence[GpuPoint], slowdown_c: int | None, period: Period, theme: Theme) -> Chart:
    """Greatest temperatures of one GPU, with the line at which it slows down."""
    series = [
        Series("GPU", gpu_values(rows, period, lambda row: row.gpu_temp_max_c)),
        Series("Memory", gpu_values(rows, period, lambda row: row.mem_temp_max_c)),
    ]
    chart = lines(
        [line for line in series if any_known(line.values)], period, theme, unit="°C", words=quantities.celsius,
        title="Greatest temperature",
    )  # fmt: skip
    if slowdown_c is None:
        return chart
    chart.figure.across(
        slowdown_c, {"color": theme.bad, "width": 1.2, "dash": "dash"}, f"slowdown {slowdown_c} °C",
        {"color": theme.bad, "size": 11},
    )  # fmt: skip
    highest = max((v for line in series for v in line.values if v is not None), default=slowdown_c)
    chart.figure.lay_out(yaxis={"range": [None, max(slowdown_c, highest) + 8]})
    return Chart(chart.figure, f"{chart.summary} It slows down at {quantities.celsius(slowdown_c)}.")


def clocks(rows: Sequence[GpuPoint], period: Period, theme: Theme) -> Chart:
    """Clocks of one GPU, with bands where something held them down."""
    series = [
        Series("SM", gpu_values(rows, period, lambda row: row.sm_clock_mhz)),
        Series("Memory", gpu_values(rows, period, lambda row: row.mem_clock_mhz)),
    ]
    chart = lines(
        [line for line in series if any_known(line.values)], period, theme, unit="MHz", title="Mean clocks",
        words=lambda value: quantities.with_unit(value, "MHz"),
    )  # fmt: skip
    bands = held_down(rows, period)
    for start, stop, reasons in bands:
        hard = any("hardware" in reason or "brake" in reason or "thermal" in reason for reason in reasons)
        chart.figure.band(
            ms(start), ms(stop), fillcolor=theme.bad if hard else theme.warn, opacity=0.16, line={"width": 0},
            layer="below",
        )  # fmt: skip
        chart.figure.trace(
            "scatter",
            x=[ms(start + (stop - start) / 2)], y=[0], mode="markers", showlegend=False,
            marker={"symbol": "triangle-up", "size": 8, "color": theme.bad if hard else theme.warn},
            hovertemplate=f"held down by {', '.join(reasons)}<extra></extra>",
        )  # fmt: skip
    chart.figure.lay_out(yaxis={"rangemode": "tozero"})
    said = "; ".join(f"{quantities.clock(start)} by {', '.join(reasons)}" for start, _, reasons in bands[:5])
    return Chart(chart.figure, chart.summary + (f" Held down from {said}." if said else " Nothing held them down."))


def held_down(rows: Sequence[GpuPoint], period: Period) -> list[tuple[datetime, datetime, tuple[str, ...]]]:
    """Runs of bins in which the same reasons held the clocks down: start, stop, reasons."""
    bands: list[tuple[datetime, datetime, tuple[str, ...]]] = []
    for row in rows:
        reasons = tuple(row.clock_events or ())
        if not reasons:
            continue
        if bands and bands[-1][1] == row.time and bands[-1][2] == reasons:
            bands[-1] = (bands[-1][0], row.time + period.step, reasons)
        else:
            bands.append((row.time, row.time + period.step, reasons))
    return bands


def gpu_values(rows: Sequence[GpuPoint], period: Period, value: Callable[[GpuPoint], float | None]) -> Values:
    """One metric of one GPU, a value for each bin."""
    table = {row.time: value(row) for row in rows}
    return [table.get(time) for time in bins(period)]


def node_parts(rows: Sequence[NodePoint], period: Period, theme: Theme) -> Chart:
    """Power of a node's parts."""
    table = {row.time: row for row in rows}
    found = [table.get(time) for time in bins(period)]
    parts: Mapping[str, Callable[[NodePoint], float | None]] = {
        "Whole node": lambda row: row.node_power_w,
        "GPUs": lambda row: row.gpu_power_w,
        "CPU": lambda row: row.cpu_power_w,
        "Memory": lambda row: row.dram_power_w,
    }
    series = [Series(label, [part(row) if row else None for row in found]) for label, part in parts.items()]
    return lines(
        [line for line in series if any_known(line.values)], period, theme, unit="W", words=quantities.power,
        title="Power by part", scaled=True, height=280,
    )  # fmt: skip


def node_gpus(rows: Sequence[GpuPoint], period: Period, theme: Theme) -> Chart:
    """Power of each GPU of a node."""
    times = bins(period)
    values: dict[tuple[int, str], dict[datetime, float | None]] = {}
    for row in rows:
        key = (row.gpu_index if row.gpu_index is not None else 10_000, row.gpu_uuid)
        values.setdefault(key, {})[row.time] = row.power_w
    series = [
        Series(f"GPU {index}" if index < 10_000 else uuid, [table.get(time) for time in times])
        for (index, uuid), table in sorted(values.items())
    ]
    return lines(series, period, theme, unit="W", words=quantities.power, title="Power by GPU", scaled=True, height=280)


def ticks(rows: Sequence[Tick], theme: Theme) -> Chart:
    """Power of a node's GPUs together, tick by tick; a tick missed is a gap."""
    values: Values = [row.gpu_power_w for row in rows]
    factor, unit = quantities.scale(max((value or 0 for value in values), default=0), "W")
    figure = blank(theme, None, height=220)
    times = [row.time for row in rows]
    length = min((later - earlier for earlier, later in pairwise(times)), default=timedelta(seconds=1))
    at: list[datetime] = []
    shown: Values = []
    for time, value in zip(times, values, strict=True):
        if at and time - at[-1] > 1.5 * length:
            at.append(at[-1] + length)
            shown.append(None)
        at.append(time)
        shown.append(value)
    figure.trace(
        "scatter",
        x=[ms(time) for time in at],
        y=[None if value is None else short(value / factor) for value in shown], mode="lines",
        line={"color": theme.series[0], "width": 1.3, "shape": "hv"}, name="GPUs", showlegend=False,
        customdata=[quantities.power(value) for value in shown],
        hovertemplate="%{x|%H:%M:%S} · %{customdata}<extra></extra>",
    )  # fmt: skip
    value_axis(figure, unit)
    figure.lay_out(xaxis={"type": "date"})
    if not any_known(values):
        say_empty(figure, theme)
    return Chart(figure, f"Power of the node's GPUs, tick by tick. {in_words(values, quantities.power)}")


def seconds_power(rows: Sequence[SiteSecond], period: Period, theme: Theme) -> Chart:
    """Power second by second; seconds that lack a node stand apart, since they are less for that reason alone."""
    complete = _by_second(rows, period, lambda row: row.power_w if row.complete else None)
    poorer = sum(1 for row in rows if not row.complete)
    lines = [("All nodes", complete, theme.series[0])]
    if poorer:
        lines.append(
            (
                "Some nodes missing",
                _by_second(rows, period, lambda row: None if row.complete else row.power_w),
                theme.warn,
            )
        )
    figure = _seconds(lines, "W", period, theme, height=320)
    said = f" {poorer} s lack a node." if poorer else ""
    return Chart(figure, f"Power second by second. {in_words(complete[1], quantities.power)}{said}")


def seconds_ramp(rows: Sequence[SiteSecond], period: Period, theme: Theme) -> Chart:
    """Ramp rate second by second; where two seconds cannot be compared there is none."""
    values = _by_second(rows, period, lambda row: row.ramp_w_per_s)
    figure = _seconds([("Ramp rate", values, theme.series[1])], "W/s", period, theme, height=220)
    return Chart(figure, f"Ramp rate second by second. {in_words(values[1], quantities.ramp)}")


def minutes_power(rows: Sequence[LoadSwing], period: Period, theme: Theme) -> Chart:
    """Power of each site by the minute: its mean in the band from its least to its greatest second."""
    times = bins(period)
    sites = _sites(rows)
    factor, unit = quantities.scale(max((row.power_max_w for row in rows), default=0), "W")
    figure = blank(theme, period, height=320)
    for (site, table), colour in zip(sites.items(), theme.series, strict=False):
        found = [table.get(time) for time in times]
        low = [row.power_min_w / factor if row else 0 for row in found]
        high = [row.power_max_w / factor if row else 0 for row in found]
        present = [row is not None for row in found]
        draw_area(figure, times, period.step, low, high, present, colour, site, opacity=0.3, group=site)
        draw_line(
            figure, times, period.step, Series(site, [row.power_mean_w if row else None for row in found]), colour,
            factor, quantities.power, legend=len(sites) > 1,
        )  # fmt: skip
    value_axis(figure, unit)
    if not rows:
        say_empty(figure, theme)
    said = "; ".join(
        f"{site}: {in_words([it.power_mean_w for it in table.values()], quantities.power)}"
        for site, table in sites.items()
    )
    return Chart(figure, f"Least to greatest power by the minute. {said or 'No data in this period.'}")


def minutes_ramp(rows: Sequence[LoadSwing], period: Period, theme: Theme) -> Chart:
    """Greatest rise and fall of each site from one second to the next, by the minute; a fall below zero."""
    times = bins(period)
    sites = _sites(rows)
    known = [
        value for row in rows for value in (row.ramp_up_max_w_per_s, row.ramp_down_max_w_per_s) if value is not None
    ]
    factor, unit = quantities.scale(max(known, default=0), "W/s")
    figure = blank(theme, period, height=220)
    for (site, table), colour in zip(sites.items(), theme.series, strict=False):
        found = [table.get(time) for time in times]
        down = [row.ramp_down_max_w_per_s if row else None for row in found]
        up = Series(f"{site}, up", [row.ramp_up_max_w_per_s if row else None for row in found])
        fall = Series(f"{site}, down", [None if value is None else -value for value in down])
        for line, dash in ((up, "solid"), (fall, "dot")):
            draw_line(figure, times, period.step, line, colour, factor, quantities.ramp, dash=dash)
    value_axis(figure, unit)
    if not known:
        say_empty(figure, theme)
    greatest = quantities.ramp(max(known)) if known else "not known"
    return Chart(figure, f"Greatest rise and fall from one second to the next, by the minute: up to {greatest}.")


def spectrum(rows: Sequence[SpectrumLine], theme: Theme) -> Chart:
    """Amplitude of oscillations by frequency, with the peak that stands out."""
    factor, unit = quantities.scale(max((row.amplitude_w for row in rows), default=0), "W")
    figure = blank(theme, None, height=280)
    figure.trace(
        "scatter",
        x=[row.frequency_hz for row in rows], y=[short(row.amplitude_w / factor) for row in rows], mode="lines",
        line={"color": theme.series[0], "width": 1.4}, fill="tozeroy", fillcolor=faint(theme.series[0], 0.18),
        customdata=[
            f"±{quantities.power(row.amplitude_w)} every {quantities.with_unit(1 / row.frequency_hz, 's')}"
            for row in rows
        ],
        hovertemplate="%{customdata}<extra></extra>", name="Amplitude", showlegend=False,
    )  # fmt: skip
    peak = peak_of(rows)
    if peak is not None:
        # Annotations of a logarithmic axis stand at the exponent.
        figure.note(
            x=math.log10(peak.frequency_hz), y=short(peak.amplitude_w / factor), text=peak.words,
            showarrow=True, arrowcolor=theme.border_strong, arrowwidth=1, arrowhead=0, ax=0, ay=-22,
            font={"size": 12, "color": theme.text},
        )  # fmt: skip
    value_axis(figure, unit)
    marks = [0.001, 0.005, 0.02, 0.1, 0.5]
    figure.lay_out(
        yaxis={"rangemode": "tozero"},
        margin={"t": 34},
        xaxis={"type": "log", "tickvals": marks, "ticktext": [f"{1 / mark:g} s" for mark in marks],
               "title": {"text": "period"}, "hoverformat": ".4f", "ticksuffix": ""},
        hovermode="closest",
    )  # fmt: skip
    if not rows:
        say_empty(figure, theme)
        figure.lay_out(xaxis={"showticklabels": False, "title": {"text": ""}})
        return Chart(figure, "Amplitude of oscillations by frequency. No stretch of 64 comparable seconds.")
    return Chart(figure, f"Amplitude of oscillations by frequency. {peak.words if peak else 'No peak stands out.'}")


class Peak(Struct, frozen=True):
    """An oscillation that stands out."""

    frequency_hz: float
    amplitude_w: float

    @property
    def period(self) -> str:
        """How long one oscillation takes."""
        return quantities.with_unit(1 / self.frequency_hz, "s")

    @property
    def words(self) -> str:
        """What it is, in words."""
        return f"every {self.period}, by ±{quantities.power(self.amplitude_w)}"


def peak_of(rows: Sequence[SpectrumLine]) -> Peak | None:
    """The peak that stands out in a spectrum, if any."""
    return next(
        (
            Peak(row.peak_frequency_hz, row.peak_amplitude_w)
            for row in rows
            if row.peak_frequency_hz is not None and row.peak_amplitude_w is not None
        ),
        None,
    )


def _by_second(
    rows: Sequence[SiteSecond], period: Period, value: Callable[[SiteSecond], float | None]
) -> tuple[list[datetime], Values]:
    """Times and values, with a gap where seconds are missing."""
    at = [period.start]
    values: Values = [None]
    for row in rows:
        if row.time - at[-1] > timedelta(seconds=1):
            at.append(at[-1] + timedelta(seconds=1))
            values.append(None)
        at.append(row.time)
        values.append(value(row))
    return [*at, period.stop], [*values, None]


def _seconds(
    lines: Sequence[tuple[str, tuple[list[datetime], Values], str]],
    unit: str,
    period: Period,
    theme: Theme,
    height: int,
) -> Drawing:
    greatest = max((abs(value) for _, (_, values), _ in lines for value in values if value is not None), default=0)
    factor, unit = quantities.scale(greatest, unit)
    figure = blank(theme, period, height=height)
    for label, (times, values), colour in lines:
        figure.trace(
            "scatter",
            x=[ms(time) for time in times],
            y=[None if value is None else float(f"{value / factor:.6g}") for value in values],
            mode="lines", line={"color": colour, "width": 1.2, "shape": "hv"}, name=label, connectgaps=False,
            showlegend=len(lines) > 1, hovertemplate=f"%{{y:.4~g}} {unit}<extra>{label}</extra>",
        )  # fmt: skip
    value_axis(figure, unit)
    if not any(any_known(values) for _, (_, values), _ in lines):
        say_empty(figure, theme)
    return figure


def _sites(rows: Sequence[LoadSwing]) -> dict[str, dict[datetime, LoadSwing]]:
    """Rows by site and time: the sites with the most power, as many as there are colours."""
    tables: dict[str, dict[datetime, LoadSwing]] = {}
    for row in rows:
        tables.setdefault(row.site, {})[row.time] = row
    greatest = sorted(tables, key=lambda site: -max(row.power_max_w for row in tables[site].values()))
    return {site: tables[site] for site in greatest[:MOST_GROUPS]}


_HEATS: Mapping[Heat, tuple[str, str]] = {
    "power": ("Power, % of limit", "%"),
    "temperature": ("Greatest temperature, °C", "°C"),
    "utilisation": ("Utilisation, %", "%"),
}

LOAD_BINS: Mapping[Heat, tuple[float, float, float]] = {
    "power": (0.0, 100.0, 10.0), "temperature": (45.0, 95.0, 5.0), "utilisation": (0.0, 100.0, 10.0),
}  # fmt: skip
"""Where the bins of load begin and end, and how wide they are, in the load's unit."""


def heat_map_gpus(gpus: Sequence[GpuNow], heat: Heat, links: Callable[[GpuNow], str], theme: Theme) -> Chart:
    """Each GPU a cell, each rack a row, a space between nodes; what does not report is crossed out."""
    racks: dict[tuple[str, str], list[GpuNow]] = {}
    for gpu in gpus:
        racks.setdefault((gpu.site, gpu.rack or ""), []).append(gpu)
    rows = [(_rack(site, rack), _spaced(members)) for (site, rack), members in racks.items()]
    return _heat_map(
        rows, heat,
        lambda gpu: heat_value(gpu, heat),
        lambda gpu: gpu.state,
        lambda gpu: f"<b>{gpu.hostname} · GPU {quantities.UNKNOWN if gpu.gpu_index is None else gpu.gpu_index}</b>"
        f"<br>{gpu.gpu_model}<br>{quantities.power(gpu.power_w)} of {quantities.power(gpu.power_limit_w)}"
        f" · {quantities.percent(gpu.gpu_util_pct)} · {quantities.celsius(gpu.gpu_temp_max_c)}"
        + (f"<br>{gpu.state}" if gpu.state != "reporting" else "")
        + (f"<br>held down: {', '.join(gpu.clock_events or ())}" if gpu.throttled else ""),
        links, theme, "GPU",
    )  # fmt: skip


def heat_map_racks(
    racks: Sequence[RackNow], heat: Heat, links: Callable[[RackNow], str], theme: Theme, columns: int = 40
) -> Chart:
    """Each rack a cell, each site some rows: for fleets of more GPUs than one can look at."""
    sites: dict[str, list[RackNow]] = {}
    for rack in racks:
        sites.setdefault(rack.site, []).append(rack)
    rows: list[tuple[str, list[RackNow | None]]] = []
    for site, members in sites.items():
        rows += [
            (site if start == 0 else f"{site} +{start}", list(members[start : start + columns]))
            for start in range(0, len(members), columns)
        ]
    return _heat_map(
        rows, heat,
        lambda rack: heat_value(rack, heat),
        lambda rack: "reporting" if rack.gpus_reporting else "silent",
        lambda rack: f"<b>{_rack(rack.site, rack.rack or '')}</b>"
        f"<br>{rack.gpus_reporting} of {rack.gpus} GPUs report"
        f"<br>{quantities.power(rack.power_w)} of {quantities.power(rack.power_limit_w)}"
        f" · {quantities.percent(rack.gpu_util_pct)} · {quantities.celsius(rack.gpu_temp_max_c)}",
        links, theme, "rack",
    )  # fmt: skip


def heat_map_loads(
    bins: Sequence[LoadBin], heat: Heat, links: Callable[[str], str], theme: Theme, most_sites: int = 30
) -> Chart:
    """How many nodes of each site are how loaded: for fleets of more racks than one can look at."""
    title, unit = _HEATS[heat]
    least, most, step = LOAD_BINS[heat]
    columns = round((most - least) / step)
    counts: dict[str, list[int]] = {}
    for found in bins:
        cells = counts.setdefault(found.site, [0] * (columns + 1))
        # The first column is for those that tell nothing; what is beyond the range counts with its end.
        place = 0 if found.low is None else 1 + min(columns - 1, max(0, int((found.low - least) // step)))
        cells[place] += found.nodes
    sites = sorted(counts, key=lambda site: -sum(counts[site]))
    shown = sites[:most_sites]
    edges = [f"{least + step * place:g}" for place in range(columns + 1)]
    between = [f"{low} to {high} {unit}" for low, high in pairwise(edges[1:-1])]
    spans = ["no data", f"less than {edges[1]} {unit}", *between, f"{edges[-2]} {unit} or more"]
    figure = blank(theme, None, height=max(170, 96 + 34 * len(shown)))
    figure.trace(
        "heatmap",
        x=list(range(columns + 1)), y=shown, xgap=1.5, ygap=3, zmin=0,
        # Shares of the site, their root: a few nodes at an end are what one looks for.
        z=[[math.sqrt(cell / sum(counts[site])) if cell else None for cell in counts[site]] for site in shown],
        colorscale=[[number / (len(theme.sequence) - 1), colour] for number, colour in enumerate(theme.sequence)],
        showscale=False, hoverongaps=False, customdata=[[links(site)] * (columns + 1) for site in shown],
        text=[[_brief(cell) if cell else "" for cell in counts[site]] for site in shown], texttemplate="%{text}",
        textfont={"size": 10},
        hovertext=[
            [f"<b>{site}</b><br>{quantities.count(cell)} of {quantities.count(sum(counts[site]))} nodes<br>{span}"
             for cell, span in zip(counts[site], spans, strict=True)]
            for site in shown
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    figure.lay_out(
        xaxis={"tickmode": "array", "tickvals": [0, *(place + 0.5 for place in range(1, columns))], "tickangle": 0,
               "ticktext": ["–", *edges[1:-1]], "title": {"text": f"{title}; –: no data"}, "fixedrange": True},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True, "tickfont": {"size": 12}, "ticks": ""},
        hovermode="closest", margin={"l": 8, "r": 8, "t": 8, "b": 6},
    )  # fmt: skip
    rest = f" Not shown: {len(sites) - len(shown)} smaller sites." if len(sites) > len(shown) else ""
    said = "; ".join(
        f"{site}: {quantities.count(sum(counts[site]))} nodes, most at {spans[counts[site].index(max(counts[site]))]}, "
        f"{quantities.count(counts[site][0])} without data"
        for site in shown
    )
    return Chart(figure, f"{title}, nodes by site and load. {said}.{rest}")


def _brief(number: int) -> str:
    """A count in a cell: 1.2k."""
    return str(number) if number < 1_000 else f"{number / 1_000:.3g}k"


def heat_value(cell: GpuNow | RackNow, heat: Heat) -> float | None:
    """What a cell is coloured by."""
    if heat == "temperature":
        return cell.gpu_temp_max_c
    if heat == "utilisation":
        return cell.gpu_util_pct
    if cell.power_w is None or not cell.power_limit_w:
        return None
    return cell.power_w / cell.power_limit_w * 100


def _heat_map(
    rows: Sequence[tuple[str, Sequence[Any]]],
    heat: Heat,
    value: Callable[[Any], float | None],
    state: Callable[[Any], str],
    words: Callable[[Any], str],
    links: Callable[[Any], str],
    theme: Theme,
    thing: str,
) -> Chart:
    width = max((len(cells) for _, cells in rows), default=0)
    padded = [[*cells, *[None] * (width - len(cells))] for _, cells in rows]
    names = [name for name, _ in rows]
    values = [[None if cell is None else value(cell) for cell in cells] for cells in padded]
    texts = [["" if cell is None else words(cell) for cell in cells] for cells in padded]
    targets = [["" if cell is None else links(cell) for cell in cells] for cells in padded]
    absent = [
        [1 if cell is not None and known is None else None for cell, known in zip(cells, found, strict=True)]
        for cells, found in zip(padded, values, strict=True)
    ]
    flat = [known for found in values for known in found if known is not None]
    title, unit = _HEATS[heat]
    colours = theme.heat if heat == "temperature" else theme.sequence
    least, most = (30.0, 95.0) if heat == "temperature" else (0.0, 100.0)
    figure = blank(theme, None, height=max(130, 70 + 26 * len(rows)))
    shared = {
        "x": _edges(padded, width), "y": names, "xgap": 1.5, "ygap": 3, "hovertext": texts, "customdata": targets,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }  # fmt: skip
    figure.trace(
        "heatmap",
        z=[[None if known is None else round(known, 1) for known in found] for found in values],
        zmin=least, zmax=most, hoverongaps=False,
        colorscale=[[number / (len(colours) - 1), colour] for number, colour in enumerate(colours)],
        colorbar={
            "orientation": "h", "thickness": 8, "len": 0.32, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom",
            "ypad": 4, "title": {"text": title, "side": "top", "font": {"size": 11}}, "tickfont": {"size": 10},
            "outlinewidth": 0, "nticks": 5,
        },
        **shared,
    )  # fmt: skip
    if any(mark for marks in absent for mark in marks):
        figure.trace(
            "heatmap",
            z=absent, zmin=0, zmax=1, showscale=False, hoverongaps=False,
            colorscale=[[0, theme.absent], [1, theme.absent]],
            **{**shared, "text": [["×" if mark else "" for mark in marks] for marks in absent],
               "texttemplate": "%{text}", "textfont": {"color": theme.text, "size": 11}},
        )  # fmt: skip
    figure.lay_out(
        xaxis={"visible": False, "fixedrange": True},
        yaxis={"autorange": "reversed", "showgrid": False, "fixedrange": True, "tickfont": {"size": 12}, "ticks": ""},
        hovermode="closest", margin={"l": 8, "r": 8, "t": 44, "b": 6},
    )  # fmt: skip
    silent = sum(1 for cells in padded for cell in cells if cell is not None and state(cell) != "reporting")
    known = (
        f"from {min(flat):.0f} to {max(flat):.0f} {unit}, mean {sum(flat) / len(flat):.0f} {unit}"
        if flat
        else "no data"
    )
    return Chart(figure, f"{title}, a cell for each {thing}, in {len(rows)} rows: {known}; {silent} not reporting.")


def _edges(rows: Sequence[Sequence[Any]], width: int) -> list[float]:
    """Where cells begin and end: a column that is empty in every row only parts its neighbours."""
    edges = [0.0]
    for column in range(width):
        edges.append(edges[-1] + (1 if any(cells[column] is not None for cells in rows) else 0.3))
    return edges


def _spaced(members: Sequence[GpuNow]) -> list[GpuNow | None]:
    """GPUs in their order, with nothing between those of one node and the next."""
    cells: list[GpuNow | None] = []
    for before, gpu in zip([None, *members], members, strict=False):
        if before is not None and before.node_id != gpu.node_id:
            cells.append(None)
        cells.append(gpu)
    return cells


def _rack(site: str, rack: str) -> str:
    return f"{site} / {rack}" if rack else site


def by_label(
    rows: Sequence[PowerPoint], times: Sequence[datetime], value: Callable[[PowerPoint], float | None]
) -> list[Series]:
    """A series for each group, the one with the most energy first; beyond MOST_GROUPS their sum."""
    table = _table(rows, value)
    energy: dict[str, float] = {}
    for row in rows:
        energy[row.label] = energy.get(row.label, 0) + (row.energy_j or 0)
    order = sorted(energy, key=lambda label: (-energy[label], label))
    series = [Series(label, [table[label].get(time) for time in times]) for label in order]
    if len(series) <= MOST_GROUPS + 1:
        return series
    rest = series[MOST_GROUPS:]
    return [*series[:MOST_GROUPS], Series(f"{OTHERS} ({len(rest)})", totals(rest))]


def totals(series: Sequence[Series]) -> Values:
    """The sum over the series of each bin; None where none of them is known."""
    return [
        None if all(value is None for value in values) else sum(value for value in values if value is not None)
        for values in zip(*(line.values for line in series), strict=True)
    ]


def coverages(rows: Sequence[PowerPoint], times: Sequence[datetime]) -> list[float]:
    """Coverage of each bin over all groups: covered GPU-time over the GPU-time due; 0 where there is no row."""
    due_s: dict[datetime, dict[str, float]] = {}
    covered_s: dict[datetime, float] = {}
    usual_s: dict[str, float] = {}
    for row in rows:
        if row.coverage and row.covered_s:
            due = row.covered_s / row.coverage
            due_s.setdefault(row.time, {})[row.label] = due
            usual_s[row.label] = max(usual_s.get(row.label, 0), due)
            covered_s[row.time] = covered_s.get(row.time, 0) + row.covered_s
    coverage = []
    for time in times:
        present = due_s.get(time, {})
        # A bin at the edge of the period is shorter, for the groups that it lacks as for those it has.
        length = max((due / usual_s[label] for label, due in present.items()), default=1.0)
        whole_s = sum(present.get(label, usual * length) for label, usual in usual_s.items())
        coverage.append(min(1.0, covered_s.get(time, 0) / whole_s) if whole_s else 0.0)
    return coverage


def _table(
    rows: Iterable[PowerPoint], value: Callable[[PowerPoint], float | None]
) -> dict[str, dict[datetime, float | None]]:
    table: dict[str, dict[datetime, float | None]] = {}
    for row in rows:
        table.setdefault(row.label, {})[row.time] = value(row)
    return table


def _marks(figure: Drawing, events: Sequence[EventRow], period: Period, theme: Theme) -> None:
    for event in events:
        if event.severity == "critical" and period.start <= event.time < period.stop:
            figure.upright(
                ms(event.time), {"color": theme.bad, "width": 1.2, "dash": "dot"},
                f"XID {event.code}" if event.code is not None else event.kind, {"color": theme.bad, "size": 11},
                before=is_late(event.time, period),
            )  # fmt: skip
