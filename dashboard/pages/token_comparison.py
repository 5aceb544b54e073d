"""Energy per token of two periods, or of two deployments, side by side, and whether their difference means anything."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from dash import html
from msgspec import Struct
from sqlalchemy import Connection

from dashboard import components, quantities, recent, token_rows, view
from dashboard.components import badge, choice, table
from dashboard.token_figures import joules
from dashboard.token_rows import Compared
from dashboard.view import Period, View
from gigawatch import token_readings
from gigawatch.token_readings import EnergyPerToken, Idle, Of, Serving


class _Side(Struct, frozen=True):
    """What is compared."""

    name: str
    energy: EnergyPerToken | None
    serving: Serving | None
    idle: Idle | None


def render(
    connection: Connection,
    asked: View,
    period: Period,
    names: Sequence[str],
    whole: EnergyPerToken | None,
    idle: Sequence[Idle],
) -> list[Any]:
    """The bar that chooses what to compare with, and the table.

    Args:
        connection: of the report role.
        asked: what the page shows.
        period: that it shows.
        names: of all deployments.
        whole: energy per token of the period.
        idle: its energy in parts, by site and bin.
    """
    start, stop = period.start, period.stop
    other_of, other_start, other_stop = asked.of, start - (stop - start), start
    if asked.against_start is not None and asked.against_stop is not None:
        other_start, other_stop = asked.against_start, asked.against_stop
    deployments = asked.deployment is not None and asked.against is not None
    if deployments:
        other_of, other_start, other_stop = msgspec.structs.replace(asked.of, deployment=asked.against), start, stop
    one = _Side(
        asked.deployment or "" if deployments else _words(start, stop), whole,
        _serving(connection, start, stop, asked.of), token_rows.idle_sum(idle),
    )  # fmt: skip
    found = recent.read_folded(
        token_readings.energy_per_token, connection, other_start, other_stop, None, "fleet", asked.boundary, other_of
    )
    other_idle = recent.read_folded(token_readings.idle, connection, other_start, other_stop, None, "fleet", other_of)
    other = _Side(
        asked.against or "" if deployments else _words(other_start, other_stop), next(iter(found), None),
        _serving(connection, other_start, other_stop, other_of), token_rows.idle_sum(other_idle),
    )  # fmt: skip
    return [
        html.Div(
            [
                html.H2("Comparison"),
                choice(
                    "Compare with",
                    {"The period before": view.query(asked, against=None, against_start=None, against_stop=None)},
                    "" if deployments or asked.against_start else "The period before",
                ),
                components.period_form("against", "Another period", asked.against_start, asked.against_stop),
                components.dropdown(
                    "against", "deployment to compare with", [it for it in names if it != asked.deployment],
                    asked.against, "Another deployment",
                ) if asked.deployment else html.Span("Of one deployment: with another one, too.", className="note"),
            ],
            className="list-bar wide",
        ),
        html.Section(_table(one, other, asked), id="live-comparison", className="panel wide"),
    ]  # fmt: skip


def _serving(connection: Connection, start: datetime, stop: datetime, of: Of) -> Serving | None:
    """Of one deployment: of several together, latencies and batches of different models would be mixed."""
    if of.deployment is None:
        return None
    # As the table asks, so that it is read once.
    found = recent.read_folded(
        token_readings.serving, connection, start, stop, None, "deployment", of, token_rows.LATENCIES
    )
    return next(iter(found), None)


def _words(start: datetime, stop: datetime) -> str:
    last = f"{stop:%H:%M}" if start.date() == stop.date() else f"{stop:%b %d %H:%M}"
    return f"{start:%b %d %H:%M} – {last}"


def _table(one: _Side, other: _Side, asked: View) -> Any:
    if one.energy is None or other.energy is None:
        missing = (one if one.energy is None else other).name
        return html.P(f"There is nothing to compare: {missing} has no figures.", className="empty")
    return table(
        f"{one.name} compared with {other.name}, boundary {asked.boundary}",
        ("Figure", one.name, other.name, "Difference", "Note"),
        [
            (
                it.name,
                it.words(it.one),
                it.words(it.other),
                html.Span(quantities.change(it.difference), className="doubtful" if it.doubt else ""),
                badge(it.doubt, "warn") if it.doubt else "",
            )
            for it in _figures(one, one.energy, other, other.energy, asked.boundary)
        ],
        "",
        numbers=(1, 2, 3),
    )


def _figures(
    one: _Side, one_energy: EnergyPerToken, other: _Side, other_energy: EnergyPerToken, boundary: str
) -> list[Compared]:
    of_energy = partial(_of_energy, one_energy, other_energy)
    rows = [
        of_energy(f"J per generated token, {boundary}", "j_per_generated_token", joules),
        of_energy(f"J per token of prompts and answers, {boundary}", "j_per_token", joules),
        of_energy(f"J per request, {boundary}", "j_per_request", joules),
        of_energy(f"Tokens/s per MW, {boundary}", "tokens_per_s_per_mw", _number),
        Compared(
            "Generated tokens/s", one_energy.generated_tokens_per_s, other_energy.generated_tokens_per_s, _number,
            token_rows.doubt_of_serving(one.serving, other.serving),
        ),
        Compared(
            "Provisioned idle", token_rows.idle_share(one.idle), token_rows.idle_share(other.idle),
            quantities.share, "",
        ),
    ]  # fmt: skip
    if one.serving is None or other.serving is None:
        return rows
    doubt = token_rows.doubt_of_serving(one.serving, other.serving)
    return rows + [
        Compared(name, getattr(one.serving, field), getattr(other.serving, field), words, doubt)
        for name, field, words in (
            ("Batch", "batch", _number),
            ("Time to first token, p50", "ttft_p50_s", quantities.latency),
            ("Time to first token, p95", "ttft_p95_s", quantities.latency),
            ("Time between tokens, p50", "itl_p50_s", quantities.latency),
        )
    ]


def _of_energy(one: EnergyPerToken, other: EnergyPerToken, name: str, field: str, words: Any) -> Compared:
    return Compared(name, getattr(one, field), getattr(other, field), words, token_rows.doubt_of(one, other))


def _number(value: float | None) -> str:
    return quantities.digits(value, "")
