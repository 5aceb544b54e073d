"""Meters' windows at the door: what they may say, and how they become rows of the store."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from api.decode import Fault, Parcel, good_windows, refuse
from api.rows import BOUNDS, LARGEST_LEAD
from gigawatch.bodies import NTP
from gigawatch.records import MeterWindow
from gigawatch.schema import meter_window
from gigawatch.units import MILLISECONDS_PER_HOUR, MILLISECONDS_PER_SECOND
from gigawatch.wire import Refusal

MOST_MW = 5 * 10**12
"""5 GW: more than flows through any one meter. What is beyond is of another unit, and would spoil its site's sums."""
MOST_MA = 10**9
MOST_ML_PER_S = 10**8
"""100 m³/s."""
MOST_READINGS = 10**6
HOUR = timedelta(hours=1)
Connection = psycopg.Connection[Any]
_COLUMNS = tuple(column.name for column in meter_window.columns)
_AS_SENT = tuple(name for name in _COLUMNS if name not in {"time", "meter_id"})
_WHERE = "meter_windows"


class Kept(NamedTuple):
    """From when on windows are taken."""

    windows: datetime
    """Of what was before, only whole hours of a meter are taken, once: their windows are not kept beside them."""
    hours: datetime
    """Of what was before, none: it would be in no hour that is kept."""


class Meters:
    """Numbers of meters, so as not to ask for them with each batch."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, str], int] = {}

    def forget(self) -> None:
        """Ask anew: a transaction was undone, and what it made may not exist."""
        self._ids.clear()

    def write(
        self,
        connection: Connection,
        parcels: Sequence[Parcel],
        node_ids: Sequence[int],
        kept: Kept,
        closed: datetime | None,
    ) -> list[int]:
        """Store the parcels' meter windows; how many of each were new.

        Args:
            connection: in a transaction that holds CLOSE_LOCK shared.
            parcels: what was received.
            node_ids: of their nodes.
            kept: from when on windows are taken.
            closed: windows before it are marked, to be folded again.
        """
        if not any(parcel.meter_windows for parcel in parcels):
            return [0] * len(parcels)
        sites = dict(
            connection.execute(
                "SELECT node_id, site_id FROM gigawatch.node WHERE node_id = ANY(%s)", [list(set(node_ids))]
            ).fetchall()
        )
        meters = [
            self._of_site(connection, sites[node_id], {it.meter for it in parcel.meter_windows})
            for parcel, node_id in zip(parcels, node_ids, strict=True)
        ]
        self._note_seen(connection, parcels, node_ids, meters)
        self._refuse_folded(connection, parcels, meters, kept)
        return [
            _insert(connection, parcel, its, closed) if parcel.meter_windows else 0
            for parcel, its in zip(parcels, meters, strict=True)
        ]

    def _of_site(self, connection: Connection, site_id: int, names: set[str]) -> dict[str, int]:
        """Numbers by name; a meter that is new gets a row, which has no role yet."""
        new = sorted(name for name in names if (site_id, name) not in self._ids)
        if new:
            connection.execute(
                "INSERT INTO gigawatch.meter (site_id, name) SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING",
                [site_id, new],
            )
            found = connection.execute(
                "SELECT name, meter_id FROM gigawatch.meter WHERE site_id = %s AND name = ANY(%s)", [site_id, new]
            )
            self._ids |= {(site_id, name): meter_id for name, meter_id in found}
        return {name: self._ids[site_id, name] for name in names}

    def _note_seen(
        self,
        connection: Connection,
        parcels: Sequence[Parcel],
        node_ids: Sequence[int],
        meters: Sequence[dict[str, int]],
    ) -> None:
        seen = {
            meter_id: (node_id, parcel.batch.simulated)
            for parcel, node_id, its in zip(parcels, node_ids, meters, strict=True)
            for meter_id in its.values()
        }
        ids = sorted(seen)
        # In the same order in every process, so that none waits for another that waits for it.
        connection.execute(
            "SELECT 1 FROM gigawatch.meter WHERE meter_id = ANY(%s) ORDER BY meter_id FOR NO KEY UPDATE", [ids]
        )
        connection.execute(
            "UPDATE gigawatch.meter SET last_seen = now(), node_id = new.node_id, simulated = new.simulated"
            " FROM unnest(%s::integer[], %s::integer[], %s::boolean[]) AS new (meter_id, node_id, simulated)"
            " WHERE meter.meter_id = new.meter_id",
            [ids, [seen[it][0] for it in ids], [seen[it][1] for it in ids]],
        )

    def _refuse_folded(
        self, connection: Connection, parcels: Sequence[Parcel], meters: Sequence[dict[str, int]], kept: Kept
    ) -> None:
        """Leave out windows of hours that are folded and of which no windows are kept: they cannot be folded again."""
        old = sorted(
            {
                (its[window.meter], hour_of(window.start))
                for parcel, its in zip(parcels, meters, strict=True)
                for window in parcel.meter_windows
                if hour_of(window.start) < kept.windows
            }
        )
        if not old:
            return
        rows = connection.execute(
            "SELECT meter_id, time FROM unnest(%s::integer[], %s::timestamptz[]) AS old (meter_id, time)"
            " JOIN gigawatch.meter_1h USING (meter_id, time)",
            [[it[0] for it in old], [it[1] for it in old]],
        )
        folded = {(meter_id, time.astimezone(UTC)) for meter_id, time in rows}
        for parcel, its in zip(parcels, meters, strict=True):
            good = []
            for place, window in zip(parcel.meter_places, parcel.meter_windows, strict=True):
                if (its[window.meter], hour_of(window.start)) in folded:
                    words = f"{window.start:%Y-%m-%d %H} h UTC is folded, and its windows are no longer kept"
                    remedy = "Send all windows of an hour so old at once, or replace them: `gigawatch meter import`."
                    refuse(parcel.refused, Refusal(where=f"{_WHERE}[{place}].start", error=words, remedy=remedy))
                else:
                    good.append((place, window))
            parcel.meter_places = [place for place, _ in good]
            parcel.meter_windows = [window for _, window in good]


def hour_of(moment: datetime) -> datetime:
    """The full hour that a moment lies in, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _insert(connection: Connection, parcel: Parcel, meters: dict[str, int], closed: datetime | None) -> int:
    windows = parcel.meter_windows
    written = insert(connection, [(meters[it.meter], it) for it in windows], closed)
    if written < len(windows):
        there = Refusal(
            where=_WHERE,
            error="windows of the same meter and start are stored already",
            remedy="Do two agents read one meter, or have two meters of a site one name?",
            count=len(windows) - written,
        )
        refuse(parcel.refused, there)
    return written


def insert(connection: Connection, windows: Sequence[tuple[int, MeterWindow]], closed: datetime | None) -> int:
    """Write windows, each with its meter's number, but those that are there; how many.

    Args:
        connection: in a transaction that holds CLOSE_LOCK shared.
        windows: each with its meter's number.
        closed: hours before it that they lie in are marked, to be folded again.
    """
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, [_row(meter_id, window) for meter_id, window in windows])
        written = cursor.rowcount
    late = sorted({(meter_id, hour_of(it.start)) for meter_id, it in windows if closed and it.start < closed})
    if late:
        connection.execute(
            "INSERT INTO gigawatch.rollup_dirty (level, time, node_id)"
            " SELECT 'meter_1h', time, meter_id"
            " FROM unnest(%s::timestamptz[], %s::integer[]) AS late (time, meter_id)",
            [[it[1] for it in late], [it[0] for it in late]],
        )
    return written


_INSERT = sql.SQL("INSERT INTO gigawatch.meter_window ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
    sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)), sql.SQL(", ").join(sql.Placeholder() * len(_COLUMNS))
)


def closed_until(connection: Connection) -> datetime | None:
    """Up to when hours of meters are closed; None: none was folded yet."""
    row = connection.execute("SELECT closed FROM gigawatch.rollup WHERE level = 'meter_1h'").fetchone()
    return None if row is None else row[0]


def _row(meter_id: int, window: MeterWindow) -> list[Any]:
    values = {name: getattr(window, name) for name in _AS_SENT} | {"time": window.start, "meter_id": meter_id}
    return [values[name] for name in _COLUMNS]


def check(parcel: Parcel, earliest: datetime) -> None:
    """Leave out the parcel's meter windows that mean nothing possible, and say why.

    Args:
        parcel: what was received.
        earliest: older windows are no longer taken.
    """
    parcel.meter_places, parcel.meter_windows = good_windows(
        parcel.refused, _WHERE, parcel.meter_places, parcel.meter_windows,
        lambda window: next(_faults(window, parcel.received, earliest), None),
    )  # fmt: skip


def _faults(window: MeterWindow, received: datetime, earliest: datetime) -> Iterator[Fault]:
    """Each field that is wrong, why, and what to do."""
    start_ms = round(window.start.timestamp() * MILLISECONDS_PER_SECOND)
    if start_ms // MILLISECONDS_PER_HOUR != (start_ms + window.covered_ms - 1) // MILLISECONDS_PER_HOUR:
        yield "covered_ms", "the window crosses a full hour", "End windows on full hours."
    # Subtracted: the end of a window of the year 9999 is no moment.
    if window.start > received + LARGEST_LEAD - timedelta(milliseconds=window.covered_ms):
        yield "start", f"{window.start:%Y-%m-%d %H:%M:%S} is in the future", NTP
    if window.start < earliest:
        words = f"it is before {earliest:%Y-%m-%d %H:%M} UTC, from when on hours are kept"
        yield "start", words, "Raise retention.hours_d of the server to take older ones."
    if (window.energy_mj is None) != (window.energy_method is None):
        words = "energy_mj and energy_method come together, or neither"
        yield "energy_method", words, "Say how it was obtained: 1 register, 2 interpolated, 3 integrated, 4 estimated."
    if (
        window.power_min_mw is not None
        and window.power_max_mw is not None
        and window.power_min_mw > window.power_max_mw
    ):
        yield "power_min_mw", f"{window.power_min_mw} is above power_max_mw = {window.power_max_mw}", "Swap them."
    most = {
        "energy_mj": MOST_MW * window.covered_ms // MILLISECONDS_PER_SECOND,
        "power_mean_mw": MOST_MW,
        "power_min_mw": MOST_MW,
        "power_max_mw": MOST_MW,
        "current_max_ma": MOST_MA,
        "volume_ml": MOST_ML_PER_S * window.covered_ms // MILLISECONDS_PER_SECOND,
        "rejected_readings": MOST_READINGS,
    }
    for name, bound in most.items():
        value = getattr(window, name)
        if value is not None and abs(value) > bound:
            yield name, f"{value} is beyond {bound}", BOUNDS
