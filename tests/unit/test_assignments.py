"""Which GPUs serve what: as configured, by real processes, and by what the kernel tells of Slurm's jobs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from collector import processes
from collector.assignments import Assignments
from gigawatch.records import Assignment, Gpu, Role
from gigawatch.settings import Agent, Engine, GpuAssignment, Settings

GPUS = tuple(Gpu(uuid=f"GPU-{index}", index=index, model="H100") for index in range(4))
CHAT = Engine(url="http://127.0.0.1:8000", deployment="chat", gpus=(0, "GPU-1"))
CODE = Engine(url="http://127.0.0.1:8001/prometheus/metrics", deployment="code", gpus=(1,), role=Role.DECODE)
LENT = GpuAssignment(deployment="chat", gpus=(3, 9), role=Role.PREFILL)


def test_what_is_configured_goes_by_index_and_uuid() -> None:
    found = Assignments(Settings(engines=(CHAT, CODE), assignments=(LENT,)))
    chat = Assignment(deployment="chat", endpoint="127.0.0.1:8000")
    code = Assignment(deployment="code", role=Role.DECODE, endpoint="127.0.0.1:8001/prometheus")
    assert found.look(GPUS, {}) == {
        "GPU-0": (chat,), "GPU-1": (chat, code), "GPU-3": (Assignment(deployment="chat", role=Role.PREFILL),),
    }  # fmt: skip
    assert found.unknown(GPUS) == ["9"]
    # A GPU that is gone is nobody's, and one that came is served as the settings say.
    assert set(found.look(GPUS[:1], {})) == {"GPU-0"}


def test_an_engine_elsewhere_is_not_looked_for_among_these_processes() -> None:
    far = Engine(url="http://192.0.2.7:8000/metrics", deployment="far")
    near = Engine(url=f"http://127.0.0.1:{os.getpid() % 1_000 + 1}/metrics", deployment="near")
    assert Assignments(Settings(engines=(far,))).discovered({"GPU-0": {os.getpid()}}) == {}
    # Nobody listens there.
    assert Assignments(Settings(engines=(near,))).discovered({"GPU-0": {os.getpid()}}) == {}


def test_a_listener_is_known_with_its_group_and_what_they_started() -> None:
    """A server whose sibling's child is on the GPU, as an engine's worker may be."""
    sleep = "import time; time.sleep(60)"
    worker = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {sleep!r}]); print(p.pid, flush=True);"
    )
    code = (
        "import socket, subprocess, sys;"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); "
        f"p = subprocess.Popen([sys.executable, '-c', {worker + sleep!r}]); p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as it:
        try:
            assert it.stdout is not None
            port, grandchild = int(it.stdout.readline()), int(it.stdout.readline())
            assert processes.listeners(port) == {it.pid}
            family = processes.family({it.pid})
            assert {it.pid, grandchild} <= family
            assert os.getpid() not in family
            engine = Engine(url=f"http://localhost:{port}/metrics", deployment="chat")
            found = Assignments(Settings(engines=(engine,))).discovered({"GPU-2": {grandchild}, "GPU-3": {os.getpid()}})
            assert found == {"GPU-2": (Assignment(deployment="chat", endpoint=f"localhost:{port}"),)}
        finally:
            os.killpg(it.pid, 9)


@pytest.mark.parametrize(
    ("cgroup", "environ", "job"),
    [
        (
            "0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_0\n",
            "SLURM_JOB_NAME=chat-70b\0A=1\0",
            "chat-70b",
        ),
        ("4:memory:/slurm/uid_1000/job_77/step_batch\n1:name=systemd:/x\n", None, "slurm-77"),
        ("0::/\n", "PATH=/bin\0SLURM_JOB_ID=9\0", "slurm-9"),
        ("0::/user.slice\n", "PATH=/bin\0", None),
        (None, None, None),
    ],
)
def test_a_slurm_job_is_known_by_group_and_environment(
    tmp_path: Path, cgroup: str | None, environ: str | None, job: str | None
) -> None:
    folder = tmp_path / "41"
    folder.mkdir()
    for name, text in (("cgroup", cgroup), ("environ", environ)):
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    assert processes.slurm_job(41, tmp_path) == job
    found = Assignments(Settings(agent=Agent(discover=("slurm",))), tmp_path).discovered({"GPU-0": {41, 42}})
    assert found == ({} if job is None else {"GPU-0": (Assignment(deployment=job),)})


def test_tables_of_sockets_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "tcp").write_text("sl local\n\nrubbish\n", encoding="ascii")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (a b) c) S", encoding="ascii")
    assert processes.listeners(8000, tmp_path) == set()
    assert processes.family({7}, tmp_path) == {7}


def test_a_port_that_was_let_go_has_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert processes.listeners(port) == {os.getpid()}
    assert processes.listeners(port) == set()
