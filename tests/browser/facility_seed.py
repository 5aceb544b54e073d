"""Three sites whose meters came through the API's own store and folder: sound, poor, and with a configured PUE."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from api.factors import files, store
from gigawatch.records import MeterWindow
from tests.facility import DAY, HOUR, fold, place, send, window

DAYS = 45
KEEP = timedelta(days=400)
MINUTE = timedelta(minutes=1)
STUCK, REVERSED, SILENT, NEVER, UNPLACED = "pdu-b2", "pump-2", "ups-b-in", "lighting-2", "new-meter"
OSLO = {
    "main-a": {"role": "utility", "feed": "A", "contract_mw": 60_000_000},
    "main-b": {"role": "utility", "feed": "B", "contract_mw": 60_000_000},
    "roof": {"role": "generation"},
    "ups-a-in": {"role": "ups_in", "feed": "A", "rated_mw": 40_000_000},
    SILENT: {"role": "ups_in", "feed": "B", "rated_mw": 40_000_000},
    "ups-a-out": {"role": "ups_out", "feed": "A"},
    "ups-b-out": {"role": "ups_out", "feed": "B"},
    "pdu-a1": {"role": "pdu", "feed": "A", "hall": "A", "breaker_ma": 32_000},
    "pdu-a2": {"role": "pdu", "feed": "A", "hall": "B", "breaker_ma": 32_000},
    "pdu-b1": {"role": "pdu", "feed": "B", "hall": "A", "breaker_ma": 20_000},
    STUCK: {"role": "pdu", "feed": "B", "hall": "B", "breaker_ma": 32_000},
    "chiller": {"role": "cooling", "hall": "A"},
    "pump-1": {"role": "pump"},
    "lighting-1": {"role": "lighting"},
    NEVER: {"role": "lighting", "since": datetime(2036, 1, 1, tzinfo=UTC)},
    "water": {"role": "water", "potable": True},
    "heating": {"role": "heat_reuse"},
    "outside": {"role": "temperature"},
}
"""Of oslo; REVERSED is placed once its hours are in."""
AUSTIN = {
    "grid": {"role": "utility"},
    "rack-pdu": {"role": "pdu", "hall": "Main", "breaker_ma": 32_000},
    "crac": {"role": "cooling"},
}
FEEDS = [
    ("main-a", "ups-a-in"), ("main-b", SILENT), ("ups-a-in", "ups-a-out"), (SILENT, "ups-b-out"),
    ("ups-a-out", "pdu-a1"), ("ups-a-out", "pdu-a2"), ("ups-b-out", "pdu-b1"), ("ups-b-out", STUCK),
]  # fmt: skip


def _celsius(time: datetime) -> float:
    """Of the air outside, over day and month."""
    return 14 + 7 * math.sin((time.hour - 9) / 12 * math.pi) + 5 * math.sin(time.timestamp() / 86_400 / 5)


def _it_kw(time: datetime) -> float:
    return 34 + 6 * math.sin((time.hour - 8) / 12 * math.pi) + math.sin(time.timestamp() / 86_400)


def _oslo(time: datetime) -> dict[str, float]:
    """kW of each meter, or kWh of an hour."""
    it, outside = _it_kw(time), _celsius(time)
    cooling = it * (0.06 + 0.008 * max(0.0, outside - 8))
    behind_ups = it / 0.985
    before_ups = behind_ups / 0.94
    roof = max(0.0, 2 * math.sin((time.hour - 6) / 12 * math.pi))
    grid = before_ups + cooling + 1.2 + 0.4 + 0.5 - roof
    return {
        "main-a": grid * 0.55, "main-b": grid * 0.45, "roof": roof, "ups-a-in": before_ups * 0.55,
        SILENT: before_ups * 0.45, "ups-a-out": behind_ups * 0.55, "ups-b-out": behind_ups * 0.45,
        "pdu-a1": it * 0.3, "pdu-a2": it * 0.25, "pdu-b1": it * 0.25, STUCK: it * 0.2, "chiller": cooling,
        "pump-1": 1.2, "lighting-1": 0.4, "heating": cooling * 0.8,
    }  # fmt: skip


def _austin(time: datetime) -> dict[str, float]:
    it = 13 + math.sin(time.timestamp() / 20_000)
    return {"grid": it * 1.62, "rack-pdu": it, "crac": it * 0.5}


def _amperes(kw: float) -> int:
    return round(kw * 1000 / 3 / 230 * 1000)


def _hours(start: datetime, hours: int) -> Iterator[MeterWindow]:
    for time in (start + number * HOUR for number in range(hours)):
        for name, kw in _oslo(time).items():
            yield window(
                name, time, kwh=kw, power_mean_mw=round(kw * 1e6), power_min_mw=round(kw * 0.94e6),
                power_max_mw=round(kw * 1.05e6), current_max_ma=_amperes(kw * 1.05) if name.startswith("pdu") else None,
            )  # fmt: skip
        yield window("water", time, volume_ml=round(_it_kw(time) * 1_400))
        yield window("outside", time, temp_mean_mc=round(_celsius(time) * 1000))


def _moments(names: dict[str, float], now: datetime) -> Iterator[MeterWindow]:
    """Windows of the last minute, of what reports."""
    for name, kw in names.items():
        if name not in {SILENT, REVERSED}:
            yield window(
                name, now - MINUTE, kwh=kw / 60, covered_ms=60_000, power_mean_mw=round(kw * 1e6), readings_taken=6,
                readings_expected=6, current_max_ma=_amperes(kw) if name.startswith("pdu") else None,
            )  # fmt: skip


def seed(engine: Engine, now: datetime, *, faults: bool = True) -> None:
    """Forty-five days of hours and the last minute; with faults, hours that are missing, and that cannot be right."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    start = hour - DAYS * DAY
    place(engine, OSLO, feeds=FEEDS)
    found = list(_hours(start, DAYS * 24))
    if faults:
        found = [it for it in found if not _missing(it, hour)]
        found = [_faulty(it, hour) for it in found]
    for first in range(0, len(found), 4_000):
        send(engine, found[first : first + 4_000], keep=KEEP)
    austin = [
        window(name, time, kwh=kw)
        for time in (start + number * HOUR for number in range(DAYS * 24))
        for name, kw in _austin(time).items()
        # A gateway that was down for two of five days.
        if time.timetuple().tm_yday % 5 > 1
    ]
    send(engine, austin, site="austin", keep=KEEP)
    place(engine, AUSTIN, site="austin")
    pues = files.pues(b"start,stop,pue\n2026-01-01,2036-01-01,1.31\n", time_zone="UTC")
    factors = files.intensities(b"start,stop,g_per_kwh\n2026-01-01,2036-01-01,26\n", time_zone="UTC")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('paris') ON CONFLICT DO NOTHING"))
        store.take(connection, "paris", store.CONFIGURED_PUE, pues, version="1", source="design", replace=False,
                   dry_run=False)  # fmt: skip
        store.take(connection, "oslo", store.intensity("location", None), factors, version="1", source="test",
                   replace=False, dry_run=False)  # fmt: skip
    if faults:
        _ill(engine, hour)
    fold(engine, now)
    recent(engine, now)


def recent(engine: Engine, now: datetime) -> None:
    """What the meters say at this moment."""
    send(
        engine, [*_moments(_oslo(now), now), *([window(UNPLACED, now - MINUTE, kwh=0.1, covered_ms=60_000)])], keep=KEEP
    )
    send(engine, _moments(_austin(now), now), site="austin", keep=KEEP)
    # Its gateway does not say of itself that it is simulated.
    place(engine, {name: {"simulated": True} for name in AUSTIN}, site="austin")


def _missing(it: MeterWindow, hour: datetime) -> bool:
    """Five hours of a grid meter ten days ago, a day of a PDU three weeks ago, and what a UPS said this day."""
    ago = hour - it.start
    return (
        (it.meter == "main-b" and 10 * DAY < ago <= 10 * DAY + 5 * HOUR)
        or (it.meter == "pdu-a2" and 21 * DAY < ago <= 22 * DAY)
        or (it.meter == SILENT and ago <= 6 * HOUR)
    )


def _faulty(it: MeterWindow, hour: datetime) -> MeterWindow:
    """Three hours in which IT would have taken more than the grid gave, two days ago."""
    if it.meter.startswith("pdu") and 2 * DAY < hour - it.start <= 2 * DAY + 3 * HOUR:
        return window(it.meter, it.start, energy_mj=3 * (it.energy_mj or 0), power_mean_mw=it.power_mean_mw)
    return it


def _ill(engine: Engine, hour: datetime) -> None:
    """A register that stands still beside power, and swapped current transformers, both of the last hour."""
    last = hour - HOUR
    still = [
        window(STUCK, last + number * MINUTE, energy_mj=0, covered_ms=60_000, power_mean_mw=5_000_000,
               power_min_mw=5_000_000, power_max_mw=5_000_000, readings_taken=6, readings_expected=6)
        for number in range(60)
    ]  # fmt: skip
    with engine.begin() as connection:
        connection.execute(
            text(
                "DELETE FROM gigawatch.meter_window USING gigawatch.meter WHERE meter.meter_id = meter_window.meter_id"
                " AND meter.name = :name AND time >= :last"
            ),
            {"name": STUCK, "last": last},
        )
    place(engine, {REVERSED: {"role": "pump", "since": last}})
    send(engine, [*still, window(REVERSED, last, kwh=1.0, power_mean_mw=-1_000_000, power_min_mw=-1_100_000,
                                 power_max_mw=-900_000)], keep=KEEP)  # fmt: skip
