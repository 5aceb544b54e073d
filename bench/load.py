"""The load of the ingest benches: eight metrics of simulated GPUs, the same for every store that is fed.

Values are drawn from a random walk for each node and GPU around a level of load (training near the power limit, serving
between, idle), so that they follow each other as real ones do: the model is made up, and its constants are the usual
ones of a 700 W GPU. Energies and powers have the sensor's noise in their last digits, clocks stand at a few levels,
memory hardly moves. All values of a run come from one seed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

GPUS = 8
"""Of a node."""
WINDOW_S = 10
WINDOWS = 6
"""In one post of one node: a minute."""
METRICS = (
    "energy_mj", "power_min_mw", "power_max_mw", "gpu_util_pm", "mem_util_pm", "gpu_temp_max_c", "sm_clock_mhz",
    "mem_used_mib",
)  # fmt: skip
LIMIT_W = 700


class Round(Struct, frozen=True):
    """One post of each node: a minute of the fleet."""

    start: datetime
    values: dict[str, NDArray[np.int32]]
    """By metric, shaped (nodes, WINDOWS, GPUS)."""

    @property
    def gpu_windows(self) -> int:
        """GPU windows in it."""
        return int(self.values["energy_mj"].size)


def rounds(nodes: int, count: int, seed: int = 1) -> Iterator[Round]:
    """Minutes of a fleet, one after the other, the last of which is over now."""
    random = np.random.default_rng(seed)
    kind = random.choice([0.9, 0.55, 0.12], nodes, p=[0.5, 0.35, 0.15])[:, None]
    load = np.repeat(kind, GPUS, axis=1) + random.normal(0, 0.02, (nodes, GPUS))
    temp_c = 35 + 45 * load
    memory_mib = (20_000 + 55_000 * load).astype(np.int32)
    first = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=count)
    for minute in range(count):
        values = {name: np.empty((nodes, WINDOWS, GPUS), np.int32) for name in METRICS}
        for window in range(WINDOWS):
            # Drawn back to the level of its kind, with steps of the node and of each GPU.
            load += 0.2 * (kind - load) + random.normal(0, 0.03, (nodes, 1)) + random.normal(0, 0.01, (nodes, GPUS))
            load = np.clip(load, 0.02, 1.02)
            power_mw = LIMIT_W * 1_000 * (0.1 + 0.9 * load)
            temp_c += 0.1 * (35 + 45 * load - temp_c)
            spread = random.uniform(0.01, 0.12, (2, nodes, GPUS))
            row: dict[str, NDArray[Any]] = {
                "energy_mj": power_mw * WINDOW_S,
                "power_min_mw": power_mw * (1 - spread[0]),
                "power_max_mw": np.minimum(power_mw * (1 + spread[1]), LIMIT_W * 1_020),
                "gpu_util_pm": np.minimum(1_000, 1_080 * load),
                "mem_util_pm": 600 * load + random.normal(0, 5, load.shape).clip(-10, 10) + 10,
                "gpu_temp_max_c": temp_c,
                "sm_clock_mhz": np.where(load > 0.95, 1_755, np.where(load > 0.2, 1_980, 345)),
                "mem_used_mib": memory_mib,
            }
            for name, of_window in row.items():
                values[name][:, window, :] = of_window
        yield Round(first + timedelta(minutes=minute), values)
