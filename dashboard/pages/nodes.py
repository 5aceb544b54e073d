"""The list of nodes: by page, sorted and searched in the store, since a fleet has more than a browser can hold."""

from datetime import datetime
from typing import Any

from dash import dcc, html
from sqlalchemy import Connection

from dashboard import components, quantities, recent, view
from dashboard.components import PAGE_ROWS, badge, choice_link
from dashboard.quantities import UNKNOWN
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.readings import NodeCounts, NodeNow, NodeOrder, NodeState

STATES: dict[NodeState, tuple[str, str]] = {
    "reporting": ("reporting", "ok"),
    "gpus_missing": ("GPUs missing", "bad"),
    "clock_off": ("clock off", "warn"),
    "silent": ("silent", "bad"),
}
# Heading, what it sorts by, whether the greatest come first at the first click.
COLUMNS: tuple[tuple[str, NodeOrder, bool], ...] = (
    ("Node", "hostname", False),
    ("State", "state", False),
    ("Site, rack", "place", False),
    ("GPU model", "gpu_model", False),
    ("Reporting", "reporting", False),
    ("Power", "power", True),
    ("Utilisation", "utilisation", True),
    ("Hottest", "temperature", True),
    ("Throttled", "throttled", True),
    ("Silent for", "silent", True),
)
NUMBERS = range(4, 10)


def render(connection: Connection, asked: View, _: Theme, __: datetime) -> Any:
    """The page."""
    counts = recent.read(readings.node_counts, connection, asked.where, asked.find)
    if not counts.nodes and not asked.find:
        return components.nothing(asked)
    found = counts.nodes if asked.state is None else getattr(counts, asked.state)
    page = min(asked.page, components.pages(found))
    rows = readings.nodes_now(
        connection, asked.where, find=asked.find, state=asked.state, order=asked.sort, descending=asked.descending,
        limit=PAGE_ROWS, offset=(page - 1) * PAGE_ROWS,
    )  # fmt: skip
    return html.Div(
        [
            html.Div(
                [
                    html.H1("Nodes"),
                    html.P("Power is that of the GPUs (boundary: gpu). Times are UTC.", className="boundary"),
                ],
                className="title",
            ),
            html.Div(
                [
                    components.search("Search host name or rack", asked.find),
                    html.Nav(
                        _states(asked, counts), id="live-states", className="choice",
                        **{"aria-label": "State"},
                    ),
                ],
                className="list-bar",
            ),
            html.Section(
                [
                    components.pager("Pages of the list", asked, page, found, "nodes"),
                    _table(rows, asked) if rows else html.P(_none(asked), className="empty"),
                    components.pager("Pages of the list, once more", asked, page, found, "nodes") if rows else None,
                ],
                id="live-nodes",
                className="panel nodes-list",
            ),
        ]
    )  # fmt: skip


def _states(asked: View, counts: NodeCounts) -> list[Any]:
    """Each state with the number of its nodes, to choose from; a state that no node is in is left out."""
    shown: list[tuple[str, NodeState | None, int]] = [("all", None, counts.nodes)]
    shown += [(words, state, getattr(counts, state)) for state, (words, _) in STATES.items()]
    return [
        choice_link(
            [f"{words} ", html.B(quantities.count(number))],
            view.query(asked, state=state, page=1) or "?",
            chosen=state == asked.state,
        )
        for words, state, number in shown
        if number or state in {None, asked.state}
    ]


def _none(asked: View) -> str:
    within = " of this part of the fleet" if asked.filtered else ""
    state = f" that is {STATES[asked.state][0]}" if asked.state else ""
    return f"No node{within}{state}{f' whose host name or rack contains “{asked.find}”' if asked.find else ''}."


def _table(rows: list[NodeNow], asked: View) -> html.Div:
    query = view.elsewhere(asked)
    return components.table(
        "Nodes",
        [_heading(name, order, falling, asked) for name, order, falling in COLUMNS],
        [_cells(node, query) for node in rows],
        "",
        numbers=NUMBERS,
        sorted_by=next(
            ((place, asked.descending) for place, (_, order, _) in enumerate(COLUMNS) if order == asked.sort), None
        ),
    )


def _heading(name: str, order: NodeOrder, falling: bool, asked: View) -> dcc.Link:
    """A column's name as a link that sorts by it; by the column that sorts already, the other way round."""
    descending = not asked.descending if order == asked.sort else falling
    return dcc.Link(name, href=view.query(asked, sort=order, descending=descending, page=1) or "?")


def _cells(node: NodeNow, query: str) -> list[Any]:
    words, tone = STATES[node.state]
    return [
        components.node_link(node.node_id, node.hostname, query),
        badge(words, tone),
        " / ".join(filter(None, (node.site, node.rack))),
        [", ".join(model.removeprefix("NVIDIA ") for model in node.gpu_models) or UNKNOWN, " ",
         components.simulated_badge(node.simulated)],
        f"{node.gpus_reporting} of {node.gpus}",
        quantities.power(node.power_w),
        quantities.percent(node.gpu_util_pct),
        quantities.celsius(node.gpu_temp_max_c),
        quantities.count(node.gpus_throttled) if node.power_w is not None else UNKNOWN,
        quantities.duration(node.silent_s),
    ]  # fmt: skip
