"""`gigawatch meter import` and `list`, and the reads over HTTP: files in, the report's views out."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from gigawatch.cli import main
from gigawatch.errors import ExitCode, GigawatchError
from tests.facility import DAY, HOUR, KWH_MJ, fold, hourly, newest, place, send, today, window
from tests.factory import rows
from tests.servers import running_api

START = today() - 3 * DAY


@pytest.fixture
def site(engine: Engine) -> Engine:
    place(engine, {"u": {"role": "utility"}, "p": {"role": "pdu"}})
    return engine


def run(url: str, tmp_path: Path, body: str, *options: str) -> Result:
    path = tmp_path / "file.csv"
    path.write_text(body, encoding="utf-8")
    return CliRunner().invoke(
        main, ["meter", "import", str(path), "--database-url", url, "--site", "oslo", *options], standalone_mode=False
    )


def taken(url: str, tmp_path: Path, body: str, *options: str) -> list[dict[str, Any]]:
    done = run(url, tmp_path, body, "--json", *options)
    assert done.exception is None, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def refused(url: str, tmp_path: Path, body: str, *options: str) -> str:
    done = run(url, tmp_path, body, *options)
    assert isinstance(done.exception, GigawatchError), done.output
    assert done.exception.exit_code == ExitCode.DATA
    return f"{done.exception.problem} {done.exception.remedy}"


def stored(engine: Engine) -> list[tuple[str, datetime, int, int | None, int | None]]:
    found = rows(engine, "SELECT name, time, covered_ms, energy_mj, energy_method FROM gigawatch.meter_window"
                         " JOIN gigawatch.meter USING (meter_id) ORDER BY 1, 2")  # fmt: skip
    return [(it["name"], it["time"], it["covered_ms"], it["energy_mj"], it["energy_method"]) for it in found]


def iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%MZ}"


def test_quarters_of_an_hour_of_several_meters(site: Engine, database_url: str, tmp_path: Path) -> None:
    lines = ["start,meter,energy_kwh"]
    for number in range(96):
        moment = iso(START + number * timedelta(minutes=15))
        lines += [f"{moment},u,31.25", f"{moment},p,25"]
    done = taken(database_url, tmp_path, "\n".join(lines))
    assert [(it["meter"], it["windows"], it["energy_kwh"], it["placed"]) for it in done] == [
        ("p", 96, 2_400, True), ("u", 96, 3_000, True),
    ]  # fmt: skip
    fold(site)
    (found,) = rows(site, "SELECT * FROM report.pue(:start, :stop)", start=START, stop=START + DAY)
    assert (found["pue"], found["coverage"]) == (1.25, 1)
    assert {it[4] for it in stored(site)} == {1}


def test_long_intervals_are_spread_over_their_hours_without_remainder(
    site: Engine, database_url: str, tmp_path: Path
) -> None:
    body = f"start;stop;energy_mwh\n{iso(START + timedelta(minutes=30))};{iso(START + 7 * HOUR)};1,0000001\n"
    (done,) = taken(database_url, tmp_path, body, "--meter", "new")
    assert (done["windows"], done["placed"]) == (7, False)
    found = stored(site)
    assert [it[2] for it in found] == [1_800_000] + [3_600_000] * 6
    assert sum(it[3] or 0 for it in found) == 1_000 * KWH_MJ + KWH_MJ // 10_000
    assert {it[4] for it in found} == {2}


def test_readings_of_a_register_are_differences(site: Engine, database_url: str, tmp_path: Path) -> None:
    at = [START, START + timedelta(minutes=45), START + 2 * HOUR]
    body = "start,register_kwh\n" + "".join(
        f"{iso(moment)},{value}\n" for moment, value in zip(at, (1_000, 1_030.5, 1_100), strict=True)
    )
    (done,) = taken(database_url, tmp_path, body, "--meter", "u")
    assert done["energy_kwh"] == 100
    assert [(it[1], it[2], it[3], it[4]) for it in stored(site)] == [
        (START, 2_700_000, 30.5 * KWH_MJ, 1), (at[1], 900_000, 69.5 * KWH_MJ / 5, 2),
        (START + HOUR, 3_600_000, 69.5 * KWH_MJ / 5 * 4, 2),
    ]  # fmt: skip
    (water,) = taken(database_url, tmp_path, body.replace("kwh", "m3"), "--meter", "w")
    assert (water["volume_m3"], water["energy_kwh"]) == (100, None)


def test_local_times_come_twice_when_clocks_are_set_back(site: Engine, database_url: str, tmp_path: Path) -> None:
    hours = ["01:00", "02:00", "02:00", "03:00"]
    body = "start,energy_kwh\n" + "".join(f"2025-10-26T{it},1\n" for it in hours)
    (done,) = taken(database_url, tmp_path, body, "--meter", "u", "--time-zone", "Europe/Oslo")
    assert done["windows"] == 4
    assert [f"{it[1]:%d %H:%M}" for it in stored(site)] == ["25 23:00", "26 00:00", "26 01:00", "26 02:00"]
    assert "--time-zone" in refused(database_url, tmp_path, body, "--meter", "p")


def test_what_is_there_is_replaced_where_that_is_asked_for(site: Engine, database_url: str, tmp_path: Path) -> None:
    old = today() - 400 * DAY
    send(site, [*hourly("u", old, 3, kwh=9), *hourly("u", START, 3, kwh=9)])
    fold(site)

    def body(start: datetime, stop: datetime, kwh: int) -> str:
        return f"start,stop,energy_kwh\n{iso(start)},{iso(stop)},{kwh}\n"

    for start in (old, START):
        file = body(start, start + 2 * HOUR, 10)
        words = refused(database_url, tmp_path, file, "--meter", "u")
        assert f"has windows already: {start:%Y-%m-%d} 00:00 UTC to {start:%Y-%m-%d} 02:00 UTC" in words
        part = body(start + timedelta(minutes=30), start + 2 * HOUR, 10)
        assert "begin and end at full hours" in refused(database_url, tmp_path, part, "--meter", "u", "--replace")
        tried = run(database_url, tmp_path, file, "--meter", "u", "--replace", "--dry-run")
        assert tried.output.startswith("Could take in 10 kWh of u in oslo") and tried.exception is None
        (done,) = taken(database_url, tmp_path, file, "--meter", "u", "--replace")
        assert done["windows"] == 2
    fold(site)
    sums = "SELECT time, energy_mj FROM gigawatch.meter_1d ORDER BY time"
    assert [(it["time"], it["energy_mj"] // KWH_MJ) for it in rows(site, sums)] == [(old, 19), (START, 19)]
    assert "in the future" in refused(
        database_url, tmp_path, body(today() + 9 * DAY, today() + 10 * DAY, 1), "--meter", "u"
    )
    # No such site; and a sum of others has no windows of its own.
    place(site, {"v": {"role": "pdu", "virtual": True}})
    assert "virtual" in refused(database_url, tmp_path, body(START, START + HOUR, 1), "--meter", "v")
    lost = CliRunner().invoke(
        main,
        ["meter", "import", str(tmp_path / "file.csv"), "--database-url", database_url, "--site", "x", "--meter", "u"],
        standalone_mode=False,
    )  # fmt: skip
    assert "There is no site named 'x'" in str(lost.exception)


def test_the_list_says_how_each_meter_is(site: Engine, database_url: str, tmp_path: Path) -> None:
    start = newest()
    recent = {"covered_ms": 10_000, "start": start}
    last = start.replace(minute=0, second=0) - HOUR
    place(site, {name: {"role": "pdu"} for name in ("back", "still", "bad", "old", "never")})
    place(site, {"old": {"until": START}})
    send(site, [
        *(window(name, kwh=0.001, **recent) for name in ("u", "still", "bad", "old", "lost")),
        window("back", kwh=0, power_mean_mw=-5_000, **recent),
        window("still", last, kwh=0, power_mean_mw=10**8, power_min_mw=10**8, power_max_mw=10**8, readings_taken=360),
        window("bad", last, kwh=1, rejected_readings=1, readings_taken=10),
        window("p", last, kwh=1),
    ])  # fmt: skip
    taken(database_url, tmp_path, f"start,stop,energy_kwh\n{iso(START)},{iso(START + HOUR)},1\n", "--meter", "file")
    place(site, {"file": {"role": "other"}})
    fold(site)
    found = rows(site, "SELECT meter, state FROM report.meter_health ORDER BY meter")
    assert {it["meter"]: it["state"] for it in found} == {
        "u": "ok", "p": "ok", "still": "stuck", "bad": "rejected", "old": "retired", "never": "never heard of",
        "lost": "not placed", "back": "reversed", "file": "imported",
    }  # fmt: skip
    listed = CliRunner().invoke(main, ["meter", "list", "--database-url", database_url])
    assert listed.exit_code == 0, listed.output
    assert "oslo / u  utility  ok  0.36 kW  0% of the last 24 h" in listed.output
    as_json = CliRunner().invoke(main, ["meter", "list", "--database-url", database_url, "--site", "oslo", "--json"])
    assert len(json.loads(as_json.output)) == 9
    nowhere = CliRunner().invoke(main, ["meter", "list", "--database-url", database_url, "--site", "bergen"])
    assert (nowhere.exit_code, "There is no site named 'bergen'\n  There are: oslo." in nowhere.output) == (1, True)


def test_the_api_answers_with_the_facility_s_figures(site: Engine, database_url: str, tmp_path: Path) -> None:
    send(site, [*hourly("u", START, 24, kwh=125), *hourly("p", START, 24, kwh=100)])
    fold(site)
    asked = {"start": START.isoformat(), "stop": (START + DAY).isoformat()}
    with (
        running_api(database_url, tmp_path / "log", GIGAWATCH_SERVER__SCHEDULER="false") as api,
        api.client("viewer") as client,
    ):

        def get(path: str, status: int = 200, **parameters: Any) -> Any:
            period = {} if path in {"meters/health", "power-ratio", "eu-eed"} else asked
            answer = client.get(f"/api/v1/{path}", params={**period, **parameters})
            assert answer.status_code == status, answer.text
            return answer.json()

        (found,) = get("pue", group_by="site", step="month")
        assert (found["label"], found["pue"], found["name"], found["category"]) == ("oslo", 1.25, "interim PUE", 2)
        assert len(get("pue", step="hour")) == 24
        assert {it["role"] for it in get("facility")} == {"utility", "pdu"}
        assert [it["energy_j"] for it in get("reconciliation")] == [24 * 100 * 3_600_000, 24 * 125 * 3_600_000]
        assert [it["meter"] for it in get("meters/health", state="silent")] == ["p", "u"]
        assert get("power-ratio")[0]["power_ratio"] is None
        assert get("capacity") == get("water") == get("heat") == []
        assert len(get("facility-carbon")) == 2
        # The years differ in their form: tests/database/test_facility.py.
        assert {it["indicator"] for it in get("eu-eed", site="oslo", year=START.year)} >= {"PUE", "EDC", "EIT"}
        get("eu-eed", 404, site="nowhere", year=2026)
        get("eu-eed", 422, site="oslo", year=2022)
        get("facility-carbon", 422, group_by="hall")
        get("pue", 422, step="hour", start=(START - 400 * DAY).isoformat())
        get("reconciliation", 422, start=(START - 40 * DAY).isoformat())
