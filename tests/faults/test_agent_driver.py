"""The agent on the stand-in NVML: what it reads, and what it makes of a driver in trouble. No server is there:
what the agent measured is read from its spool."""

import json
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from tests import agents
from tests.agents import running_agent, spooled
from tests.nvml import standin as nvml
from tests.processes import GIGAWATCH

UUIDS = [f"GPU-{index:08d}-1111-2222-3333-444444444444" for index in range(8)]
NO_SERVER = "http://127.0.0.1:9"  # the discard port: nothing answers
TICK_S = 0.2
QUICK = ("--server-url", NO_SERVER, "--tick-s", str(TICK_S), "--window-s", "1")


def write(folder: Path, scenario: nvml.Scenario) -> Path:
    path = folder / "scenario"
    scenario.write(path)
    return path


def h100s(count: int) -> list[nvml.Gpu]:
    return [nvml.h100(uuid, nvml.Constant(300_000 + 10_000 * index)) for index, uuid in enumerate(UUIDS[:count])]


@contextmanager
def reading(folder: Path, scenario: nvml.Scenario, *options: str, **settings: str) -> Iterator[agents.Agent]:
    """A running agent. What happens does so at its time from when it reads, and between two ticks of QUICK."""
    actions, scenario.actions = scenario.actions, []
    path = write(folder, scenario)
    with running_agent(path, folder / "data", *options, **settings) as agent:
        now_s, epoch_s = time.time(), scenario.epoch_us / 1e6
        began_s = now_s - now_s % TICK_S + TICK_S / 2 - epoch_s
        scenario.append(path, *(replace(it, at_s=it.at_s + began_s) for it in actions))
        yield agent


def run(folder: Path, scenario: nvml.Scenario, seconds: float, *options: str, **settings: str) -> agents.Spooled:
    with reading(folder, scenario, *QUICK, *options, **settings) as agent:
        time.sleep(seconds)
        assert agent.process.poll() is None, agent.words()
        assert agent.stop() == 0, agent.words()
    return spooled(folder / "data")


def energy_mj(found: agents.Spooled, uuid: str) -> int:
    return sum(row["energy_mj"] or 0 for row in found.gpu_windows if row["gpu_uuid"] == uuid)


def served_mj(journal: Path, gpu: int) -> int:
    """The difference of the counter values that the agent was given."""
    values = [read.mj for read in nvml.read_journal(journal) if read.gpu == gpu]
    return values[-1] - values[0]


def test_energy_is_the_counters_difference_to_the_millijoule(tmp_path: Path) -> None:
    powers = [
        nvml.Square(90_000, 680_000, 700),
        nvml.Sine(100_000, 600_000, 3_000),
        nvml.Idle(),
        nvml.Constant(50_000),
    ]
    gpus = [nvml.h100(uuid, power) for uuid, power in zip(UUIDS, powers, strict=False)]
    found = run(tmp_path, nvml.Scenario(gpus, journal=tmp_path / "journal"), 4)
    for index in range(4):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)
    assert {row["energy_method"] for row in found.gpu_windows} == {1}
    assert found.node_windows
    assert found.node_windows[1].ticks_expected == 5
    assert all(batch.seq is None for batch in found.batches)
    assert found.inventories[0].gpus[3].uuid == UUIDS[3]
    assert len(found.health) == 4


def test_once_prints_a_window_as_table_and_as_json(tmp_path: Path) -> None:
    path = write(tmp_path, nvml.Scenario(h100s(2), journal=tmp_path / "journal"))
    table = agents.collect(path, "--once", "--window-s", "1", "--tick-s", "0.2")
    assert table.returncode == 0, table.stderr
    lines = table.stdout.splitlines()
    assert lines[0].split()[:2] == ["GPU", "power"]
    assert "300.0" in lines[1]
    assert "310.0" in lines[2]
    (tmp_path / "journal").unlink()
    done = agents.collect(path, "--once", "--json", "--window-s", "1", "--tick-s", "0.2")
    answer = json.loads(done.stdout)
    assert answer["inventory"]["gpus"][1]["uuid"] == UUIDS[1]
    # It may lie in two windows of a second each.
    of_one = [it for it in answer["gpu_windows"] if it["gpu_uuid"] == UUIDS[0]]
    assert sum(it["energy_mj"] for it in of_one) == served_mj(tmp_path / "journal", 0)
    assert sum(it["covered_ms"] for it in of_one) >= 1_000


def test_what_opening_the_driver_takes_is_in_no_window(tmp_path: Path) -> None:
    path = write(tmp_path, nvml.Scenario(h100s(1), actions=[nvml.hang(0, 2)]))
    done = agents.collect(path, "--once", "--json", "--window-s", "1", "--tick-s", "0.2")
    windows = json.loads(done.stdout)["gpu_windows"]
    # Of two seconds in which nothing was read it would be a third of the 300 W.
    power_w = sum(it["energy_mj"] for it in windows) / sum(it["covered_ms"] for it in windows)
    assert power_w == pytest.approx(300, rel=0.25)


def test_a_node_without_any_gpu_is_reported_and_survived(tmp_path: Path) -> None:
    with running_agent(None, tmp_path / "data", *QUICK) as agent:
        time.sleep(3)
        assert agent.process.poll() is None, agent.words()
    found = spooled(tmp_path / "data")
    assert found.kinds() == ["agent_started", "no_driver"]
    assert found.inventories[-1].gpus == ()
    assert {window.gpus_read for window in found.node_windows} == {0}
    assert agents.collect(None, "--once", "--window-s", "1").stdout.endswith("No GPU was read.\n")


def test_what_a_gpu_does_not_support_is_absent_not_zero(tmp_path: Path) -> None:
    gpu = replace(
        h100s(1)[0],
        unsupported=(
            "nvmlDeviceGetUtilizationRates",
            "field:82",
            "nvmlDeviceGetFanSpeed",
            "field:138",
            "field:139",
        ),
    )
    found = run(tmp_path, nvml.Scenario([gpu]), 2.5)
    for row in found.gpu_windows:
        for name in (
            "gpu_util_pm",
            "mem_util_pm",
            "mem_temp_max_c",
            "fan_pct",
            "nvlink_tx_kib",
            "nvlink_rx_kib",
        ):
            assert row[name] is None
        assert row["gpu_temp_max_c"] is not None


def test_a_gpu_without_counter_is_integrated_and_marked(tmp_path: Path) -> None:
    found = run(tmp_path, nvml.Scenario([h100s(1)[0].without_energy_counter()]), 3)
    assert found.inventories[0].gpus[0].energy_counter is False
    covered_ms = sum(row["covered_ms"] for row in found.gpu_windows)
    assert energy_mj(found, UUIDS[0]) == pytest.approx(300_000 * covered_ms / 1000, rel=1e-3)
    assert {row["energy_method"] for row in found.gpu_windows} == {3}


def test_one_fields_error_costs_only_that_field(tmp_path: Path) -> None:
    gpu = replace(h100s(1)[0], error={"field:82": "UNKNOWN", "nvmlDeviceGetClockInfo": "UNKNOWN"})
    found = run(tmp_path, nvml.Scenario([gpu]), 2.5)
    assert {row["mem_temp_max_c"] for row in found.gpu_windows} == {None}
    assert {row["sm_clock_mhz"] for row in found.gpu_windows} == {None}
    assert all(row["energy_mj"] > 0 and row["gpu_temp_max_c"] > 0 for row in found.gpu_windows)


def test_a_gpu_that_falls_off_the_bus_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(3), journal=tmp_path / "journal")
    # The one is heard of, the other is found by a reading.
    scenario.actions = [nvml.xid(2.0, 1, 79), nvml.lost(3.0, 1)]
    found = run(tmp_path, scenario, 6)
    assert found.kinds() == ["agent_started", "xid", "gpu_lost"]
    assert (found.events[1].code, found.events[1].severity, found.events[1].gpu_uuid) == (
        79,
        "critical",
        UUIDS[1],
    )
    assert found.events[2].gpu_uuid == UUIDS[1]
    # It stays in the inventory: a lost GPU must be seen as missing, not vanish.
    assert [gpu.uuid for gpu in found.inventories[-1].gpus] == UUIDS[:3]
    assert found.node_windows[-1].gpus_read == 2
    assert found.node_windows[-1].gpus_expected == 3
    assert set(found.node_windows[-1].gpu_power_mw) == {None}
    for index in (0, 1, 2):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)


def test_a_gpu_that_comes_back_is_read_again_without_a_restart(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(2), journal=tmp_path / "journal")
    scenario.actions = [nvml.lost(2.0, 1), nvml.back(3.0, 1, keep_counter=True)]
    with reading(tmp_path, scenario, *QUICK) as agent:
        agents.wait_for("message of its return", lambda: "answers again" in agent.words(), 90)
        time.sleep(1.5)
    found = spooled(tmp_path / "data")
    assert found.kinds() == ["agent_started", "gpu_lost", "gpu_back", "readings_gap"]
    for index in (0, 1):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)
    gap = [row for row in found.gpu_windows if row["gpu_uuid"] == UUIDS[1] and row["ticks_taken"] == 0]
    assert gap
    assert {row["energy_method"] for row in gap} == {2}


def test_a_driver_reload_is_survived_and_begins_a_new_epoch(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(2))
    scenario.actions = [nvml.driver_reload(2.0, 2.0)]
    found = run(tmp_path, scenario, 9)
    kinds = found.kinds()
    assert kinds[:2] == ["agent_started", "driver_gone"]
    assert kinds.count("driver_reload") == 1
    assert kinds.count("counter_reset") == 2
    last_ms = max(row["start"] for row in found.gpu_windows)
    assert {row["energy_method"] for row in found.gpu_windows if row["start"] >= last_ms - 1_000} == {1}
    # 300 W all the time: no spike, no hole, whatever the counter did.
    for row in found.gpu_windows:
        # A busy machine may take a tick between looking at the clock and reading a counter.
        assert row["energy_mj"] * 1000 <= 1.1 * (300_000 + 10_000) * (row["covered_ms"] + TICK_S * 1000)


def test_a_mig_reconfiguration_is_told_and_energy_stays_the_physical_gpus(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(1), journal=tmp_path / "journal")
    scenario.actions = [nvml.mig(1.0, 0, ["3g.40gb", "4g.40gb"])]
    with reading(tmp_path, scenario, *QUICK, GIGAWATCH_AGENT__HEALTH_S="1") as agent:
        agents.wait_for("message of MIG", lambda: "MIG instances" in agent.words())
        time.sleep(1.5)
    found = spooled(tmp_path / "data")
    assert "mig_changed" in found.kinds()
    gpu = found.inventories[-1].gpus[0]
    assert gpu.mig_enabled is True
    assert len(gpu.mig_instances) == 2
    assert {row["gpu_uuid"] for row in found.gpu_windows} == {UUIDS[0]}
    assert energy_mj(found, UUIDS[0]) == served_mj(tmp_path / "journal", 0)
    assert found.gpu_windows[-1]["gpu_util_pm"] is None


@pytest.mark.parametrize(("code", "severity"), [(79, "critical"), (94, "warning"), (63, "info"), (109, "critical")])
def test_an_xid_is_in_the_spool_within_two_seconds(tmp_path: Path, code: int, severity: str) -> None:
    scenario = nvml.Scenario(h100s(2))
    scenario.actions = [nvml.xid(2.5, 1, code), nvml.xid(3.0, 1, code)]
    # The agent's own pace, 1 s and 10 s: events do not wait for a window.
    with reading(tmp_path, scenario, "--server-url", NO_SERVER) as agent:
        due = [it.at_s for it in scenario.actions]
        time.sleep(due[-1] + 2 - scenario.now_s())
        agent.kill()
    found = spooled(tmp_path / "data")
    xids = [event for event in found.events if event.kind == "xid"]
    assert [(event.code, event.severity, event.gpu_uuid) for event in xids] == [(code, severity, UUIDS[1])] * 2
    for event, due_s in zip(xids, due, strict=True):
        assert 0 <= event.time.timestamp() - scenario.epoch_us / 1e6 - due_s < 2


def test_a_hung_driver_is_told_while_it_hangs(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(2), journal=tmp_path / "journal")
    scenario.actions = [nvml.hang(2.0, 14.0)]
    with reading(tmp_path, scenario, *QUICK) as agent:
        agents.wait_for("end", lambda: "The NVIDIA driver answers again" in agent.words(), 60)
        time.sleep(1.5)
        assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    kinds = found.kinds()
    assert kinds.index("driver_hung") < kinds.index("driver_answers")
    assert "readings_gap" in kinds
    for index in (0, 1):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)


def test_slow_calls_cost_ticks_but_no_energy(tmp_path: Path) -> None:
    gpus = [replace(gpu, slow_ms={"nvmlDeviceGetUtilizationRates": 150}) for gpu in h100s(2)]
    found = run(tmp_path, nvml.Scenario(gpus, journal=tmp_path / "journal"), 4)
    for index in (0, 1):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)
    assert any(window.ticks_taken < window.ticks_expected for window in found.node_windows)


def test_a_killed_agent_goes_on_from_its_counters_and_says_how_much_it_missed(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(8), journal=tmp_path / "journal")
    path = write(tmp_path, scenario)
    with running_agent(path, tmp_path / "data", *QUICK) as agent:
        time.sleep(4)
        agent.kill()
        time.sleep(3)
        agent.start()
        time.sleep(3)
    found = spooled(tmp_path / "data")
    for index in range(8):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)
    starts = [(row["gpu_uuid"], row["start"]) for row in found.gpu_windows]
    assert len(starts) == len(set(starts))
    started = [event.message for event in found.events if event.kind == "agent_started"]
    assert "the last window it had handed out ended" in started[1]
    if "readings_gap" in found.kinds():  # told where the gap is longer than 5 s
        gap = next(event.message for event in found.events if event.kind == "readings_gap")
        assert gap.startswith("8 GPUs were not read for")


def test_the_doctor_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    gpus = [h100s(1)[0], h100s(2)[1].without_energy_counter()]
    path = write(tmp_path, nvml.Scenario(gpus))
    done = subprocess.run(
        [*GIGAWATCH, "doctor", "--json", "--data-dir", str(tmp_path), "--server-url", NO_SERVER],
        env=agents.environment(path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert findings["GPU 0"]["level"] == "good"
    assert "energy counter" in findings["GPU 1"]["text"]
    assert findings["server"]["level"] == "bad"
    assert "gigawatch serve" in findings["server"]["remedy"]


def test_slow_readings_are_what_the_driver_says_and_come_again_when_they_change(tmp_path: Path) -> None:
    scenario = nvml.Scenario([h100s(1)[0], nvml.t4(UUIDS[1], nvml.Constant(50_000))])
    scenario.processes = [
        nvml.Process(0, 4242, "/usr/bin/python3 train.py --token geheim", 70_000),
        nvml.Process(0, 99, "Xorg", 12, graphics=True),
    ]
    scenario.actions = [
        nvml.ecc(2.5, 0, corrected=7, uncorrected=2),
        nvml.remap(2.5, 0, corrected=1, uncorrected=3, pending=True, failure=True),
        nvml.retire(2.5, 1, address=0x1000),
        nvml.retire(2.5, 1, cause=1, address=0x2000, pending=True),
        # Drain and reset, as for a row remap that waits, is no hurry; a reset is, and a reboot more so.
        nvml.recovery(0.5, 0, 4), nvml.recovery(2.5, 0, 1), nvml.recovery(4.5, 0, 2), nvml.recovery(2.5, 1, 4),
    ]  # fmt: skip
    with reading(tmp_path, scenario, *QUICK, GIGAWATCH_AGENT__HEALTH_S="1"):
        time.sleep(7)
    found = spooled(tmp_path / "data")
    h100 = [item for item in found.health if item.gpu_uuid == UUIDS[0]]
    t4 = [item for item in found.health if item.gpu_uuid == UUIDS[1]]
    assert (len(h100), len(t4)) == (2, 2), "once at the start, once for the change, and not each second"
    assert (h100[0].ecc_volatile_corrected, h100[0].row_remap_failed) == (0, False)
    assert (h100[1].ecc_volatile_corrected, h100[1].ecc_volatile_uncorrected) == (7, 2)
    assert (h100[1].ecc_aggregate_corrected, h100[1].ecc_aggregate_uncorrected) == (7, 2)
    assert (h100[1].rows_remapped_corrected, h100[1].rows_remapped_uncorrected) == (1, 3)
    assert (h100[1].row_remap_pending, h100[1].row_remap_failed) == (True, True)
    assert h100[1].performance_state is not None
    assert h100[1].pcie_replays is not None
    # The program's name alone: arguments can hold secrets.
    assert [(it.pid, it.name, it.mem_used_mib) for it in h100[0].processes or ()] == [
        (99, "Xorg", 12),
        (4242, "python3", 70_000),
    ]
    assert (t4[0].pages_retired, t4[1].pages_retired, t4[1].page_retirement_pending) == (0, 2, True)
    assert t4[0].rows_remapped_corrected is None
    asked = [(it.gpu_uuid, it.severity, it.message) for it in found.events if it.kind == "gpu_recovery_action"]
    assert asked == [(UUIDS[0], "critical", f"The GPU asks for {it}") for it in ("a reset", "a reboot of the node")]


def test_a_superchips_gpu_is_told_apart_from_its_module(tmp_path: Path) -> None:
    found = run(tmp_path, nvml.Scenario([nvml.gh200(UUIDS[0], nvml.Constant(400_000))]), 2.5)
    assert found.inventories[0].gpus[0].power_scope == "gpu"
    # The module's 100 W of CPU are not the GPU's.
    assert {row["power_mean_mw"] for row in found.gpu_windows} == {400_000}
    assert {row["power_max_mw"] for row in found.gpu_windows} == {400_000}


def test_other_events_of_nvml_are_told(tmp_path: Path) -> None:
    scenario = nvml.Scenario(h100s(1))
    values = {"type": pynvml.nvmlEventTypeDoubleBitEccError, "data": 0}
    scenario.actions = [nvml.Action(2.0, "event", 0, values=values)]
    found = run(tmp_path, scenario, 4.5)
    assert [(it.kind, it.severity, it.gpu_uuid) for it in found.events][1:] == [
        ("ecc_double_bit", "critical", UUIDS[0])
    ]


def test_the_inventory_says_what_a_gpu_is(tmp_path: Path) -> None:
    found = run(tmp_path, nvml.Scenario([h100s(1)[0], nvml.rtx4090(UUIDS[1], nvml.Constant(300_000))]), 2,
                "--site", "paris", "--rack", "r12")  # fmt: skip
    inventory = found.inventories[0]
    h100, rtx = inventory.gpus
    assert (inventory.site, inventory.rack) == ("paris", "r12")
    assert inventory.driver_version
    assert inventory.cuda_version
    assert (h100.model, h100.index, h100.uuid) == ("NVIDIA H100 80GB HBM3", 0, UUIDS[0])
    assert all((h100.serial, h100.pci_bus_id, h100.vbios_version, h100.temp_slowdown_c, h100.mem_total_mib))
    assert (h100.power_limit_mw, h100.power_limit_min_mw, h100.power_limit_max_mw) == (700_000, 200_000, 700_000)
    assert rtx.serial is None
    rows = {row["gpu_uuid"]: row for row in found.gpu_windows}
    assert rows[UUIDS[0]]["fan_pct"] is None
    assert rows[UUIDS[1]]["fan_pct"] is not None
    assert rows[UUIDS[1]]["nvlink_tx_kib"] is None
    health = {item.gpu_uuid: item for item in found.health}
    assert health[UUIDS[1]].ecc_volatile_corrected is None


def test_a_full_disk_costs_nothing_once_there_is_room_again(tmp_path: Path) -> None:
    path = write(tmp_path, nvml.Scenario(h100s(2), journal=tmp_path / "journal"))
    with running_agent(path, tmp_path / "data", *QUICK) as agent:
        time.sleep(3)
        pid = agent.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # Its write-ahead log cannot grow any more; its own log, which is shorter, can.
        full = (tmp_path / "data" / "spool.sqlite-wal").stat().st_size
        assert full > 10 * agent.log.stat().st_size
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, hard))
        agents.wait_for("message of the disk", lambda: "takes nothing" in agent.words())
        time.sleep(3)
        assert agent.process.poll() is None, agent.words()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        time.sleep(2.5)
        assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    for index in (0, 1):
        assert energy_mj(found, UUIDS[index]) == served_mj(tmp_path / "journal", index)
    starts = [(row["gpu_uuid"], row["start"]) for row in found.gpu_windows]
    assert len(starts) == len(set(starts))
