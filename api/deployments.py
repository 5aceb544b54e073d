"""What GPUs serve, and what engines served, as rows of the store."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from api.decode import Fault, Parcel, good_windows, refuse
from api.rows import BOUNDS, LARGEST_LEAD
from gigawatch.bodies import NTP
from gigawatch.records import Assignment, Latencies, ServingWindow
from gigawatch.schema import LATENCIES, serving_window
from gigawatch.units import MILLISECONDS_PER_MINUTE, MILLISECONDS_PER_SECOND
from gigawatch.wire import Refusal

MOST_COUNTED = 10**12
"""Of tokens, requests or request-milliseconds in one window: beyond any engine, and sums of them fit for ever."""
_COLUMNS = tuple(column.name for column in serving_window.columns)
_COUNTS = (
    "prompt_tokens", "cached_tokens", "generated_tokens", "requests_finished", "running_request_ms",
    "waiting_request_ms", "running_requests_max",
)  # fmt: skip
_AS_SENT = (
    "endpoint", "engine", "covered_ms", "observed_ms", "scrapes_taken", "scrapes_expected", *_COUNTS, "active_ms",
    "kv_cache_use_max_pm",
)  # fmt: skip
Connection = psycopg.Connection[Any]


class Deployments:
    """Numbers of deployments, assignments and latencies' bounds, so as not to ask for them with each batch."""

    def __init__(self) -> None:
        self._deployments: dict[tuple[str, str], int] = {}
        self._assignments: dict[tuple[Assignment, ...], int] = {}
        self._bounds: dict[tuple[int, ...], int] = {}

    def forget(self) -> None:
        """Ask anew: a transaction was undone, and what it made may not exist."""
        self._deployments.clear()
        self._assignments.clear()
        self._bounds.clear()

    def assignments(self, connection: Connection, wanted: Iterable[tuple[Assignment, ...]]) -> list[int]:
        """The number of each; 0 where nothing is served."""
        wanted = list(wanted)
        new = {it for it in wanted if it} - self._assignments.keys()
        if new:
            self._learn_deployments(connection, {(it.deployment, it.role.value) for serves in new for it in serves})
            for serves in sorted(new, key=_order):
                ids = [self._deployments[it.deployment, it.role.value] for it in serves]
                endpoints = [it.endpoint or "" for it in serves]
                self._assignments[serves] = _number(
                    connection, "assignment", "assignment_id", {"deployment_ids": ids, "endpoints": endpoints}
                )
        return [self._assignments[it] if it else 0 for it in wanted]

    def write(self, connection: Connection, parcels: Sequence[Parcel], node_ids: Sequence[int]) -> list[int]:
        """Store the parcels' serving windows; how many of each were new."""
        windows = [window for parcel in parcels for window in parcel.serving_windows]
        if not windows:
            return [0] * len(parcels)
        self._learn_deployments(connection, {(it.deployment, it.role.value) for it in windows})
        self._learn_bounds(connection, windows)
        stored = []
        for parcel, node_id in zip(parcels, node_ids, strict=True):
            with connection.cursor() as cursor:
                cursor.executemany(_INSERT, [self._row(node_id, window) for window in parcel.serving_windows])
                written = cursor.rowcount if parcel.serving_windows else 0
            if written < len(parcel.serving_windows):
                there = Refusal(
                    where="serving_windows",
                    error="windows of the same engine, model and start are stored already",
                    remedy="Do two agents run for one node, or does one engine stand twice in its configuration?",
                    count=len(parcel.serving_windows) - written,
                )
                refuse(parcel.refused, there)
            stored.append(written)
        return stored

    def _row(self, node_id: int, window: ServingWindow) -> list[Any]:
        values = {
            **{name: getattr(window, name) for name in _AS_SENT},
            "time": window.start,
            "node_id": node_id,
            "deployment_id": self._deployments[window.deployment, window.role.value],
            "model": window.model or "",
        }
        for name in LATENCIES:
            latencies: Latencies | None = getattr(window, name)
            values[f"{name}_bounds_id"] = None if latencies is None else self._bounds[latencies.bounds_us]
            values[f"{name}_counts"] = None if latencies is None else list(latencies.counts)
        return [values[name] for name in _COLUMNS]

    def _learn_deployments(self, connection: Connection, keys: set[tuple[str, str]]) -> None:
        for name, role in sorted(keys - self._deployments.keys()):
            self._deployments[name, role] = _number(
                connection, "deployment", "deployment_id", {"name": name, "role": role}
            )

    def _learn_bounds(self, connection: Connection, windows: Iterable[ServingWindow]) -> None:
        found = {it.bounds_us for window in windows for name in LATENCIES if (it := getattr(window, name)) is not None}
        for bounds_us in sorted(found - self._bounds.keys()):
            self._bounds[bounds_us] = _number(connection, "latency_bounds", "bounds_id", {"bounds_us": list(bounds_us)})


def check(parcel: Parcel, earliest: datetime) -> None:
    """Leave out the parcel's serving windows that mean nothing possible, and say why.

    Args:
        parcel: what was received.
        earliest: older windows are no longer taken.
    """
    parcel.serving_places, parcel.serving_windows = good_windows(
        parcel.refused, "serving_windows", parcel.serving_places, parcel.serving_windows,
        lambda window: next(_faults(window, parcel.received, earliest), None),
    )  # fmt: skip


def _faults(window: ServingWindow, received: datetime, earliest: datetime) -> Iterator[Fault]:
    """Each field that is wrong, why, and what to do."""
    start_ms = round(window.start.timestamp() * MILLISECONDS_PER_SECOND)
    if start_ms // MILLISECONDS_PER_MINUTE != (start_ms + window.covered_ms - 1) // MILLISECONDS_PER_MINUTE:
        yield "covered_ms", "the window crosses a full minute", "End windows on full minutes."
    # Subtracted: the end of a window of the year 9999 is no moment.
    if window.start > received + LARGEST_LEAD - timedelta(milliseconds=window.covered_ms):
        yield "start", f"{window.start:%Y-%m-%d %H:%M:%S} is in the future", NTP
    if window.start < earliest:
        words = f"it is before {earliest:%Y-%m-%d %H:%M} UTC, from when on windows are kept"
        yield "start", words, "Raise retention.windows_d of the server to take older ones."
    if window.observed_ms > window.covered_ms:
        yield "observed_ms", f"{window.observed_ms} is more than covered_ms = {window.covered_ms}", BOUNDS
    if (window.active_ms or 0) > window.observed_ms:
        yield "active_ms", f"{window.active_ms} is more than observed_ms = {window.observed_ms}", BOUNDS
    counts = {name: getattr(window, name) or 0 for name in _COUNTS}
    counts |= {f"{name}.counts": max(it.counts) for name in LATENCIES if (it := getattr(window, name)) is not None}
    for name, count in counts.items():
        if count > MOST_COUNTED:
            yield name, f"{count} is more than {MOST_COUNTED}", "Is it of this window alone?"


def _order(serves: tuple[Assignment, ...]) -> list[tuple[str, str, str]]:
    return [(it.deployment, it.role.value, it.endpoint or "") for it in serves]


def _number(connection: Connection, table: str, number: str, key: dict[str, Any]) -> int:
    """The number of the row with this key, which is made where it is not there."""
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    values = sql.SQL(", ").join(sql.SQL("%s::" + _KINDS[name]) for name in key)
    connection.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
            sql.Identifier("gigawatch", table), names, values
        ),
        list(key.values()),
    )
    row = connection.execute(
        sql.SQL("SELECT {} FROM {} WHERE ({}) = ({})").format(
            sql.Identifier(number), sql.Identifier("gigawatch", table), names, values
        ),
        list(key.values()),
    ).fetchone()
    assert row is not None
    return int(row[0])


_KINDS = {
    "name": "text", "role": "text", "deployment_ids": "integer[]", "endpoints": "text[]", "bounds_us": "bigint[]",
}  # fmt: skip
_INSERT = sql.SQL("INSERT INTO gigawatch.serving_window ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), sql.SQL(", ").join(sql.Placeholder() * len(_COLUMNS))
)
