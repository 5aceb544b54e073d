"""Prices, intensities and configured PUE in a real store: what they make of energy; what is taken."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from api.factors import commands, files, store
from api.factors.store import Conflict, Kind, Taken
from gigawatch import database, readings
from gigawatch.errors import GigawatchError
from gigawatch.known import Unknown
from gigawatch.readings import Where
from gigawatch.units import JOULES_PER_KWH
from tests import flat
from tests.servers import Api, running_api

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
KWH_MJ = JOULES_PER_KWH * 1000
SITES = {"oslo": 1, "paris": 2}
H100, B200 = "H100", "B200"
GROUP = """(time, site_id, gpu_model, gpus, gpus_known, power_mw, covered_ms, energy_mj, energy_ms,
    energy_interpolated_mj, energy_integrated_mj, energy_estimated_mj, gpu_util_pm_ms, gpu_util_ms, throttled_ms)"""
LOCATION = store.intensity("location", None)


def utc(text_: str) -> datetime:
    return datetime.fromisoformat(text_).replace(tzinfo=UTC)


def minutes(
    connection: Connection, site: str, model: str, start: datetime, energies_mj: list[int], gpus: int = 1
) -> None:
    """Minutes of one site and model with these energies, and the hours that they make; all is folded afterwards."""
    for level, width in (("1m", MINUTE), ("1h", HOUR)):
        connection.execute(
            text(
                "INSERT INTO gigawatch.rollup VALUES (:level, '2100-01-01Z', '2100-01-01Z', 0) ON CONFLICT DO NOTHING"
            ),
            {"level": level},
        )
        connection.execute(
            text(f"""
            INSERT INTO gigawatch.site_{level} {GROUP}
            SELECT date_bin(:width, time, '2000-01-01Z') AS bucket, :site, :model, :gpus, :gpus, 0,
                count(*) * 60000 * :gpus, sum(energy), count(*) * 60000 * :gpus, 0, 0, 0, 0, 0, 0
            FROM (SELECT :start + (n - 1) * interval '1 min' AS time, energy
                FROM unnest(CAST(:energies AS bigint[])) WITH ORDINALITY AS given (energy, n)) AS minutes
            GROUP BY 1"""),
            {
                "width": width,
                "site": SITES[site],
                "model": model,
                "start": start,
                "energies": energies_mj,
                "gpus": gpus,
            },
        )


def take(connection: Connection, site: str, kind: Kind, body: str, **given: Any) -> Taken:
    read = {"tariff": files.prices, "grid_intensity": files.intensities, "configured_pue": files.pues}[kind.table]
    found = read(body.encode())
    asked = {"version": "1", "source": "test", "replace": False, "dry_run": False, **given}
    return store.take(connection, site, kind, found, **asked)


def table_of(column: str, rows: list[tuple[datetime, datetime, Any]], currency: str | None = None) -> str:
    """A file in the plain format."""
    last = f",{currency}" if currency else ""
    lines = [f"{start.isoformat()},{stop.isoformat()},{value}{last}" for start, stop, value in rows]
    return "\n".join([f"start,stop,{column}{',currency' if currency else ''}", *lines])


def price(
    connection: Connection, site: str, *rows: tuple[datetime, datetime, Any], currency: str = "EUR", **given: Any
) -> Taken:
    return take(connection, site, store.price(currency), table_of("price_per_kwh", list(rows), currency), **given)


def emit(connection: Connection, site: str, kind: Kind, *rows: tuple[datetime, datetime, Any]) -> Taken:
    return take(connection, site, kind, table_of("g_per_kwh", list(rows)))


def configure(connection: Connection, site: str, *rows: tuple[datetime, datetime, Any], **given: Any) -> Taken:
    return take(connection, site, store.CONFIGURED_PUE, table_of("pue", list(rows)), **given)


@pytest.fixture
def owner(engine: Engine) -> Iterator[Connection]:
    """The store's owner, with two sites."""
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo'), ('paris')"))
        yield connection


def exact(connection: Connection, function: str, start: datetime, stop: datetime, column: str) -> Decimal:
    """One figure of the whole fleet, to the last digit."""
    found = connection.scalar(text(f"SELECT sum({column}) FROM report.{function}(:a, :b)"), {"a": start, "b": stop})
    return Decimal(found or 0)


def test_codecarbons_mix_and_two_kwh(owner: Connection) -> None:
    """METHODS: .25·995 + .35·816 + .26·743 + .14·29 = 731.59 g/kWh; 2 kWh at 50 g/kWh are 0.1 kg."""
    day = utc("2026-01-05 00:00")
    minutes(owner, "oslo", H100, day, [2 * KWH_MJ // 60] * 60)
    minutes(owner, "paris", H100, day, [KWH_MJ // 100] * 100)
    emit(owner, "oslo", LOCATION, (day, day + HOUR, 50))
    hundredths = iter([995] * 25 + [816] * 35 + [743] * 26 + [29] * 14)
    emit(
        owner, "paris", LOCATION, *((day + it * MINUTE, day + (it + 1) * MINUTE, next(hundredths)) for it in range(100))
    )
    by_site = {
        it.label: it for it in readings.carbon(owner, day, day + 2 * HOUR, group_by="site") if it.method == "location"
    }
    assert by_site["oslo"].carbon_kg == 0.1
    assert by_site["paris"].carbon_kg == 0.73159
    assert {it.boundary for it in by_site.values()} == {"gpu"}
    assert [it.intensity_coverage for it in by_site.values()] == [1, 1]


def test_methods_and_instruments_are_apart(owner: Connection) -> None:
    day = utc("2026-01-05 00:00")
    minutes(owner, "oslo", H100, day, [KWH_MJ // 60] * 240)
    emit(owner, "oslo", LOCATION, (day, day + 4 * HOUR, 400))
    emit(owner, "oslo", store.intensity("market", "PPA wind"), (day, day + HOUR, 0))
    emit(owner, "oslo", store.intensity("market", "residual mix"), (day + HOUR, day + 2 * HOUR, 700))
    found = {(it.method, it.instrument): it for it in readings.carbon(owner, day, day + 4 * HOUR)}
    assert {key: it.carbon_kg for key, it in found.items()} == {
        ("location", None): 1.6, ("market", "PPA wind"): 0, ("market", "residual mix"): 0.7,
    }  # fmt: skip
    assert [it.intensity_coverage for it in found.values()] == [1, 0.25, 0.25]
    steps = readings.carbon(owner, day, day + 4 * HOUR, HOUR)
    assert [it.carbon_kg for it in steps if it.method == "location"] == [0.4] * 4
    assert [it.carbon_kg for it in steps if it.method == "market"] == [0, 0.7, None, None]


@pytest.mark.parametrize(
    ("day", "peak_h", "rest_h"), [("2026-03-27", 14, 10), ("2026-03-29", 14, 9), ("2026-10-25", 14, 11)]
)
def test_time_of_use_by_hand_on_common_days_and_when_clocks_are_set(
    owner: Connection, day: str, peak_h: int, rest_h: int
) -> None:
    """1 kWh an hour: the local day has 14 hours at 0.24, and 10, 9 or 11 at 0.11."""
    first = datetime.fromisoformat(day)
    contract = f"""
time_zone = "Europe/Berlin"
from = {day}
to = {(first + timedelta(days=1)):%Y-%m-%d}
currency = "EUR"
price_per_kwh = 0.11
periods = [{{hours = "07:00-21:00", price_per_kwh = 0.24}}]
"""
    taken = take(owner, "oslo", store.price("EUR"), contract)
    assert taken.stop - taken.start == (peak_h + rest_h) * HOUR
    minutes(owner, "oslo", H100, taken.start - 6 * HOUR, [KWH_MJ // 60] * (36 * 60))
    expected = peak_h * Decimal("0.24") + rest_h * Decimal("0.11")
    assert exact(owner, "cost", taken.start, taken.stop, "cost") == expected
    (found,) = readings.cost(owner, taken.start, taken.stop)
    assert (found.currency, found.price_coverage, found.split_share, found.coverage) == ("EUR", 1, 0, 1)
    (wide,) = readings.cost(owner, taken.start - 6 * HOUR, taken.start + 30 * HOUR)
    assert wide.cost == pytest.approx(float(expected))
    assert wide.price_coverage == pytest.approx((peak_h + rest_h) / 36)


def test_currencies_are_never_added_and_energy_without_a_price_is_seen(owner: Connection) -> None:
    day = utc("2026-01-05 00:00")
    minutes(owner, "oslo", H100, day, [KWH_MJ // 60] * 120)
    minutes(owner, "oslo", B200, day, [KWH_MJ // 60] * 120)
    minutes(owner, "paris", B200, day, [KWH_MJ // 60] * 120)
    price(owner, "oslo", (day, day + HOUR, "0.1"), currency="NOK")
    price(owner, "paris", (day, day + 2 * HOUR, "-0.02"))
    period = (owner, day, day + 2 * HOUR)
    fleet = {it.currency: (it.cost, it.price_coverage, it.energy_j) for it in readings.cost(*period)}
    assert fleet == {
        "EUR": (-0.04, pytest.approx(2 / 6), 6 * JOULES_PER_KWH),
        "NOK": (0.2, pytest.approx(2 / 6), 6 * JOULES_PER_KWH),
    }
    by_model = {(it.label, it.currency): it.cost for it in readings.cost(*period, group_by="gpu_model")}
    assert by_model == {(B200, "EUR"): -0.04, (B200, "NOK"): 0.1, (H100, "NOK"): 0.1}
    (paris,) = readings.cost(*period, where=Where(site="paris", gpu_model=B200), group_by="site")
    assert (paris.label, paris.cost, paris.coverage) == ("paris", -0.04, 1)
    (none,) = readings.cost(owner, day + HOUR, day + 2 * HOUR, where=Where(site="oslo"))
    assert (none.currency, none.cost, none.price_coverage, none.energy_j) == (None, None, 0, 2 * JOULES_PER_KWH)
    assert readings.cost(*period, where=Where(site="nowhere")) == []


def test_hours_whose_minutes_are_gone_are_split_evenly_and_it_is_said(owner: Connection) -> None:
    day = utc("2026-01-05 00:00")
    uneven = [0] * 30 + [KWH_MJ // 30] * 30
    minutes(owner, "oslo", H100, day, uneven * 2)
    half = day + HOUR / 2
    price(owner, "oslo", (day, half, "0.1"), (half, day + 90 * MINUTE, "0.3"))
    period = (owner, day, day + 2 * HOUR)
    (found,) = readings.cost(*period)
    assert (found.cost, found.price_coverage, found.split_share) == (0.3, 0.5, 0)
    # Half of the first hour's minutes: not enough, they would be taken for the whole.
    owner.execute(text("DELETE FROM gigawatch.site_1m WHERE time < :half"), {"half": half})
    (found,) = readings.cost(*period)
    assert (found.cost, found.price_coverage, found.split_share) == (pytest.approx(0.2), 0.5, 0.5)
    owner.execute(text("DELETE FROM gigawatch.site_1m"))
    (found,) = readings.cost(*period)
    assert (found.cost, found.price_coverage, found.split_share) == (pytest.approx(0.35), 0.75, 1)


def test_windows_that_are_not_folded_yet_count(owner: Connection) -> None:
    start = utc("2026-01-05 00:00")
    owner.execute(text("INSERT INTO gigawatch.node (machine_id, site_id, hostname) VALUES ('a', 1, 'a')"))
    owner.execute(text("INSERT INTO gigawatch.gpu (node_id, uuid, index, model) VALUES (1, 'GPU-1', 0, 'H100')"))
    flat.make(owner)
    owner.execute(
        text("""
        INSERT INTO flat_window (time, gpu_id, covered_ms, ticks_taken, ticks_expected, energy_method, energy_mj)
        SELECT time, 1, 10000, 10, 10, 1, 100000
        FROM generate_series(CAST(:start AS timestamptz), :start + interval '19 min 50 s', interval '10 s') AS time"""),
        {"start": start},
    )
    flat.store(owner)
    price(owner, "oslo", (start, start + 5 * MINUTE, 1), (start + 5 * MINUTE, start + 10 * MINUTE, 3))
    (found,) = readings.cost(owner, start, start + 20 * MINUTE)
    assert found.energy_j == 12_000
    assert found.cost == pytest.approx((3_000 * 1 + 3_000 * 3) / JOULES_PER_KWH)
    assert (found.price_coverage, found.coverage, found.counter_share) == (0.5, 1, 1)


PLACES = st.integers(0, 24)


@given(
    # Values that change at quarters of an hour alone are summed in another way.
    st.sampled_from([1, 7, 15]),
    st.lists(st.tuples(PLACES, st.integers(-500, 2_000), st.booleans()), max_size=8, unique_by=lambda it: it[0]),
    st.lists(PLACES, min_size=2, max_size=6, unique=True).map(sorted),
    st.integers(0, 2**32),
    st.sets(st.integers(0, 5)),
    st.booleans(),
)
# A price begins, or ends, in the middle of an hour, and there is no other.
@example(15, [(2, 1_000, True)], [0, 24], 0, set(), True)
@example(15, [(0, 1_000, True), (2, 0, False)], [0, 24], 0, set(), True)
@settings(max_examples=30)
def test_a_period_costs_what_its_parts_cost(
    engine: Engine,
    width: int,
    places: list[tuple[int, int, bool]],
    cut_at: list[int],
    seed: int,
    gone: set[int],
    folded: bool,
) -> None:
    """Whatever the prices, wherever the period is cut, whichever hours have lost their minutes."""
    changes = [(width * place, value, known) for place, value, known in places]
    cuts = [width * place for place in cut_at]
    chance, base = random.Random(seed), utc("2026-01-05 21:00")  # noqa: S311 # no secret
    energies = {
        key: [chance.randrange(10**9) for _ in range(360)] for key in (("oslo", H100), ("oslo", B200), ("paris", H100))
    }
    stretches = [
        (base + first * MINUTE, base + beyond * MINUTE, Decimal(value) / 1000)
        for (first, value, known), (beyond, _, _) in pairwise([*sorted(changes), (361, 0, False)])
        if known
    ]
    with engine.connect() as connection:
        # What is rolled back, TimescaleDB begins anew more quickly than what is truncated; numbers go on, though.
        connection.execute(
            text(
                "INSERT INTO gigawatch.site (site_id, name) OVERRIDING SYSTEM VALUE"
                " VALUES (:oslo, 'oslo'), (:paris, 'paris')"
            ),
            SITES,
        )
        for (site, model), values in energies.items():
            minutes(connection, site, model, base, values)
        for start, stop, value in stretches:
            price(connection, "oslo", (start, stop, value))
        if folded:
            for hour in gone:
                connection.execute(
                    text("DELETE FROM gigawatch.site_1m WHERE date_bin('1 hour', time, '2000-01-01Z') = :a"),
                    {"a": base + hour * HOUR},
                )
        else:
            connection.execute(text("DELETE FROM gigawatch.rollup WHERE level = '1h'"))
            connection.execute(text("DELETE FROM gigawatch.site_1h"))
        moments = [base + it * MINUTE for it in cuts]
        parts = [exact(connection, "cost", a, b, "cost") for a, b in pairwise(moments)]
        whole = exact(connection, "cost", moments[0], moments[-1], "cost")
        assert abs(whole - sum(parts)) < Decimal("1e-12")
        if not folded or not gone:
            expected = Decimal()
            for at in range(cuts[0], cuts[-1]):
                minute = base + at * MINUTE
                value = sum((it for start, stop, it in stretches if start <= minute < stop), Decimal())
                expected += (energies["oslo", H100][at] + energies["oslo", B200][at]) * value / KWH_MJ
            assert abs(whole - expected) < Decimal("1e-12")
        (energy,) = {it.energy_j for it in readings.cost(connection, base, base + 6 * HOUR)}
        assert energy == pytest.approx(sum(map(sum, energies.values())) / 1000)
        connection.rollback()


def test_earlier_values_are_replaced_only_when_asked_and_stay_known(owner: Connection) -> None:
    day = utc("2026-01-05 00:00")
    first = price(owner, "oslo", (day, day + 4 * HOUR, 1), source="first")
    with pytest.raises(Conflict, match="has values already: 2026-01-05 01:00 UTC to 2026-01-05 02:00 UTC"):
        price(owner, "oslo", (day + HOUR, day + 2 * HOUR, 2))
    tried = price(owner, "oslo", (day + HOUR, day + 2 * HOUR, 2), replace=True)
    assert (tried.retired, tried.notes) == (1, [])
    rows = owner.execute(
        text("SELECT start, stop, price_per_kwh, retired IS NULL FROM report.tariffs ORDER BY 4 DESC, 1")
    ).all()
    assert [tuple(row) for row in rows] == [
        (day, day + HOUR, 1, True), (day + HOUR, day + 2 * HOUR, 2, True), (day + 2 * HOUR, day + 4 * HOUR, 1, True),
        (day + HOUR, day + 2 * HOUR, 1, False),
    ]  # fmt: skip
    listed = readings.tariff_imports(owner)
    assert [(it.kind, it.source, it.intervals, it.counting) for it in listed] == [
        ("EUR", "first", 3, 2),
        ("EUR", "test", 1, 1),
    ]
    assert store.remove(owner, "tariff", first.import_id or 0).retired == 2
    with pytest.raises(Unknown, match="no import 1 of which anything counts"):
        store.remove(owner, "tariff", 1)
    assert [it.price_per_kwh for it in readings.tariffs(owner, day, day + 4 * HOUR, "oslo")] == [2]
    # What is free again can be taken again.
    price(owner, "oslo", (day, day + HOUR, 1))


def test_a_configured_pue_is_replaced_only_when_asked_and_stays_known(owner: Connection) -> None:
    year, half, end = utc("2026-01-01 00:00"), utc("2026-07-01 00:00"), utc("2027-01-01 00:00")
    taken = configure(owner, "oslo", (year, end, "1.25"), source="design value")
    assert (taken.unit, taken.least, taken.greatest, taken.intervals) == (None, 1.25, 1.25, 1)
    configure(owner, "paris", (year, end, "1.4"))
    with pytest.raises(Conflict, match="oslo has values already: 2026-07-01 00:00 UTC to 2027-01-01 00:00 UTC"):
        configure(owner, "oslo", (half, end, "1.2"))
    assert configure(owner, "oslo", (half, end, "1.2"), replace=True, source="commissioning").retired == 1
    shown = "SELECT start, stop, pue, source, version, retired IS NULL FROM report.configured_pue WHERE site = 'oslo'"
    assert [tuple(row) for row in owner.execute(text(f"{shown} ORDER BY 6 DESC, 1"))] == [
        (year, half, Decimal("1.25"), "design value", "1", True),
        (half, end, Decimal("1.2"), "commissioning", "1", True),
        (half, end, Decimal("1.25"), "design value", "1", False),
    ]
    assert [(it.site, it.pue) for it in readings.configured_pue(owner, half - HOUR, half + HOUR)] == [
        ("oslo", 1.25), ("oslo", 1.2), ("paris", 1.4),
    ]  # fmt: skip
    assert [(it.kind, it.source, it.intervals, it.counting) for it in readings.pue_imports(owner, "oslo")] == [
        ("configured", "design value", 2, 1), ("configured", "commissioning", 1, 1),
    ]  # fmt: skip
    counting = "SELECT first, beyond, value FROM expanded.configured_pue WHERE site_id = 1 ORDER BY 1"
    assert [tuple(row) for row in owner.execute(text(counting))] == [
        (year, half, Decimal("1.25")), (half, end, Decimal("1.2")),
    ]  # fmt: skip
    assert store.remove(owner, "configured_pue", taken.import_id or 0).retired == 1
    assert [it.pue for it in readings.configured_pue(owner, year, end, "oslo")] == [1.2]


def test_a_configured_pue_changes_no_figure_of_the_gpus_alone(owner: Connection) -> None:
    day = utc("2026-01-05 00:00")
    minutes(owner, "oslo", H100, day, [KWH_MJ // 60] * 60)
    price(owner, "oslo", (day, day + HOUR, "0.1"))
    emit(owner, "oslo", LOCATION, (day, day + HOUR, 400))
    period = (owner, day, day + HOUR)
    before = readings.cost(*period), readings.carbon(*period)
    configure(owner, "oslo", (day, day + HOUR, "1.5"))
    assert (readings.cost(*period), readings.carbon(*period)) == before


def test_a_file_is_taken_whole_or_not_at_all(engine: Engine) -> None:
    day = utc("2026-01-05 00:00")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo'), ('paris')"))
        assert price(connection, "oslo", (day, day + HOUR, 1), dry_run=True).import_id is None
    with pytest.raises(Unknown, match="no site named 'olso'"), engine.begin() as connection:
        price(connection, "olso", (day, day + HOUR, 1))
    with pytest.raises(GigawatchError, match="instrument = None does not go with method = 'market'"):
        store.intensity("market", None)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM gigawatch.factor_import")) == 0
        assert connection.scalar(text("SELECT count(*) FROM gigawatch.tariff")) == 0


@pytest.mark.parametrize(
    "rows",
    [
        "(1, 1, '2025-01-01 00:59Z', '2026-01-01 02:00Z', 1, 'EUR')",
        "(1, 1, '2026-01-01 00:00Z', '2026-01-01 00:00Z', 1, 'EUR')",
        "(1, 1, '2026-01-01 00:00:01Z', '2026-01-01 01:00Z', 1, 'EUR')",
        "(1, 1, '2026-01-01 00:00Z', '2026-01-01 01:00Z', 1, 'euro')",
    ],
)
def test_the_store_itself_refuses_what_cannot_be(owner: Connection, rows: str) -> None:
    price(owner, "oslo", (utc("2025-01-01 00:00"), utc("2025-01-01 01:00"), 1))
    with pytest.raises(DBAPIError, match=r"tariff_(time_excl|start_check|minutes_check|currency_check)"):
        owner.exec_driver_sql(
            f"INSERT INTO gigawatch.tariff (import_id, site_id, start, stop, price_per_kwh, currency) VALUES {rows}"
        )


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        ("(1, 1, '2025-06-01 00:00Z', '2026-06-01 00:00Z', 1.2)", "configured_pue_time_excl"),
        ("(1, 1, '2026-01-01 00:00Z', '2026-01-01 00:00Z', 1.2)", "configured_pue_start_check"),
        ("(1, 1, '2026-01-01 00:00:01Z', '2026-01-01 01:00Z', 1.2)", "configured_pue_minutes_check"),
        ("(1, 1, '2026-01-01 00:00Z', '2026-01-01 00:59:59.5Z', 1.2)", "configured_pue_minutes_check"),
        ("(1, 1, '2026-01-01 00:00Z', '2026-01-01 01:00Z', 0.999)", "configured_pue_pue_check"),
        ("(1, 1, '2026-01-01 00:00Z', '2026-01-01 01:00Z', 5.001)", "configured_pue_pue_check"),
        ("(1, 1, '2026-01-01 00:00Z', '2026-01-01 01:00Z', 'NaN')", "configured_pue_pue_check"),
    ],
)
def test_the_store_itself_refuses_a_pue_that_cannot_be(owner: Connection, row: str, constraint: str) -> None:
    configure(owner, "oslo", (utc("2025-01-01 00:00"), utc("2026-01-01 00:00"), 1.3))
    insert = "INSERT INTO gigawatch.configured_pue (import_id, site_id, start, stop, pue) VALUES "
    # Another site, and the next moment, are free.
    owner.exec_driver_sql(f"{insert} (1, 2, '2025-06-01 00:00Z', '2026-06-01 00:00Z', 1)")
    owner.exec_driver_sql(f"{insert} (1, 1, '2026-01-01 02:00Z', '2026-01-01 03:00Z', 5)")
    with pytest.raises(DBAPIError, match=constraint):
        owner.exec_driver_sql(insert + row)


def test_the_report_role_reads_figures_and_no_tables(report_engine: Engine) -> None:
    with report_engine.connect() as connection:
        now = datetime.now(UTC)
        assert readings.cost(connection, now - HOUR, now) == readings.carbon(connection, now - HOUR, now) == []
        assert readings.tariff_imports(connection) == readings.intensity_imports(connection) == []
        with pytest.raises(DBAPIError, match="step = 00:30:00 is not a number of whole hours"):
            readings.cost(connection, now - HOUR, now, timedelta(minutes=30))
        connection.rollback()
        with pytest.raises(DBAPIError, match="group_by = rack is not fleet, site, gpu_model, deployment or model"):
            connection.execute(text("SELECT * FROM report.cost(now() - interval '1 hour', now(), group_by => 'rack')"))
        connection.rollback()
        assert readings.configured_pue(connection, now - HOUR, now) == readings.pue_imports(connection) == []
    for table in ("tariff", "grid_intensity", "configured_pue", "factor_import"):
        with report_engine.connect() as connection, pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text(f"SELECT * FROM gigawatch.{table}"))


def test_the_verbs_import_list_and_remove(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo')"))
    of_store = ["--database-url", engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    day = utc("2026-01-05 00:00")
    path = tmp_path / "prices.csv"
    path.write_text(table_of("price_per_mwh", [(day, day + HOUR, "45.5"), (day + HOUR, day + 2 * HOUR, "-3")]))
    carbon = tmp_path / "carbon.csv"
    carbon.write_text(table_of("g_per_kwh", [(day, day + HOUR, 380.95)]))

    def run(command: Any, *arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(command, [*arguments[:1], *of_store, *arguments[1:]], obj=None)
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    asked = ("import", str(path), "--site", "oslo", "--source", "exchange")
    assert "--currency EUR" in run(commands.tariff, *asked, fails=True)
    assert run(commands.tariff, *asked, "--currency", "EUR", "--dry-run").startswith(
        "Could take in 2 values of 2026-01-05 00:00 to 2026-01-05 02:00 UTC for oslo, -0.003 to 0.0455 EUR/kWh"
    )
    assert run(commands.tariff, "list") == ""
    assert json.loads(run(commands.tariff, *asked, "--currency", "EUR", "--json"))["intervals"] == 2
    assert "--replace" in run(commands.tariff, *asked, "--currency", "EUR", fails=True)
    assert "Replaced 2 earlier values." in run(commands.tariff, *asked, "--currency", "EUR", "--replace")
    listed = json.loads(run(commands.tariff, "list", "--json"))
    assert [(it["site"], it["kind"], it["counting"]) for it in listed] == [("oslo", "EUR", 0), ("oslo", "EUR", 2)]
    assert "2 of 2 values count" in run(commands.tariff, "list", "--site", "oslo")
    for verb in (commands.tariff, commands.intensity, commands.pue):
        assert "There is no site named 'olso'\n  There are: oslo." in run(verb, "list", "--site", "olso", fails=True)
    last = str(listed[-1]["import_id"])
    assert run(commands.tariff, "remove", last) == f"Removed import {last}: 2 values no longer count.\n"
    assert "list" in run(commands.tariff, "remove", last, fails=True)
    market = ("import", str(carbon), "--site", "oslo", "--method", "market", "--source", "contract")
    assert "--instrument" in run(commands.intensity, *market, fails=True)
    assert "380.95 to 380.95 gCO2e/kWh" in run(commands.intensity, *market, "--instrument", "PPA")
    (listed,) = json.loads(run(commands.intensity, "list", "--json"))
    assert listed["kind"] == "market, PPA"
    assert "Removed" in run(commands.intensity, "remove", str(listed["import_id"]))


def test_a_pue_is_set_imported_listed_and_removed(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo')"))
    of_store = ["--database-url", engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]

    def run(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(commands.pue, [*arguments[:1], *of_store, *arguments[1:]], obj=None)
        assert (result.exit_code != 0) == fails, result.output
        return result.output

    def given(pue: str, *more: str) -> tuple[str, ...]:
        return ("set", "--site", "oslo", "--pue", pue, "--from", "2026-01-01", "--to", "2027-01-01", *more)

    design = ("--source", "design value")
    assert "--source" in run(*given("1.2"), fails=True)
    for wrong in ("0.9", "5.1", "nan"):
        refused = run(*given(wrong, *design), fails=True)
        assert f"{wrong} from 2026-01-01 00:00 UTC on is not between 1 and 5" in refused.replace("NaN", "nan")
        assert "write 1.2 where a fifth comes on top" in refused
    assert "'1,2' is not a valid float" in run(*given("1,2", *design), fails=True)
    assert "--to = '2027-13-01' is not a date" in run(*given("1.2", *design, "--to", "2027-13-01"), fails=True)
    assert "is not before stop" in run(*given("1.2", *design, "--to", "2026-01-01"), fails=True)
    assert "There are: oslo" in run(*given("1.2", *design, "--site", "olso"), fails=True)
    said = (
        "1 values of 2026-01-01 00:00 to 2027-01-01 00:00 UTC for oslo, 1.2 to 1.2 (configured PUE), from design value"
    )
    assert f"Could take in {said}" in run(*given("1.2", *design, "--dry-run"))
    assert run("list") == ""
    assert said in run(*given("1.2", *design))
    assert "--replace" in run(*given("1.3", *design), fails=True)
    path = tmp_path / "pue.csv"
    path.write_text("start,stop,pue\n2026-06-01,2026-07-01,1.35\n2026-07-01,2026-08-01,1.4\n")
    imported = ("import", str(path), "--site", "oslo", "--source", "months", "--json", "--replace")
    assert "--time-zone" in run(*imported, fails=True)
    taken = json.loads(run(*imported, "--time-zone", "Europe/Oslo"))
    assert (taken["intervals"], taken["retired"], taken["unit"], taken["start"]) == (
        2, 1, None, "2026-05-31T22:00:00Z",
    )  # fmt: skip
    listed = json.loads(run("list", "--json"))
    assert [(it["kind"], it["version"], it["counting"]) for it in listed] == [
        ("configured", "set on the command line", 2), ("configured", taken["version"], 2),
    ]  # fmt: skip
    assert "configured" in run("list", "--site", "oslo")
    assert "2 values no longer count" in run("remove", str(taken["import_id"]))
    with engine.connect() as connection:
        period = (connection, utc("2026-01-01 00:00"), utc("2027-01-01 00:00"))
        assert [(it.pue, it.stop - it.start) for it in readings.configured_pue(*period)] == [
            (1.2, utc("2026-05-31 22:00") - utc("2026-01-01 00:00")),
            (1.2, utc("2027-01-01 00:00") - utc("2026-07-31 22:00")),
        ]


@pytest.fixture
def api(engine: Engine, tmp_path: Path) -> Iterator[Api]:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo')"))
    url = engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with running_api(url, tmp_path / "log", GIGAWATCH_SERVER__MAX_BODY_MIB="1") as api:
        yield api


def test_the_api_takes_lists_and_removes(api: Api) -> None:
    day = utc("2026-01-05 00:00")
    prices = table_of("price_per_kwh", [(day, day + HOUR, "0.25")], "EUR")
    schedule = {"time_zone": "UTC", "from": "2026-02-01", "to": "2026-03-01", "currency": "EUR", "price_per_kwh": 0.3}
    carbon = table_of("g_per_kwh", [(day, day + HOUR, 56.039)])

    def status(answer: httpx.Response, words: str = "") -> int:
        assert words in answer.text, answer.text
        return answer.status_code

    with api.client("viewer") as viewer, api.client("admin") as admin:
        where = {"site": "oslo", "source": "test"}
        assert status(viewer.post("/api/v1/tariffs", params=where, content=prices), "needs admin") == 403
        assert status(viewer.delete("/api/v1/tariffs/imports/1"), "needs admin") == 403
        assert (
            admin.post("/api/v1/tariffs", params={**where, "dry_run": "true"}, content=prices).json()["import_id"]
            is None
        )
        taken = admin.post("/api/v1/tariffs", params=where, content=prices)
        assert taken.json()["unit"] == "EUR/kWh", taken.text
        assert status(admin.post("/api/v1/tariffs", params=where, content=prices), "replace=true") == 409
        assert status(admin.post("/api/v1/tariffs", params=where, json=schedule)) == 200
        assert status(admin.post("/api/v1/tariffs", params={"site": "oslo"}, content=prices), "come from") == 422
        assert (
            status(admin.post("/api/v1/tariffs", params={**where, "site": "x"}, content=prices), "There are: oslo")
            == 404
        )
        assert status(admin.post("/api/v1/tariffs", params=where, content="a,b"), "header of a known format") == 422
        assert (
            status(admin.post("/api/v1/tariffs", params=where, content=b" " * 2**20 + b"12"), "split the file") == 413
        )
        method = {**where, "method": "market"}
        assert status(admin.post("/api/v1/grid-intensity", params=method, content=carbon), "instrument = None") == 422
        method["instrument"] = "PPA"
        assert status(admin.post("/api/v1/grid-intensity", params=method, content=carbon)) == 200

        period = {"start": "2026-01-05T00:30Z", "stop": "2026-02-02"}
        (first, second) = viewer.get("/api/v1/tariffs", params=period).json()
        assert (first["price_per_kwh"], second["price_per_kwh"], first["site"]) == (0.25, 0.3, "oslo")
        (factor,) = viewer.get("/api/v1/grid-intensity", params=period).json()
        assert (factor["g_per_kwh"], factor["instrument"]) == (56.039, "PPA")
        assert [it["counting"] for it in viewer.get("/api/v1/tariffs/imports", params={"site": "oslo"}).json()] == [
            1,
            1,
        ]
        assert admin.delete(f"/api/v1/tariffs/imports/{first['import_id']}").json()["retired"] == 1
        assert admin.delete(f"/api/v1/grid-intensity/imports/{factor['import_id']}").json()["retired"] == 1

        pue = table_of("pue", [(day, day + HOUR, "1.17")])
        assert status(viewer.post("/api/v1/configured-pue", params=where, content=pue), "needs admin") == 403
        assert admin.post("/api/v1/configured-pue", params=where, content=pue).json()["unit"] is None
        assert status(admin.post("/api/v1/configured-pue", params=where, content=pue), "replace=true") == 409
        low = pue.replace("1.17", "0.17")
        assert status(admin.post("/api/v1/configured-pue", params=where, content=low), "pue = 0.17") == 422
        (found,) = viewer.get("/api/v1/configured-pue", params=period).json()
        assert (found["pue"], found["site"], found["source"]) == (1.17, "oslo", "test")
        (listed,) = viewer.get("/api/v1/configured-pue/imports").json()
        assert (listed["kind"], listed["import_id"]) == ("configured", found["import_id"])
        pue_import = f"/api/v1/configured-pue/imports/{found['import_id']}"
        assert status(viewer.delete(pue_import), "needs admin") == 403
        assert admin.delete(pue_import).json()["retired"] == 1
        assert viewer.get("/api/v1/configured-pue", params=period).json() == []

        assert status(admin.delete("/api/v1/tariffs/imports/99999999999"), "no such thing") == 404
        assert viewer.get("/api/v1/grid-intensity", params=period).json() == []
        assert status(viewer.get("/api/v1/cost", params={"step_s": 1800}), "step_s = '1800'") == 422
        assert viewer.get("/api/v1/cost", params={"step_s": 3600, "group_by": "site"}).json() == []


def test_imports_at_once_wait_for_each_other(engine: Engine) -> None:
    day = utc("2026-01-05 00:00")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo')"))
    other = database.engine(engine.url.render_as_string(hide_password=False).replace("+psycopg", ""))
    with engine.connect() as first, other.connect() as second:
        price(first, "oslo", (day, day + HOUR, 1))
        second.execute(text("SET lock_timeout = '100ms'"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            price(second, "oslo", (day, day + HOUR, 2))
        second.rollback()
        first.commit()
        with pytest.raises(Conflict):
            price(second, "oslo", (day, day + HOUR, 2))
    other.dispose()
