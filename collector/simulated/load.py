"""What the nodes work on, as a function of time alone, so that a restarted fleet goes on with the same work.

Nodes of one rack share their work: a training job spans the rack and dips on all its nodes at once.
"""

import math
from typing import NamedTuple, Protocol

from collector.simulated.chance import digest, smooth, uniform
from collector.simulated.fleet import Node

HOUR_S = 3_600
DAY_S = 86_400
CHECKPOINT_EVERY_S = 1_800
CHECKPOINT_S = 40
LOADING_S = 180
"""Time that a job reads its data before it computes."""


class Load(NamedTuple):
    """What a node's GPUs are asked for at one tick, each from 0 to 1."""

    util: float
    """Share of time in which a kernel runs."""
    draw: float
    """Share of the way from the power of a waiting process to the peak; above 1 the GPU is to be capped."""
    mem: float
    """Share of the memory in use; 0 where there is no process."""


IDLE = Load(0.0, 0.0, 0.0)


class Work(Protocol):
    """What a node works on."""

    process: str
    """Name of the process on its GPUs."""

    def at(self, time_s: float) -> Load:
        """The load at this time, s since 1970 UTC."""
        ...


class Job(NamedTuple):
    """One training run. Times in s since 1970 UTC."""

    start_s: float
    end_s: float
    step_s: float
    draw: float


class Training:
    """Runs of hours one after another, with short pauses between; each step and each checkpoint is a dip."""

    process = "torchrun"

    def __init__(self, node: Node, seed: int) -> None:
        self._key = digest(seed, "training", node.site.name, node.rack)
        self._day = -1
        self._jobs: list[Job] = []

    def at(self, time_s: float) -> Load:
        """The load at this time, s since 1970 UTC."""
        day = int(time_s // DAY_S)
        if day != self._day:
            self._day, self._jobs = day, self._planned(day)
        for job in self._jobs:
            if job.start_s <= time_s < job.end_s:
                return self._of(job, time_s - job.start_s)
        return IDLE

    def _of(self, job: Job, since_s: float) -> Load:
        if since_s < LOADING_S:
            return Load(0.08, 0.04, 0.2 + 0.7 * since_s / LOADING_S)
        if since_s % CHECKPOINT_EVERY_S >= CHECKPOINT_EVERY_S - CHECKPOINT_S:
            return Load(0.2, 0.1, 0.93)
        if since_s % job.step_s >= 0.86 * job.step_s:
            return Load(0.85, 0.5, 0.93)  # gradients are exchanged
        return Load(1.0, job.draw, 0.93)

    def _planned(self, day: int) -> list[Job]:
        jobs = []
        start_s, end_of_day = float(day * DAY_S), float((day + 1) * DAY_S)
        while start_s < end_of_day:
            key = (self._key, start_s)
            start_s += 300 + 2_400 * uniform(*key, "pause")
            end_s = min(start_s + (2.5 + 7 * uniform(*key, "length")) * HOUR_S, end_of_day)
            draw = 0.86 + 0.2 * uniform(*key, "draw")
            jobs.append(Job(start_s, end_s, 5.3 + 9 * uniform(*key, "step"), draw))
            start_s = end_s
        return jobs


class Inference:
    """Requests that follow the local day and week; nodes are taken into service as demand needs them."""

    process = "vllm"

    def __init__(self, node: Node, seed: int) -> None:
        key = digest(seed, "inference", node.site.name, node.rack)
        self._seed = int(key[:8], 16)
        self._peak = 0.82 + 0.14 * uniform(key, "peak")
        self._offset_s = node.site.utc_offset_h * HOUR_S
        self._nodes = node.rack_nodes
        self._place = node.place

    def at(self, time_s: float) -> Load:
        """The load at this time, s since 1970 UTC."""
        demand = self._peak * day_curve(time_s + self._offset_s)
        serving = min(self._nodes, math.ceil(self._nodes * demand / 0.85))
        if self._place >= serving:
            return IDLE
        # Swells of minutes and bursts of seconds, the same on all nodes behind one balancer.
        swell = 0.85 + 0.3 * smooth(self._seed, time_s / 420)
        burst = 0.88 + 0.24 * smooth(self._seed + 1, time_s / 4)
        util = min(1.0, self._nodes * demand / serving * swell * burst)
        return Load(util, 0.76 * util**0.7, 0.88)


class Research:
    """People who try things: some minutes of work, more of them by day."""

    process = "python3"

    def __init__(self, node: Node, seed: int) -> None:
        self._key = digest(seed, "research", node.site.name, node.rack)
        self._offset_s = node.site.utc_offset_h * HOUR_S
        self._block = -1
        self._load = IDLE

    def at(self, time_s: float) -> Load:
        """The load at this time, s since 1970 UTC."""
        block = int(time_s // 1_200)
        if block != self._block:
            self._block, self._load = block, self._planned(block, time_s)
        return self._load

    def _planned(self, block: int, time_s: float) -> Load:
        if uniform(self._key, block, "busy") > day_curve(time_s + self._offset_s):
            return IDLE
        util = 0.25 + 0.75 * uniform(self._key, block, "util")
        return Load(util, 0.95 * util, 0.15 + 0.7 * uniform(self._key, block, "mem"))


def day_curve(local_s: float) -> float:
    """Demand over the day: least (0.25) at 4 h, most (1) at 16 h; at weekends 0.75 of it."""
    hours = local_s / HOUR_S
    share = 0.625 - 0.375 * math.cos((hours - 4) / 24 * math.tau)
    # 1 January 1970 was a Thursday.
    weekend = int(local_s // DAY_S) % 7 in {2, 3}
    return share * (0.75 if weekend else 1.0)


def work_of(node: Node, seed: int) -> Work:
    """The work of this node."""
    if node.role == "training":
        return Training(node, seed)
    return Inference(node, seed) if node.role == "inference" else Research(node, seed)
