"""What goes wrong in a simulated fleet: chosen by seed, placed in time about the end of the history."""

from typing import Literal

from msgspec import Struct

from collector.simulated.chance import digest, uniform
from collector.simulated.fleet import Node
from collector.simulated.serving import served_by

Amount = Literal["none", "few", "many"]
MINUTE_S = 60
HOUR_S = 3_600
NODES_PER_FAULT = 8
"""With many faults, each kind strikes one node of so many."""


class Faults(Struct, kw_only=True):
    """What goes wrong with one node. Times in s since 1970 UTC, GPUs by their index."""

    silent_from_s: float | None = None
    """It has lost its power: nothing is read and nothing sent from here on."""
    cut_off: bool = False
    """It cannot reach the server for some minutes of every hour, and sends what it kept afterwards."""
    brake: bool = False
    """Its rack's supply pulls the power brake for some minutes every few hours."""
    clock_ahead_s: float = 0.0
    lost: tuple[int, float] | None = None
    """A GPU that falls off the bus, and when."""
    hot: tuple[int, float] | None = None
    """A GPU whose cooling fails, and when."""
    uncorrected: tuple[int, float] | None = None
    """A GPU with an uncorrectable memory error, and when."""
    corrected: int | None = None
    """A GPU with corrected memory errors at a steady rate."""
    restarts: bool = False
    """The process of its engine ends every few hours, and is started again."""
    now_s: float
    """When the history ends: what comes and goes is placed about it."""

    def is_silent(self, time_s: float) -> bool:
        """Whether the node is off."""
        return self.silent_from_s is not None and time_s >= self.silent_from_s

    def is_cut_off(self, time_s: float) -> bool:
        """Whether the node cannot reach the server: minutes 5 to 11 of each hour after now."""
        since_s = time_s - self.now_s
        return self.cut_off and since_s >= 0 and 5 * MINUTE_S <= since_s % HOUR_S < 11 * MINUTE_S

    def is_braked(self, time_s: float) -> bool:
        """Whether the power brake is pulled: six minutes of every six hours, next in twenty minutes."""
        return self.brake and 0 <= (time_s - self.now_s - 20 * MINUTE_S) % (6 * HOUR_S) < 6 * MINUTE_S

    def is_restarted(self, time_s: float, length_s: float) -> bool:
        """Whether the engine is started anew in this time: every six hours, next in ten minutes, between readings."""
        return self.restarts and (self.now_s + 10 * MINUTE_S + 17 - time_s) % (6 * HOUR_S) < length_s


def plan(fleet: list[Node], amount: Amount, *, seed: int, now_s: int, history_s: int) -> list[Faults]:
    """The faults of each node, in the fleet's order.

    Args:
        fleet: the nodes.
        amount: few is one fault of each kind, many is one of each kind for every eight nodes.
        seed: chooses the nodes and GPUs.
        now_s: when the history ends, s since 1970 UTC.
        history_s: how much history there is: a fault is not older than half of it.
    """
    faults = [Faults(now_s=now_s) for _ in fleet]
    if amount == "none" or not fleet:
        return faults
    order = sorted(fleet, key=lambda node: digest(seed, "faults", node.number))
    training = [node for node in order if node.role == "training"] or order
    others = [node for node in order if node.role != "training"]
    if len(others) < 2:
        others = order  # so that the lost GPU is not on the silent node

    def before(hours: float) -> float:
        return now_s - min(hours * HOUR_S, history_s / 2) // MINUTE_S * MINUTE_S

    for turn in range(max(1, len(fleet) // NODES_PER_FAULT) if amount == "many" else 1):
        # Heat and the brake show only where there is load; the rest goes anywhere, each on a node of its own.
        hot = training[turn % len(training)]
        faults[hot.number].hot = (_gpu(hot, seed, "hot"), before(5))
        braked = training[(turn + 1) % len(training)]
        for node in (it for it in fleet if (it.site, it.rack) == (braked.site, braked.rack)):
            faults[node.number].brake = True
        for offset, kind in enumerate(("silent", "lost", "cut", "uncorrected", "corrected", "clock")):
            node = others[(turn * 6 + offset) % len(others)]
            gpu = _gpu(node, seed, kind)
            struck = faults[node.number]
            if kind == "silent" and len(fleet) > 1:
                struck.silent_from_s = before(0.4)
            elif kind == "cut":
                struck.cut_off = True
            elif kind == "lost":
                struck.lost = (gpu, before(3))
            elif kind == "uncorrected":
                struck.uncorrected = (gpu, before(7))
            elif kind == "corrected":
                struck.corrected = gpu
            elif kind == "clock":
                struck.clock_ahead_s = 3.0
        serving = [node for node in others if served_by(node) and faults[node.number].silent_from_s is None]
        if serving:
            faults[serving[turn % len(serving)].number].restarts = True
    return faults


def _gpu(node: Node, seed: int, kind: str) -> int:
    return int(uniform(seed, kind, node.number) * len(node.gpu_uuids))
