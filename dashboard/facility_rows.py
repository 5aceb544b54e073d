"""The facility, row by row: which category to show, where power goes, which meters and limits need somebody first."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from dashboard.view import MeterOrder
from gigawatch.facility_readings import (
    Capacity,
    FacilityEnergy,
    HealthState,
    MeterHealth,
    Pue,
    PueConditions,
    Reconciled,
)

CATEGORIES: Mapping[int, str] = {1: "UPS output", 2: "PDU output", 3: "IT equipment input"}
"""Where the energy of IT is metered."""
ROLES: Mapping[str, str] = {
    "utility": "utility", "generation": "generation", "fuel": "fuel", "ups_in": "UPS input", "ups_out": "UPS output",
    "pdu": "PDU output", "it": "IT input", "cooling": "cooling", "pump": "pumps", "lighting": "lighting",
    "water": "water", "heat_reuse": "heat reused", "heat_removed": "heat removed", "temperature": "temperature",
    "other": "other",
}  # fmt: skip
ENOUGH = 0.9
"""A category nearer to the IT equipment is preferred where it has this part of the hours of the best."""


def nearest(rows: Iterable[Pue]) -> int | None:
    """The category nearest to the IT equipment that is about as well known as any; None where nothing is measured."""
    hours: dict[int, int] = defaultdict(int)
    for row in rows:
        if row.category is not None:
            hours[row.category] += row.hours or 0
    most = max(hours.values(), default=0)
    return max((category for category, known in hours.items() if known >= ENOUGH * most), default=None)


def without(rows: Iterable[Pue], category: int | None, sites: Sequence[str]) -> list[str]:
    """The sites none of whose hours are in the sums of a category.

    Args:
        rows: by site.
        category: of the sums.
        sites: all that there are.
    """
    within = {row.label for row in rows if row.category == category and row.hours}
    return [site for site in sites if site not in within]


def dropped_out(rows: Iterable[PueConditions]) -> dict[datetime, list[str]]:
    """The bins in which sites are in no sum that are in that of another bin: there the sites' PUE may jump."""
    within: dict[datetime, set[str]] = defaultdict(set)
    for row in rows:
        within[row.time] |= {row.site} if row.pue is not None else set()
    every = set().union(*within.values())
    return {time: sorted(every - sites) for time, sites in within.items() if every - sites}


class Place(Struct, frozen=True, kw_only=True):
    """A site or a hall with its PUE at the category to show, and at the others."""

    label: str
    shown: Pue
    others: tuple[Pue, ...]


def places(rows: Iterable[Pue], category: int | None) -> list[Place]:
    """Each site or hall at the category, else at its own nearest; those of the most energy first."""
    by_label: dict[str, list[Pue]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    found = []
    for label, of_label in by_label.items():
        wanted = category if any(row.category == category for row in of_label) else nearest(of_label)
        shown = next((row for row in of_label if row.category == wanted), of_label[0])
        others = tuple(row for row in of_label if row is not shown)
        found.append(Place(label=label, shown=shown, others=others))
    return sorted(found, key=lambda it: (-(it.shown.facility_energy_j or 0), it.label))


class Link(Struct, frozen=True):
    """Power that flows from one part to another, in the mean."""

    source: str
    target: str
    power_w: float
    unexplained: bool = False
    """What is measured above and by nothing below."""


class Flow(Struct, frozen=True):
    """Where power goes, and where the parts are more than the whole."""

    links: tuple[Link, ...]
    contradictions: tuple[str, ...]


FACILITY = "Facility"
SOURCES: Mapping[str, str] = {"utility": "Utility", "generation": "Generation", "fuel": "Fuel"}
BESIDE: Mapping[str, str] = {"cooling": "Cooling", "pump": "Pumps", "lighting": "Lighting", "other": "Other"}
CHAIN: Mapping[str, tuple[str, str]] = {
    "ups_in": ("UPS input", "unexplained: UPS"),
    "ups_out": ("UPS output", "unexplained: behind UPS"),
    "pdu": ("PDU output", "unexplained: behind PDUs"),
    "it": ("IT input", "unexplained: not in nodes"),
    "node": ("Nodes", "unexplained: in nodes"),
    "host": ("CPU, memory, GPU", "CPU and memory"),
    "gpu": ("GPUs", ""),
}
"""From the grid to the GPUs: what each is called, and what of it the next below does not have."""
TOLERANCE = 0.005
"""Parts may be more than their whole by so much: meters of class 0.5."""


def flow(energies: Iterable[FacilityEnergy], levels: Iterable[Reconciled]) -> Flow:
    """Where the mean power of each site goes, and of all sites together.

    Args:
        energies: by site and role, over the whole of a period.
        levels: by site, over the same.
    """
    powers: dict[str, dict[str, float]] = defaultdict(dict)
    for row in energies:
        if row.power_w is not None:
            powers[row.label][row.role] = row.power_w
    for level in levels:
        if level.level in {"node", "host", "gpu"}:
            powers[level.label][level.level] = level.energy_j / (level.hours * 3600)
    sums: dict[tuple[str, str, bool], float] = defaultdict(float)
    contradictions: list[str] = []
    for site, known in powers.items():
        for link in _site_flow(site, known, contradictions):
            sums[link.source, link.target, link.unexplained] += link.power_w
    return Flow(
        tuple(Link(source, target, power_w, open_) for (source, target, open_), power_w in sums.items()),
        tuple(contradictions),
    )


def _site_flow(site: str, power_w: Mapping[str, float], contradictions: list[str]) -> list[Link]:
    links = [Link(name, FACILITY, power_w[role]) for role, name in SOURCES.items() if power_w.get(role, 0) > 0]
    upper, rest, below = FACILITY, "unexplained: not metered", sum(link.power_w for link in links)
    if links:
        for role, name in BESIDE.items():
            if power_w.get(role, 0) > 0:
                links.append(Link(FACILITY, name, power_w[role]))
                below -= power_w[role]
    whole = sum(link.power_w for link in links if link.target == FACILITY)
    for role, (name, what) in CHAIN.items():
        if role not in power_w:
            continue
        if whole > 0:
            links.append(Link(upper, name, power_w[role]))
            _close(links, upper, rest, below - power_w[role], whole, site, contradictions)
        upper, rest, whole, below = name, what, power_w[role], power_w[role]
    if upper == FACILITY and whole > 0:
        _close(links, upper, rest, below, whole, site, contradictions)
    return [link for link in links if link.power_w > 0]


def _close(
    links: list[Link], upper: str, rest: str, left_w: float, whole_w: float, site: str, contradictions: list[str]
) -> None:
    if left_w > 0:
        links.append(Link(upper, rest, left_w, rest.startswith("unexplained")))
    elif left_w < -TOLERANCE * whole_w:
        contradictions.append(
            f"{site}: what {upper} leads to is {-left_w / whole_w:.1%} more than it".replace("%", "\u00a0%")
        )


SEVERITY: tuple[HealthState, ...] = (
    "reversed", "stuck", "silent", "rejected", "never heard of", "not placed", "imported", "ok", "retired",
)  # fmt: skip
"""States of meters, the worst first: what is wrong goes before what is missing."""
TONES: Mapping[HealthState, str] = {
    "reversed": "bad", "stuck": "bad", "silent": "bad", "rejected": "warn", "never heard of": "warn",
    "not placed": "warn", "imported": "", "ok": "ok", "retired": "",
}  # fmt: skip
_METER_ORDERS: Mapping[MeterOrder, Callable[[MeterHealth], float | str | None]] = {
    "meter": lambda it: it.meter,
    "place": lambda it: " / ".join(filter(None, (it.site, it.hall))),
    "role": lambda it: it.role,
    "feed": lambda it: it.feed,
    "power": lambda it: it.power_w,
    "coverage": lambda it: it.coverage_24h,
    "seen": lambda it: seen.timestamp() if (seen := it.newest or it.last_seen) else None,
    "rejected": lambda it: it.rejected_24h,
    "stuck": lambda it: it.stuck_hours_24h,
    "reversed": lambda it: it.reversed_hours_24h,
}


def matching(meters: Iterable[MeterHealth], find: str) -> list[MeterHealth]:
    """The meters with a text in their name, site, hall, role or reader, in any case."""
    wanted = find.lower()
    return [
        it for it in meters
        if any(wanted in text.lower() for text in (it.meter, it.site, it.hall, it.role, it.read_by) if text)
    ]  # fmt: skip


def in_order(meters: Iterable[MeterHealth], order: MeterOrder, *, descending: bool) -> list[MeterHealth]:
    """The meters sorted; those without the value are last either way. By problem, the worst come first."""
    named = sorted(meters, key=lambda it: (it.site, it.meter))
    if order == "problem":
        return sorted(named, key=lambda it: (SEVERITY.index(it.state), it.coverage_24h), reverse=descending)
    value = _METER_ORDERS[order]
    known = [it for it in named if value(it) is not None]
    known.sort(key=value, reverse=descending)  # type: ignore[arg-type] # what is None is not among them
    return known + [it for it in named if value(it) is None]


def tightest(limits: Sequence[Capacity]) -> list[Capacity]:
    """The limits, those of which most is used first, now or at the peak; those of which nothing is known last."""
    return sorted(limits, key=lambda it: -max(it.use_share or -1.0, it.peak_share or -1.0))
