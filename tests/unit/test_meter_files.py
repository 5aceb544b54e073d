"""Files of what meters counted: what is wrong in them is named, and what is right is spread without remainder."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.meter_files import windows
from gigawatch.errors import GigawatchError
from gigawatch.records import EnergyMethod

WRONG = {
    "start,energy\n2025-01-01T00:00Z,1\n": "register_kwh",
    "start,energy_kwh,volume_l\n2025-01-01T00:00Z,1,2\n": "register_kwh",
    "start,stop,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,-1\n": "Line 2: energy_kwh = -1 is below 0",
    "start,stop,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,x\n": "Line 2: energy_kwh = 'x' is not a number",
    "start,stop,energy_kwh\n2025-01-01T00:00Z,2025-01-01T02:00Z,1\n2025-01-01T01:00Z,2025-01-01T03:00Z,1\n":
        "overlap: 2025-01-01 01:00 UTC to 2025-01-01 02:00 UTC",
    "start,register_kwh\n2025-01-01T00:00Z,9\n2025-01-01T01:00Z,8\n": "Line 3: the register falls",
    "start,register_kwh\n2025-01-01T00:00Z,9\n2025-01-01T00:00Z,9\n": "is there twice",
    "start,stop,register_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,8\n": "column stop",
    "start,stop,energy_mwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,9000\n": "more than any meter counts",
    "start,stop,energy_kwh\n2025-01-01T01:00Z,2025-01-01T00:00Z,1\n": "Line 2: start is not before stop",
    "start,stop,energy_kwh\n2025-01-01T01:00Z,2025-01-01T01:00Z,0\n": "Line 2: start is not before stop",
    "start,energy_kwh\n": "no values",
    "start,energy_kwh\n2025-01-01T00:00Z,1\n": "Add a column stop",
    "start,stop,energy_kwh\n2025-01-01T00:00:00.0001Z,2025-01-01T01:00Z,1\n": "no whole millisecond",
}  # fmt: skip


@pytest.mark.parametrize("body", WRONG)
def test_a_wrong_file_is_refused_and_says_where(body: str) -> None:
    with pytest.raises(GigawatchError) as caught:
        windows(body.encode(), "u", None)
    assert WRONG[body] in f"{caught.value.problem} {caught.value.remedy}"


def test_a_file_must_say_of_which_meter_it_is_and_once() -> None:
    with pytest.raises(GigawatchError, match="--meter was given"):
        windows(b"start,stop,meter,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,a,1\n", "u", None)
    with pytest.raises(GigawatchError, match="Nothing says which meter"):
        windows(b"start,stop,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,1\n", None, None)
    with pytest.raises(GigawatchError, match="has no name"):
        windows(b"start,stop,meter,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,,1\n", None, None)


@pytest.mark.parametrize("name", ["a\0b", '"a\nb"', "a\x1b[31m", "m" * 201])
def test_a_meters_name_is_one_that_a_topology_can_have(name: str) -> None:
    with pytest.raises(GigawatchError, match=r"Line [23]: meter = .* is no name that a topology can have"):
        windows(f"start,stop,meter,energy_kwh\n2025-01-01T00:00Z,2025-01-01T01:00Z,{name},1\n".encode(), None, None)


@pytest.mark.parametrize("column", ["energy_kwh", "register_kwh"])
def test_a_file_that_begins_with_the_newest_says_the_same(column: str) -> None:
    """In an hour that comes twice the first of the file is then the later one."""
    times = ["01:00", "02:00", "02:30", "02:00", "02:30", "03:00"]
    rows = [f"2026-10-25 {it},{2**place}" for place, it in enumerate(times)]
    up, down = (
        windows("\n".join([f"start,{column}", *its]).encode(), "u", "Europe/Oslo") for its in (rows, rows[::-1])
    )
    assert up == down
    assert up["u"][1].energy_mj == {"energy_kwh": 2, "register_kwh": 4 - 2}[column] * 3_600_000_000


def test_an_hour_that_begins_within_an_hour_of_utc_is_split_and_said_to_be() -> None:
    body = b"start,energy_kwh\n2026-01-01 00:00,1\n2026-01-01 01:00,3\n"
    found = windows(body, "u", "Asia/Kolkata")["u"]
    assert [(f"{it.start:%H:%M}", it.energy_mj, it.energy_method) for it in found] == [
        (time, kwh * 3_600_000_000, EnergyMethod.INTERPOLATED)
        for time, kwh in (("18:30", 0.5), ("19:00", 0.5), ("19:30", 1.5), ("20:00", 1.5))
    ]
    assert [it.energy_method for it in windows(body, "u", "UTC")["u"]] == [EnergyMethod.COUNTER] * 2


@given(st.integers(0, 10**6), st.integers(1, 500), st.integers(0, 10**7))
def test_what_is_spread_adds_up_and_crosses_no_full_hour(begins_min: int, minutes: int, wh: int) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=begins_min)
    stop = start + timedelta(minutes=minutes)
    body = f"start,stop,energy_wh\n{start.isoformat()},{stop.isoformat()},{wh}\n"
    found = windows(body.encode(), "u", None)["u"]
    assert sum(it.energy_mj or 0 for it in found) == wh * 3_600_000
    edges = [(it.start, it.start + timedelta(milliseconds=it.covered_ms)) for it in found]
    assert (edges[0][0], edges[-1][1]) == (start, stop)
    assert all(a[1] == b[0] for a, b in zip(edges, edges[1:], strict=False))
    assert all(
        a.replace(minute=0) == (b - timedelta(milliseconds=1)).replace(minute=0, second=0, microsecond=0)
        for a, b in edges
    )
