"""What all processes of one `gigawatch serve` counted together, whichever of them is asked.

Each process adds to a file of its own in a folder that they share, and that outlives it: the sum over the files never
falls, though a process may. Memory is mapped, so that a number is there for the others as soon as it is counted.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

FOLDER = "GIGAWATCH_COUNTS"
"""Environment variable with the folder; without it a process knows of itself alone."""
WAITING_BYTES = "waiting_bytes"
"""Not a count: a process that ended has none."""
NAMES = (
    "batches", "duplicates", "gpu_windows", "node_windows", "serving_windows", "meter_windows", "refused",
    "transactions", "failed", "turned_away", WAITING_BYTES,
)  # fmt: skip


@contextmanager
def sharing() -> Iterator[None]:
    """Let the processes that are started meanwhile count together."""
    with TemporaryDirectory(prefix="gigawatch-counts-") as folder:
        os.environ[FOLDER] = folder
        yield


class Counts:
    """This process's numbers; each is written by one thread at a time.

    Args:
        folder: that of all processes; None: there are no others.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own: NDArray[np.int64] = np.zeros(len(NAMES), np.int64)
        if folder is not None:
            path = folder / str(os.getpid())
            # One that had our number before is gone, and what it counted goes on.
            with path.open("ab") as file:
                file.truncate(self._own.nbytes)
            self._own = np.asarray(np.memmap(path, np.int64, "r+"))
            self.set(WAITING_BYTES, 0)

    @classmethod
    def of_environment(cls) -> "Counts":
        """Those of a serving process."""
        folder = os.environ.get(FOLDER)
        return cls(None if folder is None else Path(folder))

    def add(self, name: str, count: int) -> None:
        """Count something."""
        self._own[NAMES.index(name)] += count

    def set(self, name: str, value: int) -> None:
        """Note a value that is no count."""
        self._own[NAMES.index(name)] = value

    def totals(self) -> dict[str, int]:
        """The sums over all processes."""
        total = self._own.copy()
        for path in self._folder.iterdir() if self._folder is not None else ():
            if path.name != str(os.getpid()):
                total += self._of_other(path)
        return dict(zip(NAMES, total.tolist(), strict=True))

    def _of_other(self, path: Path) -> NDArray[np.int64]:
        values = np.fromfile(path, np.int64)
        if len(values) != len(NAMES):
            # It has just been made.
            return np.zeros_like(self._own)
        if not _lives(int(path.name)):
            values[NAMES.index(WAITING_BYTES)] = 0
        return values


def _lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
