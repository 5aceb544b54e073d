"""The table of energy per token: a row for each deployment, model, GPU model or site."""

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from dashboard import components, quantities, token_rows, view
from dashboard.components import PAGE_ROWS, badge, choice
from dashboard.plots import GOOD_COVERAGE
from dashboard.quantities import UNKNOWN
from dashboard.token_figures import joules
from dashboard.token_rows import Row, Weighed
from dashboard.view import By, TokenOrder, View

GROUPS: dict[By, str] = {
    "deployment": "Deployment", "model": "Model", "gpu_model": "GPU model", "site": "Site",
}  # fmt: skip
# Heading, what it sorts by, whether the least come first at the first click. The first is that of the group.
COLUMNS: tuple[tuple[str, TokenOrder, bool], ...] = (
    ("", "label", True),
    ("Tokens/s", "tokens", False),
    ("J/token", "j_per_token", True),
    ("Varies by", "variation", True),
    ("Wh per 1,000 tokens", "j_per_token", True),
    ("Tokens/s per MW", "tokens_per_s_per_mw", False),
    ("Cost per million", "cost", True),
    ("CO2e per million", "carbon", True),
    ("First token p50", "ttft_p50", True),
    ("First token p95", "ttft_p95", True),
    ("Next token p50", "itl", True),
    ("Batch", "batch", False),
    ("Idle", "idle", False),
    ("GPUs", "gpus", False),
    ("Coverage", "coverage", True),
)


def render(rows: Sequence[Row], asked: View, *, priced: bool) -> list[Any]:
    """The bar above the table, and the table."""
    name = GROUPS[asked.by]
    noun = name[0].lower() + name[1:] if name != "GPU model" else name
    found = [row for row in rows if asked.find.lower() in row.label.lower()]
    page = min(asked.page, components.pages(len(found)))
    shown = token_rows.in_order(found, asked.order, rising=asked.rising)[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return [
        html.Div(
            [
                html.H2(f"By {noun}"),
                components.search("Search by name", asked.find),
                choice(
                    "Group by",
                    {label: view.query(asked, by=key, page=1) for key, label in GROUPS.items()},
                    name,
                ),
            ],
            className="list-bar wide",
        ),
        html.Section(
            [
                components.pager("Pages of the table", asked, page, len(found), f"{noun}s"),
                _table(shown, asked, noun)
                if shown
                else html.P(f"No {noun} with “{asked.find}” in its name has figures in this period."
                            if asked.find else "Nothing was served in this period.", className="empty"),
                html.P(_about(asked, priced=priced), className="note"),
            ],
            id="live-token-table",
            className="panel wide nodes-list dense",
        ),
    ]  # fmt: skip


def _about(asked: View, *, priced: bool) -> str:
    said = (
        f"J/token, its cost and CO2e at boundary {asked.boundary}, cost and CO2e for a million generated tokens; CO2e"
        " by the grid's intensity. Where only a part of the energy has a price or an intensity, it says which. Idle:"
        " energy of assigned GPUs while nothing ran."
    )
    return (
        said
        if priced
        else f"{said} Cost and CO2e are left out of so long a period: choose a shorter one, or one deployment."
    )


def link_to(label: str, asked: View) -> str:
    """The address of the page for one row alone; empty where it cannot be chosen."""
    chosen: dict[By, dict[str, str]] = {
        "deployment": {"deployment": label}, "gpu_model": {"model": label}, "site": {"site": label},
    }  # fmt: skip
    return f"/tokens{view.query(asked, **chosen[asked.by], find='', page=1)}" if asked.by in chosen else ""


def _table(rows: Sequence[Row], asked: View, noun: str) -> html.Div:
    places = [order for _, order, _ in COLUMNS]
    return components.table(
        f"Energy per token by {noun}, boundary {asked.boundary}",
        [_heading(heading or GROUPS[asked.by], order, rising, asked) for heading, order, rising in COLUMNS],
        [_cells(row, asked) for row in rows],
        "",
        numbers=range(1, len(COLUMNS)),
        sorted_by=(places.index(asked.order), not asked.rising),
    )


def _heading(name: str, order: TokenOrder, rising: bool, asked: View) -> dcc.Link:
    """A column's name as a link that sorts by it; by the column that sorts already, the other way round."""
    chosen = not asked.rising if order == asked.order else rising
    return dcc.Link(name, href=view.query(asked, order=order, rising=chosen, page=1))


def _cells(row: Row, asked: View) -> list[Any]:
    it, serving = row.energy, row.serving
    poor = it.coverage is not None and it.coverage < GOOD_COVERAGE
    per_token: list[Any] = [joules(it.j_per_generated_token)]
    per_token += [" ", badge(", ".join(row.doubts), "warn")] if row.doubts else []
    return [
        dcc.Link(row.label, href=link) if (link := link_to(row.label, asked)) else row.label,
        quantities.digits(it.generated_tokens_per_s, ""),
        per_token,
        quantities.share(it.variation),
        quantities.digits(token_rows.wh_per_thousand(it.j_per_generated_token), "Wh"),
        quantities.digits(it.tokens_per_s_per_mw, ""),
        [part for cost in row.costs for part in _weighed(cost, "priced", quantities.money(cost.amount, cost.unit))]
        or UNKNOWN,
        _weighed(row.carbon, "known", quantities.mass(row.carbon.amount)) if row.carbon else UNKNOWN,
        quantities.latency(row.wait_s("p50")),
        quantities.latency(row.wait_s("p95")),
        quantities.latency(serving.itl_p50_s if serving else None),
        quantities.digits(serving.batch if serving else None, ""),
        quantities.share(row.idle_share),
        [quantities.count(it.gpus), *([" ", badge(f"{it.gpus_silent} silent", "bad")] if it.gpus_silent else [])],
        badge(quantities.share(it.coverage), "warn") if poor else quantities.share(it.coverage),
    ]


def _weighed(it: Weighed, how: str, words: str) -> list[Any]:
    """A cost or an emission, marked where much of the energy has no price or no intensity."""
    poor = it.coverage is not None and it.coverage < GOOD_COVERAGE
    return [f"{words} ", *([badge(f"{quantities.share(it.coverage)} {how}", "warn"), " "] if poor else [])]
