"""Meters' windows at the door: good ones are stored once, bad ones refused by field, and nothing else is lost."""

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import Engine, text

from api.decode import Parcel, decode
from api.store import Store
from gigawatch.records import Inventory
from gigawatch.settings import Retention
from gigawatch.wire import BATCHES, JSON, Batch, Receipt, encode
from tests.facility import HOUR, fold, hourly, send, today, window
from tests.factory import rows
from tests.merged import together
from tests.servers import Api, running_api


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[Api]:
    with running_api(database_url, tmp_path / "api.log", GIGAWATCH_SERVER__SCHEDULER="false") as api:
        yield api


@functools.cache
def this_hour() -> datetime:
    """The start of the hour in which a test first asked: what it sends twice is the same."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Each test has a moment of its own."""
    this_hour.cache_clear()


def hour(ago: int = 2) -> datetime:
    return this_hour() - ago * HOUR


def plain(**values: Any) -> dict[str, Any]:
    """A meter's window as JSON has it."""
    known: dict[str, Any] = msgspec.to_builtins(
        window("m", hour(), kwh=1, covered_ms=10_000, power_mean_mw=5, volume_ml=7, temp_mean_mc=-1)
    )
    return {**known, **values}


def post(client: httpx.Client, **items: Any) -> dict[str, Any]:
    batch = {"machine_id": "gateway", "sent_at": datetime.now(UTC).isoformat(), **items}
    response = client.post("/api/v1/batches", content=json.dumps(batch, default=str), headers={"Content-Type": JSON})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


METERS = """
    SELECT site.name AS site, meter.name, role, meter.simulated, hostname
    FROM gigawatch.meter JOIN gigawatch.site USING (site_id) LEFT JOIN gigawatch.node USING (node_id) ORDER BY 1, 2"""


def test_what_is_sent_is_stored_once_and_makes_meters_known(api: Api, engine: Engine) -> None:
    inventory = {"hostname": "gw", "site": "oslo"}
    with api.client("agent") as client:
        answer = post(client, inventory=inventory, simulated=True, meter_windows=[plain(), plain(meter="n")])
        assert (answer["meter_windows"], answer["refused"]) == (2, [])
        again = post(client, inventory=inventory, meter_windows=[plain(), plain(start=hour(1).isoformat())])
    assert again["meter_windows"] == 1
    assert [it["where"] for it in again["refused"]] == ["meter_windows"]
    # In no figure, until a topology says what they are.
    assert rows(engine, METERS) == [
        {"site": "oslo", "name": "m", "role": None, "simulated": False, "hostname": "gw"},
        {"site": "oslo", "name": "n", "role": None, "simulated": True, "hostname": "gw"},
    ]
    assert rows(engine, "SELECT covered_ms, energy_mj, power_mean_mw, volume_ml, temp_mean_mc, energy_method"
                        " FROM gigawatch.meter_window") == [
        {"covered_ms": 10_000, "energy_mj": 3_600_000_000, "power_mean_mw": 5, "volume_ml": 7, "temp_mean_mc": -1,
         "energy_method": 1}
    ] * 3  # fmt: skip
    with api.client("viewer") as client:
        assert "gigawatch_ingest_meter_windows_total 3" in client.get("/metrics").text
        described = client.get("/openapi.json").json()["components"]["schemas"]
    assert described["Batch"]["properties"]["meter_windows"]["items"] == {"$ref": "#/components/schemas/MeterWindow"}
    assert "energy_mj" in described["MeterWindow"]["properties"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"covered_ms": 3_600_000, "start": (hour() + timedelta(seconds=1)).isoformat()}, "covered_ms"),
    ({"covered_ms": 3_600_001}, "covered_ms"),
    ({"start": hour(-24).isoformat()}, "start"),
    ({"start": "2019-01-01T00:00:00Z"}, "start"),
    ({"start": "0001-01-01T00:00:00+14:00"}, "start"),
    ({"start": "9999-12-31T23:00:00-12:00", "covered_ms": 3_600_000}, "start"),
    ({"power_min_mw": 9, "power_max_mw": 8}, "power_min_mw"),
    ({"energy_method": None}, "energy_method"),
    ({"energy_mj": None}, "energy_method"),
    ({"energy_mj": 5 * 10**13 + 1}, "energy_mj"),
    ({"energy_mj": -1}, "energy_mj"),
    ({"power_mean_mw": -6 * 10**12}, "power_mean_mw"),
    ({"volume_ml": 10**10}, "volume_ml"),
    ({"current_max_ma": 10**10}, "current_max_ma"),
    ({"rejected_readings": 10**7}, "rejected_readings"),
    ({"temp_mean_mc": 2_000_000}, "temp_mean_mc"),
    ({"meter": ""}, "meter"),
    ({"meter": "a\x00b"}, "meter"),
]


def test_wrong_windows_are_refused_by_their_fields_and_alone(database_url: str, tmp_path: Path, engine: Engine) -> None:
    with (
        running_api(database_url, tmp_path / "log", GIGAWATCH_RETENTION__HOURS_D="800") as api,
        api.client("agent") as client,
    ):
        wrong = [plain(**{"meter": f"wrong-{place}"} | values) for place, (values, _) in enumerate(WRONG)]
        answer = post(client, meter_windows=[plain(), *wrong])
    assert answer["meter_windows"] == 1
    expected = {f"meter_windows[{place}].{where}" for place, (_, where) in enumerate(WRONG, 1)}
    assert {it["where"] for it in answer["refused"]} == expected
    assert rows(engine, "SELECT name FROM gigawatch.meter") == [{"name": "m"}]


def test_a_relay_s_batches_carry_them(engine: Engine) -> None:
    batches = [
        msgspec.msgpack.decode(
            encode(
                Batch(machine_id=f"gw-{name}", sent_at=datetime.now(UTC)),
                inventory=Inventory(hostname=name, site=name),
                meter_windows=hourly("m", hour(), 1, kwh=1),
            ),
            type=Batch,
        )
        for name in ("a", "b")
    ]
    parcels = [it for it in decode(together(batches), BATCHES, datetime.now(UTC), 300) if isinstance(it, Parcel)]
    store = Store(engine, timedelta(days=7))
    assert [it.meter_windows for it in store.store(parcels) if isinstance(it, Receipt)] == [1, 1]
    store.close()
    # One name in two sites is two meters.
    assert [(it["site"], it["name"]) for it in rows(engine, METERS)] == [("a", "m"), ("b", "m")]


def test_an_hour_so_old_that_no_windows_of_it_are_kept_is_taken_once(engine: Engine) -> None:
    start = today() - timedelta(days=400)
    assert send(engine, hourly("m", start, 2, kwh=1)).meter_windows == 2
    fold(engine)
    known = rows(engine, "SELECT energy_mj FROM gigawatch.meter_1h")
    answer = send(engine, [*hourly("m", start, 3, kwh=5)])
    assert (answer.meter_windows, [it.where for it in answer.refused]) == (
        1,
        ["meter_windows[0].start", "meter_windows[1].start"],
    )
    fold(engine)
    assert rows(engine, "SELECT energy_mj FROM gigawatch.meter_1h ORDER BY time")[:2] == known


def test_what_waits_to_be_folded_is_not_removed_however_old(engine: Engine) -> None:
    from api.retention import retain

    recent = hour(3)
    send(engine, hourly("m", recent, 1, kwh=1))
    fold(engine)
    old = today() - timedelta(days=300)
    send(engine, hourly("m", old, 5, kwh=1))
    kept = Retention(hours_d=200, days_d=500)
    if len(rows(engine, "SELECT FROM pg_extension WHERE extname = 'timescaledb'")) == 0:
        retain(engine, kept, datetime.now(UTC))
        assert rows(engine, "SELECT count(*) AS it FROM gigawatch.meter_window") == [{"it": 6}]
    fold(engine)
    retain(engine, kept, datetime.now(UTC))
    with engine.connect() as connection:
        left = connection.scalars(text("SELECT time FROM gigawatch.meter_window")).all()
        assert left == [recent]
        hours = connection.scalar(text("SELECT count(*) FROM gigawatch.meter_1h WHERE time < :it"), {"it": recent})
        assert hours == 0
        days = connection.scalar(text("SELECT sum(energy_mj) FROM gigawatch.meter_1d"))
        assert days == 6 * 3_600_000_000
