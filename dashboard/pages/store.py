"""The store itself: how far windows are folded, how large its tables are, what its jobs did."""

from datetime import datetime
from typing import Any

import flask
from dash import html
from sqlalchemy import Connection

from dashboard import quantities
from dashboard.components import badge, card, panel, table
from dashboard.theme import Theme
from dashboard.view import View
from gigawatch import readings
from gigawatch.database import Capabilities, capabilities
from gigawatch.readings import StoreJob, StoreRollup, StoreStatus, StoreTable
from gigawatch.settings import Retention

RETENTION = "RETENTION"
"""Where the server's configuration has the settings of that name."""
SAID = "How far windows are folded, how large the tables are, what the jobs did. Times are UTC."
NAMES = {
    "1m": "Minutes",
    "1h": "Hours",
    "1d": "Days",
    "weighed_1h": "Hours by prices and intensities",
    "meter_1h": "Hours of meters",
    "facility_1d": "Facilities, and days of meters",
}


def render(connection: Connection, _: View, __: Theme, ___: datetime) -> Any:
    """The page."""
    status = readings.store_status(connection)
    problems = readings.store_problems(status)
    return html.Div(
        [
            html.Div([html.H1("Store"), html.P(SAID, className="boundary")], className="title wide"),
            html.Div(
                [html.Div(problem, className="banner bad") for problem in problems],
                id="live-problems", className="wide", **{"aria-live": "polite"},
            ),
            _cards(status, capabilities(connection), flask.current_app.config[RETENTION]),
            panel("Folding", _rollups(status.rollups), note="lag: time since the end of what is folded", wide=True),
            panel("Jobs", _jobs(status.jobs), note="the last run of each", wide=True),
            panel("Tables", _tables(status.tables), note="rows as last estimated; sizes with indexes", wide=True),
        ],
        className="grid",
    )  # fmt: skip


def _cards(status: StoreStatus, able: Capabilities, kept: Retention) -> html.Dl:
    minutes = status.rollups[0]
    waiting = sum(it.dirty_buckets for it in status.rollups)
    oldest = min((it.oldest_dirty for it in status.rollups if it.oldest_dirty is not None), default=None)
    total = sum(it.total_bytes for it in status.tables)
    indexes = sum(it.index_bytes for it in status.tables)
    return html.Dl(
        [
            card(
                "PostgreSQL",
                str(able.postgresql),
                f"{able.edition} {able.timescaledb}" if able.hypertables else "without TimescaleDB",
            ),
            card(
                "Minutes folded",
                quantities.clock(minutes.folded),
                "nothing is folded yet"
                if minutes.folded is None
                else f"up to then, UTC, {quantities.duration(minutes.lag_s)} ago",
                tone="bad" if readings.is_behind(minutes) else "",
            ),
            card(
                "Buckets waiting",
                quantities.count(waiting),
                "no late data" if oldest is None else f"late data, the oldest of {quantities.moment(oldest)}",
            ),
            card("Size on disk", quantities.size(total), f"{quantities.share(indexes / total)} of it indexes"),
            card(
                "Windows kept",
                _kept(kept.windows_d),
                f"minutes {_kept(kept.minutes_d)}, hours {_kept(kept.hours_d)}, days {_kept(kept.days_d)}",
            ),
        ],
        id="live-cards",
        className="cards",
    )


def _kept(days: float | None) -> str:
    return "for ever" if days is None else f"{days:g}{quantities.SPACE}d"


def _rollups(rollups: list[StoreRollup]) -> html.Div:
    def state(rollup: StoreRollup) -> html.Span:
        if rollup.folded is None:
            return badge("nothing folded yet")
        return badge("behind", "bad") if readings.is_behind(rollup) else badge("up to date", "ok")

    return table(
        "Levels of folding",
        ["Level", "State", "Folded up to", "Lag", "Buckets waiting", "Oldest of them"],
        [
            [
                NAMES[it.level],
                state(it),
                html.Time(quantities.moment(it.folded)),
                quantities.duration(it.lag_s),
                quantities.count(it.dirty_buckets),
                html.Time(quantities.moment(it.oldest_dirty)),
            ]
            for it in rollups
        ],
        "There are no levels.",
        numbers=[3, 4],
    )


def _jobs(jobs: list[StoreJob]) -> html.Div:
    def state(job: StoreJob) -> html.Span:
        if job.error is not None:
            return badge("failed" if job.finished else "failed, runs again", "bad")
        return badge("runs") if job.finished is None else badge("done", "ok")

    return table(
        "Jobs of the scheduler",
        ["Job", "State", "Result", "Last run", "Took", "Leader"],
        [
            [
                it.name,
                state(it),
                it.error or it.progress or quantities.UNKNOWN,
                html.Time(quantities.moment(it.started)),
                quantities.with_unit(it.took_s, "s"),
                it.leader,
            ]
            for it in jobs
        ],
        "No job ran yet: gigawatch serve runs them, with server.scheduler on.",
        numbers=[4],
    )


def _chunks(table: StoreTable) -> Any:
    if not table.chunks:
        return quantities.UNKNOWN
    if table.uncompressed_bytes is None:
        return quantities.count(table.chunks)
    packed = quantities.share(table.compressed_bytes / table.uncompressed_bytes)
    said = f"{quantities.count(table.compressed_chunks)} compressed to {packed}"
    return [quantities.count(table.chunks), html.Span(said, className="note")]


def _tables(tables: list[StoreTable]) -> html.Div:
    greatest = max(it.total_bytes for it in tables)

    def bar(it: StoreTable) -> html.Span:
        width = html.Span(style={"width": f"{it.total_bytes / greatest:.1%}"})
        return html.Span(width, className="share", **{"aria-hidden": "true"})

    return table(
        "Tables of the store, the largest first",
        ["Table", "Rows", "Size", "Oldest", "Newest", "Chunks"],
        [
            [
                [html.Code(it.table_name), html.Span(it.holds, className="note")],
                quantities.count(it.rows),
                [quantities.size(it.total_bytes), bar(it)],
                html.Time(quantities.moment(it.oldest)),
                html.Time(quantities.moment(it.newest)),
                _chunks(it),
            ]
            for it in tables
        ],
        "There are no tables.",
        numbers=[1, 2, 5],
    )
