"""`gigawatch up` as a person runs it: it starts everything, shows data, mends what fails, and stops cleanly."""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.agents import environment, wait_for
from tests.nvml import standin as nvml
from tests.processes import GIGAWATCH, free_port


class Up:
    def __init__(self, folder: Path, scenario: Path | None, *options: str) -> None:
        self.port, self.api_port = free_port(), free_port()
        self.log = folder / "up.log"
        self.data_dir = folder / "store"
        self._file = self.log.open("wb")
        self.process = subprocess.Popen(
            [*GIGAWATCH, "up", "--data-dir", str(self.data_dir), "--port", str(self.port),
             "--api-port", str(self.api_port), *options],
            env=environment(scenario), stdout=self._file, stderr=self._file,
        )  # fmt: skip

    def words(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def api(self, path: str) -> Any:
        token = (self.data_dir / "operator.token").read_text(encoding="ascii").strip()
        return httpx.get(
            f"http://127.0.0.1:{self.api_port}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=60
        ).json()

    def interrupt(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self._file.close()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in found]


def processor_s(pid: int) -> float:
    """Processor time of a process and of what it started."""
    with suppress(FileNotFoundError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(processor_s, children(pid)))
    # It has ended meanwhile.
    return 0.0


@pytest.fixture
def up_on_a_gpu(public_dir: Path) -> Any:
    scenario = public_dir / "scenario"
    gpus = [nvml.h100(f"GPU-{index:08d}-1111-2222-3333-444444444444", nvml.Constant(500_000)) for index in range(2)]
    nvml.Scenario(gpus).write(scenario)
    up = Up(public_dir, scenario)
    yield up
    up.close()


def test_it_shows_this_machines_gpus_mends_a_killed_part_and_stops(up_on_a_gpu: Up) -> None:
    up = up_on_a_gpu
    wait_for("address", lambda: "Ctrl-C stops everything" in up.words() or up.process.poll() is not None, 180)
    assert up.process.poll() is None, up.words()
    link = re.search(r"http://127\.0\.0\.1:\d+/\?token=(\S+)", up.words())
    assert link is not None
    # Whoever runs it may silence and acknowledge alerts.
    assert link[1].startswith("gw_operator_")
    page = httpx.get(link[0], follow_redirects=True, timeout=60)
    assert page.status_code == 200
    assert "token=" not in str(page.url)
    assert httpx.get(f"http://127.0.0.1:{up.port}/", timeout=60).headers["location"] == "/login"
    wait_for("power of both GPUs", lambda: round((up.api("/api/v1/fleet")["power_w"] or 0) / 1000, 1) == 1.0, 90)

    parts = {Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]: pid for pid in children(up.process.pid)}
    os.kill(parts[b"collect"], signal.SIGKILL)
    wait_for("restart", lambda: "`gigawatch collect` ended with status -9" in up.words())
    wait_for("gap in the events", lambda: any(
        event["kind"] == "agent_started" and "handed out" in event["message"]
        for event in up.api("/api/v1/events")), 30)  # fmt: skip

    before = _windows(up)
    assert before is not None
    os.kill(int((up.data_dir / "postgresql" / "postmaster.pid").read_text(encoding="ascii").split()[0]), signal.SIGQUIT)
    wait_for("restart", lambda: "The embedded database ended with status" in up.words())
    # Agent, API and dashboard go on without being started again; what was stored and what was read meanwhile is there.
    newest = before[-1] + timedelta(seconds=30)
    after = wait_for("windows", lambda: found if (found := _windows(up)) and found[-1] >= newest else None, 180)
    first = after.index(before[-1])
    assert after[: first + 1] == before
    # The agent was started within a window; from the next on there are all.
    full = after[first + 1 :]
    assert full == [full[0] + timedelta(seconds=10) * place for place in range(len(full))]
    assert full[0] - before[-1] <= timedelta(seconds=10)
    page = httpx.get(f"http://127.0.0.1:{up.port}/?token={link[1]}", follow_redirects=True, timeout=60)
    assert page.status_code == 200
    assert up.api("/api/v1/fleet")["gpus_reporting"] == 2
    assert up.words().count("ended with status") == 2, up.words()

    assert up.interrupt() == 0, up.words()
    assert "Stopped." in up.words()
    assert "Traceback" not in up.words()
    time.sleep(0.5)
    assert not (up.data_dir / "postgresql" / "postmaster.pid").exists()
    # Nobody but its owner can read the secrets.
    for name in ("agent.token", "operator.token"):
        assert (up.data_dir / name).stat().st_mode & 0o077 == 0


def test_the_demo_answers_and_has_a_day_of_history(public_dir: Path) -> None:
    requests = public_dir / "requests.csv"
    lines = [f"2023-11-16 18:{it // 60:02}:{it % 60:02}.5,{100 + it},{1 + it % 300}" for it in range(3_600)]
    requests.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]), encoding="utf-8")
    up = Up(public_dir, None, "--demo", "--requests", str(requests))
    try:
        wait_for("page", lambda: _answers(up.port) or up.process.poll() is not None, 240)
        assert up.process.poll() is None, up.words()
        wait_for("history", lambda: "history 100%" in up.words(), 400)
        assert processor_s(up.process.pid) < 150
        # The operator's token is made on demand for real data only: the demo is open to this machine.
        energy = wait_for("live data", lambda: _fleet(up), 90)
        assert energy["simulated_gpus"] == energy["gpus"] == 128
        assert energy["gpus_reporting"] > 100
        engines = re.search(r"5 simulated engines are at (\S+)", up.words())
        assert engines is not None
        with httpx.Client(timeout=60) as client:
            answers = [client.get(address) for address in client.get(engines[1]).text.split()]
        # The node that has lost its power has an engine.
        assert sorted(it.status_code for it in answers) == [200, 200, 200, 200, 503]
        assert sum("vllm:generation_tokens_total{" in it.text for it in answers) == 4
        assert httpx.get(f"http://127.0.0.1:{up.port}/", timeout=60).status_code == 200
        prices, intensities, configured = wait_for("prices", lambda: _factors(up), 90)
        made_up = {(site, "made up for the demo") for site in ("dublin", "lulea")}
        assert prices == intensities == made_up
        # Its PUE is measured.
        assert configured == set()
        # Other verbs work beside it.
        command = [*GIGAWATCH, "topology", "show", "--json", "--data-dir", str(up.data_dir)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert {it["site"] for it in json.loads(shown.stdout)} == {"dublin", "lulea"}
        assert up.interrupt() == 0
    finally:
        up.close()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def _windows(up: Up) -> list[datetime] | None:
    """When windows of a GPU begin; None while the store is away."""
    try:
        with psycopg.connect(dbname="gigawatch", user="gigawatch", host=str(up.data_dir / "socket")) as connection:
            rows = connection.execute("SELECT DISTINCT time FROM report.gpu_windows ORDER BY time").fetchall()
    except psycopg.OperationalError:
        return None
    return [row[0] for row in rows]


def _fleet(up: Up) -> Any:
    from gigawatch import database, readings

    engine = database.engine(f"postgresql://gigawatch@/gigawatch?host={up.data_dir / 'socket'}")
    with engine.connect() as connection:
        summary = readings.fleet_summary(connection)
    engine.dispose()
    found = {name: getattr(summary, name) for name in ("gpus", "simulated_gpus", "gpus_reporting", "power_w")}
    return found if summary.gpus_reporting > 100 else None


def _factors(up: Up) -> Any:
    """Sites with prices, intensities and a configured PUE, with their sources; None while some lack the first two."""
    from gigawatch import database, readings

    engine = database.engine(f"postgresql://gigawatch@/gigawatch?host={up.data_dir / 'socket'}")
    start, stop = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC)
    with engine.connect() as connection:
        found = [
            {(it.site, it.source) for it in of_kind(connection, start, stop)}
            for of_kind in (readings.tariffs, readings.grid_intensity, readings.configured_pue)
        ]
    engine.dispose()
    return found if len(found[0]) == len(found[1]) == 2 else None
