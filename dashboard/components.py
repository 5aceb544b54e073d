"""Pieces of pages: cards, tables, charts, badges, and what is said where there is nothing or something failed."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from dashboard import quantities
from dashboard.figures import Chart
from dashboard.quantities import UNKNOWN

Child = Any
GOOD_COVERAGE = 0.95


def card(label: str, quantity: str, note: Child = None, *, tone: str = "", boundary: str = "") -> html.Div:
    """A figure that people look at first: what it is, its quantity as quantities gives it, and what qualifies it."""
    value, _, unit = quantity.partition(quantities.SPACE)
    return html.Div(
        [
            html.Dt(label, title=boundary or None),
            html.Dd([html.Span(value, className="value"), html.Span(f" {unit}" if unit else "", className="unit")]),
            html.Dd(note or quantities.SPACE, className="note"),
        ],
        className=f"card {tone}",
    )


def panel(title: str, *children: Child, note: Child = None, identity: str = "", wide: bool = False) -> html.Section:
    """A part of a page under a heading."""
    return html.Section(
        [html.Header([html.H2(title), html.P(note, className="note") if note else None]), *children],
        className="panel wide" if wide else "panel",
        **({"id": identity} if identity else {}),
    )


def chart(drawn: Chart, identity: str) -> html.Div:
    """A figure, with what it says in words for those who do not see it."""
    return html.Div(
        [
            dcc.Graph(
                id=identity,
                figure=drawn.figure,
                config={"displaylogo": False, "displayModeBar": False, "responsive": True, "locale": "en"},
                className="chart",
            ),
            html.P(drawn.summary, className="screen-reader"),
        ],
        role="group",
        **{"aria-label": drawn.summary},
    )


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Child]], empty: str) -> html.Div:
    """A small table; what stands right in each row are numbers."""
    if not rows:
        return html.P(empty, className="empty")
    return html.Div(
        html.Table(
            [
                html.Caption(caption, className="screen-reader"),
                html.Thead(html.Tr([html.Th(name, scope="col") for name in header])),
                html.Tbody([html.Tr([html.Td(cell) for cell in row]) for row in rows]),
            ]
        ),
        className="scroll",
        tabIndex=0,
        role="region",
        **{"aria-label": caption},
    )


def facts(pairs: Sequence[tuple[str, Child]]) -> html.Dl:
    """What something is, as terms and their values; what is not known is left out."""
    known = [(term, value) for term, value in pairs if value not in {None, "", UNKNOWN}]
    return html.Dl([html.Div([html.Dt(term), html.Dd(value)]) for term, value in known], className="facts")


def badge(text: str, tone: str = "") -> html.Span:
    """A state in a word, never by colour alone."""
    return html.Span(text, className=f"badge {tone}")


def heat_tone(margin_k: int | None) -> str:
    """How a temperature looks, by its margin to slowdown: 5 K is a warning, 0 critical."""
    if margin_k is None or margin_k > 5:
        return ""
    return "warn" if margin_k > 0 else "bad"


def state_badge(state: str) -> html.Span:
    """Whether a GPU reports."""
    return badge(state, {"reporting": "ok", "missing": "bad", "silent": "bad"}.get(state, ""))


def simulated_badge(simulated: bool) -> html.Span | None:
    """Marks what was simulated or replayed."""
    return badge("simulated", "simulated") if simulated else None


def node_link(node_id: int, hostname: str, query: str) -> dcc.Link:
    """To a node's page, with the same period and filters."""
    return dcc.Link(hostname, href=f"/nodes/{node_id}{query}")


def gpu_link(gpu_uuid: str, text: str, query: str) -> dcc.Link:
    """To a GPU's page, with the same period and filters."""
    return dcc.Link(text, href=f"/gpus/{quote(gpu_uuid, safe='')}{query}")


def message(title: str, *children: Child, tone: str = "") -> html.Div:
    """What fills a page that has nothing else to show."""
    return html.Div([html.H1(title), *children], className=f"message {tone}", role="status")


def unknown(kind: str, name: str) -> html.Div:
    """There is no such node or GPU."""
    return message(
        f"No such {kind}",
        html.P([f"There is no {kind} ", html.Code(name[:96]), " in this store. Was its address cut short?"]),
        dcc.Link("Back to the fleet", href="/", className="button"),
    )
