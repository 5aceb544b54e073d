"""Each rule of METHODS §5 from what agents and meters send to the alert that fires.

At the boundary of its `for`, for its condition alone, and until that ended. SQL of the rules at each level of the store
is what test_alert_views.py looks at.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from api.alerts.rule import Override
from gigawatch.records import (
    Assignment,
    EnergyMethod,
    Event,
    Gpu,
    GpuHealth,
    GpuWindow,
    Inventory,
    MeterDoubt,
    MigInstance,
    Severity,
)
from tests import facility
from tests.conftest import Server
from tests.facility import DAY, HOUR
from tests.watched import H100, MINUTE, SECOND, START, Gateway, Node, Serving, Tell, Watched, drawing, kwh


@pytest.fixture
def watched(embedded_server: Server) -> Iterator[Watched]:
    url = embedded_server.create()
    it = Watched(url)
    yield it
    it.close()
    embedded_server.drop(url)


HELD_DOWN = ("power_brake", "hw_thermal_slowdown", "sw_thermal_slowdown")


def test_gpus_that_are_held_down_or_hot(watched: Watched) -> None:
    """METHODS, worked example 12: bits 128 fire the power brake alert alone, 64 the hardware-thermal one, at 5 min."""
    mig = {"mig_enabled": True, "mig_instances": (MigInstance(uuid="MIG-1", gpu_instance_id=1),)}
    node = Node(
        watched,
        "n1",
        {
            "GPU-128": {"clock_event_reasons": 128, "gpu_temp_max_c": 60, "sm_clock_mhz": 345},
            "GPU-64": {"clock_event_reasons": 64, "gpu_temp_max_c": 82, "mem_temp_max_c": 95},
            "GPU-32": {"clock_event_reasons": 32, "gpu_temp_max_c": 81},
            # Idle, clocks set by an application, power cap, hardware slowdown, sync boost, display.
            "GPU-rest": {"clock_event_reasons": 1 + 2 + 4 + 8 + 16 + 256, "gpu_temp_max_c": 83},
            "GPU-all": {"clock_event_reasons": 511, "gpu_temp_max_c": 87},
            "GPU-mig": {"clock_event_reasons": 128 + 4, "gpu_temp_max_c": 89},
            "GPU-warm": {"clock_event_reasons": 0, "gpu_temp_max_c": 86},
            "GPU-mute": {},
        },
        what={"GPU-mig": mig, "GPU-rest": {"temp_slowdown_c": 89}},
    )
    # An agent that told nothing of itself: no rack, no model, no slowdown temperature.
    unknown = Node(watched, "n2", {"GPU-new": {"clock_event_reasons": 128, "gpu_temp_max_c": 99}}, told=False)
    rules = (*HELD_DOWN, "gpu_temperature")

    def tell() -> None:
        node.report()
        unknown.report()

    of_rule = {
        "power_brake": {"GPU-128": 128, "GPU-all": 511, "GPU-mig": 132, "GPU-new": 128},
        "hw_thermal_slowdown": {"GPU-64": 64, "GPU-all": 511},
        "sw_thermal_slowdown": {"GPU-32": 32, "GPU-all": 511},
    }
    began = START + 15 * SECOND
    watched.go(began + 2 * MINUTE - SECOND, *rules, tell=tell)
    margins = {
        "GPU-64": (5, "warning"),
        "GPU-warm": (1, "warning"),
        "GPU-all": (0, "critical"),
        "GPU-mig": (-2, "critical"),
    }
    assert watched.alerts("gpu_temperature") == {}
    assert watched.alerts("gpu_temperature", "pending").keys() == margins.keys()
    watched.go(began + 2 * MINUTE, *rules, tell=tell)
    hot = watched.alerts("gpu_temperature")
    assert {uuid: (it.value, it.severity) for uuid, it in hot.items()} == margins
    assert hot["GPU-64"].summary == "n1, GPU 1: 82 °C, and it slows down at 87 °C"
    watched.go(began + 5 * MINUTE - SECOND, *rules, tell=tell)
    for rule, values in of_rule.items():
        assert watched.alerts(rule) == {}
        assert watched.alerts(rule, "pending").keys() == values.keys()
    watched.go(began + 5 * MINUTE, *rules, tell=tell)
    for rule, values in of_rule.items():
        found = watched.alerts(rule)
        assert {uuid: it.value for uuid, it in found.items()} == values
        assert {it.severity for it in found.values()} == {"warning"}
        assert watched.alerts(rule, "pending") == {}
    its = {"site": "oslo", "rack": "A1", "hostname": "n1", "gpu_model": H100}
    brake = watched.alerts("power_brake")
    assert brake["GPU-128"].labels == {**its, "gpu_uuid": "GPU-128"}
    assert brake["GPU-128"].summary == "n1, GPU 0: power brake at 300 W, SM clock 345 MHz"
    assert brake["GPU-mig"].summary == "n1, GPU 5: power brake at 300 W, SM clock ? MHz"
    assert brake["GPU-new"].labels == {
        "site": "default", "hostname": "n2", "gpu_uuid": "GPU-new", "gpu_model": "unknown",
    }  # fmt: skip
    assert watched.alerts("hw_thermal_slowdown")["GPU-64"].summary == (
        "n1, GPU 1: hardware thermal slowdown at 82 °C, memory 95 °C"
    )
    assert watched.alerts("sw_thermal_slowdown")["GPU-32"].summary == (
        "n1, GPU 2: software thermal slowdown at 81 °C, memory ? °C"
    )
    for it in (node, unknown):
        for values in it.gpus.values():
            values |= {"clock_event_reasons": 1, "gpu_temp_max_c": 60}
    ceased = watched.now + 15 * SECOND
    watched.go(ceased + 2 * MINUTE - SECOND, *rules, tell=tell)
    assert watched.alerts("gpu_temperature").keys() == margins.keys()
    watched.go(ceased + 2 * MINUTE, *rules, tell=tell)
    assert watched.alerts("gpu_temperature") == {}
    watched.go(ceased + 5 * MINUTE - SECOND, *rules, tell=tell)
    assert {rule: watched.alerts(rule).keys() for rule in of_rule} == {
        rule: values.keys() for rule, values in of_rule.items()
    }
    watched.go(ceased + 5 * MINUTE, *rules, tell=tell)
    assert [rule for rule in of_rule if watched.alerts(rule)] == []


def test_a_gpu_of_which_nothing_is_known_stays_what_it_was(watched: Watched) -> None:
    """A node that is silent, however long, or tells of a GPU no more: unknown is not resolved."""
    node = Node(watched, "n1", {"GPU-1": {"clock_event_reasons": 128, "gpu_temp_max_c": 87}, "GPU-2": {}})
    rules = ("power_brake", "gpu_temperature")
    watched.go(START + 6 * MINUTE, *rules, tell=node.report)
    assert [watched.alerts(rule).keys() for rule in rules] == [{"GPU-1"}, {"GPU-1"}]
    watched.go(START + 8 * MINUTE, *rules)
    watched.at(START + 3 * HOUR)
    watched.go(watched.now + 6 * MINUTE, *rules)
    for rule in rules:
        held = watched.alerts(rule)["GPU-1"]
        assert held.unknown_since - (START + 6 * MINUTE) < 2 * MINUTE
    # What comes late tells of what was, not of what is.
    watched.send("n1", None, gpu_windows=[
        GpuWindow(gpu_uuid="GPU-1", start=START - MINUTE, covered_ms=10_000, ticks_taken=10, ticks_expected=10,
                  clock_event_reasons=1, gpu_temp_max_c=40)
    ])  # fmt: skip
    watched.go(watched.now + 6 * MINUTE, *rules)
    assert [watched.alerts(rule).keys() for rule in rules] == [{"GPU-1"}, {"GPU-1"}]
    node.gpus["GPU-1"] |= {"clock_event_reasons": 1, "gpu_temp_max_c": 40}
    back = Node(watched, "n1", node.gpus)
    watched.go(watched.now + 6 * MINUTE, *rules, tell=back.report)
    assert [watched.alerts(rule) for rule in rules] == [{}, {}]


def test_a_host_that_was_set_up_anew_holds_no_alert_of_the_machine_before(watched: Watched) -> None:
    old = Node(watched, "n1", {"GPU-1": {"clock_event_reasons": 128}})
    watched.go(START + 6 * MINUTE, "power_brake", tell=old.report)
    assert watched.alerts("power_brake").keys() == {"GPU-1"}
    watched.at(START + 2 * HOUR)
    watched.send("m2", Inventory(hostname="n1", site="oslo", rack="A1", gpus=(Gpu(uuid="GPU-2", index=0, model=H100),)))
    watched.go(watched.now + 6 * MINUTE, "power_brake")
    assert watched.alerts("power_brake") == {}


XIDS = {
    "xid_fatal": ({48, 64, 74, 79, 95, 119, 120, 140}, "critical"),
    "xid_contained": ({94}, "warning"),
    "gpu_reset_needed": ({46, 62, 109, 110, 136, 143, 155, 156, 158}, "critical"),
    "nvlink5_error": (set(range(144, 151)), "critical"),
}
"""METHODS §5; XID 63 is informational."""


def xid(code: int, time: datetime, uuid: str | None = None) -> Event:
    return Event(time=time, kind="xid", severity=Severity.INFO, code=code, message=f"XID {code}: words", gpu_uuid=uuid)


def test_events(watched: Watched) -> None:
    node = Node(watched, "n1", {f"GPU-{code}": {} for code in range(200)})
    node.send()
    assert all(watched.rules[rule].for_s == 0 for rule in XIDS)
    watched.evaluate(*XIDS)
    # One comes ten minutes late, another when it is history, and one is of the whole node.
    history = xid(79, watched.now - 8 * DAY, "GPU-history")
    watched.send("n1", None, events=[
        history,
        *(xid(code, watched.now - (10 * MINUTE if code == 79 else SECOND), f"GPU-{code}") for code in range(200)),
    ])  # fmt: skip
    watched.send("n2", Inventory(hostname="n2", site="oslo"), events=[xid(79, watched.now)])
    watched.send("n3", Inventory(hostname="n3", site="oslo"), events=[
        Event(time=watched.now, kind=kind, severity=Severity.CRITICAL, message=kind, gpu_uuid=f"GPU-{kind}")
        for kind in ("gpu_unavailable", "gpu_recovery_action", "ecc_double_bit", "nvml_event")
    ])  # fmt: skip
    watched.evaluate(*XIDS)
    others = {"xid_fatal": {"n2"}, "gpu_reset_needed": {"GPU-gpu_unavailable", "GPU-gpu_recovery_action"}}
    for rule, (codes, severity) in XIDS.items():
        found = watched.alerts(rule)
        assert found.keys() == {f"GPU-{code}" for code in codes} | others.get(rule, set())
        assert {it.severity for it in found.values()} == {severity}
        assert all(it.value == int(uuid[4:]) for uuid, it in found.items() if uuid[4:].isdigit())
    fatal = watched.alerts("xid_fatal")
    assert fatal["GPU-79"].labels == {"site": "oslo", "rack": "A1", "hostname": "n1", "gpu_uuid": "GPU-79"}
    assert (fatal["GPU-79"].summary, fatal["n2"].summary) == ("n1, GPU 79: XID 79: words", "n2, GPU ?: XID 79: words")
    # It is told for an hour from when it came.
    watched.at(START + HOUR - SECOND)
    watched.evaluate(*XIDS)
    assert all(watched.alerts(rule) for rule in XIDS)
    watched.at(START + HOUR)
    watched.evaluate(*XIDS)
    assert [rule for rule in XIDS if watched.alerts(rule)] == []


def test_memory_that_is_not_well(watched: Watched) -> None:
    rules = ("row_remap_failed", "row_remap_pending", "ecc_double_bit")
    read: dict[str, dict[str, Any]] = {
        "GPU-failed": {"row_remap_failed": True, "row_remap_pending": True},
        "GPU-pending": {"row_remap_failed": False, "row_remap_pending": True, "ecc_volatile_uncorrected": 0},
        "GPU-ecc": {"ecc_volatile_uncorrected": 1},
        "GPU-well": {"row_remap_failed": False, "row_remap_pending": False, "ecc_volatile_uncorrected": 0,
                     "ecc_volatile_corrected": 9, "ecc_aggregate_uncorrected": 9, "rows_remapped_uncorrected": 9},
        "GPU-old": {"page_retirement_pending": True},
        "GPU-mute": {},
    }  # fmt: skip
    node = Node(watched, "n1", {uuid: {} for uuid in read}, what={"GPU-failed": {"serial": "165"}})

    def tell() -> None:
        node.send(health=[GpuHealth(gpu_uuid=uuid, time=watched.now, **values) for uuid, values in read.items()])

    tell()
    assert [watched.rules[rule].for_s for rule in rules] == [0, 0, 0]
    watched.evaluate(*rules)
    words = {
        "row_remap_failed": (
            "GPU-failed",
            "critical",
            "GPU 0 (serial 165): a row remap failed, the GPU is to be replaced",
        ),
        "row_remap_pending": ("GPU-pending", "warning", "GPU 1: a row remap waits for a reset of the GPU"),
        "ecc_double_bit": ("GPU-ecc", "critical", "GPU 2: uncorrectable memory errors since the driver was loaded: 1"),
    }
    for rule, (gpu, severity, summary) in words.items():
        ((uuid, it),) = watched.alerts(rule).items()
        assert (uuid, it.value, it.severity, it.summary) == (gpu, 1, severity, f"n1, {summary}")
    its = {"site": "oslo", "rack": "A1", "hostname": "n1", "gpu_model": H100}
    assert watched.alerts("ecc_double_bit")["GPU-ecc"].labels == {**its, "gpu_uuid": "GPU-ecc"}
    # Of a node that is silent it is what was last read.
    watched.at(START + 6 * DAY)
    watched.evaluate(*rules)
    assert all(watched.alerts(rule) for rule in rules)
    # A reset of the GPU, and one that was replaced.
    read |= {"GPU-pending": {"row_remap_pending": False}, "GPU-ecc": {"ecc_volatile_uncorrected": 0}}
    del node.gpus["GPU-failed"], read["GPU-failed"]
    node = Node(watched, "n1", node.gpus)
    tell()
    watched.evaluate(*rules)
    assert [rule for rule in rules if watched.alerts(rule)] == []


def test_silence(watched: Watched) -> None:
    """> 60 s of a node, critical > 5 min; 20 % of a rack is one alert."""
    many = {f"n{number}": Node(watched, f"n{number}", {f"GPU-{number}": {}}) for number in range(1, 11)}
    other = Node(watched, "m1", {"GPU-m1": {}}, rack="A2")
    wide = [Node(watched, f"w{number}", {}, rack="A3") for number in range(1, 12)]
    rules = ("agent_silent", "rack_silent", "site_silent")

    def all_but(*names: str) -> Tell:
        def tell() -> None:
            for it in (*many.values(), other):
                if it.name not in names:
                    it.report()
            for it in wide:
                if it.name not in names:
                    it.send()

        return tell

    watched.go(START + 20 * SECOND, *rules, tell=all_but())
    # n1 is last heard of now, and one node of ten is no rack.
    watched.go(START + 80 * SECOND, *rules, tell=all_but("n1"))
    assert watched.alerts("agent_silent") == {}
    watched.go(START + 90 * SECOND, *rules, tell=all_but("n1"))
    (silent,) = watched.alerts("agent_silent").values()
    assert (silent.severity, silent.value, silent.summary) == (
        "warning", 70, "n1: nothing heard for 70 s (GPUs: 1)",
    )  # fmt: skip
    assert silent.labels == {"site": "oslo", "rack": "A1", "hostname": "n1"}
    assert watched.alerts("rack_silent", "pending") == {}
    watched.go(START + 320 * SECOND, *rules, tell=all_but("n1"))
    assert watched.alerts("agent_silent")["n1"].severity == "warning"
    watched.go(START + 330 * SECOND, *rules, tell=all_but("n1"))
    assert watched.alerts("agent_silent")["n1"].severity == "critical"
    # n2, too; m1 alone is a rack, and two of eleven are less than a fifth.
    silent_now = ("n1", "n2", "m1", "w1", "w2")
    watched.go(START + 380 * SECOND, *rules, tell=all_but(*silent_now))
    assert watched.alerts("rack_silent") == {}
    watched.go(START + 390 * SECOND, *rules, tell=all_but(*silent_now))
    (rack,) = watched.alerts("rack_silent").values()
    assert (rack.labels, rack.severity, rack.value, rack.racks) == (
        {"site": "oslo", "rack": "A1"}, "critical", 0.2, ["A1"],
    )  # fmt: skip
    assert rack.summary.startswith("A1: nodes silent: 2 of 10, since 2026-03-10 12:05:30")
    assert watched.alerts("site_silent", "pending") == {}
    watched.go(START + 450 * SECOND, *rules)
    (site,) = watched.alerts("site_silent").values()
    assert (site.labels, site.severity, site.value) == ({"site": "oslo"}, "critical", 1)
    assert site.summary.startswith("oslo: nodes silent: 22 of 22, since 2026-03-10 12:06:30")
    watched.go(START + 500 * SECOND, *rules, tell=all_but())
    assert all(watched.alerts(rule) for rule in rules)
    watched.go(START + 520 * SECOND, *rules, tell=all_but())
    assert [rule for rule in rules if watched.alerts(rule)] == []


def test_a_gpu_that_its_node_reports_no_more(watched: Watched) -> None:
    node = Node(watched, "n1", {"GPU-1": {}, "GPU-2": {}}, what={"GPU-2": {"pci_bus_id": "00:3B"}})
    watched.go(START + 60 * SECOND, "gpu_lost", tell=node.report)
    lost = node.gpus.pop("GPU-2")
    # Its last window began at 50 s: it is missed from 90 s after that on, and a minute later it is told.
    watched.go(START + 195 * SECOND, "gpu_lost", tell=node.report)
    assert watched.alerts("gpu_lost") == {}
    watched.go(START + 210 * SECOND, "gpu_lost", tell=node.report)
    (found,) = watched.alerts("gpu_lost").values()
    assert found.labels["gpu_uuid"] == "GPU-2"
    assert (found.severity, found.summary) == (
        "critical", f"n1: GPU 1 ({H100}, 00:3B) does not report (GPUs missing: 1 of 2)",
    )  # fmt: skip
    # While the node is silent nobody knows.
    watched.at(watched.now + 2 * HOUR)
    watched.go(watched.now + 2 * MINUTE, "gpu_lost")
    assert watched.alerts("gpu_lost").keys() == {"GPU-2"}
    back = Node(watched, "n1", {"GPU-1": {}, "GPU-2": lost})
    watched.go(watched.now + 75 * SECOND, "gpu_lost", tell=back.report)
    assert watched.alerts("gpu_lost") == {}


def test_gpus_whose_node_tells_late_are_not_lost(watched: Watched) -> None:
    """A spool that is being emptied after an hour, or a slow clock, is no fault of GPUs; a driver that is gone is."""
    late = Node(watched, "n1", {"GPU-1": {}, "GPU-2": {}})
    gone = Node(watched, "n2", {"GPU-3": {}, "GPU-4": {}})
    slow = Node(watched, "n3", {"GPU-5": {}, "GPU-6": {}}, behind=4 * MINUTE)

    def tell() -> None:
        for it in (late, gone):
            it.report(most=2 * MINUTE)
        slow.report()

    watched.go(START + 2 * MINUTE, "gpu_lost", tell=tell)
    watched.at(START + HOUR)
    watched.go(watched.now + 5 * MINUTE, "gpu_lost", tell=tell)
    assert [watched.alerts("gpu_lost", it) for it in ("pending", "firing")] == [{}, {}]
    # Pages say the same: nobody knows what is now, or the clock is why.
    nodes = "SELECT hostname, state, gpus_missing, gpus_silent, gpus_reporting FROM report.nodes ORDER BY 1"
    one_by_one = "SELECT hostname, state, count(*) FROM report.fleet_now GROUP BY 1, 2 ORDER BY 1"
    old = [("n1", "silent", 0, 2, 0), ("n2", "silent", 0, 2, 0), ("n3", "clock_off", 0, 2, 0)]
    assert [tuple(it) for it in watched.run(nodes)] == old
    assert [tuple(it) for it in watched.run(one_by_one)] == [(name, "silent", 2) for name in ("n1", "n2", "n3")]
    gone.gpus = {}
    watched.go(watched.now + 10 * MINUTE, "gpu_lost", tell=tell)
    assert watched.alerts("gpu_lost").keys() == {"GPU-3", "GPU-4"}
    assert [tuple(it) for it in watched.run(nodes)] == [
        ("n1", "reporting", 0, 0, 2), ("n2", "gpus_missing", 2, 0, 0), old[2],
    ]  # fmt: skip
    assert [tuple(it) for it in watched.run(one_by_one)] == [
        ("n1", "reporting", 2), ("n2", "missing", 2), ("n3", "silent", 2),
    ]  # fmt: skip


def test_breakers(watched: Watched) -> None:
    """METHODS, worked example 11: of 30 A 24 A, of 20 A 16 A."""
    facility.place(
        watched.engine,
        {
            **{f"30 A {it}": {"role": "pdu", "breaker_ma": 30_000, "feed": "A"} for it in ("at", "above")},
            **{f"20 A {it}": {"role": "pdu", "breaker_ma": 20_000} for it in ("at", "above")},
            "no breaker": {"role": "pdu"},
            "slow": {"role": "pdu", "breaker_ma": 30_000},
        },
    )
    gateway = Gateway(
        watched,
        {
            "30 A at": {"current_max_ma": 24_000}, "30 A above": {"current_max_ma": 24_001},
            "20 A at": {"current_max_ma": 16_000}, "20 A above": {"current_max_ma": 16_001},
            "no breaker": {"current_max_ma": 99_000}, "not placed": {"current_max_ma": 99_000},
        },
    )  # fmt: skip
    # Read each quarter of an hour: it is above all the time, and is seen to be.
    slow = Gateway(watched, {"slow": {"current_max_ma": 29_000}}, length=15 * MINUTE)

    def tell() -> None:
        gateway.report()
        slow.report()

    began = START + 30 * SECOND
    watched.go(began + 5 * MINUTE - SECOND, "breaker", tell=tell)
    assert watched.alerts("breaker") == {}
    assert watched.alerts("breaker", "pending").keys() == {"30 A above", "20 A above"}
    watched.go(began + 5 * MINUTE, "breaker", tell=tell)
    found = watched.alerts("breaker")
    assert found.keys() == {"30 A above", "20 A above"}
    thirty = found["30 A above"]
    assert (thirty.labels, thirty.severity) == ({"site": "oslo", "meter": "30 A above"}, "warning")
    assert thirty.value == pytest.approx(24_001 / 30_000)
    assert thirty.summary == "30 A above: 24.0 A, 80% of its breaker's 30 A"
    # While nothing is heard of it nobody knows; what comes ten minutes late changes nothing.
    its = gateway.meters.pop("30 A above")
    late = watched.now
    watched.go(late + 10 * MINUTE, "breaker", tell=tell)
    assert "30 A above" in watched.alerts("breaker")
    gateway.meters["30 A above"] = {"current_max_ma": 1_000}
    gateway.send([gateway.window("30 A above", late)])
    del gateway.meters["30 A above"]
    watched.go(watched.now + 6 * MINUTE, "breaker", tell=tell)
    assert "30 A above" in watched.alerts("breaker")
    gateway.meters["30 A above"] = its
    watched.go(START + 20 * MINUTE + 30 * SECOND, "breaker", tell=tell)
    assert watched.alerts("breaker").keys() == {"30 A above", "20 A above", "slow"}
    gateway.meters |= {"30 A above": {"current_max_ma": 24_000}, "20 A above": {"current_max_ma": 16_000}}
    ceased = watched.now + 30 * SECOND
    watched.go(ceased + 5 * MINUTE - SECOND, "breaker", tell=tell)
    assert watched.alerts("breaker").keys() == {"30 A above", "20 A above", "slow"}
    watched.go(ceased + 5 * MINUTE, "breaker", tell=tell)
    assert watched.alerts("breaker").keys() == {"slow"}


def test_air_and_liquid(watched: Watched) -> None:
    in_hall = {"role": "temperature", "hall": "H1"}
    temperatures = {
        "at 27": 27_000, "above 27": 27_001, "at A1": 32_000, "above A1": 32_001, "above A1 in an A2 room": 32_001,
        "above A2": 35_001, "dips": 27_001, "hot aisle": 45_001, "tcs at": 45_000, "tcs above": 45_001,
        "fws at set point": 34_000, "fws above set point": 34_001, "roof": 45_000,
    }  # fmt: skip
    facility.place(
        watched.engine, {name: in_hall if name != "roof" else {"role": "temperature"} for name in temperatures}
    )
    watched.overridden("inlet_air", "class_c", *(
        Override(where={"meter": it}, value=35) for it in ("above A1 in an A2 room", "above A2")
    ))  # fmt: skip
    watched.overridden("liquid_supply", "set_point_c", *(
        Override(where={"site": "oslo", "meter": it}, value=32) for it in ("fws at set point", "fws above set point")
    ))  # fmt: skip
    rules = ("inlet_air", "liquid_supply")
    cool = {name: {"temp_mean_mc": 20_000} for name in temperatures}
    gateway = Gateway(watched, cool)
    watched.go(START + 20 * MINUTE, *rules, tell=gateway.report)
    assert [watched.alerts(rule) | watched.alerts(rule, "pending") for rule in rules] == [{}, {}]
    gateway.meters = {name: {"temp_mean_mc": it} for name, it in temperatures.items()}
    began = watched.now
    watched.go(began + 5 * MINUTE - SECOND, *rules, tell=gateway.report)
    assert watched.alerts("inlet_air") == {}
    watched.go(began + 5 * MINUTE, *rules, tell=gateway.report)
    air = watched.alerts("inlet_air")
    assert {meter: it.severity for meter, it in air.items()} == {"above A1": "critical", "above A2": "critical"}
    assert air["above A1"].labels == {"site": "oslo", "hall": "H1", "meter": "above A1"}
    assert (air["above A1"].value, air["above A1"].summary) == (32.001, "above A1: 32.0 °C")
    assert watched.alerts("liquid_supply") == {}
    watched.go(began + 5 * MINUTE + 30 * SECOND, *rules, tell=gateway.report)
    liquid = watched.alerts("liquid_supply")
    assert {meter: (it.value, it.severity, it.summary) for meter, it in liquid.items()} == {
        "tcs above": (45.001, "critical", "tcs above: 45.0 °C, and 45.0 °C at most"),
        "fws above set point": (34.001, "critical", "fws above set point: 34.0 °C, and 34.0 °C at most"),
    }  # fmt: skip
    gateway.meters["dips"] = {"temp_mean_mc": 27_000}
    watched.go(began + 6 * MINUTE, *rules, tell=gateway.report)
    gateway.meters["dips"] = {"temp_mean_mc": 27_001}
    watched.go(began + 15 * MINUTE - SECOND, *rules, tell=gateway.report)
    assert watched.alerts("inlet_air").keys() == {"above A1", "above A2"}
    watched.go(began + 15 * MINUTE, *rules, tell=gateway.report)
    warm = {"above 27": "warning", "at A1": "warning", "above A1": "critical", "above A1 in an A2 room": "warning",
            "above A2": "critical"}  # fmt: skip
    assert {meter: it.severity for meter, it in watched.alerts("inlet_air").items()} == warm
    # The gateway is away for an hour: what is still warm then is not told to have ended.
    back = watched.now + HOUR
    watched.go(watched.now + 10 * MINUTE, *rules)
    watched.at(back)
    again = Gateway(watched, gateway.meters)
    watched.go(back + 10 * MINUTE, *rules, tell=again.report)
    assert watched.alerts("inlet_air").keys() == warm.keys()
    assert watched.alerts("liquid_supply").keys() == liquid.keys()
    again.meters = {**cool, "above A2": {"temp_mean_mc": 35_001}}
    ceased = watched.now + 30 * SECOND
    watched.go(ceased + 2 * MINUTE - SECOND, *rules, tell=again.report)
    assert watched.alerts("liquid_supply").keys() == liquid.keys()
    watched.go(ceased + 2 * MINUTE, *rules, tell=again.report)
    assert watched.alerts("liquid_supply") == {}
    watched.go(ceased + 5 * MINUTE - SECOND, *rules, tell=again.report)
    assert watched.alerts("inlet_air").keys() == warm.keys()
    watched.go(ceased + 5 * MINUTE, *rules, tell=again.report)
    assert watched.alerts("inlet_air").keys() == {"above A2"}


def test_what_is_read_each_quarter_of_an_hour(watched: Watched) -> None:
    """Its newest window began too long ago to be of now, and is all that there is."""
    facility.place(watched.engine, {"slow": {"role": "temperature", "hall": "H1"}, "pdu": {"role": "pdu"}})
    watched.run("INSERT INTO gigawatch.rack (site_id, name) SELECT site_id, 'A1' FROM gigawatch.site")
    watched.run("INSERT INTO gigawatch.meter_rack SELECT meter_id, rack_id FROM gigawatch.meter, gigawatch.rack"
                " WHERE meter.name = 'pdu'")  # fmt: skip
    watched.run("INSERT INTO gigawatch.power_budget (site_id, scope, name, budget_mw)"
                " SELECT site_id, 'rack', 'A1', 10000000 FROM gigawatch.site")  # fmt: skip
    rules = ("inlet_air", "rack_budget")
    well = {"slow": {"temp_mean_mc": 27_000}, "pdu": {"power_mean_mw": 9_000_000}}
    gateway = Gateway(watched, dict(well), length=15 * MINUTE)
    watched.go(START + 15 * MINUTE, *rules, tell=gateway.report)
    gateway.meters = {"slow": {"temp_mean_mc": 28_000}, "pdu": {"power_mean_mw": 9_100_000}}
    watched.go(START + 30 * MINUTE - SECOND, *rules, tell=gateway.report)
    assert [watched.alerts(rule) | watched.alerts(rule, "pending") for rule in rules] == [{}, {}]
    watched.go(START + 30 * MINUTE, *rules, tell=gateway.report)
    assert watched.alerts("inlet_air").keys() == {"slow"}
    watched.go(START + 31 * MINUTE, *rules, tell=gateway.report)
    assert watched.alerts("rack_budget").keys() == {"A1"}
    gateway.meters = well
    watched.go(START + 45 * MINUTE, *rules, tell=gateway.report)
    assert [watched.alerts(rule).keys() for rule in rules] == [{"slow"}, {"A1"}]
    watched.go(START + 50 * MINUTE, *rules, tell=gateway.report)
    assert [watched.alerts(rule) for rule in rules] == [{}, {}]


def test_rack_budgets(watched: Watched) -> None:
    racks = ("A-at", "A-above", "A-over", "A-two", "A-gpus")
    facility.place(
        watched.engine,
        {
            **{f"pdu {it}": {"role": "pdu"} for it in racks[:3]},
            "pdu two a": {"role": "pdu"},
            "pdu two b": {"role": "pdu"},
        },
    )
    fed = [*((f"pdu {it}", it) for it in racks[:3]), ("pdu two a", "A-two"), ("pdu two b", "A-two")]
    watched.run(
        "INSERT INTO gigawatch.rack (site_id, name) SELECT site_id, unnest(CAST(:racks AS text[])) FROM gigawatch.site",
        racks=list(racks),
    )
    for meter, rack in fed:
        watched.run(
            "INSERT INTO gigawatch.meter_rack SELECT meter_id, rack_id FROM gigawatch.meter, gigawatch.rack"
            " WHERE meter.name = :meter AND rack.name = :rack", meter=meter, rack=rack,
        )  # fmt: skip
    watched.run(
        "INSERT INTO gigawatch.power_budget (site_id, scope, name, budget_mw)"
        " SELECT site_id, 'rack', unnest(CAST(:racks AS text[])), 10000000 FROM gigawatch.site", racks=list(racks),
    )  # fmt: skip
    gateway = Gateway(
        watched,
        {
            "pdu A-at": {"power_mean_mw": 9_000_000}, "pdu A-above": {"power_mean_mw": 9_001_000},
            # Without a polled mean it is energy over time.
            "pdu A-over": {"energy_mj": 10_001 * 15_000, "energy_method": EnergyMethod.COUNTER},
            "pdu two a": {"power_mean_mw": 5_000_000}, "pdu two b": {"power_mean_mw": 5_000_000},
        },
        length=15 * SECOND,
    )  # fmt: skip
    watts = {"energy_mj": 4_600 * 10_000}
    nodes = [Node(watched, f"n{it}", {f"GPU-{it}": watts}, rack="A-gpus") for it in (1, 2)]

    def tell() -> None:
        gateway.report()
        for it in nodes:
            it.report()

    began = START + 15 * SECOND
    watched.go(began + MINUTE - SECOND, "rack_budget", tell=tell)
    assert watched.alerts("rack_budget") == {}
    watched.go(began + MINUTE, "rack_budget", tell=tell)
    found = watched.alerts("rack_budget")
    assert {rack: (it.value, it.severity) for rack, it in found.items()} == {
        "A-above": (pytest.approx(0.9001), "warning"), "A-over": (pytest.approx(1.0001), "critical"),
        "A-two": (1, "warning"), "A-gpus": (pytest.approx(0.92), "warning"),
    }  # fmt: skip
    assert found["A-over"].labels == {"site": "oslo", "rack": "A-over"}
    assert found["A-over"].summary == "A-over: 10001 W, 100% of its budget of 10000 W (by meters)"
    assert found["A-gpus"].summary == "A-gpus: 9200 W, 92% of its budget of 10000 W (by gpus)"
    # A sum that lacks a part is not known.
    del gateway.meters["pdu two b"]
    watched.go(watched.now + 8 * MINUTE, "rack_budget", tell=tell)
    assert watched.alerts("rack_budget")["A-two"].unknown_since is not None
    gateway.meters = {name: {"power_mean_mw": 1_000_000} for name in (*gateway.meters, "pdu two b")}
    ceased = watched.now + 15 * SECOND
    watched.go(ceased + 2 * MINUTE - SECOND, "rack_budget", tell=tell)
    assert watched.alerts("rack_budget").keys() == found.keys()
    watched.go(ceased + 2 * MINUTE, "rack_budget", tell=tell)
    assert watched.alerts("rack_budget").keys() == {"A-gpus"}


def test_pue_that_drifts(watched: Watched) -> None:
    """24 h interim PUE above the baseline by more than 0.03 for 6 h."""
    sites = {"oslo": 1.239, "bergen": 1.2299, "few": 1.239}
    gateways = []
    for site in sites:
        # The last has too few days for a baseline.
        watched.at(START - (6 * DAY if site == "few" else 10 * DAY + 12 * HOUR))
        facility.place(watched.engine, {"grid": {"role": "utility"}, "ups": {"role": "ups_out"}}, site=site)
        gateways.append(Gateway(watched, {"grid": kwh(1.2), "ups": kwh(1)}, site=site, length=HOUR))

    def tell() -> None:
        for it in gateways:
            it.report()
        watched.fold()

    def change(to: Sequence[float]) -> None:
        for it, pue in zip(gateways, to, strict=True):
            it.meters["grid"] = kwh(pue)

    watched.at(START)
    tell()
    change(list(sites.values()))
    # Of 24 hours nineteen must be so bad.
    watched.at(START + 18 * HOUR)
    watched.go(START + 19 * HOUR - SECOND, "pue_drift", tell=tell)
    assert watched.alerts("pue_drift", "pending") == {}
    began = START + 19 * HOUR
    watched.go(began, "pue_drift", tell=tell)
    watched.go(began + 6 * HOUR - SECOND, "pue_drift", tell=tell)
    assert watched.alerts("pue_drift") == {}
    assert watched.alerts("pue_drift", "pending").keys() == {"oslo"}
    watched.go(began + 6 * HOUR, "pue_drift", tell=tell)
    (found,) = watched.alerts("pue_drift").values()
    assert (found.labels, found.severity) == ({"site": "oslo", "category": "1"}, "warning")
    assert found.value == pytest.approx(0.039)
    assert found.summary == "oslo: interim PUE 1.239 over 24 h, 0.039 above its median of 10 days"
    change([1.2, 1.2, 1.2])
    ceased = watched.now + 6 * HOUR
    watched.at(ceased - MINUTE)
    watched.go(ceased, "pue_drift", tell=tell)
    watched.go(ceased + HOUR - SECOND, "pue_drift", tell=tell)
    assert watched.alerts("pue_drift").keys() == {"oslo"}
    watched.go(ceased + HOUR, "pue_drift", tell=tell)
    assert watched.alerts("pue_drift") == {}


def test_meters_that_cannot_be_right(watched: Watched) -> None:
    """PUE < 1 (E_IT > E_DC), a flat line, coverage < 95 %, for an hour."""
    roles = {
        "grid": "utility", "ups": "ups_out", "flat": "cooling", "stuck": "cooling", "back": "pump", "gaps": "lighting",
        "few gaps": "lighting",
    }  # fmt: skip
    well = {name: kwh(5 + place / 10) for place, name in enumerate(roles)} | {"grid": kwh(40)}
    start = START - 25 * HOUR
    watched.at(start)
    gateways = {}
    for site in ("oslo", "alps", "fjord"):
        facility.place(watched.engine, {name: {"role": role} for name, role in roles.items()}, site=site)
        gateways[site] = Gateway(watched, dict(well), site=site, length=HOUR)
    oslo, alps, fjord = gateways.values()

    def tell() -> None:
        for it in gateways.values():
            it.report()
        watched.fold()

    watched.at(START)
    tell()
    watched.evaluate("meter_fault")
    assert watched.alerts("meter_fault", "pending") == {}
    oslo.meters |= {
        "flat": kwh(5.2, energy_mj=0, power_min_mw=5_200_000, power_max_mw=5_200_000),
        "stuck": {"power_mean_mw": 5_300_000, "doubt": MeterDoubt.STUCK},
        "back": {"power_mean_mw": -5_400_000, "doubt": MeterDoubt.REVERSED},
    }
    del oslo.meters["gaps"], oslo.meters["few gaps"]
    # IT has exactly what the grid gives, and a little more.
    alps.meters["ups"], fjord.meters["ups"] = kwh(40.5), kwh(40)
    began = START + HOUR
    watched.at(began - MINUTE)
    watched.go(began, "meter_fault", tell=tell)
    oslo.meters["few gaps"] = well["few gaps"]
    watched.go(began + HOUR - SECOND, "meter_fault", tell=tell)
    assert watched.alerts("meter_fault") == {}
    watched.go(began + HOUR, "meter_fault", tell=tell)
    found = watched.alerts("meter_fault")
    told = {
        "flat": "flat at oslo: stuck", "stuck": "stuck at oslo: stuck", "back": "back at oslo: reversed",
        "all": "all at alps: IT above its sources",
    }  # fmt: skip
    assert {meter: (it.summary, it.severity) for meter, it in found.items()} == {
        meter: (summary, "warning") for meter, summary in told.items()
    }
    assert found["all"].labels == {"site": "alps", "meter": "all"}
    # Two hours of 24 are more than a twentieth, one is less.
    oslo.meters = dict(well)
    alps.meters["ups"] = well["ups"]
    watched.go(began + 2 * HOUR - SECOND, "meter_fault", tell=tell)
    assert watched.alerts("meter_fault").keys() == told.keys()
    watched.go(began + 2 * HOUR, "meter_fault", tell=tell)
    gaps = watched.alerts("meter_fault")["gaps"]
    assert (gaps.value, gaps.summary) == (pytest.approx(22 / 24), "gaps at oslo: coverage")
    watched.go(began + 4 * HOUR + 10 * MINUTE, "meter_fault", tell=tell)
    assert watched.alerts("meter_fault").keys() == {"gaps"}


def test_power_caps(watched: Watched) -> None:
    """Bit 0x04 in more than half of an hour, for an hour."""
    minutes = {
        # So many minutes with some bits, and so many with others; of the rest none.
        "GPU-half": [(30, 4)],
        "GPU-above": [(31, 4)],
        "GPU-hot": [(40, 32)],
        "GPU-both": [(31, 4 + 1), (20, 32)],
        "GPU-mixed": [(20, 4), (30, 64)],
        "GPU-B200": [(45, 4 + 64)],
    }  # fmt: skip
    capped_until = START + 3 * HOUR

    class Capped(Node):
        def differs(self, uuid: str, start: datetime) -> dict[str, Any]:
            its = [bits for count, bits in minutes[uuid] for _ in range(count)] if start < capped_until else []
            return {"clock_event_reasons": its[start.minute] if start.minute < len(its) else 1}

    what = {"GPU-B200": {"model": "NVIDIA B200"}}
    node = Capped(watched, "n1", {uuid: {} for uuid in minutes}, length=MINUTE, what=what)

    def tell() -> None:
        node.report()
        watched.fold()

    watched.at(START + HOUR - 10 * MINUTE)
    tell()
    began = START + HOUR
    watched.go(began + HOUR - SECOND, "power_cap", tell=tell)
    assert watched.alerts("power_cap") == {}
    watched.go(began + HOUR, "power_cap", tell=tell)
    by_model = watched.alerts("power_cap")
    assert {model: (it.labels, it.severity, it.value) for model, it in by_model.items()} == {
        model: ({"site": "oslo", "rack": "A1", "gpu_model": model}, "info", gpus)
        for model, gpus in ((H100, 2), ("NVIDIA B200", 1))
    }
    assert by_model[H100].summary == (
        f"A1: {H100} at the power limit (GPUs: 2), the most held down for 52% of the hour"
    )
    watched.at(began + 3 * HOUR - MINUTE)
    watched.go(began + 3 * HOUR, "power_cap", tell=tell)
    watched.go(began + 4 * HOUR - SECOND, "power_cap", tell=tell)
    assert watched.alerts("power_cap").keys() == by_model.keys()
    watched.go(began + 4 * HOUR, "power_cap", tell=tell)
    assert watched.alerts("power_cap") == {}


def test_counters_against_power(watched: Watched) -> None:
    """More than 10 % apart over an hour, be it one GPU of many, an idle one, or two the other way round."""
    their_gpus = {
        # A GPU that tells no power, and one of many that is off.
        "n1": {f"GPU-1-{it}": drawing(300, 300) for it in range(15)}
        | {"GPU-1-off": drawing(330.3, 300), "GPU-1-mute": drawing(300)},
        # As in Zeus' issue 181.
        "n2": {f"GPU-2-{it}": drawing(700, 700) for it in range(7)} | {"GPU-2-idle": drawing(37.4, 65.4)},
        "n3": {"GPU-3-more": drawing(560, 500), "GPU-3-less": drawing(440, 500)},
        "n4": {
            "GPU-4-at": drawing(329.9, 300), "GPU-4-below": drawing(270.1, 300), "GPU-4-nothing": drawing(300, 0),
            "GPU-4-integrated": drawing(400, 300, EnergyMethod.INTEGRATED),
        },
    }  # fmt: skip
    nodes = [Node(watched, name, gpus, length=MINUTE) for name, gpus in their_gpus.items()]

    def tell() -> None:
        for it in nodes:
            it.report()
        watched.fold()

    watched.at(START + HOUR - MINUTE)
    tell()
    watched.evaluate("counter_against_power")
    assert watched.alerts("counter_against_power") == {}
    watched.at(START + HOUR)
    tell()
    watched.evaluate("counter_against_power")
    found = watched.alerts("counter_against_power")
    assert {uuid: round(it.value, 3) for uuid, it in found.items()} == {
        "GPU-1-off": 0.101, "GPU-2-idle": -0.428, "GPU-3-more": 0.12, "GPU-3-less": -0.12,
    }  # fmt: skip
    assert {it.severity for it in found.values()} == {"warning"}
    idle = found["GPU-2-idle"]
    assert idle.labels == {"site": "oslo", "rack": "A1", "hostname": "n2", "gpu_uuid": "GPU-2-idle", "gpu_model": H100}
    assert idle.summary == f"n2, GPU 7 ({H100}): 37 W by its counter, 65 W polled, over an hour"
    for node in nodes:
        node.gpus = {uuid: drawing(300, 300) for uuid in node.gpus}
    ceased = START + 2 * HOUR
    watched.go(ceased, "counter_against_power", tell=tell)
    watched.go(ceased + HOUR - SECOND, "counter_against_power", tell=tell)
    assert watched.alerts("counter_against_power").keys() == found.keys()
    watched.go(ceased + HOUR, "counter_against_power", tell=tell)
    assert watched.alerts("counter_against_power") == {}


def test_what_nobody_can_tell_any_more_stays_what_it_is(watched: Watched) -> None:
    """Caps, counters, idle draw and J/token of nodes that fall silent; known to be well, or another's, they end."""
    rules = ("power_cap", "counter_against_power", "idle_draw", "energy_per_token_regression")
    watched.at(START - 8 * HOUR)
    serving = {name: Serving(watched, name, 300, 4_500, 10) for name in ("worse", "well")}
    watched.at(START - 2 * HOUR)
    serving["idle"] = Serving(watched, "idle", 100, 0, 0)
    watched.at(START)
    bad = Node(watched, "bad", {"GPU-bad": drawing(400, 300) | {"clock_event_reasons": 4}}, length=MINUTE)
    telling: list[Node] = [bad, *serving.values()]

    def tell() -> None:
        for it in telling:
            it.report()
        watched.fold()

    def unknown() -> list[str]:
        return [it for it in rules for alert in watched.alerts(it).values() if alert.unknown_since is not None]

    tell()
    serving["worse"].does(300, 3_000, 10)
    watched.at(START + HOUR)
    watched.go(START + 80 * MINUTE, *rules, tell=tell)
    serving["idle"].does(200, 0, 0)
    watched.go(START + 2 * HOUR + 10 * MINUTE, *rules, tell=tell)
    assert [len(watched.alerts(it)) for it in rules] == [1, 1, 1, 1]
    assert unknown() == []
    # All but one fall silent, and what it is with them nobody knows.
    telling = [serving["well"]]
    watched.go(START + 5 * HOUR, *rules, tell=tell)
    assert [len(watched.alerts(it)) for it in rules] == [1, 1, 1, 1]
    assert unknown() == list(rules)
    # They are well again, or serve another.
    telling = [bad, *serving.values()]
    for it in telling:
        it.forget()
    bad.gpus = {"GPU-bad": drawing(300, 300)}
    serving["worse"].does(300, 4_500, 10)
    serving["idle"].gpus = {"GPU-idle": drawing(200)}
    watched.go(START + 5 * HOUR + 30 * MINUTE, *rules, tell=tell)
    assert [len(watched.alerts(it)) for it in rules] == [1, 1, 0, 0]
    watched.at(START + 7 * HOUR)
    watched.go(START + 8 * HOUR, *rules, tell=tell)
    assert [len(watched.alerts(it)) for it in rules] == [0, 0, 0, 0]


BUDGETS = ("budget_energy", "budget_cost", "budget_carbon")


def test_budgets(watched: Watched) -> None:
    """1 kW since the 9th began is 552 kWh by the end of March, at 2 EUR and 100 g for each."""
    watched.at(datetime(2026, 3, 9, tzinfo=UTC))
    its = {**drawing(1_000), "serves": (Assignment(deployment="chat"),)}
    node = Node(watched, "n1", {"GPU-1": its}, length=MINUTE)

    def tell() -> None:
        node.report()
        watched.fold()

    node.send()
    (found,) = watched.run(
        "INSERT INTO gigawatch.factor_import (site_id, source, version) SELECT site_id, 'test', '1' FROM gigawatch.site"
        " RETURNING import_id, site_id"
    )
    for kind, columns, value in (
        ("tariff", "price_per_kwh, currency", "2, 'EUR'"),
        ("grid_intensity", "method, g_per_kwh, estimated", "'location', 100, false"),
    ):
        watched.run(
            f"INSERT INTO gigawatch.{kind} (import_id, site_id, start, stop, {columns})"
            f" VALUES (:import_id, :site_id, '2026-01-01Z', '2027-01-01Z', {value})",
            **found._mapping,
        )
    # Of each quantity a forecast just above and just below the limit, and one that is used up at 36.4 kWh.
    for name, of, kwh_limit in (
        ("above", "chat", 551), ("below", "chat", 553), ("used", "ch*", 36.4), ("of a site", None, 551),
        ("others", "code", 1),
    ):  # fmt: skip
        watched.run(
            "INSERT INTO gigawatch.alert_budget (name, deployments, site, energy_mj, cost, currency, co2e_g)"
            " VALUES (:name, :deployments, :site, :mj, :cost, 'EUR', :g)",
            name=name, deployments=[of] if of else None, site=None if of else "oslo",
            mj=round(kwh_limit * facility.KWH_MJ), cost=2 * kwh_limit, g=round(100 * kwh_limit),
        )  # fmt: skip
    watched.at(START)
    tell()
    watched.evaluate(*BUDGETS)
    watched.go(START + 30 * MINUTE - SECOND, *BUDGETS, tell=tell)
    for rule in BUDGETS:
        assert watched.alerts(rule) == {}
        assert watched.alerts(rule, "pending").keys() == {"above", "used", "of a site"}
    watched.go(START + 30 * MINUTE, *BUDGETS, tell=tell)
    words = {
        "budget_energy": "Budget above: 36 of 551 kWh used, 552 by the month's end",
        "budget_cost": "Budget above: 73.00 of 1102.00 EUR used, 1104.00 by the month's end",
        "budget_carbon": "Budget above: 3.6 of 55.1 kgCO2e used, 55.2 by the month's end",
    }
    for rule, summary in words.items():
        alerts = watched.alerts(rule)
        assert {name: it.severity for name, it in alerts.items()} == {
            "above": "warning", "used": "critical", "of a site": "warning",
        }  # fmt: skip
        assert alerts["above"].value == pytest.approx(552 / 551, rel=1e-4)
        assert alerts["above"].summary == summary
        assert (alerts["above"].labels, alerts["of a site"].labels) == (
            {"budget": "above"}, {"budget": "of a site", "site": "oslo"},
        )  # fmt: skip
    # A greater budget ends it an hour later.
    watched.run(
        "UPDATE gigawatch.alert_budget SET energy_mj = 9 * energy_mj, cost = 9 * cost, co2e_g = 9 * co2e_g"
        " WHERE name = 'above'"
    )
    ceased = watched.now + 15 * MINUTE
    watched.go(ceased, *BUDGETS, tell=tell)
    watched.go(ceased + HOUR - SECOND, *BUDGETS, tell=tell)
    assert all("above" in watched.alerts(rule) for rule in BUDGETS)
    watched.go(ceased + HOUR, *BUDGETS, tell=tell)
    assert [watched.alerts(rule).keys() for rule in BUDGETS] == [{"used", "of a site"}] * 3


def test_energy_of_tokens_and_of_idle_gpus(watched: Watched) -> None:
    """J/token > 1.25 × the median of the same model, GPU and batch; idle > 1.5 × that of the model; each 30 min."""
    serving = dict.fromkeys(("worse", "limit", "batched", "at night"), (300, 4_500, 10))
    idle = dict.fromkeys(("idle worse", "idle limit", "idle as ever", "idle busy"), (100, 0, 0))
    watched.at(START - 8 * HOUR)
    nodes = {name: Serving(watched, name.replace(" ", "-"), *does) for name, does in serving.items()}
    watched.at(START - 2 * HOUR)
    nodes |= {name: Serving(watched, name.replace(" ", "-"), *does) for name, does in idle.items()}
    rules = ("energy_per_token_regression", "idle_draw")

    def tell() -> None:
        for it in nodes.values():
            it.report()
        watched.fold()

    watched.at(START)
    tell()
    watched.evaluate(*rules)
    assert [watched.alerts(rule, "pending") for rule in rules] == [{}, {}]
    # 4 J for each token until now.
    for name, does in {
        "worse": (300, 3_590, 10), "limit": (300, 3_600, 10), "batched": (600, 4_500, 20), "at night": (300, 10, 10),
        "idle worse": (150.1, 0, 0), "idle limit": (150, 0, 0), "idle busy": (700, 9_000, 60),
    }.items():  # fmt: skip
        nodes[name].does(*does)
    watched.go(START + 35 * MINUTE - SECOND, *rules, tell=tell)
    assert watched.alerts("idle_draw") == {}
    watched.go(START + 35 * MINUTE, *rules, tell=tell)
    (draw,) = watched.alerts("idle_draw").values()
    assert (draw.labels, draw.severity, draw.value) == (
        {"site": "oslo", "deployment": "idle-worse", "gpu_model": H100}, "info", pytest.approx(150.1),
    )  # fmt: skip
    assert draw.summary == f"idle-worse: 150 W by GPU ({H100}) without a request, and 100 W is usual"
    watched.go(START + 45 * MINUTE - SECOND, *rules, tell=tell)
    assert watched.alerts("energy_per_token_regression") == {}
    watched.go(START + 45 * MINUTE, *rules, tell=tell)
    (worse,) = watched.alerts("energy_per_token_regression").values()
    assert (worse.labels, worse.severity) == (
        {"deployment": "worse", "model": "llama", "gpu_model": H100}, "warning",
    )  # fmt: skip
    assert worse.value == pytest.approx(18_000 / 3_590)
    assert worse.summary == f"worse (llama on {H100}): 5.014 J per token at a batch of 10, and 4.000 is usual"
    for name, does in {"worse": (300, 4_500, 10), "idle worse": (100, 0, 0)}.items():
        nodes[name].does(*does)
    # The mean of a quarter of an hour, and of five minutes, is as usual with the first better ones.
    ceased = watched.now + 5 * MINUTE
    watched.go(ceased + 5 * MINUTE - SECOND, *rules, tell=tell)
    assert all(watched.alerts(rule) for rule in rules)
    watched.go(ceased + 5 * MINUTE, *rules, tell=tell)
    assert watched.alerts("idle_draw") == {}
    watched.go(ceased + 10 * MINUTE - SECOND, *rules, tell=tell)
    assert watched.alerts("energy_per_token_regression").keys() == {"worse"}
    watched.go(ceased + 10 * MINUTE, *rules, tell=tell)
    assert watched.alerts("energy_per_token_regression") == {}
