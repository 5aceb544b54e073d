"""From the counter to the report, while parts are killed: the energy in report.energy_hourly is the counters'
difference to the millijoule, no window is there twice, none is missing."""

import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate
from tests.agents import running_agent, wait_for
from tests.nvml import standin as nvml
from tests.servers import running_api

UUIDS = [f"GPU-{index:08d}-aaaa-bbbb-cccc-444444444444" for index in range(8)]


@pytest.fixture(params=[False, True], ids=["embedded", "timescaledb"])
def server(request: pytest.FixtureRequest, public_dir: Path) -> Iterator[EmbeddedServer]:
    """A database server of this test's own, to be stopped and started."""
    installation = next(it for it in installations() if it.timescaledb == request.param)
    with EmbeddedServer(public_dir / "store", installation) as server:
        engine = database.engine(server.url)
        migrate(engine)
        engine.dispose()
        yield server


def scenario(path: Path) -> nvml.Scenario:
    """Eight GPUs of unlike loads, their counters read with a journal."""
    powers = [
        nvml.Constant(311_111), nvml.Idle(), nvml.Square(90_000, 690_000, 1_700), nvml.Sine(80_000, 600_000, 31_000),
        nvml.Ramp(70_000, 650_000, 90_000), nvml.Square(65_000, 700_000, 105), nvml.Sine(200_000, 300_000, 777),
        nvml.Constant(699_999),
    ]  # fmt: skip
    made = nvml.Scenario(
        [nvml.h100(uuid, power) for uuid, power in zip(UUIDS, powers, strict=True)], journal=path / "journal"
    )
    made.write(path / "scenario")
    return made


def served_mj(path: Path) -> dict[str, int]:
    """By GPU, the difference of the last and the first counter value that the agent was given."""
    values: dict[int, list[int]] = {}
    for read in nvml.read_journal(path / "journal"):
        values.setdefault(read.gpu, []).append(read.mj)
    return {UUIDS[gpu]: found[-1] - found[0] for gpu, found in values.items()}


def reported_mj(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT gpu_uuid, sum(energy_j) * 1000 FROM report.energy_hourly GROUP BY 1"))
        return {uuid: int(energy_mj) for uuid, energy_mj in rows}


def windows(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM report.gpu_windows ORDER BY gpu_uuid, time")).all()
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.gpu_uuid, []).append(row)
    return found


def wait_for_the_rest(engine: Engine, path: Path, server_url: str, token: str) -> None:
    """What the agent could not send in its last seconds waits in its spool for the next, which has no GPU to read."""
    settings = {"GIGAWATCH_AGENT__SERVER_URL": server_url, "GIGAWATCH_AGENT__TOKEN": token}
    with running_agent(None, path / "data", **settings):
        wait_for("the agent's energy", lambda: reported_mj(engine) == served_mj(path), 60)


def assert_whole(engine: Engine) -> None:
    """Each GPU's windows follow one another without hole or overlap."""
    for rows in windows(engine).values():
        for before, after in pairwise(rows):
            assert before.time + timedelta(seconds=before.covered_s) == after.time


def test_nothing_is_lost_or_doubled_while_api_and_database_go_away(
    server: EmbeddedServer, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # The two minutes on one level of the store, a shorter run of the same on the other.
    length_s = 120 if request.node.callspec.id == "embedded" else 45
    scenario(tmp_path)
    engine = database.engine(server.url)
    with running_api(server.url, tmp_path / "api.log") as api:
        with running_agent(
            tmp_path / "scenario", tmp_path / "data",
            GIGAWATCH_AGENT__SERVER_URL=api.url, GIGAWATCH_AGENT__TOKEN=api.tokens["agent"],
        ) as agent:  # fmt: skip
            time.sleep(0.2 * length_s)
            api.kill()
            time.sleep(0.05 * length_s)
            api.start()
            time.sleep(0.2 * length_s)
            server.stop()
            time.sleep(0.1 * length_s)
            server.start()
            time.sleep(0.15 * length_s)
            api.kill()
            api.start()
            time.sleep(0.3 * length_s)
            assert agent.process.poll() is None, agent.words()
            assert agent.stop() == 0, agent.words()
        wait_for_the_rest(engine, tmp_path, api.url, api.tokens["agent"])
    assert set(reported_mj(engine)) == set(UUIDS)
    assert_whole(engine)
    methods = {row.energy_method for rows in windows(engine).values() for row in rows}
    assert methods <= {"counter", "interpolated"}
    engine.dispose()


def test_a_killed_agent_loses_at_most_the_open_window_and_says_how_much(server: EmbeddedServer, tmp_path: Path) -> None:
    scenario(tmp_path)
    engine = database.engine(server.url)
    with running_api(server.url, tmp_path / "api.log") as api:
        settings = {"GIGAWATCH_AGENT__SERVER_URL": api.url, "GIGAWATCH_AGENT__TOKEN": api.tokens["agent"]}
        with running_agent(tmp_path / "scenario", tmp_path / "data", "--window-s", "5", **settings) as agent:
            time.sleep(13)
            agent.kill()
            killed_s = time.monotonic()
            time.sleep(6)
            agent.start()
            away_s = time.monotonic() - killed_s
            time.sleep(9)
            assert agent.stop() == 0
        wait_for_the_rest(engine, tmp_path, api.url, api.tokens["agent"])
    assert_whole(engine)
    for rows in windows(engine).values():
        missed = [row for row in rows if row.energy_method == "interpolated"]
        # The open window of 5 s and the time away, in windows of 5 s; nothing else was touched.
        assert 1 <= len(missed) <= 2 + (5 + away_s) / 5
        assert all(row.energy_method == "counter" for row in rows if row not in missed)
    with engine.connect() as connection:
        told = connection.scalars(text("SELECT message FROM report.events WHERE kind = 'readings_gap'")).all()
        started = connection.scalars(
            text("SELECT message FROM report.events WHERE kind = 'agent_started' ORDER BY time")
        ).all()
    assert len(told) == 1
    assert told[0].startswith("8 GPUs were not read for")
    assert "readings lost" in told[0]
    assert "are known from the counters" in told[0]
    assert "the last window it had handed out ended" in started[1]
    engine.dispose()
