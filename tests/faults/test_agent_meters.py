"""The agent with meters: windows hold what the registers counted, to the millijoule, whatever hangs, restarts, wraps,
is replaced or garbled, and nothing of it touches another meter. Meters are processes that speak Modbus TCP; what the
agent measured is read from its spool."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gigawatch.records import EnergyMethod, MeterWindow
from tests import agents
from tests.agents import Spooled, running_agent, spooled
from tests.modbus_meter import MJ_PER_MWH, ModbusMeters
from tests.nvml import standin as nvml
from tests.processes import GIGAWATCH

NO_SERVER = "http://127.0.0.1:9"  # the discard port: nothing answers
QUICK = ("--server-url", NO_SERVER, "--tick-s", "0.2", "--window-s", "1")
RANGE_MJ = 2**32 * MJ_PER_MWH
Start = Callable[..., ModbusMeters]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[ModbusMeters] = []

    def start(name: str, **watts: float) -> ModbusMeters:
        started.append(ModbusMeters(tmp_path / name))
        for unit, power in watts.items():
            started[-1].set(int(unit[1:]), watts=power, first_mwh=10**9)
        return started[-1].start()

    yield start
    for meters in started:
        meters.kill()


def table(meters: ModbusMeters, unit: int, name: str, **more: Any) -> str:
    fields = {
        "name": name, "driver": "modbus", "address": meters.address, "map": str(meters.map), "rated_kw": 200.0,
        "interval_s": 1.0, "timeout_s": 0.5, **more,
    }  # fmt: skip
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
    return f"[[meters]]\n{lines}index = {{unit = {unit}}}\n"


def configured(folder: Path, *tables: str) -> dict[str, str]:
    (folder / "gigawatch.toml").write_text("".join(tables), encoding="utf-8")
    return {"GIGAWATCH_CONFIG": str(folder / "gigawatch.toml")}


def of(found: Spooled, name: str) -> list[MeterWindow]:
    return sorted((it for it in found.meter_windows if it.meter == name), key=lambda it: it.start)


def total_mj(windows: list[MeterWindow]) -> int:
    return sum(it.energy_mj or 0 for it in windows)


def check(found: Spooled, meters: ModbusMeters, unit: int, name: str) -> None:
    """Windows hold what the register counted between the first answer and the last, of one meter."""
    windows = of(found, name)
    assert total_mj(windows) in meters.counted_mj(unit)
    assert {it.energy_method for it in windows} <= {EnergyMethod.COUNTER, EnergyMethod.INTERPOLATED}
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.start.timestamp() * 1000 + before.covered_ms <= after.start.timestamp() * 1000 + 0.5


def kinds(found: Spooled) -> list[str]:
    return [it.kind for it in found.events if it.kind.startswith(("meter", "readings"))]


def finish(agent: agents.Agent, *gateways: ModbusMeters) -> None:
    """End between two readings, so that the agent took in all that the meters told."""
    time.sleep(1 - time.time() % 1 + 0.6)
    for meters in gateways:
        meters.signal(signal.SIGSTOP)
    assert agent.stop() == 0, agent.words()


def test_a_gateway_without_a_gpu_reads_its_meters_and_one_that_hangs_delays_no_other(
    tmp_path: Path, start: Start
) -> None:
    good, bad = start("good", _1=90_000.0, _2=70_000.0), start("bad", _1=50_000.0)
    bad.signal(signal.SIGSTOP)
    tables = (table(good, 1, "a"), table(good, 2, "b"), table(bad, 1, "hung"))
    with running_agent(None, tmp_path / "data", *QUICK, **configured(tmp_path, *tables)) as agent:
        time.sleep(9)
        bad.signal(signal.SIGCONT)
        time.sleep(3)
        finish(agent, good, bad)
    found = spooled(tmp_path / "data")
    check(found, good, 1, "a")
    check(found, good, 2, "b")
    # What it answers at last to questions of long ago, nobody hears.
    told = [mj for _, mj in bad.told_mj(1)]
    assert total_mj(of(found, "hung")) in {told[-1] - it for it in told[:-1]}
    for name in ("a", "b"):
        # A busy machine may cost some, and waiting for the other would cost half of them.
        assert sum(it.readings_taken for it in of(found, name)) >= 0.75 * sum(
            it.readings_expected for it in of(found, name)
        )
        assert {it.energy_method for it in of(found, name)} == {EnergyMethod.COUNTER}
    assert kinds(found) == ["meter_silent", "meter_answers"]
    silent = next(it.message for it in found.events if it.kind == "meter_silent")
    assert silent.startswith(f"Meter hung at {bad.address}: not read for 5 s: ")
    # No driver, no flood: it is told once that there is none.
    assert found.kinds().count("no_driver") == 1


def test_a_meter_that_is_silent_for_a_while_has_its_energy_spread_over_the_gap(tmp_path: Path, start: Start) -> None:
    meters, other = start("meters", _1=90_000.0), start("other", _7=1_000.0)
    tables = (table(meters, 1, "main"), table(other, 7, "other"))
    with running_agent(None, tmp_path / "data", *QUICK, **configured(tmp_path, *tables)) as agent:
        time.sleep(3)
        meters.kill()
        time.sleep(8)
        meters.start()
        time.sleep(3)
        finish(agent, meters, other)
    found = spooled(tmp_path / "data")
    check(found, meters, 1, "main")
    check(found, other, 7, "other")
    assert kinds(found) == ["meter_silent", "meter_answers", "readings_gap"]
    gap = [it for it in of(found, "main") if it.energy_method is EnergyMethod.INTERPOLATED]
    assert sum(it.covered_ms for it in gap) >= 8_000
    assert sum(it.energy_mj or 0 for it in gap) / sum(it.covered_ms for it in gap) == pytest.approx(90_000, rel=0.1)


def test_a_killed_agents_gap_is_known_from_the_register(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _1=90_000.0)
    with running_agent(None, tmp_path / "data", *QUICK, **configured(tmp_path, table(meters, 1, "main"))) as agent:
        time.sleep(4)
        agent.kill()
        time.sleep(7)
        agent.start()
        time.sleep(4)
        finish(agent, meters)
    found = spooled(tmp_path / "data")
    windows = of(found, "main")
    # What was told while the agent was killed may not be in its checkpoint, and is in the gap.
    assert total_mj(windows) in meters.counted_mj(1)
    assert "readings_gap" in kinds(found)
    for before, after in zip(windows, windows[1:], strict=False):
        assert before.start.timestamp() * 1000 + before.covered_ms <= after.start.timestamp() * 1000 + 0.5


def test_a_register_that_wraps_and_one_that_is_replaced(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _2=60_000.0)
    # It wraps in 12 s.
    meters.set(1, watts=90_000.0, first_mwh=2**32 - 300_000, serial=7)
    wraps_s = time.monotonic() + 12
    tables = (table(meters, 1, "wraps"), table(meters, 2, "replaced"))
    with running_agent(None, tmp_path / "data", *QUICK, **configured(tmp_path, *tables)) as agent:
        time.sleep(max(3.0, wraps_s + 2 - time.monotonic()))
        meters.set(2, serial=2, first_mwh=5, began_s=time.time())
        time.sleep(3)
        finish(agent, meters)
    found = spooled(tmp_path / "data")
    check(found, meters, 1, "wraps")
    assert sorted(kinds(found)) == ["meter_replaced", "meter_wrapped"]
    told = meters.told_mj(2)
    counted = sum(
        of_it[-1] - of_it[0] for of_it in ([mj for serial, mj in told if serial == which] for which in (1, 2))
    )
    windows = of(found, "replaced")
    estimated_mj = total_mj(windows) - counted
    # A second's power, between the last answer of the one and the first of the other; of a busy machine some more.
    assert 0 < estimated_mj < 180_000_000
    assert total_mj(windows) == pytest.approx(60_000 * sum(it.covered_ms for it in windows), rel=0.05)
    assert EnergyMethod.ESTIMATED in {it.energy_method for it in windows}


def test_garbage_is_told_and_costs_nothing(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _1=90_000.0, _2=60_000.0)
    tables = (table(meters, 1, "garbled"), table(meters, 2, "other"))
    with running_agent(None, tmp_path / "data", *QUICK, **configured(tmp_path, *tables)) as agent:
        time.sleep(3)
        meters.set(1, fault="garbage")
        time.sleep(7)
        meters.set(1, fault="")
        time.sleep(3)
        finish(agent, meters)
    found = spooled(tmp_path / "data")
    check(found, meters, 1, "garbled")
    check(found, meters, 2, "other")
    assert {it.energy_method for it in of(found, "other")} == {EnergyMethod.COUNTER}
    assert kinds(found)[0] == "meter_silent"
    assert "meter_answers" in kinds(found)


def test_what_settings_do_not_allow_is_refused_and_counted(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _1=90_000.0)
    settings = configured(tmp_path, table(meters, 1, "main", rated_kw=50.0))
    with running_agent(None, tmp_path / "data", *QUICK, **settings) as agent:
        time.sleep(5)
        finish(agent, meters)
    found = spooled(tmp_path / "data")
    assert kinds(found) == ["meter_refused"]
    assert "more than 1.2 times rated_kw, 50" in next(it.message for it in found.events if it.kind == "meter_refused")


def test_beside_gpus_a_hung_meter_costs_no_tick(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _1=90_000.0)
    meters.set(2, watts=1.0, fault="silent")
    gpu = nvml.h100("GPU-00000000-1111-2222-3333-444444444444", nvml.Constant(300_000))
    made = nvml.Scenario([gpu], journal=tmp_path / "journal", epoch_s=time.time())
    path = made.write(tmp_path / "scenario")
    tables = (table(meters, 1, "main"), table(meters, 2, "hung"))
    with running_agent(path, tmp_path / "data", *QUICK, **configured(tmp_path, *tables)) as agent:
        time.sleep(12)
        finish(agent, meters)
    found = spooled(tmp_path / "data")
    check(found, meters, 1, "main")
    whole = found.node_windows[1:-1]
    assert sum(it.ticks_taken for it in whole) >= 0.75 * sum(it.ticks_expected for it in whole)
    # After three failures it is asked once a minute, so that its neighbour is read each second again.
    last = of(found, "main")[-4:]
    assert {it.energy_method for it in last} == {EnergyMethod.COUNTER}
    assert sum(it.readings_taken for it in last) >= 3
    assert [it.kind for it in found.events if it.kind.startswith("meter")] == ["meter_silent"]


def test_two_meters_of_one_name_and_a_map_that_is_not_there_are_refused(tmp_path: Path) -> None:
    text = '[[meters]]\nname = "a"\ndriver = "modbus"\naddress = "127.0.0.1:9"\nmap = "schneider-pm5000"\n'
    for tables, problem in (
        ((text, text), "[[meters]] name 'a' 2 times"),
        ((text.replace("schneider-pm5000", "schneider-pm500"),), "Did you mean 'schneider-pm5000'?"),
        ((text.replace('"modbus"', '"snmp"'),), "its map schneider-pm5000 is of modbus"),
    ):
        done = subprocess.run(
            [*GIGAWATCH, "collect", "--data-dir", str(tmp_path / "data"), "--server-url", NO_SERVER],
            env=agents.environment(None, **configured(tmp_path, *tables)),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert (done.returncode, problem in done.stderr) == (3, True), done.stderr


def test_the_doctor_and_the_probe_look_at_meters(tmp_path: Path, start: Start) -> None:
    meters = start("meters", _1=90_000.0, _2=60_000.0)
    dead = start("dead", _1=1.0)
    dead.kill()
    tables = (
        table(meters, 1, "main"), table(meters, 2, "refused", rated_kw=10.0), table(dead, 1, "dead"),
        table(meters, 2, "unrated").replace("rated_kw = 200.0\n", ""),
    )  # fmt: skip
    settings = configured(tmp_path, *tables)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*GIGAWATCH, *arguments], env=agents.environment(None, **settings),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    done = run("doctor", "--json", "--data-dir", str(tmp_path / "data"), "--server-url", NO_SERVER)
    findings = {it["subject"]: it for it in json.loads(done.stdout)}
    assert findings["NVIDIA driver"]["level"] == "note"
    assert findings["meter main"]["level"] == "good" and "power 90 kW" in findings["meter main"]["text"]
    assert findings["meter refused"]["level"] == "bad" and "rated_kw, 10" in findings["meter refused"]["text"]
    assert findings["meter unrated"]["level"] == "note"
    assert findings["meter dead"]["level"] == "bad" and "refused" in findings["meter dead"]["text"]

    done = run("meter", "probe", "--name", "main", "--seconds", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    figures = {it["figure"]: it for it in report["figures"]}
    assert figures["power"]["value"] == 90.0 and figures["power"]["where"] == ["register 2, type float32"]
    assert figures["energy"]["value"] == pytest.approx(1_000.0, abs=10)
    # Of 2 s, what an answer takes on a busy machine is a part.
    assert report["power_by_register_kw"] == pytest.approx(90, rel=0.2)
    assert report["notes"] == []
    # What the map takes for kW are W: the register knows.
    wrong = tmp_path / "kilowatts.toml"
    wrong.write_text(meters.map.read_text(encoding="utf-8").replace('unit = "W"', 'unit = "kW"'), encoding="utf-8")
    done = run("meter", "probe", meters.address, "--map", str(wrong), "--index", "unit=1", "--seconds", "1", "--json")
    (note,) = json.loads(done.stdout)["notes"]
    assert re.match(r"Power is about (1,[0-4]\d\d|[6-9]\d\d) times what the register grew by", note)

    words = ("meter", "probe", meters.address, "--map", str(meters.map), "--index")
    done = run(*words, "unit=2", "--rated-kw", "10")
    assert done.returncode == 1 and "REFUSED" in done.stdout and "register 2, type float32" in done.stdout
    done = run("meter", "probe", dead.address, "--map", str(dead.map))
    assert done.returncode == 4 and "connection failed" in done.stderr
    assert run(*words, "unit=700").returncode == 3
    assert run(*words, "unit").returncode == 2
    assert run("meter", "probe", "--name", "nobody").returncode == 3
    assert run("meter", "probe").returncode == 2
    done = run("meter", "maps")
    assert done.returncode == 0 and "schneider-pm5000" in done.stdout
    assert json.loads(run("meter", "maps", "schneider-pm5000", "--json").stdout)[0]["driver"] == "modbus"
