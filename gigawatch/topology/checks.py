"""What can be wrong with a topology beyond its form: loops, energy counted twice, units, limits, no possible PUE."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import combinations
from math import sqrt

from msgspec import Struct

from gigawatch.findings import Finding, Findings, Path, some
from gigawatch.topology.document import Meter, Topology
from gigawatch.topology.flow import MOST_PARTS, Flow, Node
from gigawatch.topology.plan import Plan, PlannedMeter, plans

SOURCES = frozenset({"utility", "generation", "fuel"})
FAMILIES = (
    SOURCES, frozenset({"ups_in"}), frozenset({"ups_out"}), frozenset({"pdu"}), frozenset({"it"}),
    frozenset({"cooling", "pump"}), frozenset({"lighting"}), frozenset({"water"}), frozenset({"heat_reuse"}),
    frozenset({"heat_removed"}),
)  # fmt: skip
"""Roles whose energies, or volumes, are added up: nothing may be in such a sum twice."""
CATEGORIES = {1: "ups_out", 2: "pdu", 3: "it"}
"""Where PUE of each category meters the IT equipment: ISO/IEC 30134-2."""
NOT_ELECTRICITY = {
    "fuel": "fuel", "water": "water", "heat_reuse": "heat", "heat_removed": "heat", "temperature": "temperature",
    "other": None,
}  # fmt: skip
"""What is measured, where it is not electricity; None: whatever it is."""
AT_RACKS = frozenset({"pdu", "it", "lighting"})
MOST_RACK_VOLTS = 1_000
"""Between two conductors of what feeds racks: 480 V, or 800 V direct current."""
MOST_VOLTS = 420_000
"""Of the grid."""
LEAST_VOLTS = 24
MOST_OF_A_KIND = 8
"""Meters of a role at one place, such as above a rack, that are compared with one another."""
ALWAYS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class SiteChecked(Struct, frozen=True, kw_only=True):
    """What a checked site has."""

    site: str
    halls: int
    rows: int
    racks: int
    meters: int
    virtual_meters: int
    pue_categories: tuple[int, ...]
    """Of the PUE that its meters allow; none: it can have no measured PUE."""


class Checked(Struct, frozen=True, kw_only=True):
    """What was found in a topology."""

    sites: list[SiteChecked]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """What keeps it from coming into force."""
        return [it for it in self.findings if it.severity == "error"]


def check(topology: Topology, findings: Findings | None = None, lines: Mapping[Path, int] | None = None) -> Checked:
    """Everything that is wrong with a topology.

    Args:
        topology: what was declared.
        findings: what is known to be wrong already.
        lines: where in a file each path is.
    """
    findings = Findings() if findings is None else findings
    if not topology.sites:
        findings.error(("sites",), "there is no site", "Write a site's name below `sites:`.")
    sites = [_Site(plan, findings).check() for plan in plans(topology, findings)]
    return Checked(sites=sites, findings=findings.listed(lines or {}))


class _Site:
    """Checks one site."""

    def __init__(self, plan: Plan, findings: Findings) -> None:
        self._plan = plan
        self._findings = findings
        self._flow = Flow(plan)
        self._twice: set[frozenset[str]] = set()
        """Pairs of meters that were told already."""

    def check(self) -> SiteChecked:
        plan = self._plan
        self._loops()
        for meter in plan.meters.values():
            self._fields(meter)
            self._quantities(meter)
        self._nodes()
        above_racks = {}
        for family in FAMILIES:
            counted = self._counted(family)
            self._in_two_sums(counted)
            self._downstream(counted)
            if family & {"ups_out", "pdu", "it"}:
                above_racks[next(iter(family))] = self._above_racks(counted)
        for role in ("pdu", "it"):
            self._rack_twice(role, above_racks[role])
        self._feeds_crossed()
        self._budgets()
        self._floors()
        categories = self._pue(above_racks)
        return SiteChecked(
            site=plan.name,
            halls=len(plan.halls),
            rows=len(plan.rows),
            racks=len(plan.racks),
            meters=len(plan.meters),
            virtual_meters=sum(it.virtual for it in plan.meters.values()),
            pue_categories=categories,
        )

    def _loops(self) -> None:
        meters = self._plan.meters
        for loop in self._flow.loops_of_terms:
            self._findings.error(
                meters[loop[0]].path, f"virtual meters are made of themselves: {' → '.join(reversed(loop))}",
                "A sum cannot be part of itself: correct plus or minus.",
            )  # fmt: skip
        for loop in self._flow.loops:
            self._findings.error(
                (*meters[loop[0]].path, "feeds"), f"feeds go round: {' → '.join(loop)}",
                "Name with feeds only what is further from the source.",
            )  # fmt: skip
        if self._flow.parts is None:
            self._findings.error(
                self._plan.path, f"virtual meters are made of more than {MOST_PARTS} meters",
                "Build large sums from the meters themselves.",
            )  # fmt: skip

    def _fields(self, meter: PlannedMeter) -> None:
        """What a meter says of itself."""
        it, name = meter.declared, meter.name
        quantity = _quantity(it)
        if it.since is not None and it.until is not None and it.since >= it.until:
            self._findings.error(
                (*meter.path, "until"),
                f"{name}: since = {it.since.isoformat()} is not before until = {it.until.isoformat()}",
                "Swap them.",
            )
        if it.minus and not it.plus:
            self._findings.error(
                (*meter.path, "minus"), f"{name}: minus comes without plus", "Say with plus what it is subtracted from."
            )
        misplaced = (
            ("fuel_kwh_per_l", it.fuel_kwh_per_l is not None, it.role == "fuel", "fuel"),
            ("potable", it.potable is not None, it.role == "water", "water"),
            ("fresh", it.fresh is not None, it.role == "water", "water"),
            ("backup", it.backup, it.role in {"generation", "fuel"}, "generation or fuel"),
            ("feed", it.feed is not None, quantity in {"electricity", None}, "electricity"),
            ("breaker_a", it.breaker_a is not None, quantity in {"electricity", None}, "electricity"),
            ("contract_kw", it.contract_kw is not None, quantity in {"electricity", None}, "electricity"),
            ("rated_kw", it.rated_kw is not None, quantity in {"electricity", "heat", None}, "electricity or heat"),
        )
        for key, given, fits, of in misplaced:
            if given and not fits:
                self._findings.error(
                    (*meter.path, key), f"{name}: {key} does not go with role {it.role}", f"It is for meters of {of}."
                )
        self._limits(meter)

    def _limits(self, meter: PlannedMeter) -> None:
        it, name = meter.declared, meter.name
        if it.rated_kw is not None and it.contract_kw is not None and it.contract_kw > it.rated_kw:
            self._findings.error(
                (*meter.path, "contract_kw"),
                f"{name}: contract_kw = {it.contract_kw:g} is more than rated_kw = {it.rated_kw:g}",
                "More than can flow cannot be had: correct one of them.",
            )
        if it.breaker_a is None or it.rated_kw is None:
            return
        # Of one phase, of three, or of direct current: that much lies between what can be meant.
        volts = it.rated_kw * 1_000 / it.breaker_a
        most = (MOST_RACK_VOLTS if it.role in AT_RACKS else MOST_VOLTS) * sqrt(3)
        if not LEAST_VOLTS <= volts <= most:
            self._findings.error(
                (*meter.path, "breaker_a"),
                f"{name}: rated_kw = {it.rated_kw:g} at breaker_a = {it.breaker_a:g} is {volts:.4g} V",
                f"Of role {it.role}, {LEAST_VOLTS} to {most:.0f} V can be: is one of them in another unit?",
            )

    def _quantities(self, meter: PlannedMeter) -> None:
        """Electricity goes to electricity, and water to water."""
        of, path = _quantity(meter.declared), meter.path
        if of not in {"electricity", None}:
            for key, names in (("racks", meter.racks), ("node", (meter.node,) if meter.node else ())):
                if names:
                    self._findings.error(
                        (*path, key), f"{meter.name} (role {meter.declared.role}) measures {of} and has {key}",
                        "Racks and nodes are fed by meters of electricity.",
                    )  # fmt: skip
        for fed in meter.feeds:
            to = _quantity(self._plan.meters[fed].declared)
            if None not in {of, to} and of != to and (of, to) != ("fuel", "electricity"):
                self._findings.error(
                    (*path, "feeds"), f"{meter.name} measures {of} and feeds {fed}, which measures {to}",
                    "What it feeds must be of the same kind; only a generator makes electricity of fuel.",
                )  # fmt: skip
        if not meter.virtual:
            return
        kinds = {_quantity(self._plan.meters[it].declared) for it in meter.terms} | {of}
        if len(kinds - {None}) > 1 or "temperature" in kinds:
            units = " and ".join(sorted(it for it in kinds if it))
            self._findings.error(
                (*path, "plus"), f"{meter.name} (role {meter.declared.role}) is a sum of {units}",
                "A sum has terms of one kind, of its own role's kind, and no temperatures.",
            )  # fmt: skip

    def _nodes(self) -> None:
        by_node: dict[str, list[PlannedMeter]] = defaultdict(list)
        for meter in self._plan.meters.values():
            if meter.node is not None:
                by_node[meter.node].append(meter)
        for node, meters in by_node.items():
            for a, b in self._not_apart(meters):
                self._findings.error(
                    (*b.path, "node"), f"node {node!r} is metered twice, by {a.name} and {b.name}",
                    "Name it at one of them, or label them feed A and feed B if each is of one of its two feeds.",
                )  # fmt: skip

    def _not_apart(self, meters: list[PlannedMeter]) -> Iterator[tuple[PlannedMeter, PlannedMeter]]:
        """Pairs at the same time that are not feed A and feed B of one thing."""
        feeds = self._flow.feeds
        for a, b in combinations(meters[:MOST_OF_A_KIND], 2):
            if _at_once(a.declared, b.declared) and {feeds[a.name], feeds[b.name]} != {"A", "B"}:
                yield a, b

    def _counted(self, family: frozenset[str]) -> dict[str, dict[str, int]]:
        """By measured meter, in which sums of the family it is, and how often."""
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for name, parts in (self._flow.parts or {}).items():
            if self._plan.meters[name].declared.role in family:
                for part, times in parts.items():
                    found[part][name] = times
        return found

    def _in_two_sums(self, counted: dict[str, dict[str, int]]) -> None:
        """A meter that counts by itself and in a virtual one of the same role, or in two."""
        meters = self._plan.meters
        for part, sums in counted.items():
            moments = sorted({_span(meters[it].declared)[0] for it in sums})[:MOST_OF_A_KIND]
            for moment in moments:
                now = {it: times for it, times in sums.items() if _holds(meters[it].declared, moment)}
                if sum(now.values()) <= 1:
                    continue
                adding = [it for it, times in now.items() if times > 0]
                pair = frozenset(adding[:2])
                if pair not in self._twice:
                    self._twice.add(pair)
                    last = meters[adding[-1]]
                    by = some(f"{it} (role {meters[it].declared.role})" for it in adding)
                    twice = f"{part} counts twice" if len(adding) > 1 else f"{part} counts {now[adding[0]]} times"
                    self._findings.error(
                        last.path, f"{twice}: in {by}",
                        "Give role other to what is in a sum already, or take it out of the sum.",
                    )  # fmt: skip
                break

    def _downstream(self, counted: dict[str, dict[str, int]]) -> None:
        """Meters of the same role one behind the other: what flows through both would count twice."""
        if len(counted) < 2:
            return
        flow = self._flow
        # How often what flows through a node has been counted on the way there, and where last.
        times: dict[Node, int] = {}
        last: dict[Node, str | None] = {}
        for node in flow.order:
            above = max(flow.upstream.get(node, []), key=lambda it: times[it], default=None)
            before = 0 if above is None else max(0, times[above])
            sums = counted.get(node[1], {}) if node[0] == "" else {}
            # One that counts twice by itself has been told.
            own = min(1, sum(sums.values()))
            times[node] = before + own
            last[node] = node[1] if own > 0 else None if above is None else last[above]
            upper = None if above is None else last[above]
            if own > 0 and before > 0 and upper is not None:
                times[node] = 1
                self._behind(upper, node[1], counted)

    def _behind(self, upper: str, lower: str, counted: dict[str, dict[str, int]]) -> None:
        meters = self._plan.meters
        for a in list(counted[upper])[:MOST_OF_A_KIND]:
            for b in list(counted[lower])[:MOST_OF_A_KIND]:
                pair = frozenset((a, b))
                if a == b or pair in self._twice or not _at_once(meters[a].declared, meters[b].declared):
                    continue
                if counted[upper][a] > 0 and counted[lower][b] > 0:
                    self._twice.add(pair)
                    self._findings.error(
                        meters[b].path,
                        f"{b} (role {meters[b].declared.role}) is behind {a} (role {meters[a].declared.role}):"
                        " what flows through both would count twice",
                        "Give role other to one of them, or correct feeds.",
                    )

    def _above_racks(self, counted: dict[str, dict[str, int]]) -> dict[str, tuple[str, ...]]:
        """By rack, meters that count what it draws, the nearest first."""
        flow, found = self._flow, dict[Node, tuple[str, ...]]()
        for node in flow.order:
            own = [it for it, times in counted.get(node[1], {}).items() if times > 0] if node[0] == "" else []
            above = (it for up in flow.upstream.get(node, []) for it in found[up])
            found[node] = tuple(dict.fromkeys([*own, *above]))[:MOST_OF_A_KIND]
        by_rack: dict[str, tuple[str, ...]] = dict.fromkeys(self._plan.racks, ())
        for name, meter in self._plan.meters.items():
            # What a virtual meter feeds, it counts, and so does what is above its parts.
            for rack in meter.racks:
                by_rack[rack] = tuple(dict.fromkeys([*by_rack[rack], *found[flow.above(name)]]))[:MOST_OF_A_KIND]
        return by_rack

    def _rack_twice(self, role: str, above: dict[str, tuple[str, ...]]) -> None:
        meters = self._plan.meters
        for rack, names in above.items():
            for a, b in self._not_apart([meters[it] for it in names]):
                if frozenset((a.name, b.name)) not in self._twice:
                    self._findings.error(
                        (*b.path, "racks") if rack in b.racks else b.path,
                        f"rack {rack!r} is under two meters of role {role} that are no A/B pair: {a.name} and {b.name}",
                        "Label one feed A and the other feed B, or sum them in a virtual meter that feeds the rack.",
                    )

    def _feeds_crossed(self) -> None:
        for name, meter in self._plan.meters.items():
            for fed in meter.feeds:
                own = self._plan.meters[fed].declared.feed
                if own is not None and self._flow.feeds[name] not in {own, None}:
                    self._findings.warning(
                        (*meter.path, "feeds"),
                        f"{name} is of feed {self._flow.feeds[name]} and feeds {fed} of feed {own}",
                        "Redundant feeds meet at no meter: is a label or a name wrong?",
                    )

    def _budgets(self) -> None:
        """No part may draw more than the whole."""
        plan, budgets = self._plan, self._plan.budgets_kw
        whole: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for hall in plan.halls:
            whole["hall", hall] = [("site", plan.name)]
        for hall, row in plan.rows:
            whole["row", f"{hall}/{row}"] = [("hall", hall), ("site", plan.name)]
        for name, rack in plan.racks.items():
            of_row = [("row", f"{rack.hall}/{rack.row}")] if rack.row is not None else []
            whole["rack", name] = [*of_row, ("hall", rack.hall), ("site", plan.name)]
        for part, budget in budgets.items():
            above = next((it for it in whole.get(part, []) if it in budgets), None)
            if above is not None and budget > budgets[above]:
                self._findings.error(
                    self._path_of(*part),
                    f"budget of {part[0]} {part[1]!r} is {budget:g} kW, more than that of {above[0]} {above[1]!r},"
                    f" {budgets[above]:g} kW",
                    "A part may not draw more than the whole: correct one of them.",
                )

    def _path_of(self, scope: str, name: str) -> Path:
        if scope == "rack":
            return (*self._plan.halls[self._plan.racks[name].hall], "rack_budgets_kw")
        if scope == "row":
            hall, row = next(it for it in self._plan.rows if f"{it[0]}/{it[1]}" == name)
            return (*self._plan.rows[hall, row], "budget_kw")
        return (*self._plan.halls[name], "budget_kw")

    def _floors(self) -> None:
        facts = self._plan.site.eu_report
        if facts is not None and facts.scr_m2 is not None and facts.sdc_m2 is not None and facts.scr_m2 > facts.sdc_m2:
            self._findings.error(
                (*self._plan.path, "eu_report", "scr_m2"),
                f"scr_m2 = {facts.scr_m2:g} is more than sdc_m2 = {facts.sdc_m2:g}",
                "Computer rooms are part of the whole floor area.",
            )

    def _pue(self, above_racks: dict[str, dict[str, tuple[str, ...]]]) -> tuple[int, ...]:
        """Categories of PUE that the meters allow, and warnings where there is none, or a rack would be left out."""
        plan = self._plan
        roles = {it.declared.role for it in plan.meters.values()}
        possible = tuple(number for number, role in CATEGORIES.items() if role in roles)
        at = (*plan.path, "meters") if plan.site.meters else plan.path
        configure = "or configure one with `gigawatch pue`"
        if not roles & SOURCES:
            would = f"; with one, of category {_listed(possible)}" if possible else ""
            self._findings.warning(
                at,
                f"site {plan.name!r} can have no measured PUE: no meter has role utility, generation or fuel{would}",
                f"Give role utility to the meter at the grid, {configure}.",
            )  # fmt: skip
            return ()
        if not possible:
            self._findings.warning(
                at, f"site {plan.name!r} can have no measured PUE: no meter has role ups_out (category 1),"
                " pdu (category 2) or it (category 3)",
                f"Give one of these to the meters of the IT equipment, {configure}.",
            )  # fmt: skip
        for number in possible:
            by_rack = above_racks[CATEGORIES[number]]
            without = [rack for rack, above in by_rack.items() if not above]
            if without and len(without) < len(by_rack):
                self._findings.warning(
                    at, f"PUE of category {number} leaves out racks that no meter of role {CATEGORIES[number]} feeds:"
                    f" {some(without)}",
                    "Name these racks at the meters that feed them.",
                )  # fmt: skip
        return possible


def _quantity(meter: Meter) -> str | None:
    return NOT_ELECTRICITY.get(meter.role, "electricity")


def _span(meter: Meter) -> tuple[datetime, datetime]:
    return (meter.since or ALWAYS[0], meter.until or ALWAYS[1])


def _holds(meter: Meter, moment: datetime) -> bool:
    since, until = _span(meter)
    return since <= moment < until


def _at_once(a: Meter, b: Meter) -> bool:
    (a_since, a_until), (b_since, b_until) = _span(a), _span(b)
    return max(a_since, b_since) < min(a_until, b_until)


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, numbers))
