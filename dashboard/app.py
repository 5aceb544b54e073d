"""The app: its shell, the way from an address to a page, and what happens when the store is away."""

import gc
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import dash
import flask
import msgspec
import sqlalchemy
from dash import ClientsideFunction, Input, Output, State, dcc, html
from msgspec import Struct

from dashboard import acting, ahead, alert_parts, components, live, quantities, recent, theme, view
from dashboard.access import Access, add_headers
from dashboard.compress import add_compression
from dashboard.live import Digests
from dashboard.pages import (
    alert,
    alert_rules,
    alert_silences,
    alert_targets,
    alerts,
    facility,
    fleet,
    gpu,
    node,
    nodes,
    store,
    swings,
    tokens,
)
from dashboard.view import RANGES, Range, View
from gigawatch import database, facility_readings, readings, settings, token_readings
from gigawatch.alerts import readings as alert_readings
from gigawatch.alerts.notification import SEVERITIES
from gigawatch.alerts.readings import Counts
from gigawatch.known import Unknown, require_known
from gigawatch.serving import handed_down
from gigawatch.settings import Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

log = logging.getLogger(__name__)
STALE_S = 60
PLURALS = {"severity": "severities"}
NAMED = {"site": "site", "rack": "rack", "model": "gpu_model", "deployment": "deployment"}
"""Filters that name what must be there, as require_known() calls it."""
READER = "READER"
"""The engine that pages read with, in Flask's configuration."""


class Page(Struct, frozen=True):
    """A page, by the addresses that lead to it."""

    title: str
    pattern: str
    """Of the path; its group, if any, is the name of the thing to show."""
    render: Callable[..., Any]
    link: str | None = None
    """Where the navigation leads; None: the page is not in it."""
    icon: str = ""
    """Its class in gigawatch.css."""
    filtered: bool = True
    """Whether a period, and in the navigation its filters, choose what it shows."""
    filters: tuple[str, ...] = ("site", "rack", "model")
    timed: bool = True
    """Whether a period does."""
    ranges: tuple[Range, ...] = view.LIVE
    """Periods that end now, to choose from."""
    usual: Range = "1h"
    """The one that it shows where the address names none of them."""


# A new page is an entry here.
PAGES = (
    Page("Fleet", r"/", fleet.render, "/", "fleet"),
    Page("Nodes", r"/nodes", nodes.render, "/nodes", "nodes"),
    Page("Energy per token", r"/tokens", tokens.render, "/tokens", "tokens", filters=("site", "model", "deployment")),
    Page(
        "PUE & facility", r"/facility", facility.render, "/facility", "facility", filters=("site",),
        ranges=view.HOURLY, usual=view.USUAL_HOURLY,
    ),
    Page("Load swings", r"/swings", swings.render, "/swings", "swings"),
    Page(
        "Alerts", r"/alerts(?:/(pending|silenced))?", alerts.render, "/alerts", "alerts",
        filters=("site", "rule", "severity"), timed=False,
    ),
    Page("Store", r"/store", store.render, "/store", "store", filtered=False),
    # The page of one node or GPU has nothing to filter.
    Page("Node", r"/nodes/([^/]+)", node.render, filters=()),
    Page("GPU", r"/gpus/([^/]+)", gpu.render, filters=()),
    Page(
        "Alerts that have ended", r"/alerts/history", alerts.render_history, filters=("site", "rule", "severity"),
        ranges=view.HOURLY, usual=view.USUAL_HOURLY,
    ),
    Page("Rules of alerts", r"/alerts/rules", alert_rules.render, filtered=False),
    Page("Rule", r"/alerts/rules/([^/]+)", alert_rules.render_one, filtered=False),
    Page("Silences", r"/alerts/silences", alert_silences.render, filtered=False),
    Page("Targets of alerts", r"/alerts/targets", alert_targets.render, filtered=False),
    Page("Alert", r"/alerts/(\d{1,30})", alert.render, filtered=False),
)  # fmt: skip


def create() -> flask.Flask:
    """The server, as a process of granian imports it: settings come from the environment."""
    server = build(settings.load())
    ahead.start(
        server.config[READER],
        token_readings.tokens_until,
        lambda connection, asked, until: tokens.render_until(connection, asked, theme.LIGHT, datetime.now(UTC), until),
    )
    ahead.start(
        server.config[READER],
        facility_readings.facility_until,
        lambda connection, asked, until: facility.render_until(
            connection, asked, theme.LIGHT, datetime.now(UTC), until
        ),
        always=[View(), *(View(range=it) for it in view.HOURLY)],
        again_s=recent.HOURLY_KEPT_S / 2,
    )
    # Dash's components are many, and stay: looking through them for garbage would take a tenth of a second of a page.
    gc.collect()
    gc.freeze()
    return server


def build(loaded: Settings) -> flask.Flask:
    """The server.

    Raises:
        GigawatchError: store.database_url is not set.
    """
    url = handed_down(loaded.store)
    reader = database.engine(
        url,
        pool_size=loaded.store.pool_size,
        statement_timeout_s=loaded.store.statement_timeout_s,
        role=database.REPORT_ROLE,
        application="gigawatch dashboard",
    )
    server = flask.Flask("dashboard")
    server.config[store.RETENTION] = loaded.retention
    server.config[READER] = reader
    access = Access(
        server,
        database.engine(url, pool_size=2, application="gigawatch dashboard, tokens and actions"),
        open_access=loaded.dashboard.open_access,
        data_dir=Path(loaded.store.data_dir),
    )
    server.config[alert_parts.ACCESS] = access
    server.config[alert_parts.ENABLED] = loaded.alerts.enabled
    server.add_url_rule("/theme.css", "theme", lambda: flask.Response(theme.style_sheet(), mimetype="text/css"))
    app = dash.Dash(
        "dashboard",
        server=server,
        title="Gigawatch",
        update_title="",
        serve_locally=True,
        suppress_callback_exceptions=True,
        index_string=_INDEX,
    )
    app.layout = _shell(loaded)
    _add_callbacks(app, reader)
    _add_actions(app, reader, access)
    hashes: list[str] = []

    def script_hashes() -> list[str]:
        # They are known once the callbacks are there, and the same ever after.
        if not hashes:
            hashes.extend(app.csp_hashes())
        return hashes

    add_headers(server, script_hashes)
    add_compression(server)
    return server


_INDEX = """<!DOCTYPE html>
<html lang="en">
    <head>
        {%metas%}
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>{%title%}</title>
        <link rel="icon" href="data:,">
        <script src="/assets/theme.js"></script>
        <link rel="stylesheet" href="/theme.css">
        {%css%}
    </head>
    <body>
        {%app_entry%}
        <footer class="dash-scripts">{%config%}{%scripts%}{%renderer%}</footer>
    </body>
</html>"""


_OFFLINE = (
    "The dashboard's server does not answer. This page comes back by itself; figures below are the last that were read."
)


def _shell(loaded: Settings) -> html.Div:
    leave = html.Form(
        html.Button([html.Span(className="icon leave"), "Log out"], type="submit"), action="/logout", method="post"
    )
    return html.Div(
        [
            html.A("Skip to content", href="#page", className="skip"),
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Store(id="theme"),
            # Address and digests of the live parts of the page that the browser shows.
            dcc.Store(id="held"),
            # What somebody wants done, as theme.js says it, and what came of it.
            dcc.Store(id="wanted"),
            dcc.Store(id="done"),
            dcc.Interval(id="tick", interval=loaded.dashboard.refresh_s * MILLISECONDS_PER_SECOND),
            html.Header(
                [
                    dcc.Link([html.Span(className="mark"), "Gigawatch"], href="/", className="brand"),
                    html.Nav(id="navigation", **{"aria-label": "Pages"}),
                    html.Span(id="alerts-said", className="screen-reader", role="status"),
                    html.Div(
                        [
                            html.Button([html.Span(className="icon theme"), "Theme"], id="toggle-theme",
                                        title="Switch between light and dark"),
                            None if loaded.dashboard.open_access else leave,
                        ],
                        className="foot",
                    ),
                ],
                className="rail",
            ),
            html.Div(
                [
                    html.Div(
                        [
                            html.Div(id="filters", className="filters", role="search", **{"aria-label": "Filters"}),
                            html.Div(
                                [
                                    html.Div(id="live"),
                                    html.Button("Pause", id="pause", title="Stop and resume the refreshing",
                                                **{"aria-pressed": "false"}),
                                ],
                                className="live",
                            ),
                        ],
                        className="top",
                    ),
                    html.Div(
                        [html.Strong("Not live. "), _OFFLINE],
                        id="offline", className="banner lost", role="alert",
                    ),
                    html.Div(id="banners", **{"aria-live": "polite"}),
                    html.Main(_loading(), id="page", tabIndex=-1),
                ],
                className="body",
            ),
        ],
        className="shell",
    )  # fmt: skip


def _loading() -> html.Div:
    return html.Div(
        [
            html.Div([html.Div(className="skeleton") for _ in range(6)], className="cards"),
            html.Div(className="skeleton chart wide"),
            html.Div(className="skeleton chart"),
            html.Div(className="skeleton chart"),
        ],
        className="grid skeletons",
        **{"aria-busy": "true", "aria-label": "Loading"},
    )


def _add_callbacks(app: dash.Dash, reader: sqlalchemy.Engine) -> None:
    app.clientside_callback(
        ClientsideFunction("gigawatch", "theme"), Output("theme", "data"), Input("toggle-theme", "n_clicks")
    )
    app.clientside_callback(
        ClientsideFunction("gigawatch", "pause"),
        Output("tick", "max_intervals"), Output("pause", "children"), Output("pause", "aria-pressed"),
        Input("pause", "n_clicks"),
    )  # fmt: skip
    for figure in ("fleet-heat", "tokens-trade-off"):
        app.clientside_callback(
            ClientsideFunction("gigawatch", "go"),
            Output("url", "href", allow_duplicate=True), Input(figure, "clickData"), prevent_initial_call=True,
        )  # fmt: skip

    @app.callback(  # type: ignore[untyped-decorator] # Dash has no types for it
        Output("filters", "children"), Output("navigation", "children"),
        Input("url", "pathname"), Input("url", "search"),
    )  # fmt: skip
    def bar(path: str | None, search: str | None) -> Any:
        asked, _ = view.parse(search)
        try:
            with reader.connect() as connection:
                choices = recent.read(readings.choices, connection)
                racks = recent.read(readings.racks, connection, asked.site)
                deployments = recent.read(token_readings.deployment_names, connection)
                rules = recent.read(alert_readings.rule_names, connection)
                counts = recent.read(alert_readings.counts, connection)
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError):
            choices, racks, deployments = readings.Choices(sites=[], gpu_models=[]), [], []
            rules, counts = [], Counts(critical=0, warning=0, info=0)
        bar = _filters(path or "/", asked, choices, racks, deployments, rules)
        return bar, _navigation(path or "/", asked, counts)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("rack", "options"),
        Input("rack", "search_value"), State("rack", "value"), State("url", "search"), prevent_initial_call=True,
    )  # fmt: skip
    def find_racks(typed: str | None, chosen: str | None, search: str | None) -> Any:
        # A site has more racks than a list should: those that contain what is typed come from the store.
        asked, _ = view.parse(search)
        try:
            with reader.connect() as connection:
                found = recent.read(readings.racks, connection, asked.site, (typed or "")[: view.LONGEST_FIND])
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError):
            return dash.no_update
        return found if chosen is None or chosen in found else [*found, chosen]

    for name in ("site", "rack", "model", "deployment", "against", "rule", "severity"):
        _choose(app, name)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("url", "search", allow_duplicate=True),
        Input("find", "value"), State("url", "search"), prevent_initial_call=True,
    )  # fmt: skip
    def find(typed: str | None, search: str | None) -> Any:
        asked, _ = view.parse(search)
        wanted = (typed or "").strip()
        return dash.no_update if wanted == asked.find else view.query(asked, find=wanted, page=1)

    for form, prefix in (("period", ""), ("against", "against_")):
        _choose_period(app, form, prefix)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("page", "children"), Output("banners", "children"), Output("live", "children"), Output("held", "data"),
        Output("navigation", "children", allow_duplicate=True), Output("alerts-said", "children"),
        Input("url", "pathname"), Input("url", "search"), Input("theme", "data"), Input("tick", "n_intervals"),
        Input("done", "data"), State("held", "data"),
        # While one refresh is under way the next would make the browser drop its answer.
        running=[(Output("tick", "disabled"), True, False)],
        prevent_initial_call="initial_duplicate",
    )  # fmt: skip
    def page(
        path: str | None,
        search: str | None,
        theme_name: str | None,
        _: int | None,
        done: dict[str, Any] | None,
        held: Digests | None,
    ) -> Any:
        if theme_name is None:
            return (dash.no_update,) * 6
        asked, notices = view.parse(search)
        now = datetime.now(UTC)
        address = f"{path}{search}"
        held = held if held and held[live.ADDRESS] == address else None
        try:
            with reader.connect() as connection:
                content = _render(connection, path or "/", asked, theme.named(theme_name), now)
                summary = recent.read(readings.fleet_summary, connection, readings.EVERYTHING)
                counts = recent.read(alert_readings.counts, connection)
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError) as error:
            log.warning("%s: %s", path, str(getattr(error, "orig", error)).partition("\n")[0])
            return *_failed(error, kept=held is not None, now=now), dash.no_update, dash.no_update
        found = live.parts(content)
        digests = {**live.digests(found), live.ADDRESS: address, live.ALERTS: alert_parts.said(counts)}
        told = (_navigation(path or "/", asked, counts), alert_parts.said(counts))
        if held and held[live.ALERTS] == digests[live.ALERTS]:
            told = (dash.no_update, dash.no_update)
        if held and live.update(found, digests, held):
            content = dash.no_update
        said = [*_done(done, path, now), *_banners(summary, notices)]
        return content, said, _live(summary, now), digests, *told


def _add_actions(app: dash.Dash, reader: sqlalchemy.Engine, access: Access) -> None:
    """What people do to alerts, and what a silence would do before it is there."""
    acts = acting.Actions(access, reader)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("done", "data"),
        Input("wanted", "data"), State("url", "search"), State("url", "pathname"), prevent_initial_call=True,
    )  # fmt: skip
    def act(wanted: Any, search: str | None, path: str | None) -> Any:
        if not isinstance(wanted, dict):
            return dash.no_update
        return msgspec.to_builtins(acts.do(wanted, view.parse(search)[0], path or "/"))

    @app.callback(  # type: ignore[untyped-decorator]
        Output("silence-preview", "children"), Input("silence-matchers", "value")
    )
    def preview(typed: str | None) -> Any:
        try:
            with reader.connect() as connection:
                return alert_silences.preview(connection, typed)
        except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError):
            return dash.no_update


def _done(done: dict[str, Any] | None, path: str | None, now: datetime) -> list[html.Div]:
    """What came of what somebody did on this page a moment ago."""
    told = None if done is None else msgspec.convert(done, acting.Done)
    if told is None or told.path != path or told.until < now:
        return []
    return [html.Div(told.words, className=f"banner {'done' if told.good else 'bad'}")]


def _choose(app: dash.Dash, name: str) -> None:
    """Have a dropdown choose what the address says under its name."""

    @app.callback(  # type: ignore[untyped-decorator]
        Output("url", "search", allow_duplicate=True),
        Input(name, "value"), State("url", "search"), prevent_initial_call=True,
    )  # fmt: skip
    def choose(chosen: str | None, search: str | None) -> Any:
        asked, _ = view.parse(search)
        return dash.no_update if chosen == getattr(asked, name) else view.query(asked, **{name: chosen, "page": 1})


def _choose_period(app: dash.Dash, form: str, prefix: str) -> None:
    """Have a form choose a period, which the address says under from and to with a prefix."""

    @app.callback(  # type: ignore[untyped-decorator]
        Output("url", "search", allow_duplicate=True),
        Input(f"{form}-apply", "n_clicks"), Input(f"{form}-from", "n_submit"), Input(f"{form}-to", "n_submit"),
        State(f"{form}-from", "value"), State(f"{form}-to", "value"), State("url", "search"),
        prevent_initial_call=True,
    )  # fmt: skip
    def choose_period(
        clicks: int | None, first: int | None, last: int | None, start: str | None, stop: str | None, search: str | None
    ) -> Any:
        if not (clicks or first or last):
            return dash.no_update
        asked, _ = view.parse(search)
        # What is no time goes to the address as it is: the page says what is wrong with it.
        rest = view.query(asked, **{f"{prefix}start": None, f"{prefix}stop": None}).removeprefix("?")
        return "?" + "&".join(
            filter(None, [rest, urlencode({f"{prefix}from": start or "", f"{prefix}to": stop or ""})])
        )


def _fitting(page: Page, asked: View) -> View:
    """What is asked for; without a period that the page does not have, so that it shows its usual one."""
    return asked if asked.range in page.ranges else msgspec.structs.replace(asked, range=View().range)


def _page_at(path: str) -> Page | None:
    return next((it for it in PAGES if re.fullmatch(it.pattern, path.rstrip("/") or "/")), None)


def _render(connection: sqlalchemy.Connection, path: str, asked: View, chosen: theme.Theme, now: datetime) -> Any:
    page = _page_at(path)
    if page is not None:
        found = re.fullmatch(page.pattern, path.rstrip("/") or "/")
        assert found is not None
        try:
            require_known(connection, {name: getattr(asked, it) for it, name in NAMED.items() if it in page.filters})
        except Unknown as error:
            return components.message(
                error.problem,
                html.P(error.remedy),
                dcc.Link(
                    "Clear filters", href=path + (view.query(asked, **dict.fromkeys(NAMED)) or "?"), className="button"
                ),
            )
        return page.render(connection, _fitting(page, asked), chosen, now, *found.groups())
    return components.message(
        "No such page",
        html.P(["There is nothing at ", html.Code(path[:96]), "."]),
        dcc.Link("Back to the fleet", href="/", className="button"),
    )


_QUERY_CANCELED, _UNDEFINED = "57014", ("42P01", "42703", "42883", "3F000", "42501")


def _failed(error: Exception, *, kept: bool, now: datetime) -> Any:
    """What to say where the store is away: the last figures stay where there are some, and look it."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state == _QUERY_CANCELED:
        words = "The store took too long for this page. Choose a shorter period or a filter."
    elif state in _UNDEFINED:
        words = "The database's schema does not fit this version. Run `gigawatch migrate` once."
    else:
        words = "The database cannot be reached. Is it running? This page comes back by itself."
    banner = html.Div(
        [html.Strong("Not live. "), words, f" Tried at {quantities.clock(now)} UTC."]
        + ([" Figures below are the last that were read."] if kept else []),
        className="banner bad",
        role="alert",
    )
    content = dash.no_update if kept else components.message("No figures", html.P(words), tone="bad")
    return content, banner, components.badge("not live", "bad"), dash.no_update if kept else None


def _banners(summary: readings.FleetSummary, notices: list[str]) -> list[Any]:
    banners = []
    if summary.simulated_gpus:
        part = "All" if summary.simulated_gpus == summary.gpus else f"{summary.simulated_gpus} of {summary.gpus}"
        banners.append(
            html.Div(
                [html.Strong("Simulated data. "), f"{part} GPUs shown here are simulated or replayed, not measured."],
                className="banner simulated",
            )
        )
    if notices:
        banners.append(html.Div(["Ignored in the address: ", "; ".join(notices), "."], className="banner warn"))
    return banners


def _live(summary: readings.FleetSummary, now: datetime) -> Any:
    if summary.newest is None:
        return components.badge("no live data", "")
    age_s = (now - summary.newest).total_seconds()
    fresh = age_s < STALE_S
    # theme.js lets the age go on between refreshes.
    return html.Span(
        ["live · " if fresh else "stale · ", html.Span(f"{quantities.duration(age_s)} old", className="age")],
        className=f"badge {'ok' if fresh else 'warn'}",
        title=f"The newest window began at {quantities.clock(summary.newest)} UTC",
        **{"data-age": f"{age_s:.1f}", "data-key": summary.newest.isoformat()},
    )


def _navigation(path: str, asked: View, counts: Counts) -> list[Any]:
    return [
        components.choice_link(
            [
                html.Span(className=f"icon {page.icon}"),
                page.title,
                *(alert_parts.count_badge(counts) if page.link == "/alerts" else []),
            ],
            f"{page.link}{view.elsewhere(_fitting(page, asked))}",
            chosen=path == page.link or (page.link == "/alerts" and path.startswith("/alerts/")),
        )
        for page in PAGES
        if page.link is not None
    ]


def _filters(
    path: str, asked: View, choices: readings.Choices, racks: list[str], deployments: list[str], rules: list[str]
) -> list[Any]:
    page = _page_at(path)
    if page is not None and not page.filtered:
        return []
    offered = view.LIVE if page is None else page.ranges
    shown = asked.range if page is None or asked.range in page.ranges else page.usual
    lists: dict[str, tuple[str, list[str], str | None]] = {
        "site": ("site", choices.sites, asked.site),
        "rack": ("rack", racks, asked.rack),
        "model": ("GPU model", choices.gpu_models, asked.model),
        "deployment": ("deployment", deployments, asked.deployment),
        "rule": ("rule", rules, asked.rule),
        "severity": ("severity", [*reversed(SEVERITIES)], asked.severity),
    }
    ranges = html.Nav(
        [
            components.choice_link(
                RANGES[key][0],
                path + (view.query(asked, range=key, start=None, stop=None) or "?"),
                chosen=key == shown and not asked.custom,
            )
            for key in offered
        ],
        className="choice",
        **{"aria-label": "Period"},
    )
    shown_lists = [
        components.dropdown(name, label, options, value, f"All {PLURALS.get(label, f'{label}s')}")
        for name, (label, options, value) in lists.items()
        if page is not None and name in page.filters
    ]
    if page is not None and not page.timed:
        return shown_lists
    return [
        *shown_lists,
        html.Div([ranges, components.period_form("period", "Custom", asked.start, asked.stop)], className="period"),
    ]
