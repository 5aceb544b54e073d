"""Which meters stand in a site: what each is, what it counts, and at which port it answers."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from collector.simulated.facility.plant import CORE, FEEDS, LATENT_J_PER_L, Plant
from gigawatch.units import SECONDS_PER_HOUR

WRAP_H = 6
"""A counter of pulses begins again after so many hours at full load, and more."""
COUNTER = 2**16
WATTS_PER_KILOWATT = 1_000
OWN_MAPS = {
    "chillers": """\
title = "Simulated: pulses of a chiller plant's meter, in a logger's counter of 16 bits"
driver = "modbus"
sources = ["Gigawatch, docs/simulate.md"]
function = "input"

[readings.energy]
register = 0
type = "uint16"
unit = "Wh"
scale = {energy_scale}
wraps_at = {energy_wraps}
""",
    "water": """\
title = "Simulated: pulses of a water meter, in a logger's counter of 16 bits"
driver = "modbus"
sources = ["Gigawatch, docs/simulate.md"]
function = "input"

[readings.volume]
register = 10
type = "uint16"
unit = "L"
scale = {volume_scale}
wraps_at = {volume_wraps}
""",
    "heat": """\
title = "Simulated: a heat meter"
driver = "modbus"
sources = ["Gigawatch, docs/simulate.md"]
function = "holding"

[readings.energy]
register = 100
type = "uint32"
unit = "Wh"
scale = 100
wraps_at = 429_496_729_600

[readings.power]
register = 102
type = "int32"
unit = "W"
scale = 10

[readings.identity]
register = 104
type = "uint32"
""",
    "air": """\
title = "Simulated: a sensor of the outside air"
driver = "modbus"
sources = ["Gigawatch, docs/simulate.md"]
function = "input"

[readings.temperature]
register = 20
type = "int16"
unit = "C"
scale = 0.1
absent = [-32_768]
""",
}
"""Maps of meters for which none is shipped, by name."""


class Instrument(Struct, frozen=True, kw_only=True):
    """A meter as it is mounted."""

    site: str
    name: str
    role: str
    map: str
    """A shipped map, or one of OWN_MAPS."""
    port: str
    """Instruments of one port answer at one address."""
    index: Mapping[str, str | int] = {}
    rated_w: float | None = None
    feeds: tuple[str, ...] = ()
    racks: tuple[str, ...] = ()
    feed: str | None = None

    @property
    def rated_kw(self) -> float | None:
        """Most power that can flow through it, as settings have it."""
        return None if self.rated_w is None else round(self.rated_w / WATTS_PER_KILOWATT, 3)


def own_maps(plant: Plant) -> dict[str, str]:
    """The files of a site's own maps, by name."""
    energy_scale = _pulse(cooling_w(plant) * WRAP_H / COUNTER)
    litres_s = 2 * plant.it_w / LATENT_J_PER_L
    volume_scale = _pulse(litres_s * WRAP_H * SECONDS_PER_HOUR / COUNTER)
    return {
        name: text.format(
            energy_scale=energy_scale, energy_wraps=COUNTER * energy_scale,
            volume_scale=volume_scale, volume_wraps=COUNTER * volume_scale,
        )
        for name, text in OWN_MAPS.items()
    }  # fmt: skip


def write_maps(plant: Plant, folder: Path) -> dict[str, str]:
    """Write a site's own maps into a folder. Their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in own_maps(plant).items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return {name: str(folder / f"{name}.toml") for name in OWN_MAPS}


def instruments(plant: Plant) -> Iterator[Instrument]:
    """Everything that is metered in a site, from the grid on."""
    site, place, it_w = plant.site.name, plant.weather.place, plant.it_w
    boards = ("ups-a-in", "ups-b-in", "chillers", "crah", "pumps", "lighting")

    def at(name: str, role: str, map_: str, port: str, rated_w: float | None = None, **more: object) -> Instrument:
        return Instrument(site=site, name=name, role=role, map=map_, port=port, rated_w=rated_w, **more)  # type: ignore[arg-type]

    yield at("grid", "utility", "schneider-pm5000", "main", plant.site_w, index={"unit": 1}, feeds=boards)
    if place.pv:
        yield at("pv", "generation", "carlo-gavazzi-em24", "main", plant.pv_w, index={"unit": 2}, feeds=boards)
    if place.genset:
        yield at("genset", "generation", "janitza-umg96", "main", plant.site_w, index={"unit": 3}, feeds=boards)
    for feed in FEEDS:
        ups, letter = f"ups-{feed}", feed.upper()
        pdus = tuple(f"pdu-{rack}-{feed}" for rack in plant.racks_w)
        yield at(f"{ups}-in", "ups_in", "ups-rfc1628-input", ups, 1.1 * plant.ups_w, feeds=(ups,))
        yield at(ups, "ups_out", "ups-rfc1628", ups, plant.ups_w, feeds=pdus, feed=letter)
        for rack, rack_w in plant.racks_w.items():
            name, of = f"pdu-{rack}-{feed}", {"racks": (rack,)}
            if rack == CORE:
                yield at(name, "pdu", "redfish-pdu", "redfish", rack_w, index={"pdu": name}, **of)
            else:
                yield at(name, "pdu", "raritan-px" if place.tower else "apc-rpdu2", name, rack_w, **of)
    yield at("chillers", "cooling", "chillers", "plant", cooling_w(plant), index={"unit": 1})
    yield at("crah", "cooling", "schneider-pm5000", "plant", 0.06 * it_w, index={"unit": 2})
    yield at("pumps", "pump", "eastron-sdm630", "plant", 0.03 * it_w, index={"unit": 3})
    yield at("lighting", "lighting", "carlo-gavazzi-em24", "lights", 0.01 * it_w, index={"unit": 1})
    reuse = ("heat-reuse",) if place.reuse else ()
    yield at("heat-removed", "heat_removed", "heat", "plant", 1.5 * it_w, index={"unit": 4}, feeds=reuse)
    if place.reuse:
        yield at("heat-reuse", "heat_reuse", "heat", "plant", it_w, index={"unit": 5})
    if place.tower:
        yield at("city-water", "water", "water", "plant", index={"unit": 6})
    yield at("outside-air", "temperature", "air", "plant", index={"unit": 7})


def cooling_w(plant: Plant) -> float:
    """Rating of the chillers, W: a COP of 2.5 on the hottest day."""
    return 0.4 * plant.it_w


def _pulse(least: float) -> int:
    """What a pulse is worth: the first of 1, 2, 5, 10, … that is at least this."""
    power = int(10 ** math.floor(math.log10(max(least, 1.0))))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least)
