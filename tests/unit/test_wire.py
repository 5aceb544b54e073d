"""The wire format: packed columns hold what the windows held."""

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import ARRAY

from gigawatch import schema
from gigawatch.records import EnergyMethod, Gpu, GpuWindow, Inventory, NodeWindow
from gigawatch.wire import Batch, PackedGpuWindows, PackedNodeWindows, columns, encode, fits, pack, pack_nodes
from tests.merged import apart, together

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@st.composite
def gpu_windows(draw: st.DrawFn) -> GpuWindow:
    values = {
        column.name: draw(
            st.integers(column.lower, column.upper)
            if column.required
            else st.none() | st.integers(column.lower, column.upper)
        )
        for column in columns()
        if column.name not in {"start", "energy_method"}
    }
    method = draw(st.none() | st.sampled_from(EnergyMethod))
    return GpuWindow(gpu_uuid=draw(st.sampled_from(["GPU-1", "GPU-2"])), start=NOW, energy_method=method, **values)


@given(st.lists(gpu_windows(), min_size=1, max_size=20))
def test_packed_columns_hold_the_windows(windows: list[GpuWindow]) -> None:
    packed = pack(windows)
    assert packed.rows == len(windows)
    place = np.frombuffer(packed.gpu, "<i4")
    assert [packed.gpu_uuids[index] for index in place] == [window.gpu_uuid for window in windows]
    for column in columns():
        expected = [getattr(window, column.name) for window in windows]
        if column.name == "start":
            expected = [round(value.timestamp() * 1000) for value in expected]
        if column.name not in packed.columns:
            assert expected == [None] * len(windows)
            continue
        found = np.frombuffer(packed.columns[column.name], {"h": "<i2", "i": "<i4", "q": "<i8"}[column.typecode])
        assert [None if value == column.absent else value for value in found.tolist()] == expected


@st.composite
def packed_nodes(draw: st.DrawFn) -> PackedNodeWindows:
    windows = [
        NodeWindow(
            start=NOW + timedelta(seconds=10 * number), covered_ms=10_000, tick_ms=1_000, cpu_energy_mj=cpu_energy_mj,
            ticks_taken=10, ticks_expected=10, gpus_read=2, gpus_expected=2,
            gpu_power_mw=tuple(draw(st.lists(st.none() | st.integers(0, 10**6), max_size=4))),
        )
        for number, cpu_energy_mj in enumerate(draw(st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=4)))
    ]  # fmt: skip
    return pack_nodes(windows)


@given(
    st.lists(
        st.tuples(st.none() | st.lists(gpu_windows(), min_size=1, max_size=4).map(pack), st.none() | packed_nodes()),
        max_size=6,
    )
)
def test_merged_batches_come_apart_as_they_were(
    windows: list[tuple[PackedGpuWindows | None, PackedNodeWindows | None]],
) -> None:
    batches = [
        Batch(machine_id=f"m{number}", sent_at=NOW, seq=number, packed_gpu_windows=gpus, packed_node_windows=nodes)
        for number, (gpus, nodes) in enumerate(windows)
    ]
    assert all(fits(it) for pair in windows for it in pair if it is not None)
    assert apart(together(batches)) == batches


def test_a_batch_survives_the_journey() -> None:
    window = GpuWindow(gpu_uuid="GPU-1", start=NOW, covered_ms=10_000, ticks_taken=10, ticks_expected=10)
    inventory = Inventory(hostname="n1", gpus=(Gpu(uuid="GPU-1", index=0, model="H100"),))
    body = encode(Batch(machine_id="m", sent_at=NOW, seq=3), inventory=inventory, gpu_windows=[window] * 8)
    batch = msgspec.msgpack.decode(body, type=Batch)
    assert batch.seq == 3
    assert batch.packed_gpu_windows is not None
    assert batch.packed_gpu_windows.rows == 8
    assert isinstance(batch.inventory, msgspec.Raw)
    assert msgspec.msgpack.decode(batch.inventory, type=Inventory) == inventory
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)
    assert again == batch


@pytest.mark.parametrize("column", columns(), ids=lambda column: column.name)
def test_widths_on_the_wire_fit_the_table(column: object) -> None:
    stored = {"start": "time"}.get(column.name, column.name)  # type: ignore[attr-defined]
    found = schema.gpu_window.c[stored].type
    kind = type(found.item_type if isinstance(found, ARRAY) else found).__name__
    width = {"DateTime": "q", "Integer": "i", "SmallInteger": "h", "BigInteger": "q"}[kind]
    assert column.typecode == width  # type: ignore[attr-defined]
