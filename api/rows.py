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
MOST_TICKS = 6_000
MOST_GPU_W = 20_000
"""Above any superchip's power. An energy beyond it is a broken counter or unit, and would spoil its group's sums."""
_ABSENT = {kind: np.iinfo(dtype).min.to_bytes(dtype.itemsize, "little", signed=True) for kind, dtype in DTYPES.items()}
BOUNDS = "Leave out what is not known; docs/api.md lists the bounds."


class _Shape(Struct, frozen=True):
    """What columns there may be."""

    sizes: dict[str, int]
    """Bytes of a value, by column."""
    required: frozenset[str]

    @classmethod
    def of(cls, kinds: Sequence[Column]) -> "_Shape":
        """The shape of these columns."""
        sizes = {column.name: DTYPES[column.typecode].itemsize for column in kinds}
        return cls(sizes, frozenset(column.name for column in kinds if column.required))


_GPU_SHAPE, _NODE_SHAPE = _Shape.of(columns()), _Shape.of(node_columns())


class Rows(Struct, frozen=True):
    """Windows of one kind; an absent value is its column's wire.Column.absent."""

    parcel: NDArray[np.int32]
    """Place of the row's parcel."""
    columns: dict[str, NDArray[Any]]

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
    """Place in uuids, by row. A GPU stands there once for each parcel."""
    uuid_parcels: NDArray[np.int32]
    """Place of the parcel, by uuid."""


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
    sources = [
        (place, packed, packed.windows)
        for place, parcel in enumerate(parcels)
        for packed in parcel.gpu_windows
        if isinstance(packed.windows, PackedGpuWindows) and _sound(packed, parcel, _GPU_SHAPE)
    ]
    uuids: list[str] = []
    firsts = []
    for _, _, windows in sources:
        firsts.append(len(uuids))
        uuids.extend(windows.gpu_uuids)
    check = _Check(parcels, [(place, packed) for place, packed, _ in sources], columns(), earliest)
    gpu = np.frombuffer(b"".join([windows.gpu for _, _, windows in sources]), "<i4")
    owned = np.array([len(windows.gpu_uuids) for _, _, windows in sources], np.int32)
    check.refuse(
        (gpu < 0) | (gpu >= _spread(owned, check.counts)),
        "gpu",
        lambda row: f"{gpu[row]} is no place in gpu_uuids",
        "Count from 0.",
    )
    gpu = np.where(check.good, gpu + _spread(np.array(firsts, np.int32), check.counts), 0).astype(np.int32)
    mig = np.array([uuid.startswith("MIG-") for uuid in uuids] or [False])
    if mig.any():
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
    mean_w = check.columns["energy_mj"].astype(np.int64) // np.maximum(check.columns["covered_ms"], 1)
    check.refuse(
        has_energy & (mean_w > MOST_GPU_W),
        "energy_mj",
        lambda row: f"it is {mean_w[row]} W over covered_ms, and no GPU draws more than {MOST_GPU_W} W",
        "Is it in mJ, and of this window alone?",
    )
    check.times()
    owners = np.repeat(np.array([place for place, _, _ in sources], np.int32), owned)
    return GpuRows(check.rows(), uuids, gpu[check.good], owners)


def node_rows(parcels: Sequence[Parcel], earliest: datetime) -> NodeRows:
    """The parcels' node windows that can be stored; the others go to their parcel's refusals."""
    sources = [
        (place, packed, packed.windows)
        for place, parcel in enumerate(parcels)
        for packed in parcel.node_windows
        if isinstance(packed.windows, PackedNodeWindows)
        and _sound(packed, parcel, _NODE_SHAPE)
        and _sound_ticks(packed, packed.windows, parcel)
    ]
    check = _Check(parcels, [(place, packed) for place, packed, _ in sources], node_columns(), earliest)
    ticks = np.frombuffer(b"".join([windows.ticks for _, _, windows in sources]), "<i2").astype(np.int64)
    power = np.frombuffer(b"".join([windows.gpu_power_mw for _, _, windows in sources]), "<i4")
    first = np.cumsum(ticks) - ticks
    wrong = np.flatnonzero((power < 0) & (power != ABSENT_TICK))
    if len(wrong):
        bad = np.zeros(len(ticks), bool)
        bad[np.searchsorted(first, wrong, "right") - 1] = True
        check.refuse(bad, "gpu_power_mw", lambda _: "a tick is less than 0", BOUNDS)
    check.bounds()
    check.times()
    return NodeRows(check.rows(), first[check.good], ticks[check.good], power)


class _Check:
    """The joined columns of some sources, and which of their rows are good so far."""

    def __init__(
        self,
        parcels: Sequence[Parcel],
        sources: Sequence[tuple[int, Packed]],
        kinds: Sequence[Column],
        earliest: datetime,
    ) -> None:
        self._parcels = parcels
        self._sources = sources
        self._kinds = {column.name: column for column in kinds}
        self._earliest = earliest
        self.counts = np.array([packed.windows.rows for _, packed in sources], np.int64)
        self._ends = np.cumsum(self.counts)
        self.columns = {
            column.name: np.frombuffer(
                b"".join(
                    [
                        packed.windows.columns.get(column.name) or _ABSENT[column.typecode] * packed.windows.rows
                        for _, packed in sources
                    ]
                ),
                DTYPES[column.typecode],
            )
            for column in kinds
        }
        self.good = np.ones(int(self.counts.sum()), bool)

    def present(self, name: str) -> NDArray[np.bool_]:
        """Which rows have a value in a column."""
        found: NDArray[np.bool_] = self.columns[name] != self._kinds[name].absent
        return found

    def refuse(self, bad: NDArray[np.bool_], column: str, error: Callable[[int], str], remedy: str) -> None:
        """Leave out the bad rows, with one refusal for each source that has some."""
        bad = bad & self.good
        if not bad.any():
            return
        self.good &= ~bad
        for source in np.unique(np.searchsorted(self._ends, np.flatnonzero(bad), "right")):
            place, packed = self._sources[source]
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
        for column in self._kinds.values():
            values = self.columns[column.name]
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
        parcel = np.repeat(np.array([place for place, _ in self._sources], np.int32), self.counts)
        rows = Rows(parcel, self.columns)
        return rows if self.good.all() else rows.chosen(self.good)


def _sound(packed: Packed, parcel: Parcel, shape: "_Shape") -> bool:
    """Whether all columns are as long as there are rows; if not, all rows of the source are refused."""
    windows = packed.windows
    found = windows.columns
    if (
        windows.rows
        and shape.required <= found.keys()
        and all(len(data) == shape.sizes.get(name, -1) * windows.rows for name, data in found.items())
        and (not isinstance(windows, PackedGpuWindows) or len(windows.gpu) == 4 * windows.rows)
    ):
        # As it nearly always is.
        return True
    return _refuse_unsound(packed, parcel, shape)


def _refuse_unsound(packed: Packed, parcel: Parcel, shape: "_Shape") -> bool:
    windows = packed.windows
    faults = []
    if isinstance(windows, PackedGpuWindows) and len(windows.gpu) != 4 * windows.rows:
        faults.append(("gpu", f"{len(windows.gpu)} bytes, and {windows.rows} rows need {4 * windows.rows}"))
    for name, data in windows.columns.items():
        size = shape.sizes.get(name)
        if size is None:
            unknown = Refusal(
                where=f"{packed.name}.columns.{name[:60]}",
                error="there is no such column; the others are kept",
                remedy="docs/api.md lists the columns.",
            )
            refuse(parcel.refused, unknown)
        elif len(data) != size * windows.rows:
            error = f"{len(data)} bytes, and {windows.rows} rows need {size * windows.rows}"
            faults.append((f"columns.{name}", error))
    faults += [
        (f"columns.{name}", "it is missing, and each row needs it")
        for name in sorted(shape.required - windows.columns.keys())
    ]
    if windows.rows:
        for where, error in faults:
            refusal = Refusal(
                where=f"{packed.name}.{where}", error=error, remedy="Pack all columns alike.", count=windows.rows
            )
            refuse(parcel.refused, refusal)
    return windows.rows > 0 and not faults


def _sound_ticks(packed: Packed, windows: PackedNodeWindows, parcel: Parcel) -> bool:
    """Whether the ticks are as many as the rows say; if not, all rows of the source are refused."""
    error = None
    if len(windows.ticks) != 2 * windows.rows:
        error = f"{len(windows.ticks)} bytes, and {windows.rows} rows need {2 * windows.rows}"
    else:
        ticks = np.frombuffer(windows.ticks, "<i2")
        if ((ticks < 0) | (ticks > MOST_TICKS)).any():
            error = f"a row has {ticks.min()} or {ticks.max()} ticks, and 0 to {MOST_TICKS} are possible"
        elif 4 * int(ticks.sum()) != len(windows.gpu_power_mw):
            error = f"the rows have {ticks.sum()} ticks, and gpu_power_mw has {len(windows.gpu_power_mw)} bytes"
    if error is not None:
        refusal = Refusal(
            where=f"{packed.name}.ticks", error=error, remedy="Pack all columns alike.", count=windows.rows
        )
        refuse(parcel.refused, refusal)
    return error is None


def _spread(of_source: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    """A value of each source, for each of its rows."""
    return np.repeat(of_source, counts)


def _bounds(column: Column, value: int) -> str:
    if value == column.absent:
        return "it is absent, and each row needs it"
    return f"{value} is not within {column.lower} to {column.upper}"
