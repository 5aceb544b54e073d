"""What the simulated facility writes for those who read it: the agents' configurations and the topology."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from collector.simulated.facility.instruments import Instrument
from collector.simulated.facility.plant import CORE, Plant
from gigawatch.settings import Agent, Meter

WATTS_PER_KILOWATT = 1_000
HALL, ROW_RACKS = "H1", 10
BREAKERS_A = (16, 25, 32, 50, 63, 80, 100, 125, 160, 200, 250, 400, 630, 800, 1_000, 1_250, 1_600, 2_000, 3_200)
LINE_VOLTS = 400
HEAD = "# A simulated facility: written by `gigawatch simulate-facility`, and written anew when it starts.\n"


def configuration(agent: Agent, data_dir: Path, meters: Iterable[Meter]) -> str:
    """The settings file of the agent that reads a site's meters."""
    keys: dict[str, object] = {
        "server_url": agent.server_url, "token_file": agent.token_file, "ca_file": agent.ca_file, "site": agent.site,
        "machine_id": agent.machine_id, "simulated": True, "discover": [],
    }  # fmt: skip
    parts = [HEAD, "[agent]", *_toml(keys), "", "[store]", *_toml({"data_dir": str(data_dir)})]
    for it in meters:
        fields = {"name": it.name, "driver": it.driver, "address": it.address, "map": it.map,
                  "rated_kw": it.rated_kw, "interval_s": it.interval_s}  # fmt: skip
        parts += ["", "[[meters]]", *_toml(fields)]
        if it.index:
            parts.append(f"index = {{ {', '.join(_toml(it.index))} }}")
    return "\n".join([*parts, ""])


def _toml(keys: Mapping[str, object]) -> Iterator[str]:
    """Lines of TOML, whose texts, numbers and lists of these are written as in JSON."""
    return (f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None)


def topology(plants: Mapping[str, Plant], instruments: Iterable[Instrument]) -> str:
    """The topology of all sites, as docs/topology.md has it."""
    mounted = list(instruments)
    lines = [HEAD + "sites:"]
    for site, plant in plants.items():
        lines += _site(plant, [it for it in mounted if it.site == site])
    return "\n".join([*lines, ""])


def _site(plant: Plant, mounted: Iterable[Instrument]) -> Iterator[str]:
    racks = [rack for rack in plant.racks_w if rack != CORE]
    yield f"  {plant.site.name}:"
    yield f"    budget_kw: {_kw(plant.site_w)}"
    yield "    halls:"
    yield f"      {HALL}:"
    yield f"        budget_kw: {_kw(1.1 * plant.it_w)}"
    yield f"        racks: [{CORE}]"
    yield "        rows:"
    for row, first in enumerate(range(0, len(racks), ROW_RACKS)):
        yield f"          R{row + 1:02d}:"
        yield f"            racks: [{', '.join(racks[first : first + ROW_RACKS])}]"
    yield "        rack_budgets_kw:"
    for rack, rack_w in plant.racks_w.items():
        yield f"          {rack}: {_kw(1.1 * rack_w)}"
    yield "    meters:"
    for it in mounted:
        yield from _meter(it, plant)
    yield "    eu_report:"
    yield f"      pdit_kw: {_kw(plant.it_w)}"
    # A kilowatt of these racks takes 0.4 m² of computer room; half as much is beside it.
    yield f"      sdc_m2: {round(0.6 * plant.it_w / WATTS_PER_KILOWATT) + 1}"
    yield f"      scr_m2: {round(0.4 * plant.it_w / WATTS_PER_KILOWATT) + 1}"


def _meter(it: Instrument, plant: Plant) -> Iterator[str]:
    yield f"      {it.name}:"
    yield f"        role: {it.role}"
    if it.rated_kw is not None:
        yield f"        rated_kw: {it.rated_kw:g}"
    if it.role == "utility":
        yield f"        contract_kw: {_kw(0.9 * plant.site_w)}"
    if it.role == "pdu":
        amperes = 1.25 * it.rated_kw * WATTS_PER_KILOWATT / LINE_VOLTS / 3**0.5 if it.rated_kw else 0
        yield f"        breaker_a: {next((size for size in BREAKERS_A if size >= amperes), BREAKERS_A[-1])}"
    if it.name == "genset":
        yield "        backup: true"
    if it.role == "water":
        yield "        potable: true"
    if it.feed:
        yield f"        feed: {it.feed}"
    for key, names in (("feeds", it.feeds), ("racks", it.racks)):
        if names:
            yield f"        {key}: [{', '.join(names)}]"


def _kw(power_w: float) -> str:
    return f"{power_w / WATTS_PER_KILOWATT:.0f}"
