"""The load of the ingest benches: eight metrics of a simulated fleet, the same values for every store that is fed.

How well a store compresses depends on how values follow each other, so each GPU is walked through time at 1 Hz and its
ticks are gathered into windows of 10 s as the agent does: energy, least and greatest power, means of utilisation and
clock, greatest temperature and memory. Nodes stand in groups of 16 that do the same work: half of the groups train,
35 % serve, 15 % are idle.

Drawn from what is published:

- 700 W, 80 GB (81,559 MiB as NVML counts) and 1,980 MHz at most, in steps of 15 MHz: an H100 SXM.
- Training draws near its limit, with dips between compute and communication that all GPUs of a job make together:
  Choukse et al., "Power Stabilization for AI Training Datacenters", 2025; Patel et al., "Characterizing Power
  Management Opportunities for LLMs in the Cloud" (POLCA), ASPLOS 2024.
- Serving is bursty and follows the day, and stays below the limit on average: POLCA as well.
- GPUs of one model differ by a few per cent at the same work: Sinha et al., "Not All GPUs Are Created Equal",
  SC 2022.

Made up, to look like readings: the shares of work, all lengths of time (a dip of 0.5 to 1.5 s each 4 to 12 s), the
depth of dips, the noise of the sensor, idle power of 75 W, what memory is held, and how temperature follows power.

All of it comes from one seed, by blocks of nodes: a greater fleet has the smaller one in it.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gigawatch import wire
from gigawatch.wire import PackedGpuWindows

GPUS = 8
"""Of a node."""
WINDOW_S = 10
WINDOWS = 6
"""In one post of one node: a minute."""
METRICS = (
    "energy_mj", "power_min_mw", "power_max_mw", "gpu_util_pm", "mem_util_pm", "gpu_temp_max_c", "sm_clock_mhz",
    "mem_used_mib",
)  # fmt: skip
MODEL = "NVIDIA H100 80GB HBM3"
LIMIT_MW, IDLE_MW = 700_000, 75_000
CLOCK_MHZ, IDLE_CLOCK_MHZ, CLOCK_STEP_MHZ = 1_980, 345, 15
MEMORY_MIB = 81_559
DAY_S = 86_400
GROUP = 16
"""Nodes that do the same work."""
BLOCK = 16 * GROUP
"""Nodes simulated together: their arrays stay in the processor's cache."""
SHARES = {"training": 0.5, "serving": 0.35, "idle": 0.15}
TYPES = {column.name: np.dtype(f"<{column.typecode}") for column in wire.columns()}
"""How each column travels (gigawatch.wire): the arrays here are kept that way."""

Column = NDArray[np.signedinteger]


class Round(Struct, frozen=True):
    """One post of each node: a minute of the fleet."""

    start: datetime
    values: dict[str, Column]
    """By metric, shaped (nodes, WINDOWS, GPUS)."""

    @property
    def nodes(self) -> int:
        """Nodes in it."""
        return len(self.values["energy_mj"])

    @property
    def gpu_windows(self) -> int:
        """GPU windows in it."""
        return int(self.values["energy_mj"].size)

    @property
    def start_ms(self) -> int:
        """Start of the first window, ms since 1970 UTC."""
        return round(self.start.timestamp() * 1_000)

    def packed(self, node: int) -> PackedGpuWindows:
        """What a node sends, as columns: row after row the GPUs of one window, then those of the next."""
        columns = {"start": (self.start_ms + STARTS_MS).tobytes(), **FIXED}
        columns |= {name: values[node].tobytes() for name, values in self.values.items()}
        return PackedGpuWindows(rows=WINDOWS * GPUS, gpu_uuids=uuids(node), gpu=SLOTS, columns=columns)


class Load(Struct, frozen=True):
    """Minutes of a fleet."""

    start: datetime
    values: dict[str, Column]
    """By metric, shaped (rounds, nodes, WINDOWS, GPUS)."""

    def __len__(self) -> int:
        return len(self.values["energy_mj"])

    def __getitem__(self, place: int) -> Round:
        if place >= len(self):
            raise IndexError(place)
        start = self.start + timedelta(minutes=place)
        return Round(start, {name: values[place] for name, values in self.values.items()})

    def __iter__(self) -> Iterator[Round]:
        return (self[place] for place in range(len(self)))


STARTS_MS = np.repeat(np.arange(WINDOWS) * WINDOW_S * 1_000, GPUS).astype("<i8")
SLOTS = np.tile(np.arange(GPUS), WINDOWS).astype("<i4").tobytes()
FIXED = {
    name: np.full(WINDOWS * GPUS, value, TYPES[name]).tobytes()
    for name, value in {
        "covered_ms": WINDOW_S * 1_000, "ticks_taken": WINDOW_S, "ticks_expected": WINDOW_S, "energy_method": 1,
    }.items()
}  # fmt: skip
"""Columns that every round of every node has alike."""


def hostname(node: int) -> str:
    """Of a node."""
    return f"node-{node:05d}"


def site(node: int) -> str:
    """Where a node stands."""
    return f"site-{node % 3}"


def uuids(node: int) -> list[str]:
    """Of a node's GPUs, as long as real ones."""
    mixed = (node * 0x9E3779B97F4A7C15) % 2**64
    tail = f"{mixed >> 48:04x}-{mixed >> 32 & 0xFFFF:04x}-{mixed >> 16 & 0xFFFF:04x}"
    return [f"GPU-{node:08x}-{tail}-{mixed & 0xFFFF:04x}{gpu:08x}" for gpu in range(GPUS)]


def make(nodes: int, count: int, seed: int = 1, start: datetime | None = None) -> Load:
    """So many minutes of so many nodes; by default the last of them is over now."""
    if start is None:
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=count)
    values = {name: np.empty((count, nodes, WINDOWS, GPUS), TYPES[name]) for name in METRICS}
    for first in range(0, nodes, BLOCK):
        block = _Block(min(BLOCK, nodes - first), np.random.default_rng([seed, first]))
        since_midnight_s = (start - start.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        for window in range(count * WINDOWS):
            row = block.window(since_midnight_s + window * WINDOW_S)
            for name, of_gpus in row.items():
                place = values[name][window // WINDOWS, first : first + BLOCK, window % WINDOWS]
                place[...] = of_gpus.reshape(-1, GPUS)
    return Load(start, values)


def rounds(nodes: int, count: int, seed: int = 1) -> Iterator[Round]:
    """The same, one minute after the other."""
    return iter(make(nodes, count, seed))


class _Block:
    """Some nodes on their way through time."""

    def __init__(self, nodes: int, random: np.random.Generator) -> None:
        self._random = random
        # Always drawn for a full block, so that a node does the same in a greater fleet.
        groups, self._gpus, self._used = BLOCK // GROUP, BLOCK * GPUS, nodes * GPUS
        of_group = GROUP * GPUS
        kinds = random.choice(len(SHARES), groups, p=list(SHARES.values()))

        def each(values: NDArray[np.floating], repeat: int = of_group) -> NDArray[np.float32]:
            return np.repeat(values, repeat).astype(np.float32)[:, None]

        kind = np.repeat(kinds, of_group)[:, None]
        self._training, self._serving, self._idle = (kind == number for number in range(3))
        self._period_s = each(random.uniform(4, 12, groups))
        self._phase_s = each(random.uniform(0, 12, groups))
        self._dip_s = each(random.uniform(0.5, 1.5, groups))
        self._dip_depth = each(random.uniform(0.35, 0.6, groups))
        self._own = random.normal(1, 0.015, (self._gpus, 1)).astype(np.float32)
        self._busy = np.zeros((self._gpus, 1), np.float32)
        self._burst = np.zeros((BLOCK, 1), np.float32)
        self._inlet_c = each(random.normal(28, 2, BLOCK), GPUS) + random.normal(0, 2, (self._gpus, 1))
        self._temp_c = self._inlet_c + np.where(self._idle, 5.0, 35.0)
        self._clock_mhz = CLOCK_MHZ - CLOCK_STEP_MHZ * random.integers(4, 16, (self._gpus, 1))
        held = random.uniform(0.7, 0.97, groups)
        self._memory_mib = each(held * MEMORY_MIB) + random.integers(-40, 40, (self._gpus, 1))
        self._memory_mib = np.where(self._idle, 530.0, self._memory_mib).astype(np.float32)

    def window(self, second: float) -> dict[str, NDArray[np.floating]]:
        """The next window, which starts so many seconds after midnight: each metric by GPU."""
        random, gpus = self._random, self._gpus
        shape = (gpus, WINDOW_S)
        ticks_s = (second + np.arange(WINDOW_S)).astype(np.float32)
        dip = self._training & (((ticks_s + self._phase_s) % self._period_s) < self._dip_s)

        # What each GPU does in training, and each node in serving, is drawn back to its mean.
        self._busy = 0.9 * self._busy + random.normal(0, 0.004, (gpus, 1)).astype(np.float32)
        self._burst = 0.85 * self._burst + random.normal(0, 0.12, (BLOCK, 1)).astype(np.float32)
        of_day = 0.55 + 0.25 * np.sin(2 * np.pi * (second / DAY_S - 0.3))
        demand = np.repeat(of_day * np.exp(self._burst), GPUS, axis=0)
        noise = random.standard_normal(shape, np.float32)
        serving = np.maximum(demand + 0.15 * noise, 0)

        share = 0.97 * self._own + self._busy + 0.006 * noise - dip * self._dip_depth
        power_mw = np.where(self._training, share * LIMIT_MW, IDLE_MW + serving * (0.55 * LIMIT_MW))
        power_mw = np.where(self._idle, self._own * IDLE_MW + 250 * noise, power_mw)
        # The limiter holds the mean: single readings go over it a little.
        power_mw = np.minimum(power_mw, LIMIT_MW * (1 + 0.004 * np.abs(noise)))
        mean_mw = power_mw.mean(axis=1, keepdims=True)
        energy_mj = mean_mw * WINDOW_S * (1 + random.normal(0, 0.002, (gpus, 1)).astype(np.float32))

        # NVML gives whole per cents; ten ticks of them add up to per mille.
        util = np.where(self._training, 100 - dip * 15, np.minimum(100, 120 * serving))
        util_pm = np.where(self._idle, 0, np.floor(util)).sum(axis=1)
        mem_util = np.where(self._training, 58 - dip * 40 + 2 * noise, 45 * serving)
        mem_util_pm = np.where(self._idle, 0, np.floor(np.clip(mem_util, 0, 100))).sum(axis=1)

        self._temp_c += 0.15 * (self._inlet_c + 45 * mean_mw / LIMIT_MW - self._temp_c)
        clock_mhz = np.where(self._training & ~dip, self._clock_mhz, np.where(self._idle, IDLE_CLOCK_MHZ, CLOCK_MHZ))
        changes = (random.random((gpus, 1), np.float32) < 0.002) & ~self._idle
        self._memory_mib += changes * random.integers(-300, 300, (gpus, 1))
        np.minimum(self._memory_mib, MEMORY_MIB - 500, out=self._memory_mib)
        row = {
            "energy_mj": energy_mj,
            "power_min_mw": power_mw.min(axis=1),
            "power_max_mw": power_mw.max(axis=1),
            "gpu_util_pm": util_pm,
            "mem_util_pm": mem_util_pm,
            "gpu_temp_max_c": self._temp_c,
            "sm_clock_mhz": np.rint(clock_mhz.mean(axis=1)),
            "mem_used_mib": self._memory_mib,
        }
        return {name: values.reshape(-1)[: self._used] for name, values in row.items()}


def main() -> None:
    """Make the largest load that the benches use, and show a GPU here and there."""
    began_s = time.perf_counter()
    load = make(7_500, 20)
    took_s = time.perf_counter() - began_s
    size = sum(values.nbytes for values in load.values.values())
    print(f"{load.values['energy_mj'].size:,} GPU windows in {took_s:.1f} s, {size / 2**20:.0f} MiB")
    for node in range(0, 7_500, 1_000):
        for name, values in load.values.items():
            print(f"{hostname(node)} {name:16}", *values[:2, node, :, 0].reshape(-1))
    began_s = time.perf_counter()
    for node in range(7_500):
        load[0].packed(node)
    print(f"{(time.perf_counter() - began_s) / 7_500 * 1e6:.1f} µs to pack a node's round")


if __name__ == "__main__":
    main()
