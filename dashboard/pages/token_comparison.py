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
from dashboard.plots import GOOD_COVERAGE
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
    known: float
    """Part of its time in which anything was measured, 0 to 1."""


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
        _serving(connection, start, stop, asked.of), token_rows.idle_sum(idle), token_rows.known_part(idle, period),
    )  # fmt: skip
    found = recent.read_folded(
        token_readings.energy_per_token, connection, other_start, other_stop, None, "fleet", asked.boundary, other_of
    )
    in_bins = view.token_period(
        msgspec.structs.replace(asked, start=other_start, stop=other_stop), other_stop,
        1 if other_of.deployment else len(names),
    )  # fmt: skip
    other_bins = Period(view.floor(other_start, in_bins.step), other_stop, in_bins.step)
    other_idle = recent.read_folded(
        token_readings.idle, connection, other_start, other_stop, other_bins.step, "fleet", other_of
    )
    other = _Side(
        asked.against or "" if deployments else _words(other_start, other_stop), next(iter(found), None),
        _serving(connection, other_start, other_stop, other_of), token_rows.idle_sum(other_idle),
        token_rows.known_part(other_idle, other_bins),
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
    found = table(
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
    words = (
        f"Coverage of the GPUs' time: {quantities.share(one.energy.coverage)} and"
        f" {quantities.share(other.energy.coverage)}. Known part of the time: {quantities.share(one.known)} and"
        f" {quantities.share(other.known)}; tokens/s are over the whole of it."
    )
    return [found, html.P(words, className="note")]


def _figures(
    one: _Side, one_energy: EnergyPerToken, other: _Side, other_energy: EnergyPerToken, boundary: str
) -> list[Compared]:
    unknown = "not known all the time" if min(one.known, other.known) < GOOD_COVERAGE else ""
    of_energy = partial(_of_energy, one_energy, other_energy, unknown)
    poor = unknown or token_rows.doubt_of_coverage(one_energy, other_energy)
    seldom = token_rows.doubt_of_serving(one.serving, other.serving) or poor
    rows = [
        of_energy(f"J per generated token, {boundary}", "j_per_generated_token", joules),
        of_energy(f"J per token of prompts and answers, {boundary}", "j_per_token", joules),
        of_energy(f"J per request, {boundary}", "j_per_request", joules),
        of_energy(f"Tokens/s per MW, {boundary}", "tokens_per_s_per_mw", _number),
        Compared(
            "Generated tokens/s", one_energy.generated_tokens_per_s, other_energy.generated_tokens_per_s, _number,
            seldom,
        ),
        Compared(
            "Provisioned idle", token_rows.idle_share(one.idle), token_rows.idle_share(other.idle),
            quantities.share, poor,
        ),
    ]  # fmt: skip
    if one.serving is None or other.serving is None:
        return rows
    return rows + [
        Compared(name, getattr(one.serving, field), getattr(other.serving, field), words, seldom)
        for name, field, words in (
            ("Batch", "batch", _number),
            ("Time to first token, p50", "ttft_p50_s", quantities.latency),
            ("Time to first token, p95", "ttft_p95_s", quantities.latency),
            ("Time between tokens, p50", "itl_p50_s", quantities.latency),
        )
    ]


def _of_energy(one: EnergyPerToken, other: EnergyPerToken, unknown: str, name: str, field: str, words: Any) -> Compared:
    doubt = unknown or token_rows.doubt_of(one, other)
    return Compared(name, getattr(one, field), getattr(other, field), words, doubt)


def _number(value: float | None) -> str:
    return quantities.digits(value, "")
