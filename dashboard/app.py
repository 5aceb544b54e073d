"""The app: its shell, the way from an address to a page, and what happens when the store is away."""

import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dash
import flask
import sqlalchemy
from dash import ClientsideFunction, Input, Output, State, ctx, dcc, html
from msgspec import Struct

from dashboard import components, quantities, theme, view
from dashboard.access import Access, add_headers
from dashboard.pages import fleet, gpu, node, nodes
from dashboard.view import RANGES, View
from gigawatch import database, readings, settings
from gigawatch.errors import GigawatchError
from gigawatch.settings import Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

log = logging.getLogger(__name__)
STALE_S = 60


class Page(Struct, frozen=True):
    """A page, by the addresses that lead to it."""

    title: str
    pattern: str
    """Of the path; its group, if any, is the name of the thing to show."""
    render: Callable[..., Any]
    link: str | None = None
    """Where the navigation leads; None: the page is not in it."""


PAGES = (
    Page("Fleet", r"/", fleet.render, "/"),
    Page("Nodes", r"/nodes", nodes.render, "/nodes"),
    Page("Node", r"/nodes/([^/]+)", node.render),
    Page("GPU", r"/gpus/([^/]+)", gpu.render),
)


def create() -> flask.Flask:
    """The server, as a process of granian imports it: settings come from the environment."""
    return build(settings.load())


def build(loaded: Settings) -> flask.Flask:
    """The server.

    Raises:
        GigawatchError: store.database_url is not set.
    """
    url = loaded.store.database_url
    if url is None:
        raise GigawatchError("store.database_url is not set", "`gigawatch dashboard` sets it.")
    reader = database.engine(
        url,
        pool_size=loaded.store.pool_size,
        statement_timeout_s=loaded.store.statement_timeout_s,
        role=database.REPORT_ROLE,
        application="gigawatch dashboard",
    )
    server = flask.Flask("dashboard")
    Access(
        server,
        database.engine(url, pool_size=2, application="gigawatch dashboard, tokens"),
        open_access=loaded.dashboard.open_access,
    )
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
    hashes: list[str] = []

    def script_hashes() -> list[str]:
        # They are known once the callbacks are there, and the same ever after.
        if not hashes:
            hashes.extend(app.csp_hashes())
        return hashes

    add_headers(server, script_hashes)
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


def _shell(loaded: Settings) -> html.Div:
    return html.Div(
        [
            html.A("Skip to content", href="#page", className="skip"),
            dcc.Location(id="url"),
            dcc.Store(id="theme"),
            dcc.Interval(id="tick", interval=loaded.dashboard.refresh_s * MILLISECONDS_PER_SECOND),
            html.Header(
                [
                    dcc.Link([html.Span(className="mark"), "Gigawatch"], href="/", className="brand"),
                    html.Nav(id="navigation", **{"aria-label": "Pages"}),
                    html.Div(id="live", role="status"),
                    html.Button("Pause", id="pause", **{"aria-pressed": "false"}),
                    html.Button("Theme", id="toggle-theme", title="Switch between light and dark"),
                ],
                className="top",
            ),
            html.Div(id="filters", className="filters", role="search", **{"aria-label": "Filters"}),
            html.Div(id="banners", **{"aria-live": "polite"}),
            html.Main(_loading(), id="page", tabIndex=-1),
        ],
        className="shell",
    )


def _loading() -> html.Div:
    return html.Div(
        [html.Div(className="skeleton card") for _ in range(6)] + [html.Div(className="skeleton chart wide")],
        className="grid",
        **{"aria-busy": "true", "aria-label": "Loading"},
    )


def _add_callbacks(app: dash.Dash, reader: sqlalchemy.Engine) -> None:
    app.clientside_callback(
        ClientsideFunction("gigawatch", "theme"), Output("theme", "data"), Input("toggle-theme", "n_clicks")
    )
    app.clientside_callback(
        ClientsideFunction("gigawatch", "pause"),
        Output("tick", "disabled"), Output("pause", "children"), Output("pause", "aria-pressed"),
        Input("pause", "n_clicks"),
    )  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("gigawatch", "go"),
        Output("url", "href"), Input("fleet-heat", "clickData"), prevent_initial_call=True,
    )  # fmt: skip

    @app.callback(  # type: ignore[untyped-decorator] # Dash has no types for it
        Output("filters", "children"), Output("navigation", "children"),
        Input("url", "pathname"), Input("url", "search"),
    )  # fmt: skip
    def bar(path: str | None, search: str | None) -> Any:
        asked, _ = view.parse(search)
        try:
            with reader.connect() as connection:
                choices = readings.choices(connection)
        except sqlalchemy.exc.DBAPIError:
            choices = readings.Choices(sites=[], racks=[], gpu_models=[])
        return _filters(path or "/", asked, choices), _navigation(path or "/", asked)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("url", "search"),
        Input("site", "value"), Input("rack", "value"), Input("model", "value"),
        State("url", "search"), prevent_initial_call=True,
    )  # fmt: skip
    def choose(site: str | None, rack: str | None, model: str | None, search: str | None) -> Any:
        asked, _ = view.parse(search)
        if (site, rack, model) == (asked.site, asked.rack, asked.model):
            return dash.no_update
        return view.query(asked, site=site, rack=rack, model=model)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("page", "children"), Output("banners", "children"), Output("live", "children"),
        Input("url", "pathname"), Input("url", "search"), Input("theme", "data"), Input("tick", "n_intervals"),
    )  # fmt: skip
    def page(path: str | None, search: str | None, theme_name: str | None, _: int | None) -> Any:
        if theme_name is None:
            return dash.no_update, dash.no_update, dash.no_update
        asked, notices = view.parse(search)
        now = datetime.now(UTC)
        try:
            with reader.connect() as connection:
                content = _render(connection, path or "/", asked, theme.named(theme_name), now)
                summary = readings.fleet_summary(connection)
        except sqlalchemy.exc.DBAPIError as error:
            log.warning("%s: %s", path, str(error.orig).partition("\n")[0])
            return _failed(error, kept=ctx.triggered_id == "tick", now=now)
        return content, _banners(summary, notices), _live(summary, now)


def _render(connection: sqlalchemy.Connection, path: str, asked: View, chosen: theme.Theme, now: datetime) -> Any:
    for page in PAGES:
        found = re.fullmatch(page.pattern, path.rstrip("/") or "/")
        if found:
            return page.render(connection, asked, chosen, now, *found.groups())
    return components.message(
        "No such page",
        html.P(["There is nothing at ", html.Code(path[:96]), "."]),
        dcc.Link("Back to the fleet", href="/", className="button"),
    )


def _failed(error: sqlalchemy.exc.DBAPIError, *, kept: bool, now: datetime) -> Any:
    """What to say where the store is away: the last figures stay where there are some, and look it."""
    slow = getattr(error.orig, "sqlstate", None) == "57014"
    words = (
        "The store took too long for this page. Choose a shorter period or a filter."
        if slow
        else "The database cannot be reached. Is it running? This page comes back by itself."
    )
    banner = html.Div(
        [html.Strong("Not live. "), words, f" Tried at {quantities.clock(now)} UTC."]
        + ([" Figures below are the last that were read."] if kept else []),
        className="banner bad",
        role="alert",
    )
    content = dash.no_update if kept else components.message("No figures", html.P(words), tone="bad")
    return content, banner, components.badge("not live", "bad")


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
    return components.badge(
        f"{'live' if age_s < STALE_S else 'stale'} · {quantities.duration(age_s)} old",
        "ok" if age_s < STALE_S else "warn",
    )


def _navigation(path: str, asked: View) -> list[Any]:
    query = view.query(asked)
    return [
        dcc.Link(page.title, href=f"{page.link}{query}", className="chosen" if path == page.link else "")
        for page in PAGES
        if page.link is not None
    ]


def _filters(path: str, asked: View, choices: readings.Choices) -> list[Any]:
    def dropdown(identity: str, label: str, options: list[str], value: str | None) -> html.Label:
        known = options if value is None or value in options else [*options, value]
        return html.Label(
            [
                html.Span(label, className="screen-reader"),
                dcc.Dropdown(id=identity, options=known, value=value, placeholder=f"All {label}s", clearable=True),
            ],
            className="filter",
        )

    ranges = html.Nav(
        [
            dcc.Link(
                label,
                href=path + (view.query(asked, range=key, start=None, stop=None) or "?"),
                className="chosen" if key == asked.range and not asked.custom else "",
            )
            for key, (label, _) in RANGES.items()
        ]
        + (
            [html.Span(f"{asked.start:%Y-%m-%d %H:%M} – {asked.stop:%Y-%m-%d %H:%M}", className="chosen")]
            if asked.custom
            else []
        ),
        className="choice",
        **{"aria-label": "Period"},
    )
    return [
        dropdown("site", "site", choices.sites, asked.site),
        dropdown("rack", "rack", choices.racks, asked.rack),
        dropdown("model", "GPU model", choices.gpu_models, asked.model),
        ranges,
    ]
