"""Where the simulated sites are: climate, sun, and what stands there."""

import math

from msgspec import Struct

from collector.simulated.chance import digest, smooth
from collector.simulated.fleet import Site
from collector.simulated.load import DAY_S, HOUR_S

YEAR_D = 365.25
WARMEST_D = 200
"""Day of the year, in the north."""
WARMEST_H = 15


class Place(Struct, frozen=True, kw_only=True):
    """A site's climate and plant. Temperatures in °C, their swings in K to each side of the mean."""

    latitude_deg: float
    mean_c: float
    season_k: float
    day_k: float
    supply_c: float
    """Of the chilled water."""
    tower: bool = False
    """Heat is given off by evaporation of water; else by dry coolers."""
    reuse: bool = False
    """Heat goes to a district's network."""
    pv: bool = False
    genset: bool = False


PLACES = {
    "lulea": Place(latitude_deg=65.6, mean_c=3, season_k=13, day_k=3, supply_c=20, reuse=True),
    "dublin": Place(latitude_deg=53.4, mean_c=10, season_k=6, day_k=3, supply_c=18, tower=True, pv=True, genset=True),
    "ashburn": Place(latitude_deg=39.0, mean_c=13, season_k=13, day_k=6, supply_c=16, tower=True, genset=True),
    "dallas": Place(latitude_deg=32.8, mean_c=19, season_k=11, day_k=6, supply_c=16, tower=True, pv=True),
    "oslo": Place(latitude_deg=59.9, mean_c=7, season_k=12, day_k=4, supply_c=20, reuse=True),
    "osaka": Place(latitude_deg=34.7, mean_c=17, season_k=12, day_k=4, supply_c=16, tower=True, genset=True),
}
"""By the fleet's names of sites; climates are our choice, near those of the towns."""


class Weather:
    """Outside air and sun at one site, as a function of time alone.

    Args:
        site: of the fleet.
        seed: the fleet's.
    """

    def __init__(self, site: Site, seed: int) -> None:
        self.place = place_of(site)
        self._offset_s = site.utc_offset_h * HOUR_S
        self._seed = int(digest(seed, "weather", site.name)[:8], 16)

    def outside_mc(self, time_s: float) -> int:
        """Temperature of the outside air, thousandths of 1 °C: season, day, and weather of days and hours."""
        place, local_s = self.place, time_s + self._offset_s
        season = math.cos((local_s / DAY_S % YEAR_D - WARMEST_D) / YEAR_D * math.tau)
        day = math.cos((local_s / HOUR_S - WARMEST_H) / 24 * math.tau)
        fronts = 2 * smooth(self._seed, time_s / (2 * DAY_S)) - 1
        hours = 2 * smooth(self._seed + 1, time_s / (3 * HOUR_S)) - 1
        return round(1_000 * (place.mean_c + place.season_k * season + place.day_k * day + 4 * fronts + hours))

    def sun(self, time_s: float) -> float:
        """What falls onto the roof, over what a clear sky gives with the sun overhead: 0 to 1.

        The sun's height is that of its declination, 23.45° sin(360° (284 + day) / 365) (Cooper, Solar Energy 12, 1969),
        latitude and local time; clouds let a quarter and more through.
        """
        local_s = time_s + self._offset_s
        declination = math.radians(23.45) * math.sin((284 + local_s / DAY_S % YEAR_D) / 365 * math.tau)
        latitude = math.radians(self.place.latitude_deg)
        hour_angle = (local_s / HOUR_S - 12) / 24 * math.tau
        height = math.sin(latitude) * math.sin(declination)
        height += math.cos(latitude) * math.cos(declination) * math.cos(hour_angle)
        return max(0.0, height) * (0.25 + 0.75 * smooth(self._seed + 2, time_s / (2 * HOUR_S)))


def place_of(site: Site) -> Place:
    """The place of a site; a second site of a town has a number behind its name."""
    return PLACES[site.name.partition("-")[0]]
