"""The agent with engines: energy and tokens are conserved, and each window says what its GPU served, whatever moves,
restarts or hangs. Engines are processes that serve metrics in vLLM's format; no server is there: what the agent
measured is read from its spool."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gigawatch.records import Assignment
from tests import agents
from tests.agents import Spooled, running_agent, spooled
from tests.nvml import standin as nvml
from tests.processes import GIGAWATCH
from tests.vllm import Vllm

UUIDS = [f"GPU-{index:08d}-1111-2222-3333-444444444444" for index in range(4)]
NO_SERVER = "http://127.0.0.1:9"  # the discard port: nothing answers
QUICK = ("--server-url", NO_SERVER, "--tick-s", "0.2", "--window-s", "1")
Start = Callable[..., Vllm]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Vllm] = []

    def start(name: str, workers: int = 1) -> Vllm:
        started.append(Vllm(tmp_path / f"{name}.tokens", workers).start())
        return started[-1]

    yield start
    for engine in started:
        engine.kill()


def scenario(folder: Path) -> tuple[nvml.Scenario, Path]:
    powers = [
        nvml.Square(90_000, 680_000, 700),
        nvml.Sine(100_000, 600_000, 3_000),
        nvml.Constant(300_000),
        nvml.Idle(),
    ]
    gpus = [nvml.h100(uuid, power) for uuid, power in zip(UUIDS, powers, strict=True)]
    made = nvml.Scenario(gpus, journal=folder / "journal", epoch_s=time.time())
    return made, made.write(folder / "scenario")


def configured(folder: Path, text: str) -> dict[str, str]:
    (folder / "gigawatch.toml").write_text(text, encoding="utf-8")
    return {"GIGAWATCH_CONFIG": str(folder / "gigawatch.toml"), "GIGAWATCH_AGENT__HEALTH_S": "1"}


def engine_table(engine: Vllm, deployment: str, **more: Any) -> str:
    fields = {"url": engine.url, "deployment": deployment, "interval_s": 0.2, **more}
    return "[[engines]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())


def by(engine: Vllm, deployment: str) -> Assignment:
    return Assignment(deployment=deployment, endpoint=engine.endpoint)


def check_energy(found: Spooled, folder: Path) -> None:
    """Windows add up to the counters to the millijoule, and none lies over another."""
    for index, uuid in enumerate(UUIDS):
        rows = sorted((row for row in found.gpu_windows if row["gpu_uuid"] == uuid), key=lambda row: row["start"])
        read = [it.mj for it in nvml.read_journal(folder / "journal") if it.gpu == index]
        assert sum(row["energy_mj"] or 0 for row in rows) == read[-1] - read[0]
        for before, after in zip(rows, rows[1:], strict=False):
            assert before["start"] + before["covered_ms"] <= after["start"]


def tokens(found: Spooled, deployment: str) -> int:
    return sum(it.generated_tokens or 0 for it in found.serving_windows if it.deployment == deployment)


def served(found: Spooled, uuid: str) -> list[tuple[Assignment, ...]]:
    """What a GPU served, one after the other."""
    rows = sorted((row for row in found.gpu_windows if row["gpu_uuid"] == uuid), key=lambda row: row["start"])
    return [it["serves"] for place, it in enumerate(rows) if place == 0 or rows[place - 1]["serves"] != it["serves"]]


def test_two_deployments_one_of_which_moves_are_told_apart_to_the_millijoule_and_the_token(
    tmp_path: Path, start: Start
) -> None:
    chat, code = start("chat", workers=2), start("code")
    made, path = scenario(tmp_path)
    made.processes = [
        nvml.Process(0, chat.workers[0]), nvml.Process(1, chat.workers[1]), nvml.Process(2, code.workers[0])
    ]  # fmt: skip
    made.write(path)
    settings = configured(tmp_path, engine_table(chat, "chat") + engine_table(code, "code"))
    with running_agent(path, tmp_path / "data", *QUICK, **settings) as agent:
        agents.wait_for("assignments", lambda: agent.words().count(" serves ") == 3)
        time.sleep(2)
        # Code moves from GPU 2 to GPU 3, where chat's second worker joins it.
        made.processes[1:] = [nvml.Process(3, chat.workers[1]), nvml.Process(3, code.workers[0])]
        made.write(path)
        agents.wait_for("move", lambda: agent.words().count(" serves ") == 6)
        time.sleep(2)
        # The engines say no more than the agent takes in.
        chat.freeze()
        code.freeze()
        time.sleep(0.6)
        assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    check_energy(found, tmp_path)
    both = (by(chat, "chat"), by(code, "code"))
    assert served(found, UUIDS[0]) == [(), (by(chat, "chat"),)]
    assert served(found, UUIDS[1]) == [(), (by(chat, "chat"),), ()]
    assert served(found, UUIDS[2]) == [(), (by(code, "code"),), ()]
    assert served(found, UUIDS[3])[-1] == both
    changes = [event for event in found.events if event.kind == "assignment_changed"]
    assert {event.gpu_uuid for event in changes} == set(UUIDS)
    assert changes[0].message == f"GPU 0 (NVIDIA H100 80GB HBM3) serves chat by {chat.endpoint}; before, nothing"
    # A move ends windows where it was noticed, in the middle of a second, and not at its end.
    starts = {row["start"] for row in found.gpu_windows if row["gpu_uuid"] == UUIDS[3]}
    noticed = [event.time.timestamp() * 1_000 for event in changes if event.gpu_uuid == UUIDS[3]]
    assert noticed and all(any(abs(start - at_ms) <= 150 for start in starts) for at_ms in noticed)
    for engine, deployment in ((chat, "chat"), (code, "code")):
        assert tokens(found, deployment) == engine.tokens() > 2_000
        assert {it.endpoint for it in found.serving_windows if it.deployment == deployment} == {engine.endpoint}
        assert 10 * tokens(found, deployment) == sum(
            it.prompt_tokens or 0 for it in found.serving_windows if it.deployment == deployment
        )


def test_an_engine_that_restarts_twice_keeps_its_gpus_and_loses_no_token(tmp_path: Path, start: Start) -> None:
    chat = start("chat")
    _, path = scenario(tmp_path)
    settings = configured(
        tmp_path,
        engine_table(chat, "chat", gpus=[0, UUIDS[1]])
        + '[[assignments]]\ndeployment = "big"\nrole = "decode"\ngpus = [1, 3]\n',
    )
    with running_agent(path, tmp_path / "data", *QUICK, **settings) as agent:
        for _ in range(2):
            time.sleep(2)
            chat.kill()
            chat.start()
        time.sleep(2)
        chat.freeze()
        time.sleep(0.6)
        assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    check_energy(found, tmp_path)
    big = Assignment(deployment="big", role="decode")
    expected = [(by(chat, "chat"),), (big, by(chat, "chat")), (), (big,)]
    assert [served(found, uuid) for uuid in UUIDS] == [[serves] for serves in expected]
    assert tokens(found, "chat") == chat.tokens() > 3_000
    assert "engine_restarted" in found.kinds()


def test_a_killed_agents_gap_is_of_the_deployment_that_was_served_before_and_after(
    tmp_path: Path, start: Start
) -> None:
    chat = start("chat")
    made, path = scenario(tmp_path)
    made.processes = [nvml.Process(0, chat.workers[0])]
    made.write(path)
    settings = configured(tmp_path, engine_table(chat, "chat"))
    with running_agent(path, tmp_path / "data", *QUICK, **settings) as agent:
        agents.wait_for("assignment", lambda: " serves chat" in agent.words())
        time.sleep(2)
        agent.kill()
        time.sleep(2)
        agent.start()
        time.sleep(3)
    found = spooled(tmp_path / "data")
    check_energy(found, tmp_path)
    assert served(found, UUIDS[0]) == [(), (by(chat, "chat"),)]
    assert found.kinds().count("assignment_changed") == 1


def test_an_endpoint_that_hangs_delays_no_tick(tmp_path: Path, start: Start) -> None:
    chat, stuck = start("chat"), start("stuck")
    stuck.freeze()
    _, path = scenario(tmp_path)
    settings = configured(tmp_path, engine_table(chat, "chat", gpus=[0]) + engine_table(stuck, "stuck", gpus=[1]))
    with running_agent(path, tmp_path / "data", *QUICK, **settings) as agent:
        time.sleep(8)
        assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    check_energy(found, tmp_path)
    whole = found.node_windows[1:-1]
    assert len(whole) >= 6
    # A reading of the engine waits for seconds; a busy machine may cost some ticks.
    taken, due = sum(it.ticks_taken for it in whole), sum(it.ticks_expected for it in whole)
    assert taken >= 0.75 * due
    assert {it.deployment for it in found.serving_windows} == {"chat"}
    assert [event.kind for event in found.events if event.kind.startswith("engine")] == ["engine_unreachable"]
    assert served(found, UUIDS[1]) == [(by(stuck, "stuck"),)]


def test_gpus_that_are_not_there_are_told_and_the_others_assigned(tmp_path: Path) -> None:
    _, path = scenario(tmp_path)
    settings = configured(tmp_path, '[[assignments]]\ndeployment = "big"\ngpus = [2, 8]\n')
    with running_agent(path, tmp_path / "data", *QUICK, **settings):
        time.sleep(2.5)
    found = spooled(tmp_path / "data")
    assert [event.kind for event in found.events if event.kind.startswith("assignment")] == [
        "assignment_gpu_missing", "assignment_changed"
    ]  # fmt: skip
    assert served(found, UUIDS[2])[-1] == (Assignment(deployment="big"),)


def test_the_doctor_looks_at_engines_and_at_what_gpus_serve(tmp_path: Path, start: Start) -> None:
    chat, code, apart = start("chat"), start("code"), start("apart")
    made, path = scenario(tmp_path)
    made.processes = [nvml.Process(1, chat.workers[0])]
    made.write(path)
    code.kill()
    settings = configured(
        tmp_path,
        engine_table(chat, "chat") + engine_table(code, "code", gpus=[2]) + engine_table(apart, "apart")
        + '[[assignments]]\ndeployment = "big"\nrole = "prefill"\ngpus = [3, 5]\n',
    )  # fmt: skip
    done = subprocess.run(
        [*GIGAWATCH, "doctor", "--json", "--data-dir", str(tmp_path / "data"), "--server-url", NO_SERVER],
        env=agents.environment(path, **settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    code.start()
    findings = {it["subject"]: it for it in json.loads(done.stdout)}
    good = findings[f"engine chat at {chat.endpoint}"]
    assert (good["level"], good["text"]) == ("good", "vLLM, serves m; on GPUs 1, as found")
    assert findings[f"engine code at {code.endpoint}"]["level"] == "bad"
    assert "Connection refused" in findings[f"engine code at {code.endpoint}"]["text"]
    assert findings[f"engine apart at {apart.endpoint}"]["level"] == "note"
    assert "[[assignments]]" in findings[f"engine apart at {apart.endpoint}"]["remedy"]
    assert findings["[[assignments]] big"]["text"].endswith("does not have: 5")
    assert findings["assignments"]["text"] == (
        f"GPU 0 serves nothing; GPU 1 serves chat by {chat.endpoint}; GPU 2 serves code by {code.endpoint};"
        " GPU 3 serves big (prefill)"
    )
