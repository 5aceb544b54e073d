"""The shipped rules on the real views: data as agents and meters leave them, and what each rule says of them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, Engine, text

from api.alerts import files
from api.alerts.evaluation import Observation, evaluate
from api.alerts.rule import Override, Rule
from gigawatch.records import Event, Severity
from gigawatch.settings import Alerts
from tests import facility
from tests.facility import DAY, HOUR, KWH_MJ, newest, place, send, window

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
H100 = "NVIDIA H100 80GB HBM3"
HELD_DOWN = ("hw_thermal_slowdown", "sw_thermal_slowdown", "power_brake")
Said = Callable[[str], list[Observation]]


@pytest.fixture
def said(rules_engine: Engine) -> Said:
    """What a shipped rule gives now."""
    return lambda name: evaluate(rules_engine, files.shipped()[name], datetime.now(UTC), Alerts(), unknown="all")


def labelled(found: list[Observation], label: str) -> dict[str, Observation]:
    assert len({it.labels[label] for it in found}) == len(found)
    return {it.labels[label]: it for it in found}


def put(connection: Connection, table: str, returning: str = "1", **values: Any) -> Any:
    names = ", ".join(f'"{name}"' for name in values)
    slots = ", ".join(f":{name}" for name in values)
    return connection.scalar(
        text(f"INSERT INTO gigawatch.{table} ({names}) VALUES ({slots}) RETURNING {returning}"), values
    )


def with_most_gpus(name: str, most: int) -> Rule:
    """A shipped rule that sums up above so many at Oslo, and at once elsewhere but at Bergen."""
    rule = files.shipped()[name]
    limit = msgspec.structs.replace(
        rule.thresholds["most_gpus"],
        value=0,
        overrides=(Override(where={"site": "oslo"}, value=most), Override(where={"site": "bergen"}, value=400)),
    )
    return msgspec.structs.replace(rule, thresholds=rule.thresholds | {"most_gpus": limit})


class Floor:
    """A site with racks and nodes, put straight into the store."""

    def __init__(self, connection: Connection, site: str = "oslo") -> None:
        self.connection = connection
        self.site_id = put(connection, "site", "site_id", name=site)
        self.racks: dict[str, int] = {}
        self.now = datetime.now(UTC)

    def node(self, name: str, rack: str | None = "A1", *, has: int = 0, ago_s: float = 5, **now: Any) -> int:
        """A node with GPUs NAME-1, …, that was heard of so long ago; its number."""
        if rack is not None and rack not in self.racks:
            self.racks[rack] = put(self.connection, "rack", "rack_id", site_id=self.site_id, name=rack)
        rack_id = None if rack is None else self.racks[rack]
        number = self.connection.scalar(text("SELECT count(*) FROM gigawatch.node"))
        node_id: int = put(
            self.connection, "node", "node_id", machine_id=f"machine-{number}", site_id=self.site_id, rack_id=rack_id,
            hostname=name,
        )  # fmt: skip
        put(
            self.connection, "node_now", node_id=node_id, last_seen=self.now - ago_s * SECOND, clock_offset_ms=0,
            site_id=self.site_id, rack_id=rack_id, simulated=False, gpus_expected=has,
            **{"gpu_model": H100, "temp_slowdown_c": 87} | now,
        )  # fmt: skip
        for slot in range(1, has + 1):
            gpu_id = put(
                self.connection, "gpu", "gpu_id", node_id=node_id, uuid=f"{name}-{slot}", index=slot - 1, model=H100,
                temp_slowdown_c=87,
            )  # fmt: skip
            put(self.connection, "gpu_slot", node_id=node_id, slot=slot, gpu_id=gpu_id)
        return node_id

    def window(self, node_id: int, time: datetime, **values: Any) -> None:
        """A window of all GPUs of a node; each may say its own covered time."""
        put(
            self.connection, "gpu_window", node_id=node_id, time=time, ticks_taken=10, ticks_expected=10,
            **{"covered_ms": 10_000, "energy_method": 1} | values,
        )  # fmt: skip

    def folded(self, level: str, until: datetime) -> None:
        self.connection.execute(
            text(
                "INSERT INTO gigawatch.rollup (level, node_id, closed, folded) VALUES (:level, 0, :until, :until)"
                " ON CONFLICT (level) DO UPDATE SET folded = excluded.folded"
            ),
            {"level": level, "until": until},
        )


def test_gpus_that_are_held_down_hot_or_missing(engine: Engine, rules_engine: Engine, said: Said) -> None:
    with engine.begin() as connection:
        floor = Floor(connection)
        newest = floor.now - 15 * SECOND
        held = floor.node("n1", has=3, time=newest, gpus=3, gpus_throttled=2, power_mw=1, power_limit_mw=1,
                          gpu_util_pm=0, gpu_util_gpus=3, clock_event_reasons=224, gpu_temp_max_c=87)  # fmt: skip
        floor.window(held, newest - 10 * SECOND, slots=3, clock_event_reasons=[0, 0, 255], energy_mj=[1, 1, 1])
        floor.window(held, newest, slots=3, clock_event_reasons=[128, 64 + 32, 4], gpu_temp_max_c=[82, 87, 81],
                     energy_mj=[2_000_000, 1, 1])  # fmt: skip
        lost = floor.node("n2", has=2, time=newest, gpus=1, gpus_throttled=0, power_mw=1, power_limit_mw=1,
                          gpu_util_pm=0, gpu_util_gpus=1, clock_event_reasons=0, gpu_temp_max_c=60)  # fmt: skip
        floor.window(lost, newest - 5 * MINUTE, slots=2, energy_mj=[1, 1])
        # Of the second GPU there is no window now.
        floor.window(lost, newest, slots=2, energy_mj=[1, 0], each=[[10_000, 10, 10, 1], [0, 0, 0, 0]])
        # A node that was held down and fell silent: nobody knows.
        floor.node("n3", has=1, ago_s=300, time=floor.now - 310 * SECOND, gpus=1, clock_event_reasons=128,
                   gpu_temp_max_c=60)  # fmt: skip
    brake = labelled(said("power_brake"), "gpu_uuid")
    assert {uuid: it.value for uuid, it in brake.items()} == {"n1-1": 128, "n3-1": None}
    assert brake["n1-1"].labels == {
        "site": "oslo", "rack": "A1", "hostname": "n1", "gpu_uuid": "n1-1", "gpu_model": H100,
    }  # fmt: skip
    assert brake["n1-1"].summary == "n1, GPU 0: power brake at 200 W, SM clock ? MHz"
    assert brake["n1-1"].details["clock_events"] == "power brake slowdown"
    for rule in ("hw_thermal_slowdown", "sw_thermal_slowdown"):
        assert {it.labels["gpu_uuid"] for it in said(rule) if it.value is not None} == {"n1-2"}
    hot = labelled([it for it in said("gpu_temperature") if it.value is not None], "gpu_uuid")
    assert {uuid: (it.value, it.severity) for uuid, it in hot.items()} == {
        "n1-1": (5, "warning"),
        "n1-2": (0, "critical"),
    }
    (missing,) = said("gpu_lost")
    assert missing.labels["gpu_uuid"] == "n2-2"
    assert missing.value == 1
    assert missing.details["missing"] == 1
    (of_site,) = evaluate(rules_engine, with_most_gpus("gpu_lost", 0), datetime.now(UTC), Alerts())
    assert (of_site.labels, of_site.value) == ({"site": "oslo"}, 1)
    assert of_site.summary == "oslo: GPUs do not report (GPUs: 1, nodes: 1, racks: 1)"


@pytest.mark.parametrize(("most", "kinds"), [(3, {"gpu"}), (2, {"gpu", "site"}), (1, {"site"})])
def test_above_so_many_gpus_a_site_is_told_of_and_above_twice_as_many_alone(
    engine: Engine, rules_engine: Engine, most: int, kinds: set[str]
) -> None:
    with engine.begin() as connection:
        floor = Floor(connection)
        newest = floor.now - 15 * SECOND
        for name, has in (("n1", 1), ("n2", 2)):
            node = floor.node(name, has=has, time=newest, gpus=has, gpus_throttled=has, clock_event_reasons=224,
                              gpu_temp_max_c=85)  # fmt: skip
            floor.window(node, newest, slots=has, clock_event_reasons=[224], gpu_temp_max_c=[85], energy_mj=[1])
            for gpu_id in connection.scalars(
                text("SELECT gpu_id FROM gigawatch.gpu WHERE node_id = :it"), {"it": node}
            ):
                put(connection, "gpu_health", time=floor.now, gpu_id=gpu_id, row_remap_failed=True,
                    row_remap_pending=False, ecc_volatile_uncorrected=2)  # fmt: skip
                for code in (79, 94, 46, 144):
                    put(connection, "event", time=floor.now, received=floor.now, node_id=node, gpu_id=gpu_id,
                        kind="xid", severity="critical", code=code, message=f"XID {code}")  # fmt: skip
        # Of another site there is too little to be summed up.
        other = Floor(connection, "bergen")
        hot = other.node("n9", has=1, time=newest, gpus=1, gpus_throttled=1, clock_event_reasons=224, gpu_temp_max_c=85)
        other.window(hot, newest, slots=1, clock_event_reasons=[224], gpu_temp_max_c=[85], energy_mj=[1])
    where, closest = "nodes: 2, racks: 1)", "the least margin is 2 K"
    sums = {
        "hw_thermal_slowdown": (224, f"oslo: hardware thermal slowdown (GPUs: up to 3, {where}"),
        "sw_thermal_slowdown": (224, f"oslo: software thermal slowdown (GPUs: up to 3, {where}"),
        "power_brake": (224, f"oslo: power brake (GPUs: up to 3, {where}"),
        "gpu_temperature": (2, f"oslo: close to the slowdown temperature (GPUs: up to 3, {where}, {closest}"),
        "row_remap_failed": (3, f"oslo: a row remap failed (GPUs: 3, {where}"),
        "ecc_double_bit": (6, f"oslo: uncorrectable memory errors (GPUs: 3, {where}"),
        "xid_fatal": (79, f"oslo (GPUs: 3, {where}, the newest: XID 79"),
        "xid_contained": (94, f"oslo (GPUs: 3, {where}, the newest: XID 94"),
        "gpu_reset_needed": (46, f"oslo (GPUs: 3, {where}, the newest: XID 46"),
        "nvlink5_error": (144, f"oslo (GPUs: 3, {where}, the newest: XID 144"),
    }  # fmt: skip
    for name, told in sums.items():
        found = evaluate(rules_engine, with_most_gpus(name, most), datetime.now(UTC), Alerts())
        oslo = [it for it in found if it.labels["site"] == "oslo"]
        gpus = [it for it in oslo if "gpu_uuid" in it.labels]
        assert {it.labels["gpu_uuid"] for it in gpus} == ({"n1-1", "n2-1", "n2-2"} if "gpu" in kinds else set()), name
        sites = [(it.labels, it.value, it.summary) for it in oslo if it not in gpus]
        assert sites == ([({"site": "oslo"}, *told)] if "site" in kinds else []), name
        of_bergen = {it.labels["gpu_uuid"] for it in found if it not in oslo}
        assert of_bergen == ({"n9-1"} if name in {*HELD_DOWN, "gpu_temperature"} else set()), name


def test_silence_of_nodes_racks_and_the_site(engine: Engine, said: Said) -> None:
    with engine.begin() as connection:
        floor = Floor(connection)
        for number in range(1, 11):
            floor.node(f"a{number}", "A1", has=1, ago_s=90 if number <= 2 else 5)
        floor.node("b1", "B1", ago_s=400)
        floor.node("b2", "B1", ago_s=8 * 86_400)
        floor.node("b3", "B1", ago_s=5)
        # Set up anew: what it was before is silent, and no fault.
        floor.node("b4", "B1", ago_s=500)
        floor.node("b4", "B1", ago_s=5)
    silent = labelled(said("agent_silent"), "hostname")
    assert {name: it.severity for name, it in silent.items()} == {"a1": "warning", "a2": "warning", "b1": "critical"}
    assert silent["a1"].value == pytest.approx(90, abs=30)
    (rack,) = said("rack_silent")
    assert (rack.labels, rack.value, rack.racks) == ({"site": "oslo", "rack": "A1"}, 0.2, ("A1",))
    assert (rack.details["nodes_silent"], rack.details["nodes"], rack.details["gpus_silent"]) == (2, 10, 2)
    assert said("site_silent") == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE gigawatch.node_now SET last_seen = now() - interval '2 minutes'"))
    (site,) = said("site_silent")
    assert (site.labels, site.value) == ({"site": "oslo"}, 1)


def test_memory_that_is_not_well(engine: Engine, said: Said) -> None:
    with engine.begin() as connection:
        floor = Floor(connection)
        floor.node("n1", has=4)
        ids = {it.uuid: it.gpu_id for it in connection.execute(text("SELECT uuid, gpu_id FROM gigawatch.gpu"))}
        for uuid, hours, values in (
            ("n1-1", 3, {"row_remap_failed": True, "row_remap_pending": True}),
            ("n1-1", 1, {"row_remap_failed": True, "row_remap_pending": True}),
            ("n1-2", 1, {"row_remap_pending": True, "ecc_volatile_uncorrected": 2}),
            # It was reset since.
            ("n1-3", 2, {"row_remap_pending": True, "ecc_volatile_uncorrected": 2}),
            ("n1-3", 1, {"row_remap_pending": False, "ecc_volatile_uncorrected": 0}),
            ("n1-4", 1, {"row_remap_failed": False, "ecc_volatile_uncorrected": 0}),
        ):
            put(connection, "gpu_health", gpu_id=ids[uuid], time=floor.now - hours * HOUR, **values)
    (failed,) = said("row_remap_failed")
    assert failed.labels["gpu_uuid"] == "n1-1"
    assert failed.details["since"] < failed.details["last_read"]
    assert [it.labels["gpu_uuid"] for it in said("row_remap_pending")] == ["n1-2"]
    assert [(it.labels["gpu_uuid"], it.value) for it in said("ecc_double_bit")] == [("n1-2", 2)]


def test_an_event_is_told_from_its_coming_on_however_late(engine: Engine, said: Said) -> None:
    now = datetime.now(UTC)
    events = [
        Event(time=now - ago, kind="xid", severity=Severity.CRITICAL, code=code, message=f"XID {code}")
        for ago, code in ((5 * HOUR, 79), (HOUR, 94), (6 * DAY, 149))
    ]
    send(engine, [], events=events)
    for rule, code in (("xid_fatal", 79), ("xid_contained", 94), ("nvlink5_error", 149)):
        (found,) = said(rule)
        assert (found.value, found.labels) == (code, {"site": "oslo", "hostname": "gateway-oslo"})
    assert said("gpu_reset_needed") == []
    with engine.begin() as connection:
        connection.execute(text("UPDATE gigawatch.event SET received = received - interval '61 minutes'"))
    assert said("xid_fatal") == []


def test_meters_breakers_temperatures_feeds_and_budgets(engine: Engine, said: Said) -> None:
    length = 10 * SECOND
    last = newest(length)
    now = last + length
    start = now - 20 * MINUTE
    place(
        engine,
        {
            "row": {"role": "ups_out"},
            "pdu 1": {"role": "pdu", "breaker_ma": 30_000, "feed": "A"},
            "pdu 2": {"role": "pdu", "breaker_ma": 20_000},
            "aisle": {"role": "temperature", "hall": "H1"},
            "new": {"role": "temperature", "hall": "H1"},
            "tcs supply": {"role": "temperature", "hall": "H1"},
            "tcs return": {"role": "temperature", "hall": "H1"},
            "roof": {"role": "temperature"},
        },
        feeds=[("row", "pdu 1"), ("row", "pdu 2")],
    )
    with engine.begin() as connection:
        site_id = connection.scalar(text("SELECT site_id FROM gigawatch.site"))
        for rack, meter, budget_w in (("A1", "pdu 1", 10_000), ("A2", "pdu 2", 10_000)):
            rack_id = put(connection, "rack", "rack_id", site_id=site_id, name=rack)
            connection.execute(
                text("INSERT INTO gigawatch.meter_rack SELECT meter_id, :rack FROM gigawatch.meter WHERE name = :name"),
                {"rack": rack_id, "name": meter},
            )
            put(connection, "power_budget", site_id=site_id, scope="rack", name=rack, budget_mw=budget_w * 1000)

    def each(meter: str, since: datetime, **values: Any) -> list[Any]:
        count = (now - since) // length
        return [window(meter, since + number * length, covered_ms=10_000, **values) for number in range(count)]

    send(
        engine,
        [
            *each("row", start, power_mean_mw=20_000_000),
            *each("pdu 1", start, power_mean_mw=9_100_000, current_max_ma=24_100),
            *each("pdu 2", start, power_mean_mw=10_100_000, current_max_ma=16_000)[:-1],
            window("pdu 2", last, covered_ms=10_000, power_mean_mw=400_000, current_max_ma=700),
            *each("aisle", start, temp_mean_mc=27_100),
            *each("new", now - 6 * MINUTE, temp_mean_mc=33_000),
            *each("tcs supply", start, temp_mean_mc=45_500),
            *each("tcs return", start, temp_mean_mc=60_000),
            *each("roof", start, temp_mean_mc=50_000),
        ],
    )
    (breaker,) = said("breaker")
    assert (breaker.labels, breaker.summary) == (
        {"site": "oslo", "meter": "pdu 1"}, "pdu 1: 24.1 A, 80% of its breaker's 30 A",
    )  # fmt: skip
    air = {it.labels["meter"]: it.severity for it in said("inlet_air")}
    assert air == {"aisle": "warning", "new": "critical"}
    (liquid,) = said("liquid_supply")
    assert (liquid.labels["meter"], liquid.value, liquid.details["limit_c"]) == ("tcs supply", 45.5, 45)
    (full,) = said("rack_budget")
    assert (full.labels["rack"], full.value, full.severity, full.details["basis"]) == ("A1", 0.91, "warning", "meters")
    (feed,) = said("feed_lost")
    assert (feed.labels["meter"], feed.severity, feed.racks) == ("pdu 2", "warning", ())
    assert feed.details["power_before_w"] == pytest.approx(10_100)


def test_the_median_of_pue_and_meters_that_cannot_be_right(engine: Engine, said: Said) -> None:
    today = facility.today()
    hours = int((datetime.now(UTC) - today) / HOUR)
    start = today - 12 * DAY
    place(engine, {"grid": {"role": "utility"}, "ups": {"role": "ups_out"}, "odd": {"role": "cooling"}})
    whole = 12 * 24 + hours
    windows = [
        window(meter, start + number * HOUR, kwh=kwh)
        for number in range(whole)
        for meter, kwh in (
            ("grid", 1.26 if number >= whole - 24 else 1.22 if number % 48 < 24 else 1.21),
            ("ups", 1.0),
        )
    ]
    send(engine, windows, keep=timedelta(days=60))
    # Of another meter a tenth of the last day is missing.
    send(engine, [window("odd", today - DAY + number * HOUR, kwh=1) for number in range(24 + hours) if number % 10])
    facility.fold(engine)
    (drift,) = said("pue_drift")
    assert drift.labels == {"site": "oslo", "category": "1"}
    assert drift.details["pue"] == pytest.approx(1.26)
    assert 1.21 <= drift.details["baseline"] <= 1.22
    assert drift.value == pytest.approx(1.26 - drift.details["baseline"])
    (fault,) = said("meter_fault")
    assert (fault.labels["meter"], fault.details["fault"]) == ("odd", "coverage")
    assert 0.85 < fault.value < 0.95


def test_power_caps_and_counters_of_the_last_hour(engine: Engine, said: Said) -> None:
    with engine.begin() as connection:
        floor = Floor(connection)
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - HOUR
        capped = floor.node("n1", has=3)
        for level, many, values in (
            ("1h", 1, {"throttled_ms": [1_800_001, 3_600_000, 1_800_000], "clock_event_reasons": [4, 36, 4]}),
            # The second was capped in 29 minutes alone.
            ("1m", 29, {"throttled_ms": [0, 60_000, 0], "clock_event_reasons": [4, 36, 4]}),
        ):
            for number in range(many):
                put(connection, f"gpu_{level}", time=hour + number * MINUTE, node_id=capped, site_id=floor.site_id,
                    slots=3, covered_ms=[3_600_000], power_limit_mw=[500_000], **values)  # fmt: skip
        wrong = floor.node("n2", has=2)
        # 100 W by the counters of both; polled, the second draws 112 W.
        put(connection, "gpu_1h", time=hour, node_id=wrong, site_id=floor.site_id, slots=2, covered_ms=[3_600_000],
            energy_mj=[360_000_000], energy_ms=[3_600_000], throttled_ms=[0])  # fmt: skip
        put(connection, "node_1h", time=hour, node_id=wrong, covered_ms=3_600_000, tick_power_mw=212_000 * 3600,
            ticks_summed=3600, cpu_energy_ms=0, dram_energy_ms=0, node_power_ms=0, ticks_taken=3600,
            ticks_expected=3600, rejected_readings=0)  # fmt: skip
        for number in range(360):
            floor.window(wrong, hour + 10 * number * SECOND, slots=2, energy_mj=[1_000_000],
                         power_mean_mw=[100_000, 112_000])  # fmt: skip
        floor.folded("1m", hour + HOUR)
        floor.folded("1h", hour + HOUR)
    (rack,) = said("power_cap")
    assert (rack.labels, rack.value) == ({"site": "oslo", "rack": "A1", "gpu_model": H100}, 1)
    (apart,) = said("counter_against_power")
    assert apart.labels["gpu_uuid"] == "n2-2"
    assert (apart.value, apart.details["polled_w"]) == (pytest.approx(100 / 112 - 1), pytest.approx(112))


def test_usual_energy_of_tokens_and_of_idle_gpus_and_budgets(engine: Engine, rules_engine: Engine) -> None:
    # Amid a month and an hour: when one has just begun, nothing of it is known.
    now = datetime(2026, 3, 10, 12, 40, tzinfo=UTC)
    this_hour = now.replace(minute=0)

    def said(name: str) -> list[Observation]:
        return evaluate(rules_engine, files.shipped()[name], now, Alerts())

    with engine.begin() as connection:
        floor = Floor(connection)
        chat, idle = (put(connection, "deployment", "deployment_id", name=it, role="both") for it in ("chat", "idle"))

        def used(
            level: str, time: datetime, deployment_id: int, length: timedelta, watts: float, *, active: bool
        ) -> None:
            ms = int(length / SECOND * 1000) * 8
            mj = round(watts * ms)
            put(connection, f"deployment_{level}", time=time, deployment_id=deployment_id, site_id=floor.site_id,
                gpu_model=H100, whole=True, expected_ms=ms, covered_ms=ms, energy_mj=mj, energy_ms=ms,
                energy_interpolated_mj=0, energy_integrated_mj=0, energy_estimated_mj=0, energy_shared_mj=0, host_mj=0,
                host_ms=0, observed_mj=mj, active_mj=mj if active else 0, gpus=8, gpus_silent=0)  # fmt: skip

        def served(level: str, time: datetime, length: timedelta, tokens: int, batch: float) -> None:
            ms = int(length / SECOND * 1000)
            put(connection, f"serving_{level}", time=time, deployment_id=chat, site_id=floor.site_id, gpu_model=H100,
                engine="vllm", model="llama", whole=True, covered_ms=ms, observed_ms=ms, scrapes_taken=1,
                scrapes_expected=1, prompt_tokens=0, cached_tokens=0, generated_tokens=tokens, requests_finished=1,
                running_request_ms=round(batch * ms), active_ms=ms)  # fmt: skip

        for number in range(1, 31):
            hour = this_hour - number * HOUR
            used("1h", hour, chat, HOUR, 500, active=True)
            # 4 J per token at a batch of 10; hours at a batch of 100 are in no band of it.
            many = number % 3 == 0
            served("1h", hour, HOUR, 8 * 500 * 3600 // (1 if many else 4), 100 if many else 10)
        for number in range(1, 121):
            minute = now - number * MINUTE
            used("1m", minute, chat, MINUTE, 500, active=True)
            served("1m", minute, MINUTE, 8 * 500 * 60 // 6, 10)
            used("1m", minute, idle, MINUTE, 160 if number <= 10 else 100, active=False)
        for level in ("1m", "1h", "deployment_1m", "deployment_1h"):
            floor.folded(level, now if level.endswith("1m") else this_hour)
        put(connection, "alert_budget", name="search", deployments=["ch*"], energy_mj=50 * KWH_MJ)
        put(connection, "alert_budget", name="other", deployments=["code"], energy_mj=KWH_MJ)
        # 2 EUR and 100 g for each kWh.
        bought = put(connection, "factor_import", "import_id", site_id=floor.site_id, source="test", version="1")
        of_site = {"import_id": bought, "site_id": floor.site_id, "start": now - 60 * DAY, "stop": now + DAY}
        put(connection, "tariff", price_per_kwh=2, currency="EUR", **of_site)
        put(connection, "grid_intensity", method="location", g_per_kwh=100, estimated=False, **of_site)
        put(connection, "alert_budget", name="money", deployments=["chat"], site="oslo", cost=10, currency="EUR",
            co2e_g=500, energy_mj=10_000 * KWH_MJ)  # fmt: skip
        put(connection, "alert_budget", name="kroner", deployments=["chat"], cost=10, currency="NOK")
    (worse,) = said("energy_per_token_regression")
    assert worse.labels == {"deployment": "chat", "model": "llama", "gpu_model": H100}
    assert (worse.value, worse.details["baseline"]) == (pytest.approx(6, rel=0.01), pytest.approx(4, rel=0.01))
    assert worse.details["baseline_hours"] == 20
    assert (worse.details["band_from"], worse.details["band_to"]) == (8, 16)
    (draw,) = said("idle_draw")
    assert draw.labels == {"site": "oslo", "deployment": "idle", "gpu_model": H100}
    assert (draw.value, draw.details["baseline_w"]) == (pytest.approx(160), 100)
    (budget,) = said("budget_energy")
    # 4 kW since 30 hours, and before the month's end more than the limit.
    assert budget.labels == {"budget": "search"}
    assert budget.details["boundary"] == "gpu"
    assert budget.details["rate_per_day"] > 0
    assert budget.details["forecast"] >= budget.details["used"] >= 0
    its_budgets(rules_engine, said, this_hour - 30 * HOUR, now)


def its_budgets(rules_engine: Engine, said: Said, since: datetime, now: datetime) -> None:
    """Of 4 kW since then."""
    with rules_engine.connect() as connection:
        all_of_them = connection.execute(text("SELECT * FROM report.budgets(:now)"), {"now": now})
        found = {(it.budget, it.quantity): it for it in all_of_them}
        for quantity in ("energy", "cost", "carbon"):
            asked = text("SELECT * FROM report.budgets(:now, :quantity)")
            alone = connection.execute(asked, {"now": now, "quantity": quantity})
            assert list(alone) == [it for it in found.values() if it.quantity == quantity]
    kwh, eur, kg = (found["money", it] for it in ("energy", "cost", "carbon"))
    assert (kwh.unit, eur.unit, kg.unit) == ("kWh", "EUR", "kgCO2e")
    assert (eur.used, kg.used) == (pytest.approx(2 * kwh.used), pytest.approx(0.1 * kwh.used))
    assert (eur.forecast, kg.rate_per_day) == (pytest.approx(2 * kwh.forecast), pytest.approx(0.1 * kwh.rate_per_day))
    assert kwh.used == pytest.approx(found["search", "energy"].used)
    assert kwh.used == pytest.approx(4 * (now - since) / HOUR, abs=0.1)
    assert (kwh.known, eur.known) == (1, pytest.approx(1))
    # Nobody said what it costs in this currency: that is not 0.
    assert (found["kroner", "cost"].used, found["kroner", "cost"].forecast) == (None, None)
    assert [it.labels for it in said("budget_cost") if it.value is not None] == [{"budget": "money", "site": "oslo"}]
    assert [it.labels for it in said("budget_carbon")] == [{"budget": "money", "site": "oslo"}]
