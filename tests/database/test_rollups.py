"""Rollups against a recomputation from what was sent, after any order of late data, and through any crash."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from api import rollups
from api.decode import Parcel, decode
from api.retention import chunk_interval, retain
from api.rollups import Folder
from api.store import Store
from gigawatch import database
from gigawatch.records import EnergyMethod, Gpu, GpuWindow, Inventory, NodeWindow
from gigawatch.schema import LEVELS
from gigawatch.settings import Retention
from gigawatch.wire import MSGPACK, Batch, Receipt, encode

KEEP = timedelta(days=7)
MIDNIGHT = (datetime.now(UTC) - timedelta(hours=2)).replace(hour=0, minute=0, second=0, microsecond=0)
BASE = MIDNIGHT - timedelta(hours=1, minutes=10)
"""Days, hours and minutes all end within the test's two and a half hours, which are over."""
END = BASE + timedelta(hours=2, minutes=30)
NODES = (("oslo", "r1", "H100"), ("oslo", "r2", "H100"), ("paris", None, "B200"))
GPUS = 2
_numbers = itertools.count()


def folder(engine: Engine, tell: Any = lambda _: None) -> tuple[Folder, Any]:
    """A folder on a connection of its own."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg.connect(url, autocommit=True, options="-c timezone=UTC")
    return Folder(connection, tell), connection


def parcel(node: int, windows: list[GpuWindow], nodes: list[NodeWindow], **values: Any) -> Parcel:
    site, rack, model = NODES[node]
    gpus = tuple(Gpu(uuid=f"GPU-{node}-{index}", index=index, model=model) for index in range(GPUS))
    batch = Batch(machine_id=f"machine-{node}", sent_at=datetime.now(UTC), **values)
    body = encode(batch, inventory=Inventory(hostname=f"n{node}", site=site, rack=rack, gpus=gpus),
                  gpu_windows=windows, node_windows=nodes)  # fmt: skip
    found = decode(body, MSGPACK, datetime.now(UTC), 300)[0]
    assert isinstance(found, Parcel)
    return found


window_values = st.fixed_dictionaries(
    {
        "node": st.integers(0, len(NODES) - 1),
        "gpu": st.integers(0, GPUS - 1),
        "slot_10s": st.integers(0, 15 * 60 - 1),
        "power_w": st.none() | st.integers(0, 2_000),
        "method": st.sampled_from(EnergyMethod),
        "gpu_util_pm": st.none() | st.integers(0, 1_000),
        "gpu_temp_max_c": st.none() | st.integers(20, 99),
        "clock_event_reasons": st.none() | st.sampled_from((0, 1, 4, 8, 512)),
        "covered_ms": st.integers(1, 10_000),
        "power_max_mw": st.none() | st.integers(0, 900_000),
    }
)


def as_window(values: dict[str, Any]) -> GpuWindow:
    known = values["power_w"] is not None
    return GpuWindow(
        gpu_uuid=f"GPU-{values['node']}-{values['gpu']}",
        start=BASE + timedelta(seconds=10 * values["slot_10s"]),
        ticks_taken=9, ticks_expected=10,
        energy_mj=values["power_w"] * values["covered_ms"] if known else None,
        energy_method=values["method"] if known else None,
        **{name: values[name] for name in
           ("covered_ms", "gpu_util_pm", "gpu_temp_max_c", "clock_event_reasons", "power_max_mw")},
    )  # fmt: skip


@pytest.fixture
def store_and_folder(engine: Engine) -> Iterator[tuple[Engine, Store, Folder]]:
    made, connection = folder(engine)
    store = Store(engine, KEEP)
    yield engine, store, made
    store.close()
    connection.close()


def floor(time: datetime, width: timedelta) -> datetime:
    epoch = datetime(2000, 1, 1, tzinfo=UTC)
    return epoch + (time - epoch) // width * width


def check(engine: Engine, sent: list[tuple[int, GpuWindow]], until: datetime) -> None:
    """Compare each level, group and column with sums formed here."""
    with engine.connect() as connection:
        for level, width in LEVELS.items():
            mark = connection.scalar(text("SELECT folded FROM gigawatch.rollup WHERE level = :it"), {"it": level})
            if mark is None:
                assert level != "1m" or not [it for _, it in sent if it.start < floor(until, width)]
                continue
            expected: dict[tuple[Any, ...], dict[str, Any]] = {}
            for node, window in sent:
                bucket = floor(window.start, width)
                if bucket < mark:
                    add(expected.setdefault((bucket, f"n{node}", window.gpu_uuid), {}), window)
            rows = connection.execute(
                text(f"SELECT g.*, hostname, uuid FROM expanded.gpu_{level} AS g JOIN gigawatch.gpu USING (gpu_id)"
                     " JOIN gigawatch.node ON node.node_id = g.node_id")
            ).mappings()  # fmt: skip
            found = {(row["time"], row["hostname"], row["uuid"]): {key: row[key] for key in SUMMED} for row in rows}
            assert found == {key: {**dict.fromkeys(SUMMED), **value} for key, value in expected.items()}
            for group, places in (("site", 1), ("rack", 2)):
                by_group: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
                for (bucket, host, _), value in expected.items():
                    site, rack, model = NODES[int(host[1:])]
                    sums = by_group[(bucket, *(site, rack)[:places], model)]
                    sums[0] += 1
                    sums[1] += value["energy_mj"] or 0
                    sums[2] += value["energy_ms"] or 0
                    sums[3] += value["gpu_util_pm_ms"] or 0
                    sums[4] += value["energy_mj"] * 1000 // value["energy_ms"] if value["energy_ms"] else 0
                rack_name, rack_join = (", rack.name", "LEFT JOIN gigawatch.rack USING (rack_id)")
                groups = connection.execute(
                    text(f"SELECT time, site.name{rack_name if places == 2 else ''}, gpu_model, gpus, energy_mj,"
                         " energy_ms, gpu_util_pm_ms, power_mw"
                         f" FROM gigawatch.{group}_{level} JOIN gigawatch.site USING (site_id)"
                         f" {rack_join if places == 2 else ''} WHERE gpus > 0")
                )  # fmt: skip
                assert {tuple(row)[: places + 2]: list(row)[places + 2 :] for row in groups} == by_group


SUMMED = ("covered_ms", "energy_mj", "energy_ms", "energy_interpolated_mj", "energy_integrated_mj",
          "energy_estimated_mj", "gpu_util_pm_ms", "gpu_util_ms", "gpu_temp_max_c", "clock_event_reasons",
          "throttled_ms", "power_max_mw", "ticks_taken", "ticks_expected")  # fmt: skip


def add(sums: dict[str, Any], window: GpuWindow) -> None:
    """One window more in a bucket."""
    if not sums:
        sums.update(dict.fromkeys(SUMMED))

    def plus(name: str, value: int | None) -> None:
        if value is not None:
            sums[name] = (sums[name] or 0) + value

    known = window.energy_mj is not None
    plus("covered_ms", window.covered_ms)
    plus("energy_mj", window.energy_mj)
    plus("energy_ms", window.covered_ms if known else None)
    for method in ("INTERPOLATED", "INTEGRATED", "ESTIMATED"):
        same = known and window.energy_method is EnergyMethod[method]
        plus(f"energy_{method.lower()}_mj", window.energy_mj if same else None)
    if window.gpu_util_pm is not None:
        plus("gpu_util_pm_ms", window.gpu_util_pm * window.covered_ms)
        plus("gpu_util_ms", window.covered_ms)
    plus("ticks_taken", window.ticks_taken)
    plus("ticks_expected", window.ticks_expected)
    if (window.clock_event_reasons or 0) & (4 + 8 + 32 + 64 + 128):
        plus("throttled_ms", window.covered_ms)
    for name in ("gpu_temp_max_c", "power_max_mw"):
        if getattr(window, name) is not None:
            sums[name] = max(sums[name] or 0, getattr(window, name))
    if window.clock_event_reasons is not None:
        sums["clock_event_reasons"] = (sums["clock_event_reasons"] or 0) | window.clock_event_reasons


steps = st.lists(
    st.lists(window_values, min_size=1, max_size=12) | st.integers(0, 150), min_size=1, max_size=10
)  # lists are posts, numbers are minutes after BASE to fold at


# An example takes half a second: shrinking one that fails would take many minutes.
@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(steps)
def test_rollups_equal_a_recomputation_after_any_order_of_late_data(embedded_server: Any, plan: list[Any]) -> None:
    url = embedded_server.create()
    engine = database.engine(url)
    folding, connection = folder(engine)
    store = Store(engine, KEEP)
    sent: dict[tuple[str, datetime], tuple[int, GpuWindow]] = {}
    try:
        for step in [*plan, 150]:
            if isinstance(step, int):
                folding.run(BASE + timedelta(minutes=step))
                continue
            for node in range(len(NODES)):
                new = {
                    (it.gpu_uuid, it.start): (node, it)
                    for it in (as_window(values) for values in step if values["node"] == node)
                }
                fresh = {key: value for key, value in new.items() if key not in sent}
                receipt = store.store([parcel(node, [it for _, it in new.values()], [])])[0]
                assert isinstance(receipt, Receipt)
                assert receipt.gpu_windows == len(fresh)
                sent |= fresh
        check(engine, list(sent.values()), END)
        with engine.connect() as reader:
            total = reader.scalar(text("SELECT sum(energy_j) * 1000 FROM report.energy_hourly"))
            assert (total or 0) == sum(it.energy_mj or 0 for _, it in sent.values())
            assert reader.scalar(text("SELECT count(*) FROM gigawatch.rollup_dirty")) == 0
    finally:
        store.close()
        connection.close()
        engine.dispose()
        embedded_server.drop(url)


def node_window(minute: int, second: int, mw: list[int | None], tick_ms: int = 1_000) -> NodeWindow:
    return NodeWindow(
        start=BASE + timedelta(minutes=minute, seconds=second), covered_ms=10_000, ticks_taken=10, ticks_expected=10,
        gpus_read=2, gpus_expected=2, tick_ms=tick_ms, gpu_power_mw=tuple(mw), cpu_energy_mj=100,
    )  # fmt: skip


def seconds(engine: Engine, site: str) -> dict[int, tuple[int, int]]:
    """Power and nodes by the second since BASE, where there are nodes."""
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT time, power_mw, nodes FROM gigawatch.site_second JOIN gigawatch.site USING (site_id)"
                 " WHERE name = :site"), {"site": site},
        ).all()  # fmt: skip
    return {
        int((time - BASE).total_seconds()) + place: (mw, count)
        for time, power_mw, nodes in rows
        for place, (mw, count) in enumerate(zip(power_mw, nodes, strict=True))
        if count
    }


def test_a_sites_power_is_known_by_the_second_and_late_windows_are_added_once(
    store_and_folder: tuple[Engine, Store, Folder],
) -> None:
    engine, store, folding = store_and_folder
    store.store([parcel(0, [], [node_window(0, 0, [1_000] * 10)])])
    folding.run(BASE + timedelta(minutes=3))
    assert seconds(engine, "oslo") == dict.fromkeys(range(10), (1000, 1))
    # Late: another node of the site, and the same node's next window; a missed tick is no zero.
    store.store([parcel(1, [], [node_window(0, 0, [500, None] * 5)])])
    store.store([parcel(0, [], [node_window(0, 10, [7_000] * 10)])])
    for _ in range(2):
        folding.run(BASE + timedelta(minutes=4))
        expected = {second: (1_500, 2) if second % 2 == 0 else (1_000, 1) for second in range(10)}
        assert seconds(engine, "oslo") == expected | dict.fromkeys(range(10, 20), (7000, 1))
    # Faster ticks count by their mean within a second, slower ones for each second that they stand for.
    store.store([parcel(2, [], [node_window(1, 0, [100, 300] * 10, 500), node_window(1, 10, [9, 8], 5_000)])])
    folding.run(BASE + timedelta(minutes=5))
    expected = {60 + second: (200, 1) for second in range(10)}
    expected |= {70 + second: (9, 1) for second in range(5)} | {75 + second: (8, 1) for second in range(5)}
    assert seconds(engine, "paris") == expected


def test_late_data_of_one_node_fold_that_nodes_buckets_alone(store_and_folder: tuple[Engine, Store, Folder]) -> None:
    engine, store, folding = store_and_folder
    for node in range(len(NODES)):
        values = {"node": node, "gpu": 0, "power_w": 5, "method": EnergyMethod.COUNTER, "gpu_util_pm": 1,
                  "gpu_temp_max_c": 1, "clock_event_reasons": 0, "covered_ms": 1, "power_max_mw": 1}  # fmt: skip
        windows = [as_window({**values, "slot_10s": place}) for place in range(0, 600, 6)]
        store.store([parcel(node, windows, [])])
    assert folding.run(BASE + timedelta(minutes=130)) == 3 * (100 + 2 + 1)
    assert folding.run(BASE + timedelta(minutes=130)) == 0
    late = [as_window({**values, "slot_10s": place}) for place in range(1, 601, 6)]
    store.store([parcel(2, late, [])])
    # 100 minutes, the two hours among them that are over, and the day.
    assert folding.run(BASE + timedelta(minutes=130)) == 100 + 2 + 1


def test_a_fold_that_is_killed_goes_on_and_folds_nothing_twice(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MOST_BUCKETS", 2)  # fewer than there are nodes
    store = Store(engine, KEEP)
    values = {"gpu": 0, "power_w": 5, "method": EnergyMethod.COUNTER, "gpu_util_pm": 1, "gpu_temp_max_c": 1,
              "clock_event_reasons": 0, "covered_ms": 1, "power_max_mw": 1}  # fmt: skip
    sent = []
    for node in range(len(NODES)):
        windows = [as_window({**values, "node": node, "slot_10s": place}) for place in range(360)]
        sent += [(node, window) for window in windows]
        node_windows = [node_window(place // 6, place % 6 * 10, [node + 1] * 10) for place in range(360)]
        store.store([parcel(node, windows, node_windows)])
    store.close()
    connections: list[Any] = []
    told = itertools.count(1)

    def die(_: str) -> None:
        if next(told) % 60 == 0:
            with engine.connect() as killer:
                killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": connections[-1].info.backend_pid})

    for _ in range(60):
        folding, connection = folder(engine, die)
        connections.append(connection)
        try:
            folding.run(END + timedelta(minutes=1))
            break
        except psycopg.OperationalError:
            continue
        finally:
            connection.close()
    assert 2 < len(connections) < 60
    check(engine, sent, END)
    assert seconds(engine, "oslo") == dict.fromkeys(range(3600), (3, 2))


def test_old_data_go_when_they_are_folded_and_not_before(store_and_folder: tuple[Engine, Store, Folder]) -> None:
    engine, store, folding = store_and_folder
    values = {"node": 0, "gpu": 0, "slot_10s": 0, "power_w": 5, "method": EnergyMethod.COUNTER, "gpu_util_pm": 1,
              "gpu_temp_max_c": 1, "clock_event_reasons": 0, "covered_ms": 1, "power_max_mw": 1}  # fmt: skip
    store.store([parcel(0, [as_window(values), as_window({**values, "slot_10s": 800})], [])])
    kept = Retention(windows_d=1, minutes_d=2)
    later = END + timedelta(days=10)
    assert "removed" not in retain(engine, kept, later)
    folding.run(END + timedelta(minutes=1))
    said = retain(engine, kept, later)
    assert "gpu_window" in said
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sum(energy_j) FROM report.energy_hourly")) == Decimal("0.01")
        days = connection.scalar(text("SELECT count(*) FROM gigawatch.gpu_1d"))
        assert days == 1


def test_windows_that_are_too_old_are_refused_with_the_remedy(engine: Engine) -> None:
    store = Store(engine, timedelta(hours=1))
    values = {"node": 0, "gpu": 0, "slot_10s": 0, "power_w": 5, "method": EnergyMethod.COUNTER, "gpu_util_pm": 1,
              "gpu_temp_max_c": 1, "clock_event_reasons": 0, "covered_ms": 1, "power_max_mw": 1}  # fmt: skip
    old = msgspec.structs.replace(as_window(values), start=datetime.now(UTC).replace(second=0, microsecond=0)
                                  - timedelta(hours=2))  # fmt: skip
    receipt = store.store([parcel(0, [old], [])])[0]
    store.close()
    assert isinstance(receipt, Receipt)
    assert (receipt.gpu_windows, receipt.refused[0].where) == (0, "packed_gpu_windows.columns.start[0]")
    assert "retention.windows_d" in receipt.refused[0].remedy


@pytest.mark.parametrize(
    ("nodes", "interval"),
    [(0, timedelta(days=7)), (16, timedelta(days=7)), (1_000, timedelta(hours=9)), (75_000, timedelta(hours=1))],
)
def test_chunks_are_as_long_as_the_fleet_is_small(nodes: int, interval: timedelta) -> None:
    assert chunk_interval(nodes, 10, 600) == interval


def test_new_chunks_follow_the_fleets_size(engine: Engine) -> None:
    with engine.connect() as connection:
        if not database.capabilities(connection).hypertables:
            assert retain(engine, Retention(), END) == "nothing to remove"
            return
    assert "chunks of gpu_window are of 7 days" in retain(engine, Retention(), END)
    assert retain(engine, Retention(), END) == "nothing to remove"
