"""All nodes, to sort and to search."""

from datetime import datetime
from typing import Any

import dash_ag_grid as dag
from dash import html
from sqlalchemy import Connection

from dashboard import components, quantities, view
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.readings import NodeNow

MOST_ROWS = 5_000
"""Beyond, a page would take seconds; a filter brings the rest."""
RIGHT = {"type": "rightAligned", "cellClass": "ag-right-aligned-cell number", "minWidth": 100}
NUMBER = {**RIGHT, "filter": "agNumberColumnFilter"}
COLUMNS = [
    {"field": "node", "headerName": "Node", "cellRenderer": "markdown", "minWidth": 165, "pinned": "left"},
    {"field": "state", "headerName": "State", "minWidth": 148, "cellClassRules": {
        "is-ok": "params.value == 'reporting'", "is-warn": "params.value == '▲ clock off'",
        "is-bad": "params.value == '▲ silent' || params.value == '▲ GPUs missing'",
    }},
    {"field": "site", "headerName": "Site", "minWidth": 80},
    {"field": "rack", "headerName": "Rack", "minWidth": 70},
    {"field": "models", "headerName": "GPU model", "minWidth": 165},
    {"field": "reporting", "headerName": "Reporting", **RIGHT},
    {"field": "power_kw", "headerName": "Power, kW", **NUMBER, "minWidth": 104},
    {"field": "util_pct", "headerName": "Utilisation, %", **NUMBER, "minWidth": 122},
    {"field": "temp_c", "headerName": "Hottest, °C", **NUMBER, "minWidth": 112},
    {"field": "throttled", "headerName": "Throttled", **NUMBER,
     "cellClassRules": {"is-warn": "params.value > 0"}},
    {"field": "heard_s", "headerName": "Silent, s", **NUMBER,
     "cellClassRules": {"is-bad": "params.value > 60"}},
]  # fmt: skip
GRID_THEME = (
    "themeQuartz.withParams({backgroundColor: 'var(--surface)', foregroundColor: 'var(--text)',"
    " headerBackgroundColor: 'var(--surface-raised)', headerTextColor: 'var(--text-muted)',"
    " borderColor: 'var(--border)', accentColor: 'var(--accent)', chromeBackgroundColor: 'var(--surface-raised)',"
    " rowHoverColor: 'var(--surface-raised)', fontFamily: 'var(--font)', fontSize: 13, wrapperBorderRadius: 12,"
    " headerFontWeight: 550, spacing: 7})"
)


def render(connection: Connection, asked: View, theme: Theme, _: datetime) -> Any:
    """The page."""
    nodes = readings.nodes_now(connection, asked.where, limit=MOST_ROWS + 1)
    if not nodes:
        return components.nothing(asked)
    query = view.query(asked)
    shown = nodes[:MOST_ROWS]
    silent = sum(node.silent_s > 60 for node in shown)
    said = (
        f"The first {quantities.count(MOST_ROWS)}: choose a site or a rack for the others."
        if len(nodes) > MOST_ROWS
        else f"{quantities.count(len(shown))} nodes, {silent} silent. Power is that of the GPUs (boundary: gpu)."
    )
    return html.Div(
        [
            html.Div(
                [html.H1("Nodes"), html.P(said, className="boundary")],
                id="live-head",
                className="title",
            ),
            html.Div(
                dag.AgGrid(
                    id="nodes",
                    rowData=[_row(node, query) for node in shown],
                    columnDefs=COLUMNS,
                    defaultColDef={
                        "sortable": True,
                        "filter": True,
                        "resizable": True,
                        "flex": 1,
                        "minWidth": 90,
                        "floatingFilter": True,
                        "suppressHeaderFilterButton": True,
                        "suppressHeaderMenuButton": True,
                        "suppressFloatingFilterButton": True,
                    },
                    getRowId="params.data.id",
                    dashGridOptions={
                        "animateRows": False,
                        "suppressColumnVirtualisation": True,
                        "theme": {"function": GRID_THEME},
                    },
                    style={"height": "100%"},
                ),
                className="nodes-grid",
                role="region",
                # The attribute by which AG Grid's theme is told.
                **{"data-ag-theme-mode": theme.name, "aria-label": "Table of nodes"},
            ),
        ]
    )


def _row(node: NodeNow, query: str) -> dict[str, Any]:
    return {
        "id": str(node.node_id),
        "node": f"[{_plain(node.hostname)}](/nodes/{node.node_id}{query})",
        "state": _state(node),
        "site": node.site,
        "rack": node.rack or quantities.UNKNOWN,
        "models": ", ".join(model.removeprefix("NVIDIA ") for model in node.gpu_models)
        + (" (simulated)" if node.simulated else ""),
        "reporting": f"{node.gpus_reporting} of {node.gpus}",
        "power_kw": None if node.power_w is None else round(node.power_w / 1000, 2),
        "util_pct": None if node.gpu_util_pct is None else round(node.gpu_util_pct, 1),
        "temp_c": node.gpu_temp_max_c,
        "throttled": node.gpus_throttled,
        "heard_s": round(node.silent_s),
    }


def _state(node: NodeNow) -> str:
    if node.silent_s > 60:
        return "▲ silent"
    if node.clock_ok is False:
        return "▲ clock off"
    return "reporting" if node.gpus_reporting == node.gpus else "▲ GPUs missing"


def _plain(name: str) -> str:
    """A host name without what Markdown would take for its own."""
    return "".join(character if character.isalnum() or character in "-." else "·" for character in name)
