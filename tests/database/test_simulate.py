"""The simulated fleet and the real API: what the one says it sent is what the other has, once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from collector.simulated import fleet
from gigawatch import database
from tests.conftest import Server
from tests.servers import Api, running_api

FLEET = ("--nodes", "5", "--gpus-per-node", "2", "--history", "30m")


@pytest.fixture
def engine(embedded_server: Server) -> Iterator[Engine]:
    url = embedded_server.create()
    engine = database.engine(url)
    yield engine
    engine.dispose()
    embedded_server.drop(url)


@pytest.fixture
def api(engine: Engine, tmp_path: Path) -> Iterator[Api]:
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with running_api(url, tmp_path / "api.log") as api:
        yield api


def simulate(api: Api, folder: Path, *options: str) -> dict[str, Any]:
    token = folder / "token"
    token.write_text(api.tokens["agent"], encoding="ascii")
    done = subprocess.run(
        [sys.executable, "-m", "gigawatch", "simulate", "--json", *options,
         "--server-url", api.url, "--token-file", str(token)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def counted(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
            for name, table in (
                ("gpu_windows", "expanded.gpu_window"),
                ("node_windows", "gigawatch.node_window"),
                ("events", "gigawatch.event"),
                ("health", "gigawatch.gpu_health"),
                ("nodes", "gigawatch.node"),
                ("gpus", "gigawatch.gpu"),
            )
        }


def test_the_store_has_what_was_sent_and_a_second_run_adds_no_window(api: Api, engine: Engine, tmp_path: Path) -> None:
    sent = simulate(api, tmp_path, *FLEET, "--window-s", "1", "--for", "3s")
    stored = counted(engine)
    assert stored == {name: sent[name] for name in stored}
    assert sent["gpu_windows"] > 5 * 2 * 25
    assert (sent["refused"], sent["refused_batches"], sent["dropped_batches"]) == (0, 0, 0)
    with engine.connect() as connection:
        overlaps = connection.execute(
            text(
                "SELECT count(*) FROM (SELECT time, covered_ms, lead(time) OVER (PARTITION BY gpu_id ORDER BY time)"
                " AS next FROM expanded.gpu_window) AS w WHERE next <> time + covered_ms * interval '1 ms'"
            )
        ).scalar_one()
        assert overlaps == 0
        # Σ energy of the GPUs is what the nodes saw tick by tick, where no GPU was missing.
        gpus_mj, nodes_mj = connection.execute(
            text(
                "SELECT (SELECT sum(energy_mj) FROM expanded.gpu_window"
                " WHERE (node_id, time) IN (SELECT node_id, time FROM gigawatch.node_window"
                " WHERE gpus_read = gpus_expected)),"
                " (SELECT sum(mw::bigint * tick_ms) / 1000 FROM gigawatch.node_window, unnest(gpu_power_mw) AS mw)"
            )
        ).one()
        assert gpus_mj == nodes_mj
        not_simulated = text("SELECT count(*) FROM report.nodes WHERE NOT simulated")
        assert connection.execute(not_simulated).scalar_one() == 0
        # One of the two nodes with an engine has lost its power in the middle of the history.
        engines = text(
            "SELECT count(*), count(DISTINCT node_id), sum(generated_tokens), sum(covered_ms)"
            " FROM gigawatch.serving_window WHERE engine = 'vllm' AND time_to_first_token_counts IS NOT NULL"
        )
        windows, nodes, tokens, covered_ms = connection.execute(engines).one()
        assert windows > 40
        assert nodes == 2
        assert tokens > 10_000
        assert covered_ms > 45 * 60_000
        fatal = text("SELECT count(*) FROM report.gpu_health WHERE state = 'failed' AND last_xid = 79")
        assert connection.execute(fatal).scalar_one() == 1

    again = simulate(api, tmp_path, *FLEET, "--for", "0", "--faults", "none")
    # The minutes since, and what the silent node and the lost GPU had not sent.
    added = counted(engine)["gpu_windows"] - stored["gpu_windows"]
    assert again["gpu_windows"] == added < 0.7 * stored["gpu_windows"]
    assert again["refused"] > 0.5 * 5 * 2 * 30
    assert counted(engine)["gpus"] == stored["gpus"]


def test_a_prepared_fleet_is_stored_as_what_it_is(api: Api, engine: Engine, tmp_path: Path) -> None:
    sent = simulate(
        api, tmp_path, "--prepared", "--nodes", "60", "--gpus-per-node", "4", "--processes", "2",
        "--history", "5m", "--speed", "100", "--for", "8s", "--faults", "none",
    )  # fmt: skip
    nodes = fleet.of_nodes(60, seed=1, gpus_per_node=4)
    stored = counted(engine)
    assert stored == {"nodes": 60, "gpus": 240, "health": 0, "events": 60, **{
        name: sent[name] for name in ("gpu_windows", "node_windows")
    }}  # fmt: skip
    assert stored["gpu_windows"] == 4 * stored["node_windows"] > 4 * 60 * 10
    assert (sent["refused"], sent["refused_batches"], sent["gaps"], sent["duplicate_batches"]) == (0, 0, 0, 0)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT machine_id, site, rack, gpus, simulated FROM report.nodes")).all()
        assert {tuple(row) for row in found} == {
            (node.machine_id, node.site.name, node.rack, 4, True) for node in nodes
        }
        hours = connection.execute(
            text(
                "SELECT machine_id, gpu_uuid, sum(energy_j) FROM report.energy_hourly"
                " JOIN report.nodes USING (node_id) GROUP BY machine_id, gpu_uuid"
            )
        ).all()
        assert {(row[0], row[1]) for row in hours} == {
            (node.machine_id, uuid) for node in nodes for uuid in node.gpu_uuids
        }
        assert min(row[2] for row in hours) > 0
        # What the copies say of their ticks is what they say of their energy.
        gpus_mj, nodes_mj = connection.execute(
            text(
                "SELECT (SELECT sum(energy_mj) FROM expanded.gpu_window),"
                " (SELECT sum(mw::bigint * tick_ms) / 1000 FROM gigawatch.node_window, unnest(gpu_power_mw) AS mw)"
            )
        ).one()
        assert gpus_mj == nodes_mj
