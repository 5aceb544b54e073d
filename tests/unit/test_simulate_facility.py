"""The simulated facility: energy is conserved, PUE is possible, registers and faults are those of real meters."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.meters.folder import Folder
from collector.meters.maps import load
from collector.simulated import fleet
from collector.simulated.facility import documents, struck
from collector.simulated.facility.facility import Facility
from collector.simulated.facility.instruments import COUNTER, Instrument, instruments, own_maps, write_maps
from collector.simulated.facility.load import racks_of
from collector.simulated.facility.metering import Counted, SimulatedMeter
from collector.simulated.facility.places import PLACES, Weather
from collector.simulated.facility.plant import CORE, Flows, Plant
from collector.simulated.facility.struck import Fault
from collector.simulated.fleet import SITES
from gigawatch.records import EnergyMethod, MeterWindow
from gigawatch.settings import Agent, Settings

NOW_S = 1_790_000_040
"""A full minute."""
HOUR_S, DAY_S = 3_600, 86_400
KWH_MJ = 3_600_000_000
ALL_SITES = [site for pair in SITES for site in pair]


def plant_of(name: str, *, seed: int = 1, racks: Mapping[str, float] | None = None) -> Plant:
    site = next(site for site in ALL_SITES if site.name == name)
    return Plant(site, racks or {"r01": 24_000.0, "r02": 30_000.0}, seed)


def facility(folder: Path, *, at_s: int = NOW_S, amount: Any = "none", seed: int = 1, nodes: int = 16) -> Facility:
    return Facility(
        fleet.of_nodes(nodes, seed=seed, gpus_per_node=2), seed=seed, amount=amount, now_s=NOW_S, history_s=HOUR_S,
        own_maps=lambda plant: write_maps(plant, folder / plant.site.name), counted={}, at_s=at_s,
    )  # fmt: skip


@settings(max_examples=200)
@given(
    site=st.sampled_from([site.name for site in ALL_SITES]),
    seed=st.integers(0, 2**31 - 1),
    time_s=st.integers(1_700_000_000, 1_900_000_000),
    shares=st.tuples(st.floats(0.02, 1.05), st.floats(0.0, 1.05)),
)
def test_what_comes_in_is_what_is_fed_and_lost(site: str, seed: int, time_s: int, shares: tuple[float, float]) -> None:
    plant = plant_of(site, seed=seed)
    rated_w = [plant.racks_w["r01"], plant.racks_w["r02"]]
    drawn = {rack: int(1_000 * w * share) for rack, w, share in zip(("r01", "r02"), rated_w, shares, strict=True)}
    flows = plant.flows(time_s, drawn)
    mw, lost = flows.mw, flows.lost_mw
    fed = sum(mw[name] for name in ("ups-a-in", "ups-b-in", "chillers", "crah", "pumps", "lighting"))
    assert mw["grid"] + mw.get("pv", 0) + mw.get("genset", 0) == fed + lost["transformer"]
    it_mw = 0
    for feed in "ab":
        pdus = sum(mw[f"pdu-{rack}-{feed}"] for rack in plant.racks_w)
        assert mw[f"ups-{feed}-in"] == mw[f"ups-{feed}"] + lost[f"ups-{feed}"]
        assert mw[f"ups-{feed}"] == pdus + lost[f"pdus-{feed}"]
        it_mw += pdus
    for rack, rack_mw in drawn.items():
        assert mw[f"pdu-{rack}-a"] + mw[f"pdu-{rack}-b"] == rack_mw
    assert min(*mw.values(), *lost.values(), flows.water_ul_s) >= 0
    # What every PUE of the site is at this moment.
    assert 1 < (fed + lost["transformer"]) / it_mw < 6
    if min(shares) > 0.3:
        assert (fed + lost["transformer"]) / it_mw < 1.8
    # Heat that is taken away is what came in, but for what the cooling itself and the transformer give off elsewhere.
    assert mw["heat-removed"] == it_mw + mw["crah"] + mw["lighting"] + sum(lost.values()) - lost["transformer"]
    assert mw.get("heat-reuse", 0) <= mw["heat-removed"]
    assert (flows.water_ul_s > 0) == plant.weather.place.tower


@settings(max_examples=100)
@given(site=st.sampled_from(ALL_SITES), seed=st.integers(0, 2**31 - 1), time_s=st.integers(0, 2**32))
def test_weather_is_that_of_the_place_and_of_the_time_alone(site: fleet.Site, seed: int, time_s: int) -> None:
    place = PLACES[site.name]
    weather = Weather(site, seed)
    outside_c = weather.outside_mc(time_s) / 1_000
    assert abs(outside_c - place.mean_c) <= place.season_k + place.day_k + 5
    assert 0 <= weather.sun(time_s) <= 1
    assert Weather(site, seed).outside_mc(time_s) == weather.outside_mc(time_s)


def test_the_sun_is_as_high_as_the_latitude_lets_it_and_hot_days_cost_more_cooling() -> None:
    june = int(datetime(2026, 6, 21, 12, tzinfo=UTC).timestamp())
    december = int(datetime(2026, 12, 21, 12, tzinfo=UTC).timestamp())
    lulea, dallas = Weather(ALL_SITES[0], 1), Weather(ALL_SITES[3], 1)
    # At 65.6° north, 0.9° above the horizon at noon of the shortest day; the sun is up at midnight of the longest.
    assert lulea.sun(december) < 0.03
    assert dallas.sun(int(datetime(2026, 6, 21, 18, tzinfo=UTC).timestamp())) > 0.2
    assert dallas.sun(int(datetime(2026, 6, 21, 6, tzinfo=UTC).timestamp())) == 0
    draws = {"r01": 20_000_000, "r02": 25_000_000}
    plant = plant_of("dallas")
    summer, winter = plant.flows(june + 8 * HOUR_S, draws), plant.flows(december, draws)
    assert summer.mw["chillers"] > 3 * winter.mw["chillers"]
    assert summer.water_ul_s > winter.water_ul_s


def test_the_generator_runs_half_an_hour_a_month_and_the_grid_gives_so_much_less() -> None:
    plant, draws = plant_of("dublin"), {"r01": 20_000_000, "r02": 25_000_000}
    tuesday = int(datetime(2026, 12, 1, 10, 10, tzinfo=UTC).timestamp())
    during, after = plant.flows(tuesday, draws), plant.flows(tuesday + 30 * 60, draws)
    assert during.mw["genset"] > 10_000_000
    assert after.mw["genset"] == 0
    minutes = [at_s for at_s in range(tuesday - 10 * DAY_S, tuesday + 20 * DAY_S, 60) if plant.is_tested(at_s)]
    assert len(minutes) == 30


def test_ups_and_fans_lose_most_at_little_load() -> None:
    plant = plant_of("lulea")

    def efficiency(share: float) -> float:
        draws = {rack: int(w * 1_000 * share) for rack, w in plant.racks_w.items() if rack != CORE}
        mw = plant.flows(NOW_S, draws).mw
        return mw["ups-a"] / mw["ups-a-in"]

    # Each carries half of it: at 10 % and 45 % of its rating.
    assert efficiency(0.1) < 0.92
    assert 0.94 < efficiency(1.0) < 0.97


def test_the_same_seed_gives_the_same_facility_and_racks_draw_what_the_nodes_of_the_fleet_do(tmp_path: Path) -> None:
    one, other = facility(tmp_path, at_s=NOW_S - 600), facility(tmp_path, at_s=NOW_S - 600)
    for it in (one, other):
        it.run(NOW_S + 5)
    images = [{key: meter.image(NOW_S) for key, meter in it.meters.items()} for it in (one, other)]
    assert images[0] == images[1]
    from collector.simulated.faults import Faults
    from collector.simulated.machine import SimulatedNode

    nodes = [it for it in fleet.of_nodes(16, seed=1, gpus_per_node=2) if (it.site.name, it.rack) == ("lulea", "r01")]
    parcels = [SimulatedNode(it, Faults(now_s=NOW_S), 1).window(NOW_S + 4, 1, 1) for it in nodes]
    drawn_mw = sum(it.node_windows[0].node_power_mean_mw for it in parcels if it is not None)
    flows = one.flows["lulea"].mw
    assert flows["pdu-r01-a"] + flows["pdu-r01-b"] == drawn_mw


def test_registers_only_grow_and_hold_the_energy_of_every_step_to_their_last_digit(tmp_path: Path) -> None:
    it = facility(tmp_path)
    before = {key: msgspec.structs.replace(meter.counted) for key, meter in it.meters.items()}
    exact: dict[str, int] = dict.fromkeys(it.meters, 0)
    told: dict[str, int] = {}
    for at_s in range(NOW_S + 60, NOW_S + 1_801, 60):
        it.run(at_s - 1)
        it.run(at_s)
        for key, meter in it.meters.items():
            reading = meter.read(at_s)
            assert reading is not None and not reading.refused
            if reading.energy_mj is not None:
                assert reading.energy_mj >= told.get(key, 0) or reading.energy_wraps_mj
                told[key] = reading.energy_mj
    for key, meter in it.meters.items():
        exact[key] = meter.counted.amount - before[key].amount
        assert meter.counted.serial == before[key].serial
        assert exact[key] >= 0
    for site in ("lulea", "dublin"):
        fed = sum(exact[f"{site}/{name}"] for name in ("ups-a-in", "ups-b-in", "crah", "pumps", "lighting", "chillers"))
        came = exact[f"{site}/grid"] + exact.get(f"{site}/pv", 0) + exact.get(f"{site}/genset", 0)
        # A transformer loses up to 1 % of its rating.
        assert 0 < came - fed < 0.011 * it.plants[site].site_w * 1_000 * 1_800
        it_mj = sum(mj for key, mj in exact.items() if key.startswith(f"{site}/pdu-"))
        assert came > it_mj


def meter(name: str, folder: Path, *faults: Fault, counted: Counted | None = None, site: str = "dublin") -> Any:
    plant = plant_of(site)
    paths = write_maps(plant, folder)
    it = next(it for it in instruments(plant) if it.name == name)
    return SimulatedMeter(it, paths.get(it.map, it.map), 1, faults, counted)


def flowing(name: str, power_mw: int, *, outside_mc: int = 5_000, water_ul_s: int = 0) -> Flows:
    return Flows(mw={name: power_mw}, lost_mw={}, water_ul_s=water_ul_s, outside_mc=outside_mc)


def folded(
    it: SimulatedMeter, power_mw: int, length_s: int, *, water_ul_s: int = 0
) -> tuple[list[MeterWindow], set[str]]:
    """What an agent makes of it: windows, and kinds of events."""
    folder = Folder(it.settings("127.0.0.1", 10), 10_000)
    for at_s in range(NOW_S, NOW_S + length_s + 1, 10):
        if (reading := it.read(at_s)) is not None:
            folder.add(at_s * 1_000, reading)
        it.count(at_s, 10, flowing(it.name, power_mw, water_ul_s=water_ul_s))
    windows = folder.close((NOW_S + length_s) * 1_000, stop=True)
    return windows, {notice.kind for notice in folder.notices}


def total_mj(windows: list[MeterWindow]) -> int:
    return sum(window.energy_mj or 0 for window in windows)


def lasting(kind: Any, first_s: int, for_s: int) -> Fault:
    return Fault(kind=kind, first_s=NOW_S + first_s, every_s=DAY_S, for_s=for_s)


def test_a_sound_meter_is_folded_to_what_it_counted(tmp_path: Path) -> None:
    windows, kinds = folded(meter("grid", tmp_path), 20_000_000, 900)
    assert abs(total_mj(windows) - 20_000_000 * 900) <= 3_600_000
    assert {window.energy_method for window in windows} == {EnergyMethod.COUNTER}
    assert kinds == set()


def test_a_stuck_meter_is_told_and_what_it_counted_is_not_lost(tmp_path: Path) -> None:
    windows, kinds = folded(meter("pumps", tmp_path, lasting("stuck", 60, 1_500)), 900_000, 1_800)
    assert kinds == {"meter_stuck", "meter_answers"}
    assert abs(total_mj(windows) - 900_000 * 1_800) <= 2 * 3_600_000


def test_swapped_current_transformers_show_negative_power_and_count_nothing(tmp_path: Path) -> None:
    windows, kinds = folded(meter("crah", tmp_path, lasting("swapped", 60, 600)), 2_000_000, 900)
    assert "meter_reversed" in kinds
    assert min(window.power_min_mw for window in windows if window.power_min_mw is not None) == -2_000_000
    assert total_mj(windows) <= 2_000_000 * 300 + 3_600_000
    assert sum(window.covered_ms for window in windows if window.energy_mj is not None) < 400_000


def test_a_counter_of_pulses_wraps_and_loses_nothing(tmp_path: Path) -> None:
    map_ = load(write_maps(plant_of("dublin"), tmp_path)["chillers"])
    (value,) = map_.readings["energy"]
    pulse_mj = int(value.scale) * 3_600_000
    assert value.wraps_at == COUNTER * value.scale
    counted = Counted(amount=(5 * COUNTER - 20) * pulse_mj, serial=1)
    windows, kinds = folded(meter("chillers", tmp_path, counted=counted), 10_000_000, 3_600)
    assert kinds == {"meter_wrapped"}
    assert abs(total_mj(windows) - 10_000_000 * 3_600) <= pulse_mj


def test_water_comes_in_litres_and_wraps(tmp_path: Path) -> None:
    counted = Counted(amount=(COUNTER - 5) * 1_000_000, serial=1)
    windows, kinds = folded(meter("city-water", tmp_path, counted=counted), 0, 1_800, water_ul_s=20_000)
    assert kinds == {"meter_wrapped"}
    assert abs(sum(window.volume_ml or 0 for window in windows) - 36_000) <= 1_000


def test_a_replaced_meter_has_a_new_serial_number_and_begins_at_zero(tmp_path: Path) -> None:
    it = meter("heat-removed", tmp_path, lasting("replaced", 300, 1))
    serial = it.counted.serial
    windows, kinds = folded(it, 40_000_000, 900)
    assert it.counted.serial == serial + 1
    assert it.counted.amount <= 40_000_000 * 610
    assert "meter_replaced" in kinds
    assert abs(total_mj(windows) - 40_000_000 * 900) <= 2 * 40_000_000 * 10
    assert EnergyMethod.ESTIMATED in {window.energy_method for window in windows}


def test_before_its_first_step_a_meter_tells_what_it_counted_and_no_power_or_temperature(tmp_path: Path) -> None:
    grid, air = meter("grid", tmp_path), meter("outside-air", tmp_path)
    assert air.read(NOW_S) is None
    reading = grid.read(NOW_S)
    assert (reading.power_mw, reading.current_ma) == (None, None) and reading.energy_mj > 0
    for it in (grid, air):
        it.count(NOW_S, 1, flowing("grid", 20_000_000, outside_mc=-3_000))
    assert (grid.read(NOW_S + 1).power_mw, air.read(NOW_S + 1).temp_mc) == (20_000_000, -3_000)


def test_garbage_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    it = meter("crah", tmp_path, lasting("garbage", 300, 120))
    it.count(NOW_S, 1, flowing("crah", 2_000_000))
    garbled = it.read(NOW_S + 300)
    assert garbled.refused and garbled.power_mw is not None
    windows, _ = folded(it, 2_000_000, 900)
    assert abs(total_mj(windows) - 2_000_000 * 900) <= 3_600_000
    assert sum(window.rejected_readings for window in windows) >= 12


def test_a_meter_that_hangs_says_nothing(tmp_path: Path) -> None:
    it = meter("lighting", tmp_path, lasting("hung", 300, 180))
    assert it.read(NOW_S + 300) is None
    assert it.read(NOW_S + 480) is not None


def test_faults_are_of_the_seed_and_a_pue_rests_on_two_of_the_meters_that_they_strike() -> None:
    mounted: list[Instrument] = []
    for site, racks in racks_of(fleet.of_nodes(16, seed=1, gpus_per_node=8)).items():
        mounted += instruments(Plant(site, racks, 1))
    of_roles = {f"{it.site}/{it.name}": it.role for it in mounted}
    for seed in range(20):
        few = struck.plan(mounted, "few", seed=seed, now_s=NOW_S)
        assert few == struck.plan(mounted, "few", seed=seed, now_s=NOW_S)
        assert sorted(it.kind for faults in few.values() for it in faults) == sorted(struck.CANDIDATES)
        many = struck.plan(mounted, "many", seed=seed, now_s=NOW_S)
        assert sum(len(faults) for faults in many.values()) == 2 * len(struck.CANDIDATES)
        for faults in (few, many):
            roles = {(it.kind, of_roles[key]) for key, those in faults.items() for it in those}
            assert {("stuck", "utility"), ("swapped", "pdu")} <= roles
            assert {role for kind, role in roles if kind not in {"stuck", "swapped"}} <= {
                "cooling", "pump", "lighting", "heat_removed",
            }  # fmt: skip
    assert struck.plan(mounted, "none", seed=1, now_s=NOW_S) == {}


@pytest.mark.parametrize("site", PLACES)
def test_every_meter_of_a_site_has_a_map_and_a_rating_that_its_power_fits(site: str, tmp_path: Path) -> None:
    plant = plant_of(site)
    paths = write_maps(plant, tmp_path)
    draws = {rack: int(w * 1_000) for rack, w in plant.racks_w.items() if rack != CORE}
    for time_s in range(NOW_S, NOW_S + 365 * DAY_S, 5 * DAY_S + 7_777):
        flows = plant.flows(time_s, draws)
        for it in instruments(plant):
            assert it.rated_w is None or flows.mw[it.name] <= 1_000 * 1.05 * it.rated_w, it.name
    for it in instruments(plant):
        one = SimulatedMeter(it, paths.get(it.map, it.map), 1)
        one.count(NOW_S, 1, plant.flows(NOW_S, draws))
        reading = one.read(NOW_S)
        assert reading is not None and not reading.refused, it.name
    assert set(own_maps(plant)) == set(paths)


def test_configuration_and_topology_can_be_read(tmp_path: Path) -> None:
    from gigawatch import settings as of_agent

    it = facility(tmp_path)
    meters = [meter.settings("127.0.0.1:1", 10.0) for meter in it.of_site("dublin")]
    agent = Agent(server_url="http://127.0.0.1:9", site="dublin", machine_id="sim-meters-dublin")
    path = tmp_path / "gigawatch.toml"
    path.write_text(documents.configuration(agent, tmp_path, meters), encoding="utf-8")
    loaded: Settings = of_agent.load(path, environment={})
    assert loaded.agent.simulated and loaded.agent.discover == ()
    assert loaded.meters == tuple(meters)
    text = documents.topology(it.plants, [meter.instrument for meter in it.meters.values()])
    declared = yaml.safe_load(text)["sites"]
    for site, plant in it.plants.items():
        named = declared[site]["meters"]
        assert set(named) == {meter.name for meter in it.of_site(site)}
        fed = {name for meter in named.values() for name in meter.get("feeds", [])}
        assert fed <= set(named)
        racks = [rack for meter in named.values() for rack in meter.get("racks", [])]
        assert sorted(racks) == sorted([*plant.racks_w, *plant.racks_w])
        hall = declared[site]["halls"][documents.HALL]
        placed = [rack for row in hall["rows"].values() for rack in row["racks"]] + hall["racks"]
        assert sorted(placed) == sorted(plant.racks_w)
        assert not any(math.isnan(meter["rated_kw"]) for meter in named.values() if "rated_kw" in meter)
