"""Files of what meters counted: what is wrong in them is named, and what is right is spread without remainder."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.meter_files import windows
from gigawatch.errors import GigawatchError

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
