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

NUMBER = {"type": "rightAligned", "filter": "agNumberColumnFilter", "minWidth": 96}
COLUMNS = [
    {"field": "node", "headerName": "Node", "cellRenderer": "markdown", "minWidth": 190, "pinned": "left"},
    {"field": "state", "headerName": "State", "minWidth": 110},
    {"field": "site", "headerName": "Site"},
    {"field": "rack", "headerName": "Rack"},
    {"field": "models", "headerName": "GPUs", "minWidth": 220},
    {"field": "reporting", "headerName": "Reporting", "minWidth": 110},
    {"field": "power_w", "headerName": "Power, W", **NUMBER},
    {"field": "util_pct", "headerName": "Utilisation, %", **NUMBER},
    {"field": "temp_c", "headerName": "Hottest, °C", **NUMBER},
    {"field": "throttled", "headerName": "Throttled", **NUMBER},
    {"field": "heard_s", "headerName": "Heard of, s ago", **NUMBER},
]


def render(connection: Connection, asked: View, theme: Theme, _: datetime) -> Any:
    """The page."""
    nodes = readings.nodes_now(connection, asked.where)
    if not nodes:
        return components.message("No nodes", html.P("No node matches, or none was heard of yet."))
    query = view.query(asked)
    rows = [
        {
            "node": f"[{_plain(node.hostname)}](/nodes/{node.node_id}{query})",
            "state": "silent" if node.silent_s > 60 else "clock off" if node.clock_ok is False else "reporting",
            "site": node.site,
            "rack": node.rack or quantities.UNKNOWN,
            "models": ", ".join(model.removeprefix("NVIDIA ") for model in node.gpu_models)
            + (" (simulated)" if node.simulated else ""),
            "reporting": f"{node.gpus_reporting} of {node.gpus}",
            "power_w": None if node.power_w is None else round(node.power_w),
            "util_pct": None if node.gpu_util_pct is None else round(node.gpu_util_pct, 1),
            "temp_c": node.gpu_temp_max_c,
            "throttled": node.gpus_throttled,
            "heard_s": round(node.silent_s),
        }
        for node in nodes
    ]
    return html.Div(
        [
            html.H1("Nodes"),
            dag.AgGrid(
                id="nodes",
                rowData=rows,
                columnDefs=COLUMNS,
                defaultColDef={"sortable": True, "filter": True, "resizable": True, "flex": 1, "minWidth": 90},
                dashGridOptions={"animateRows": False, "suppressColumnVirtualisation": True},
                style={"height": "calc(100vh - 190px)", "minHeight": "320px"},
            ),
        ],
        className="grid-table",
        # The attribute by which AG Grid's theme is told.
        **{"data-ag-theme-mode": theme.name},
    )


def _plain(name: str) -> str:
    """A host name without what Markdown would take for its own."""
    return "".join(character if character.isalnum() or character in "-." else "·" for character in name)
