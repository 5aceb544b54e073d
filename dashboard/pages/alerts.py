"""Alerts: those that fire, are pending, are silenced, or have ended; the worst first, of a rule with many one line."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import alert_parts, components, quantities, recent, view
from dashboard.alert_parts import alert_link, button, severity_badge, since
from dashboard.components import PAGE_ROWS, badge, panel, table
from dashboard.theme import Theme
from dashboard.view import RANGES, USUAL_HOURLY, View
from gigawatch.alerts import readings
from gigawatch.alerts.notification import SEVERITIES
from gigawatch.alerts.readings import Alert, AlertGroup, Explained, Wanted

MANY = 5
"""Alerts of a rule that are shown one by one; more are one line."""
MOST_SITES = 5
"""That a line names."""
SAID = "Times are UTC. What a silence keeps quiet or another alert explains is not counted as firing."
LISTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    # Title, what is meant, heading, words where there is none.
    "firing": ("Alerts", {"states": ("firing",), "quiet": False}, "Firing", "Nothing is wrong."),
    "pending": ("Pending alerts", {"states": ("pending",), "quiet": False}, "Pending", "Nothing is about to fire."),
    "silenced": ("Silenced alerts", {"silenced": True}, "Silenced", "No alert is silenced."),
}


def wanted(asked: View, part: str) -> Wanted:
    """Which alerts a list of open ones shows; of a part that there is not, those that fire."""
    _, meant, _, _ = LISTS.get(part, LISTS["firing"])
    return Wanted(site=asked.site, rule=asked.rule, severity=asked.severity, **meant)


def render(connection: Connection, asked: View, __: Theme, now: datetime, part: str | None) -> Any:
    """The page; part says which of the open alerts, without it those that fire."""
    part = part or "firing"
    title, _, heading, none = LISTS[part]
    meant = wanted(asked, part)
    groups = readings.alert_groups(connection, meant)
    found = sum(it.alerts for it in groups)
    path = "/alerts" if part == "firing" else f"/alerts/{part}"
    if not groups:
        said: list[Any] = [html.P(_none(asked, none), className="nothing", role="status")]
        if part == "firing":
            overview = recent.read(readings.overview, connection)
            said.append(html.P(alert_parts.evaluated(overview, now), className="empty"))
        shown = [panel(heading, *said, wide=True)]
    elif asked.rule is not None:
        shown = [_listed(connection, asked, meant, found, heading, now)]
    else:
        many = [it for it in groups if it.alerts > MANY]
        few = readings.alerts_wanted(connection, meant, most_of_rule=MANY, limit=PAGE_ROWS * MANY)
        note = f"{alert_parts.counted(found, 'alert')} of {alert_parts.counted(len(groups), 'rule')}, the worst first"
        shown = []
        if many:
            by_rule = _groups(many, asked, path, part, now)
            shown.append(panel("Rules with many alerts", by_rule, note=note, wide=True))
        if few:
            shown.append(panel(heading, _table(connection, few, now), note=None if many else note, wide=True))
    return alert_parts.page(connection, asked, path, title, SAID, now, *shown)


def render_history(connection: Connection, asked: View, _: Theme, now: datetime) -> Any:
    """The page of alerts that have ended."""
    start, stop = asked.start, asked.stop
    if start is None or stop is None:
        chosen = asked.range if asked.range in view.HOURLY else USUAL_HOURLY
        # So that what is counted is counted once for all who look: of a year it may be very many.
        step = timedelta(minutes=1) if chosen == "24h" else timedelta(hours=1)
        stop = view.floor(now, step) + step
        start = stop - RANGES[chosen][1] - step
    meant = Wanted(
        states=("resolved",), site=asked.site, rule=asked.rule, severity=asked.severity, since=start, until=stop
    )
    groups = recent.read_folded(readings.alert_groups, connection, meant)
    found = sum(it.alerts for it in groups)
    if not found:
        shown = [panel("Ended", html.P(_none(asked, "No alert ended in this period."), className="empty"), wide=True)]
    else:
        by_rule = _groups(groups, asked, "/alerts/history", "history", now)
        shown = [
            panel(
                "Ended, by rule",
                html.Details([html.Summary(alert_parts.counted(len(groups), "rule")), by_rule]),
                wide=True,
            ),
            _listed(connection, asked, meant, found, "Ended", now),
        ]
    return alert_parts.page(
        connection, asked, "/alerts/history", "Alerts that have ended", "Times are UTC. The last to end come first.",
        now, *shown,
    )  # fmt: skip


def _none(asked: View, words: str) -> list[Any]:
    if not (asked.site or asked.rule or asked.severity):
        return [words]
    clear = view.query(asked, site=None, rule=None, severity=None) or "?"
    return ["No such alert with these filters. ", dcc.Link("Clear filters", href=clear)]


def _listed(
    connection: Connection, asked: View, meant: Wanted, found: int, heading: str, now: datetime
) -> html.Section:
    """One page of a list, with the way to its other pages."""
    number = min(asked.page, components.pages(found))
    shown = readings.alerts_wanted(connection, meant, limit=PAGE_ROWS, offset=(number - 1) * PAGE_ROWS)
    once_more = components.pager("Pages of the list, once more", asked, number, found, "alerts")
    return panel(
        heading,
        components.pager("Pages of the list", asked, number, found, "alerts"),
        _table(connection, shown, now),
        *([once_more] if found > PAGE_ROWS else []),
        wide=True,
    )


def _groups(groups: Sequence[AlertGroup], asked: View, path: str, part: str, now: datetime) -> html.Div:
    """A line for each rule."""

    def numbers(it: AlertGroup) -> list[Any]:
        known = [(severity, getattr(it, severity)) for severity in reversed(SEVERITIES)]
        return [
            child
            for severity, number in known
            if number
            for child in (badge(f"{quantities.count(number)} {severity}", alert_parts.TONES[severity]), " ")
        ]

    def act(it: AlertGroup) -> Any:
        if part == "history" or it.acknowledged == it.alerts:
            return None
        return button("acknowledge_rule", f"{part}:{it.rule}", "Acknowledge all", f"of {it.rule}")

    return table(
        "Rules and how many alerts of each there are, the worst first",
        ["Rule", "Alerts", "Sites", "First", "Last", "Acknowledged", "Act"],
        [
            [
                dcc.Link(it.rule, href=path + view.query(asked, rule=it.rule, page=1)),
                numbers(it),
                _some(it.sites),
                since(it.oldest, now),
                since(it.newest, now),
                quantities.count(it.acknowledged),
                act(it),
            ]
            for it in groups
        ],
        "",
        numbers=[5],
        stacked=True,
    )


def _some(sites: Sequence[str]) -> str:
    more = f" and {len(sites) - MOST_SITES} more" if len(sites) > MOST_SITES else ""
    return ", ".join(sites[:MOST_SITES]) + more or quantities.UNKNOWN


def _table(connection: Connection, alerts: Sequence[Alert], now: datetime) -> html.Div:
    below: dict[int, list[Explained]] = defaultdict(list)
    for one in readings.explained(connection, [it.alert_id for it in alerts if it.state == "firing"]):
        below[one.inhibited_by].append(one)
    return rows(alerts, below, now)


def rows(alerts: Sequence[Alert], below: dict[int, list[Explained]], now: datetime) -> html.Div:
    """Alerts as a table, each with what it explains."""

    def what(it: Alert) -> list[Any]:
        return [
            html.Span(alert_link(it.alert_id, it.summary), className="what"),
            html.Div(alert_parts.labels(it.labels), className="note"),
            *explains(below.get(it.alert_id, [])),
        ]

    def time(it: Alert) -> Any:
        if it.state == "resolved" and it.resolved is not None:
            lasted = quantities.duration((it.resolved - (it.fired or it.started)).total_seconds())
            return [html.Time(quantities.moment(it.resolved)), html.Span(f"after {lasted}", className="note")]
        return since(it.fired or it.started, now)

    def act(it: Alert) -> Any:
        if it.state == "resolved":
            return None
        silence = dcc.Link("Silence", href=f"/alerts/silences?like={it.alert_id}", className="button",
                           title=f"Silence alerts like {it.summary}")  # fmt: skip
        quiet = [] if it.silenced_by else [silence]
        known = [] if it.acknowledged else [button("acknowledge", it.alert_id, "Acknowledge", f"alert {it.alert_id}")]
        return html.Div([*known, *quiet], className="acts")

    ended = all(it.state == "resolved" for it in alerts)
    return table(
        "Alerts, the worst first" if not ended else "Alerts, the last to end first",
        ["Severity", "What", "Ended" if ended else "Since", "Value", "State", "Rule", "Act"],
        [
            [
                severity_badge(it.severity),
                what(it),
                time(it),
                alert_parts.value(it.value, it.unit),
                alert_parts.state(it),
                html.Span(it.rule, className="rule"),
                act(it),
            ]
            for it in alerts
        ],
        "",
        numbers=[3],
        stacked=True,
    )


def explains(found: Sequence[Explained]) -> list[Any]:
    """What an alert explains, collapsed."""
    if not found:
        return []
    all_of_it = sum(it.alerts for it in found)
    return [
        html.Details(
            [
                html.Summary(f"explains {quantities.count(all_of_it)} more"),
                html.Ul([html.Li(f"{quantities.count(it.alerts)} {it.rule}") for it in found]),
                alert_link(found[0].inhibited_by, "Which they are"),
            ]
        )
    ]
