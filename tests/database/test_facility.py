"""The facility's figures through the real path: meters' windows in, fold, the report's views out."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from api.meter_sql import FOLD_MARKED, FOLD_NEW, MARK_SITES, OF_DAYS
from api.rollups import Folder as Rollups
from collector.meters.folder import Folder
from collector.meters.reading import Reading as MeterReading
from gigawatch import database
from gigawatch.records import EnergyMethod, MeterDoubt, MeterWindow
from gigawatch.settings import Meter
from tests.facility import DAY, HOUR, KWH_MJ, fold, hourly, newest, place, send, today, window
from tests.factory import rows

Report = Callable[..., list[dict[str, Any]]]
START = today() - 3 * DAY


@pytest.fixture
def report(report_engine: Engine) -> Report:
    """A query as people of reports ask it."""
    return lambda sql, **values: rows(report_engine, sql, **values)


def pue(
    report: Report,
    start: datetime = START,
    stop: datetime = START + DAY,
    group_by: str = "site",
    step: str | None = None,
) -> list[dict[str, Any]]:
    return report(
        "SELECT * FROM report.pue(:start, :stop, CAST(:step AS interval), :group_by)",
        start=start, stop=stop, group_by=group_by, step=step,
    )  # fmt: skip


def the_pue(report: Report, **values: Any) -> dict[str, Any]:
    (found,) = pue(report, **values)
    return found


def everything(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """All that was folded."""
    order = {
        "meter": "meter_id",
        "facility": "site_id, hall_id, role",
        "facility_ratio": "site_id, hall_id, figure, category",
    }
    return {
        f"{table}_{level}": rows(engine, f"SELECT * FROM gigawatch.{table}_{level} ORDER BY time, {columns}")
        for table, columns in order.items()
        for level in ("1h", "1d")
    }


UTILITY_AND_PDU = {"u": {"role": "utility"}, "p": {"role": "pdu"}}


def test_pue_of_two_sites_of_unlike_size_is_a_ratio_of_sums(engine: Engine, report: Report) -> None:
    for site, facility_kwh, it_kwh in (("large", 1_100, 1_000), ("small", 20, 10)):
        place(engine, UTILITY_AND_PDU, site=site)
        send(engine, [*hourly("u", START, 24, kwh=facility_kwh), *hourly("p", START, 24, kwh=it_kwh)], site=site)
    fold(engine)
    by_site = {it["label"]: it for it in pue(report)}
    assert {label: it["pue"] for label, it in by_site.items()} == {"large": 1.1, "small": 2.0}
    fleet = the_pue(report, group_by="fleet")
    assert fleet["pue"] == pytest.approx(1_120 / 1_010)
    assert fleet["dcie"] == pytest.approx(1_010 / 1_120)
    assert (fleet["hours"], fleet["coverage"], fleet["category"]) == (48, 1, 2)
    assert (fleet["name"], fleet["source"]) == ("interim PUE", "measured")
    assert fleet["facility_energy_j"] == sum(it["facility_energy_j"] for it in by_site.values())
    assert (fleet["source_meters"], fleet["it_meters"]) == (2, 2)


def test_an_hour_without_the_utility_meter_is_left_out_of_both_sums_and_shown(engine: Engine, report: Report) -> None:
    place(engine, UTILITY_AND_PDU)
    # The load is quite another in the hour that is missing.
    send(engine, [
        *hourly("u", START, 10, kwh=120), *hourly("u", START + 11 * HOUR, 13, kwh=120),
        *(window("p", START + n * HOUR, kwh=90 if n == 10 else 100) for n in range(24)),
    ])  # fmt: skip
    # Only 98 % of this hour is known.
    send(engine, [window("u", START + DAY, kwh=120, covered_ms=3_528_000), window("p", START + DAY, kwh=50)])
    fold(engine)
    found = the_pue(report)
    assert (found["pue"], found["hours"], found["hours_missing"], found["hours_faulty"]) == (1.2, 23, 1, 0)
    assert found["it_energy_j"] == 23 * 100 * 3_600_000
    assert found["coverage"] == pytest.approx(23 / 24)
    assert the_pue(report, start=START + DAY, stop=START + DAY + HOUR)["hours_missing"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        [window("p", START, kwh=130)],
        # A register that stands still beside a power that never changes.
        [window("p", START, kwh=0, power_mean_mw=10**8, power_min_mw=10**8, power_max_mw=10**8, readings_taken=360)],
        # Current transformers are mounted the wrong way round.
        [window("p", START, kwh=100, power_mean_mw=-(10**8), power_min_mw=-(10**8), power_max_mw=-1)],
        # Two agents read it.
        [window("p", START, kwh=100), window("p", START + timedelta(seconds=60), kwh=50, covered_ms=3_540_000)],
    ],
)
def test_what_cannot_be_is_flagged_and_not_averaged_in(
    engine: Engine, report: Report, wrong: Sequence[MeterWindow]
) -> None:
    place(engine, UTILITY_AND_PDU)
    send(engine, [*hourly("u", START, 24, kwh=120), *wrong, *hourly("p", START + HOUR, 23, kwh=100)])
    fold(engine)
    found = the_pue(report)
    assert (found["pue"], found["hours"], found["hours_missing"], found["hours_faulty"]) == (1.2, 23, 0, 1)
    # Alone, it gives no figure at all.
    alone = the_pue(report, stop=START + HOUR)
    assert (alone["pue"], alone["facility_energy_j"], alone["hours_faulty"]) == (None, None, 1)


def test_a_meter_that_is_off_is_not_stuck(engine: Engine, report: Report) -> None:
    place(engine, {**UTILITY_AND_PDU, "g": {"role": "generation"}})
    off = {"kwh": 0, "power_mean_mw": 0, "power_min_mw": 0, "power_max_mw": 0, "readings_taken": 360}
    send(engine, [*hourly("u", START, 2, kwh=100), *hourly("p", START, 2, kwh=100),
                  window("g", START, **off), window("g", START + HOUR, kwh=50)])  # fmt: skip
    fold(engine)
    # What is made on site counts; it does not lower the PUE.
    assert the_pue(report, stop=START + 2 * HOUR)["pue"] == 1.25


def test_fuel_counts_by_its_volume(engine: Engine, report: Report) -> None:
    # Diesel: 9.9 kWh/l (EN 50600-4-2).
    place(engine, {**UTILITY_AND_PDU, "f": {"role": "fuel", "fuel_j_per_l": 35_640_000, "backup": True}})
    send(engine, [window("u", START, kwh=101), window("p", START, kwh=100), window("f", START, volume_ml=10_000)])
    fold(engine)
    assert the_pue(report, stop=START + HOUR)["pue"] == pytest.approx(2)
    of_roles = report("SELECT * FROM report.facility(:start, :stop)", start=START, stop=START + HOUR)
    assert {it["role"]: it["energy_j"] for it in of_roles} == {
        "fuel": 99 * 3_600_000, "pdu": 100 * 3_600_000, "utility": 101 * 3_600_000,
    }  # fmt: skip
    assert next(it for it in of_roles if it["role"] == "fuel")["volume_m3"] == 0.01


def test_each_category_has_a_row(engine: Engine, report: Report) -> None:
    place(engine, {"u": {"role": "utility"}, "a": {"role": "ups_out"}, "b": {"role": "pdu"}, "c": {"role": "it"}})
    send(engine, [window(name, START, kwh=kwh) for name, kwh in (("u", 120), ("a", 100), ("b", 96), ("c", 80))])
    fold(engine)
    found = {it["category"]: it["pue"] for it in pue(report, stop=START + HOUR)}
    assert found == {1: 1.2, 2: 1.25, 3: 1.5}
    (chosen,) = report("SELECT pue FROM report.pue(:start, :stop, in_category => 3)", start=START, stop=START + HOUR)
    assert chosen["pue"] == 1.5


def test_what_flows_through_two_meters_counts_once(engine: Engine, report: Report) -> None:
    """A utility meter of the site above those of its halls; PDUs behind a PDU; a virtual meter and its terms."""
    roles = {
        "grid": ("utility", None), "u1": ("utility", "1"), "u2": ("utility", "2"), "p1": ("pdu", "1"),
        "p1a": ("pdu", "1"), "p2": ("pdu", "2"), "p2a": ("pdu", "2"), "p2b": ("other", "2"),
    }  # fmt: skip
    place(
        engine,
        {name: {"role": role, "hall": hall, "virtual": name == "p2"} for name, (role, hall) in roles.items()},
        feeds=[("grid", "u1"), ("grid", "u2"), ("u1", "p1"), ("p1", "p1a")],
        terms=[("p2", "p2a", 1), ("p2", "p2b", -1)],
    )
    kwh = {"grid": 250, "u1": 110, "u2": 130, "p1": 100, "p1a": 60, "p2a": 120, "p2b": 20}
    send(engine, [window(name, START, kwh=it) for name, it in kwh.items()])
    fold(engine)
    assert the_pue(report, stop=START + HOUR)["pue"] == 250 / 200
    halls = {it["label"]: (it["pue"], it["name"]) for it in pue(report, stop=START + HOUR, group_by="hall")}
    assert halls == {"oslo / 1": (1.1, "interim pPUE"), "oslo / 2": (1.3, "interim pPUE")}
    of_roles = report("SELECT role, energy_j FROM report.facility(:start, :stop)", start=START, stop=START + HOUR)
    assert {it["role"]: it["energy_j"] / 3_600_000 for it in of_roles} == {"utility": 250, "pdu": 200, "other": 20}


def test_a_zone_without_a_source_has_its_infrastructure_and_its_it(engine: Engine, report: Report) -> None:
    roles = {
        "i": ("it", "1"), "c": ("cooling", "1"), "l": ("lighting", "1"),
        "i2": ("it", "2"), "c2": ("cooling", "2"), "ups": ("ups_in", "2"),
    }  # fmt: skip
    place(engine, {name: {"role": role, "hall": hall} for name, (role, hall) in roles.items()})
    kwh = {"i": 100, "c": 30, "l": 2, "i2": 100, "c2": 30, "ups": 108}
    send(engine, [window(name, START, kwh=it) for name, it in kwh.items()])
    fold(engine)
    halls = {it["label"]: it["pue"] for it in pue(report, stop=START + HOUR, group_by="hall")}
    # What the UPS takes in holds what IT takes from it.
    assert halls == {"oslo / 1": 1.32, "oslo / 2": 1.38}
    assert pue(report, stop=START + HOUR) == []


def test_a_virtual_meter_is_known_where_all_its_terms_are(engine: Engine) -> None:
    place(
        engine,
        {name: {"role": "it" if name == "v" else "other", "virtual": name in "vw"} for name in "vwabc"},
        terms=[("w", "a", 1), ("w", "b", 1), ("v", "w", 1), ("v", "c", -1)],
    )
    send(engine, [*hourly("a", START, 3, kwh=10), *hourly("b", START, 2, kwh=5), *hourly("c", START, 3, kwh=1)])
    fold(engine)
    virtual = rows(engine, "SELECT name, time, energy_mj FROM gigawatch.meter_1h JOIN gigawatch.meter USING (meter_id)"
                           " WHERE virtual ORDER BY name, time")  # fmt: skip
    assert [(it["name"], it["energy_mj"] // KWH_MJ) for it in virtual] == [("v", 14), ("v", 14), ("w", 15), ("w", 15)]


def test_what_a_site_exports_is_not_its_own(engine: Engine, report: Report) -> None:
    """E_DC = import - export + generation: (0 - 50 + 200) / 100 by day, (120 - 0 + 0) / 100 by night; REF 150 / 270."""
    place(
        engine,
        {"in": {"role": "other"}, "out": {"role": "other"}, "net": {"role": "utility", "virtual": True},
         "pv": {"role": "generation"}, "p": {"role": "pdu"}},
        terms=[("net", "in", 1), ("net", "out", -1)],
    )  # fmt: skip
    for start, counted in ((START, (0, 50, 200)), (START + HOUR, (120, 0, 0))):
        send(engine, [window(name, start, kwh=kwh) for name, kwh in zip(("in", "out", "pv"), counted, strict=True)])
        send(engine, [window("p", start, kwh=100)])
    fold(engine)
    found = the_pue(report, stop=START + 2 * HOUR)
    assert (found["pue"], found["hours"], found["hours_faulty"]) == (1.35, 2, 0)
    (heat,) = report("SELECT * FROM report.heat(:start, :stop, NULL, 'site')", start=START, stop=START + 2 * HOUR)
    assert (heat["ref_on_site"], heat["on_site_energy_j"]) == (pytest.approx(150 / 270), 150 * 3_600_000)


def test_meters_count_while_figures_want_them(engine: Engine, report: Report) -> None:
    """One is replaced at a full hour, and one in mid-hour, when both measured all of it; one is long gone."""
    noon, later = START + 12 * HOUR, START + 18 * HOUR + timedelta(minutes=30)
    place(engine, {
        "u": {"role": "utility"}, "p": {"role": "pdu", "until": noon},
        "q": {"role": "pdu", "since": noon, "until": later}, "r": {"role": "pdu", "since": later},
        "gone": {"role": "pdu", "until": START - 400 * DAY}, "planned": {"role": "pdu", "since": START + 400 * DAY},
    })  # fmt: skip
    send(engine, [*hourly("u", START, 24, kwh=120), *hourly("p", START, 24, kwh=100), *hourly("q", START, 24, kwh=100),
                  *hourly("r", START, 24, kwh=100)])  # fmt: skip
    fold(engine)
    found = the_pue(report)
    assert (found["pue"], found["hours"], found["hours_missing"], found["hours_faulty"]) == (1.2, 23, 1, 0)


def test_late_data_and_a_changed_topology_give_what_punctual_ones_would(engine: Engine, report: Report) -> None:
    windows = [*hourly("u", START, 24, kwh=125), *hourly("p", START, 24, kwh=100), *hourly("c", START, 24, kwh=11)]
    send(engine, windows)
    place(engine, {**UTILITY_AND_PDU, "c": {"role": "cooling"}})
    fold(engine)
    expected = everything(engine)
    with engine.begin() as connection:
        for table in ("meter_window", *expected):
            connection.execute(text(f"DELETE FROM gigawatch.{table}"))
        connection.execute(text("DELETE FROM gigawatch.rollup"))
        connection.execute(text("UPDATE gigawatch.meter SET role = NULL"))
    send(engine, windows[:30])
    fold(engine)
    assert pue(report) == []
    place(engine, {**UTILITY_AND_PDU, "c": {"role": "pdu"}})
    fold(engine)
    # The last hours of the PDU, and all of what is wrongly placed, are missing.
    assert the_pue(report)["hours_missing"] == 24
    send(engine, windows[30:])
    fold(engine)
    assert the_pue(report)["pue"] == pytest.approx(125 / 111)
    place(engine, {"c": {"role": "cooling"}})
    fold(engine)
    assert everything(engine) == expected
    assert rows(engine, "SELECT * FROM gigawatch.rollup_dirty WHERE level IN ('meter_1h', 'facility_1d')") == []


def test_a_leader_that_is_killed_at_any_step_leaves_what_the_next_goes_on_from(engine: Engine) -> None:
    class Killed(Exception):
        pass

    windows = [*hourly("u", START, 40, kwh=125), *hourly("p", START, 40, kwh=100)]
    place(engine, UTILITY_AND_PDU)
    send(engine, windows[:60])
    fold(engine)
    send(engine, windows[60:])
    fold(engine)
    expected = everything(engine)
    with engine.begin() as connection:
        for table in ("meter_window", *expected, "rollup", "rollup_dirty"):
            connection.execute(text(f"DELETE FROM gigawatch.{table}"))
    send(engine, windows[:60])
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    for fatal in (FOLD_NEW, MARK_SITES, FOLD_MARKED, *OF_DAYS):

        class Fatal(psycopg.Connection[Any]):
            def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                if query is fatal:  # noqa: B023 # within this turn
                    raise Killed
                return super().execute(query, *args, **kwargs)

        if fatal is FOLD_MARKED:
            send(engine, windows[60:])
        with Fatal.connect(url, autocommit=True, options="-c timezone=UTC") as connection_:
            folder = Rollups(connection_)
            with pytest.raises(Killed):
                folder.run(today() + HOUR)
    fold(engine)
    assert everything(engine) == expected


Cut = st.lists(st.integers(1, 3_599_999), max_size=4, unique=True).map(sorted)


@settings(max_examples=12)
@given(st.data())
def test_windows_cut_anyhow_in_any_order_add_up_to_the_same_whole(embedded_server: Any, data: st.DataObject) -> None:
    """Parts add up to the whole by the millijoule, however they come, and whenever they are folded."""
    url = embedded_server.create()
    engine = database.engine(url)
    try:
        place(engine, UTILITY_AND_PDU)
        energies, windows = dict.fromkeys("up", 0), []
        for meter in "up":
            for number in range(4):
                edges = [0, *data.draw(Cut), 3_600_000]
                for begin, end in zip(edges, edges[1:], strict=False):
                    energy = data.draw(st.integers(0, min(10**12, 4 * 10**9 * (end - begin))))
                    energies[meter] += energy
                    windows.append(
                        window(
                            meter, START + number * HOUR + timedelta(milliseconds=begin), covered_ms=end - begin,
                            energy_mj=energy, energy_method=data.draw(st.sampled_from(EnergyMethod)),
                        )
                    )  # fmt: skip
        shuffled = data.draw(st.permutations(windows))
        while shuffled:
            size = data.draw(st.integers(1, len(shuffled)))
            send(engine, shuffled[:size])
            shuffled = shuffled[size:]
            if data.draw(st.booleans()):
                fold(engine)
        fold(engine)
        for level in ("1h", "1d"):
            sums = rows(engine, f"SELECT name, sum(energy_mj)::bigint AS mj FROM gigawatch.meter_{level}"
                                " JOIN gigawatch.meter USING (meter_id) GROUP BY name")  # fmt: skip
            assert {it["name"]: it["mj"] for it in sums} == energies
            roles = rows(
                engine, f"SELECT role, sum(energy_mj)::bigint AS mj FROM gigawatch.facility_{level} GROUP BY role"
            )
            assert {it["role"]: it["mj"] for it in roles} == {"utility": energies["u"], "pdu": energies["p"]}
        ratios = rows(engine, "SELECT sum(hours + missing_h + faulty_h) AS it, sum(hours) AS hours,"
                              " sum(numerator) AS n, sum(denominator) AS d FROM gigawatch.facility_ratio_1d"
                              " WHERE time = :start", start=START)  # fmt: skip
        assert ratios[0]["it"] == 24
        assert ratios[0]["n"] >= ratios[0]["d"]
        day = rows(engine, "SELECT * FROM report.pue(:start, :stop)", start=START, stop=START + DAY)[0]
        hours = rows(engine, "SELECT * FROM report.pue(:start, :stop, '1 hour')", start=START, stop=START + DAY)
        in_mj = [round(1_000 * (it["facility_energy_j"] or 0)) for it in (day, *hours)]
        assert in_mj[0] == sum(in_mj[1:])
    finally:
        engine.dispose()
        embedded_server.drop(url)


def test_twelve_complete_months_are_a_pue_and_less_is_interim(engine: Engine, report: Report) -> None:
    place(engine, UTILITY_AND_PDU)
    first = datetime(START.year - 2, 3, 1, tzinfo=START.tzinfo)
    beyond = first.replace(year=first.year + 1)
    with engine.begin() as connection:
        connection.execute(
            text("""
            INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected,
                energy_method, energy_mj, rejected_readings)
            SELECT hour, meter_id, 3600000, 1, 1, 1, CASE name WHEN 'u' THEN 130 ELSE 100 END * 3600000000, 0
            FROM gigawatch.meter, generate_series(CAST(:first AS timestamptz), :beyond, '1 hour') AS hour"""),
            {"first": first, "beyond": beyond},
        )
    fold(engine, beyond + 2 * HOUR)
    year = the_pue(report, start=first, stop=beyond)
    assert (year["name"], year["pue"], year["coverage"]) == ("PUE", 1.3, 1)
    # Of years of the calendar these are two parts.
    parts = pue(report, first, beyond, step="1 year", group_by="fleet")
    assert [(it["name"], it["time"].month) for it in parts] == [("interim PUE", 1)] * 2
    assert the_pue(report, start=first + DAY, stop=beyond)["name"] == "interim PUE"
    assert the_pue(report, start=first, stop=beyond - HOUR)["name"] == "interim PUE"
    months = pue(report, first, beyond, step="1 month")
    assert len(months) == 12
    assert {(it["name"], it["pue"], it["coverage"]) for it in months} == {("interim PUE", 1.3, 1)}
    assert months[0]["time"] == first
    assert sum(it["hours"] for it in months) == year["hours"]
    # The same by days, and from hours where the period begins within a day.
    assert the_pue(report, start=first + 5 * HOUR, stop=beyond)["hours"] == year["hours"] - 5


def test_a_configured_pue_is_shown_as_configured(engine: Engine, report: Report) -> None:
    for site in ("with", "without"):
        place(engine, UTILITY_AND_PDU if site == "with" else {}, site=site)
    with engine.begin() as connection:
        connection.execute(
            text("""
            WITH import AS (
                INSERT INTO gigawatch.factor_import (site_id, source, version)
                SELECT site_id, 'x', 'y' FROM gigawatch.site RETURNING import_id, site_id
            )
            INSERT INTO gigawatch.configured_pue (import_id, site_id, start, stop, pue)
            SELECT import_id, site_id, CAST(:start AS timestamptz), CAST(:noon AS timestamptz), 1.4 FROM import"""),
            {"start": START, "noon": START + 12 * HOUR},
        )  # fmt: skip
    send(engine, [*hourly("u", START, 24, kwh=125), *hourly("p", START, 24, kwh=100)], site="with")
    fold(engine)
    measured, configured = pue(report)
    assert (measured["source"], measured["pue"]) == ("measured", 1.25)
    assert (configured["label"], configured["source"], configured["name"]) == (
        "without",
        "configured",
        "configured PUE",
    )
    assert (configured["pue"], configured["category"], configured["facility_energy_j"]) == (1.4, None, None)
    assert configured["coverage"] == 0.5
    assert [it["source"] for it in pue(report, group_by="fleet")] == ["measured"]
    # Where nothing was measured in a bin, what is configured is said to be.
    assert [it["source"] for it in pue(report, step="1 day", start=START - DAY) if it["label"] == "with"] == [
        "measured"
    ]


@pytest.mark.parametrize(
    ("parameter", "value"), [("step", "90 minutes"), ("step", "1 month 1 day"), ("group_by", "rack")]
)
def test_a_wrong_parameter_is_named(engine: Engine, report: Report, parameter: str, value: str) -> None:
    with pytest.raises(Exception, match=f"{parameter} = {'01:30:00' if value == '90 minutes' else value[:4]}"):
        pue(report, **{parameter: value})


def test_example_8_energy_reuse_effectiveness(engine: Engine, report: Report) -> None:
    """E_DC 1,250,000, E_IT 820,000, reuse 210,000: ERE 1.268 = (1 - ERF) × PUE."""
    place(engine, {"u": {"role": "utility"}, "i": {"role": "it"}, "h": {"role": "heat_reuse"}})
    # In ten hours, of unlike shares.
    shares = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]
    for name, kwh in (("u", 1_250_000), ("i", 820_000), ("h", 210_000)):
        send(engine, [window(name, START + n * HOUR, kwh=kwh * it / 30) for n, it in enumerate(shares)])
    fold(engine)
    (found,) = report("SELECT * FROM report.heat(:start, :stop)", start=START, stop=START + 10 * HOUR)
    assert found["ere"] == pytest.approx(1.268, abs=5e-4)
    assert found["ere"] == pytest.approx((1_250_000 - 210_000) / 820_000)
    assert found["erf"] == pytest.approx(0.168)
    assert (found["category"], found["erf_coverage"], found["cer"], found["ref_on_site"]) == (3, 1, None, None)


def test_example_10_cooling_efficiency(engine: Engine, report: Report) -> None:
    """100 kWh of heat removed with 50 kWh: CER 2.0."""
    place(engine, {"h": {"role": "heat_removed"}, "c": {"role": "cooling"}, "p": {"role": "pump"}})
    send(engine, [window(name, START, kwh=kwh) for name, kwh in (("h", 100), ("c", 45), ("p", 5))])
    fold(engine)
    (found,) = report("SELECT * FROM report.heat(:start, :stop)", start=START, stop=START + HOUR)
    assert (found["cer"], found["heat_removed_j"], found["cer_coverage"]) == (2.0, 360_000_000, 1)
    assert found["erf"] is None and found["category"] is None


def test_water_for_each_kilowatt_hour(engine: Engine, report: Report) -> None:
    place(
        engine,
        {"i": {"role": "pdu"}, "a": {"role": "water", "potable": True}, "b": {"role": "water", "potable": False}},
    )
    send(engine, [*hourly("i", START, 3, kwh=1_000), *hourly("a", START, 3, volume_ml=300_000),
                  *hourly("b", START, 2, volume_ml=1_200_000)])  # fmt: skip
    fold(engine)
    (found,) = report("SELECT * FROM report.water(:start, :stop)", start=START, stop=START + 3 * HOUR)
    assert (found["wue_l_per_kwh"], found["wue_potable_l_per_kwh"]) == (1.5, 0.3)
    assert (found["water_m3"], found["hours"], found["hours_missing"]) == (3, 2, 1)
    # Nobody says of which kind one is.
    place(engine, {"b": {"potable": None}})
    fold(engine)
    (found,) = report("SELECT * FROM report.water(:start, :stop)", start=START, stop=START + 3 * HOUR)
    assert (found["wue_l_per_kwh"], found["wue_potable_l_per_kwh"]) == (1.5, None)


OF_YEAR = {
    "guarantees_of_origin_kwh": 3_000_000, "ppa_kwh": 2_000_000, "on_site_renewable_kwh": 1_000_000,
    "backup_generators_kwh": 5_000,
}  # fmt: skip
OF_SITE = {"pdit_kw": 1_200, "sdc_m2": 3_000, "scr_m2": 1_500}


def test_example_9_the_form_of_the_eu(engine: Engine, report: Report) -> None:
    """EDC 10 GWh, EIT 8 GWh, WIN 12,000 m³, reuse 1.5 GWh, renewable 6 GWh: PUE 1.25, WUE 1.5, ERF 0.15, REF 0.60."""
    year = 2025
    first = datetime(year, 1, 1, tzinfo=START.tzinfo)
    beyond = datetime(year + 1, 1, 1, tzinfo=START.tzinfo)
    totals = {"u": 10_000_000 * KWH_MJ, "i": 8_000_000 * KWH_MJ, "h": 1_500_000 * KWH_MJ, "w": 12_000 * 10**6}
    place(engine, {"u": {"role": "utility"}, "i": {"role": "pdu"}, "h": {"role": "heat_reuse"},
                   "w": {"role": "water", "potable": True}})  # fmt: skip
    with engine.begin() as connection:
        for name, total in totals.items():
            connection.execute(
                text(f"""
                INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected,
                    rejected_readings, {"volume_ml" if name == "w" else "energy_method, energy_mj"})
                SELECT hour, meter_id, 3600000, 1, 1, 0, {"" if name == "w" else "1,"}
                    div(CAST(:total AS numeric) * n, :hours) - div(CAST(:total AS numeric) * (n - 1), :hours)
                FROM gigawatch.meter, generate_series(CAST(:first AS timestamptz), :last, '1 hour')
                    WITH ORDINALITY AS each (hour, n) WHERE meter.name = :name"""),
                {
                    "total": total,
                    "hours": (beyond - first) // HOUR,
                    "first": first,
                    "last": beyond - HOUR,
                    "name": name,
                },
            )
    fold(engine, beyond + 2 * HOUR)
    asked = "SELECT * FROM report.eu_eed('oslo', :year)"
    found = {it["indicator"]: it for it in report(asked, year=year)}
    assert {it["regime"] for it in found.values()} == {"Delegated Regulation (EU) 2024/1364"}
    assert {(it["year"], it["reporting_year"], it["category"]) for it in found.values()} == {(year, year + 1, 2)}
    assert {it["efficiency_class"] for it in found.values()} == {None}
    values = {name: it["value"] for name, it in found.items()}
    measured = {
        "PUE": 1.25, "WUE": 1.5, "ERF": 0.15, "EDC": 10_000_000, "EIT": 8_000_000, "WIN": 12_000, "WIN-POT": 12_000,
        "EREUSE": 1_500_000,
    }  # fmt: skip
    declared = ("REF", "EDC-BG", "ERES-TOT", "ERES-GOO", "ERES-PPA", "ERES-OS", "PDIT", "SDC", "SCR")
    assert values == measured | dict.fromkeys(declared)
    lacking = {name: it["missing"] for name, it in found.items() if it["how"] == "missing"}
    assert "guarantees_of_origin_kwh, ppa_kwh, on_site_renewable_kwh" in lacking["REF"]
    assert lacking["PDIT"] == "declare eu_report.pdit_kw in the topology"
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO gigawatch.topology (site_id, source, sha256, document)"
                 " SELECT site_id, 'oslo.yaml', 'x', CAST(:it AS json) FROM gigawatch.site"),
            {"it": json.dumps({"eu_report": {**OF_SITE, "years": {str(year): OF_YEAR}}})},
        )  # fmt: skip
    found = {it["indicator"]: it for it in report(asked, year=year)}
    assert {name: found[name]["value"] for name in declared} == {
        "REF": 0.6, "ERES-TOT": 6_000_000, "ERES-GOO": 3_000_000, "ERES-PPA": 2_000_000, "ERES-OS": 1_000_000,
        "EDC-BG": 5_000, "PDIT": 1_200, "SDC": 3_000, "SCR": 1_500,
    }  # fmt: skip
    assert [it["missing"] for it in found.values()] == [None] * 17
    assert {it["coverage"] for it in found.values() if it["how"] == "measured"} == {1}
    assert {name for name, it in found.items() if it["how"] == "measured"} == measured.keys()
    # A year without anything names all that it lacks.
    other = report(asked, year=year - 1)
    assert len(other) == 17
    assert {it["how"] for it in other} == {"missing", "declared"}
    assert report("SELECT * FROM report.eu_eed('nowhere', 2026)") == []
    with pytest.raises(Exception, match="in_year = 2022"):
        report("SELECT * FROM report.eu_eed('oslo', 2022)")


def eu(report: Report, year: int, category: int | None = None) -> dict[str, dict[str, Any]]:
    asked = "SELECT * FROM report.eu_eed('oslo', :year, CAST(:category AS integer))"
    return {it["indicator"]: it for it in report(asked, year=year, category=category)}


def test_the_amended_regime_has_fresh_water_and_classes(engine: Engine, report: Report) -> None:
    """C(2026) 3472 final, Annexes I and III: WUE = WIN-FRE / EIT; PUE A to 1.15, B to 1.25; WUE A to 0.1, B to 0.2."""
    first = datetime(2026, 1, 1, tzinfo=START.tzinfo)
    place(engine, {"u": {"role": "utility"}, "i": {"role": "pdu"}, "tap": {"role": "water", "potable": True},
                   "rain": {"role": "water", "potable": False}})  # fmt: skip
    send(engine, [*hourly("u", first, 4, kwh=125), *hourly("i", first, 4, kwh=100),
                  *hourly("tap", first, 4, volume_ml=15_000), *hourly("rain", first, 4, volume_ml=50_000)],
         keep=timedelta(days=1_000))  # fmt: skip
    fold(engine, first + DAY)
    found = eu(report, 2026)
    regime = "Delegated Regulation (EU) 2024/1364 as amended by C(2026) 3472 final"
    assert {(it["regime"], it["reporting_year"]) for it in found.values()} == {(regime, 2027)}
    # Nobody says whether rain is fresh water.
    assert (found["WUE"]["value"], found["WUE"]["efficiency_class"], found["WIN"]["value"]) == (None, None, 0.26)
    assert "needs fresh: true or false" in found["WIN-FRE"]["missing"]
    assert (found["PUE"]["value"], found["PUE"]["efficiency_class"]) == (1.25, "B")
    assert "WIN-POT" not in found
    for fresh, wue, rated in ((False, 0.15, "B"), (True, 0.65, "E")):
        place(engine, {"rain": {"fresh": fresh}})
        fold(engine, first + DAY)
        found = eu(report, 2026)
        assert (found["WUE"]["value"], found["WUE"]["efficiency_class"]) == (wue, rated)
        assert found["WIN-FRE"]["value"] == pytest.approx(wue * 0.4)
    (water,) = report("SELECT * FROM report.water(:start, :stop)", start=first, stop=first + 4 * HOUR)
    assert (water["wue_l_per_kwh"], water["wue_fresh_l_per_kwh"], water["fresh_m3"]) == (0.65, 0.65, 0.26)


def test_renewable_energy_of_a_year_is_not_divided_by_energy_of_a_part(engine: Engine, report: Report) -> None:
    """And IT of the EU's report is that of the UPS where there is one: Annex II 1(e)."""
    first = datetime(2025, 12, 31, tzinfo=START.tzinfo)
    place(engine, {**UTILITY_AND_PDU, "ups": {"role": "ups_out"}})
    send(engine, [*hourly("u", first, 24, kwh=125), *hourly("p", first, 24, kwh=80),
                  *hourly("ups", first, 20, kwh=100)],
         keep=timedelta(days=1_000))  # fmt: skip
    fold(engine, first + 2 * DAY)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO gigawatch.topology (site_id, source, sha256, document)"
                 " SELECT site_id, 'oslo.yaml', 'x', CAST(:it AS json) FROM gigawatch.site"),
            {"it": json.dumps({"eu_report": {"years": {"2025": OF_YEAR}}})},
        )  # fmt: skip
    found = eu(report, 2025)
    assert (found["PUE"]["category"], found["PUE"]["value"], found["EDC"]["value"]) == (1, 1.25, 2_500)
    assert eu(report, 2025, 2)["PUE"]["value"] == 125 / 80
    assert (found["ERES-TOT"]["value"], found["REF"]["value"], found["REF"]["how"]) == (6_000_000, None, "missing")
    assert found["REF"]["missing"] == (
        "ERES-TOT is of the whole year, and EDC of 0.22 % of the hours: over unlike periods there is no REF; "
        "4 h are missing and 0 h faulty: report.facility_gaps() names the meters"
    )


def test_a_figure_of_all_sites_says_which_are_in_it(engine: Engine, report: Report) -> None:
    for site, kwh in (("bergen", 110), ("oslo", 200)):
        place(engine, UTILITY_AND_PDU, site=site)
        send(
            engine,
            [*hourly("u", START, 2, kwh=kwh), *hourly("p", START, 2 if site == "oslo" else 1, kwh=100)],
            site=site,
        )
    fold(engine)
    asked = "SELECT * FROM report.pue(:start, :stop, '1 hour', :group_by)"
    found = report(asked, start=START, stop=START + 2 * HOUR, group_by="fleet")
    assert [(it["pue"], it["sites"], it["sites_missing"]) for it in found] == [(1.55, 2, []), (2, 1, ["bergen"])]
    alone = report(asked, start=START, stop=START + 2 * HOUR, group_by="site")
    assert [(it["label"], it["sites"], it["sites_missing"]) for it in alone] == [
        ("bergen", 1, []), ("oslo", 1, []), ("bergen", 0, ["bergen"]), ("oslo", 1, []),
    ]  # fmt: skip


def test_cost_of_the_facility(engine: Engine, report: Report) -> None:
    place(engine, UTILITY_AND_PDU)
    with engine.begin() as connection:
        connection.execute(
            text("""
            WITH import AS (
                INSERT INTO gigawatch.factor_import (site_id, source, version)
                SELECT site_id, 'x', 'y' FROM gigawatch.site RETURNING import_id, site_id
            )
            INSERT INTO gigawatch.tariff (import_id, site_id, start, stop, price_per_kwh, currency)
            SELECT import_id, site_id, first, beyond, price, currency
            FROM import, (VALUES (CAST(:start AS timestamptz), CAST(:change AS timestamptz), 0.1, 'EUR'),
                (:change, CAST(:other AS timestamptz), 0.3, 'EUR'), (:other, CAST(:stop AS timestamptz), 2.0, 'NOK'))
                AS it (first, beyond, price, currency)"""),
            {"start": START, "change": START + timedelta(minutes=90), "other": START + 2 * HOUR,
             "stop": START + 3 * HOUR},
        )  # fmt: skip
    send(engine, [*hourly("u", START, 4, kwh=120), *hourly("p", START, 4, kwh=100)])
    fold(engine)
    euro, krone = report("SELECT * FROM report.facility_cost(:start, :stop)", start=START, stop=START + 4 * HOUR)
    # 0.1, then half of each; the fourth hour has no price.
    assert (euro["currency"], euro["cost"]) == ("EUR", pytest.approx(120 * (0.1 + 0.2)))
    assert euro["cost_per_it_kwh"] == pytest.approx(1.2 * 0.15)
    assert (euro["price_coverage"], euro["facility_energy_j"]) == (0.5, 240 * 3_600_000)
    assert (krone["currency"], krone["cost"], krone["price_coverage"]) == ("NOK", 240, 0.25)
    (hour,) = report("SELECT * FROM report.facility_cost(:start, :stop)", start=START + 3 * HOUR, stop=START + 4 * HOUR)
    assert (hour["currency"], hour["cost"], hour["price_coverage"], hour["coverage"]) == (None, None, 0, 1)


def test_each_meters_coverage_of_a_period(engine: Engine, report: Report) -> None:
    roles = {"u": "utility", "half": "pdu", "late": "it", "w": "water", "out": "temperature", "never": "cooling"}
    place(engine, {name: {"role": role, "since": START + 30 * HOUR if name == "late" else None}
                   for name, role in roles.items()})  # fmt: skip
    send(engine, [*hourly("u", START, 48, kwh=1), *hourly("half", START, 24, kwh=1),
                  # Before its time of use nothing counts.
                  *hourly("late", START + 20 * HOUR, 19, kwh=1), *hourly("w", START, 12, volume_ml=1_000),
                  *hourly("out", START, 36, temp_mean_mc=20_000)])  # fmt: skip
    fold(engine)
    found = report("SELECT * FROM report.meter_coverage(:start, :stop, 'oslo')", start=START, stop=START + 2 * DAY)
    assert {it["meter"]: (it["hours_wanted"], it["hours_known"], it["coverage"]) for it in found} == {
        "u": (48, 48, 1), "half": (48, 24, 0.5), "late": (18, 9, 0.5), "w": (48, 12, 0.25), "out": (48, 36, 0.75),
        "never": (48, 0, 0),
    }  # fmt: skip
    assert {it["meter"]: it["energy_j"] for it in found}["late"] == 9 * 3_600_000


def test_carbon_of_the_facility(engine: Engine, report: Report) -> None:
    place(engine, UTILITY_AND_PDU)
    with engine.begin() as connection:
        connection.execute(
            text("""
            WITH import AS (
                INSERT INTO gigawatch.factor_import (site_id, source, version)
                SELECT site_id, 'x', 'y' FROM gigawatch.site RETURNING import_id, site_id
            )
            INSERT INTO gigawatch.grid_intensity (import_id, site_id, start, stop, method, g_per_kwh, estimated)
            SELECT import_id, site_id, first, beyond, 'location', g, guess
            FROM import, (VALUES (CAST(:start AS timestamptz), CAST(:change AS timestamptz), 100, false),
                (:change, CAST(:stop AS timestamptz), 300, true)) AS it (first, beyond, g, guess)"""),
            {"start": START, "change": START + timedelta(minutes=90), "stop": START + 3 * HOUR},
        )
    send(engine, [*hourly("u", START, 4, kwh=120), *hourly("p", START, 4, kwh=100)])
    fold(engine)
    found = report("SELECT * FROM report.facility_carbon(:start, :stop)", start=START, stop=START + 4 * HOUR)
    location, market = found
    # 100, then half of each, then 300; the fourth hour has no intensity.
    assert location["carbon_kg"] == pytest.approx(120 * (0.1 + 0.2 + 0.3))
    assert location["cue_kg_per_kwh"] == pytest.approx(1.2 * 0.2)
    assert (location["intensity_coverage"], location["estimated_share"]) == (0.75, pytest.approx(2 / 3))
    assert (market["method"], market["carbon_kg"], market["intensity_coverage"]) == ("market", None, 0)
    both = report(
        "SELECT * FROM report.facility_carbon(:start, :stop, NULL, 'both')", start=START, stop=START + 4 * HOUR
    )
    assert [it["label"] for it in both] == ["oslo", "oslo", None, None]
    assert [{**it, "label": "fleet"} for it in both] == [*found, *found]


def test_how_the_energy_was_obtained_is_shown(engine: Engine, report: Report) -> None:
    """A register that wrapped is a difference like any other; what was bridged, integrated or estimated is said."""
    place(engine, {"u": {"role": "utility"}})
    parts = zip(EnergyMethod, (40, 30, 20, 10), strict=True)
    send(engine, [
        window("u", START + number * timedelta(minutes=15), covered_ms=900_000, kwh=kwh, energy_method=method)
        for number, (method, kwh) in enumerate(parts)
    ])  # fmt: skip
    fold(engine)
    (found,) = report("SELECT * FROM report.facility(:start, :stop)", start=START, stop=START + HOUR)
    assert (found["energy_j"], found["power_w"], found["coverage"]) == (360_000_000, 100_000, 1)
    shares = [found[f"{how}_share"] for how in ("interpolated", "integrated", "estimated")]
    assert shares == pytest.approx([0.3, 0.2, 0.1])


def test_the_power_ratio_now_is_of_the_last_minutes_and_of_all_meters(engine: Engine, report: Report) -> None:
    place(
        engine,
        {"u": {"role": "utility"}, "a": {"role": "pdu"}, "b": {"role": "other"}, "v": {"role": "pdu", "virtual": True}},
        terms=[("v", "b", 1)],
    )
    now = datetime.now(START.tzinfo).replace(microsecond=0) - timedelta(seconds=30)
    recent = {"covered_ms": 10_000, "start": newest()}
    send(engine, [window("u", power_mean_mw=300_000, **recent), window("a", energy_mj=1_000_000, **recent)])
    asked = "SELECT * FROM report.power_ratio_now"
    assert [(it["power_ratio"], it["meters_silent"]) for it in report(asked)] == [(None, 1)]
    send(engine, [window("b", energy_mj=1_500_000, **recent)])
    (found,) = report(asked)
    assert (found["power_ratio"], found["it_power_w"], found["meters_silent"]) == (1.2, 250, 0)
    # One that is read each quarter of an hour tells what is now until three of these are over.
    quarter = timedelta(minutes=15)
    newest_ended = START + (now - START) // quarter * quarter
    for quarters_ago, silent in ((3, 1), (1, 0)):
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM gigawatch.meter_window WHERE meter_id = (SELECT meter_id FROM"
                                    " gigawatch.meter WHERE name = 'a')"))  # fmt: skip
        begun = newest_ended - (quarters_ago + 1) * quarter
        send(engine, [window("a", begun, covered_ms=900_000, energy_mj=90_000_000)])
        (found,) = report(asked)
        assert (found["power_ratio"], found["meters_silent"]) == (None if silent else 1.2, silent)


def test_pue_beside_load_and_the_air_outside_also_says_which_hours_are_in_no_sum(
    engine: Engine, report: Report
) -> None:
    place(engine, {**UTILITY_AND_PDU, "air": {"role": "temperature"}, "aisle": {"role": "temperature", "hall": "A"}})
    send(engine, [
        *hourly("u", START, 3, kwh=120), window("u", START + 4 * HOUR, kwh=90), *hourly("p", START, 5, kwh=100),
        *hourly("air", START, 2, temp_mean_mc=-3_500), *hourly("aisle", START, 5, temp_mean_mc=27_000),
    ])  # fmt: skip
    fold(engine)
    found = report(
        "SELECT * FROM report.pue_conditions(:start, :stop, '1 hour', 'oslo', 2)", start=START, stop=START + 5 * HOUR
    )
    assert [(it["pue"], it["it_power_w"], it["facility_power_w"], it["outside_temp_c"]) for it in found] == [
        (1.2, 100_000, 120_000, -3.5), (1.2, 100_000, 120_000, -3.5), (1.2, 100_000, 120_000, None),
        (None, None, None, None), (None, None, None, None),
    ]  # fmt: skip
    assert [(it["hours"], it["hours_missing"], it["hours_faulty"]) for it in found[2:]] == [
        (1, 0, 0), (0, 1, 0), (0, 0, 1),
    ]  # fmt: skip
    (day,) = report("SELECT * FROM report.pue_conditions(:start, :stop, '1 day')", start=START, stop=START + DAY)
    assert (day["pue"], day["outside_temp_c"], day["hours"]) == (1.2, -3.5, 3)
    (until,) = report("SELECT * FROM report.facility_until")
    assert until["until"] > START + 4 * HOUR


def test_the_fleets_power_ratio_is_of_sums_over_sites_whose_meters_answer(engine: Engine, report: Report) -> None:
    moment = newest(timedelta(minutes=1))
    for site, facility_kw, it_kw in (("oslo", 120, 100), ("austin", 30, 20), ("paris", 9, None)):
        place(engine, UTILITY_AND_PDU, site=site)
        powers = {"u": facility_kw, "p": it_kw}
        send(
            engine,
            [window(name, moment, kwh=kw / 60, covered_ms=60_000) for name, kw in powers.items() if kw is not None],
            site=site,
        )
    (found,) = report("SELECT * FROM report.power_ratio_fleet_now")
    assert found["power_ratio"] == pytest.approx(150 / 120, abs=1e-6)
    assert (found["sites"], found["sites_with_meters"], found["meters_silent"]) == (2, 3, 1)
    assert found["known"] == ["austin", "oslo"]


def test_mean_power_of_a_role_is_that_of_its_meters_at_each_time(engine: Engine, report: Report) -> None:
    """A second pump for the last of four hours, and a gap of one: the mean is of the time that is known."""
    place(engine, {"a": {"role": "pump"}, "b": {"role": "pump", "since": START + 3 * HOUR}})
    send(engine, [*hourly("a", START, 2, kwh=10), window("a", START + 3 * HOUR, kwh=10),
                  window("b", START + 3 * HOUR, kwh=10)])  # fmt: skip
    fold(engine)
    (found,) = report("SELECT * FROM report.facility(:start, :stop)", start=START, stop=START + 4 * HOUR)
    assert found["power_w"] == pytest.approx((10 + 10 + 20) * 1000 / 3)


@pytest.mark.parametrize(
    ("powers_w", "fed_kwh", "stuck"),
    [
        # What it feeds rises by a tenth, and falls again, beside a power that is the same to the watt.
        (
            [(98_001, 100_300), *[(100_123, 100_123)] * 4, (99_000, 101_000), (99_500, 99_900)],
            [98, 98, 100, 104, 98, 98, 98],
            [1, 1, 1, 1, 1, 1, 0],
        ),
        # By less than two of its last digits.
        ([(100_000, 100_000)] * 4, [97, 98, 99, 96], [0, 0, 0, 0]),
        # As steady as it is.
        ([(100_123, 100_123)] * 4, [98.2, 98.1, 98, 98.3], [0, 0, 0, 0]),
        # It is told of one hour alone.
        ([(100_000, 110_000), (100_123, 100_123), (90_000, 100_000)], [98, 108, 94], [0, 0, 0]),
    ],
)
def test_a_meter_of_power_alone_that_does_not_follow_what_it_feeds_stands_still(
    engine: Engine, report: Report, powers_w: list[tuple[int, int]], fed_kwh: list[float], stuck: list[int]
) -> None:
    place(engine, {"u": {"role": "utility"}, "ups": {"role": "ups_out"}, "a": {"role": "pdu"}, "b": {"role": "pdu"}},
          feeds=[("ups", "a"), ("ups", "b")])  # fmt: skip
    polled = [
        window("ups", START + number * HOUR, kwh=100, energy_method=EnergyMethod.INTEGRATED, readings_taken=360,
               power_mean_mw=sum(those) * 500, power_min_mw=those[0] * 1_000, power_max_mw=those[1] * 1_000)
        for number, those in enumerate(powers_w)
    ]  # fmt: skip
    fed = [window(name, START + number * HOUR, kwh=kwh / 2) for number, kwh in enumerate(fed_kwh) for name in "ab"]
    send(engine, [*hourly("u", START, len(powers_w), kwh=120), *polled, *fed])
    fold(engine)

    def told() -> list[int]:
        found = pue(report, step="1 hour", stop=START + len(powers_w) * HOUR)
        return [it["hours_faulty"] for it in found if it["category"] == 1]

    assert told() == stuck
    # What it feeds is metered by others as well: nobody knows what of it comes by this one.
    place(engine, {"v": {"role": "ups_out"}}, feeds=[("v", "a"), ("v", "b")])
    send(engine, hourly("v", START, len(powers_w), kwh=1))
    fold(engine)
    assert told() == [0] * len(stuck)


def test_what_an_agent_read_of_a_meter_of_power_alone_that_stood_still_is_in_no_pue(
    engine: Engine, report: Report
) -> None:
    """By the agent's own folding: its power changes for two hours, stands still for two, changes again for two."""
    place(engine, {"u": {"role": "utility"}, "ups": {"role": "ups_out"}, "p": {"role": "pdu"}}, feeds=[("ups", "p")])
    folder = Folder(Meter(name="ups", driver="modbus", address="10.0.0.1", map="m", interval_s=60.0), 60_000)
    start_ms = round(START.timestamp() * 1_000)
    windows, fed_kwh = [], [0.0] * 6
    for minute in range(361):
        load_w = 100_000 + 8_000 * (minute % 7) + 6_000 * (minute // 60)
        shown_w = load_w if not 120 <= minute < 240 else 118_321
        folder.add(start_ms + 60_000 * minute, MeterReading(at_s=60.0 * minute, power_mw=shown_w * 1_000))
        windows += folder.close(start_ms + 60_000 * minute)
        fed_kwh[min(minute // 60, 5)] += load_w / 60_000 * 0.98 * (minute < 360)
    windows += folder.close(start_ms + 60_000 * 361, stop=True)
    send(engine, [
        *windows, *(window("p", START + hour * HOUR, kwh=kwh) for hour, kwh in enumerate(fed_kwh)),
        *hourly("u", START, 6, kwh=200),
    ])  # fmt: skip
    fold(engine)
    faulty = {
        (it["category"], (it["time"] - START) // HOUR): it["hours_faulty"]
        for it in pue(report, step="1 hour", stop=START + 6 * HOUR)
    }
    # Of the hours beside them too, in one of which it began: there nobody can say how long it stood still.
    assert {hour for (category, hour), count in faulty.items() if category == 1 and count} >= {2, 3}
    assert not {hour for (category, hour), count in faulty.items() if category == 1 and count} & {0, 5}
    assert not any(count for (category, _), count in faulty.items() if category == 2)


def test_an_hour_that_an_agent_does_not_believe_is_left_out_unless_a_later_reading_makes_it_known(
    engine: Engine, report: Report
) -> None:
    place(engine, UTILITY_AND_PDU)

    def doubted(meter: str, hour: int, doubt: MeterDoubt, mw: int) -> list[MeterWindow]:
        half = {"covered_ms": 1_800_000, "power_mean_mw": mw, "power_min_mw": mw, "power_max_mw": mw}
        start = START + hour * HOUR
        return [
            window(meter, start, kwh=60, **{**half, "power_mean_mw": 10**8}),
            window(meter, start + HOUR / 2, doubt=doubt, **half),
        ]

    late = window("p", START + HOUR / 2 + timedelta(milliseconds=1), kwh=50, covered_ms=1_799_999)
    send(engine, [
        *doubted("p", 0, MeterDoubt.STUCK, 10**8), late, *hourly("u", START, 2, kwh=120),
        *doubted("p", 1, MeterDoubt.STUCK, 10**8),
        *doubted("u", 2, MeterDoubt.REVERSED, -(10**8)), window("p", START + 2 * HOUR, kwh=100),
    ])  # fmt: skip
    fold(engine)
    found = pue(report, step="1 hour", stop=START + 3 * HOUR)
    assert [(it["hours"], it["hours_missing"]) for it in found] == [(1, 0), (0, 1), (0, 1)]
    assert found[0]["pue"] == pytest.approx(120 / 110)
    gaps = report(
        "SELECT * FROM report.facility_gaps(:start, :stop) WHERE figure = 'pue'", start=START, stop=START + 3 * HOUR
    )
    assert [(it["meters"], it["reasons"]) for it in gaps] == [
        (["p"], ["known in part: it stood still"]), (["u"], ["known in part: power flowed backwards"]),
    ]  # fmt: skip
