"""Batches of a fleet too great to be modelled node by node, put together from prepared parts.

Some nodes are modelled; all others of their kind and place in the rack copy what those measured, under identities
of their own. What was measured is packed once for all copies of a modelled node; a batch without its windows is a
msgpack map whose members come in an order of our choosing, in two parts: who it is of (kept for each node) and its
number (made once for all batches of a request that have the same). So a batch costs a few copies of bytes.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from collector.simulated.chance import uniform
from collector.simulated.faults import Amount, Faults
from collector.simulated.fleet import NODES_PER_ROUND, ROUNDS_PER_PAIR, SITES, Node
from collector.simulated.machine import SimulatedNode
from collector.simulated.sending import LIVE_TICK_S
from gigawatch.wire import PackedGpuWindows, PackedNodeWindows, merge, pack, pack_nodes

MODELLED_ROUNDS = 8
"""Rounds of racks that are modelled for each pair of sites; the others copy them in turn."""
SILENT_SHARE: dict[Amount, float] = {"none": 0.0, "few": 0.001, "many": 0.01}
"""Share of the nodes that say what they are and then no more."""
SHORT_MAP = 0x80
"""Msgpack's opening of a map, to which the number of its members is added."""

_encode = msgspec.msgpack.encode


class Prepared(Struct, frozen=True):
    """A batch but for its number."""

    opening: bytes
    """Its first members in msgpack, without the map's own opening."""
    members: int
    """How many these are."""
    gpu_windows: PackedGpuWindows | None = None
    node_windows: PackedNodeWindows | None = None

    def numbered(self, ending: bytes) -> bytes:
        """The batch without its windows, with the members that number it."""
        return bytes((SHORT_MAP + self.members + NUMBER_MEMBERS,)) + self.opening + ending


class ModelledNode:
    """A node whose windows are modelled one after another, and kept until nobody needs them."""

    def __init__(self, node: Node, seed: int) -> None:
        self._node = SimulatedNode(node, Faults(now_s=0), seed)
        self._measured: dict[int, tuple[PackedGpuWindows, PackedNodeWindows]] = {}

    def measured(self, start_s: int, window_s: int) -> tuple[PackedGpuWindows, PackedNodeWindows]:
        """What was measured in this window, with its own GPUs' UUIDs."""
        if start_s not in self._measured:
            parcel = self._node.window(start_s, window_s, LIVE_TICK_S)
            assert parcel is not None  # no fault silences it
            self._measured[start_s] = pack(parcel.gpu_windows), pack_nodes(parcel.node_windows)
        return self._measured[start_s]

    def forget(self, before_s: int) -> None:
        """Let go of the windows that start before this time."""
        for start_s in [start_s for start_s in self._measured if start_s < before_s]:
            del self._measured[start_s]


class PreparedFleet:
    """The nodes that one process sends for; they are called by their place among them.

    Args:
        nodes: the nodes.
        seed: the fleet's.
        processes: among how many processes the fleet is shared, round of racks by round.
        amount: what goes wrong: a share of the nodes is silent.
        window_s: length of the windows.
    """

    def __init__(self, nodes: list[Node], *, seed: int, processes: int, amount: Amount, window_s: int) -> None:
        self.nodes = nodes
        self.silent = {
            place for place, node in enumerate(nodes) if uniform(seed, "silent", node.number) < SILENT_SHARE[amount]
        }
        self._window_s = window_s
        self._seed = seed
        self._spool_ids = [f"sim-{secrets.token_hex(12)}" for _ in nodes]
        self._openings = [_opening(node, spool_id) for node, spool_id in zip(nodes, self._spool_ids, strict=True)]
        self._gpu_uuids = [list(node.gpu_uuids) for node in nodes]
        models: dict[tuple[int, int, int], ModelledNode] = {}
        self._models = []
        for node in nodes:
            turn, in_round = divmod(node.number, NODES_PER_ROUND)
            # Of the same hour, the same work and the same rack-mates. Neighbours copy different rounds:
            # repetitions within a request would make it smaller than a fleet's own, once compressed.
            kind = (turn // ROUNDS_PER_PAIR % len(SITES), turn // processes % MODELLED_ROUNDS, in_round)
            if kind not in models:
                models[kind] = ModelledNode(node, seed)
            self._models.append(models[kind])
        self._modelled = list(models.values())

    def introductions(self, places: Sequence[int], time_s: int) -> list[Prepared]:
        """The batches in which these nodes say what they are."""
        made = []
        for place in places:
            first = SimulatedNode(self.nodes[place], Faults(now_s=0), self._seed).introduction(time_s)
            more = _members(inventory=first.inventory, events=first.events)
            made.append(Prepared(self._openings[place] + more, NODE_MEMBERS + 2))
        return made

    def windows(self, places: Sequence[int], start_s: int) -> list[Prepared]:
        """The batches with these nodes' windows of this start."""
        made = []
        for place in places:
            packed, of_node = self._models[place].measured(start_s, self._window_s)
            own = PackedGpuWindows(
                rows=packed.rows, gpu_uuids=self._gpu_uuids[place], gpu=packed.gpu, columns=packed.columns
            )
            made.append(Prepared(self._openings[place], NODE_MEMBERS, own, of_node))
        return made

    def forget(self, before_s: int) -> None:
        """Let go of the windows that start before this time."""
        for model in self._modelled:
            model.forget(before_s)


def body(batches: Sequence[Prepared], seqs: Sequence[int], sent_at: datetime, *, is_relay: bool) -> bytes:
    """What a relay sends, or an agent its only batch.

    Args:
        batches: of PreparedFleet.introductions or .windows.
        seqs: their numbers in the spools of their nodes.
        sent_at: the nodes' time.
        is_relay: whether a relay sends them.
    """
    time = _members(sent_at=sent_at)
    ends = {seq: time + _members(oldest_seq=seq, seq=seq) for seq in set(seqs)}
    if is_relay:
        return merge(
            [Raw(it.numbered(ends[seq])) for it, seq in zip(batches, seqs, strict=True)],
            [it.gpu_windows for it in batches],
            [it.node_windows for it in batches],
        )
    (batch,), (seq,) = batches, seqs
    if batch.gpu_windows is None:
        return batch.numbered(ends[seq])
    windows = _members(packed_gpu_windows=batch.gpu_windows, packed_node_windows=batch.node_windows)
    return Prepared(batch.opening + windows, batch.members + 2).numbered(ends[seq])


def _opening(node: Node, spool_id: str) -> bytes:
    return _members(machine_id=node.machine_id, spool_id=spool_id, simulated=True)


NODE_MEMBERS = 3
"""As many as _opening makes."""
NUMBER_MEMBERS = 3
"""As many as a number and its time need."""


def _members(**members: object) -> bytes:
    return b"".join(_encode(name) + _encode(value) for name, value in members.items())
