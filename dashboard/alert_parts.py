"""What the pages of alerts share: their tabs, what is said of the whole, words for values, buttons that act."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import flask
from dash import dcc, html
from sqlalchemy import Connection

from dashboard import components, quantities, recent, view
from dashboard.access import ACTING, Access
from dashboard.components import badge
from dashboard.quantities import UNKNOWN
from dashboard.view import View
from gigawatch.alerts import readings
from gigawatch.alerts.notification import Severity, with_unit
from gigawatch.alerts.readings import Alert, Counts, Overview

ACCESS = "ACCESS"
"""Where the server's configuration has who may act,"""
ENABLED = "ALERTS_ENABLED"
"""and whether alerts are on, as this process's settings say."""
STALE = timedelta(minutes=3)
"""Rules are evaluated many times in it."""
TONES: Mapping[Severity, str] = {"critical": "bad", "warning": "warn", "info": ""}
MAY_NOT = "may-not"
"""The id of what says why buttons are disabled."""
TABS = (
    # Title, path, what of the overview it counts.
    ("Firing", "/alerts", "firing"),
    ("Pending", "/alerts/pending", "pending"),
    ("Silenced", "/alerts/silenced", "silenced"),
    ("History", "/alerts/history", None),
    ("Rules", "/alerts/rules", "rules"),
    ("Silences", "/alerts/silences", "silences"),
    ("Targets", "/alerts/targets", "targets"),
)


def page(connection: Connection, asked: View, path: str, title: str, said: str, now: datetime, *parts: Any) -> html.Div:
    """A page of alerts: its title, the way to the others, what is amiss with alerts as a whole, and its parts."""
    overview = recent.read(readings.overview, connection)
    enabled = flask.current_app.config[ENABLED]
    counts = ((text, to, None if of is None else getattr(overview, of)) for text, to, of in TABS)
    query = view.query(View(site=asked.site, rule=asked.rule, severity=asked.severity))
    return html.Div(
        [
            html.Div([html.H1(title), html.P(said, className="boundary")], className="title wide"),
            html.Nav(
                [
                    components.choice_link(
                        [text, *([] if number is None else [" ", html.B(quantities.count(number))])],
                        # The lists of alerts keep the filters; the others have none.
                        to + (query if to in _LISTS else ""),
                        chosen=to == path,
                    )
                    for text, to, number in counts
                ],
                id="live-tabs", className="choice wide", **{"aria-label": "Parts of alerts"},
            ),
            html.Div(
                [html.Div(words, className=f"banner {tone}") for tone, words in amiss(overview, now, enabled=enabled)],
                id="live-amiss", className="wide amiss",
            ),
            may_not(),
            *parts,
        ],
        className="grid",
    )  # fmt: skip


_LISTS = frozenset({"/alerts", "/alerts/pending", "/alerts/silenced", "/alerts/history"})


def amiss(overview: Overview, now: datetime, *, enabled: bool) -> list[tuple[str, list[Any]]]:
    """Why alerts may not be what they seem: tone and words, with the verb that helps."""
    found: list[tuple[str, list[Any]]] = []
    code = html.Code
    if not enabled:
        found.append(("warn", ["Alerts are off: no rule is evaluated. Set ", code("alerts.enabled = true"), "."]))
    elif overview.evaluated is None:
        found.append(
            ("warn", ["No rule was evaluated yet. ", code("gigawatch serve"), " does it, with ",
                      code("server.scheduler = true"), "."])
        )  # fmt: skip
    elif now - overview.evaluated > STALE:
        late = quantities.duration((now - overview.evaluated).total_seconds())
        found.append(
            ("bad", [f"No rule was evaluated for {late}: what is shown here is as old. Does ",
                     code("gigawatch serve"), " run? ", dcc.Link("Store", href="/store"), " shows its jobs."])
        )  # fmt: skip
    if overview.failing:
        link = dcc.Link(counted(overview.failing, "rule"), href="/alerts/rules")
        found.append(("bad", [link, " cannot be evaluated, and fires nothing meanwhile."]))
    if not overview.routed_targets:
        lacks = "no route leads to a target" if overview.targets else "no target is configured"
        found.append(
            ("warn", [f"Nobody is told of alerts: {lacks}. Write a file with targets and a route, and ",
                      code("gigawatch alert apply FILE"), "."])
        )  # fmt: skip
    silent = [f"{counted(overview.open_targets, 'target')} cannot be reached"] if overview.open_targets else []
    silent += [f"{counted(overview.waiting, 'notification')} waiting for over a minute"] if overview.waiting else []
    silent += [f"{counted(overview.dead, 'notification')} given up"] if overview.dead else []
    if silent:
        found.append(("warn", [f"Not all is told: {', '.join(silent)}. ", dcc.Link("Targets", href="/alerts/targets")]))
    return found


def counted(number: int, noun: str) -> str:
    """So many of something, in words."""
    return f"{quantities.count(number)} {noun}{'' if number == 1 else 's'}"


def evaluated(overview: Overview, now: datetime) -> str:
    """When rules were last evaluated, in words."""
    if overview.evaluated is None:
        return "No rule was evaluated yet."
    ago = quantities.duration((now - overview.evaluated).total_seconds())
    return f"{counted(overview.rules, 'rule')} in force, last evaluated {ago} ago."


def severity_badge(severity: Severity) -> html.Span:
    """How bad it is, in a word."""
    return badge(severity, TONES[severity])


def count_badge(counts: Counts) -> list[Any]:
    """How many alerts fire, for the navigation; nothing where none does."""
    if counts.worst is None:
        return []
    return [
        html.Span(
            [
                html.Span(quantities.count(counts.all), **{"aria-hidden": "true"}),
                html.Span(f", {said(counts)}", className="screen-reader"),
            ],
            className=f"count {TONES[counts.worst]}",
            title=said(counts),
            **{"data-alerts": str(counts.all)},
        )
    ]


def said(counts: Counts) -> str:
    """How many alerts fire, in words."""
    if counts.worst is None:
        return "no alert fires"
    parts = [
        f"{quantities.count(getattr(counts, it))} {it}" for it in ("critical", "warning", "info") if getattr(counts, it)
    ]
    return f"{counted(counts.all, 'alert')} fire{'s' if counts.all == 1 else ''}: {', '.join(parts)}"


def alert_link(alert_id: int, text: Any) -> dcc.Link:
    """To an alert's page."""
    return dcc.Link(text, href=f"/alerts/{alert_id}")


def labels(found: Mapping[str, str]) -> html.Span:
    """Which thing it is about."""
    return html.Span(" · ".join(f"{name} {value}" for name, value in in_order(found)), className="labels")


def in_order(found: Mapping[str, str]) -> list[tuple[str, str]]:
    """Labels from the whole to the part, as the store does not keep them; those of rules of one's own last."""
    return sorted(found.items(), key=lambda it: (_LABELS.index(it[0]) if it[0] in _LABELS else len(_LABELS), it[0]))


_LABELS = ("site", "hall", "rack", "hostname", "gpu_uuid", "meter", "feed", "deployment", "model", "gpu_model")


def since(time: datetime | None, now: datetime) -> Any:
    """A time, and how long ago it was."""
    if time is None:
        return UNKNOWN
    return html.Time(
        f"{quantities.duration((now - time).total_seconds())} ago",
        dateTime=time.isoformat(), title=f"{quantities.moment(time)} UTC",
    )  # fmt: skip


def value(number: float | None, unit: str | None) -> str:
    """A rule's value, or one of its thresholds, with its unit."""
    if number is None:
        return UNKNOWN
    if unit == "W":
        return quantities.power(number)
    if unit == "s":
        return quantities.duration(number)
    if unit == "°C":
        return quantities.with_unit(round(number, 1), unit)
    plain = f"{number:,.0f}".replace(",", "\u202f") if abs(number) >= 1_000 else f"{number:.4g}"
    return with_unit(plain, unit, quantities.SPACE)


_UNITS = {"w": "W", "c": "°C", "s": "s", "k": "K", "j": "J", "a": "A", "pct": "%", "min": "min", "h": "h"}


def detail(name: str, found: Any) -> tuple[str, str]:
    """What explains an alert, as a term and its value: the unit is the last part of the name."""
    words, _, last = name.rpartition("_")
    unit = _UNITS.get(last) if words else None
    term = (words if unit else name).replace("_", " ")
    if isinstance(found, bool):
        return term, "yes" if found else "no"
    if isinstance(found, (int, float)):
        return term, value(found, unit)
    try:
        return term, f"{quantities.moment(datetime.fromisoformat(found).astimezone(UTC))} UTC"
    except (TypeError, ValueError):
        return term, UNKNOWN if found is None else str(found)


def state(alert: Alert) -> list[Any]:
    """What keeps it quiet, and who took it on, as badges; nothing where it is simply so."""
    return [
        *([badge("no data now", "warn"), " "] if alert.unknown_since and alert.state != "resolved" else []),
        *([badge(f"acknowledged by {alert.acknowledged_by}", "ok"), " "] if alert.acknowledged else []),
        *([badge(f"silence {alert.silenced_by}"), " "] if alert.silenced_by and alert.state != "resolved" else []),
        components.simulated_badge(alert.simulated),
    ]


def button(act: str, of: object, text: str, label: str | None = None, *, kind: str = "button") -> html.Button:
    """A button that has something done (dashboard.acting); disabled for who may not.

    Args:
        act: what to do.
        of: to what.
        text: what it says.
        label: what it says to who does not see beside what it stands.
        kind: submit, where it sends a form that says what to do.
    """
    able = may_act()
    named = {"data-act": act, "data-of": str(of)} if kind == "button" else {}
    return html.Button(
        text if label is None else [text, html.Span(f" {label}", className="screen-reader")],
        type=kind, disabled=not able, **named, **({} if able else {"aria-describedby": MAY_NOT}),
    )  # fmt: skip


def may_act() -> bool:
    """Whether who looks may act."""
    access: Access = flask.current_app.config[ACCESS]
    holder = access.holder()
    return holder is not None and holder.role in ACTING


def may_not() -> html.P | None:
    """Why buttons are disabled, where they are."""
    if may_act():
        return None
    return html.P(
        ["Your token may look and not act: its buttons are disabled. To silence and acknowledge, log in with one of ",
         html.Code("gigawatch token create --role operator NAME"), "."],
        id=MAY_NOT, className="boundary",
    )  # fmt: skip


def runbook(address: str | None) -> str | None:
    """The text of a runbook that is shipped; None: there is none, or it is elsewhere."""
    name = Path(address or "").name
    if not re.fullmatch(r"docs/runbooks/[a-z0-9_]+\.md", address or ""):
        return None
    # As installed, and as it lies in the repository.
    shipped = resources.files("gigawatch.alerts") / "runbooks"
    for folder in (shipped, Path(__file__).parents[1] / "docs/runbooks"):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    return None


def places(alert: Alert) -> list[tuple[str, str]]:
    """Where else the dashboard shows what an alert is about: words and addresses."""
    its = alert.labels
    found = []
    if "gpu_uuid" in its:
        found.append(("GPU", f"/gpus/{quote(its['gpu_uuid'], safe='')}"))
    if "hostname" in its:
        found.append(("Node", f"/nodes?{urlencode({'find': its['hostname'][: view.LONGEST_FIND]})}"))
    if "meter" in its:
        chosen = {"site": its.get("site", ""), "find": its["meter"][: view.LONGEST_FIND]}
        found.append(("Meter", f"/facility?{urlencode(chosen)}#meters"))
    if "deployment" in its:
        found.append(("Deployment", f"/tokens?{urlencode({'deployment': its['deployment']})}"))
    if "rack" in its:
        found.append(("Rack", f"/nodes?{urlencode([(it, its[it]) for it in ('site', 'rack') if it in its])}"))
    if "site" in its:
        found.append(("Site", f"/facility?{urlencode({'site': its['site']})}"))
    return found
