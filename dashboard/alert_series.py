"""The series around an alert: of what its labels name, from half an hour before it began, with its moments marked.

Where it tells of an event that came late, it begins before that.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from dash import html
from sqlalchemy import Connection

from dashboard import figures, quantities, token_figures, view
from dashboard.components import chart, panel
from dashboard.pages.fleet import events_table
from dashboard.plots import Chart, Series, bins, is_late, ms
from dashboard.theme import Theme
from dashboard.view import Period, View
from gigawatch import facility_readings, readings, token_readings
from gigawatch.alerts.readings import Alert
from gigawatch.readings import Where

BEFORE = timedelta(minutes=30)
AFTER = timedelta(minutes=30)
LONGEST = timedelta(days=30)
"""An alert that lasts longer is shown from so long before its end."""
NEAR = 0.02
"""Moments so near to one another, of the whole, are marked as one."""


def around(connection: Connection, alert: Alert, theme: Theme, now: datetime) -> list[Any]:
    """The parts of the page that show them."""
    its = alert.labels
    stop = now if alert.resolved is None else min(now, alert.resolved + AFTER)
    start = max(min(alert.started, _happened(alert) or alert.started) - BEFORE, stop - LONGEST)
    if "deployment" in its:
        return _deployment(connection, alert, theme, start)
    node = _node(connection, alert)
    asked = View(start=start, stop=max(stop, start + timedelta(minutes=1)))
    period = view.period(asked, now, lambda first, last: readings.longest_window_s(connection, first, last, node))
    if "gpu_uuid" in its:
        return _gpu(connection, alert, theme, period)
    if "meter" in its:
        return _meter(connection, alert, theme, period)
    if node is not None or "rack" in its or "site" in its:
        where = Where(node_id=node) if node is not None else Where(site=its.get("site"), rack=its.get("rack"))
        rows = readings.power_series(connection, period.start, period.stop, period.step, where)
        known = readings.known_until(connection)
        place = its.get("hostname") or its.get("rack") or its.get("site") or ""
        return [
            _panel(f"Power of {place}", figures.power(rows, period, theme, known), "power", alert, period, theme,
                   note="GPUs only (boundary: gpu)"),
            *([] if node is None else [_events(connection, period, Where(node_id=node))]),
        ]  # fmt: skip
    return []


def _happened(alert: Alert) -> datetime | None:
    """When the first event was that it tells of."""
    try:
        return datetime.fromisoformat(alert.details["first_event"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        # Most rules tell of no event, and somebody's own may tell anything by this name.
        return None


def _node(connection: Connection, alert: Alert) -> int | None:
    if "gpu_uuid" in alert.labels:
        gpu = readings.gpu(connection, alert.labels["gpu_uuid"])
        return None if gpu is None else gpu.node_id
    if "hostname" in alert.labels:
        return readings.node_named(connection, alert.labels.get("site", ""), alert.labels["hostname"])
    return None


def _gpu(connection: Connection, alert: Alert, theme: Theme, period: Period) -> list[Any]:
    gpu = readings.gpu(connection, alert.labels["gpu_uuid"])
    if gpu is None:
        return []
    rows = readings.gpu_series(connection, period.start, period.stop, period.step, gpu_uuid=gpu.gpu_uuid)
    events = readings.events(connection, period.start, period.stop, gpu_uuid=gpu.gpu_uuid, limit=50)
    return [
        _panel(title, drawn, identity, alert, period, theme)
        for title, drawn, identity in (
            ("Power", figures.gpu_power(rows, events, period, theme), "power"),
            ("Temperature", figures.temperatures(rows, gpu.temp_slowdown_c, period, theme), "temperature"),
            ("Clocks", figures.clocks(rows, period, theme), "clocks"),
        )
    ] + [panel("Events around it", events_table(events, ""), wide=True)]


def _meter(connection: Connection, alert: Alert, theme: Theme, period: Period) -> list[Any]:
    site, meter = alert.labels.get("site", ""), alert.labels["meter"]
    rows = facility_readings.meter_series(connection, site, meter, period.start, period.stop, period.step)
    table = {row.time: row for row in rows}
    found = [table.get(time) for time in bins(period)]
    drawn = (
        ("Power", "W", [it.power_w if it else None for it in found], quantities.power),
        ("Greatest current of a phase", "A", [it.current_max_a if it else None for it in found], quantities.current),
        ("Temperature", "°C", [it.temp_c if it else None for it in found], quantities.celsius),
    )
    known = [it for it in drawn if any(value is not None for value in it[2])] or drawn[:1]
    panels = []
    for title, unit, values, words in known:
        line = [Series(meter, values)]
        figure = figures.lines(line, period, theme, unit=unit, words=words, title=title, scaled=unit == "W")
        if unit == "W":
            figure.figure.lay_out(yaxis={"rangemode": "tozero"})
        panels.append(_panel(f"{title} of {meter}", figure, f"meter-{title.split()[0].lower()}", alert, period, theme))
    return panels


def _deployment(connection: Connection, alert: Alert, theme: Theme, start: datetime) -> list[Any]:
    until = token_readings.tokens_until(connection)
    stop = until if alert.resolved is None else min(until, alert.resolved + AFTER)
    if stop <= start:
        return []
    period = view.token_period(View(start=start, stop=stop), until, 1)
    of = token_readings.Of(site=alert.labels.get("site"), gpu_model=alert.labels.get("gpu_model"),
                           deployment=alert.labels["deployment"])  # fmt: skip
    rows = token_readings.energy_per_token(connection, period.start, period.stop, period.step, "fleet", "gpu", of)
    return [
        _panel("Energy per generated token", token_figures.trend(rows, "gpu", period, theme), "tokens", alert, period,
               theme, note="boundary: gpu"),
        _panel("Generated tokens", token_figures.generated(rows, period, theme), "generated", alert, period, theme),
    ]  # fmt: skip


def _events(connection: Connection, period: Period, where: Where) -> html.Section:
    events = readings.events(connection, period.start, period.stop, where, limit=50)
    return panel("Events around it", events_table(events, ""), wide=True)


def _panel(
    title: str, drawn: Chart, identity: str, alert: Alert, period: Period, theme: Theme, note: str | None = None
) -> html.Section:
    return panel(title, chart(mark(drawn, alert, period, theme), f"alert-{identity}"), note=note, wide=True)


def moments(alert: Alert, period: Period) -> Sequence[tuple[datetime, str]]:
    """When what became of it, those of the period; what happened at nearly the same time is one."""
    known = (
        ("event", _happened(alert)), ("began", alert.started), ("fired", alert.fired), ("resolved", alert.resolved),
    )  # fmt: skip
    found: list[tuple[datetime, str]] = []
    for words, time in known:
        if time is None or not period.start <= time <= period.stop:
            continue
        if found and time - found[-1][0] < NEAR * (period.stop - period.start):
            found[-1] = (found[-1][0], f"{found[-1][1]}, {words}")
        else:
            found.append((time, words))
    return found


def mark(drawn: Chart, alert: Alert, period: Period, theme: Theme) -> Chart:
    """The figure with the alert's moments, and in words when they were."""
    figure = drawn.figure
    colour = {"critical": theme.bad, "warning": theme.warn, "info": theme.text_muted}[alert.severity]
    if alert.fired is not None:
        last = min(alert.resolved or period.stop, period.stop)
        if last > period.start:
            figure.band(ms(max(alert.fired, period.start)), ms(last), fillcolor=colour, opacity=0.08,
                        line={"width": 0}, layer="below")  # fmt: skip
    for time, words in moments(alert, period):
        # Below the words that figures have at their top.
        figure.upright(
            ms(time),
            {"color": colour, "width": 1.4, "dash": "dash"},
            words,
            {"color": colour, "size": 11},
            before=is_late(time, period),
            height=0.9,
        )
    said = ", ".join(f"{words} at {quantities.clock(time)}" for time, words in moments(alert, period))
    return Chart(figure, f"{drawn.summary} The alert {said}." if said else drawn.summary)
