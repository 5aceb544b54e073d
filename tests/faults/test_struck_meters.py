"""Faults of the meters that a PUE rests on, from their registers to the report: each has its flag, and no PUE is wrong.

Hours of faults go by in a time of their own, by the maps' and the windows' own code, into the spool of a real agent. It
goes on from there, reads the same meters at their ports, and sends all to a real API. What flowed is known, and so is
the PUE of each hour.
"""

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from collector.simulated import fleet
from collector.simulated.facility import documents, history
from collector.simulated.facility.instruments import instruments, write_maps
from collector.simulated.facility.metering import Counted, SimulatedMeter
from collector.simulated.facility.plant import Flows, Plant
from collector.simulated.facility.struck import Fault, Kind
from gigawatch import database
from gigawatch.settings import Agent as AgentSettings
from tests.agents import running_agent, wait_for
from tests.factory import rows
from tests.faults.test_facility import serving
from tests.servers import running_api

SITE = "dublin"
HOUR_S, STEP_S = 3_600, 20
HOUR = timedelta(hours=1)
RACKS_W = {"r01": 20_000.0, "r02": 30_000.0}
WH_MJ = 3_600_000
ENDS_MJ = 2**32 * WH_MJ
WRAPPING = """\
title = "A meter of Wh in 32 bits"
driver = "modbus"
sources = ["tests/faults/test_struck_meters.py"]
[readings.energy]
register = 0
type = "uint32"
unit = "Wh"
wraps_at = 4_294_967_296
[readings.power]
register = 2
type = "float32"
unit = "W"
[readings.identity]
register = 4
type = "uint32"
"""
GRID, PDU, WRAPPING_PDU = "grid", "pdu-r01-a", "pdu-r02-a"
# Each in two hours of its own, about the full hour between them: minutes from the first of them, and how long.
CASES: list[tuple[Kind, float, float]] = [
    ("stuck", 50, 25), ("stuck", 57, 4), ("swapped", 50, 30), ("swapped", 58, 3), ("garbage", 58, 4), ("hung", 57, 6),
    ("replaced", 59 + 1 / 3, 1 / 60),
]  # fmt: skip
LIVE: dict[str, tuple[Kind, str]] = {
    "grid": ("swapped", "reversed"), "pdu-r01-b": ("stuck", "stuck"), "pdu-core-a": ("swapped", "reversed"),
    "pdu-r02-b": ("hung", "silent"),
}  # fmt: skip
"""From 20 min before the agent begins, and on; and the state that they have then."""
LIVE_S = 40
EXACT = 0.005
"""What a register counted while it stood still is spread evenly, over the edge of an hour too, while load moves; and a
step of the meter of the photovoltaics, 0.1 kWh, in an hour of the site."""


def load(time_s: int) -> dict[str, int]:
    """What the racks draw, mW: slowly more and less."""
    share = 0.6 + 0.15 * math.sin(time_s / 5_000)
    return {rack: round(1_000 * rack_w * share) for rack, rack_w in RACKS_W.items()}


class Site:
    """The site, as its time goes by."""

    def __init__(self, folder: Path, now_s: int) -> None:
        site = next(it.site for it in fleet.of_nodes(16, seed=1, gpus_per_node=2) if it.site.name == SITE)
        self.plant = Plant(site, RACKS_W, 1)
        self.cases = [(name, case) for name in (GRID, PDU) for case in CASES]
        """By meter, each in two hours from the start."""
        self.start_s = now_s // HOUR_S * HOUR_S - 2 * (len(self.cases) + 1) * HOUR_S
        self.at_s = self.start_s
        self.true_mj: dict[int, tuple[int, int]] = {}
        """By hour, energy of the sources and of IT."""
        faults: dict[str, list[Fault]] = {}
        for number, (name, (kind, minute, minutes)) in enumerate(self.cases):
            first_s = self.start_s + 2 * number * HOUR_S + round(60 * minute)
            faults.setdefault(name, []).append(lasting(kind, first_s, round(60 * minutes)))
        for name, (kind, _) in LIVE.items():
            faults.setdefault(name, []).append(lasting(kind, now_s - 1_200, 20_000))
        paths = write_maps(self.plant, folder)
        wrapping = folder / "wrapping.toml"
        wrapping.write_text(WRAPPING, encoding="utf-8")
        self.meters: dict[str, SimulatedMeter] = {}
        for number, it in enumerate(instruments(self.plant)):
            counted = None
            if it.name in {GRID, WRAPPING_PDU}:
                it = msgspec.structs.replace(it, map=str(wrapping), port="wrapping", index={"unit": number + 1})  # noqa: PLW2901
                # It ends in the fourth or fifth hour.
                counted = Counted(amount=ENDS_MJ - self.flows(self.start_s).mw[it.name] * 7 * HOUR_S // 2, serial=7)
            self.meters[it.name] = SimulatedMeter(
                it, paths.get(it.map, it.map), 1, tuple(faults.get(it.name, ())), counted
            )

    def flows(self, time_s: int) -> Flows:
        return self.plant.flows(time_s, load(time_s))

    def count(self, length_s: int) -> None:
        """Let so much time go by."""
        flows = self.flows(self.at_s)
        for it in self.meters.values():
            it.count(self.at_s, length_s, flows)
        came = sum(flows.mw.get(name, 0) for name in ("grid", "pv", "genset"))
        it_mw = sum(mw for name, mw in flows.mw.items() if name.startswith("pdu-"))
        hour_s = self.at_s // HOUR_S * HOUR_S
        before = self.true_mj.get(hour_s, (0, 0))
        self.true_mj[hour_s] = (before[0] + came * length_s, before[1] + it_mw * length_s)
        self.at_s += length_s


def lasting(kind: Kind, first_s: int, for_s: int) -> Fault:
    """A fault that comes once."""
    return Fault(kind=kind, first_s=first_s, every_s=10**9, for_s=for_s)


def remember(site: Site, agent: AgentSettings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time go by up to now, read as an agent reads, into the agent's spool."""
    for name in ("REGISTER_S", "POWER_S"):
        monkeypatch.setattr(history, name, STEP_S)
    monkeypatch.setattr(history, "WINDOW_S", 300)
    past = history.Past(agent, folder, list(site.meters.values()), site.at_s, goes_on=False)
    past.read(site.at_s)
    while site.at_s + STEP_S <= time.time():
        site.count(STEP_S)
        past.look(site.at_s)
    past.end(site.at_s)


def until(engine: Engine) -> datetime:
    ((folded,),) = rows_of(engine, "SELECT until FROM report.facility_until")
    assert isinstance(folded, datetime)
    return folded


def rows_of(engine: Engine, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    return [tuple(it.values()) for it in rows(engine, sql, **values)]


def at(time_s: int) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)


def test_each_fault_of_a_meter_that_a_pue_rests_on_has_its_flag_and_no_pue_is_wrong(
    embedded_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = embedded_server.create()
    site = Site(tmp_path / "maps", int(time.time()))
    engine = database.engine(url, role=database.REPORT_ROLE, statement_timeout_s=30)
    with running_api(url, tmp_path / "api.log") as api:
        topology = documents.topology({SITE: site.plant}, [it.instrument for it in site.meters.values()])
        with api.client("admin") as admin:
            assert admin.put("/api/v1/topology", content=topology).status_code == 200
        (tmp_path / "token").write_text(api.tokens["agent"], encoding="ascii")
        folder = tmp_path / "data"
        agent = AgentSettings(
            server_url=api.url, token_file=str(tmp_path / "token"), site=SITE, machine_id="sim-meters-test"
        )
        remember(site, agent, folder, monkeypatch)
        period = {"first": at(site.start_s), "beyond": at(site.at_s // HOUR_S * HOUR_S)}
        with serving(site.meters, site.flows(site.at_s), site.at_s) as addresses:
            path = tmp_path / "gigawatch.toml"
            settings = [it.settings(addresses[name], 2.0) for name, it in site.meters.items()]
            path.write_text(documents.configuration(agent, folder, settings), encoding="utf-8")
            with running_agent(None, folder, GIGAWATCH_CONFIG=str(path)) as running:
                # Power has flowed backwards for 30 s.
                time.sleep(LIVE_S)
                wait_for("hours", lambda: until(engine) >= period["beyond"], 120)
                assert running.stop() == 0, running.words()
        pue = "SELECT * FROM report.pue(:first, :beyond, CAST(:step AS interval), 'site', NULL, 2)"
        hours, (whole,) = (rows(engine, pue, step=it, **period) for it in ("1 hour", None))
        gaps = rows(engine, "SELECT * FROM report.facility_gaps(:first, :beyond) WHERE figure = 'pue'", **period)
        states = rows(engine, "SELECT meter, state FROM report.meter_health WHERE state <> 'ok'")
        events = rows(engine, "SELECT kind, message FROM report.events")
    engine.dispose()
    embedded_server.drop(url)
    right = {int(it["time"].timestamp()): it["pue"] for it in hours if it["pue"] is not None}
    for hour_s, measured in right.items():
        came_mj, it_mj = site.true_mj[hour_s]
        assert measured == pytest.approx(came_mj / it_mj, rel=EXACT), at(hour_s)
    sums = [sum(site.true_mj[it][side] for it in right) for side in (0, 1)]
    assert whole["pue"] == pytest.approx(sums[0] / sums[1], rel=EXACT / 5)
    assert whole["facility_energy_j"] * 1_000 == pytest.approx(sums[0], rel=EXACT / 5)
    assert whole["coverage"] == pytest.approx(len(right) / len(hours))
    # What stood still, hung, was garbled, wrapped or replaced is known by registers; what flowed backwards is not.
    backwards = [(name, number) for number, (name, (kind, *_)) in enumerate(site.cases) if kind == "swapped"]
    struck = {(name, at(site.start_s + (2 * number + it) * HOUR_S)) for name, number in backwards for it in (0, 1)}
    ends = period["beyond"] - HOUR
    left_out = {
        (name, time_of, reason)
        for it in gaps for name, reason in zip(it["meters"], it["reasons"], strict=True)
        for time_of in (it["time"] + number * HOUR for number in range(it["hours"])) if it["category"] == 2
    }  # fmt: skip
    assert {it for it in left_out if it[1] < ends} == {
        (name, time_of, "known in part: power flowed backwards") for name, time_of in struck
    }
    assert {name for name, time_of, _ in left_out if time_of == ends} <= LIVE.keys()
    assert {it["meter"]: it["state"] for it in states} == {name: state for name, (_, state) in LIVE.items()}
    told = {(name, it["kind"]) for it in events for name in site.meters if f"Meter {name}:" in it["message"]}
    of_all = {"meter_stuck", "meter_answers", "meter_reversed", "meter_refused", "meter_replaced"}
    assert {kind for name, kind in told if name == GRID} == of_all | {"meter_wrapped"}
    assert {kind for name, kind in told if name == PDU} == of_all
    assert {(name, kind) for name, kind in told if name not in {GRID, PDU, "chillers", "city-water"}} == {
        (WRAPPING_PDU, "meter_wrapped"), ("pdu-r01-b", "meter_stuck"), ("pdu-core-a", "meter_reversed"),
    }  # fmt: skip
    assert any(it["kind"] == "meter_silent" and "Meter pdu-r02-b at" in it["message"] for it in events)
