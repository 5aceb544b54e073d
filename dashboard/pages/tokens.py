"""Energy per token: how much energy a token takes, where, why, and whether the figure may be believed."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from dash import dcc, html
from msgspec import Struct
from sqlalchemy import Connection

from dashboard import ahead, components, quantities, recent, token_figures, token_rows, view
from dashboard.components import badge, card, chart, choice, panel, table
from dashboard.pages import token_comparison, token_table
from dashboard.pages.fleet import BOUNDARY
from dashboard.plots import GOOD_COVERAGE
from dashboard.theme import Theme
from dashboard.token_figures import joules
from dashboard.token_rows import Priced, Row
from dashboard.view import Period, View, Wait
from gigawatch import readings, token_readings
from gigawatch.readings import Where
from gigawatch.token_readings import Boundary, EnergyPerToken, Idle, RampUp, Serving

T = TypeVar("T")

MOST_LAG = timedelta(minutes=5)
"""Figures are known about 80 s after a minute's end; later, something does not go on."""
LATELY = timedelta(days=1)
MOST_RAMP_UPS = 50
BOUNDARIES: dict[Boundary, str] = {"gpu": "GPU", "it": "IT", "facility": "Facility"}
COVERS: dict[Boundary, str] = {
    "gpu": BOUNDARY,
    "it": "IT equipment (boundary: it): GPUs, and their share of what their nodes use beside them",
    "facility": "The whole facility (boundary: facility): energy of the IT equipment times the site's PUE",
}
UNKNOWN_AT: dict[Boundary, str] = {
    "gpu": "No GPU's energy is known in this period.",
    "it": "No node of these GPUs has a meter, and none with the same GPUs either: what nodes use beside "
    "their GPUs is not known. The agent reads meters where there are some: gigawatch doctor says what a node has.",
    "facility": "No PUE is known for these sites and this time, or not what nodes use beside their GPUs: nothing "
    "can be said of the facility. Set a PUE with gigawatch pue set, or connect the facility's meters.",
}
CONFIGURE = """[[engines]]
url = "http://127.0.0.1:8000/metrics"   # where the engine serves its metrics
deployment = "chat"                     # the same name on all nodes that serve it
gpus = [0, 1, 2, 3]                     # the GPUs that work for it"""


def render(connection: Connection, asked: View, theme: Theme, now: datetime) -> Any:
    """The page."""
    return render_until(connection, asked, theme, now, ahead.until(connection, token_readings.tokens_until, asked))


def render_until(connection: Connection, asked: View, theme: Theme, now: datetime, until: datetime) -> Any:
    """The page, where figures are known up to some moment."""
    names = recent.read(token_readings.deployment_names, connection)
    if not names:
        return _teach()
    if asked.deployment is not None and asked.deployment not in names:
        return components.message(
            "No such deployment",
            html.P(["There is no deployment ", html.Code(asked.deployment[:96]), " in this store."]),
            dcc.Link("All deployments", href=f"/tokens{view.query(asked, deployment=None)}", className="button"),
        )
    if until == view.EPOCH:
        return components.message(
            "No figures yet",
            html.P("Deployments are known, and their first figures are on their way: they come about 80 s after the end"
                   " of the first minute, and a few minutes later where there is much to be folded first."),
            html.P("If none come, gigawatch serve does not run, or not with server.scheduler on."),
            dcc.Link("How far folding is", href="/store", className="button"),
        )  # fmt: skip
    period = view.token_period(asked, until, 1 if asked.deployment else len(names))
    found = _read(connection, asked, period, until, 1 if asked.deployment else len(names))
    return html.Div(
        [
            _title(asked, period, until, now, found),
            _cards(found, period, asked.boundary),
            panel(
                "J per generated token",
                chart(token_figures.trend(found.trend, asked.boundary, period, theme), "tokens-trend"),
                note=f"boundary: {asked.boundary} · strip: coverage; gaps: no figure",
                wide=True,
            ),
            *(_own(found, period, theme) if asked.deployment else []),
            *token_table.render(found.rows, asked, priced=found.priced),
            *([] if asked.deployment else [_trade_off(found.rows, asked, theme)]),
            panel(
                "What the energy was for",
                chart(token_figures.energy_parts(found.idle, period, theme), "tokens-idle"),
                html.P(_about_idle(found), id="live-idle-words", className="note"),
                note="boundary: gpu",
                wide=asked.deployment is not None,
            ),
            *token_comparison.render(connection, asked, period, names, found.whole, found.idle),
            panel(
                "Ramp-up of nodes",
                _ramp_ups(found.ramp_ups, view.elsewhere(asked), now),
                note="from first seen in a deployment to its first token; nodes of the last day or of the period",
                wide=True,
            ),
        ],
        className="grid",
    )


class _Found(Struct, frozen=True, kw_only=True):
    """What the page shows."""

    whole: EnergyPerToken | None
    trend: list[EnergyPerToken]
    rows: list[Row]
    priced: bool
    """Whether cost and carbon were asked for: of many deployments over a long time they take too long."""
    serving: list[Serving]
    """Over time, of one deployment."""
    idle: list[Idle]
    """Over time, by site."""
    idle_costs: list[Priced]
    ramp_ups: list[RampUp]


def _read(connection: Connection, asked: View, period: Period, until: datetime, deployments: int) -> _Found:
    read = partial(_shared, connection)
    start, stop, step, of = period.start, period.stop, period.step, asked.of
    where = Where(site=asked.site, gpu_model=asked.model)
    bin_of_price = max(step, timedelta(hours=1))
    idle = read(token_readings.idle, start, stop, step, "site", of)
    priced = deployments * ((stop - start) / timedelta(hours=1)) <= view.MOST_BUCKETS
    weighed = (start, stop, None, where, asked.by, asked.boundary, asked.deployment)
    return _Found(
        whole=next(iter(read(token_readings.energy_per_token, start, stop, None, "fleet", asked.boundary, of)), None),
        trend=read(token_readings.energy_per_token, start, stop, step, "fleet", asked.boundary, of),
        rows=token_rows.join(
            read(token_readings.energy_per_token, start, stop, None, asked.by, asked.boundary, of),
            read(token_readings.serving, start, stop, None, asked.by, of, token_rows.LATENCIES),
            read(token_readings.idle, start, stop, None, asked.by, of),
            # Of assigned GPUs alone: at what price others draw power is nothing to tokens.
            read(readings.cost, *weighed, assigned=True) if priced else [],
            read(readings.carbon, *weighed, assigned=True, method="location") if priced else [],
        ),
        priced=priced,
        serving=read(token_readings.serving, start, stop, step, "fleet", of, ("time_to_first_token",))
        if asked.deployment
        else [],
        idle=idle,
        idle_costs=token_rows.idle_costs(
            idle, read(readings.cost, start, stop, bin_of_price, where, "site", "gpu", asked.deployment), bin_of_price
        ),
        ramp_ups=read(token_readings.ramp_ups, min(start, until - LATELY), of, MOST_RAMP_UPS),
    )


def _shared(connection: Connection, what: Callable[..., T], *args: Any, **given: Any) -> T:
    return recent.read_folded(what, connection, *args, **given)


def _title(asked: View, period: Period, until: datetime, now: datetime, found: _Found) -> html.Div:
    late = now - until > MOST_LAG and not asked.custom
    known = f"Figures are known up to {quantities.moment(until)} UTC."
    if period.stop < until - MOST_LAG and not asked.custom:
        known += f" So many are shown by whole hours, up to {quantities.clock(period.stop)}."
    if late:
        known += (
            f" That is {quantities.duration((now - until).total_seconds())} ago: does gigawatch serve run, with"
            " server.scheduler on, and do agents reach it? The page Store says how far folding is."
        )
    words = [COVERS[asked.boundary] + "."]
    if asked.rack:
        words.append("The filter for racks does not apply here.")
    return html.Div(
        [
            html.H1(
                ["Energy per token", " · ", asked.deployment] if asked.deployment else "Energy per token"
            ),
            choice(
                "Boundary",
                {label: view.query(asked, boundary=key) for key, label in BOUNDARIES.items()},
                BOUNDARIES[asked.boundary],
            ),
            *[html.P(it, className="boundary") for it in words],
            html.P([badge("stale", "warn"), f" {known}"] if late else known, id="live-known", className="boundary"),
            html.Div(_limits(asked, found), id="live-limits", className="boundary"),
        ],
        className="title wide",
    )  # fmt: skip


def _limits(asked: View, found: _Found) -> list[Any]:
    """What there is no figure for, and what to do."""
    if found.whole is None:
        return [
            html.Div("No GPU served a deployment in this period and this part of the fleet.", className="banner warn")
        ]
    if found.whole.energy_j is None:
        return [html.Div(UNKNOWN_AT[asked.boundary], className="banner warn")]
    return []


def _cards(found: _Found, period: Period, boundary: Boundary) -> html.Dl:
    it = found.whole
    split = token_rows.idle_sum(found.idle)
    idle_share = token_rows.idle_share(split)
    doubts = token_rows.doubts(it) if it else []
    known = token_rows.known_part(found.idle, period)
    partly = known < GOOD_COVERAGE
    return html.Dl(
        [
            card(
                "J per generated token", joules(it.j_per_generated_token if it else None),
                [
                    *([html.Strong(", ".join(doubts)), " · "] if doubts else []),
                    f"boundary: {boundary} · varies by ", quantities.share(it.variation if it else None),
                    " · coverage ", quantities.share(it.coverage if it else None),
                ],
                tone="warn" if doubts else "", boundary=COVERS[boundary],
                share=it.coverage if it else None,
            ),
            card(
                "Tokens/s per MW", quantities.digits(it.tokens_per_s_per_mw if it else None, ""),
                f"boundary: {boundary} · a million over J per generated token",
                boundary=COVERS[boundary], tone="warn" if doubts else "",
            ),
            card(
                "Generated tokens/s", quantities.digits(it.generated_tokens_per_s if it else None, ""),
                f"for {quantities.digits(it.requests if it else None, '')} requests"
                + (f" · over the whole period, of which {quantities.share(known)} is known" if partly else ""),
                tone="warn" if partly and it else "",
            ),
            card(
                "Provisioned idle", quantities.share(idle_share),
                f"{quantities.work(split.provisioned_idle_j)} of the energy of assigned GPUs"
                if split else None,
                share=idle_share, boundary=COVERS["gpu"],
            ),
            card(
                "Energy measured", quantities.share(it.measured_share if it else None),
                _obtained(it), share=it.measured_share if it else None,
                tone="warn" if it and it.measured_share is not None and it.measured_share < GOOD_COVERAGE else "",
            ),
            card(
                "GPUs assigned", quantities.count(it.gpus if it else None),
                f"{quantities.count(it.gpus_silent)} of them silent" if it else None,
                tone="warn" if it and it.gpus_silent else "",
            ),
        ],
        id="live-cards", className="cards",
    )  # fmt: skip


def _obtained(it: EnergyPerToken | None) -> str:
    """How the energy that was not measured was obtained."""
    if it is None or it.measured_share is None:
        return "how it was obtained is not known"
    parts = {
        "interpolated": it.interpolated_share, "integrated": it.integrated_share, "modelled": it.modelled_share,
    }  # fmt: skip
    said = (
        ", ".join(f"{quantities.share(part)} {name}" for name, part in parts.items() if part)
        or "by counters and meters"
    )
    if it.measured_pue_share is None:
        return said
    if it.measured_pue_share in {0, 1}:
        return f"{said} · PUE {'measured' if it.measured_pue_share else 'configured, not measured'}"
    return f"{said} · PUE measured for {quantities.share(it.measured_pue_share)} of it, else configured"


def _own(found: _Found, period: Period, theme: Theme) -> list[html.Section]:
    """Charts of one deployment."""
    served = partial(token_figures.served, found.serving, period, theme)
    waits: dict[str, Callable[[Serving], float | None]] = {
        "p50": lambda it: it.ttft_p50_s, "p95": lambda it: it.ttft_p95_s, "p99": lambda it: it.ttft_p99_s,
    }  # fmt: skip
    return [
        panel("Generated tokens/s", chart(token_figures.generated(found.trend, period, theme), "tokens-generated")),
        panel(
            "Time to first token",
            chart(served(waits, title="Time to first token", unit="s", words=quantities.latency), "tokens-ttft"),
            note="quantiles of each bin",
        ),
        panel(
            "Batch",
            chart(
                served({"Batch": lambda it: it.batch}, title="Requests that an engine ran at once", unit="requests",
                       words=lambda value: quantities.digits(value, "")), "tokens-batch",
            ),
            note="requests that an engine ran at once, in the mean",
        ),
        panel(
            "Active",
            chart(
                served(
                    {"Active": lambda it: None if it.active_share is None else it.active_share * 100},
                    title="Time in which requests ran", unit="%", words=quantities.percent, top=100,
                ), "tokens-active",
            ),
            note="part of the time in which requests ran",
        ),
    ]  # fmt: skip


def _trade_off(rows: list[Row], asked: View, theme: Theme) -> html.Section:
    drawn = token_figures.trade_off(
        rows,
        asked.boundary,
        asked.ttft,
        lambda row: token_table.link_to(row.label, asked),
        theme,
    )
    waits: tuple[Wait, ...] = ("p50", "p95")
    return panel(
        "Energy against waiting",
        chart(drawn, "tokens-trade-off"),
        note="area: batch; hollow: doubtful; a click leads there",
        control=choice("Time to first token", {it: view.query(asked, ttft=it) for it in waits}, asked.ttft),
    )


def _about_idle(found: _Found) -> str:
    split = token_rows.idle_sum(found.idle)
    if split is None:
        return ""
    said = f"Provisioned idle: GPUs that were assigned while nothing ran, {quantities.work(split.provisioned_idle_j)}"
    for part in (it for it in found.idle_costs if it.energy_j):
        priced = quantities.work(part.energy_j)
        which = "which" if priced == quantities.work(split.provisioned_idle_j) else f"of which {priced}"
        said += f", {which} cost {quantities.money(part.cost, part.currency)}"
    if split.provisioned_idle_j and not found.idle_costs:
        said += "; no price is known for it"
    if split.unobserved_j:
        said += f". Unobserved: of {quantities.work(split.unobserved_j)} nobody knows whether anything ran"
    if split.unallocated_j:
        said += f". Unallocated: {quantities.work(split.unallocated_j)} of GPUs that were assigned to nothing"
    return said + "."


def _ramp_ups(rows: list[RampUp], query: str, now: datetime) -> html.Div:
    def time(row: RampUp) -> Any:
        if row.ramp_up_s is not None:
            return quantities.duration(row.ramp_up_s)
        return [badge("no token yet", "warn"), f" for {quantities.duration((now - row.first_seen).total_seconds())}"]

    return table(
        "Nodes that were lately first seen in a deployment, those without a token yet first",
        ("Node", "Deployment", "Site, rack", "First seen", "First token", "Time to first token"),
        [
            (
                [components.node_link(row.node_id, row.hostname, query), " ",
                 *([components.simulated_badge(row.simulated)] if row.simulated else [])],
                row.deployment if row.role == "both" else f"{row.deployment}, {row.role}",
                " / ".join(filter(None, (row.site, row.rack))),
                html.Time(quantities.moment(row.first_seen), dateTime=row.first_seen.isoformat()),
                html.Time(quantities.moment(row.first_token)) if row.first_token else quantities.UNKNOWN,
                time(row),
            )
            for row in rows
        ],
        "No node was first seen in a deployment lately.",
        numbers=(5,),
    )  # fmt: skip


def _teach() -> html.Div:
    return components.message(
        "No deployment yet",
        html.P("Energy per token wants tokens: the agent reads them from the inference engines on its node. Name each "
               "engine in the agent's settings:"),
        html.Pre(CONFIGURE),
        html.P(["What an engine at some address tells, and what will be missing:"]),
        html.Pre("gigawatch engines probe http://127.0.0.1:8000/metrics"),
        html.P(["Which engines are known, and what each tells: ", html.Code("docs/engines.md"), "."]),
        html.P("The first figures come about 80 s after the end of the first minute."),
    )  # fmt: skip
