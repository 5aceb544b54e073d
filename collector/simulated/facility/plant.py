"""The physics of one site: from what its racks draw to what it takes from the grid.

Powers are whole milliwatts and constant over a step, so that what goes in is exactly what is fed and lost. Sources of
the numbers are in docs/simulate.md.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from collector.simulated.chance import uniform
from collector.simulated.facility.places import Weather
from collector.simulated.fleet import Site
from gigawatch.units import MILLIWATTS_PER_WATT

CORE = "core"
"""The rack of network and storage."""
CORE_SHARE = 0.08
"""Network and storage, over the rating of the nodes."""
FEEDS = ("a", "b")
ZERO_C_K = 273.15
LATENT_J_PER_L = 2.45e6
"""Evaporation of a litre of water at 20 °C."""
CYCLES = 4
"""Of concentration: a tower evaporates three quarters of its water, and drains the rest."""
TEST_MIN = 30
"""The generator runs so long under load on the first Tuesday of each month, at 10 h local time."""
TEST_SHARE = 0.3


class Flows(Struct, frozen=True, kw_only=True):
    """What flows in one step."""

    mw: dict[str, int]
    """Through each meter by its name, mW: electricity, or heat."""
    lost_mw: dict[str, int]
    """In the transformer, both UPS and behind each of them."""
    water_ul_s: int
    """Water that the tower takes in, µL/s."""
    outside_mc: int


class Plant:
    """One site.

    Args:
        site: of the fleet.
        racks_w: rating of each of its racks, W.
        seed: the fleet's.
    """

    def __init__(self, site: Site, racks_w: Mapping[str, float], seed: int) -> None:
        nodes_w = sum(racks_w.values())
        self.site = site
        self.weather = Weather(site, seed)
        self.racks_w = {**racks_w, CORE: CORE_SHARE * nodes_w}
        """Rating of each rack, with that of network and storage."""
        self.it_w = sum(self.racks_w.values())
        self.ups_w = 1.1 * self.it_w
        """Each of two carries all, so that both are at half load and less."""
        self.site_w = 1.5 * self.it_w
        self.pv_w = 0.15 * self.it_w
        self._nodes_w = nodes_w
        self._offset = timedelta(hours=site.utc_offset_h)
        self._split = {rack: 0.47 + 0.06 * uniform(seed, "feeds", site.name, rack) for rack in self.racks_w}
        """What of a rack's power comes by feed A: supplies never share evenly."""

    def flows(self, time_s: int, racks_mw: Mapping[str, int]) -> Flows:
        """What flows while the racks with nodes draw this.

        Args:
            time_s: start of the step, s since 1970 UTC.
            racks_mw: by rack, at the inlets of its nodes.
        """
        mw: dict[str, int] = {}
        lost_mw: dict[str, int] = {}
        outside_mc = self.weather.outside_mc(time_s)
        draws_mw = {**racks_mw, CORE: self._core_mw(sum(racks_mw.values()))}
        for rack, draw_mw in draws_mw.items():
            mw[f"pdu-{rack}-a"] = round(draw_mw * self._split[rack])
            mw[f"pdu-{rack}-b"] = draw_mw - mw[f"pdu-{rack}-a"]
        for feed in FEEDS:
            racks = sum(mw[f"pdu-{rack}-{feed}"] for rack in draws_mw)
            ups = f"ups-{feed}"
            lost_mw[f"pdus-{feed}"] = _loss_mw(racks, self.ups_w, none=0.003, square=0.012)
            mw[ups] = racks + lost_mw[f"pdus-{feed}"]
            lost_mw[ups] = _loss_mw(mw[ups], self.ups_w, none=0.010, proportional=0.018, square=0.012)
            mw[f"{ups}-in"] = mw[ups] + lost_mw[ups]
        mw["lighting"] = self._lighting_mw(time_s)
        water_ul_s = self._cool(sum(draws_mw.values()), sum(lost_mw.values()), outside_mc / 1_000, mw)
        fed_mw = sum(mw[name] for name in ("ups-a-in", "ups-b-in", "chillers", "crah", "pumps", "lighting"))
        lost_mw["transformer"] = _loss_mw(fed_mw, self.site_w, none=0.0015, square=0.009)
        self._supply(time_s, fed_mw + lost_mw["transformer"], mw)
        return Flows(mw=mw, lost_mw=lost_mw, water_ul_s=water_ul_s, outside_mc=outside_mc)

    def _core_mw(self, nodes_mw: int) -> int:
        """Switches and disks draw much the same, busy or not."""
        return round(self.racks_w[CORE] * MILLIWATTS_PER_WATT * (0.6 + 0.2 * nodes_mw / _mw(self._nodes_w)))

    def _lighting_mw(self, time_s: int) -> int:
        """Full while people work, and a third for the cameras."""
        local = datetime.fromtimestamp(time_s, UTC) + self._offset
        at_work = local.weekday() < 5 and 7 <= local.hour < 18
        return round(_mw(0.005 * self.it_w) * (1.0 if at_work else 0.33))

    def _cool(self, it_mw: int, lost_mw: int, outside_c: float, mw: dict[str, int]) -> int:
        """Put what cooling needs and gives off into mw. Water taken in, µL/s."""
        place, rated_mw = self.weather.place, _mw(self.it_w)
        load = it_mw / rated_mw
        # Fans and pumps by the cube of the flow, which follows the load down to a half.
        flow = max(0.5, min(1.0, load))
        mw["crah"] = round(0.05 * rated_mw * flow**3)
        mw["pumps"] = round(0.025 * rated_mw * (0.1 + 0.9 * flow**3))
        heat_mw = it_mw + lost_mw + mw["crah"] + mw["lighting"]
        # The tower brings water within 6 K of air that evaporation has cooled by a fifth of what it can, 4 K.
        sink_c = outside_c + (2 if place.tower else 8)
        # Of itself while it is colder than the supply; in part while it is colder than what comes back.
        free = max(0.0, min(1.0, (place.supply_c + 4 - sink_c) / 4))
        lift_k = max(10.0, sink_c + 6 - place.supply_c)
        part = min(1.0, heat_mw / (1.2 * rated_mw))
        cop = min(14.0, 0.5 * (place.supply_c + ZERO_C_K) / lift_k) * (1 - 0.3 * (1 - part) ** 2)
        compressors_mw = (1 - free) * heat_mw / cop
        rejected_mw = heat_mw + compressors_mw
        # Fans of towers and dry coolers, and the machines' own controls.
        mw["chillers"] = round(compressors_mw + 0.012 * rejected_mw + 0.002 * rated_mw)
        mw["heat-removed"] = heat_mw
        if place.reuse:
            # A network takes heat as its houses need it.
            mw["heat-reuse"] = round(0.6 * heat_mw * max(0.1, min(1.0, (17 - outside_c) / 20)))
        if not place.tower:
            return 0
        # In the cold most of the heat leaves without evaporation.
        wet = max(0.1, min(1.0, (outside_c + 5) / 20))
        evaporated_l_s = wet * rejected_mw / MILLIWATTS_PER_WATT / LATENT_J_PER_L
        return round(evaporated_l_s * CYCLES / (CYCLES - 1) * 1_000_000)

    def _supply(self, time_s: int, drawn_mw: int, mw: dict[str, int]) -> None:
        """Put what own generation and the grid give into mw: together what is drawn."""
        place, rest_mw = self.weather.place, drawn_mw
        if place.pv:
            mw["pv"] = min(rest_mw, round(_mw(self.pv_w) * self.weather.sun(time_s)))
            rest_mw -= mw["pv"]
        if place.genset:
            mw["genset"] = min(rest_mw, _mw(TEST_SHARE * self.site_w)) if self.is_tested(time_s) else 0
            rest_mw -= mw["genset"]
        mw["grid"] = rest_mw

    def is_tested(self, time_s: int) -> bool:
        """Whether it is time for the generator's monthly test."""
        local = datetime.fromtimestamp(time_s, UTC) + self._offset
        since = local - local.replace(hour=10, minute=0, second=0)
        return local.weekday() == 1 and local.day <= 7 and timedelta(0) <= since < timedelta(minutes=TEST_MIN)


def _loss_mw(load_mw: int, rated_w: float, *, none: float, square: float, proportional: float = 0.0) -> int:
    """Loss at a load: parts of the rating at no load, in proportion to the load, and by its square at full load."""
    rated_mw = rated_w * MILLIWATTS_PER_WATT
    share = load_mw / rated_mw
    return round(rated_mw * (none + proportional * share + square * share**2))


def _mw(power_w: float) -> int:
    return round(power_w * MILLIWATTS_PER_WATT)
