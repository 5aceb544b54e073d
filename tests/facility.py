"""A facility whose windows and topology are ours: windows in by the API's own way, the topology as it compiles."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import Engine, text

from api.decode import Parcel, decode
from api.meter_rollups import topology_changed
from api.rollups import SETTLED, Folder
from api.store import Store
from gigawatch.records import EnergyMethod, Event, Inventory, MeterWindow
from gigawatch.wire import MSGPACK, Batch, Receipt, encode

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
KWH_MJ = 3_600_000_000
KEEP = timedelta(days=7)


def today() -> datetime:
    """The start of this day, UTC."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def newest(length: timedelta = timedelta(seconds=10)) -> datetime:
    """When the newest window that is over began, where all are of this length and begin at multiples of it: one that
    begins at any other moment may cross a full hour, and is refused."""
    day = today()
    return day + ((datetime.now(UTC) - day) // length - 1) * length


def window(meter: str, start: datetime, **values: Any) -> MeterWindow:
    """A window of a whole hour, unless told otherwise."""
    if "kwh" in values:
        values["energy_mj"] = round(values.pop("kwh") * KWH_MJ)
    if "energy_mj" in values:
        values.setdefault("energy_method", EnergyMethod.COUNTER)
    return MeterWindow(
        meter=meter, start=start, **{"covered_ms": 3_600_000, "readings_taken": 1, "readings_expected": 1} | values
    )


def hourly(meter: str, start: datetime, hours: int, **values: Any) -> list[MeterWindow]:
    """As many windows of an hour each."""
    return [window(meter, start + number * HOUR, **values) for number in range(hours)]


def send(
    engine: Engine,
    windows: Iterable[MeterWindow],
    *,
    site: str = "oslo",
    keep: timedelta = KEEP,
    events: Sequence[Event] = (),
    **batch: Any,
) -> Receipt:
    """Store windows as a batch of the site's meter gateway."""
    now = datetime.now(UTC)
    machine = f"gateway-{site}"
    body = encode(
        Batch(machine_id=machine, sent_at=now, **batch),
        inventory=Inventory(hostname=machine, site=site),
        meter_windows=list(windows),
        events=events,
    )
    return store(engine, body, now, keep)


def store(engine: Engine, body: bytes, now: datetime, keep: timedelta) -> Receipt:
    """Store a body with one batch, as the API does."""
    (parcel,) = decode(body, MSGPACK, now, 300)
    assert isinstance(parcel, Parcel)
    writer = Store(engine, keep)
    (receipt,) = writer.store([parcel])
    writer.close()
    assert isinstance(receipt, Receipt), receipt
    return receipt


def fold(engine: Engine, now: datetime | None = None) -> None:
    """Fold what is over by a moment."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        Folder(connection, lambda _: None).run((now or datetime.now(UTC)) + SETTLED)


def place(
    engine: Engine,
    meters: Mapping[str, Mapping[str, Any]],
    *,
    site: str = "oslo",
    feeds: Sequence[tuple[str, str]] = (),
    terms: Sequence[tuple[str, str, int]] = (),
) -> None:
    """Say what a site's meters are, as a topology does: `{"u": {"role": "utility", "hall": "A"}}`."""
    with engine.begin() as connection:
        run = connection.execute
        run(text("INSERT INTO gigawatch.site (name) VALUES (:site) ON CONFLICT DO NOTHING"), {"site": site})
        site_id = connection.scalar(text("SELECT site_id FROM gigawatch.site WHERE name = :site"), {"site": site})
        for name, said in meters.items():
            values = dict(said)
            hall = values.pop("hall", None)
            if hall is not None:
                run(
                    text("INSERT INTO gigawatch.hall (site_id, name) VALUES (:site_id, :hall) ON CONFLICT DO NOTHING"),
                    {"site_id": site_id, "hall": hall},
                )
                values["hall_id"] = connection.scalar(
                    text("SELECT hall_id FROM gigawatch.hall WHERE site_id = :site_id AND name = :hall"),
                    {"site_id": site_id, "hall": hall},
                )
            names = ", ".join(values)
            update = ", ".join(f"{it} = excluded.{it}" for it in values)
            run(
                text(
                    f"INSERT INTO gigawatch.meter (site_id, name, {names}) VALUES (:site_id, :name,"
                    f" {', '.join(f':{it}' for it in values)}) ON CONFLICT (site_id, name) DO UPDATE SET {update}"
                ),
                {"site_id": site_id, "name": name, **values},
            )
        number = "(SELECT meter_id FROM gigawatch.meter WHERE site_id = :site_id AND name = :{})"
        for above, below in feeds:
            run(
                text(f"INSERT INTO gigawatch.meter_feed VALUES ({number.format('above')}, {number.format('below')})"),
                {"site_id": site_id, "above": above, "below": below},
            )
        for virtual, term, sign in terms:
            run(
                text(f"INSERT INTO gigawatch.meter_term VALUES ({number.format('v')}, {number.format('t')}, :sign)"),
                {"site_id": site_id, "v": virtual, "t": term, "sign": sign},
            )
        topology_changed(connection, [site_id])
