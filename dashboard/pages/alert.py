"""One alert: what is wrong, what explains it, what became of it, who was told, what to do, and the series around it."""

from datetime import datetime
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import alert_parts, alert_series, components, quantities
from dashboard.alert_parts import alert_link, button, severity_badge
from dashboard.components import badge, facts, panel, table
from dashboard.pages import alert_rules, alert_targets, alerts
from dashboard.theme import Theme
from dashboard.view import MOST_ALERTS, View
from gigawatch.alerts import readings
from gigawatch.alerts.readings import Alert, RuleNow, Wanted

MOST_EXPLAINED = 25
"""Alerts that it explains which are shown one by one."""
TONES = {"firing": "bad", "pending": "warn", "resolved": "ok"}


def render(connection: Connection, _: View, theme: Theme, now: datetime, name: str) -> Any:
    """The page; name is the alert's number."""
    number = int(name) if len(name) < 20 else 0
    alert = readings.alert(connection, number) if 0 < number <= MOST_ALERTS else None
    if alert is None:
        return components.message(
            "No such alert",
            html.P(f"There is no alert {name[:30]}. Ended ones are kept for alerts.resolved_d days."),
            dcc.Link("Alerts", href="/alerts", className="button"),
        )
    rule = readings.rule(connection, alert.rule)
    told = readings.delivery_lines(connection, of=alert)
    return html.Div(
        [
            html.Header(
                [
                    html.H1([alert.summary, " ", severity_badge(alert.severity), " ",
                             badge(alert.state, TONES[alert.state]), " ", *alert_parts.state(alert)]),
                    html.P(alert_parts.labels(alert.labels), className="boundary"),
                    _facts(alert, rule, now),
                    html.Nav(
                        [
                            *(dcc.Link(words, href=address) for words, address in alert_parts.places(alert)),
                            *([html.A("What to do", href="#live-what-to-do")] if alert.runbook else []),
                        ],
                        className="contents", **{"aria-label": "What it is about"},
                    ),
                ],
                id="live-head", className="wide",
            ),
            alert_parts.may_not(),
            _act(alert),
            panel("What explains it", _details(alert, rule)),
            panel("What became of it", _changes(connection, alert)),
            *alert_series.around(connection, alert, theme, now),
            _explains(connection, alert, now),
            panel("Who was told", alert_targets.deliveries(told, now, "Nobody was told of it."), wide=True),
            alert_rules.runbook(alert.runbook),
        ],
        className="grid",
    )  # fmt: skip


def _facts(alert: Alert, rule: RuleNow | None, now: datetime) -> html.Dl:
    end = alert.resolved or now
    lasted = quantities.duration((end - (alert.fired or alert.started)).total_seconds())
    return facts(
        [
            ("Rule", dcc.Link(alert.rule, href=f"/alerts/rules/{alert.rule}")),
            ("Value", alert_parts.value(alert.value, alert.unit)),
            *(
                []
                if rule is None
                else [(f"Threshold {name}", value) for name, _, value, _ in alert_rules.thresholds(rule)[:3]]
            ),
            ("Began", _time(alert.started)),
            ("Fired", _time(alert.fired)),
            ("Resolved", _time(alert.resolved)),
            ("Lasted" if alert.resolved else "For", lasted),
            ("No data since", _time(alert.unknown_since) if alert.state != "resolved" else None),
            ("Came back", alert_parts.counted(alert.flaps, "time") if alert.flaps else None),
            (
                "Explained by",
                None if alert.inhibited_by is None else alert_link(alert.inhibited_by, f"alert {alert.inhibited_by}"),
            ),
            (
                "Silenced by",
                None
                if alert.silenced_by is None
                else dcc.Link(f"silence {alert.silenced_by}", href="/alerts/silences"),
            ),
            ("Acknowledged", _time(alert.acknowledged)),
            ("By", alert.acknowledged_by),
            ("Note", alert.acknowledgement),
        ]
    )


def _time(time: datetime | None) -> Any:
    return None if time is None else html.Time(f"{quantities.moment(time)} UTC", dateTime=time.isoformat())


def _act(alert: Alert) -> html.Div | None:
    if alert.state == "resolved":
        return None
    quiet = dcc.Link("Silence alerts like it", href=f"/alerts/silences?like={alert.alert_id}", className="button")
    if alert.acknowledged:
        return html.Div(quiet, className="wide acts", id="live-act")
    return html.Div(
        [
            html.Form(
                [
                    html.Label(
                        [
                            html.Span("Note", className="screen-reader"),
                            dcc.Input(id="note", name="note", type="text", maxLength=1_000, autoComplete="off",
                                      placeholder="Note: what you do about it"),
                        ],
                        htmlFor="note",
                    ),
                    button("acknowledge", alert.alert_id, "Acknowledge", kind="submit"),
                ],
                **{"data-act": "acknowledge", "data-of": str(alert.alert_id)},
            ),
            quiet,
        ],
        className="wide acts",
        # While nothing changes a refresh leaves alone what somebody is writing.
        id="live-act",
    )  # fmt: skip


def _details(alert: Alert, rule: RuleNow | None) -> Any:
    known = [alert_parts.detail(name, found) for name, found in alert.details.items() if found is not None]
    about = [] if rule is None else [html.P(rule.about, className="note")]
    if not known:
        return html.Div([*about, html.P("The rule tells nothing more.", className="empty")])
    return html.Div([*about, facts(known)])


def _changes(connection: Connection, alert: Alert) -> html.Div:
    return table(
        "What became of the alert, the first first",
        ["When", "What", "Who", "Note"],
        [
            [html.Time(quantities.moment(it.time)), it.change, it.author or "the rule", it.note or quantities.UNKNOWN]
            for it in readings.changes(connection, alert.alert_id)
        ],
        "Nothing yet: it is pending." if alert.state == "pending" else "Nothing is known.",
    )


def _explains(connection: Connection, alert: Alert, now: datetime) -> html.Section:
    counts = readings.explained(connection, [alert.alert_id])
    if not counts:
        # Not left out: were it to come later, the page would be sent whole, and a note that is being written lost.
        return panel("What it explains", html.P("No other alert.", className="empty"), wide=True)
    number = sum(it.alerts for it in counts)
    by_rule = ", ".join(f"{quantities.count(it.alerts)} {it.rule}" for it in counts)
    meant = Wanted(states=("firing",), explained_by=alert.alert_id)
    rows = readings.alerts_wanted(connection, meant, limit=MOST_EXPLAINED)
    first = f"the first {MOST_EXPLAINED} of " if number > MOST_EXPLAINED else ""
    return panel(
        "What it explains",
        html.Details([html.Summary(f"Show {first}{quantities.count(number)}"), alerts.rows(rows, {}, now)]),
        note=f"nobody is told of these: {by_rule}",
        wide=True,
    )
