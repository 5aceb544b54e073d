"""The stand-in NVML, seen through pynvml as the agent sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from . import standin as nvml

PRELUDE = """
import json, os, sys, threading, time
import pynvml as n

def code(function, *arguments):
    "The error code of a call, or its value."
    try:
        return function(*arguments)
    except n.NVMLError as error:
        return f"E{error.value}"

def fields(handle, *ids):
    "(return code, value type, value) of each field."
    names = {1: "uiVal", 3: "ullVal", 5: "siVal"}
    found = []
    for f in n.nvmlDeviceGetFieldValues(handle, list(ids)):
        good = f.nvmlReturn == 0
        value = getattr(f.value, names[f.valueType]) if good else None
        found.append([f.nvmlReturn, f.valueType if good else None, value])
    return found

def now():
    return time.time_ns() // 1000
"""

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def start(library: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    def begin(scenario: nvml.Scenario, code: str, init: bool = True) -> subprocess.Popen[str]:
        path = scenario.write(tmp_path / "scenario")
        program = PRELUDE + ("n.nvmlInit()\n" if init else "") + textwrap.dedent(code)
        variables = os.environ | nvml.environment(library, path)
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Run:
    """Run code after nvmlInit in a process of its own; what it prints last is its answer (JSON)."""

    def go(scenario: nvml.Scenario, code: str, init: bool = True) -> Any:
        process = start(scenario, code, init)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return json.loads(output.splitlines()[-1])

    return go


H100 = nvml.h100("GPU-11111111-0000-0000-0000-000000000001", nvml.Constant(350_000))
A100 = nvml.a100("GPU-22222222-0000-0000-0000-000000000002", nvml.Square(100_000, 400_000, 105))


def elapsed(seconds: float) -> float:
    """Return an epoch so that scenario time is now ``seconds``."""
    return time.time() - seconds


def test_a_board_says_what_it_is(run: Run) -> None:
    found = run(
        nvml.Scenario([H100, A100]),
        """
        h = n.nvmlDeviceGetHandleByIndex(1)
        same = [n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(h)),
                n.nvmlDeviceGetHandleByPciBusId("0000:11:00.0"),
                n.nvmlDeviceGetHandleBySerial(n.nvmlDeviceGetSerial(h))]
        pci = n.nvmlDeviceGetPciInfo(h)
        print(json.dumps({
            "versions": [n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetNVMLVersion(),
                         n.nvmlSystemGetCudaDriverVersion()],
            "count": n.nvmlDeviceGetCount(), "name": n.nvmlDeviceGetName(h),
            "uuid": n.nvmlDeviceGetUUID(h), "same": [n.nvmlDeviceGetIndex(x) for x in same],
            "bus": [pci.busId, pci.busIdLegacy, pci.bus, pci.pciDeviceId],
            "arch": n.nvmlDeviceGetArchitecture(h), "minor": n.nvmlDeviceGetMinorNumber(h),
            "cc": n.nvmlDeviceGetCudaComputeCapability(h),
            "vbios": n.nvmlDeviceGetVbiosVersion(h), "part": n.nvmlDeviceGetBoardPartNumber(h),
            "persistence": n.nvmlDeviceGetPersistenceMode(h),
            "link": [n.nvmlDeviceGetNvLinkState(h, 11), code(n.nvmlDeviceGetNvLinkState, h, 12)],
            "not there": [code(n.nvmlDeviceGetHandleByIndex, 2),
                          code(n.nvmlDeviceGetHandleByUUID, "GPU-x")],
            "old driver": code(n.nvmlDeviceGetTargetFanSpeed, h, 0),
            "text": [n.nvmlErrorString(15), n.nvmlErrorString(999)],
        }))""",
    )
    assert found == {
        "versions": ["580.95.05", "13.580.95.05", 13000],
        "count": 2,
        "name": "NVIDIA A100-SXM4-80GB",
        "uuid": A100.uuid,
        "same": [1, 1, 1],
        "bus": ["00000000:11:00.0", "0000:11:00.0", 0x11, 0x20B210DE],
        "arch": 7,
        "minor": 1,
        "cc": [8, 0],
        "vbios": "96.00.89.00.01",
        "part": "692-2G520-0200-000",
        "persistence": 1,
        "link": [1, "E2"],
        "not there": ["E2", "E6"],
        "old driver": "E13",
        "text": ["GPU is lost", "Unknown Error"],
    }


POWERS: list[nvml.Power] = [
    nvml.Constant(350_001),
    nvml.Idle(),
    nvml.Square(100_000, 700_000, 105),
    nvml.Square(99_999, 432_101, 730, 33, 100),
    nvml.Sine(70_000, 700_000, 86_400_000),
    nvml.Sine(123_457, 654_321, 777, 50),
    nvml.Ramp(50_001, 699_998, 30_001),
    nvml.Ramp(699_998, 50_001, 7_777),
    nvml.Steps(((100_000, 250), (633_333, 1), (333_333, 999))),
    nvml.Steps(((100_000, 250), (633_333, 1), (333_333, 999)), loop=True),
]


def test_energy_is_that_of_the_twin_to_the_millijoule(run: Run, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    boards = [
        replace(
            H100,
            uuid=f"GPU-{i}",
            power=power,
            counter_period_ms=(20, 0, 7)[i % 3],
            counter_start_mj=10**i,
            counter_scale_ppm=(1_000_000, 570_001)[i % 2],
        )
        for i, power in enumerate(POWERS)
    ]
    scenario = nvml.Scenario(
        boards,
        [
            nvml.power(11.5, 0, nvml.Square(1, 700_000, 37)),
            nvml.power(12.25, 0, nvml.Ramp(1, 700_001, 333)),
            nvml.reset(11.75, 1),
            nvml.spike(11.8, 2, 10**9, 0.3),
        ],
        epoch_s=elapsed(11),
        journal=journal,
    )
    run(
        scenario,
        """
        handles = [n.nvmlDeviceGetHandleByIndex(i) for i in range(n.nvmlDeviceGetCount())]
        end = time.time() + 2
        while time.time() < end:
            for h in handles:
                n.nvmlDeviceGetTotalEnergyConsumption(h)
                n.nvmlDeviceGetFieldValues(h, [83])
            time.sleep(0.01)
        print(0)""",
    )
    reads = nvml.read_journal(journal)
    assert len(reads) > 500
    assert {read.gpu for read in reads} == set(range(len(POWERS)))
    for read in reads:
        assert read.mj == scenario.energy_mj(read.gpu, read.unix_us - scenario.epoch_us)


def test_energy_is_the_integral_of_power() -> None:
    square = replace(A100, power=nvml.Square(100_000, 400_000, 1000), counter_start_mj=5)
    assert nvml.energy_mj(square, 10_000_000) == 5 + 10 * 250_000
    assert nvml.energy_mj(square, 10_510_000) == 5 + 10 * 250_000 + 200_000
    year_us = 365 * 86_400 * 1_000_000
    assert nvml.energy_mj(replace(H100, counter_start_mj=0), year_us) == 350_000 * 365 * 86_400
    day = replace(H100, power=nvml.Sine(100_000, 700_000, 86_400_000))
    assert nvml.energy_mj(day, 86_400_000_000) == pytest.approx(400_000 * 86_400, rel=1e-9)


def test_average_and_instant_power_differ(run: Run) -> None:
    scenario = nvml.Scenario([replace(H100, power=nvml.Square(100_000, 700_000, 4000)), A100], epoch_s=elapsed(60))
    reads = run(
        scenario,
        """
        hs = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
        found = []
        while len(found) < 150:
            for i, h in enumerate(hs):
                before = now()
                read = [f[2] for f in fields(h, 185, 186)] + [n.nvmlDeviceGetPowerUsage(h)]
                after = now()
                if before // 100_000 == after // 100_000:
                    found.append([i, before, after, read])
            time.sleep(0.02)
        print(json.dumps(found))""",
    )
    checked = 0
    for gpu, before, after, read in reads:
        moments = [t - scenario.epoch_us for t in (before, after)]
        average, other = (scenario.average_mw(gpu, t) for t in moments)
        if average != other:  # the sensor's reading changed in between
            continue
        instant = scenario.instant_mw(gpu, moments[0])
        assert read == [average, instant, instant if gpu else average]
        checked += 1
    assert checked > 100
    assert len({read[3][0] for read in reads if read[0] == 0}) > 5


def test_fields_carry_their_own_code_and_type(run: Run) -> None:
    board = replace(
        nvml.gh200("GPU-g", nvml.Constant(500_000)),
        unsupported=("field:186",),
        error={"field:142": "UNKNOWN", "field:188": 4},
    )
    found = run(
        nvml.Scenario([board], epoch_s=elapsed(100)),
        """
        h = n.nvmlDeviceGetHandleByIndex(0)
        print(json.dumps(fields(h, 83, (185, 0), (185, 1), (185, 2), (185, 3), (185, 9), 186, 142,
            187, 188, 189, 190, 192, (190, 1), 82, 1, 4, 143, (138, 17), (138, 18),
            (138, 0xffffffff), (139, 0), 197, 198, 74, 193, 191, 0, 999)))""",
    )
    energy, average, module, memory, base, bad_scope, instant, remapped = found[:8]
    assert energy[:2] == [0, 3]
    assert energy[2] == pytest.approx(50_000_000, rel=0.05)
    assert average == [0, 1, 500_000]
    assert module == [0, 1, 600_000]
    assert memory == [0, 1, 75_000]
    assert [f[0] for f in (base, bad_scope, instant, remapped)] == [3, 2, 3, 999]
    low, high, default, current, requested, current_module, heat, ecc, errors, rows = found[8:18]
    assert high[0] == 4
    assert [f[2] for f in (default, current, requested)] == [700_000] * 3
    assert low[2] == 257_142
    assert current_module[2] == 1_000_000
    assert heat[2] == pytest.approx(28 + 42 * 5 / 7 + 8, abs=1)
    assert [ecc, errors, rows] == [[0, 1, 1], [0, 3, 0], [0, 1, 0]]
    link, no_link, links, received, sent_bytes, got_bytes, held, limit, *unknown = found[18:]
    assert no_link[0] == 2
    assert links[2] == pytest.approx(18 * link[2], rel=0.01)
    assert received[2] < link[2]
    assert sent_bytes[2] > got_bytes[2] > 0
    assert held == [0, 3, 0]
    assert limit == [0, 5, -5]
    assert [f[0] for f in unknown] == [3, 2, 2]


def test_readings_follow_power(run: Run) -> None:
    scenario = nvml.Scenario(
        [replace(H100, power=nvml.Constant(700_000)), nvml.rtx4090("GPU-r"), nvml.t4("GPU-t")],
        [
            nvml.ecc(-2, 0, corrected=3, uncorrected=1),
            nvml.ecc(-2, 0, corrected=2, location="l2"),
            nvml.remap(-2, 0, 1, 2, pending=True),
            nvml.reasons(1, 0, 0x44, 10),
            nvml.reasons(50, 0, 0x4),
            nvml.retire(-2, 2, 1, 0x9000, pending=True),
            nvml.temperature(0, 1, 77),
        ],
        [
            nvml.Process(0, 4242, "python train.py", 1000),
            nvml.Process(0, 4243, "gone", 1000, end_s=1.0),
            nvml.Process(0, 4244, "Xorg", 10, graphics=True),
        ],
        epoch_s=elapsed(60),
    )
    found = run(
        scenario,
        """
        h, r, t = [n.nvmlDeviceGetHandleByIndex(i) for i in range(3)]
        u, v = n.nvmlDeviceGetUtilizationRates(h), n.nvmlDeviceGetUtilizationRates(r)
        m = n.nvmlDeviceGetMemoryInfo(h)
        m2 = n.nvmlDeviceGetMemoryInfo(h, n.nvmlMemory_v2)
        procs = n.nvmlDeviceGetComputeRunningProcesses(h)
        before = time.perf_counter()
        traffic = n.nvmlDeviceGetPcieThroughput(h, 0)
        took = time.perf_counter() - before
        print(json.dumps({
            "util": [u.gpu, u.memory, v.gpu],
            "temp": [n.nvmlDeviceGetTemperatureV(h, 0), n.nvmlDeviceGetTemperature(h, 0),
                     n.nvmlDeviceGetTemperatureThreshold(h, 1), n.nvmlDeviceGetMarginTemperature(h),
                     n.nvmlDeviceGetTemperatureV(r, 0)],
            "limits": [n.nvmlDeviceGetEnforcedPowerLimit(h), n.nvmlDeviceGetPowerManagementLimit(h),
                       n.nvmlDeviceGetPowerManagementDefaultLimit(h),
                       n.nvmlDeviceGetPowerManagementLimitConstraints(h)],
            "clocks": [n.nvmlDeviceGetClockInfo(h, 1), n.nvmlDeviceGetMaxClockInfo(h, 1),
                       n.nvmlDeviceGetClockInfo(h, 2)],
            "reasons": [n.nvmlDeviceGetCurrentClocksEventReasons(h),
                        n.nvmlDeviceGetCurrentClocksThrottleReasons(r)],
            "pstate": n.nvmlDeviceGetPerformanceState(h),
            "fans": [n.nvmlDeviceGetNumFans(h), code(n.nvmlDeviceGetFanSpeed, h),
                     n.nvmlDeviceGetFanSpeed(r)],
            "ecc": [n.nvmlDeviceGetEccMode(h), n.nvmlDeviceGetTotalEccErrors(h, 0, 1),
                    n.nvmlDeviceGetTotalEccErrors(h, 1, 1),
                    n.nvmlDeviceGetMemoryErrorCounter(h, 0, 1, 1),
                    fields(h, 5, 6, 20, 22), code(n.nvmlDeviceGetEccMode, r)],
            "rows": [n.nvmlDeviceGetRemappedRows(h), code(n.nvmlDeviceGetRemappedRows, t)],
            "pages": [n.nvmlDeviceGetRetiredPages(t, 1), n.nvmlDeviceGetRetiredPages(t, 0),
                      n.nvmlDeviceGetRetiredPagesPendingStatus(t),
                      n.nvmlDeviceGetRetiredPages_v2(t, 1)[0]["address"],
                      code(n.nvmlDeviceGetRetiredPages, h, 0)],
            "memory": [m.total, m.used, m2.used, m2.reserved, m.total - m.free - m.used],
            "procs": [[p.pid, p.usedGpuMemory, p.gpuInstanceId] for p in procs],
            "graphics": [p.pid for p in n.nvmlDeviceGetGraphicsRunningProcesses(h)],
            "none": n.nvmlDeviceGetComputeRunningProcesses(r),
            "names": [n.nvmlSystemGetProcessName(4242), code(n.nvmlSystemGetProcessName, 1)],
            "violation": [n.nvmlDeviceGetViolationStatus(h, 1).violationTime, fields(h, 75, 270)],
            "pcie": [traffic, took, n.nvmlDeviceGetPcieReplayCounter(h)],
        }))""",
    )
    assert found["util"] == [100, 60, 0]
    assert found["temp"] == [70, 70, 89, 17, 77]
    assert found["limits"] == [700_000, 700_000, 700_000, [200_000, 700_000]]
    assert found["clocks"] == [1485, 1980, 2619]
    assert found["reasons"] == [4, 1]
    assert found["pstate"] == 0
    assert found["fans"] == [0, "E3", 84]
    total, l2 = [0, 3, 5], [0, 3, 2]
    assert found["ecc"] == [[1, 1], 5, 1, 2, [total, [0, 3, 1], l2, [0, 3, 3]], "E3"]
    assert found["rows"] == [[1, 2, 1, 0], "E3"]
    assert found["pages"] == [[0x9000], [], 1, 0x9000, "E3"]
    mib = 1 << 20
    assert found["memory"] == [81_559 * mib, 1610 * mib, 1010 * mib, 600 * mib, 0]
    assert found["procs"] == [[4242, 1000 * mib, 0xFFFFFFFF]]
    assert found["graphics"] == [4244]
    assert found["none"] == []
    assert found["names"] == ["python train.py", "E6"]
    thermal = 10_000_000_000
    assert found["violation"] == [thermal, [[0, 3, thermal], [0, 3, thermal]]]
    assert found["pcie"][0] == 1_000_000
    assert 0.02 <= found["pcie"][1] < 0.5


def test_calls_are_unsupported_wrong_or_slow_as_told(run: Run) -> None:
    board = replace(
        H100.without_energy_counter(),
        error={"nvmlDeviceGetPowerUsage": "UNKNOWN"},
        slow_ms={"nvmlDeviceGetComputeRunningProcesses": 80, "field:82": 60},
    )
    scenario = nvml.Scenario(
        [board, A100],
        [
            nvml.error(0, "nvmlDeviceGetUtilizationRates", "TIMEOUT", gpu=0, for_s=3600),
            nvml.error(0, "field:185", 21, gpu=0),
            nvml.error(1, "nvmlDeviceGetTemperature", 4, gpu=0, for_s=1),
            nvml.slow(0, "nvmlDeviceGetClockInfo", 50),
        ],
        epoch_s=elapsed(60),
    )
    found = run(
        scenario,
        """
        h, a = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
        def took(function, *arguments):
            before = time.perf_counter()
            function(*arguments)
            return time.perf_counter() - before
        print(json.dumps([[code(n.nvmlDeviceGetTotalEnergyConsumption, h),
            code(n.nvmlDeviceGetPowerUsage, h), code(n.nvmlDeviceGetUtilizationRates, h)]
            + [f[0] for f in fields(h, 83, 185)] + [f[0] for f in fields(a, 83, 185)],
            code(n.nvmlDeviceGetTemperature, h, 0) == n.nvmlDeviceGetTemperatureV(h, 0),
            took(n.nvmlDeviceGetComputeRunningProcesses, h), took(fields, h, 82),
            took(n.nvmlDeviceGetClockInfo, a, 0), took(n.nvmlDeviceGetName, h)]))""",
    )
    assert found[0] == ["E3", "E999", "E10", 3, 21, 0, 0]
    assert found[1] is True
    assert [found[2] >= 0.08, found[3] >= 0.06, found[4] >= 0.05, found[5] < 0.04] == [True] * 4


def test_a_gpu_gets_lost_and_comes_back_for_new_sessions(run: Run) -> None:
    scenario = nvml.Scenario(
        [H100, replace(A100, counter_start_mj=10**9)],
        [nvml.lost(1, 1), nvml.xid(1, 1, 79), nvml.back(1.8, 1)],
        epoch_s=time.time() + 1,
    )
    found = run(
        scenario,
        f"""
        def until(t):
            time.sleep(max(0, {scenario.epoch_s} + t - time.time()))
        ok, h = n.nvmlDeviceGetHandleByIndex(0), n.nvmlDeviceGetHandleByIndex(1)
        events = n.nvmlEventSetCreate()
        n.nvmlDeviceRegisterEvents(h, n.nvmlEventTypeXidCriticalError, events)
        found = [n.nvmlDeviceGetTotalEnergyConsumption(h) >= 10**9]
        event = n.nvmlEventSetWait_v2(events, 5000)
        found += [event.eventType, event.eventData, n.nvmlDeviceGetPowerUsage(ok)]
        until(1.05)
        found += [code(n.nvmlEventSetWait_v2, events, 100), code(n.nvmlDeviceGetPowerUsage, h),
            code(n.nvmlDeviceGetFieldValues, h, [83]), code(n.nvmlDeviceGetHandleByIndex, 1),
            code(n.nvmlDeviceRegisterEvents, h, 8, events), n.nvmlDeviceGetCount()]
        until(1.9)
        found += [code(n.nvmlDeviceGetUUID, h), n.nvmlDeviceGetIndex(ok)]
        n.nvmlShutdown(); n.nvmlInit()
        h = n.nvmlDeviceGetHandleByIndex(1)
        found += [n.nvmlDeviceGetUUID(h), n.nvmlDeviceGetTotalEnergyConsumption(h) < 10**6]
        print(json.dumps(found))""",
    )
    lost = "E15"
    assert found == [
        *(True, 8, 79, 350_000, lost, lost, lost, lost, lost, 2, lost, 0, A100.uuid, True),
    ]


def test_a_driver_reload_ends_sessions_and_counters(run: Run) -> None:
    scenario = nvml.Scenario(
        [replace(H100, counter_start_mj=10**9)],
        [nvml.driver_reload(1, 0.6)],
        epoch_s=time.time() + 1,
    )
    found = run(
        scenario,
        f"""
        def until(t):
            time.sleep(max(0, {scenario.epoch_s} + t - time.time()))
        h = n.nvmlDeviceGetHandleByIndex(0)
        found = [n.nvmlDeviceGetTotalEnergyConsumption(h) >= 10**9]
        until(1.1)
        found += [code(n.nvmlDeviceGetPowerUsage, h), code(n.nvmlDeviceGetCount), code(n.nvmlInit)]
        n.nvmlShutdown()
        found += [code(n.nvmlInit), code(n.nvmlDeviceGetCount)]
        until(1.7)
        n.nvmlInit()
        mj = n.nvmlDeviceGetTotalEnergyConsumption(n.nvmlDeviceGetHandleByIndex(0))
        found += [mj < 10**6]
        print(json.dumps(found))""",
    )
    assert found == [True, "E9", "E9", "E9", "E9", "E1", True]


def test_a_session_from_before_a_reload_stays_dead(run: Run) -> None:
    scenario = nvml.Scenario([H100], [nvml.driver_reload(0.2, 0.1)], epoch_s=time.time() + 1)
    found = run(
        scenario,
        f"""
        h = n.nvmlDeviceGetHandleByIndex(0)
        time.sleep(max(0, {scenario.epoch_s} + 0.4 - time.time()))
        found = [code(n.nvmlDeviceGetPowerUsage, h), code(n.nvmlDeviceGetCount)]
        n.nvmlShutdown(); n.nvmlInit()
        print(json.dumps(found + [n.nvmlDeviceGetPowerUsage(n.nvmlDeviceGetHandleByIndex(0))]))""",
    )
    assert found == ["E1", "E1", 350_000]


def test_mig_devices_come_and_go(run: Run) -> None:
    layout = ["1g.10gb", "3g.40gb"]
    scenario = nvml.Scenario(
        [H100, nvml.l4("GPU-l")],
        [nvml.mig(0, 0, layout), nvml.mig(62, 0, None)],
        [nvml.Process(0, 7, "a", 100, instance=1), nvml.Process(0, 8, "b", 200, instance=2)],
        epoch_s=elapsed(60),
    )
    found = run(
        scenario,
        f"""
        h, l = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
        found = [n.nvmlDeviceGetMigMode(h), n.nvmlDeviceGetMaxMigDeviceCount(h),
                 code(n.nvmlDeviceGetMigMode, l), code(n.nvmlDeviceGetUtilizationRates, h),
                 n.nvmlDeviceGetPowerUsage(h), code(n.nvmlDeviceGetMigDeviceHandleByIndex, h, 2)]
        for i in range(2):
            m = n.nvmlDeviceGetMigDeviceHandleByIndex(h, i)
            a = n.nvmlDeviceGetAttributes(m)
            p = n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m)
            found.append([n.nvmlDeviceGetUUID(m), n.nvmlDeviceGetName(m),
                n.nvmlDeviceGetGpuInstanceId(m), n.nvmlDeviceGetComputeInstanceId(m),
                a.gpuInstanceSliceCount, a.memorySizeMB, n.nvmlDeviceGetIndex(p),
                [x.pid for x in n.nvmlDeviceGetComputeRunningProcesses(m)],
                code(n.nvmlDeviceGetTotalEnergyConsumption, m)])
        again = n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(m))
        found.append([n.nvmlDeviceGetGpuInstanceId(again)])
        found.append([[x.pid, x.gpuInstanceId] for x in n.nvmlDeviceGetComputeRunningProcesses(h)])
        time.sleep(max(0, {scenario.epoch_s} + 62.1 - time.time()))
        found += [n.nvmlDeviceGetMigMode(h), code(n.nvmlDeviceGetUUID, m),
                  n.nvmlDeviceGetUtilizationRates(h).gpu]
        print(json.dumps(found))""",
    )
    name, names = H100.model, [nvml.mig_uuid(H100.uuid, p, i) for i, p in enumerate(layout)]
    assert found == [
        *([1, 1], 7, "E3", "E3", 350_000, "E6"),
        [names[0], f"{name} MIG 1g.10gb", 1, 0, 1, 10_240, 0, [7], "E3"],
        [names[1], f"{name} MIG 3g.40gb", 2, 0, 3, 40_960, 0, [8], "E3"],
        *([2], [[7, 1], [8, 2]], [0, 0], "E2", 44),
    ]


def test_events_wait_without_the_lock(run: Run) -> None:
    scenario = nvml.Scenario(
        [H100, A100],
        [
            nvml.xid(-60, 0, 13),  # before anyone asked
            nvml.xid(1, 0, 48),
            nvml.xid(1, 0, 63),
            nvml.xid(1, 1, 94, instance=3),
            nvml.ecc(1.2, 0, uncorrected=1),
        ],
        epoch_s=time.time() + 1,
    )
    found = run(
        scenario,
        f"""
        hs = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
        events = n.nvmlEventSetCreate()
        kinds = n.nvmlEventTypeXidCriticalError | n.nvmlEventTypeDoubleBitEccError
        for h in hs:
            n.nvmlDeviceRegisterEvents(h, kinds, events)
        found = [n.nvmlDeviceGetSupportedEventTypes(hs[0]) & 8,
                 code(n.nvmlDeviceRegisterEvents, hs[0], n.nvmlEventTypeClock, events)]
        before = time.perf_counter()
        found += [code(n.nvmlEventSetWait_v2, events, 150)]
        found += [0.14 < time.perf_counter() - before < 0.6]
        calls, slowest, stop = 0, 0.0, False
        def work():
            global calls, slowest
            while not stop:
                before = time.perf_counter()
                n.nvmlDeviceGetPowerUsage(hs[0])
                slowest = max(slowest, time.perf_counter() - before)
                calls += 1
                time.sleep(0.001)
        worker = threading.Thread(target=work)
        worker.start()
        for i in range(4):
            event = n.nvmlEventSetWait_v2(events, 5000)
            if i == 0:
                late = time.time() - {scenario.epoch_s} - 1
            found.append([n.nvmlDeviceGetIndex(event.device), event.eventType, event.eventData,
                          event.gpuInstanceId])
        stop = True
        worker.join()
        found += [0 <= late < 0.3, calls > 20, slowest < 0.4,
                  code(n.nvmlEventSetWait_v2, events, 0)]
        n.nvmlEventSetFree(events)
        found += [code(n.nvmlEventSetWait_v2, events, 0)]
        print(json.dumps(found))""",
    )
    nowhere = 0xFFFFFFFF
    assert found[:4] == [8, "E3", "E10", True]
    assert found[4:8] == [
        [0, 8, 48, nowhere],
        [0, 8, 63, nowhere],
        [1, 8, 94, 3],
        [0, 2, 0, nowhere],
    ]
    assert found[8:] == [True, True, True, "E10", "E2"]


def test_a_hung_driver_blocks_every_call(run: Run) -> None:
    scenario = nvml.Scenario([H100], [nvml.hang(1, 0.7)], epoch_s=time.time() + 1)
    found = run(
        scenario,
        f"""
        h = n.nvmlDeviceGetHandleByIndex(0)
        time.sleep(max(0, {scenario.epoch_s} + 1.05 - time.time()))
        ends = []
        def call(function, *arguments):
            function(*arguments)
            ends.append(time.time() - {scenario.epoch_s})
        threads = [threading.Thread(target=call, args=a) for a in
                   ((n.nvmlDeviceGetPowerUsage, h), (n.nvmlDeviceGetCount,))]
        for t in threads: t.start()
        for t in threads: t.join()
        print(json.dumps(ends))""",
    )
    assert all(1.69 < end < 4 for end in found)


def test_a_scenario_changes_while_it_runs(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    scenario = nvml.Scenario([H100, A100])
    process = start(
        scenario,
        """
        h = n.nvmlDeviceGetHandleByIndex(1)
        events = n.nvmlEventSetCreate()
        n.nvmlDeviceRegisterEvents(h, 8, events)
        print("ready", flush=True)
        event = n.nvmlEventSetWait_v2(events, 10000)
        print(event.eventData, flush=True)
        end = time.time() + 10
        while code(n.nvmlDeviceGetPowerUsage, h) != "E15" and time.time() < end:
            time.sleep(0.01)
        print(code(n.nvmlDeviceGetPowerUsage, h), n.nvmlDeviceGetIndex(
            n.nvmlDeviceGetHandleByIndex(0)))""",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    path = tmp_path / "scenario"
    scenario.append(path, nvml.xid(scenario.now_s(), 1, 74))
    assert process.stdout.readline() == "74\n"
    with path.open("a") as file:
        file.write("nonsense\n")  # reported, and the scenario stays in force
    time.sleep(0.2)
    scenario.actions.append(nvml.lost(scenario.now_s(), 1))
    scenario.write(path)
    output, errors = process.communicate(timeout=30)
    assert output == "E15 0\n"
    assert errors.count("unknown line 'nonsense'") == 1


def test_processes_see_one_counter(run: Run) -> None:
    scenario = nvml.Scenario([H100], epoch_s=elapsed(1000))
    code = "print(n.nvmlDeviceGetTotalEnergyConsumption(n.nvmlDeviceGetHandleByIndex(0)))"
    first, begun = run(scenario, code), time.time()
    second, ended = run(scenario, code), time.time()
    assert first >= 350_000 * 1000
    assert 0 < second - first <= 350_000 * (ended - begun + 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gpu 0 powr=constant:1", "unknown word 'powr'"),
        ("gpu 0 power=constant", "'constant' is not a power function"),
        ("gpu 0 power=square:1:2:0", "has no duration"),
        ("gpu 0 power=steps:1@5,2@-5", "a step of -5 ms"),
        ("gpu 0 power=square:1:2:10:101", "a duty of 101 %"),
        ("gpu 0 unsupported=nvmlDeviceGetNothing", "no such call or field"),
        ('gpu 0 model="x', "quote of 'model' is not closed"),
        ("gpu 1", "GPU 1 is described, but not GPU 0"),
        ("gpu 0\nat 1 lost gpu=1", "an action names GPU 1"),
        ("gpu 0\nat 1 explode", "unknown action 'explode'"),
        ("at soon lost gpu=0", "'soon' is not a time"),
        ("gpu 0\nat 1 xid gpu=0", "code= is missing"),
        ("gpu 0\nat 1 error call=nvmlInitWithFlags code=0x1G", "is not a whole number"),
    ],
)
def test_a_wrong_scenario_fails_init_and_names_the_line(library: Path, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "wrong"
    path.write_text(f"# a scenario\n{line}\n")
    result = subprocess.run(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit()"],
        env=os.environ | nvml.environment(library, path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NVMLError_Unknown" in result.stderr
    assert message in result.stderr
    if "GPU 1" not in message:
        assert f"{path}:{2 + line.count(chr(10))}:" in result.stderr


def test_init_fails_as_the_scenario_says(run: Run) -> None:
    scenario = nvml.Scenario([H100], system_error={"nvmlInitWithFlags": "DRIVER_NOT_LOADED"})
    assert run(scenario, "print(json.dumps(code(n.nvmlInit)))", init=False) == "E9"


def test_a_thousand_sessions_leak_nothing(run: Run) -> None:
    scenario = nvml.Scenario([replace(H100, power=nvml.Sine(1, 2, 1000))], [nvml.power(1, 0, nvml.Sine(1, 2, 1000))])
    found = run(
        scenario,
        """
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4
        n.nvmlShutdown()
        for i in range(1000):
            n.nvmlInit()
            n.nvmlEventSetCreate()
            n.nvmlDeviceGetPowerUsage(n.nvmlDeviceGetHandleByIndex(0))
            n.nvmlShutdown()
            if i == 99:
                before = resident()
        print(json.dumps([resident() - before, len(os.listdir("/proc/self/fd"))]))""",
    )
    assert found[0] < 1024  # KiB; one lost scenario a session would be 60 MiB
    assert found[1] < 10


def test_threads_may_call_at_once(run: Run) -> None:
    found = run(
        nvml.Scenario([H100, A100]),
        """
        hs = [n.nvmlDeviceGetHandleByIndex(i) for i in range(2)]
        wrong = []
        def work(h, uuid):
            last = 0
            for i in range(500):
                mj = n.nvmlDeviceGetTotalEnergyConsumption(h)
                if mj < last or n.nvmlDeviceGetUUID(h) != uuid:
                    wrong.append(mj)
                last = mj
        threads = [threading.Thread(target=work, args=(h, n.nvmlDeviceGetUUID(h)))
                   for h in hs for _ in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(json.dumps(wrong))""",
    )
    assert found == []


def test_calls_are_cheap(run: Run) -> None:
    microseconds = run(
        nvml.Scenario([H100], epoch_s=elapsed(100)),
        """
        h = n.nvmlDeviceGetHandleByIndex(0)
        fn = n._nvmlGetFunctionPointer("nvmlDeviceGetPowerUsage")
        value = n.c_uint()
        best = 1e9
        for _ in range(20):
            before = time.perf_counter()
            for _ in range(200):
                fn(h, n.byref(value))
            best = min(best, (time.perf_counter() - before) / 200 * 1e6)
        print(best)""",
    )
    assert microseconds < 20
