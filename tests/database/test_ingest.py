"""The ingest path over real HTTP: exactly once, bad items refused alone, nothing acknowledged before it is stored."""

import functools
import gzip
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from gigawatch import readings
from gigawatch.readings import Where
from gigawatch.records import EnergyMethod, Event, Gpu, GpuHealth, GpuWindow, Inventory, NodeWindow, Process, Severity
from gigawatch.wire import BATCHES, JSON, MSGPACK, Batch, Outcome, PackedGpuWindows, columns, encode, pack, pack_nodes
from tests.merged import together
from tests.servers import Api, running_api

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_numbers = itertools.count()


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[Api]:
    with running_api(database_url, tmp_path / "api.log") as api:
        yield api


@functools.cache
def minute() -> datetime:
    """The start of the last full minute but one when a test first asked: what it sends twice is the same."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2)


@pytest.fixture(autouse=True)
def anew() -> None:
    """Each test has a moment of its own."""
    minute.cache_clear()


def window(second: int = 0, uuid: str = "GPU-1", **values: Any) -> GpuWindow:
    defaults: dict[str, Any] = {"covered_ms": 10_000, "ticks_taken": 10, "ticks_expected": 10,
                                "energy_mj": 7_000_000, "energy_method": EnergyMethod.COUNTER}  # fmt: skip
    return GpuWindow(gpu_uuid=uuid, start=minute() + timedelta(seconds=second), **{**defaults, **values})


def node_window(second: int = 0, **values: Any) -> NodeWindow:
    defaults: dict[str, Any] = {"covered_ms": 10_000, "ticks_taken": 10, "ticks_expected": 10, "gpus_read": 1,
                                "gpus_expected": 1, "tick_ms": 1_000, "gpu_power_mw": ()}  # fmt: skip
    return NodeWindow(start=minute() + timedelta(seconds=second), **{**defaults, **values})


def batch(**values: Any) -> Batch:
    return Batch(**{"machine_id": "machine-1", "sent_at": datetime.now(UTC), **values})


def post(api: Api, body: bytes, content_type: str = MSGPACK, **headers: str) -> httpx.Response:
    with api.client("agent") as client:
        return client.post("/api/v1/batches", content=body, headers={"Content-Type": content_type, **headers})


def accepted(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def count(engine: Engine, table: str = "expanded.gpu_window") -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def test_everything_in_a_batch_is_stored(api: Api, engine: Engine) -> None:
    inventory = Inventory(
        hostname="node-1", site="paris", rack="r1", labels={"row": "a"},
        gpus=(Gpu(uuid="GPU-1", index=0, model="H100", mem_total_mib=81_559, temp_slowdown_c=89),),
    )  # fmt: skip
    node_window = NodeWindow(
        start=minute(), covered_ms=10_000, ticks_taken=9, ticks_expected=10, gpus_read=1, gpus_expected=1,
        tick_ms=1_000, gpu_power_mw=(700_000, None, *[710_000] * 8), cpu_energy_mj=5,
    )  # fmt: skip
    health = GpuHealth(
        gpu_uuid="GPU-1", time=minute(), ecc_volatile_corrected=3, row_remap_pending=False,
        processes=(Process(pid=7, name="python", mem_used_mib=100),),
    )  # fmt: skip
    event = Event(
        time=minute(), kind="xid", severity=Severity.CRITICAL, code=79, gpu_uuid="GPU-1", message="XID 79: gone"
    )
    body = encode(
        batch(), inventory=inventory, gpu_windows=[window(), window(10, gpu_util_pm=995, gpu_temp_max_c=81)],
        node_windows=[node_window], events=[event], health=[health],
    )  # fmt: skip
    answer = accepted(post(api, zstd.compress(body), **{"Content-Encoding": "zstd"}))
    assert {key: answer[key] for key in ("gpu_windows", "node_windows", "events", "health")} == {
        "gpu_windows": 2, "node_windows": 1, "events": 1, "health": 1,
    }  # fmt: skip
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM report.gpu_windows ORDER BY time")).mappings().all()
        assert [row["energy_j"] for row in rows] == [7_000, 7_000]
        assert [row["power_w"] for row in rows] == [700, 700]
        assert [row["gpu_util_pct"] for row in rows] == [None, 99.5]
        assert (rows[0]["time"], rows[0]["site"], rows[0]["rack"]) == (minute(), "paris", "r1")
        energy = connection.scalar(text("SELECT sum(energy_j) FROM report.energy_hourly"))
        assert energy == 14_000
        ticks = connection.execute(
            text("SELECT gpu_power_w FROM report.node_ticks(1, :start, now())"), {"start": minute()}
        ).scalars()
        assert list(ticks) == [700, None, *[710] * 8]
        found = connection.execute(text("SELECT * FROM report.gpu_health")).mappings().one()
        assert (found["state"], found["last_xid"], found["ecc_volatile_corrected"]) == ("failed", 79, 3)
        assert found["processes"] == [{"pid": 7, "name": "python", "mem_used_mib": 100}]


def test_a_node_has_now_what_its_gpus_have_together(api: Api, engine: Engine) -> None:
    def now() -> tuple[Any, ...]:
        with engine.connect() as connection:
            return tuple(
                connection.execute(text("SELECT clock_event_reasons, mem_temp_max_c FROM gigawatch.node_now")).one()
            )

    accepted(post(api, encode(batch(), gpu_windows=[window(), window(uuid="GPU-2")])))
    assert now() == (None, None)
    told = [
        window(10, clock_event_reasons=0x04, mem_temp_max_c=91),
        window(10, "GPU-2", clock_event_reasons=0x81, mem_temp_max_c=94),
        window(10, "GPU-3"),
    ]
    accepted(post(api, encode(batch(), gpu_windows=told)))
    assert now() == (0x85, 94)


def test_a_numbered_batch_sent_twice_is_stored_once(api: Api, engine: Engine) -> None:
    first = encode(batch(spool_id="s", seq=5, oldest_seq=5), gpu_windows=[window()])
    assert accepted(post(api, first))["next_seq"] == 6
    again = accepted(post(api, first))
    assert again["duplicate"] is True
    assert again["next_seq"] == 6
    assert count(engine) == 1


def test_a_batch_that_comes_too_early_waits_for_those_before_it(api: Api, engine: Engine) -> None:
    accepted(post(api, encode(batch(spool_id="s", seq=0, oldest_seq=0))))
    early = post(api, encode(batch(spool_id="s", seq=2, oldest_seq=1), gpu_windows=[window()]))
    assert early.status_code == 409
    assert early.json()["expected_seq"] == 1
    assert count(engine) == 0
    # What a spool's bound dropped will never come: the least number that it still has is taken.
    accepted(post(api, encode(batch(spool_id="s", seq=2, oldest_seq=2), gpu_windows=[window()])))
    assert count(engine) == 1


def test_a_spool_is_one_nodes(api: Api) -> None:
    accepted(post(api, encode(batch(spool_id="s", seq=0))))
    answer = post(api, encode(batch(machine_id="machine-2", spool_id="s", seq=1)))
    assert answer.status_code == 422
    assert "another machine_id" in answer.json()["detail"]


def as_json(**items: Any) -> bytes:
    head = {"machine_id": "machine-1", "sent_at": datetime.now(UTC)}
    return msgspec.json.encode({**head, **items})


def test_a_bad_item_is_refused_with_its_field_and_the_rest_is_kept(api: Api, engine: Engine) -> None:
    good = msgspec.to_builtins(window())
    wrong = [
        {**good, "energy_mj": -1},
        {**good, "gpu_util_pm": 1001},
        {**good, "nonsense": 1},
        {key: value for key, value in good.items() if key != "start"},
        {**good, "start": "2026-01-31T12:00:00"},
        {**good, "start": (minute() + timedelta(seconds=55)).isoformat()},
        {**good, "gpu_uuid": "GPU-1'; DROP TABLE gigawatch.gpu; --"},
        {**good, "gpu_uuid": "MIG-1"},
        {**good, "energy_method": None},
        {**good, "start": (minute() + timedelta(hours=1)).isoformat()},
        7,
    ]
    answer = accepted(post(api, as_json(gpu_windows=[*wrong, good], events=[{"kind": "xid"}]), JSON))
    assert answer["gpu_windows"] == 1
    assert count(engine) == 1
    refused = {refusal["where"]: refusal["error"] for refusal in answer["refused"]}
    assert "got -1" in refused["gpu_windows[0].energy_mj"]
    assert "got 1001" in refused["gpu_windows[1].gpu_util_pm"]
    assert "nonsense" in refused["gpu_windows[2]"]
    assert "start" in refused["gpu_windows[3]"]
    assert "gpu_windows[4].start" in refused
    assert refused["gpu_windows[5].covered_ms"] == "the window crosses a full minute"
    assert "gpu_windows[6].gpu_uuid" in refused
    assert "MIG instance" in refused["gpu_windows[7].gpu_uuid"]
    assert "come together" in refused["gpu_windows[8].energy_method"]
    assert "in the future" in refused["gpu_windows[9].start"]
    assert "gpu_windows[10]" in refused
    assert "events[0]" in refused
    assert all(refusal["remedy"] for refusal in answer["refused"])


def packed(**columns_: Any) -> PackedGpuWindows:
    """Two good windows, with columns replaced."""
    good = pack([window(0), window(10)])
    return msgspec.structs.replace(good, columns={**good.columns, **columns_})


def test_bad_packed_rows_are_refused_and_the_rest_is_kept(api: Api, engine: Engine) -> None:
    bad = packed(energy_mj=b"".join(value.to_bytes(4, "little", signed=True) for value in (-5, 9_000_000)))
    answer = accepted(post(api, msgspec.msgpack.encode(batch(packed_gpu_windows=bad))))
    assert answer["gpu_windows"] == 1
    assert answer["refused"][0]["where"] == "packed_gpu_windows.columns.energy_mj[0]"
    assert "-5 is not within 0" in answer["refused"][0]["error"]
    assert count(engine) == 1


@pytest.mark.parametrize(
    ("change", "where", "rows"),
    [
        ({"columns": {"energy_mj": b"123"}}, "columns.energy_mj", 0),
        ({"columns": {"surprise": b""}}, "columns.surprise", 2),
        ({"gpu": b"\0\0\0\0"}, "packed_gpu_windows.gpu", 0),
        ({"gpu": b"\0\0\0\0\7\0\0\0"}, "columns.gpu[1]", 1),
        ({"gpu": b"\0\0\0\0\xff\xff\xff\xff"}, "columns.gpu[1]", 1),
        ({"gpu_uuids": ["MIG-1"]}, "columns.gpu_uuid[0]", 0),
        ({"rows": 3}, "packed_gpu_windows", 0),
    ],
)
def test_broken_packing_is_named(api: Api, engine: Engine, change: dict[str, Any], where: str, rows: int) -> None:
    good = pack([window(0), window(10)])
    replaced = {**change, "columns": {**good.columns, **change.get("columns", {})}}
    answer = accepted(
        post(api, msgspec.msgpack.encode(batch(packed_gpu_windows=msgspec.structs.replace(good, **replaced))))
    )
    assert answer["gpu_windows"] == rows == count(engine)
    assert where in answer["refused"][0]["where"]


def test_a_million_bad_rows_do_not_make_a_million_refusals(api: Api) -> None:
    rows = 100_000
    bad = pack([window(0)])
    bad = msgspec.structs.replace(
        bad, rows=rows, gpu=bad.gpu * rows,
        columns={name: (b"\xff\xff\xff\x7f" if name == "covered_ms" else data) * rows
                 for name, data in bad.columns.items()},
    )  # fmt: skip
    answer = accepted(post(api, zstd.compress(msgspec.msgpack.encode(batch(packed_gpu_windows=bad))),
                           **{"Content-Encoding": "zstd"}))  # fmt: skip
    assert (answer["gpu_windows"], len(answer["refused"]), answer["refused"][0]["count"]) == (0, 1, rows)


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "not a batch"),
        (b"\xc1", {}, 400, "not a batch"),
        (encode(batch(machine_id="m"))[:-3], {}, 400, "not a batch"),
        (b"{}", {"Content-Type": JSON}, 400, "machine_id"),
        (b"[" * 100_000, {"Content-Type": JSON}, 400, "not a batch"),
        (b"\x91" * 100_000, {}, 400, "not a batch"),
        (b'{"machine_id": "m", "sent_at": NaN}', {"Content-Type": JSON}, 400, "not a batch"),
        (b"machine_id=m", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "form-urlencoded"),
        (b"x", {"Content-Encoding": "br"}, 415, "'br'"),
        (b"not gzip", {"Content-Encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(b"x" * 99)[:-12], {"Content-Encoding": "gzip"}, 400, "cut short"),
        (gzip.compress(bytes(40_000_000)), {"Content-Encoding": "gzip"}, 413, "larger than"),
        (zstd.compress(bytes(2_000_000_000 // 20)), {"Content-Encoding": "zstd"}, 413, "larger than"),
        (bytes(17_000_000), {}, 413, "larger than"),
        # Made when they are sent: a batch is dated, and the suite is long.
        (lambda: encode(batch(seq=1)), {}, 422, "spool_id and seq go together"),
        (lambda: encode(batch(spool_id="s", seq=1, oldest_seq=2)), {}, 422, "oldest_seq"),
        (encode(batch(sent_at=datetime.now(UTC) - timedelta(minutes=10))), {}, 422, "clock"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_what_is_no_batch_is_refused_whole(
    hostile_api: Api, body: bytes | Callable[[], bytes], headers: dict[str, str], status: int, words: str
) -> None:
    content = body() if callable(body) else body
    with hostile_api.client("agent") as client:
        answer = client.post("/api/v1/batches", content=content, headers={"Content-Type": MSGPACK, **headers})
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def relayed(**changes: Any) -> bytes:
    """Two nodes' batches as a relay sends them, with members of the whole replaced."""
    nodes = [
        batch(machine_id=name, packed_gpu_windows=pack([window(0, f"GPU-{name}-1"), window(10, f"GPU-{name}-2")]))
        for name in ("a", "b")
    ]
    found: dict[str, Any] = msgspec.msgpack.decode(together(nodes))
    return msgspec.msgpack.encode({**found, **changes})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x90", "not a relay's batches"),
        (b"\x80", "batches"),
        (relayed(surprise=1), "surprise"),
        (relayed(gpu_rows=b""), "gpu_rows has 0 bytes, and 2 batches need 8"),
        (relayed(gpu_rows=b"\2\0\0\0\3\0\0\0"), "gpu_rows add up to 5, and there are 4"),
        (relayed(gpu_rows=b"\5\0\0\0\xff\xff\xff\xff"), "gpu_rows add up to 4"),
        (relayed(gpu_rows=b"\xff\xff\xff\x7f" * 2), "gpu_rows add up to 4294967294"),
        (relayed(gpus=b"\1\0\0\0\1\0\0\0"), "gpus add up to 2, and there are 4"),
        (relayed(gpu_windows=None), "gpus add up to 4, and there are 0"),
        (relayed(node_rows=b"\0\0\0\0\1\0\0\0"), "node_rows add up to 1"),
        (relayed(gpu_windows=pack([window(0)] * 4)), "gpus add up to 4, and there are 1"),
        (relayed(gpu_windows=msgspec.structs.replace(
            pack([window(0, f"GPU-{it}") for it in range(4)]), columns={"start": b""})), "gpu_windows: its columns"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_what_no_relay_sends_is_refused_whole(hostile_api: Api, body: bytes, words: str) -> None:
    answer = post(hostile_api, body, BATCHES)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]


def test_a_relays_bad_batch_and_bad_row_harm_no_other(api: Api, engine: Engine) -> None:
    nodes = [
        batch(machine_id=name, spool_id=name, seq=0, packed_gpu_windows=pack([window(0, uuid), window(10, uuid)]))
        for name, uuid in (("a", "GPU-a"), ("b", "GPU-b"), ("c", "GPU-c"), ("d", "GPU-d"))
    ]
    found: dict[str, Any] = msgspec.msgpack.decode(together(nodes))
    found["batches"][1]["machine_id"] = ""
    energy = bytearray(found["gpu_windows"]["columns"]["energy_mj"])
    # The second row of the third batch, and of the fourth a GPU that is the third's.
    energy[4 * 5 : 4 * 6] = (-5).to_bytes(4, "little", signed=True)
    found["gpu_windows"]["columns"]["energy_mj"] = bytes(energy)
    gpu = bytearray(found["gpu_windows"]["gpu"])
    gpu[4 * 6 : 4 * 7] = (-1).to_bytes(4, "little", signed=True)
    found["gpu_windows"]["gpu"] = bytes(gpu)
    response = post(api, msgspec.msgpack.encode(found), BATCHES)
    assert response.status_code == 200, response.text
    outcomes = msgspec.json.decode(response.content, type=list[Outcome])
    assert [it.status for it in outcomes] == [200, 400, 200, 200]
    receipts = [it.receipt for it in outcomes if it.receipt is not None]
    assert [it.gpu_windows for it in receipts] == [2, 1, 1]
    assert [[it.where for it in receipt.refused] for receipt in receipts] == [
        [], ["packed_gpu_windows.columns.energy_mj[1]"], ["packed_gpu_windows.columns.gpu[0]"],
    ]  # fmt: skip
    # Sent again: the first is a duplicate, the others go on where they are.
    again = msgspec.json.decode(post(api, msgspec.msgpack.encode(found), BATCHES).content, type=list[Outcome])
    assert [it.receipt is not None and it.receipt.duplicate for it in again] == [True, False, True, True]
    with engine.connect() as connection:
        stored = connection.execute(
            text("SELECT hostname, count(*) FROM report.gpu_windows GROUP BY 1 ORDER BY 1")
        ).all()
    assert [tuple(row) for row in stored] == [("a", 2), ("c", 1), ("d", 1)]


def test_part_of_a_relays_batches_that_are_new_is_stored(api: Api, engine: Engine) -> None:
    """Rows of batches that were stored before lie between those that are taken."""
    nodes = [
        batch(machine_id=name, spool_id=name, seq=0,
              packed_gpu_windows=pack([window(0, f"GPU-{name}", energy_mj=1_000 + place, energy_method=1)]),
              packed_node_windows=pack_nodes([node_window(gpu_power_mw=(place,) * (place + 1))]))
        for place, name in enumerate("abcdef")
    ]  # fmt: skip
    accepted(post(api, msgspec.msgpack.encode(nodes[1])))
    accepted(post(api, msgspec.msgpack.encode(nodes[4])))
    response = post(api, together(nodes), BATCHES)
    outcomes = msgspec.json.decode(response.content, type=list[Outcome])
    assert [it.receipt is not None and it.receipt.duplicate for it in outcomes] == [
        False, True, False, False, True, False,
    ]  # fmt: skip
    with engine.connect() as connection:
        energies = connection.execute(
            text("SELECT machine_id, energy_mj FROM expanded.gpu_window JOIN gigawatch.node USING (node_id) ORDER BY 1")
        ).all()
        ticks = connection.scalars(
            text(
                "SELECT gpu_power_mw FROM gigawatch.node_window JOIN gigawatch.node USING (node_id) ORDER BY machine_id"
            )
        ).all()
    assert [tuple(row) for row in energies] == [(name, 1_000 + place) for place, name in enumerate("abcdef")]
    assert ticks == [[place] * (place + 1) for place in range(6)]


@pytest.fixture(scope="module")
def hostile_api(embedded_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    url = embedded_server.create()
    with running_api(url, tmp_path_factory.mktemp("api") / "api.log") as api:
        yield api
        with api.client("agent") as client:  # whatever it was sent, it goes on
            assert client.get("/api/v1/hello").status_code == 200
    embedded_server.drop(url)


def test_a_clock_that_is_a_little_off_is_noted(api: Api, engine: Engine) -> None:
    accepted(post(api, encode(batch(sent_at=datetime.now(UTC) + timedelta(seconds=5)))))
    with engine.connect() as connection:
        offset_s, good = connection.execute(text("SELECT clock_offset_s, clock_ok FROM report.nodes")).one()
    assert offset_s == pytest.approx(5, abs=1)
    assert good is False


def test_windows_that_are_there_already_are_refused_and_harm_no_other(api: Api, engine: Engine) -> None:
    accepted(post(api, encode(batch(), gpu_windows=[window(0)])))
    answer = accepted(post(api, encode(batch(), gpu_windows=[window(0, energy_mj=1), window(10)])))
    assert answer["gpu_windows"] == 1
    assert (answer["refused"][0]["where"], answer["refused"][0]["count"]) == ("gpu_windows", 1)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sum(energy_j) FROM report.energy_hourly")) == 14_000


def test_a_gpu_moves_with_its_node_and_is_counted_once(api: Api, engine: Engine) -> None:
    def inventory(name: str, *uuids: str) -> Inventory:
        gpus = tuple(Gpu(uuid=uuid, index=index, model="H100") for index, uuid in enumerate(uuids))
        return Inventory(hostname=name, gpus=gpus)

    accepted(post(api, encode(batch(), inventory=inventory("node-1", "GPU-1", "GPU-2"))))
    accepted(post(api, encode(batch(), inventory=inventory("node-1", "GPU-1"))))
    accepted(post(api, encode(batch(machine_id="machine-2"), inventory=inventory("node-2", "GPU-2"))))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT gpu_uuid, hostname, removed IS NULL FROM report.gpus ORDER BY 1")).all()
    assert rows == [("GPU-1", "node-1", True), ("GPU-2", "node-2", True)]


def test_a_node_that_moves_to_another_rack_counts_there_with_the_gpus_it_has_then(api: Api, engine: Engine) -> None:
    two = tuple(Gpu(uuid=f"GPU-{index}", index=index, model="H100") for index in range(2))
    mixed = (two[0], Gpu(uuid="GPU-9", index=1, model="L4"), Gpu(uuid="GPU-8", index=2, model="L4"))
    told = [
        Inventory(hostname="n", site="oslo", rack="r1", gpus=two),
        Inventory(hostname="n", site="paris", rack="r2", gpus=mixed),
    ]
    for inventory, gpus, models, of_h100 in ((told[0], 2, ["H100"], 2), (told[1], 3, ["H100", "L4"], 1)):
        accepted(post(api, encode(batch(), inventory=inventory)))
        with engine.connect() as connection:
            (node,) = readings.nodes_now(connection)
            assert (node.site, node.rack, node.gpus, node.gpu_models) == (inventory.site, inventory.rack, gpus, models)
            here = readings.fleet_summary(connection, Where(site=inventory.site, rack=inventory.rack))
            assert (here.nodes, here.gpus) == (1, gpus)
            assert readings.fleet_summary(connection, Where(gpu_model="H100")).gpus == of_h100
    with engine.connect() as connection:
        assert readings.fleet_summary(connection, Where(site="oslo")).nodes == 0


def test_a_removed_gpu_is_marked_and_comes_back(api: Api, engine: Engine) -> None:
    both = (Gpu(uuid="GPU-1", index=0, model="H100"), Gpu(uuid="GPU-2", index=1, model="H100"))
    for gpus, expected in ((both, [True, True]), (both[:1], [True, False]), (both, [True, True])):
        accepted(post(api, encode(batch(), inventory=Inventory(hostname="node-1", gpus=gpus))))
        with engine.connect() as connection:
            present = connection.scalars(text("SELECT removed IS NULL FROM report.gpus ORDER BY gpu_uuid")).all()
        assert present == expected


optional = [column for column in columns() if not column.required and column.name not in {"energy_mj", "energy_method"}]


@settings(max_examples=20)
@given(
    st.lists(
        st.fixed_dictionaries({it.name: st.none() | st.integers(it.lower, it.upper) for it in optional}),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_stored_is_what_was_sent(hostile_api: Api, rows: list[dict[str, int | None]]) -> None:
    uuid = f"GPU-{next(_numbers)}"
    sent = [
        GpuWindow(gpu_uuid=uuid, start=minute() + timedelta(milliseconds=place), covered_ms=1, ticks_taken=1,
                  ticks_expected=1, **values)
        for place, values in enumerate(rows)
    ]  # fmt: skip
    assert accepted(post(hostile_api, encode(batch(), gpu_windows=sent)))["gpu_windows"] == len(sent)
    with hostile_api.client() as client:
        query = {"start": minute().isoformat(), "stop": (minute() + timedelta(seconds=9)).isoformat(), "step_s": 1}
        answer = client.get(f"/api/v1/gpus/{uuid}/series", params=query).json()
    power_mw = [row["power_max_mw"] for row in rows if row["power_max_mw"] is not None]
    assert answer[0]["power_max_w"] == (max(power_mw) / 1000 if power_mw else None)
    memory = [row["mem_used_mib"] for row in rows if row["mem_used_mib"] is not None]
    assert answer[0]["mem_used_mib"] == (max(memory) if memory else None)
    bits = [row["clock_event_reasons"] for row in rows if row["clock_event_reasons"] is not None]
    union = 0
    for bit in bits:
        union |= bit
    assert answer[0]["clock_event_reasons"] == (union if bits else None)


@settings(max_examples=15)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=25))
def test_any_order_and_repetition_stores_each_batch_at_most_once(hostile_api: Api, order: list[int]) -> None:
    """Batches 0 to 5 of a spool, sent in any order and as often as may be, each with one window."""
    number = next(_numbers)
    stored: set[int] = set()
    for seq in order:
        head = batch(machine_id=f"machine-{number}", spool_id=f"spool-{number}", seq=seq, oldest_seq=0)
        answer = post(hostile_api, encode(head, gpu_windows=[window(seq, f"GPU-{number}x", covered_ms=1_000)]))
        expected = len(stored)
        if seq < expected:
            assert accepted(answer)["duplicate"] is True
        elif seq == expected:
            assert accepted(answer)["gpu_windows"] == 1
            stored.add(seq)
        else:
            assert answer.status_code == 409
            assert json.loads(answer.content)["expected_seq"] == expected
