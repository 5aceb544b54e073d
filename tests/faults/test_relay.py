"""From the counter to the report through a relay, while the relay and the API are killed: the energy in
report.energy_hourly is the counters' difference to the millijoule, no window is there twice, none is missing."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate
from tests.agents import running_agent
from tests.faults.test_conservation import UUIDS, assert_whole, reported_mj, scenario, wait_for_the_rest, windows
from tests.relays import running_relay
from tests.servers import running_api


@pytest.fixture(params=[False, True], ids=["embedded", "timescaledb"])
def server(request: pytest.FixtureRequest, public_dir: Path) -> Iterator[EmbeddedServer]:
    """A database server of this test's own."""
    installation = next(it for it in installations() if it.timescaledb == request.param)
    with EmbeddedServer(public_dir / "store", installation) as server:
        engine = database.engine(server.url)
        migrate(engine)
        engine.dispose()
        yield server


def test_nothing_is_lost_or_doubled_while_relay_and_api_are_killed(server: EmbeddedServer, tmp_path: Path) -> None:
    scenario(tmp_path)
    engine = database.engine(server.url)
    with (
        running_api(server.url, tmp_path / "api.log") as api,
        running_relay(tmp_path / "relay", api.url, api.tokens["agent"]) as relay,
    ):
        with running_agent(
            tmp_path / "scenario", tmp_path / "data", "--window-s", "2",
            GIGAWATCH_AGENT__SERVER_URL=relay.url, GIGAWATCH_AGENT__TOKEN=api.tokens["agent"],
        ) as agent:  # fmt: skip
            time.sleep(7)
            for _ in range(2):
                relay.kill()
                time.sleep(2)
                relay.start()
                time.sleep(3)
                api.kill()
                time.sleep(4)
                # What the agent sends now, the relay keeps.
                relay.kill()
                relay.start()
                time.sleep(3)
                api.start()
                time.sleep(4)
            assert agent.process.poll() is None, agent.words()
            assert agent.stop() == 0, agent.words()
        wait_for_the_rest(engine, tmp_path, relay.url, api.tokens["agent"])
        assert relay.stop() == 0, relay.words()
    assert set(reported_mj(engine)) == set(UUIDS)
    assert_whole(engine)
    assert {row.energy_method for rows in windows(engine).values() for row in rows} == {"counter"}
    engine.dispose()
