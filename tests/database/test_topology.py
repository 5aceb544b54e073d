"""Topologies in a real store: what applying changes, that it is whole or not at all, and who may do it."""

import json
import random
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner, Result
from sqlalchemy import Connection, Engine, text

from api.topology import commands, files, store, tables
from api.topology.store import Applied
from gigawatch import facility_readings
from gigawatch.topology.plan import in_force
from tests.processes import processor_s
from tests.servers import Api, running_api
from tests.unit.test_topology import EXAMPLE, random_site

SMALL = """
sites:
  oslo:
    halls:
      H1:
        rows:
          A: {racks: "A-[1-2]", budget_kw: 80}
        rack_budgets_kw: {A-1: 44}
    meters:
      grid: {role: utility, rated_kw: 100, contract_kw: 99.5, feeds: ups}
      ups: {role: ups_out, feeds: ["pdu-[1-2]", rest]}
      pdu-[1-2]:
        role: pdu
        breaker_a: 63
        racks: A-[*]
      rest: {role: other}
      both: {role: other, plus: ups, minus: "pdu-[1-2]"}
      oil: {role: fuel, backup: true}
      water: {role: water, potable: false, since: 2026-01-01, until: 2027-01-01T01:00+01:00}
      bmc: {role: other, node: host-1}
    eu_report: {pdit_kw: 70, years: {2025: {ppa_kwh: 5}}}
"""
KEPT = ("hall", "rack", "meter", "meter_feed", "meter_rack", "meter_term", "power_budget", "topology", "site")


@pytest.fixture
def owner(engine: Engine) -> Iterator[Connection]:
    """The store's owner."""
    with engine.connect() as connection:
        yield connection


def apply(connection: Connection, body: str, dry_run: bool = False) -> Applied:
    return store.apply(connection, files.read(body.encode()), source="test.yaml", dry_run=dry_run)


def changes(done: Applied) -> list[tuple[str, str, str]]:
    return [(it.did, it.what, it.name) for site in done.sites for it in site.changes]


def everything(connection: Connection) -> dict[str, list[Any]]:
    """Rows of all tables that a topology fills, with their numbers and the moments of their making."""
    return {it: [tuple(map(str, row)) for row in connection.execute(text(f"TABLE gigawatch.{it}"))] for it in KEPT}


def rows(connection: Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(text(sql))]


def test_a_topology_fills_the_tables(owner: Connection) -> None:
    done = apply(owner, SMALL)
    assert changes(done)[0] == ("added", "site", "oslo")
    assert {what for did, what, _ in changes(done)} == {"site", "hall", "rack", "meter", "budget"}
    assert rows(owner, "SELECT rack.name, hall.name, row FROM gigawatch.rack JOIN gigawatch.hall USING (hall_id)") == [
        ("A-1", "H1", "A"), ("A-2", "H1", "A"),
    ]  # fmt: skip
    found = {it.meter: it for it in facility_readings.meters(owner, "oslo")}
    assert (found["grid"].rated_kw, found["grid"].contract_kw, found["grid"].feeds) == (100, 99.5, ["ups"])
    assert (found["pdu-2"].racks, found["pdu-2"].hall, found["pdu-2"].breaker_a) == (["A-2"], "H1", 63)
    assert (found["both"].plus, found["both"].minus, found["both"].state) == (["ups"], ["pdu-1", "pdu-2"], "virtual")
    assert (found["oil"].fuel_kwh_per_l, found["oil"].backup, found["water"].potable) == (9.9, True, False)
    assert (found["water"].since, found["water"].until) == (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
    )
    assert (found["bmc"].node, found["bmc"].state, found["bmc"].last_seen) == ("host-1", "silent", None)
    assert rows(owner, "SELECT scope, name, budget_mw FROM gigawatch.power_budget ORDER BY 1") == [
        ("rack", "A-1", 44_000_000), ("row", "H1/A", 80_000_000),
    ]  # fmt: skip
    (it,) = facility_readings.topologies(owner)
    assert (it.site, it.source, it.document) == ("oslo", "test.yaml", files.read(SMALL.encode()).topology.sites["oslo"])
    assert list(it.document.meters)[:3] == ["grid", "ups", "pdu-[1-2]"]
    assert done.sites[0].notes == ["Nodes that meters name, and of which no agent was heard: host-1."]


def test_applying_again_changes_nothing_and_a_trial_neither(owner: Connection) -> None:
    assert changes(apply(owner, SMALL, dry_run=True))[0] == ("added", "site", "oslo")
    assert all(not it for it in everything(owner).values())
    apply(owner, SMALL)
    owner.commit()
    before = everything(owner)
    # Other words and comments mean the same.
    assert changes(apply(owner, f"# again\n{SMALL}")) == []
    trial = apply(owner, SMALL.replace("rated_kw: 100", "rated_kw: 200"), dry_run=True)
    assert [it.details for it in trial.sites[0].changes] == [["rated_kw: 100 → 200"]]
    assert everything(owner) == before
    other_words = SMALL.replace('racks: "A-[1-2]"', "racks: [A-1, A-2]")
    assert changes(apply(owner, other_words)) == [("changed", "document", "oslo")]
    assert changes(apply(owner, other_words)) == []
    facts = other_words.replace("ppa_kwh: 5", "ppa_kwh: 6")
    assert changes(apply(owner, facts)) == [("changed", "eu_report", "oslo")]
    assert rows(owner, "SELECT in_force FROM report.topologies ORDER BY topology_id") == [(False,), (False,), (True,)]


def test_what_is_no_longer_named_keeps_its_data(owner: Connection) -> None:
    apply(owner, SMALL)
    ids = dict(rows(owner, "SELECT name, meter_id FROM gigawatch.meter"))
    owner.execute(
        text("""
        INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected, energy_mj,
            rejected_readings) VALUES ('2026-01-01Z', :id, 10000, 1, 1, 5, 0)"""),
        {"id": ids["pdu-2"]},
    )
    owner.execute(text("UPDATE gigawatch.meter SET last_seen = now() WHERE name = 'pdu-2'"))
    smaller = SMALL.replace("pdu-[1-2]", "pdu-[1-1]").replace("A-[1-2]", "A-[1-1]").replace("H1", "H2")
    done = apply(owner, smaller)
    assert [it for it in changes(done) if it[0] == "removed"] == [
        ("removed", "hall", "H1"), ("removed", "rack", "A-2"), ("removed", "meter", "pdu-2"),
        ("removed", "budget", "row H1/A"),
    ]  # fmt: skip
    assert done.sites[0].notes[0].startswith("Removed meters are in no figure of the past either")
    assert rows(owner, "SELECT meter_id, role, breaker_ma, hall_id FROM gigawatch.meter WHERE name = 'pdu-2'") == [
        (ids["pdu-2"], None, None, None)
    ]
    (gone,) = [it for it in facility_readings.meters(owner) if it.meter == "pdu-2"]
    assert (gone.state, gone.placed, gone.racks) == ("unplaced", False, [])
    assert rows(owner, "SELECT name, hall_id, row FROM gigawatch.rack WHERE name = 'A-2'") == [("A-2", None, None)]
    assert rows(owner, "SELECT energy_mj FROM gigawatch.meter_window") == [(5,)]
    assert any("pdu-2" in note and "not placed" in note for note in apply(owner, smaller).sites[0].notes)
    # Named again it is the same.
    apply(owner, SMALL)
    assert dict(rows(owner, "SELECT name, meter_id FROM gigawatch.meter WHERE role IS NOT NULL")) == ids
    assert tables.held(owner, 1) == tables.compiled(in_force("oslo", files.read(SMALL.encode()).topology.sites["oslo"]))


def test_other_sites_stay_as_they_are(owner: Connection) -> None:
    apply(owner, SMALL)
    apply(owner, SMALL.replace("oslo", "paris"))
    assert ("removed", "meter", "grid") in changes(apply(owner, "sites: {paris: }"))
    assert [(it.site, len(it.document.meters)) for it in facility_readings.topologies(owner)] == [
        ("oslo", 8),
        ("paris", 0),
    ]
    assert rows(owner, "SELECT count(*) FROM gigawatch.meter_feed") == [(4,)]


def test_a_meter_is_silent_after_two_of_its_windows(owner: Connection) -> None:
    apply(owner, SMALL)

    def state(ago: str, covered_ms: int) -> str:
        owner.execute(text("DELETE FROM gigawatch.meter_window"))
        owner.execute(
            text("""
            INSERT INTO gigawatch.meter_window (time, meter_id, covered_ms, readings_taken, readings_expected,
                rejected_readings)
            SELECT now(), meter_id, :covered_ms, 1, 1, 0 FROM gigawatch.meter WHERE name = 'grid'"""),
            {"covered_ms": covered_ms},
        )
        owner.execute(
            text("UPDATE gigawatch.meter SET last_seen = now() - CAST(:ago AS interval) WHERE name = 'grid'"),
            {"ago": ago},
        )
        return next(it.state for it in facility_readings.meters(owner) if it.meter == "grid")

    assert [state("4 min", 10_000), state("6 min", 10_000)] == ["reporting", "silent"]
    assert [state("100 min", 3_600_000), state("130 min", 3_600_000)] == ["reporting", "silent"]


def test_random_sites_come_back_as_they_were_declared(owner: Connection) -> None:
    """One after the other into the same site, so that all kinds of changes are made."""
    for seed in range(12):
        document, racks, _ = random_site(random.Random(seed))  # noqa: S311 # the same each time
        body = yaml.safe_dump({"sites": {"s": document}}, sort_keys=False)
        apply(owner, body)
        plan = in_force("s", files.read(body.encode()).topology.sites["s"])
        assert tables.held(owner, 1) == tables.compiled(plan)
        assert changes(apply(owner, body)) == []
        placed = rows(owner, "SELECT rack.name, hall.name, row FROM gigawatch.rack JOIN gigawatch.hall USING (hall_id)")
        assert {name: (hall, row) for name, hall, row in placed} == racks


def test_topologies_at_once_wait_for_each_other_and_for_agents(engine: Engine) -> None:
    """Four topologies in turn, while racks and meters of the same names come in as agents bring them."""
    bodies = [files.read(SMALL.replace("[1-2]", f"[1-{it}]").encode()) for it in range(1, 5)]
    failures: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 # a thread's failure must reach the test
            failures.append(error)

    def applies(turn: int) -> None:
        for it in range(8):
            with engine.begin() as connection:
                store.apply(connection, bodies[(turn + it) % 4], source="test", dry_run=False)

    def ingests() -> None:
        for it in range(40):
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo') ON CONFLICT DO NOTHING"))
                for table, name in (("rack", f"A-{it % 5}"), ("meter", f"pdu-{it % 5}")):
                    connection.execute(
                        text(f"""
                        INSERT INTO gigawatch.{table} (site_id, name)
                        SELECT site_id, :name FROM gigawatch.site WHERE name = 'oslo' ON CONFLICT DO NOTHING"""),
                        {"name": name},
                    )
                connection.execute(text("UPDATE gigawatch.meter SET last_seen = now() WHERE name LIKE 'pdu-%'"))

    threads = [threading.Thread(target=guarded, args=(lambda turn=turn: applies(turn),)) for turn in range(2)]
    threads += [threading.Thread(target=guarded, args=(ingests,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        (it,) = facility_readings.topologies(connection)
        site_id = connection.execute(text("SELECT site_id FROM gigawatch.site")).scalar_one()
        assert tables.held(connection, site_id) == tables.compiled(in_force("oslo", it.document))


def test_a_large_site_is_applied_within_seconds(owner: Connection) -> None:
    meters = {f"pdu-[0001-2000]-{feed}": {"role": "pdu", "feed": feed, "racks": "r-[*]"} for feed in "AB"}
    body = yaml.safe_dump({"sites": {"s": {"halls": {"H": {"racks": "r-[0001-2000]"}}, "meters": meters}}})
    began_s = processor_s(owner)
    assert len(changes(apply(owner, body))) == 6_002
    assert changes(apply(owner, body)) == []
    assert len(facility_readings.meters(owner)) == 4_000
    assert processor_s(owner) - began_s < 20


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Any:
    path = tmp_path / "oslo.yaml"

    def run(*words: str, body: str = "") -> Result:
        if body:
            path.write_text(body, encoding="utf-8")
        arguments = [str(path) if it == "FILE" else it for it in words]
        of_store = [] if words[0] == "check" else ["--database-url", database_url]
        return CliRunner().invoke(commands.topology, [arguments[0], *of_store, *arguments[1:]], obj=None)

    return run


def test_the_command_applies_and_shows(run: Any, tmp_path: Path) -> None:
    result = run("apply", "FILE", "--dry-run", body=SMALL)
    assert "oslo: would be added: 9 meters: grid, ups, pdu-1, pdu-2, rest, both and 3 more\n" in result.output, (
        result.output
    )
    assert run("show").output == ""
    assert "oslo: added: 2 racks: A-1, A-2\n" in run("apply", "FILE").output
    assert "oslo: nothing changes.\n" in run("apply", "FILE").output
    result = run("apply", "FILE", body=SMALL.replace("rated_kw: 100", "rated_kw: 99.5"))
    assert "oslo: changed: 1 meter: grid\n  grid: rated_kw: 100 → 99.5\n" in result.output
    assert re.match(
        r"oslo  applied .* UTC  oslo.yaml  [0-9a-f]{12}\n  oslo: 1 halls, 1 rows, 2 racks", run("show").output
    )
    shown = run("show", "--yaml").output
    again = json.loads(run("apply", "FILE", "--json", body=shown).output)
    assert [it["changes"] for it in again["sites"]] == [[]]
    svg = tmp_path / "oslo.svg"
    assert run("show", "--site", "oslo", "--svg", str(svg)).output == ""
    assert ET.parse(svg).getroot().get("class") == "gw-topology"  # noqa: S314 # our own
    (document,) = json.loads(run("show", "--json").output)
    assert document["document"]["eu_report"]["years"] == {"2025": {"ppa_kwh": 5.0}}
    for words, said in (
        (("show", "--site", "x"), "There is no site named 'x'\n  There are: oslo."),
        (("apply", "FILE"), "line 4: there is no meter 'x'"),
    ):
        result = run(*words, body="sites:\n  oslo:\n    meters:\n      a: {role: utility, feeds: x}\n")
        assert result.exit_code != 0 and said in result.output, result.output


@pytest.fixture
def api(embedded_server: Any, tmp_path: Path) -> Iterator[Api]:
    url = embedded_server.create()
    with running_api(url, tmp_path / "log", GIGAWATCH_SERVER__SCHEDULER="false") as api:
        yield api
    embedded_server.drop(url)


def test_the_api_checks_applies_and_answers(api: Api) -> None:
    path = "/api/v1/topology"

    def put(client: httpx.Client, body: str, **query: str) -> httpx.Response:
        return client.put(path, params=query, content=body)

    with api.client("viewer") as viewer, api.client("admin") as admin, api.client("agent") as agent:
        assert [put(it, SMALL).status_code for it in (viewer, agent)] == [403, 403]
        assert agent.get(path).status_code == 403
        assert viewer.get(path).json() == []
        assert put(admin, SMALL, dry_run="true").json()["dry_run"] is True
        assert viewer.get(path).json() == []
        assert put(admin, EXAMPLE, source="oslo.yaml").json()["warnings"] == []
        (found,) = viewer.get(path, params={"site": "oslo"}).json()
        assert (found["source"], found["document"]["halls"]["core"]) == ("oslo.yaml", {"racks": ["net-1", "net-2"]})
        # What is answered can be sent again.
        again = admin.put(path, json={"sites": {found["site"]: found["document"]}})
        assert [it["changes"] for it in again.json()["sites"]] == [[]]
        refused = put(admin, "sites:\n  oslo:\n    meters:\n      a: {role: utilty}\n      b: {role: pdu, feeds: c}\n")
        assert refused.status_code == 422
        assert refused.json()["detail"] == "2 errors. docs/topology.md explains the format."
        assert [(it["line"], it["problem"]) for it in refused.json()["findings"] if it["severity"] == "error"] == [
            (4, "role = 'utilty' is not known"), (5, "there is no meter 'c'"),
        ]  # fmt: skip
        for body, status in (
            (b"\xff", 422),
            (b"[" * 50_000, 422),
            (b"a: &a [*a]", 422),
            (b"x" * (4 * 2**20 + 2), 413),
            (b"", 422),
        ):
            answer = admin.put(path, content=body)
            assert answer.status_code == status and "detail" in answer.json(), answer.text
        assert len(viewer.get("/api/v1/meters", params={"site": "oslo", "limit": 5}).json()) == 5
        assert viewer.get("/api/v1/meters", params={"limit": 1, "offset": 408}).json()[0]["meter"] == "ups-B-in"
