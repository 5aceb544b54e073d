"""A site written out: each rack and each meter by its own name, with what it refers to."""

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from gigawatch.findings import Findings, Path
from gigawatch.topology.document import Hall, Meter, Site, Topology
from gigawatch.topology.ranges import Pattern, WrongRange

MOST_NAMES = 300_000
"""That a site may have when it is written out, each as often as it is named."""


class Rack(Struct, frozen=True):
    """Where a rack stands."""

    hall: str
    row: str | None
    path: Path


class PlannedMeter(Struct, frozen=True, kw_only=True):
    """One meter."""

    name: str
    path: Path
    declared: Meter
    """As the file has it, where it may stand for many."""
    feeds: tuple[str, ...] = ()
    racks: tuple[str, ...] = ()
    terms: dict[str, int] = {}
    """Of a virtual meter: 1 added, -1 subtracted."""
    hall: str | None = None
    node: str | None = None

    @property
    def virtual(self) -> bool:
        """Whether it is a sum of others."""
        return bool(self.declared.plus or self.declared.minus)


class Plan(Struct, kw_only=True):
    """One site."""

    name: str
    path: Path
    site: Site
    halls: dict[str, Path] = field(default_factory=dict)
    rows: dict[tuple[str, str], Path] = field(default_factory=dict)
    racks: dict[str, Rack] = field(default_factory=dict)
    meters: dict[str, PlannedMeter] = field(default_factory=dict)
    budgets_kw: dict[tuple[str, str], float] = field(default_factory=dict)
    """By scope (site, hall, row, rack) and name; a row's is HALL/ROW."""


def plans(topology: Topology, findings: Findings) -> list[Plan]:
    """The sites of a document, written out; what cannot be is left out and told."""
    return [_Planner(name, site, findings).plan() for name, site in topology.sites.items()]


class _Planner:
    """Writes one site out."""

    def __init__(self, name: str, site: Site, findings: Findings) -> None:
        self._findings = findings
        self._plan = Plan(name=name, path=("sites", name), site=site)
        self._names_made = 0

    def plan(self) -> Plan:
        try:
            self._write_out()
        except _TooMany:
            self._findings.error(
                self._plan.path,
                f"site {self._plan.name!r} has more than {MOST_NAMES} names, written out",
                "Is a range wider than it should be?",
            )
        return self._plan

    def _write_out(self) -> None:
        plan = self._plan
        if plan.site.budget_kw is not None:
            plan.budgets_kw["site", plan.name] = plan.site.budget_kw
        for written, hall in plan.site.halls.items():
            path = (*plan.path, "halls", written)
            for name, chosen in self._names(written, path):
                if self._new(name, "hall", plan.halls, path):
                    plan.halls[name] = path
                    self._hall(name, hall, path, chosen)
        declared = self._declared()
        for meter, _ in declared:
            plan.meters[meter.name] = meter
        for meter, chosen in declared:
            plan.meters[meter.name] = self._meter(meter, chosen)

    def _hall(self, name: str, hall: Hall, path: Path, chosen: tuple[str, ...]) -> None:
        plan = self._plan
        if hall.budget_kw is not None:
            plan.budgets_kw["hall", name] = hall.budget_kw
        self._racks(hall.racks, (*path, "racks"), chosen, name, None)
        for written, row in hall.rows.items():
            row_path = (*path, "rows", written)
            for row_name, of_row in self._names(written, row_path, chosen):
                if (name, row_name) in plan.rows:
                    self._findings.error(
                        row_path, f"row {row_name!r} of hall {name!r} is there already", "Each row once."
                    )
                    continue
                plan.rows[name, row_name] = row_path
                if row.budget_kw is not None:
                    plan.budgets_kw["row", f"{name}/{row_name}"] = row.budget_kw
                self._racks(row.racks, (*row_path, "racks"), of_row, name, row_name)
        for written, budget_kw in hall.rack_budgets_kw.items():
            at = (*path, "rack_budgets_kw", written)
            for rack, _ in self._names(written, at, chosen):
                if rack not in plan.racks or plan.racks[rack].hall != name:
                    here = (it for it, place in plan.racks.items() if place.hall == name)
                    self._findings.unknown(at, f"there is no rack {rack!r} in hall {name!r}", rack, here, "Racks here")
                elif ("rack", rack) in plan.budgets_kw:
                    self._findings.error(at, f"rack {rack!r} has a budget already", "Each rack once.")
                else:
                    plan.budgets_kw["rack", rack] = budget_kw

    def _racks(self, written: Iterable[str], path: Path, chosen: tuple[str, ...], hall: str, row: str | None) -> None:
        racks = self._plan.racks
        for place, text in enumerate(written):
            for name, _ in self._names(text, (*path, place), chosen):
                if name in racks:
                    there = racks[name]
                    where = f"hall {there.hall!r}" + (f", row {there.row!r}" if there.row else "")
                    self._findings.error(
                        (*path, place), f"rack {name!r} stands in {where} already", "A rack stands in one place."
                    )
                else:
                    racks[name] = Rack(hall, row, (*path, place))

    def _declared(self) -> list[tuple[PlannedMeter, tuple[str, ...]]]:
        """Each meter, without what it refers to, and what the ranges of its name gave."""
        found: dict[str, tuple[PlannedMeter, tuple[str, ...]]] = {}
        for written, meter in self._plan.site.meters.items():
            path = (*self._plan.path, "meters", written)
            for name, chosen in self._names(written, path):
                if self._new(name, "meter", found, path):
                    found[name] = (PlannedMeter(name=name, path=path, declared=meter), chosen)
        return list(found.values())

    def _meter(self, meter: PlannedMeter, chosen: tuple[str, ...]) -> PlannedMeter:
        plan, declared, path = self._plan, meter.declared, meter.path
        racks = self._referred(declared.racks, (*path, "racks"), chosen, plan.racks, "rack")
        terms = dict.fromkeys(self._referred(declared.plus, (*path, "plus"), chosen, plan.meters, "meter"), 1)
        for name in self._referred(declared.minus, (*path, "minus"), chosen, plan.meters, "meter"):
            if name in terms:
                self._findings.error((*path, "minus"), f"{name!r} is added as well", "Name it in plus or in minus.")
            terms.setdefault(name, -1)
        halls = {plan.racks[rack].hall for rack in racks}
        return PlannedMeter(
            name=meter.name,
            path=path,
            declared=declared,
            feeds=tuple(self._referred(declared.feeds, (*path, "feeds"), chosen, plan.meters, "meter")),
            racks=tuple(racks),
            terms=terms,
            hall=self._one(declared.hall, (*path, "hall"), chosen, plan.halls)
            if declared.hall is not None
            else halls.pop()
            if len(halls) == 1
            else None,
            node=self._one(declared.node, (*path, "node"), chosen, None),
        )

    def _referred(
        self, written: Iterable[str], path: Path, chosen: tuple[str, ...], known: Mapping[str, object], what: str
    ) -> list[str]:
        """Names that a meter refers to; those that are not known are told and left out."""
        found: dict[str, None] = {}
        for place, text in enumerate(written):
            at = (*path, place)
            for name, _ in self._names(text, at, chosen):
                if name not in known:
                    words = f"there is no {what} {name!r}"
                    self._findings.unknown(at, words, name, known, f"{what.capitalize()}s of the site")
                elif name in found:
                    self._findings.error(at, f"{what} {name!r} is named twice", "Name it once.")
                else:
                    found[name] = None
        return list(found)

    def _one(
        self, written: str | None, path: Path, chosen: tuple[str, ...], known: Mapping[str, Path] | None
    ) -> str | None:
        """The one name that a text makes; known: which there are."""
        if written is None:
            return None
        names = [name for name, _ in self._names(written, path, chosen)]
        if len(names) > 1:
            self._findings.error(
                path, f"{written!r} is {len(names)} names", "Name one: [*] is what the meter's name has."
            )
        elif names and known is not None and names[0] not in known:
            words = f"there is no hall {names[0]!r}"
            self._findings.unknown(path, words, names[0], known, "Halls of the site")
        else:
            return next(iter(names), None)
        return None

    def _names(self, written: str, path: Path, given: tuple[str, ...] = ()) -> list[tuple[str, tuple[str, ...]]]:
        try:
            names = Pattern(written).names(given)
        except WrongRange as error:
            names = []
            self._findings.error(path, f"{written!r}: {error}", "docs/topology.md shows how ranges are written.")
        self._names_made += 1 + len(names)
        if self._names_made > MOST_NAMES:
            raise _TooMany
        return names

    def _new(self, name: str, what: str, there: Iterable[str], path: Path) -> bool:
        if name in there:
            self._findings.error(path, f"{what} {name!r} is there already", "A name is of one thing alone.")
            return False
        return True


class _TooMany(Exception):
    """A site has more names than can be looked at."""


def in_force(name: str, site: Site) -> Plan:
    """A site of the store, which was checked when it was taken in."""
    return _Planner(name, site, Findings()).plan()
