"""A recorded trace through the window code and the real API: what is stored is the trapezoid, and marked."""

import json
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import text

from gigawatch import database
from tests.agents import environment
from tests.processes import GIGAWATCH
from tests.servers import running_api
from tests.unit.test_replay import square_wave


def test_a_replay_is_stored_to_the_millijoule_marked_and_not_twice(embedded_server: Any, tmp_path: Path) -> None:
    url = embedded_server.create()
    trace = square_wave(tmp_path / "trace.csv")
    # Recordings may be older than windows are usually kept.
    with running_api(url, tmp_path / "api.log", GIGAWATCH_RETENTION__WINDOWS_D="36525") as api:
        command = [*GIGAWATCH, "replay", str(trace), "--start", "2026-01-31T12:00:00Z", "--gpu-model", "A100",
                   "--json", "--server-url", api.url]  # fmt: skip
        settings = environment(None, GIGAWATCH_AGENT__TOKEN=api.tokens["agent"])
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
        again = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout)
    assert again.returncode == 7
    assert "stored already" in again.stderr
    engine = database.engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM report.energy_hourly")).all()
        simulated, hostname = connection.execute(text("SELECT simulated, hostname FROM report.nodes")).one()
    engine.dispose()
    assert (simulated, hostname) == (True, "replay-trace.csv")
    assert round(float(sum(row.energy_j for row in rows)), 3) == round(summary["energy_j"], 3)
    assert all(row.energy_integrated_j == row.energy_j for row in rows)
    assert {row.gpu_model for row in rows} == {"A100"}
    assert abs(summary["energy_j"] / summary["trapezoid_j"] - 1) < 1e-3
    embedded_server.drop(url)
