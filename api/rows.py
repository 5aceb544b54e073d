"""Windows of many parcels as columns, looked at together: a check costs one numpy call, not one for each batch.

Rows that mean nothing possible are left out and refused by name; the rest of their batch is kept.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from api.decode import Packed, Parcel, refuse
from gigawatch.bodies import NTP
from gigawatch.records import Assignment
from gigawatch.units import MILLISECONDS_PER_MINUTE, MILLISECONDS_PER_SECOND
from gigawatch.wire import (
    ABSENT_TICK,
    Column,
    PackedGpuWindows,
    PackedNodeWindows,
    Refusal,
    columns,
    node_columns,
)

DTYPES: dict[str, np.dtype[Any]] = {"h": np.dtype("<i2"), "i": np.dtype("<i4"), "q": np.dtype("<i8")}
LARGEST_LEAD = timedelta(seconds=60)
"""How far ahead of the server's clock a window may end."""
MOST_GPU_W = 20_000
"""Above any superchip's power. An energy beyond it is a broken counter or unit, and would spoil its group's sums."""
BOUNDS = "Leave out what is not known; docs/api.md lists the bounds."


class Rows(Struct, frozen=True):
    """Windows of one kind; an absent value is its column's wire.Column.absent."""

    parcel: NDArray[np.int32]
    """Place of the row's parcel."""
    columns: dict[str, NDArray[Any]]
    """Those that are required, and those that some row has a value in."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.parcel)

    def chosen(self, good: NDArray[np.bool_]) -> "Rows":
        """Some of them."""
        return Rows(self.parcel[good], {name: values[good] for name, values in self.columns.items()})


class GpuRows(Struct, frozen=True):
    """GPU windows."""

    rows: Rows
    uuids: list[str]
    gpu: NDArray[np.int32]
    """Place in uuids, by row. A GPU stands there once for each parcel and for all that it served."""
    uuid_parcels: NDArray[np.int32]
    """Place of the parcel, by uuid."""
    serves: list[tuple[Assignment, ...]]
    """What it served, by uuid; empty: none served anything."""


class NodeRows(Struct, frozen=True):
    """Node windows."""

    rows: Rows
    first_tick: NDArray[np.int64]
    """Where a row's ticks begin in gpu_power_mw, and in `ticks` how many there are."""
    ticks: NDArray[np.int64]
    gpu_power_mw: NDArray[np.int32]

    def chosen(self, good: NDArray[np.bool_]) -> "NodeRows":
        """Some of them."""
        return NodeRows(self.rows.chosen(good), self.first_tick[good], self.ticks[good], self.gpu_power_mw)


def gpu_rows(parcels: Sequence[Parcel], earliest: datetime) -> GpuRows:
    """The parcels' GPU windows that can be stored; the others go to their parcel's refusals.

    Args:
        parcels: what was received.
        earliest: older windows are no longer taken.
    """
    check = _Check(parcels, [parcel.gpu_windows for parcel in parcels], columns(), earliest)
    uuids: list[str] = []
    serves: list[tuple[Assignment, ...]] = []
    indices = []
    for run in check.runs:
        assert isinstance(run.windows, PackedGpuWindows)
        if run.windows.serves:
            serves += [()] * (len(uuids) - len(serves))
            serves += run.windows.serves[run.first_gpu : run.first_gpu + run.gpus]
        uuids += run.windows.gpu_uuids[run.first_gpu : run.first_gpu + run.gpus]
        indices.append(run.windows.gpu[4 * run.first : 4 * (run.first + run.rows)])
    gpu = np.frombuffer(b"".join(indices), "<i4")
    owned = np.array([packed.gpus for _, packed in check.sources], np.int32)
    check.refuse(
        (gpu < 0) | (gpu >= _spread(owned, check.counts)),
        "gpu",
        lambda row: f"{gpu[row]} is no place in gpu_uuids",
        "Count from 0.",
    )
    firsts = np.cumsum(owned, dtype=np.int32) - owned
    gpu = np.where(check.good, gpu + _spread(firsts, check.counts), 0).astype(np.int32)
    if any(uuid.startswith("MIG-") for uuid in uuids):
        mig = np.array([uuid.startswith("MIG-") for uuid in uuids])
        check.refuse(
            mig[gpu],
            "gpu_uuid",
            lambda row: f"{uuids[gpu[row]]} is a MIG instance",
            "Send the physical GPU's window: its energy is counted once.",
        )
    check.bounds()
    has_energy, has_method = check.present("energy_mj"), check.present("energy_method")
    check.refuse(
        has_energy != has_method,
        "energy_method",
        lambda _: "energy_mj and energy_method come together, or neither",
        "Say how the energy was obtained: 1 counter, 2 interpolated, 3 integrated, 4 estimated.",
    )
    if "energy_mj" in check.columns:
        mean_w = check.columns["energy_mj"].astype(np.int64) // np.maximum(check.columns["covered_ms"], 1)
        check.refuse(
            has_energy & (mean_w > MOST_GPU_W),
            "energy_mj",
            lambda row: f"it is {mean_w[row]} W over covered_ms, and no GPU draws more than {MOST_GPU_W} W",
            "Is it in mJ, and of this window alone?",
        )
    check.times()
    owners = np.repeat(np.array([place for place, _ in check.sources], np.int32), owned)
    if serves:
        serves += [()] * (len(uuids) - len(serves))
    return GpuRows(check.rows(), uuids, gpu[check.good], owners, serves)


def node_rows(parcels: Sequence[Parcel], earliest: datetime) -> NodeRows:
    """The parcels' node windows that can be stored; the others go to their parcel's refusals."""
    check = _Check(parcels, [parcel.node_windows for parcel in parcels], node_columns(), earliest)
    counts, powers = [], []
    for run in check.runs:
        assert isinstance(run.windows, PackedNodeWindows)
        of_windows = np.frombuffer(run.windows.ticks, "<i2")
        end = run.first + run.rows
        before, within = int(of_windows[: run.first].sum()), int(of_windows[run.first : end].sum())
        counts.append(of_windows[run.first : end])
        powers.append(run.windows.gpu_power_mw[4 * before : 4 * (before + within)])
    ticks = np.concatenate([*counts, np.zeros(0, np.int64)])
    power = np.frombuffer(b"".join(powers), "<i4")
    first = np.cumsum(ticks) - ticks
    wrong = np.flatnonzero((power < 0) & (power != ABSENT_TICK))
    if len(wrong):
        bad = np.zeros(len(ticks), bool)
        bad[np.searchsorted(first, wrong, "right") - 1] = True
        check.refuse(bad, "gpu_power_mw", lambda _: "a tick is less than 0", BOUNDS)
    check.bounds()
    check.times()
    return NodeRows(check.rows(), first[check.good], ticks[check.good], power)


class _Run(Struct):
    """Rows of the same windows that follow each other, of one parcel or of many."""

    windows: PackedGpuWindows | PackedNodeWindows
    first: int
    rows: int
    first_gpu: int
    gpus: int

    def takes(self, packed: Packed) -> bool:
        """Lengthen it by these rows, if they come next."""
        if (
            packed.windows is not self.windows
            or packed.first != self.first + self.rows
            or packed.first_gpu != self.first_gpu + self.gpus
        ):
            return False
        self.rows += packed.rows
        self.gpus += packed.gpus
        return True

    def columns(self, sizes: dict[str, int]) -> dict[str, bytes]:
        """The columns of these rows."""
        found = self.windows.columns
        if self.rows == self.windows.rows:
            return found
        first, end = self.first, self.first + self.rows
        return {name: data[first * sizes[name] : end * sizes[name]] for name, data in found.items()}


class _Check:
    """The joined columns of the parcels' windows of one kind, and which of their rows are good so far."""

    def __init__(
        self,
        parcels: Sequence[Parcel],
        windows: Sequence[Sequence[Packed]],
        kinds: Sequence[Column],
        earliest: datetime,
    ) -> None:
        self._parcels = parcels
        self._kinds = {column.name: column for column in kinds}
        self._earliest = earliest
        self.sources = [(place, packed) for place, of_parcel in enumerate(windows) for packed in of_parcel]
        self.counts = np.array([packed.rows for _, packed in self.sources], np.int64)
        self._ends = np.cumsum(self.counts)
        self.runs: list[_Run] = []
        for _, packed in self.sources:
            if not self.runs or not self.runs[-1].takes(packed):
                self.runs.append(_Run(packed.windows, packed.first, packed.rows, packed.first_gpu, packed.gpus))
        sizes = {column.name: DTYPES[column.typecode].itemsize for column in kinds}
        pieces = [(run.columns(sizes), run) for run in self.runs]
        names = {column.name for column in kinds if column.required}.union(*(found for found, _ in pieces))
        self.columns = {
            column.name: np.frombuffer(
                b"".join([found.get(column.name) or column.absent_rows(run.rows) for found, run in pieces]),
                DTYPES[column.typecode],
            )
            for column in kinds
            if column.name in names
        }
        self.good = np.ones(int(self.counts.sum()), bool)

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which rows have a value in a column."""
        if name not in self.columns:
            return np.zeros(len(self.good), bool)
        found: NDArray[np.bool_] = self.columns[name] != self._kinds[name].absent
        return found

    def refuse(self, bad: NDArray[np.bool_], column: str, error: Callable[[int], str], remedy: str) -> None:
        """Leave out the bad rows, with one refusal for each source that has some."""
        bad = bad & self.good
        if not bad.any():
            return
        self.good &= ~bad
        for source in np.unique(np.searchsorted(self._ends, np.flatnonzero(bad), "right")):
            place, packed = self.sources[source]
            begin = int(self._ends[source] - self.counts[source])
            of_source = bad[begin : int(self._ends[source])]
            row = int(np.argmax(of_source))
            refusal = Refusal(
                where=packed.where(row, column),
                error=error(begin + row),
                remedy=remedy,
                count=int(np.count_nonzero(of_source)),
            )
            refuse(self._parcels[place].refused, refusal)

    def bounds(self) -> None:
        """Leave out rows with a value that its sensor cannot mean."""
        for name, values in self.columns.items():
            column = self._kinds[name]
            outside = (values < column.lower) | (values > column.upper)
            if not column.required:
                outside &= values != column.absent
            if outside.any():
                self.refuse(outside, column.name, lambda row: _bounds(column, int(values[row])), BOUNDS)  # noqa: B023 # called at once

    def times(self) -> None:
        """Leave out windows that cross a minute, lie in the future or are too old."""
        start_ms = self.columns["start"]
        end_ms = start_ms + self.columns["covered_ms"]
        self.refuse(
            start_ms // MILLISECONDS_PER_MINUTE != (end_ms - 1) // MILLISECONDS_PER_MINUTE,
            "covered_ms",
            lambda _: "the window crosses a full minute",
            "End windows on full minutes: their length divides 60 s.",
        )
        latest = max((parcel.received for parcel in self._parcels), default=self._earliest) + LARGEST_LEAD
        self.refuse(
            end_ms > latest.timestamp() * MILLISECONDS_PER_SECOND,
            "start",
            lambda row: f"{start_ms[row]} ms since 1970 is in the future",
            NTP,
        )
        self.refuse(
            start_ms < self._earliest.timestamp() * MILLISECONDS_PER_SECOND,
            "start",
            lambda row: (
                f"{start_ms[row]} ms since 1970 is before {self._earliest:%Y-%m-%d %H:%M} UTC,"
                " from when on windows are kept"
            ),
            "Raise retention.windows_d of the server to take older ones.",
        )

    def rows(self) -> Rows:
        """The rows that are good."""
        parcel = np.repeat(np.array([place for place, _ in self.sources], np.int32), self.counts)
        rows = Rows(parcel, self.columns)
        return rows if self.good.all() else rows.chosen(self.good)


def _spread(of_source: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    """A value of each source, for each of its rows."""
    return np.repeat(of_source, counts)


def _bounds(column: Column, value: int) -> str:
    if value == column.absent:
        return "it is absent, and each row needs it"
    return f"{value} is not within {column.lower} to {column.upper}"
