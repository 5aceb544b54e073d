"""What the racks draw: the nodes of the simulated fleet, modelled as `gigawatch simulate` does."""

from collections.abc import Sequence

from collector.simulated.faults import Faults
from collector.simulated.fleet import Node, Site
from collector.simulated.machine import SimulatedNode

Racks = dict[str, int]
"""By rack, mW."""


class FleetLoad:
    """The fleet's nodes; steps must be asked for one after another.

    Args:
        fleet: the nodes.
        faults: what goes wrong with each of them.
        seed: the fleet's.
    """

    def __init__(self, fleet: Sequence[Node], faults: Sequence[Faults], seed: int) -> None:
        self._nodes = [SimulatedNode(node, struck, seed) for node, struck in zip(fleet, faults, strict=True)]

    def step(self, start_s: int, length_s: int, tick_s: int) -> dict[str, Racks]:
        """By site, what its racks draw in a step that no full minute cuts, mean.

        Args:
            start_s: start of the step, s since 1970 UTC.
            length_s: its length.
            tick_s: how often the nodes' loads are looked at; divides the length.
        """
        sites: dict[str, Racks] = {}
        for it in self._nodes:
            racks = sites.setdefault(it.node.site.name, {})
            parcel = it.window(start_s, length_s, tick_s)
            windows = parcel.node_windows if parcel else []
            drawn_mw = sum(window.node_power_mean_mw or 0 for window in windows)
            racks[it.node.rack] = racks.get(it.node.rack, 0) + drawn_mw
        return sites


def racks_of(fleet: Sequence[Node]) -> dict[Site, dict[str, float]]:
    """By site, the rating of each of its racks, W."""
    sites: dict[Site, dict[str, float]] = {}
    for node in fleet:
        racks = sites.setdefault(node.site, {})
        racks[node.rack] = racks.get(node.rack, 0.0) + node.rated_w
    return sites
