"""What goes wrong with a facility's meters: chosen by seed, again and again, placed about the moment of the start."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from collector.simulated.chance import digest
from collector.simulated.facility.instruments import Instrument
from collector.simulated.faults import HOUR_S, MINUTE_S, Amount

Kind = Literal["garbage", "hung", "replaced", "stuck", "swapped"]
CANDIDATES: dict[Kind, tuple[str, ...]] = {
    "hung": ("lighting",),
    "replaced": ("crah", "heat-removed"),
    "stuck": ("grid",),
    "swapped": ("pdu-core-a", "pdu-core-b"),
    "garbage": ("pumps", "crah", "heat-removed"),
}
"""Which meters a fault may strike: an identity for one that is replaced, and two on which a PUE rests. What stood still
is known when it moves again, and what flowed backwards costs the PUE its hours once a day."""


class Fault(Struct, frozen=True, kw_only=True):
    """Something that goes wrong with one meter again and again, for a while. Times in s since 1970 UTC."""

    kind: Kind
    first_s: int
    """When it begins next after the start; it began before, too."""
    every_s: int
    for_s: int

    def is_active(self, time_s: float) -> bool:
        """Whether it is going on."""
        return (time_s - self.first_s) % self.every_s < self.for_s


def plan(instruments: Sequence[Instrument], amount: Amount, *, seed: int, now_s: int) -> dict[str, tuple[Fault, ...]]:
    """The faults of each meter that has any, by SITE/METER.

    Args:
        instruments: of all sites.
        amount: few is one of each kind, many is one of each kind at each site.
        seed: chooses sites and meters.
        now_s: when the history ends.
    """
    faults: dict[str, tuple[Fault, ...]] = {}
    sites = list(dict.fromkeys(it.site for it in instruments))
    schedule: dict[Kind, tuple[int, int, int]] = {
        "garbage": (2 * MINUTE_S, HOUR_S, 2 * MINUTE_S),
        "swapped": (4 * MINUTE_S, 24 * HOUR_S, 30 * MINUTE_S),
        "hung": (6 * MINUTE_S, 2 * HOUR_S, 3 * MINUTE_S),
        "replaced": (8 * MINUTE_S, 12 * HOUR_S, 1),
        "stuck": (10 * MINUTE_S, 6 * HOUR_S, 25 * MINUTE_S),
    }
    for kind, names in CANDIDATES.items():
        if amount == "none":
            break
        order = sorted(sites, key=lambda site: digest(seed, "facility", kind, site))
        for site in order if amount == "many" else order[:1]:
            ranked = sorted(names, key=lambda name: digest(seed, kind, site, name))
            # Rather one that is sound; two faults of one meter come and go by themselves.
            name = next((it for it in ranked if f"{site}/{it}" not in faults), ranked[0])
            first_s, every_s, for_s = schedule[kind]
            fault = Fault(kind=kind, first_s=now_s + first_s, every_s=every_s, for_s=for_s)
            key = f"{site}/{name}"
            faults[key] = (*faults.get(key, ()), fault)
    return faults
