"""The verb `gigawatch simulate-facility`."""

import asyncio
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import get_args

import click
import msgspec
from msgspec import Struct

from collector.simulate import DEFAULT_HISTORY_S, Duration
from collector.simulated import faults, fleet
from collector.simulated.facility import documents
from collector.simulated.facility.facility import Facility
from collector.simulated.facility.history import Past
from collector.simulated.facility.instruments import write_maps
from collector.simulated.facility.metering import Counted, SimulatedMeter
from collector.simulated.facility.ports import Ports
from collector.simulated.faults import MINUTE_S
from gigawatch import settings
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Agent

FIRST_PORT = 8_620
INTERVAL_S = 10.0
SAVE_S = 10
MOST_HISTORY_S = 7 * 86_400
"""Older windows are no longer taken by a server as it is set up."""
log = logging.getLogger(__name__)


class State(Struct, kw_only=True):
    """What goes on when the facility is started again."""

    fleet: tuple[int, int, int]
    """Nodes, GPUs of each, and seed."""
    at_s: int
    """Up to when meters counted."""
    counted: dict[str, Counted]
    """By SITE/METER."""


@click.command("simulate-facility")
@click.option("--data-dir", help="Folder of what it writes; by default facility/ in the settings' store.data_dir.")
@click.option("--port", type=click.IntRange(1, 65_000), default=FIRST_PORT, show_default=True, help="Its least port.")
@click.option("--nodes", type=click.IntRange(1, 1_000), default=16, show_default=True, help="Nodes in the fleet.")
@click.option("--gpus-per-node", type=click.IntRange(1, 16), default=8, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1, show_default=True, help="The fleet's.")
@click.option(
    "--history",
    "history_s",
    type=Duration(),
    default=f"{DEFAULT_HISTORY_S // 3_600}h",
    show_default=True,
    help="How much of the past the agents shall send first, in full minutes, up to 7d.",
)
@click.option(
    "--faults",
    "amount",
    type=click.Choice(get_args(faults.Amount)),
    default="few",
    show_default=True,
    help="What goes wrong with meters, and in the fleet.",
)
@click.pass_obj
def simulate_facility(
    config: Path | None,
    /,
    data_dir: str | None,
    port: int,
    nodes: int,
    gpus_per_node: int,
    seed: int,
    history_s: float,
    amount: faults.Amount,
) -> None:
    """Serve the meters of a simulated facility, around the fleet of `gigawatch simulate`, over real protocols.

    Power, cooling, water and weather of its sites are modelled; their meters answer over Modbus TCP, SNMP and Redfish
    at ports of this machine, until Ctrl-C or SIGTERM. Into its folder it writes the topology, and for each site the
    configuration of an agent that reads its meters, and what that agent would have sent until now.

    With the options of `gigawatch simulate` the racks draw what its nodes tell. docs/simulate.md says what is modelled.

    \b
      gigawatch simulate-facility --data-dir facility
      gigawatch --config facility/lulea/gigawatch.toml collect
      gigawatch topology apply facility/topology.yaml
    """
    if history_s % MINUTE_S or history_s > MOST_HISTORY_S:
        raise click.BadParameter("it must be of full minutes, and 7d at most", param_hint="--history")
    loaded = settings.load(config)
    folder = Path(data_dir or Path(loaded.store.data_dir) / "facility").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    state = _state(folder / "state.json", (nodes, gpus_per_node, seed))
    now_s = int(time.time()) // MINUTE_S * MINUTE_S
    goes_on = state.at_s >= now_s - max(history_s, DEFAULT_HISTORY_S)
    start_s = state.at_s if goes_on else now_s - int(history_s)
    facility = Facility(
        fleet.of_nodes(nodes, seed=seed, gpus_per_node=gpus_per_node),
        seed=seed,
        amount=amount,
        now_s=now_s,
        history_s=int(history_s),
        own_maps=lambda plant: write_maps(plant, folder / plant.site.name),
        counted=state.counted,
        at_s=start_s,
    )
    running = _Running(facility, folder, state, loaded.agent)
    with ThreadPoolExecutor(1, initializer=_give_way) as thread:
        thread.submit(running.remember, goes_on=goes_on).result()
    asyncio.run(running.serve(port))


def _give_way() -> None:
    """Leave the processor to others, such as the fleet's own history: of this thread alone, by its number on Linux."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _state(path: Path, of_fleet: tuple[int, int, int]) -> State:
    """What an earlier run left, or nothing yet.

    Raises:
        GigawatchError: it was another fleet's, or cannot be read.
    """
    if not path.is_file():
        return State(fleet=of_fleet, at_s=0, counted={})
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError) as error:
        raise GigawatchError(
            f"{path} cannot be read: {error}", "Remove it: meters then begin anew.", ExitCode.CONFIGURATION
        ) from error
    if state.fleet != of_fleet:
        raise GigawatchError(
            f"{path.parent} holds the meters of a fleet with nodes, GPUs and seed {state.fleet}, not {of_fleet}",
            "Name another --data-dir, or remove the folder.",
            ExitCode.CONFIGURATION,
        )
    return state


class _Running:
    """A facility with its folder.

    Args:
        facility: up to where it was run before.
        folder: of what it writes.
        state: what an earlier run left.
        agent: settings of agents, but for their sites.
    """

    def __init__(self, facility: Facility, folder: Path, state: State, agent: Agent) -> None:
        self._facility = facility
        self._folder = folder
        self._state = state
        self._agents = {
            site: msgspec.structs.replace(agent, site=site, machine_id=f"sim-meters-{site}") for site in facility.plants
        }
        topology = documents.topology(facility.plants, [it.instrument for it in facility.meters.values()])
        (folder / "topology.yaml").write_text(topology, encoding="utf-8")
        self._withdraw()

    def remember(self, *, goes_on: bool) -> None:
        """Let the past go by up to now, and lay it into the agents' spools.

        Args:
            goes_on: whether it begins where the agents ended.
        """
        facility = self._facility
        pasts: list[Past] = []
        for site, agent in self._agents.items():
            try:
                past = Past(agent, self._folder / site, facility.of_site(site), facility.at_s, goes_on=goes_on)
            except GigawatchError as error:
                # An agent that runs knows by the registers what they counted meanwhile.
                log.warning("%s; the past of its meters is left to it", error.problem)
            else:
                pasts.append(past)

        def look(at_s: int) -> None:
            for past in pasts:
                past.look(at_s)

        for past in pasts:
            past.read(facility.at_s)
        # Twice, since the first takes a while.
        for _ in range(2):
            facility.run(int(time.time()), look)
        for past in pasts:
            past.end(facility.at_s)
        self._save()

    async def serve(self, first_port: int) -> None:
        """Serve the meters until told to end.

        Args:
            first_port: the least.
        """
        facility, ending = self._facility, asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
        ports = Ports(first_port)
        facility.run(int(time.time()))
        configurations = {site: await self._serve(site, ports) for site in self._agents}
        for site, text in configurations.items():
            path = self._configuration(site)
            new = path.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            new.rename(path)
            click.echo(f"{len(facility.of_site(site))} simulated meters of {site}: gigawatch --config {path} collect")
        while not ending.is_set():
            facility.run(int(time.time()))
            if facility.at_s - self._state.at_s >= SAVE_S:
                self._save()
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), 1 - time.time() % 1)
        self._withdraw()
        self._save()
        await ports.close()

    async def _serve(self, site: str, ports: Ports) -> str:
        """Serve a site's meters. Its agent's configuration."""
        by_port: dict[str, list[SimulatedMeter]] = {}
        for meter in self._facility.of_site(site):
            by_port.setdefault(meter.instrument.port, []).append(meter)
        served = [(await ports.serve(meters), meters) for meters in by_port.values()]
        of_meters = [meter.settings(address, INTERVAL_S) for address, meters in served for meter in meters]
        return documents.configuration(self._agents[site], self._configuration(site).parent, of_meters)

    def _withdraw(self) -> None:
        """Take the configurations away: who waits for them shall not read ports that do not answer."""
        for site in self._agents:
            self._configuration(site).unlink(missing_ok=True)

    def _configuration(self, site: str) -> Path:
        return self._folder / site / "gigawatch.toml"

    def _save(self) -> None:
        """Keep what meters counted."""
        self._state.at_s = self._facility.at_s
        self._state.counted = {name: meter.counted for name, meter in self._facility.meters.items()}
        new = self._folder / "state.new"
        new.write_bytes(msgspec.json.encode(self._state))
        new.rename(self._folder / "state.json")
