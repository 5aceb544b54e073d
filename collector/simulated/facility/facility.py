"""The facility as time passes: its plants, and the meters that count what flows in them."""

from collections.abc import Callable, Mapping, Sequence

from collector.simulated import faults as of_fleet
from collector.simulated.facility import struck
from collector.simulated.facility.instruments import instruments
from collector.simulated.facility.load import FleetLoad, racks_of
from collector.simulated.facility.metering import Counted, SimulatedMeter
from collector.simulated.facility.plant import Flows, Plant
from collector.simulated.faults import MINUTE_S, Amount
from collector.simulated.fleet import Node
from collector.simulated.sending import HISTORY_TICK_S, LIVE_TICK_S

Look = Callable[[int], None]
"""Called after each step with its end."""


class Facility:
    """All sites of a fleet.

    Args:
        fleet: the nodes.
        seed: the fleet's.
        amount: how much goes wrong, with nodes and meters.
        now_s: when the history ends, a full minute, s since 1970 UTC: what goes wrong is placed about it.
        history_s: length of the fleet's history.
        own_maps: by site and name, the files of maps that are not shipped.
        counted: by SITE/METER, what had been counted when they were last looked at.
        at_s: from when on it is run, s since 1970 UTC.
    """

    def __init__(
        self,
        fleet: Sequence[Node],
        *,
        seed: int,
        amount: Amount,
        now_s: int,
        history_s: int,
        own_maps: Callable[[Plant], Mapping[str, str]],
        counted: Mapping[str, Counted],
        at_s: int,
    ) -> None:
        self.at_s = at_s
        """Up to when it was run, s since 1970 UTC."""
        self.plants = {site.name: Plant(site, racks, seed) for site, racks in racks_of(fleet).items()}
        self.flows: dict[str, Flows] = {}
        """By site, those of the last step."""
        self._load = FleetLoad(
            fleet, of_fleet.plan(list(fleet), amount, seed=seed, now_s=now_s, history_s=history_s), seed
        )
        mounted = [it for plant in self.plants.values() for it in instruments(plant)]
        faults = struck.plan(mounted, amount, seed=seed, now_s=now_s)
        self.meters: dict[str, SimulatedMeter] = {}
        """By SITE/METER."""
        paths = {name: own_maps(plant) for name, plant in self.plants.items()}
        for it in mounted:
            key = f"{it.site}/{it.name}"
            map_ = paths[it.site].get(it.map, it.map)
            self.meters[key] = SimulatedMeter(it, map_, seed, faults.get(key, ()), counted.get(key))

    def of_site(self, site: str) -> list[SimulatedMeter]:
        """The meters of a site."""
        return [it for it in self.meters.values() if it.instrument.site == site]

    def run(self, until_s: int, look: Look = lambda _: None) -> None:
        """Let time pass: in steps of a minute where that is far, else of a second.

        Args:
            until_s: up to when, s since 1970 UTC.
            look: called after each step.
        """
        while self.at_s < until_s:
            whole = self.at_s % MINUTE_S == 0 and until_s - self.at_s >= 2 * MINUTE_S
            length_s, tick_s = (MINUTE_S, HISTORY_TICK_S) if whole else (LIVE_TICK_S, LIVE_TICK_S)
            self._step(length_s, tick_s)
            look(self.at_s)

    def _step(self, length_s: int, tick_s: int) -> None:
        drawn = self._load.step(self.at_s, length_s, tick_s)
        self.flows = {name: plant.flows(self.at_s, drawn[name]) for name, plant in self.plants.items()}
        for meter in self.meters.values():
            meter.count(self.at_s, length_s, self.flows[meter.instrument.site])
        self.at_s += length_s
