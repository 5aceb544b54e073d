"""The facility's figures through the real path: meters' windows in, the report's views out."""

from sqlalchemy import Engine

from tests.facility import DAY, fold, hourly, place, send, today
from tests.factory import rows


def test_try(engine: Engine) -> None:
    start = today() - 2 * DAY
    send(engine, [*hourly("u", start, 24, kwh=125), *hourly("it", start, 24, kwh=100)])
    place(engine, {"u": {"role": "utility"}, "it": {"role": "pdu", "hall": "A"}, "c": {"role": "cooling", "hall": "A"}})
    fold(engine)
    print(rows(engine, "SELECT * FROM gigawatch.facility_ratio_1d"))
    print(rows(engine, "SELECT * FROM gigawatch.facility_1d"))
    print(rows(engine, "SELECT * FROM gigawatch.meter_1d"))
    print(rows(engine, "SELECT * FROM gigawatch.rollup_dirty"))
