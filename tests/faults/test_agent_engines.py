"""The agent with engines: real processes, real HTTP and the stand-in NVML; what it measured is read from its spool."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gigawatch.records import Assignment
from tests.agents import Spooled, running_agent, spooled
from tests.nvml import standin as nvml

UUIDS = [f"GPU-{index:08d}-1111-2222-3333-444444444444" for index in range(4)]
QUICK = ("--server-url", "http://127.0.0.1:9", "--tick-s", "0.2", "--window-s", "1")
# An engine of its own process, whose worker is the one on the GPU. It counts ten tokens whenever it is asked.
ENGINE = """
import http.server, subprocess, sys
from tests.factory import Vllm
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
vllm = Vllm("", running=3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        vllm.generated_tokens += 10
        body = vllm.exposition().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], worker.pid, flush=True)
try:
    server.serve_forever()
finally:
    worker.kill()
"""


@contextmanager
def engine_process() -> Iterator[tuple[int, int]]:
    """An engine; its port and the process of its worker."""
    command = [sys.executable, "-c", ENGINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        port, worker = map(int, process.stdout.readline().split())
        try:
            yield port, worker
        finally:
            subprocess.run(["kill", str(worker)], check=False)
            process.kill()


def run(folder: Path, scenario: nvml.Scenario, config: str, seconds: float) -> Spooled:
    path, settings = folder / "scenario", folder / "gigawatch.toml"
    scenario.write(path)
    settings.write_text(config, encoding="utf-8")
    with running_agent(
        path, folder / "data", *QUICK, GIGAWATCH_CONFIG=str(settings), GIGAWATCH_AGENT__HEALTH_S="1"
    ) as agent:
        time.sleep(seconds)
        assert agent.process.poll() is None, agent.words()
        assert agent.stop() == 0, agent.words()
    return spooled(folder / "data")


def counted_mj(journal: Path, gpu: int) -> int:
    values = [read.mj for read in nvml.read_journal(journal) if read.gpu == gpu]
    return values[-1] - values[0]


def served(found: Spooled, uuid: str) -> set[tuple[Assignment, ...]]:
    return {row["serves"] for row in found.gpu_windows if row["gpu_uuid"] == uuid}


def test_an_engine_s_gpus_are_found_by_its_processes_and_followed(tmp_path: Path) -> None:
    """Its worker moves to another GPU in mid-window: energy is conserved, and the windows say what each served."""
    with engine_process() as (port, worker):
        gpus = [nvml.h100(uuid, nvml.Square(90_000, 680_000, 700)) for uuid in UUIDS]
        processes = [
            nvml.Process(gpu=0, pid=worker, name="vllm", end_s=4.5),
            nvml.Process(gpu=1, pid=worker, name="vllm", start_s=4.5),
            nvml.Process(gpu=2, pid=1, name="other"),
        ]
        scenario = nvml.Scenario(gpus, processes=processes, journal=tmp_path / "journal")
        config = f"""
            [[engines]]
            url = "http://127.0.0.1:{port}/metrics"
            deployment = "chat"
            interval_s = 0.5

            [[assignments]]
            deployment = "code"
            gpus = [3]
            role = "decode"

            [[assignments]]
            deployment = "lost"
            gpus = [7]"""
        found = run(tmp_path, scenario, config, 12)
    chat = (Assignment(deployment="chat", endpoint=f"127.0.0.1:{port}"),)
    assert served(found, UUIDS[0]) == served(found, UUIDS[1]) == {(), chat}
    assert served(found, UUIDS[2]) == {()}
    assert [it.deployment for its in served(found, UUIDS[3]) for it in its] == ["code"]
    for index, uuid in enumerate(UUIDS):
        energy_mj = sum(row["energy_mj"] or 0 for row in found.gpu_windows if row["gpu_uuid"] == uuid)
        assert energy_mj == counted_mj(tmp_path / "journal", index)
    changes = [event.message for event in found.events if event.kind == "assignment_changed"]
    assert any("serves chat by 127.0.0.1" in it for it in changes)
    assert any("serves nothing; before, chat by" in it for it in changes)
    (unknown,) = [event.message for event in found.events if event.kind == "assignment_gpu_missing"]
    assert "does not have: 7" in unknown
    windows = found.serving_windows
    assert {(it.deployment, it.endpoint, it.engine) for it in windows} == {("chat", f"127.0.0.1:{port}", "vllm")}
    # Ten at each reading but the first, which tells nothing.
    tokens = sum(it.generated_tokens or 0 for it in windows)
    assert tokens > 100
    assert tokens % 10 == 0
    assert {it.active_ms == it.observed_ms for it in windows} == {True}


def test_an_engine_that_hangs_delays_no_tick(tmp_path: Path) -> None:
    """It takes connections and says nothing: GPUs are read on time, and an event tells."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        scenario = nvml.Scenario([nvml.h100(UUIDS[0], nvml.Constant(300_000))])
        config = f"""
            [[engines]]
            url = "http://127.0.0.1:{hanging.getsockname()[1]}/metrics"
            deployment = "chat"
            interval_s = 0.5
            gpus = [0]"""
        found = run(tmp_path, scenario, config, 8)
    whole = [it for it in found.node_windows if it.covered_ms == 1_000]
    assert len(whole) >= 5
    assert all(it.ticks_taken == it.ticks_expected == 5 for it in whole)
    assert found.serving_windows == []
    assert {serves[0].deployment for serves in served(found, UUIDS[0]) if serves} == {"chat"}
