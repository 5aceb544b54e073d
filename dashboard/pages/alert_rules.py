"""Rules of alerts: how their last evaluations went, and one of them: its SQL, its thresholds and what to do."""

from datetime import datetime
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import alert_parts, components, quantities
from dashboard.alert_parts import severity_badge, since
from dashboard.components import badge, facts, panel, table
from dashboard.quantities import UNKNOWN
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch.alerts import readings
from gigawatch.alerts.readings import RuleNow

SAID = "What is watched, how often, and how its last evaluation went. Those that fail come first."


def render(connection: Connection, asked: View, _: Theme, now: datetime) -> Any:
    """The page of all rules."""
    rules = readings.rules(connection)
    failing = [it for it in rules if it.failing_since is not None]
    return alert_parts.page(
        connection, asked, "/alerts/rules", "Rules of alerts", SAID, now,
        *([panel("Failing", _failing(failing, now), wide=True)] if failing else []),
        panel(
            "Rules", _table(rules, now), wide=True,
            note="for: how long a condition must hold before it fires; missed: evaluations that were due and left out;"
            " alerts: those that are silenced or explained too",
        ),
    )  # fmt: skip


def render_one(connection: Connection, asked: View, _: Theme, now: datetime, name: str) -> Any:
    """The page of one rule."""
    rule = readings.rule(connection, name[:200])
    if rule is None:
        return components.message(
            "No such rule",
            html.P(["There is no rule ", html.Code(name[:96]), " in force."]),
            dcc.Link("Rules", href="/alerts/rules", className="button"),
        )
    return alert_parts.page(
        connection, asked, "/alerts/rules", rule.name, rule.about, now,
        html.Div(
            facts(
                [
                    ("Severity", severity_badge(rule.severity)),
                    ("State", _state(rule)),
                    ("Holds for", quantities.duration(rule.for_s) if rule.for_s else "fires at once"),
                    ("Fires on for", quantities.duration(rule.keep_firing_for_s)),
                    ("Every", quantities.duration(rule.interval_s)),
                    ("Last evaluated", since(rule.evaluated, now)),
                    ("It took", _took(rule)),
                    ("Rows", quantities.count(rule.rows)),
                    ("Missed", quantities.count(rule.missed)),
                    ("Alerts", _alerts(rule)),
                    ("Comes", {"shipped": "with Gigawatch", "own": "from your configuration"}[rule.origin]),
                    ("Says", html.Code(rule.summary)),
                ]
            ),
            id="live-head", className="wide",
        ),
        *([panel("Failing", _failing([rule], now), wide=True)] if rule.failing_since else []),
        panel("Thresholds", _thresholds(rule), note="settings of rules: gigawatch alert apply", wide=True),
        panel("SQL", html.Details([html.Summary("Show"), html.Pre(rule.sql, tabIndex=0)]), wide=True),
        runbook(rule.runbook),
    )  # fmt: skip


def runbook(address: str | None) -> html.Section | None:
    """What to do, as a part of a page."""
    words = alert_parts.runbook(address)
    if words is None:
        if address is None:
            return None
        is_page = address.startswith(("https://", "http://"))
        link = html.A(address, href=address, rel="noreferrer") if is_page else html.Code(address)
        return panel("What to do", html.P(link), wide=True)
    # The page has a heading; those of the runbook are below that of its panel.
    body = words.partition("\n")[2].replace("\n## ", "\n### ")
    return panel("What to do", dcc.Markdown(body, className="runbook"), note=address, wide=True)


def _failing(rules: list[RuleNow], now: datetime) -> html.Div:
    return table(
        "Rules that cannot be evaluated",
        ["Rule", "Failing since", "Why"],
        [[_link(it), since(it.failing_since, now), html.Span(it.error, className="failure")] for it in rules],
        "",
    )


def _link(rule: RuleNow) -> dcc.Link:
    return dcc.Link(rule.name, href=f"/alerts/rules/{rule.name}")


def _state(rule: RuleNow) -> html.Span:
    if not rule.enabled:
        return badge("off")
    if rule.failing_since is not None:
        return badge("failing", "bad")
    return badge("not evaluated yet", "warn") if rule.evaluated is None else badge("evaluated", "ok")


def _took(rule: RuleNow) -> str:
    return UNKNOWN if rule.duration_ms is None else quantities.latency(rule.duration_ms / 1000)


def _alerts(rule: RuleNow) -> Any:
    if not rule.firing and not rule.pending:
        return "none"
    link = dcc.Link(f"{quantities.count(rule.firing)} firing", href=f"/alerts?rule={rule.name}")
    return [link, f", {quantities.count(rule.pending)} pending" if rule.pending else ""]


def _table(rules: list[RuleNow], now: datetime) -> html.Div:
    return table(
        "Rules of alerts",
        ["Rule", "Severity", "State", "Alerts", "For", "Every", "Evaluated", "Took", "Rows", "Missed"],
        [
            [
                [_link(it), html.Span(it.about, className="note")],
                severity_badge(it.severity),
                _state(it),
                _alerts(it),
                quantities.duration(it.for_s),
                quantities.duration(it.interval_s),
                since(it.evaluated, now),
                _took(it),
                quantities.count(it.rows),
                quantities.count(it.missed),
            ]
            for it in rules
        ],
        "No rule is in force yet: gigawatch serve brings those in force that come with it.",
        numbers=[4, 5, 7, 8, 9],
    )


def thresholds(rule: RuleNow) -> list[tuple[str, str, str, str]]:
    """Each threshold of a rule: its name, what it is, its value, and where it is another."""
    return [
        (
            name,
            it.get("about", ""),
            alert_parts.value(it.get("value"), it.get("unit")),
            "; ".join(
                f"{alert_parts.value(other['value'], it.get('unit'))} where "
                + ", ".join(f"{column} is {found}" for column, found in other["where"].items())
                for other in it.get("overrides", ())
            ),
        )
        for name, it in rule.thresholds.items()
    ]


def _thresholds(rule: RuleNow) -> html.Div:
    return table(
        "Numbers that it compares with",
        ["Name", "What", "Value", "Elsewhere"],
        [[html.Code(name), about, value, other or UNKNOWN] for name, about, value, other in thresholds(rule)],
        "It compares with no number that could be set.",
    )
