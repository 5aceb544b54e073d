"""Energy per token through the real path: counters scraped and read in, batches, fold, the report's views out."""

import csv
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from collector.sources.nvml import GpuReading
from collector.windows import GpuFolder
from gigawatch import database
from gigawatch.records import Assignment, Role
from tests import facility
from tests.factory import (
    MINUTE_MS,
    SCRAPE_MS,
    TICK_MS,
    WINDOW_MS,
    Machine,
    Vllm,
    at,
    evenly,
    fold,
    now_minute_ms,
    rows,
    run,
    store,
)

Report = Callable[..., list[dict[str, Any]]]
Between = Callable[[int, int], int]
HOUR_MS = 60 * MINUTE_MS


@pytest.fixture
def report(report_engine: Engine) -> Report:
    """A query as people of reports ask it."""
    return lambda sql, **values: rows(report_engine, sql, **values)


def of(report: Report, function: str, start_ms: int, stop_ms: int, group_by: str = "deployment") -> dict[Any, Any]:
    """Rows of a report's function over a period, by label, and boundary where there is one."""
    found = report(
        f"SELECT * FROM report.{function}(:start, :stop, group_by => :group_by)",
        start=at(start_ms), stop=at(stop_ms), group_by=group_by,
    )  # fmt: skip
    return {(row["label"], row["boundary"]) if "boundary" in row else row["label"]: row for row in found}


def local(engine: Vllm) -> list[Assignment]:
    """What GPUs serve that work for an engine on their own node."""
    return [Assignment(deployment=engine.deployment, role=engine.role, endpoint=engine.address)]


def lent(deployment: str, role: Role = Role.BOTH) -> list[Assignment]:
    """What GPUs serve that work for an engine on another node."""
    return [Assignment(deployment=deployment, role=role)]


def total_energy_mj(report: Report) -> int:
    energy_j: float = report("SELECT sum(energy_j) AS it FROM report.energy_hourly")[0]["it"]
    return round(1_000 * energy_j)


class Rig:
    """One machine with one engine on all its GPUs, which use and serve some totals evenly over a time."""

    def __init__(
        self,
        engine: Engine,
        start_ms: int,
        stop_ms: int,
        energy_mj: int,
        *,
        gpus: int = 1,
        node_energy_mj: int | None = None,
        **counts: int,
    ) -> None:
        self.vllm = Vllm("chat")
        self.machine = Machine("a", gpus, engines=[self.vllm])
        self.machine.serve(start_ms, dict.fromkeys(range(gpus), local(self.vllm)))
        if node_energy_mj is not None:
            self.machine.node_mw = node_energy_mj * 1_000 // (stop_ms - start_ms)

        def work(before_ms: int, now_ms: int) -> None:
            self.vllm.running = 64
            for name, count in counts.items():
                grown = evenly(count, start_ms, stop_ms, before_ms, now_ms)
                setattr(self.vllm, name, getattr(self.vllm, name) + grown)

        def used_mj(_machine: Machine, _gpu: int, before_ms: int, now_ms: int) -> int:
            return evenly(energy_mj // gpus, start_ms, stop_ms, before_ms, now_ms)

        run([self.machine], start_ms, stop_ms, used_mj, work)
        self.machine.end(stop_ms)
        store(engine, [self.machine])
        fold(engine, now_minute_ms(1))


def test_example_1_of_ml_energy(engine: Engine, report: Report) -> None:
    """54,631.48 J in 97.6 s at 0.093545 J/token: 559.75 W and 584,013 tokens (ML.ENERGY)."""
    start_ms = now_minute_ms(6)
    Rig(engine, start_ms, start_ms + 97_600, 54_631_480, generated_tokens=584_013)
    found = of(report, "energy_per_token", start_ms, start_ms + 2 * MINUTE_MS)["chat", "gpu"]
    assert (found["energy_j"], found["generated_tokens"]) == (54_631.48, 584_013)
    assert found["j_per_generated_token"] == pytest.approx(0.093545, abs=5e-7)
    assert found["energy_j"] / 97.6 == pytest.approx(559.75, abs=0.005)
    # The rest of the two minutes is nobody's: it was due, and is missing.
    assert found["coverage"] == pytest.approx(97.6 / 120)
    assert found["measured_share"] == 1


def test_example_2_energy_for_each_request(engine: Engine, report: Report) -> None:
    """759.9468 W ÷ 1086.7107 tokens/s = 0.699309 J/token; × 615.0537 tokens per request = 430.1127 J (ML.ENERGY)."""
    start_ms = now_minute_ms(12)
    stop_ms = start_ms + 10 * MINUTE_MS
    tokens = round(1086.7107 * 600)
    requests = round(tokens / 615.0537)
    Rig(engine, start_ms, stop_ms, round(759.9468 * 600_000), generated_tokens=tokens, requests=requests)
    found = of(report, "energy_per_token", start_ms, stop_ms)["chat", "gpu"]
    assert found["j_per_generated_token"] == pytest.approx(0.699309, rel=1e-5)
    assert found["generated_tokens_per_s"] == pytest.approx(1086.7107, rel=1e-5)
    # Requests are whole: one of 1060 more or less is a thousandth.
    assert found["j_per_request"] == pytest.approx(430.1127, rel=1e-3)
    assert found["coverage"] == 1


@pytest.mark.parametrize(("tokens_per_s_per_mw", "j_per_token"), [(54_000, 18.52), (2_800_000, 0.357)])
def test_example_3_tokens_for_each_megawatt(
    engine: Engine, report: Report, tokens_per_s_per_mw: int, j_per_token: float
) -> None:
    """54,000 and 2.8 million tokens/s/MW: 18.52 and 0.357 J/token (NVIDIA)."""
    start_ms = now_minute_ms(5)
    stop_ms = start_ms + 2 * MINUTE_MS
    # A kilowatt for two minutes.
    Rig(engine, start_ms, stop_ms, 120_000_000, generated_tokens=tokens_per_s_per_mw * 120 // 1_000)
    found = of(report, "energy_per_token", start_ms, stop_ms)["chat", "gpu"]
    assert found["tokens_per_s_per_mw"] == pytest.approx(tokens_per_s_per_mw, rel=1e-9)
    assert found["j_per_generated_token"] == pytest.approx(j_per_token, abs=0.005 if j_per_token > 1 else 0.0005)


class Scene:
    """Time that passes for some machines, with what their GPUs draw and their engines count."""

    def __init__(self, minutes: int, start_ms: int | None = None) -> None:
        self.start_ms = now_minute_ms(minutes + 2) if start_ms is None else start_ms
        self.stop_ms = self.start_ms + minutes * MINUTE_MS

    def run(
        self,
        engine: Engine,
        machines: Sequence[Machine],
        watts: Callable[[Machine, int, int], int],
        work: Callable[[int, int], None],
        silent: Callable[[Machine, int], bool] = lambda _machine, _now_ms: False,
    ) -> None:
        """Let it pass, store and fold; watts are whole, so that energies are exact."""
        run(
            machines, self.start_ms, self.stop_ms,
            lambda machine, gpu, before_ms, now_ms: watts(machine, gpu, now_ms) * (now_ms - before_ms), work, silent,
        )  # fmt: skip
        for machine in machines:
            machine.end(self.stop_ms)
        store(engine, machines)
        fold(engine, self.stop_ms + MINUTE_MS)


def test_moves_restarts_and_idle_hours_conserve_energy_and_tokens(engine: Engine, report: Report) -> None:
    """Two deployments on one node: one moves to other GPUs in mid-window, one is idle, an engine restarts twice."""
    scene = Scene(65)
    chat, code = Vllm("chat", address="127.0.0.1:8000"), Vllm("code", address="127.0.0.1:8001", model="code-7b")
    machine = Machine("a", 4, engines=[chat, code])
    other = Machine("b", 1)
    moved_ms = scene.start_ms + 7 * MINUTE_MS + 33_000  # in the middle of a window
    restarts_ms = {scene.start_ms + 3 * MINUTE_MS + 5_000, scene.start_ms + 12 * MINUTE_MS + 15_000}
    machine.serve(scene.start_ms, {0: local(chat), 1: local(chat), 2: local(code)})
    told = {"chat": 0, "code": 0}
    used = {"chat": 0, "code": 0, "": 0}

    def work(before_ms: int, now_ms: int) -> None:
        # What is counted between the last reading and a restart is lost: here nothing is.
        if before_ms in restarts_ms:
            chat.restart(before_ms)
        chat.running = 8
        chat.generated_tokens += 1_237
        told["chat"] += 1_237
        code.running = 0
        if before_ms == moved_ms:
            machine.serve(moved_ms, {2: local(chat), 3: local(chat), 1: local(code)})

    def watts(its: Machine, gpu: int, now_ms: int) -> int:
        drawn = 611 + 7 * gpu + now_ms // 1_000 % 13
        serving = {0: "chat", 1: "chat", 2: "code"} if now_ms <= moved_ms else {1: "code", 2: "chat", 3: "chat"}
        used[serving.get(gpu, "") if its is machine else ""] += drawn * 1_000
        return drawn

    scene.run(engine, [machine, other], watts, work)
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    assert {label: round(1_000 * row["energy_j"]) for (label, boundary), row in found.items() if boundary == "gpu"} == {
        "chat": used["chat"], "code": used["code"],
    }  # fmt: skip
    assert found["chat", "gpu"]["generated_tokens"] == told["chat"]
    # The engine of code generated nothing: no ratio, and its energy is still there.
    assert found["code", "gpu"]["generated_tokens"] == 0
    assert found["code", "gpu"]["j_per_generated_token"] is None
    split = of(report, "idle", scene.start_ms, scene.stop_ms, "fleet")["fleet"]
    assert round(1_000 * split["unallocated_j"]) == used[""]
    assert round(1_000 * split["provisioned_idle_j"]) == used["code"]
    assert round(1_000 * split["active_j"]) == used["chat"]
    assert split["unobserved_j"] == 0
    assert round(1_000 * split["energy_j"]) == sum(used.values()) == total_energy_mj(report)


@pytest.mark.parametrize("silent_name", ["n1", "n0"])
@pytest.mark.parametrize("spanning", [True, False])
def test_a_silent_agent_lowers_coverage_and_betters_nothing(
    engine: Engine, report: Report, silent_name: str, *, spanning: bool
) -> None:
    """4 nodes × 8 GPUs, one agent silent for 10 minutes: of one engine over all nodes (n0), or one on each."""
    scene = Scene(30)
    engines = {f"n{it}": Vllm("chat") for it in range(1 if spanning else 4)}
    machines = [Machine(f"n{it}", 8, engines=[engines[f"n{it}"]] if f"n{it}" in engines else []) for it in range(4)]
    for machine in machines:
        serves = local(machine.engines[0]) if machine.engines else lent("chat")
        machine.serve(scene.start_ms, dict.fromkeys(range(8), serves))

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm in engines.values():
            vllm.running = 32
            vllm.generated_tokens += 4_000 if spanning else 1_000

    silent_from_ms, silent_to_ms = scene.start_ms + 10 * MINUTE_MS, scene.start_ms + 20 * MINUTE_MS
    # A silent agent never comes back with what it missed: its process is another one afterwards.
    scene.run(
        engine, machines, lambda _machine, _gpu, _now_ms: 500, work,
        lambda machine, now_ms: machine.name == silent_name and silent_from_ms < now_ms,
    )  # fmt: skip
    before = of(report, "energy_per_token", scene.start_ms, silent_from_ms)["chat", "gpu"]
    during = of(report, "energy_per_token", scene.start_ms, silent_to_ms)["chat", "gpu"]
    exact = 32 * 500 / 4_000
    assert (before["j_per_generated_token"], before["coverage"], before["gpus_silent"]) == (exact, 1, 0)
    assert during["j_per_generated_token"] >= exact
    assert during["j_per_generated_token"] == pytest.approx(exact, rel=0.01)
    # All minutes since are left out where the engine spans the nodes; else that node's alone.
    assert during["coverage"] == pytest.approx(0.5 if spanning else 1 - 0.25 / 2, abs=0.01)
    assert (during["gpus"], during["gpus_silent"]) == (32, 8)


def test_what_comes_late_is_made_up_for(engine: Engine, report: Report) -> None:
    """An agent that was silent comes back: its counters know the energy of the gap, and minutes are folded again."""
    start_ms = now_minute_ms(16)
    middle_ms, stop_ms = start_ms + 10 * MINUTE_MS, start_ms + 14 * MINUTE_MS
    vllm = Vllm("chat")
    head, lending = Machine("a", 2, engines=[vllm]), Machine("b", 2)
    head.serve(start_ms, dict.fromkeys(range(2), local(vllm)))
    lending.serve(start_ms, dict.fromkeys(range(2), lent("chat")))

    def work(_before_ms: int, _now_ms: int) -> None:
        vllm.running, vllm.generated_tokens = 1, vllm.generated_tokens + 500

    def used_mj(_machine: Machine, _gpu: int, before_ms: int, now_ms: int) -> int:
        return 250 * (now_ms - before_ms)

    def silent(machine: Machine, now_ms: int) -> bool:
        return machine is lending and start_ms + 4 * MINUTE_MS < now_ms <= middle_ms

    run([head, lending], start_ms, middle_ms, used_mj, work, silent)
    lending_mj = lending.energy_mj
    store(engine, [head, lending])
    fold(engine, middle_ms + MINUTE_MS)
    found = of(report, "energy_per_token", start_ms, middle_ms)["chat", "gpu"]
    assert (found["coverage"], found["gpus_silent"]) == (pytest.approx(0.4), 2)
    assert found["j_per_generated_token"] == 2

    # What its GPUs used meanwhile is read at once.
    lending.energy_mj = [it + 250 * 6 * MINUTE_MS for it in lending_mj]
    run([head, lending], middle_ms, stop_ms, used_mj, work)
    for machine in (head, lending):
        machine.end(stop_ms)
    store(engine, [head, lending])
    fold(engine, stop_ms + MINUTE_MS)
    found = of(report, "energy_per_token", start_ms, stop_ms)["chat", "gpu"]
    assert (found["coverage"], found["gpus_silent"]) == (1, 0)
    assert found["j_per_generated_token"] == 2
    assert found["interpolated_share"] == pytest.approx(6 / 14 / 2, abs=0.01)
    assert round(1_000 * found["energy_j"]) == 4 * 250 * 14 * MINUTE_MS == total_energy_mj(report)


SERVED = (
    (),
    (Assignment(deployment="chat", endpoint="127.0.0.1:8000"),),
    (Assignment(deployment="code", role=Role.DECODE),),
    (Assignment(deployment="chat"), Assignment(deployment="code", role=Role.PREFILL), Assignment(deployment="lone")),
)
moves = st.lists(st.tuples(st.integers(0, 239), st.integers(0, 1), st.integers(0, 1), st.sampled_from(SERVED)),
                 max_size=12)  # fmt: skip


@settings(max_examples=12)
@given(moves, st.integers(0, 3), st.data())
def test_the_parts_of_energy_add_up_to_what_is_metered(
    embedded_server: Any, schedule: list[tuple[int, int, int, tuple[Assignment, ...]]], seed: int, data: Any
) -> None:
    """Whatever GPUs serve and when they move, active, idle, unobserved and unallocated energy are all of it."""
    url = embedded_server.create()
    engine = database.engine(url)
    reports = database.engine(url, role=database.REPORT_ROLE)
    # An hour ends in its middle, so that hours are folded, too.
    scene = Scene(4, now_minute_ms(10) // HOUR_MS * HOUR_MS - 2 * MINUTE_MS)
    vllm = Vllm("chat")
    machines = [Machine("a", 2, engines=[vllm]), Machine("b", 2, site="paris", model="NVIDIA B200")]
    serving = {machine.name: dict[int, tuple[Assignment, ...]]() for machine in machines}
    quiet = data.draw(st.tuples(st.integers(0, 200), st.integers(0, 40)))

    def work(before_ms: int, _now_ms: int) -> None:
        second = (before_ms - scene.start_ms) // 1_000
        vllm.running = seed if second % 90 < 45 else 0
        vllm.generated_tokens += vllm.running
        for at_s, machine, gpu, serves in schedule:
            if at_s == second and not (machine == 1 and quiet[0] <= second <= sum(quiet)):
                serving[machines[machine].name][gpu] = serves
                machines[machine].serve(before_ms, serving[machines[machine].name])

    def silent(machine: Machine, now_ms: int) -> bool:
        return machine is machines[1] and quiet[0] <= (now_ms - scene.start_ms) // 1_000 <= sum(quiet)

    try:
        scene.run(engine, machines, lambda _m, gpu, now_ms: 211 * (gpu + 1) + now_ms // 1_000 % 17, work, silent)
        report: Report = lambda sql, **values: rows(reports, sql, **values)  # noqa: E731 # as the fixture
        for group_by in ("fleet", "site", "gpu_model"):
            found = of(report, "idle", scene.start_ms, scene.stop_ms, group_by)
            for row in found.values():
                parts = [row[f"{it}_j"] for it in ("active", "provisioned_idle", "unobserved", "unallocated")]
                assert min(parts) >= 0
                assert round(1_000 * sum(parts)) == round(1_000 * row["energy_j"])
            assert round(1_000 * sum(row["energy_j"] for row in found.values())) == total_energy_mj(report)
        assigned = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
        split = of(report, "idle", scene.start_ms, scene.stop_ms, "fleet")["fleet"]
        of_deployments = sum(row["energy_j"] or 0 for (_, boundary), row in assigned.items() if boundary == "gpu")
        assert round(1_000 * (of_deployments + split["unallocated_j"])) == total_energy_mj(report)
        columns = ", ".join(f"sum({it}) AS {it}" for it in ("energy_mj", "expected_ms", "active_mj", "observed_mj"))
        of_hour = f"SELECT {columns} FROM gigawatch.deployment_1m WHERE time < :end"
        end = at(scene.start_ms + 2 * MINUTE_MS)
        assert rows(engine, of_hour, end=end) == rows(engine, f"SELECT {columns} FROM gigawatch.deployment_1h")
    finally:
        reports.dispose()
        engine.dispose()
        embedded_server.drop(url)


def test_a_relay_s_batches_say_the_same(engine: Engine, report: Report) -> None:
    """Merged columns of nodes that serve something, something else, and nothing."""
    scene = Scene(3)
    chat, code = Vllm("chat"), Vllm("code")
    machines = [
        Machine("none", 2),
        Machine("a", 2, engines=[chat]),
        Machine("b", 3, engines=[code]),
        Machine("last", 1),
    ]
    machines[1].serve(scene.start_ms, {1: local(chat)})
    machines[2].serve(scene.start_ms, {0: local(code), 2: lent("chat")})

    def work(_before_ms: int, _now_ms: int) -> None:
        chat.generated_tokens += 10
        code.generated_tokens += 20

    def used_mj(machine: Machine, gpu: int, before_ms: int, now_ms: int) -> int:
        return (100 + 10 * gpu + machines.index(machine)) * (now_ms - before_ms)

    run(machines, scene.start_ms, scene.stop_ms, used_mj, work)
    for machine in machines:
        machine.end(scene.stop_ms)
    store(engine, machines, relayed=True)
    fold(engine, scene.stop_ms + MINUTE_MS)
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    assert found["chat", "gpu"]["energy_j"] == (111 + 122) * 180
    assert found["code", "gpu"]["energy_j"] == 102 * 180
    assert found["chat", "gpu"]["j_per_generated_token"] == pytest.approx(233 / 10)
    assert found["code", "gpu"]["j_per_generated_token"] == pytest.approx(102 / 20)


def test_prefill_and_decode_apart(engine: Engine, report: Report) -> None:
    """Prefill energy / prompt tokens, decode energy / generated tokens, and the sum / generated tokens."""
    scene = Scene(5)
    prefill = Vllm("chat", role=Role.PREFILL, address="127.0.0.1:8000")
    decode = Vllm("chat", role=Role.DECODE, address="127.0.0.1:8001")
    machine = Machine("a", 4, engines=[prefill, decode])
    machine.serve(scene.start_ms, {0: local(prefill), 1: local(decode), 2: local(decode)})

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm, prompts, answers in ((prefill, 900, 5), (decode, 900, 250)):
            vllm.running, vllm.prompt_tokens = 3, vllm.prompt_tokens + prompts
            vllm.generated_tokens += answers

    scene.run(engine, [machine], lambda _m, gpu, _now_ms: 700 if gpu == 0 else 400, work)
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)["chat", "gpu"]
    assert (found["prompt_tokens"], found["generated_tokens"]) == (900 * 300, 250 * 300)
    assert found["prefill_j_per_prompt_token"] == pytest.approx(700 / 900)
    assert found["decode_j_per_generated_token"] == pytest.approx(800 / 250)
    assert found["j_per_generated_token"] == pytest.approx(1_500 / 250)


def test_a_frontend_s_tokens_are_not_counted_beside_its_workers_own(engine: Engine, report: Report) -> None:
    """Dynamo's frontend counts what its workers count: who reads both has each token once; by itself it counts."""
    scene = Scene(5)
    prefill = Vllm("chat", role=Role.PREFILL, address="127.0.0.1:8081")
    decode = Vllm("chat", role=Role.DECODE, address="127.0.0.1:8082")
    # Stands for a frontend of workers that nobody reads.
    alone = Vllm("code", address="127.0.0.1:8000")
    worker, router = Machine("a", 3, engines=[prefill, decode]), Machine("b", 1, engines=[alone])
    worker.serve(scene.start_ms, {0: local(prefill), 1: local(decode), 2: local(decode)})
    router.serve(scene.start_ms, {0: local(alone)})

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm, answers in ((prefill, 5), (decode, 250), (alone, 100)):
            vllm.running, vllm.prompt_tokens = 3, vllm.prompt_tokens + 900
            vllm.generated_tokens, vllm.requests = vllm.generated_tokens + answers, vllm.requests + 1
            vllm.ttft_s[0.5] += 1

    run(
        [worker, router],
        scene.start_ms,
        scene.stop_ms,
        lambda _m, _gpu, before_ms, now_ms: 500 * (now_ms - before_ms),
        work,
    )
    for machine in (worker, router):
        machine.end(scene.stop_ms)
    of_decode = [it for it in worker.serving_windows if it.role == Role.DECODE]
    router.serving_windows = [
        *(msgspec.structs.replace(it, engine="dynamo") for it in router.serving_windows),
        *(msgspec.structs.replace(it, engine="dynamo", endpoint="127.0.0.1:8001", role=Role.BOTH) for it in of_decode),
    ]
    store(engine, [worker, router])
    fold(engine, now_minute_ms(1))
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    assert (found["chat", "gpu"]["prompt_tokens"], found["chat", "gpu"]["generated_tokens"]) == (900 * 300, 250 * 300)
    assert found["chat", "gpu"]["j_per_generated_token"] == pytest.approx(1_500 / 250)
    assert found["code", "gpu"]["j_per_generated_token"] == pytest.approx(500 / 100)
    assert of(report, "serving", scene.start_ms, scene.stop_ms)["chat"]["requests_per_s"] == 1


def test_no_group_has_the_tokens_of_another_groups_gpus(engine: Engine, report: Report) -> None:
    """Prefill on one model of GPU, decode on another, beside one that does both: neither alone made the answers."""
    scene = Scene(4)
    prefill, decode, code = Vllm("chat", role=Role.PREFILL), Vllm("chat", role=Role.DECODE), Vllm("code")
    machines = [
        Machine("a", 1, engines=[prefill]),
        Machine("b", 1, model="NVIDIA B200", engines=[decode]),
        Machine("c", 1, model="NVIDIA B200", engines=[code]),
    ]
    watts = {"a": 500, "b": 300, "c": 700}
    for machine in machines:
        machine.serve(scene.start_ms, {0: local(machine.engines[0])})

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm in (prefill, decode, code):
            vllm.running, vllm.prompt_tokens, vllm.requests = 1, vllm.prompt_tokens + 500, vllm.requests + 1
            vllm.generated_tokens += 100

    scene.run(engine, machines, lambda machine, _gpu, _now_ms: watts[machine.name], work)
    figures = ("j_per_generated_token", "j_per_request", "variation", "coverage", "prefill_j_per_prompt_token",
               "decode_j_per_generated_token")  # fmt: skip
    found = {
        label: tuple(row[it] for it in figures)
        for group_by in ("fleet", "deployment", "gpu_model")
        for (label, boundary), row in of(report, "energy_per_token", scene.start_ms, scene.stop_ms, group_by).items()
        if boundary == "gpu"
    }
    assert found == {
        "fleet": (7.5, 750, 0, 1, 1, 3),
        "chat": (8, 800, 0, 1, 1, 3),
        "code": (7, 700, 0, 1, None, None),
        # What is of one role alone is known there, too.
        "NVIDIA H100 80GB HBM3": (None, None, None, 0, 1, None),
        "NVIDIA B200": (7, 700, 0, 0.5, None, 3),
    }


def test_rates_are_over_the_minutes_that_are_counted(engine: Engine, report: Report) -> None:
    """A period that begins and ends within minutes: these are in neither the tokens nor the time."""
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 5 * MINUTE_MS
    Rig(engine, start_ms, stop_ms, 300_000_000, generated_tokens=60_000)
    part = start_ms + 20_000, stop_ms - 15_000
    assert of(report, "energy_per_token", *part)["chat", "gpu"]["generated_tokens_per_s"] == 200
    assert of(report, "serving", *part)["chat"]["generated_tokens_per_s"] == 200


class Mute(Vllm):
    """An engine that does not tell everything."""

    untold: tuple[str, ...] = ()

    def exposition(self) -> str:
        lines = super().exposition().splitlines()
        return "\n".join(it for it in lines if not any(name in it for name in self.untold)) + "\n"


def test_what_engines_do_not_count_is_in_no_ratio(engine: Engine, report: Report) -> None:
    """Energy of an engine that counts no tokens does not make the tokens of others dearer, and lowers the coverage."""
    scene = Scene(4)
    chat = Vllm("chat")
    tokenless, terse = Mute("tokenless", address="127.0.0.1:8001"), Mute("terse", address="127.0.0.1:8002")
    tokenless.untold, terse.untold = ("generation_tokens",), ("prompt_tokens", "request_success")
    engines = [chat, tokenless, terse]
    machine = Machine("a", 3, engines=engines)
    machine.serve(scene.start_ms, {index: local(vllm) for index, vllm in enumerate(engines)})

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm in engines:
            vllm.running, vllm.requests = 1, vllm.requests + 1
            vllm.prompt_tokens, vllm.generated_tokens = vllm.prompt_tokens + 300, vllm.generated_tokens + 100

    scene.run(engine, [machine], lambda _machine, _gpu, _now_ms: 500, work)
    figures = ("j_per_generated_token", "j_per_token", "j_per_request", "gpu_s_per_request", "coverage")
    found = {
        label: tuple(row[it] for it in figures)
        for group_by in ("fleet", "deployment")
        for (label, boundary), row in of(report, "energy_per_token", scene.start_ms, scene.stop_ms, group_by).items()
        if boundary == "gpu"
    }
    assert found == {
        "chat": (5, 1.25, 500, 1, 1),
        "tokenless": (None, None, 500, 1, 0),
        "terse": (5, None, None, None, 1),
        "fleet": (5, 1.25, 500, 1, pytest.approx(2 / 3)),
    }


def test_a_shared_gpu_is_split_evenly_and_marked(engine: Engine, report: Report) -> None:
    scene = Scene(3)
    chat, code = Vllm("chat"), Vllm("code", address="127.0.0.1:8001")
    machine = Machine("a", 2, engines=[chat, code])
    machine.serve(scene.start_ms, {0: [*local(chat), *local(code)], 1: local(code)})

    def work(_before_ms: int, _now_ms: int) -> None:
        chat.running = code.running = 1
        chat.generated_tokens += 10
        code.generated_tokens += 100

    # An odd number of millijoules in each window: one of the two gets one more.
    scene.run(engine, [machine], lambda _m, gpu, now_ms: 333 if gpu == 0 else 200 + now_ms // 1_000 % 2, work)
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    energies = {label: row["energy_j"] for (label, boundary), row in found.items() if boundary == "gpu"}
    assert energies["chat"] == pytest.approx(333 * 180 / 2, abs=0.01)
    assert round(1_000 * sum(energies.values())) == total_energy_mj(report)
    assert found["chat", "gpu"]["modelled_share"] == 1
    assert found["code", "gpu"]["modelled_share"] == pytest.approx(333 / 2 / (333 / 2 + 200.5), rel=1e-3)


def test_the_host_belongs_to_those_who_use_it(engine: Engine, report: Report) -> None:
    """A metered node's own use is shared by GPU-time; an unmetered one's is modelled by it and marked."""
    scene = Scene(4)
    chat, code, far = Vllm("chat"), Vllm("code", address="127.0.0.1:8001"), Vllm("far")
    metered, unmetered = Machine("a", 4, engines=[chat, code]), Machine("b", 2, engines=[far])
    other = Machine("c", 1, model="NVIDIA B200", engines=[Vllm("new")])
    metered.node_mw = 3_200_000
    metered.serve(scene.start_ms, {0: local(chat), 1: local(chat), 2: local(code)})
    unmetered.serve(scene.start_ms, {0: local(far), 1: local(far)})
    other.serve(scene.start_ms, {0: local(other.engines[0])})

    def work(_before_ms: int, _now_ms: int) -> None:
        for vllm in (chat, code, far, *other.engines):
            vllm.running, vllm.generated_tokens = 1, vllm.generated_tokens + 100

    scene.run(engine, [metered, unmetered, other], lambda _m, _gpu, _now_ms: 500, work)
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    # 3,200 W less 4 × 500 W are 1,200 W, 300 W for each GPU.
    assert found["chat", "it"]["j_per_generated_token"] == pytest.approx(2 * 800 / 100, rel=1e-6)
    assert found["code", "it"]["j_per_generated_token"] == pytest.approx(800 / 100, rel=1e-6)
    assert found["code", "it"]["modelled_share"] == 0
    assert found["far", "it"]["j_per_generated_token"] == pytest.approx(2 * 800 / 100, rel=1e-6)
    assert found["far", "it"]["modelled_share"] == pytest.approx(300 / 800, rel=1e-6)
    # No node with such GPUs is metered: there is no figure, rather than a wrong one.
    assert found["new", "it"]["energy_j"] is None
    assert found["new", "it"]["j_per_generated_token"] is None
    assert found["new", "gpu"]["j_per_generated_token"] == pytest.approx(5)
    # Without a PUE nothing is known at the facility.
    assert all(row["energy_j"] is None for (_, boundary), row in found.items() if boundary == "facility")


def configure_pue(engine: Engine, site: str, pue: float, start_ms: int, stop_ms: int) -> None:
    """A PUE from a start to a stop, as `gigawatch pue set` has it."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "WITH it AS (INSERT INTO gigawatch.factor_import (site_id, source, version)"
                " SELECT site_id, 'design', '1' FROM gigawatch.site WHERE name = :site RETURNING import_id, site_id)"
                " INSERT INTO gigawatch.configured_pue (import_id, site_id, start, stop, pue)"
                " SELECT import_id, site_id, :start, :stop, :pue FROM it"
            ),
            {"site": site, "pue": pue, "start": at(start_ms), "stop": at(stop_ms)},
        )


def test_example_4_of_google(engine: Engine, report: Report) -> None:
    """0.24 Wh for the median prompt at PUE 1.09: 0.0198 Wh of it are overhead (Google 2025)."""
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 5 * MINUTE_MS
    requests = 1_000
    it_mj = round(0.24 / 1.09 * 3_600_000 * requests)
    rig = Rig(engine, start_ms, stop_ms, it_mj // 2, node_energy_mj=it_mj, requests=requests, generated_tokens=requests)
    assert rig.vllm.requests == requests
    assert of(report, "energy_per_token", start_ms, stop_ms)["chat", "facility"]["j_per_request"] is None
    # The facility has no figure for the minutes before.
    configure_pue(engine, "oslo", 1.09, start_ms, stop_ms)
    found = of(report, "energy_per_token", start_ms, stop_ms)
    wh = {boundary: found["chat", boundary]["j_per_request"] / 3_600 for boundary in ("gpu", "it", "facility")}
    assert wh["gpu"] == pytest.approx(0.12 / 1.09, rel=1e-5)
    assert wh["facility"] == pytest.approx(0.24, rel=1e-5)
    assert wh["facility"] - wh["it"] == pytest.approx(0.0198, abs=0.00005)


def test_minutes_without_a_pue_are_left_out_at_the_facility(engine: Engine, report: Report) -> None:
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 4 * MINUTE_MS
    Rig(engine, start_ms, stop_ms, 240_000_000, node_energy_mj=360_000_000, generated_tokens=240_000)
    configure_pue(engine, "oslo", 1.5, start_ms, start_ms + 3 * MINUTE_MS)
    found = of(report, "energy_per_token", start_ms, stop_ms)
    assert found["chat", "it"]["j_per_generated_token"] == pytest.approx(1.5)
    assert found["chat", "facility"]["j_per_generated_token"] == pytest.approx(2.25)
    assert (found["chat", "it"]["coverage"], found["chat", "facility"]["coverage"]) == (1, 0.75)


def serve_steadily(engine: Engine, scene: Scene) -> None:
    """One GPU of a metered node serves deployment chat, as much in each step."""
    vllm = Vllm("chat")
    machine = Machine("a", 1, engines=[vllm])
    machine.node_mw = 1_000_000
    machine.serve(scene.start_ms, {0: local(vllm)})

    def work(before_ms: int, now_ms: int) -> None:
        vllm.running = 1
        vllm.generated_tokens += 1_000

    scene.run(engine, [machine], lambda _machine, _gpu, _now_ms: 800, work)


def test_a_configured_pue_that_changes_within_a_day(engine: Engine, report: Report) -> None:
    """Hours and days are read as wholes, and so is their PUE: its mean by time, and none where a part has none."""
    noon_ms = round((facility.today() - facility.DAY / 2).timestamp() * 1_000)
    serve_steadily(engine, Scene(4, noon_ms - 2 * MINUTE_MS))
    fold(engine, now_minute_ms(0))
    price(engine, "tariff", "price_per_kwh, currency", "3.6, 'EUR'")
    day_ms = noon_ms - 12 * HOUR_MS, noon_ms + 12 * HOUR_MS
    kw_s = 1_000 * 120 / 3_600  # what two minutes cost

    def figures(start_ms: int, stop_ms: int) -> tuple[float | None, float | None]:
        found = of(report, "energy_per_token", start_ms, stop_ms)["chat", "facility"]
        (cost,) = report(
            "SELECT * FROM report.cost(:start, :stop, in_boundary => 'facility')", start=at(start_ms), stop=at(stop_ms)
        )
        return found["j_per_generated_token"], cost["cost"]

    configure_pue(engine, "oslo", 1.2, day_ms[0], noon_ms)
    assert figures(*day_ms) == (None, pytest.approx(1.2 * kw_s / 1_000 * 3.6))
    assert figures(noon_ms - HOUR_MS, noon_ms)[0] == pytest.approx(1.2)
    configure_pue(engine, "oslo", 1.8, noon_ms, day_ms[1])
    assert figures(*day_ms) == (pytest.approx(1.5), pytest.approx(3 * kw_s / 1_000 * 3.6))
    assert figures(noon_ms, noon_ms + HOUR_MS)[0] == pytest.approx(1.8)
    with engine.begin() as connection:
        for edge, its in (("stop", 1.2), ("start", 1.8)):
            earlier = f"UPDATE gigawatch.configured_pue SET {edge} = {edge} - interval '6 minutes' WHERE pue = {its}"
            connection.execute(text(earlier))
    pue = 1.2 * 0.9 + 1.8 * 0.1
    expected = pytest.approx(pue), pytest.approx(pue * kw_s / 1_000 * 3.6)
    assert figures(noon_ms - HOUR_MS, noon_ms) == expected


def test_a_deployment_at_two_sites_of_which_one_has_a_pue(engine: Engine, report: Report) -> None:
    scene = Scene(4)
    here, there, spread = Vllm("chat"), Vllm("chat"), Vllm("code", address="127.0.0.1:8001")
    machines = [Machine("a", 2, engines=[here, spread]), Machine("b", 2, site="paris", engines=[there])]
    machines[0].serve(scene.start_ms, {0: local(here), 1: local(spread)})
    machines[1].serve(scene.start_ms, {0: local(there), 1: lent("code")})
    for machine in machines:
        machine.node_mw = 1_200_000

    def work(before_ms: int, now_ms: int) -> None:
        for vllm in (here, there, spread):
            vllm.running, vllm.generated_tokens = 1, vllm.generated_tokens + 1_000

    scene.run(engine, machines, lambda _machine, _gpu, _now_ms: 500, work)
    configure_pue(engine, "oslo", 1.5, scene.start_ms - HOUR_MS, scene.stop_ms + HOUR_MS)
    period = scene.start_ms, scene.stop_ms
    # Each site's own engine counts its own tokens; code has its engine at one of them alone.
    by_site = of(report, "energy_per_token", *period, "site")
    assert by_site["oslo", "it"]["j_per_generated_token"] == pytest.approx(0.6)
    assert by_site["oslo", "facility"]["j_per_generated_token"] == pytest.approx(0.9)
    assert by_site["paris", "facility"]["j_per_generated_token"] is None
    # Of both together the energy is not known.
    assert of(report, "energy_per_token", *period)["chat", "facility"]["j_per_generated_token"] is None


def test_a_measured_pue_goes_before_the_one_configured(engine: Engine, report: Report) -> None:
    """At noon of yesterday; that day's PUE is measured at the PDUs, and nearer to the IT equipment after a while."""
    noon = facility.today() - facility.DAY / 2
    scene = Scene(4, round(noon.timestamp() * 1_000))
    serve_steadily(engine, scene)
    configure_pue(engine, "oslo", 1.5, scene.start_ms - 24 * HOUR_MS, scene.stop_ms)
    price(engine, "tariff", "price_per_kwh, currency", "1, 'EUR'")

    def figures() -> tuple[float, float, float, float, float]:
        found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)["chat", "facility"]
        (cost,) = report(
            "SELECT * FROM report.cost(:start, :stop, in_boundary => 'facility')",
            start=at(scene.start_ms), stop=at(scene.stop_ms),
        )  # fmt: skip
        return (
            found["j_per_generated_token"], found["measured_pue_share"], cost["energy_j"], cost["measured_pue_share"],
            cost["cost"],
        )  # fmt: skip

    it_j = 1_000 * 240
    assert figures() == pytest.approx((1.5, 0, it_j * 1.5, 0, it_j * 1.5 / 3_600_000))
    start = facility.today() - facility.DAY
    facility.place(engine, {"u": {"role": "utility"}, "p": {"role": "pdu"}, "i": {"role": "it"}})
    facility.send(engine, [*facility.hourly("u", start, 12, kwh=120), *facility.hourly("p", start, 12, kwh=100)])
    fold(engine, scene.stop_ms + MINUTE_MS)
    assert figures() == pytest.approx((1.2, 1, it_j * 1.2, 1, it_j * 1.2 / 3_600_000))
    facility.send(engine, facility.hourly("i", start + 2 * facility.HOUR, 10, kwh=80))
    fold(engine, scene.stop_ms + MINUTE_MS)
    assert figures()[:2] == pytest.approx((1.5, 1))
    # Other boundaries know of no PUE.
    found = of(report, "energy_per_token", scene.start_ms, scene.stop_ms)
    assert (found["chat", "it"]["j_per_generated_token"], found["chat", "it"]["measured_pue_share"]) == (1, None)


def price(engine: Engine, table: str, columns: str, values: str, site: str = "oslo") -> None:
    """A price or an intensity of a site for all time."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "WITH it AS (INSERT INTO gigawatch.factor_import (site_id, source, version)"
                " SELECT site_id, 'contract', '1' FROM gigawatch.site WHERE name = :site RETURNING import_id, site_id)"
                f" INSERT INTO gigawatch.{table} (import_id, site_id, start, stop, {columns})"
                f" SELECT import_id, site_id, '2000-01-01Z', '2100-01-01Z', {values} FROM it"
            ),
            {"site": site},
        )


def test_example_3_of_a_gpu_hour(engine: Engine, report: Report) -> None:
    """$2.65 for a GPU-hour at 6,000 tokens/s: $0.1227 for a million tokens (NVIDIA); and what their energy costs."""
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 5 * MINUTE_MS
    Rig(engine, start_ms, stop_ms, 600 * 300_000, generated_tokens=6_000 * 300)
    price(engine, "tariff", "price_per_kwh, currency", "0.2, 'USD'")
    for group_by in ("fleet", "deployment"):
        (found,) = report(
            "SELECT * FROM report.token_cost(:start, :stop, group_by => :group_by, price_per_gpu_hour => 2.65)",
            start=at(start_ms), stop=at(stop_ms), group_by=group_by,
        )  # fmt: skip
        assert found["gpu_cost_per_million_tokens"] == pytest.approx(0.1227, abs=0.00005)
        # 600 W over 6,000 tokens/s are 0.1 J a token, and 100 kJ a million.
        assert found["energy_cost_per_million_tokens"] == pytest.approx(0.2 * 100_000 / 3_600_000)
        assert (found["currency"], found["price_coverage"], found["coverage"]) == ("USD", 1, 1)


@pytest.mark.parametrize("group_by", ["fleet", "site", "gpu_model", "deployment", "model"])
def test_tokens_cost_and_emit_by_the_energy_of_their_own_gpus(engine: Engine, report: Report, group_by: str) -> None:
    """GPUs that serve nothing, at a site where energy is dear and dirty, make no token dearer or dirtier."""
    scene = Scene(4)
    chat = Vllm("chat")
    busy, spare = Machine("a", 1, engines=[chat]), Machine("b", 3, site="paris")
    busy.serve(scene.start_ms, {0: local(chat)})

    def work(_before_ms: int, _now_ms: int) -> None:
        chat.running, chat.generated_tokens = 1, chat.generated_tokens + 100

    scene.run(engine, [busy, spare], lambda _machine, _gpu, _now_ms: 500, work)
    for site, per_kwh in (("oslo", 1), ("paris", 9)):
        price(engine, "tariff", "price_per_kwh, currency", f"0.1 * {per_kwh}, 'EUR'", site)
        price(engine, "grid_intensity", "method, g_per_kwh, estimated", f"'location', 50 * {per_kwh}, false", site)
    million_tokens_kwh = 5 * 1_000_000 / 3_600_000
    period = {"start": at(scene.start_ms), "stop": at(scene.stop_ms), "group_by": group_by}
    (cost,) = report("SELECT * FROM report.token_cost(:start, :stop, group_by => :group_by)", **period)
    assert cost["energy_cost_per_million_tokens"] == pytest.approx(0.1 * million_tokens_kwh)
    assert cost["price_coverage"] == 1
    carbon = report("SELECT * FROM report.token_carbon(:start, :stop, group_by => :group_by)", **period)
    located = next(row for row in carbon if row["method"] == "location")
    assert located["carbon_kg_per_million_tokens"] == pytest.approx(0.05 * million_tokens_kwh)


def test_example_5_of_codecarbon(engine: Engine, report: Report) -> None:
    """2 kWh at 50 g/kWh: 0.1 kg; a mix of .25·995 + .35·816 + .26·743 + .14·29 is 731.59 g/kWh (CodeCarbon)."""
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 5 * MINUTE_MS
    mix = 0.25 * 995 + 0.35 * 816 + 0.26 * 743 + 0.14 * 29
    assert mix == pytest.approx(731.59)
    # As many GPUs as draw 2 kWh in five minutes, at most 2 kW each: the counter is believed up to its limit.
    Rig(engine, start_ms, stop_ms, 7_200_000_000, gpus=16, generated_tokens=1_000_000)
    price(engine, "grid_intensity", "method, g_per_kwh, estimated", "'location', 50, false")
    price(engine, "grid_intensity", "method, instrument, g_per_kwh, estimated", f"'market', 'mix', {mix}, false")
    carbon = {
        row["method"]: row
        for row in report("SELECT * FROM report.carbon(:start, :stop, group_by => 'deployment')",
                          start=at(start_ms), stop=at(stop_ms))
    }  # fmt: skip
    assert carbon["location"]["carbon_kg"] == pytest.approx(0.1)
    assert carbon["market"]["carbon_kg"] == pytest.approx(2 * 0.73159)
    tokens = report("SELECT * FROM report.token_carbon(:start, :stop)", start=at(start_ms), stop=at(stop_ms))
    # A million tokens are all of them.
    assert {row["method"]: row["carbon_kg_per_million_tokens"] for row in tokens} == {
        "location": pytest.approx(0.1), "market": pytest.approx(2 * 0.73159),
    }  # fmt: skip


def test_example_6_of_the_sci(engine: Engine, report: Report) -> None:
    """(E · I + M) / R: 0.0096 kWh · 951 g/kWh + 5.112 g = 14.2416 g (Green Software Foundation)."""
    start_ms = now_minute_ms(8)
    stop_ms = start_ms + 2 * MINUTE_MS
    Rig(engine, start_ms, stop_ms, 96 * 3_600_00, requests=1, generated_tokens=10)
    price(engine, "grid_intensity", "method, g_per_kwh, estimated", "'location', 951, false")
    found = report(
        # One GPU for two minutes.
        "SELECT * FROM report.token_carbon(:start, :stop, embodied_g_per_gpu_hour => 5.112 * 30)",
        start=at(start_ms), stop=at(stop_ms),
    )  # fmt: skip
    located = next(row for row in found if row["method"] == "location")
    assert located["carbon_g_per_request"] == pytest.approx(0.0096 * 951, rel=1e-6)
    assert located["sci_g_per_request"] == pytest.approx(14.2416, rel=1e-6)


RECORDINGS = Path(__file__).parents[3] / "shared/data"
Points = list[tuple[float, float]]
"""Times, s, and powers, W."""


def made(every_s: float) -> Points:
    """A square wave of 105 ms between 75 and 330 W over 9.975 s, as the recorded one: 95 whole periods, 2019.9 J."""
    times_s = [number * every_s for number in range(round(9.975 / every_s) + 1)]
    return [(t_s, 330 if t_s % 0.105 < 0.0525 else 75) for t_s in times_s]


def recorded(name: str) -> tuple[Points, Points]:
    """What a bench meter measured of a load, and what NVML's instantaneous power was in the same time."""

    def read(kind: str, column: str) -> Points:
        with (RECORDINGS / f"a100_{name}_{kind}.csv").open(encoding="utf-8", newline="") as file:
            return [(float(row["t_s"]), float(row[column])) for row in csv.DictReader(file)]

    meter = read("meter", "power_w")
    return meter, [it for it in read("nvml", "power_instant_w") if meter[0][0] <= it[0] <= meter[-1][0]]


# Energies, J, and how far off they may be: of what is made by its definition, of what is recorded as its source says.
TRACES: dict[str, tuple[Points, float, float]] = {
    "made, each millisecond": (made(0.001), 95 * 0.0525 * (75 + 330), 0.005),
    "made, as NVML is polled": (made(0.0133), 95 * 0.0525 * (75 + 330), 0.02),
}
if RECORDINGS.exists():
    for name, meter_j, nvml_j in (("square_wave", 1156.30, 1146.91), ("step", 1711.60, 1611.19)):
        meter, nvml = recorded(name)
        # The meter has five readings in each of the windows' milliseconds.
        TRACES |= {f"{name}, meter": (meter, meter_j, 2e-4), f"{name}, NVML": (nvml, nvml_j, 1e-5)}


@pytest.mark.parametrize("name", TRACES)
def test_example_7_of_yang_et_al(engine: Engine, report: Report, name: str) -> None:
    """A board without an energy counter: the report's energy is the trapezoid of the readings, and is marked so."""
    points, energy_j, tolerance = TRACES[name]
    start_ms = now_minute_ms(5)
    stop_ms = start_ms + round(points[-1][0] * 1_000)
    vllm = Vllm("chat")
    machine = Machine("a", 1, model="NVIDIA A100-PCIE-40GB", engines=[vllm])
    folder = GpuFolder(machine.uuids[0], WINDOW_MS, TICK_MS)
    folder.serves = tuple(local(vllm))
    of_ms: dict[int, list[float]] = {}
    for t_s, power_w in points:
        of_ms.setdefault(start_ms + round(t_s * 1_000), []).append(power_w)
    readings = {at_ms: round(1_000 * sum(powers_w) / len(powers_w)) for at_ms, powers_w in of_ms.items()}
    for at_ms, power_mw in readings.items():
        folder.add(at_ms, GpuReading(uuid=folder.uuid, power_mw=power_mw, power_instant_mw=power_mw))
    machine.gpu_windows = folder.close(stop_ms, stop=True)
    for at_ms in (*range(start_ms, stop_ms, SCRAPE_MS), stop_ms):
        vllm.running = 1
        vllm.generated_tokens = at_ms - start_ms
        machine.scrape(at_ms)
    machine.end(stop_ms)
    store(engine, [machine])
    fold(engine, now_minute_ms(1))

    found = of(report, "energy_per_token", start_ms, start_ms + MINUTE_MS)["chat", "gpu"]
    trapezoid_mj = sum((t1 - t0) * (p0 + p1) / 2_000 for (t0, p0), (t1, p1) in pairwise(readings.items()))
    assert 1_000 * found["energy_j"] == pytest.approx(trapezoid_mj, abs=2)
    assert found["energy_j"] == pytest.approx(energy_j, rel=tolerance)
    assert found["j_per_generated_token"] == pytest.approx(found["energy_j"] / (stop_ms - start_ms))
    assert (found["integrated_share"], found["measured_share"]) == (1, 0)


def test_owning_costs_by_the_hour(report: Report) -> None:
    """Price · CRF / 8760 with CRF = r(1+r)^n / ((1+r)^n − 1); without interest, a share of each year."""
    (found,) = report("SELECT report.capex_per_hour(30000, 0.08, 4) AS it, report.capex_per_hour(8760, 0, 5) AS plain")
    assert found["it"] == pytest.approx(30_000 * 0.08 * 1.08**4 / (1.08**4 - 1) / 8_760)
    assert found["plain"] == pytest.approx(0.2)


def test_what_users_felt_and_when_a_node_began(engine: Engine, report: Report) -> None:
    scene = Scene(6)
    vllm = Vllm("chat")
    head, lending = Machine("a", 1, engines=[vllm]), Machine("b", 1)
    head.serve(scene.start_ms, {0: local(vllm)})
    lending.serve(scene.start_ms, {0: lent("chat")})
    first_ms = scene.start_ms + 2 * MINUTE_MS + 20_000

    def work(before_ms: int, _now_ms: int) -> None:
        if before_ms < first_ms:
            return
        vllm.running = 4
        vllm.waiting = 2
        vllm.generated_tokens += 50
        for bound_s, count in ((0.1, 6), (1.0, 4)):
            vllm.ttft_s[bound_s] += count

    scene.run(engine, [head, lending], lambda _m, _gpu, _now_ms: 300, work)
    found = of(report, "serving", first_ms // MINUTE_MS * MINUTE_MS + MINUTE_MS, scene.stop_ms)["chat"]
    assert found["generated_tokens_per_s"] == pytest.approx(50)
    assert (found["batch"], found["waiting"], found["active_share"]) == (4, 2, 1)
    # Six of ten within 100 ms: the fifth lies at five sixths of it.
    assert found["ttft_p50_s"] == pytest.approx(0.1 * 5 / 6)
    # The others between 500 ms and a second, whatever lies in between: nine and a half of ten.
    assert found["ttft_p95_s"] == pytest.approx(0.5 + 0.5 * 3.5 / 4)
    begun = {row["hostname"]: row for row in report("SELECT * FROM report.ramp_up")}
    for name in ("a", "b"):
        assert begun[name]["first_seen"] == at(scene.start_ms)
        assert begun[name]["ramp_up_s"] == (first_ms - scene.start_ms) / 1_000
