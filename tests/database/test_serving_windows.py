"""Serving windows at the door: good ones are stored once, bad ones refused by field, and nothing else is lost."""

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, text

from gigawatch.records import Assignment, GpuWindow, Latencies, ServingWindow
from gigawatch.wire import JSON
from tests.servers import Api, running_api


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[Api]:
    with running_api(database_url, tmp_path / "api.log") as api:
        yield api


@functools.cache
def minute() -> datetime:
    """The start of the last full minute but one when a test first asked: what it sends twice is the same."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Each test has a moment of its own."""
    minute.cache_clear()


def window(**values: Any) -> dict[str, Any]:
    """A serving window as JSON has it."""
    known = ServingWindow(
        deployment="chat", endpoint="127.0.0.1:8000", engine="vllm", model="m", start=minute(), covered_ms=10_000,
        observed_ms=10_000, scrapes_taken=2, scrapes_expected=2, generated_tokens=100, active_ms=10_000,
        time_to_first_token=Latencies(bounds_us=(1_000, 2_000), counts=(1, 2, 3)),
    )  # fmt: skip
    plain: dict[str, Any] = msgspec.to_builtins(known)
    return {**plain, **values}


def post(api: Api, **items: Any) -> dict[str, Any]:
    batch = {"machine_id": "machine-1", "sent_at": datetime.now(UTC).isoformat(), **items}
    with api.client("agent") as client:
        response = client.post(
            "/api/v1/batches", content=json.dumps(batch, default=str), headers={"Content-Type": JSON}
        )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def rows(engine: Engine, sql: str) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(sql)).all())


def test_what_is_sent_is_stored_once(api: Api, engine: Engine) -> None:
    serves = (Assignment(deployment="chat", endpoint="127.0.0.1:8000"),)
    gpu = GpuWindow(
        gpu_uuid="GPU-1", start=minute(), covered_ms=10_000, ticks_taken=10, ticks_expected=10, serves=serves
    )  # fmt: skip
    answer = post(api, gpu_windows=[msgspec.to_builtins(gpu)], serving_windows=[window(), window(model=None)])
    assert (answer["gpu_windows"], answer["serving_windows"], answer["refused"]) == (1, 2, [])
    stored = "SELECT model, generated_tokens, time_to_first_token_counts FROM gigawatch.serving_window ORDER BY model"
    assert rows(engine, stored) == [("", 100, [1, 2, 3]), ("m", 100, [1, 2, 3])]
    assert rows(engine, "SELECT bounds_us FROM gigawatch.latency_bounds") == [([1_000, 2_000],)]
    assert rows(
        engine,
        "SELECT name, role, endpoints FROM expanded.gpu_window JOIN gigawatch.assignment USING (assignment_id)"
        " JOIN gigawatch.deployment ON deployment_id = deployment_ids[1]",
    ) == [("chat", "both", ["127.0.0.1:8000"])]
    answer = post(api, serving_windows=[window(), window(model="other")])
    assert answer["serving_windows"] == 1
    assert [it["where"] for it in answer["refused"]] == ["serving_windows"]
    assert len(rows(engine, stored)) == 3


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"covered_ms": 60_000, "start": (minute() + timedelta(seconds=1)).isoformat()}, "covered_ms"),
    ({"start": (minute() + timedelta(days=1)).isoformat()}, "start"),
    ({"start": (minute() - timedelta(days=9)).isoformat()}, "start"),
    ({"start": "9999-12-31T23:59:00-12:00", "covered_ms": 60_000}, "start"),
    ({"observed_ms": 10_001}, "observed_ms"),
    ({"observed_ms": 5_000}, "active_ms"),
    ({"generated_tokens": 10**13}, "generated_tokens"),
    ({"generated_tokens": -1}, "generated_tokens"),
    ({"time_to_first_token": {"bounds_us": [1], "counts": [10**13, 0]}}, "time_to_first_token.counts"),
    ({"time_to_first_token": {"bounds_us": [2, 1], "counts": [0, 0, 0]}}, "time_to_first_token"),
    ({"time_to_first_token": {"bounds_us": [1], "counts": [0]}}, "time_to_first_token"),
    ({"deployment": ""}, "deployment"),
    ({"deployment": "a\x00b"}, "deployment"),
    ({"role": "other"}, "role"),
    ({"covered_ms": 0}, "covered_ms"),
]


def test_wrong_windows_are_refused_by_their_fields_and_alone(api: Api, engine: Engine) -> None:
    wrong = [window(model=f"wrong-{place}", **values) for place, (values, _) in enumerate(WRONG)]
    answer = post(api, serving_windows=[window(), *wrong])
    assert answer["serving_windows"] == 1
    # What cannot be read at all is refused first.
    expected = {f"serving_windows[{place}].{where}" for place, (_, where) in enumerate(WRONG, 1)}
    assert {it["where"] for it in answer["refused"]} == expected
    assert rows(engine, "SELECT model FROM gigawatch.serving_window") == [("m",)]
