"""Pieces of pages: cards, tables, charts, badges, and what is said where there is nothing or something failed."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from dash import dcc, html

from dashboard import live, quantities, view
from dashboard.plots import Chart
from dashboard.quantities import UNKNOWN
from dashboard.view import View

Child = Any
PAGE_ROWS = 100
"""Of a long list."""


def card(
    label: str, quantity: str, note: Child = None, *, tone: str = "", boundary: str = "", share: float | None = None
) -> html.Div:
    """A figure that people look at first: what it is, its quantity as quantities gives it, and what qualifies it.

    Args:
        label: what it is.
        quantity: its value and unit.
        note: what qualifies it.
        tone: "", warn or bad.
        boundary: what it covers and what it leaves out.
        share: of what is possible, 0 to 1, drawn as a bar; the note says it in words.
    """
    value, _, unit = quantity.partition(quantities.SPACE)
    bar = html.Span(style={"width": f"{min(1.0, max(0.0, share)):.1%}"}) if share is not None else None
    return html.Div(
        [
            html.Dt(label, title=boundary or None),
            html.Dd([html.Span(value, className="value"), html.Span(f" {unit}" if unit else "", className="unit")]),
            # A component without children is false.
            *([] if bar is None else [html.Dd(bar, className="meter", **{"aria-hidden": "true"})]),
            html.Dd(note or quantities.SPACE, className="note"),
        ],
        className=f"card {tone}",
    )


def choice_link(text: Child, href: str, *, chosen: bool) -> dcc.Link:
    """One of a few views of the same, as a link: the URL is the state."""
    said = [html.Span(", chosen", className="screen-reader")] if chosen else []
    return dcc.Link(
        [*(text if isinstance(text, list) else [text]), *said],
        href=href,
        className="chosen" if chosen else "",
    )


def choice(label: str, options: dict[str, str], chosen: str) -> html.Nav:
    """A few views to choose from, with the query of each."""
    return html.Nav(
        [choice_link(text, query or "?", chosen=text == chosen) for text, query in options.items()],
        className="choice",
        **{"aria-label": label},
    )


def panel(title: str, *children: Child, note: Child = None, control: Child = None, wide: bool = False) -> html.Section:
    """A part of a page under a heading, with what qualifies it and what chooses between its views beside that.

    A panel without a figure is live as a whole (see dashboard.live); a figure is live by itself.
    """
    drawn = any(getattr(child, "className", None) == "drawn" for child in children)
    identity = {} if drawn else {"id": live.PREFIX + re.sub(r"\W+", "-", title.lower())}
    return html.Section(
        [html.Header([html.H2(title), html.P(note, className="note") if note else None, control]), *children],
        className="panel wide" if wide else "panel",
        **identity,
    )


def chart(drawn: Chart, identity: str, *, least_width: str | None = None) -> html.Div:
    """A figure, with what it says in words for those who do not see it; where it has no room it is scrolled."""
    scrolled: dict[str, Any] = {} if least_width is None else {"style": {"overflowX": "auto"}, "tabIndex": 0}
    words = f"{live.PREFIX}{identity}-words"
    return html.Div(
        [
            dcc.Graph(
                id=identity,
                figure=drawn.figure,
                config={"displaylogo": False, "displayModeBar": False, "responsive": True, "locale": "en"},
                className="chart",
                **({} if least_width is None else {"style": {"minWidth": least_width}}),
            ),
            html.P(drawn.summary, id=words, className="screen-reader"),
        ],
        className="drawn",
        role="group",
        **{"aria-labelledby": words},
        **scrolled,
    )


def table(
    caption: str,
    header: Sequence[Child],
    rows: Sequence[Sequence[Child]],
    empty: str,
    *,
    numbers: Sequence[int] = (),
    sorted_by: tuple[int, bool] | None = None,
    stacked: bool = False,
) -> html.Div:
    """A small table.

    Args:
        caption: what it shows.
        header: names of the columns.
        rows: cells; a last column in which nothing stands is left out.
        empty: what to say where there is no row.
        numbers: columns of numbers, which stand right.
        sorted_by: the column that the rows are sorted by, and whether the greatest come first.
        stacked: on a narrow screen a row's cells stand below one another, so that what acts on it is in sight.
    """
    if not rows:
        return html.P(empty, className="empty")
    if all(row[-1] is None for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    classes = ["number" if number in numbers else "" for number in range(len(header))]
    order = {sorted_by[0]: "descending" if sorted_by[1] else "ascending"} if sorted_by else {}
    return html.Div(
        html.Table(
            [
                html.Caption(caption, className="screen-reader"),
                html.Thead(
                    html.Tr(
                        [
                            html.Th(name, scope="col", className=it, **_sort(order.get(number)))
                            for number, (name, it) in enumerate(zip(header, classes, strict=True))
                        ]
                    )
                ),
                html.Tbody(
                    [
                        html.Tr(
                            [
                                html.Td(cell, className=it, **({"data-name": name} if stacked else {}))
                                for cell, it, name in zip(row, classes, header, strict=True)
                            ]
                        )
                        for row in rows
                    ]
                ),
            ]
        ),
        className="scroll stacked" if stacked else "scroll",
        tabIndex=0,
        role="region",
        **{"aria-label": caption},
    )


def pages(found: int) -> int:
    """How many pages a list has."""
    return max(1, -(-found // PAGE_ROWS))


def pager(label: str, asked: View, page: int, found: int, noun: str) -> html.Nav:
    """Where in a long list this is, and the way to its other pages."""
    last_page = pages(found)
    first = (page - 1) * PAGE_ROWS + 1
    last = min(found, page * PAGE_ROWS)
    said = (
        f"{quantities.count(first)} to {quantities.count(last)} of {quantities.count(found)}" if found else f"0 {noun}"
    )
    ways = (("First", 1, page > 1), ("Previous", page - 1, page > 1), ("Next", page + 1, page < last_page),
            ("Last", last_page, page < last_page))  # fmt: skip
    return html.Nav(
        [
            html.Span(said, className="said", role="status"),
            *[
                dcc.Link(name, href=view.query(asked, page=to) or "?", className="button")
                for name, to, there in ways
                if there
            ],
        ],
        className="pager",
        **{"aria-label": label},
    )


def search(label: str, typed: str) -> html.Label:
    """The field in which one searches a long list."""
    return html.Label(
        [
            html.Span(label, className="screen-reader"),
            dcc.Input(
                id="find", type="search", value=typed, placeholder=label, debounce=True,
                maxLength=view.LONGEST_FIND, autoComplete="off",
            ),
        ],
        htmlFor="find",
    )  # fmt: skip


def dropdown(identity: str, label: str, options: list[str], chosen: str | None, placeholder: str) -> html.Label:
    """A choice of one among many, or of none; what is chosen is always among them."""
    shown = options if chosen is None or chosen in options else [*options, chosen]
    return html.Label(
        [
            html.Span(label, className="screen-reader"),
            dcc.Dropdown(id=identity, options=shown, value=chosen, placeholder=placeholder, clearable=True),
        ],
        className="filter",
    )


def period_form(identity: str, words: str, start: datetime | None, stop: datetime | None) -> html.Details:
    """A form for a period of one's own, whose fields' ids begin with identity."""

    def moment(name: str, label: str, value: datetime | None) -> html.Label:
        return html.Label(
            [
                label,
                dcc.Input(
                    id=name, type="text", placeholder="2026-01-31 08:00", autoComplete="off",
                    value=f"{value:%Y-%m-%d %H:%M}" if value else "",
                ),
            ],
            htmlFor=name,
        )  # fmt: skip

    chosen = start is not None and stop is not None
    return html.Details(
        [
            html.Summary(f"{start:%b %d %H:%M} – {stop:%b %d %H:%M}" if chosen else words),
            html.Div(
                [
                    moment(f"{identity}-from", "From (UTC)", start),
                    moment(f"{identity}-to", "To (UTC)", stop),
                    html.Button("Show this period", id=f"{identity}-apply"),
                ],
                className="sheet",
            ),
        ],
        className="custom chosen" if chosen else "custom",
    )


def _sort(order: str | None) -> dict[str, str]:
    return {"aria-sort": order} if order else {}


def facts(pairs: Sequence[tuple[str, Child]]) -> html.Dl:
    """What something is, as terms and their values; what is not known is left out."""
    known = [(term, value) for term, value in pairs if value not in (None, "", UNKNOWN)]
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


def nothing(asked: View) -> html.Div:
    """There is no GPU or node to show: none matches the filters, or none was heard of yet."""
    if asked.filtered:
        return message(
            "Nothing matches these filters",
            html.P("No GPU of this model is in this site and rack."),
            dcc.Link(
                "Clear filters", href=view.query(asked, site=None, rack=None, model=None) or "/", className="button"
            ),
        )
    return message(
        "No data yet",
        html.P("The store is ready and waits for an agent. On a GPU server:"),
        html.Pre("gigawatch doctor\ngigawatch collect --server-url http://… --token-file agent.token"),
        html.P(["Or look at a simulated fleet first: ", html.Code("gigawatch up --demo")]),
    )


def unknown(kind: str, name: str) -> html.Div:
    """There is no such node or GPU."""
    return message(
        f"No such {kind}",
        html.P([f"There is no {kind} ", html.Code(name[:96]), " in this store. Was its address cut short?"]),
        dcc.Link("Back to the fleet", href="/", className="button"),
    )
