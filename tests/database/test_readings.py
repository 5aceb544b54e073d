"""Reads of the fleet as it is now: pages add up to the whole, whatever they are sorted, searched and filtered by."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import Connection, Engine, text

from gigawatch import database, readings
from gigawatch.readings import EVERYTHING, GpuNow, NodeNow, NodeOrder, NodeState, Where
from tests.browser import seed

HOSTILE = (
    "%",
    "_",
    "'",
    "\\",
    "'; DROP TABLE gigawatch.node; --",
    ":site",
    "%(find)s",
    "\u0130",
    "'' OR '1'='1",
    "\U0001f525",
)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def reader(embedded_server: Any) -> Iterator[Engine]:
    """A seeded store with all kinds of nodes: silent, clock off, GPUs missing, two models, none."""
    url = embedded_server.create()
    engine = database.engine(url)
    with engine.begin() as connection:
        seed.seed(connection, datetime.now(UTC))
        for sql in (
            # One node has two models, one nothing yet but its name.
            "UPDATE gigawatch.gpu SET model = 'NVIDIA L4' WHERE uuid = 'GPU-austin-a02-n01-0'",
            """UPDATE gigawatch.node_now SET gpu_model = NULL
            WHERE node_id = (SELECT node_id FROM gigawatch.node WHERE hostname = 'austin-a02-n01')""",
            """INSERT INTO gigawatch.node (machine_id, site_id, hostname)
            SELECT 'empty', site_id, '100%_bare' FROM gigawatch.site WHERE name = 'oslo'""",
            """INSERT INTO gigawatch.node_now (node_id, last_seen, clock_offset_ms, site_id, simulated)
            SELECT node_id, now(), 0, site_id, simulated FROM gigawatch.node WHERE machine_id = 'empty'""",
            "INSERT INTO gigawatch.rollup VALUES ('1m', now(), date_trunc('minute', now()), 0)",
            # So that slow machines do not find them silent.
            """UPDATE gigawatch.node_now SET last_seen = last_seen + interval '50 s'
            WHERE last_seen > now() - interval '1 min'""",
        ):
            connection.execute(text(sql))
    engine.dispose()
    reader = database.engine(url, role=database.REPORT_ROLE, statement_timeout_s=30)
    yield reader
    reader.dispose()
    embedded_server.drop(url)


@pytest.fixture
def connection(reader: Engine) -> Iterator[Connection]:
    with reader.connect() as connection:
        yield connection


def pages(connection: Connection, size: int, **asked: Any) -> list[NodeNow]:
    """All pages of the list, one after the other."""
    found: list[NodeNow] = []
    while page := readings.nodes_now(connection, limit=size, offset=len(found), **asked):
        assert len(page) <= size
        found += page
    return found


def key(order: NodeOrder, node: NodeNow) -> Any:
    return {
        "power": node.power_w, "utilisation": node.gpu_util_pct, "temperature": node.gpu_temp_max_c,
        "throttled": node.gpus_throttled, "reporting": node.gpus_reporting, "hostname": node.hostname,
        "silent": node.silent_s, "gpu_model": node.gpu_models,
        "place": (node.site, node.rack is None, node.rack or "", node.hostname),
        "state": (["silent", "clock_off", "gpus_missing", "reporting"].index(node.state), node.hostname),
    }[order]  # fmt: skip


def test_the_seed_has_nodes_in_every_state(connection: Connection) -> None:
    counts = readings.node_counts(connection)
    assert counts.nodes == 15
    assert all(getattr(counts, state) for state in get_args(NodeState))
    assert counts.nodes == sum(getattr(counts, state) for state in get_args(NodeState))


@pytest.mark.parametrize("order", get_args(NodeOrder))
@pytest.mark.parametrize("descending", [False, True])
def test_pages_are_the_whole_once_in_order(connection: Connection, order: NodeOrder, descending: bool) -> None:
    found = pages(connection, 4, order=order, descending=descending)
    assert sorted(node.node_id for node in found) == sorted({node.node_id for node in readings.nodes_now(connection)})
    known = [key(order, node) for node in found if key(order, node) is not None]
    # What is not known comes last, whichever way it is sorted.
    assert [key(order, node) for node in found][: len(known)] == known
    if order != "place":
        assert known == sorted(known, reverse=descending)


@pytest.mark.parametrize("where", [EVERYTHING, Where(site="oslo"), Where(rack="a02"), Where(gpu_model="NVIDIA B200")])
def test_pages_add_up_to_the_summary(connection: Connection, where: Where) -> None:
    found = pages(connection, 3, where=where)
    summary = readings.fleet_summary(connection, where)
    counts = readings.node_counts(connection, where)
    assert len(found) == summary.nodes == counts.nodes
    assert sum(node.gpus for node in found) == summary.gpus
    assert sum(node.gpus_reporting for node in found) == summary.gpus_reporting
    assert sum(node.gpus_throttled for node in found) == summary.gpus_throttled
    assert sum(node.power_w or 0 for node in found) == pytest.approx(summary.power_w)
    assert sum(node.state == "silent" for node in found) == summary.nodes_silent == counts.silent
    assert summary.gpus == summary.gpus_reporting + summary.gpus_missing + summary.gpus_silent
    assert sum(it.nodes for it in readings.load_bins(connection, "power", 10.0, where)) == summary.nodes
    racks = readings.racks_now(connection, where)
    assert sum(rack.power_w or 0 for rack in racks) == pytest.approx(summary.power_w)


def test_models_add_up_to_the_fleet_and_share_a_node_of_two(connection: Connection) -> None:
    models = readings.choices(connection).gpu_models
    assert "NVIDIA L4" in models
    parts = [readings.fleet_summary(connection, Where(gpu_model=model)) for model in models]
    whole = readings.fleet_summary(connection)
    assert sum(part.gpus for part in parts) == whole.gpus
    (node,) = readings.nodes_now(connection, Where(gpu_model="NVIDIA L4"))
    assert node.gpu_models == ["NVIDIA L4", "NVIDIA L40S"]


@pytest.mark.parametrize("state", get_args(NodeState))
def test_a_state_chooses_those_that_are_counted(connection: Connection, state: NodeState) -> None:
    found = pages(connection, 2, state=state)
    assert {node.state for node in found} == {state}
    assert len(found) == getattr(readings.node_counts(connection), state)


def test_the_search_finds_host_names_and_racks_in_any_case(connection: Connection) -> None:
    def found(text_: str, **asked: Any) -> list[str]:
        nodes = readings.nodes_now(connection, find=text_, **asked)
        assert readings.node_counts(connection, find=text_, **asked).nodes == len(nodes)
        return [node.hostname for node in nodes]

    assert found("AUSTIN-A01") == ["austin-a01-n01", "austin-a01-n02"]
    assert found("r03") == ["oslo-r03-n01", "oslo-r03-n02"]
    assert found("n01", where=Where(site="austin")) == ["austin-a01-n01", "austin-a02-n01", "austin-a03-n01"]
    assert found("%") == found("_") == found("0%_b") == ["100%_bare"]
    assert readings.racks(connection, find="A0") == ["a01", "a02", "a03"]
    assert readings.racks(connection, "oslo", "0", limit=2) == ["r01", "r02"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_finds_what_contains_it_and_does_nothing_else(connection: Connection, hostile: str) -> None:
    hosts = [node.hostname for node in readings.nodes_now(connection)]
    expected = [host for host in hosts if hostile.lower() in host]
    assert [node.hostname for node in readings.nodes_now(connection, find=hostile)] == expected
    assert readings.node_counts(connection, find=hostile).nodes == len(expected)
    assert readings.racks(connection, find=hostile) == []
    assert readings.nodes_now(connection, Where(site=hostile, rack=hostile, gpu_model=hostile)) == []


def test_throttled_gpus_alone_are_those_of_all(connection: Connection) -> None:
    def names(gpus: list[GpuNow]) -> set[str]:
        return {gpu.gpu_uuid for gpu in gpus}

    every = readings.gpus_now(connection)
    throttled = readings.gpus_now(connection, throttled=True)
    assert seed.THROTTLED in names(throttled)
    assert names(throttled) == names([gpu for gpu in every if gpu.throttled])
    assert len(throttled) == readings.fleet_summary(connection).gpus_throttled
    assert len(every) == readings.fleet_summary(connection).gpus


def test_the_greatest_racks_are_those_of_the_whole(connection: Connection, reader: Engine) -> None:
    owner = database.engine(reader.url.render_as_string(hide_password=False))
    minute = NOW.replace(second=0, microsecond=0) - timedelta(minutes=5)
    with owner.begin() as writing:
        writing.execute(
            text("""
            INSERT INTO gigawatch.rack_1m (time, site_id, rack_id, gpu_model, gpus, gpus_known, power_mw, covered_ms,
                energy_mj, energy_ms, energy_interpolated_mj, energy_integrated_mj, energy_estimated_mj,
                gpu_util_pm_ms, gpu_util_ms, throttled_ms)
            SELECT :minute - n * interval '1 min', site_id, rack_id, model, 4, 4, rack_id * 1000, 240000,
                rack_id * 60000, 240000, 0, 0, 0, 0, 0, 0
            FROM gigawatch.rack, generate_series(0, 9) AS n, unnest(ARRAY['NVIDIA L4', 'NVIDIA B200']) AS model
            ON CONFLICT DO NOTHING"""),
            {"minute": minute},
        )
    owner.dispose()
    period = (minute - timedelta(minutes=9), minute + timedelta(minutes=1), timedelta(minutes=1))
    whole = readings.power_series(connection, *period, group_by="rack")
    last = {point.label: point.power_w or 0 for point in whole if point.time == minute}
    greatest = sorted(last, key=lambda label: -last[label])[:3]
    few = readings.power_series(connection, *period, group_by="rack", most_racks=3)
    assert {point.label for point in few} == set(greatest)
    assert few == [point for point in whole if point.label in greatest]
    for label in greatest:
        site, _, rack = label.partition(" / ")
        alone = readings.power_series(connection, *period, Where(site=site, rack=rack), "rack")
        assert alone == [point for point in whole if point.label == label]
    (model,) = {
        point.power_w
        for point in readings.power_series(connection, *period, Where(gpu_model="NVIDIA L4"), "rack", most_racks=1)
    }
    assert model == max(last.values()) / 2


def test_a_small_fleet_is_known_until_now(connection: Connection) -> None:
    assert abs((readings.known_until(connection) - datetime.now(UTC)).total_seconds()) < 5


def test_sites_add_up_and_name_their_racks(connection: Connection) -> None:
    sites = readings.sites_now(connection)
    assert [(site.site, site.racks) for site in sites] == [
        ("austin", ["a01", "a02", "a03"]), ("oslo", ["r01", "r02", "r03", "r04"])
    ]  # fmt: skip
    assert sum(site.gpus for site in sites) == readings.fleet_summary(connection).gpus
    assert readings.count_racks(connection) == 7
    assert readings.count_racks(connection, Where(site="oslo")) == 4
