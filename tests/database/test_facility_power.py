"""What of the facility's power is left, and what of it is explained: meters' windows in, the report's views out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from tests.facility import DAY, HOUR, fold, hourly, newest, place, send, today, window
from tests.factory import rows

Report = Callable[..., list[dict[str, Any]]]
START = today() - 3 * DAY


@pytest.fixture
def report(report_engine: Engine) -> Report:
    """A query as people of reports ask it."""
    return lambda sql, **values: rows(report_engine, sql, **values)


def capacity(report: Report) -> list[dict[str, Any]]:
    return report("SELECT * FROM report.capacity(:start, :stop)", start=START, stop=today())


def test_example_11_breakers_carry_eighty_percent(engine: Engine, report: Report) -> None:
    """30 A: 24 A, 20 A: 16 A."""
    place(engine, {
        "a": {"role": "pdu", "breaker_ma": 30_000, "feed": "A", "rated_mw": 20 * 10**6},
        "b": {"role": "pdu", "breaker_ma": 20_000, "feed": "B", "rated_mw": None},
    })  # fmt: skip
    begin = today() - 20 * DAY
    # The peak of feed A rises by half an ampere a day.
    send(engine, [
        window("a", begin + n * DAY, kwh=3, current_max_ma=10_000 + 500 * n, power_max_mw=3_500_000) for n in range(20)
    ])  # fmt: skip
    send(engine, [window("b", START, kwh=2, current_max_ma=12_000)])
    now = newest()
    send(engine, [window("a", now, covered_ms=10_000, energy_mj=30_000_000, current_max_ma=15_000)])
    fold(engine)
    found = {(it["name"], it["kind"]): it for it in capacity(report)}
    assert {key: it["usable"] for key, it in found.items()} == {
        ("a", "breaker"): 24,
        ("b", "breaker"): 16,
        ("a", "rated"): 20_000,
    }
    breaker = found["a", "breaker"]
    assert (breaker["present"], breaker["peak"], breaker["headroom"], breaker["stranded"]) == (15, 19.5, 9, 4.5)
    assert (breaker["unit"], breaker["feed"], breaker["basis"]) == ("A", "A", "meters")
    assert breaker["trend_per_day"] == pytest.approx(0.5)
    # At the end of the period the line is at 20 A.
    assert breaker["days_to_limit"] == pytest.approx(8)
    assert (found["a", "rated"]["present"], found["a", "rated"]["peak"]) == (3_000, 3_500)
    assert (found["b", "breaker"]["present"], found["b", "breaker"]["days_to_limit"]) == (None, None)


def test_the_peak_is_of_the_period_though_it_begins_and_ends_within_days(engine: Engine, report: Report) -> None:
    place(engine, {"a": {"role": "pdu", "rated_mw": 20 * 10**6}})
    peaks_kw = {5: 9, 7: 3, 30: 5, 54: 6, 58: 8}
    send(engine, [
        window("a", START + n * HOUR, kwh=1, power_max_mw=peaks_kw.get(n, 1) * 10**6) for n in range(60)
    ])  # fmt: skip
    fold(engine, START + 60 * HOUR)

    def peak_w(first: int, beyond: int) -> float:
        (limit,) = report(
            "SELECT peak FROM report.capacity(:start, :stop)", start=START + first * HOUR, stop=START + beyond * HOUR
        )
        peak: float = limit["peak"]
        return peak

    found = {(first, beyond): peak_w(first, beyond) for first, beyond in (
        (6, 60), (6, 58), (6, 54), (6, 20), (50, 58), (55, 58), (55, 60), (55, 70), (0, 48),
    )}  # fmt: skip
    assert found == {
        (6, 60): 8_000, (6, 58): 6_000, (6, 54): 5_000, (6, 20): 3_000, (50, 58): 6_000, (55, 58): 1_000,
        (55, 60): 8_000, (55, 70): 8_000, (0, 48): 9_000,
    }  # fmt: skip


def test_a_feed_that_peaked_is_among_the_tightest_though_others_draw_more_now(engine: Engine, report: Report) -> None:
    place(engine, {name: {"role": "pdu", "rated_mw": 20 * 10**6} for name in "abcd"})
    send(engine, [
        window(name, START + 2 * HOUR, kwh=1, power_max_mw=kw * 10**6)
        for name, kw in {"a": 6, "b": 19, "c": 8, "d": 7}.items()
    ])  # fmt: skip
    now = newest()
    send(engine, [
        window(name, now, covered_ms=10_000, energy_mj=kw * 10**7) for name, kw in {"a": 5, "b": 1, "c": 4}.items()
    ])  # fmt: skip
    fold(engine)

    def found(most: int) -> list[tuple[str, float, float]]:
        rows = report(
            "SELECT * FROM report.capacity(:start, :stop, in_most => :most)", start=START, stop=today(), most=most
        )
        return [(it["name"], it["present"], it["peak"]) for it in rows]

    assert found(1) == [("a", 5_000, 6_000), ("b", 1_000, 19_000)]
    assert found(2) == [("a", 5_000, 6_000), ("b", 1_000, 19_000), ("c", 4_000, 8_000)]


def test_budgets_are_compared_with_the_meters_that_feed_their_racks(engine: Engine, report: Report) -> None:
    place(engine, {"u": {"role": "utility"}, "p1": {"role": "pdu", "hall": "1"}, "p2": {"role": "pdu", "hall": "1"},
                   "p3": {"role": "pdu", "hall": "1"}})  # fmt: skip
    with engine.begin() as connection:
        for statement in (
            """
            INSERT INTO gigawatch.rack (site_id, name, hall_id, row)
            SELECT site_id, rack, hall_id, row
            FROM gigawatch.hall, (VALUES ('r1', 'A'), ('r2', 'A'), ('r3', 'B')) AS it (rack, row)""",
            """
            INSERT INTO gigawatch.meter_rack SELECT meter_id, rack_id FROM gigawatch.meter, gigawatch.rack
            WHERE (meter.name, rack.name) IN (('p1', 'r1'), ('p2', 'r2'), ('p3', 'r3'))""",
            """
            INSERT INTO gigawatch.power_budget
            SELECT site_id, it.scope, it.name, it.kw * 1000000
            FROM gigawatch.hall, (VALUES ('site', 'oslo', 500), ('hall', '1', 400), ('row', '1/A', 250),
                ('rack', 'r1', 120), ('rack', 'r3', 130)) AS it (scope, name, kw)""",
        ):
            connection.execute(text(statement))
    send(engine, [*hourly("u", START, 2, kwh=450), *hourly("p1", START, 2, kwh=100), window("p2", START, kwh=120),
                  *hourly("p3", START, 2, kwh=110)])  # fmt: skip
    fold(engine)
    found = {it["name"]: it["peak"] for it in capacity(report)}
    assert found == {"oslo": 450_000, "1": 330_000, "1/A": 220_000, "r1": 100_000, "r3": 110_000}
    # Of many, those of which most is used now: 245 of 250 kW and 125 of 130, not 110 of 120.
    now = newest()
    for name, kw in (("p1", 110), ("p2", 135), ("p3", 125)):
        send(engine, [window(name, now, covered_ms=10_000, energy_mj=kw * 10**7)])
    few = report(
        "SELECT * FROM report.capacity(:start, :stop, in_scopes => '{row,rack}', in_most => 2)",
        start=START,
        stop=today(),
    )
    whole = {it["name"]: it for it in capacity(report)}
    assert few == [whole["1/A"], whole["r3"]]
    assert (few[0]["peak"], round(few[0]["use_share"], 2)) == (220_000, 0.98)


NODE = """
    INSERT INTO gigawatch.rack (site_id, name) SELECT site_id, 'r1' FROM gigawatch.site;
    INSERT INTO gigawatch.meter_rack
    SELECT meter_id, rack_id FROM gigawatch.meter, gigawatch.rack WHERE meter.name = 'p';
    INSERT INTO gigawatch.node (machine_id, site_id, rack_id, hostname)
    SELECT 'n1', site_id, rack_id, 'n1' FROM gigawatch.rack;
    INSERT INTO gigawatch.gpu (node_id, uuid)
    SELECT node_id, uuid FROM gigawatch.node, (VALUES ('G0'), ('G1')) AS it (uuid);
    INSERT INTO gigawatch.gpu_slot SELECT node_id, row_number() OVER (ORDER BY gpu_id), gpu_id FROM gigawatch.gpu"""
WINDOWS = """
    INSERT INTO gigawatch.gpu_window (time, node_id, covered_ms, slots, ticks_taken, ticks_expected, energy_method,
        energy_mj)
    SELECT minute, node_id, 60000, 2, 60, 60, 1, ARRAY[400 * 60000] FROM gigawatch.node, {minutes};
    INSERT INTO gigawatch.node_window
    SELECT minute, node_id, 60000, 60000, 1, 1, 2, 2, ARRAY[800000], 60 * 100000, NULL, NULL, NULL, 0
    FROM gigawatch.node, {minutes}"""


def test_what_each_step_does_not_explain(engine: Engine, report: Report) -> None:
    """For an hour: 2 GPUs at 400 W each, their CPUs at 100 W, the BMC 1,100 W, the PDU 1,150 W and the grid 1,500 W."""
    place(engine, {"u": {"role": "utility"}, "p": {"role": "pdu"}, "bmc": {"role": "it", "node": "n1"}})
    minutes = f"generate_series('{START}'::timestamptz, '{START + timedelta(minutes=59)}', '1 minute') AS minute"
    with engine.begin() as connection:
        for statement in (*NODE.split(";"), *WINDOWS.format(minutes=minutes).split(";")):
            connection.execute(text(statement.replace("::", r"\:\:")))
    send(engine, [window("u", START, kwh=1.5), window("p", START, kwh=1.15), window("bmc", START, kwh=1.1)])
    fold(engine)

    def steps(group_by: str) -> dict[str, dict[str, float | None]]:
        """What is not explained, in W, by label and level."""
        found: dict[str, dict[str, float | None]] = {}
        for it in report(
            "SELECT * FROM report.reconciliation(:start, :stop, :group_by)",
            start=START, stop=START + DAY, group_by=group_by,
        ):  # fmt: skip
            unexplained_j = it["unexplained_j"]
            found.setdefault(it["label"], {})[it["level"]] = unexplained_j and unexplained_j / 3_600
        return found

    node = {"gpu": None, "host": 100, "node": 200}
    assert steps("node") == {"n1": node}
    assert steps("rack") == {"oslo / r1": {**node, "pdu": 50}}
    assert steps("site") == {"oslo": {**node, "pdu": 50, "facility": 350}}
    # An hour in which one of the levels is not known is compared with nothing.
    send(engine, [window("u", START + HOUR, kwh=9)])
    fold(engine)
    assert steps("site") == {"oslo": {**node, "pdu": 50, "facility": 350}}
