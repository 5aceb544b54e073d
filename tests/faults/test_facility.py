"""The simulated facility as a person runs it: its meters at their ports, read by the agent's real drivers.

What the agent measured is read from its spool: energy is that of the model's registers to the millijoule, history and
live windows go on without gap or overlap, a restart as well, and each fault shows as its event.
"""

import asyncio
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest

from collector.simulated import fleet
from collector.simulated.facility import documents
from collector.simulated.facility.commands import State
from collector.simulated.facility.instruments import COUNTER, instruments, write_maps
from collector.simulated.facility.load import racks_of
from collector.simulated.facility.metering import Counted, SimulatedMeter
from collector.simulated.facility.plant import Flows, Plant
from collector.simulated.facility.ports import Ports
from collector.simulated.facility.struck import Fault
from collector.spool import Spool
from gigawatch.records import EnergyMethod, MeterWindow
from gigawatch.settings import Agent as AgentSettings
from tests.agents import Agent, Spooled, environment, running_agent, spooled, wait_for
from tests.processes import GIGAWATCH, Process, free_port

NO_SERVER = "http://127.0.0.1:9"  # the discard port: nothing answers
NODES, GPUS = 16, 2
SITE = "dublin"


class FacilityProcess(Process):
    """`gigawatch simulate-facility`."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        arguments = ["simulate-facility", "--data-dir", str(folder), "--gpus-per-node", str(GPUS), *options]
        super().__init__(folder / "facility.log", arguments, environment(None))

    def configuration(self) -> Path:
        """Of the site's agent, once its meters answer."""
        path = self.folder / SITE / "gigawatch.toml"
        wait_for("meters", lambda: path.is_file() or self.process.poll() is not None, 120)
        assert path.is_file(), self.log.read_text(encoding="utf-8")
        return path

    def counted(self) -> State:
        return msgspec.json.decode((self.folder / "state.json").read_bytes(), type=State)


def agent_of(configuration: Path) -> Agent:
    return Agent(
        None, configuration.parent, ("--server-url", NO_SERVER),
        {"GIGAWATCH_CONFIG": str(configuration), "GIGAWATCH_AGENT__TOKEN": "none"},
    )  # fmt: skip


def by_meter(found: Spooled) -> dict[str, list[MeterWindow]]:
    windows: dict[str, list[MeterWindow]] = {}
    for it in sorted(found.meter_windows, key=lambda it: it.start):
        windows.setdefault(it.meter, []).append(it)
    return windows


def total_mj(windows: list[MeterWindow]) -> int:
    return sum(it.energy_mj or 0 for it in windows)


def end_ms(window: MeterWindow) -> float:
    return window.start.timestamp() * 1_000 + window.covered_ms


def began(folder: Path) -> dict[str, int]:
    """By meter with a register, what it said before the history."""
    racks = next(racks for site, racks in racks_of(fleet.of_nodes(NODES, seed=1, gpus_per_node=GPUS)).items()
                 if site.name == SITE)  # fmt: skip
    site = next(it.site for it in fleet.of_nodes(NODES, seed=1, gpus_per_node=GPUS) if it.site.name == SITE)
    plant = Plant(site, racks, 1)
    paths = write_maps(plant, folder)
    meters = [SimulatedMeter(it, paths.get(it.map, it.map), 1) for it in instruments(plant)]
    readings = {it.name: it.read(0) for it in meters}
    return {name: it.energy_mj for name, it in readings.items() if it is not None and it.energy_mj is not None}


def test_history_and_live_readings_are_one_and_a_restart_goes_on(tmp_path: Path) -> None:
    options = ("--history", "30m", "--faults", "none", "--port", str(free_port()))
    first = FacilityProcess(tmp_path / "facility", *options)
    first.start()
    agent = agent_of(first.configuration())
    began_s = time.time()
    try:
        agent.start()
        time.sleep(26)
        away_s = -time.monotonic()
        # Both end and begin again, as `gigawatch up --demo` does.
        assert agent.stop() == 0, agent.words()
        assert first.stop() == 0
        time.sleep(4)
        first.start()
        first.configuration()
        agent.start()
        away_s += time.monotonic()
        time.sleep(26)
        ended_s = time.time()
        assert agent.stop() == 0, agent.words()
        assert first.stop() == 0
    finally:
        agent.stop()
        first.stop()
    spool = Spool(tmp_path / "facility" / SITE / "spool.sqlite", 512, 72)
    checkpoint = spool.checkpoint()
    assert checkpoint is not None
    spool.close()
    found = spooled(tmp_path / "facility" / SITE)
    assert all(batch.simulated for batch in found.batches)
    assert {it.hostname for it in found.inventories} == {f"sim-meters-{SITE}"}
    assert {it.site for it in found.inventories} == {SITE}
    assert found.gpu_windows == []
    windows, state = by_meter(found), first.counted()
    for name, register_mj in began(tmp_path / "maps").items():
        mark = checkpoint.meters[name].energy
        assert mark is not None
        counted = total_mj(windows[name])
        if name != "chillers":
            # A counter of pulses begins again; all others say what they counted in all.
            assert counted == mark.value - register_mj, name
            assert mark.value <= state.counted[f"{SITE}/{name}"].amount
        for before, after in zip(windows[name], windows[name][1:], strict=False):
            # Neither gap nor overlap, but for the rounding of a reading's time.
            assert abs(end_ms(before) - after.start.timestamp() * 1_000) <= 2, name
        assert windows[name][0].start.timestamp() == pytest.approx(began_s - 1_800, abs=90)
        assert end_ms(windows[name][-1]) / 1_000 == pytest.approx(ended_s, abs=45)
    # Energy that is integrated from power has no register to bridge the seconds between two agents.
    for name in ("ups-a", "ups-b"):
        known_s = sum(it.covered_ms for it in windows[name]) / 1_000
        assert known_s > (end_ms(windows[name][-1]) / 1_000 - windows[name][0].start.timestamp()) - 65 - away_s
    it_mj = sum(total_mj(windows[name]) for name in windows if name.startswith("pdu-"))
    came_mj = sum(total_mj(windows[name]) for name in ("grid", "pv", "genset"))
    assert 1.05 < came_mj / it_mj < 1.6
    assert [it.kind for it in found.events if it.kind.startswith("meter_")] == []


def test_a_probe_reads_meters_of_each_protocol(tmp_path: Path) -> None:
    running = FacilityProcess(tmp_path / "facility", "--history", "0", "--faults", "none", "--port", str(free_port()))
    running.start()
    try:
        configuration = running.configuration()
        for name in ("grid", "pv", "genset", "ups-a", "pdu-r01-a", "pdu-core-b", "city-water", "outside-air"):
            told = subprocess.run(
                [*GIGAWATCH, "--config", str(configuration), "meter", "probe", "--name", name],
                capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            assert told.returncode == 0, (name, told.stdout, told.stderr)
        topology = (tmp_path / "facility" / "topology.yaml").read_text(encoding="utf-8")
        assert "grid:" in topology
        with running_agent(
            None, configuration.parent, "--server-url", NO_SERVER,
            GIGAWATCH_CONFIG=str(configuration), GIGAWATCH_AGENT__TOKEN="none",
        ) as agent:  # fmt: skip
            # One that was killed begins again beside the agent, and leaves the time between to it.
            running.kill()
            configuration.unlink()
            running.start()
            running.configuration()
            assert "the past of its meters is left to it" in running.log.read_text(encoding="utf-8")
            assert agent.process.poll() is None
    finally:
        assert running.stop() == 0
    assert not configuration.exists()


def steady(meters: Mapping[str, SimulatedMeter]) -> Flows:
    """So many kilowatts through each meter as its rating has, halved."""
    mw = {name: round((it.instrument.rated_w or 0) * 500) for name, it in meters.items()}
    return Flows(mw=mw, lost_mw={}, water_ul_s=20_000, outside_mc=12_300)


@contextmanager
def serving(
    meters: Mapping[str, SimulatedMeter], flows: Flows, counted_s: int | None = None
) -> Iterator[dict[str, str]]:
    """These meters at ports, while time passes; before, up to when they counted. Addresses by name."""
    ready, ending, addresses = Event(), Event(), dict[str, str]()

    def pass_until(at_s: int, until_s: int) -> None:
        for at in range(at_s, until_s):
            for it in meters.values():
                it.count(at, 1, flows)

    async def serve() -> None:
        ports = Ports(free_port())
        by_port: dict[str, list[SimulatedMeter]] = {}
        for it in meters.values():
            by_port.setdefault(it.instrument.port, []).append(it)
        for those in by_port.values():
            addresses.update(dict.fromkeys((it.name for it in those), await ports.serve(those)))
        at_s = counted_s or int(time.time()) - 1
        # What none has counted yet, it does not show either.
        pass_until(at_s, at_s := int(time.time()))
        ready.set()
        while not ending.is_set():
            pass_until(at_s, at_s := int(time.time()))
            await asyncio.sleep(0.05)
        await ports.close()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield addresses
    finally:
        ending.set()
        thread.join(20)


def test_each_fault_shows_as_its_event_and_touches_no_other_meter(tmp_path: Path) -> None:
    now_s = int(time.time())

    def fault(kind: Any, first_s: int, for_s: int) -> Fault:
        return Fault(kind=kind, first_s=now_s + first_s, every_s=86_400, for_s=for_s)

    struck = {
        "lighting": fault("hung", 22, 14), "heat-removed": fault("replaced", 30, 1), "crah": fault("garbage", 24, 6),
        "pumps": fault("swapped", 22, 10_000),
    }  # fmt: skip
    site = next(it.site for it in fleet.of_nodes(NODES, seed=1, gpus_per_node=GPUS) if it.site.name == SITE)
    plant = Plant(site, {"r01": 20_000.0}, 1)
    paths = write_maps(plant, tmp_path / "maps")
    meters: dict[str, SimulatedMeter] = {}
    for it in instruments(plant):
        faults = (struck[it.name],) if it.name in struck else ()
        meters[it.name] = SimulatedMeter(it, paths.get(it.map, it.map), 1, faults)
    # Pulses of 1 Wh, the last of them in 20 s.
    chillers = meters["chillers"]
    pulse_mj = int(chillers.map.readings["energy"][0].scale) * 3_600_000
    meters["chillers"] = SimulatedMeter(
        chillers.instrument, paths["chillers"], 1, (), Counted(amount=(3 * COUNTER - 24) * pulse_mj, serial=1)
    )
    flows = steady(meters)
    agent_settings = AgentSettings(server_url=NO_SERVER, site=SITE, machine_id="sim-meters-test", window_s=10)
    with serving(meters, flows) as addresses:
        of_meters = [it.settings(addresses[name], 1.0) for name, it in meters.items()]
        path = tmp_path / "gigawatch.toml"
        path.write_text(documents.configuration(agent_settings, tmp_path / "data", of_meters), encoding="utf-8")
        with running_agent(
            None, tmp_path / "data", "--server-url", NO_SERVER, "--window-s", "5",
            GIGAWATCH_CONFIG=str(path), GIGAWATCH_AGENT__TOKEN="none",
        ) as agent:  # fmt: skip
            time.sleep(58)
            assert agent.stop() == 0, agent.words()
    found = spooled(tmp_path / "data")
    windows = by_meter(found)
    told = {(it.kind, name) for it in found.events for name in meters if f"Meter {name}" in it.message}
    assert told == {
        ("meter_silent", "lighting"), ("meter_answers", "lighting"), ("readings_gap", "lighting"),
        ("meter_replaced", "heat-removed"), ("meter_refused", "crah"), ("meter_reversed", "pumps"),
        ("meter_wrapped", "chillers"),
    }  # fmt: skip
    for name, of_it in windows.items():
        if flows.mw[name] and name not in {"pumps"}:
            covered_s = sum(it.covered_ms for it in of_it if it.energy_mj is not None) / 1_000
            assert covered_s > 45, name
            # To a step of the register at each end, and a second in which the meter's own clock may differ.
            step_mj = 2 * max(pulse_mj, 360_000_000) if name in {"chillers", "heat-removed"} else 720_000_000
            assert abs(total_mj(of_it) - flows.mw[name] * covered_s) <= step_mj + 2 * flows.mw[name], name
    sound = {name for name in windows if name not in {*struck, "ups-a", "ups-b", "ups-a-in", "ups-b-in"}}
    for name in sound - {"outside-air", "city-water"}:
        assert {it.energy_method for it in windows[name]} == {EnergyMethod.COUNTER}, name
        assert sum(it.rejected_readings for it in windows[name]) == 0
    assert {it.energy_method for it in windows["ups-a"]} == {EnergyMethod.INTEGRATED}
    assert {it.temp_mean_mc for it in windows["outside-air"]} == {12_300}
    assert EnergyMethod.ESTIMATED in {it.energy_method for it in windows["heat-removed"]}
    assert EnergyMethod.INTERPOLATED in {it.energy_method for it in windows["lighting"]}
    assert min(it.power_min_mw or 0 for it in windows["pumps"]) < 0
    assert sum(it.rejected_readings for it in windows["crah"]) >= 4
    assert 0.7 < sum(it.volume_ml or 0 for it in windows["city-water"]) / (20 * 50) < 1.3
