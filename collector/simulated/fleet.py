"""Sites, racks and nodes of a simulated fleet, of any size, from a seed."""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from msgspec import Struct

from collector.simulated.chance import digest
from collector.simulated.hardware import A100, B200, H100, L40S, GpuModel, node_w

Role = Literal["training", "inference", "research"]
WATTS_PER_MEGAWATT = 1_000_000


class Site(Struct, frozen=True):
    """A place. Its local time is a fixed offset: daylight saving moves people, not the sun."""

    name: str
    utc_offset_h: float
    inlet_c: float
    """Air at the nodes' inlet, mean of a day."""


class Node(Struct, frozen=True, kw_only=True):
    """One node as it was bought and placed."""

    number: int
    machine_id: str
    hostname: str
    site: Site
    rack: str
    rack_nodes: int
    """Nodes that the rack is planned for."""
    place: int
    """Place in the rack, from 0."""
    role: Role
    model: GpuModel
    gpu_uuids: tuple[str, ...]

    @property
    def rated_w(self) -> float:
        """Power at the node's inlet with every GPU at its limit, W."""
        return node_w(self.model, len(self.gpu_uuids) * self.model.limit_w, 1.0)


SITES = (
    (Site("lulea", 1, 21.0), Site("dublin", 0, 23.0)),
    (Site("ashburn", -5, 24.0), Site("dallas", -6, 25.0)),
    (Site("oslo", 1, 21.5), Site("osaka", 9, 24.5)),
)
"""Pairs of sites: a fleet fills one pair before it goes to the next."""
RACKS: tuple[tuple[int, GpuModel, int, Role], ...] = (
    (0, H100, 3, "training"),
    (1, H100, 3, "inference"),
    (0, B200, 3, "training"),
    (1, L40S, 4, "inference"),
    (0, B200, 2, "inference"),
    (1, A100, 1, "research"),
)
"""Which site of the pair, which GPUs, how many nodes, for what: sixteen nodes, repeated as needed."""
NODES_PER_ROUND = sum(nodes for _, _, nodes, _ in RACKS)
ROUNDS_PER_PAIR = 1_000
"""Rounds of RACKS in one pair of sites: about 60 MW each."""


def of_nodes(nodes: int, *, seed: int, gpus_per_node: int) -> list[Node]:
    """A fleet of this many nodes; a greater fleet of the same seed contains it."""
    return list(islice(_endless(seed, gpus_per_node), nodes))


def of_megawatts(megawatts: float, *, seed: int, gpus_per_node: int) -> list[Node]:
    """The least fleet whose nodes draw this much at their inlets with every GPU at its limit."""
    fleet, rated_w = [], 0.0
    for node in _endless(seed, gpus_per_node):
        if rated_w >= megawatts * WATTS_PER_MEGAWATT:
            break
        fleet.append(node)
        rated_w += node.rated_w
    return fleet


def _endless(seed: int, gpus_per_node: int) -> Iterator[Node]:
    number = turn = 0
    racks: dict[str, int] = {}
    while True:
        again, pair = divmod(turn // ROUNDS_PER_PAIR, len(SITES))
        for which, model, nodes, role in RACKS:
            site = SITES[pair][which]
            if again:
                site = Site(f"{site.name}-{again + 1}", site.utc_offset_h, site.inlet_c)
            racks[site.name] = racks.get(site.name, 0) + 1
            rack = f"r{racks[site.name]:02d}"
            for place in range(nodes):
                machine_id = digest(seed, "node", number)
                yield Node(
                    number=number,
                    machine_id=machine_id,
                    hostname=f"{site.name}-{rack}-n{place + 1}",
                    site=site,
                    rack=rack,
                    rack_nodes=nodes,
                    place=place,
                    role=role,
                    model=model,
                    gpu_uuids=tuple(_uuid(machine_id, index) for index in range(gpus_per_node)),
                )
                number += 1
        turn += 1


def _uuid(machine_id: str, index: int) -> str:
    text = digest(machine_id, "gpu", index)
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
