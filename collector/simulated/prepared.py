"""Batches of a fleet too great to be modelled node by node, put together from prepared parts.

Some nodes are modelled; all others of their kind and place in the rack copy what those measured, under identities
of their own. A batch is a msgpack map whose members come in an order of our choosing, in three parts: who it is of
(kept for each node), what was measured (made once for all copies of a modelled node) and its number (made once for
all batches of a request that have the same). So a batch costs a few copies of bytes.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime

import msgspec

from collector.simulated.chance import uniform
from collector.simulated.faults import Amount, Faults
from collector.simulated.fleet import NODES_PER_ROUND, ROUNDS_PER_PAIR, SITES, Node
from collector.simulated.machine import SimulatedNode
from collector.simulated.sending import LIVE_TICK_S
from gigawatch.wire import pack, pack_nodes

MODELLED_ROUNDS = 8
"""Rounds of racks that are modelled for each pair of sites; the others copy them in turn."""
SILENT_SHARE: dict[Amount, float] = {"none": 0.0, "few": 0.001, "many": 0.01}
"""Share of the nodes that say what they are and then no more."""
BATCH_MAP = b"\x88"
PACKED_MAP = b"\x84"
"""Msgpack's openings of maps with eight and with four members."""

_encode = msgspec.msgpack.encode


class ModelledNode:
    """A node whose windows are modelled one after another, and kept until nobody needs them."""

    def __init__(self, node: Node, seed: int) -> None:
        self._node = SimulatedNode(node, Faults(now_s=0), seed)
        self._measured: dict[int, bytes] = {}

    def measured(self, start_s: int, window_s: int) -> bytes:
        """What was measured in this window, as the end of one batch member and the next."""
        if start_s not in self._measured:
            parcel = self._node.window(start_s, window_s, LIVE_TICK_S)
            assert parcel is not None  # no fault silences it
            packed = pack(parcel.gpu_windows)
            self._measured[start_s] = _members(rows=packed.rows, gpu=packed.gpu, columns=packed.columns) + _members(
                packed_node_windows=pack_nodes(parcel.node_windows)
            )
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
        self._heads = [
            _opening(node, spool_id) + _encode("packed_gpu_windows") + PACKED_MAP + _members(gpu_uuids=node.gpu_uuids)
            for node, spool_id in zip(nodes, self._spool_ids, strict=True)
        ]
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

    def introductions(self, places: Sequence[int], time_s: int) -> list[bytes]:
        """The batches in which these nodes say what they are, but for their numbers."""
        made = []
        for place in places:
            node = self.nodes[place]
            first = SimulatedNode(node, Faults(now_s=0), self._seed).introduction(time_s)
            made.append(
                _opening(node, self._spool_ids[place]) + _members(inventory=first.inventory, events=first.events)
            )
        return made

    def windows(self, places: Sequence[int], start_s: int) -> list[bytes]:
        """The batches with these nodes' windows of this start, but for their numbers."""
        return [self._heads[place] + self._models[place].measured(start_s, self._window_s) for place in places]

    def forget(self, before_s: int) -> None:
        """Let go of the windows that start before this time."""
        for model in self._modelled:
            model.forget(before_s)


def numbered(batches: Sequence[bytes], seqs: Sequence[int], sent_at: datetime) -> bytes:
    """The batches one after another, each with its number.

    Args:
        batches: of PreparedFleet.introductions or .windows.
        seqs: their numbers in the spools of their nodes.
        sent_at: the nodes' time.
    """
    time = _members(sent_at=sent_at)
    ends = {seq: time + _members(oldest_seq=seq, seq=seq) for seq in set(seqs)}
    return b"".join([part for batch, seq in zip(batches, seqs, strict=True) for part in (batch, ends[seq])])


def array_opening(count: int) -> bytes:
    """Msgpack's opening of an array of so many items, always in the same form."""
    return b"\xdd" + count.to_bytes(4)


def _opening(node: Node, spool_id: str) -> bytes:
    return BATCH_MAP + _members(machine_id=node.machine_id, spool_id=spool_id, simulated=True)


def _members(**members: object) -> bytes:
    return b"".join(_encode(name) + _encode(value) for name, value in members.items())
