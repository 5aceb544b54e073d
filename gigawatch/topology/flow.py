"""How energy goes through a site's meters: what each is made of, what is upstream of what, where that goes round."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from gigawatch.topology.document import Feed
from gigawatch.topology.plan import Plan

T = TypeVar("T")
Node = tuple[str, str]
"""A meter as ("", name). Of a virtual one, which is nowhere itself, ("in", name) leads to what it is made of, and
("out", name) from there on: so there are as many edges as names in the file."""
MOST_LOOPS = 10
MOST_PARTS = 200_000


class Flow:
    """The meters of a site as graphs.

    Attributes:
        loops_of_terms: virtual meters that are made of themselves, each loop with its first at the end again.
        loops: likewise, feeds that go round. Of both the first ten are told, and one edge of each is left out here.
        parts: of each meter, the measured meters that it is the sum of, each with how often it counts: below 0 where it
            is subtracted. None: together too many.
        order: nodes, those upstream first.
        upstream: of each node, the nodes right above.
        feeds: of redundant feeds, which a meter is of: its own, else that of what feeds it where all have the same.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        terms: dict[str, list[str]] = {name: list(meter.terms) for name, meter in plan.meters.items()}
        by_terms, self.loops_of_terms = _ordered(terms)
        self.parts = self._parts(by_terms, terms)
        upstream: dict[Node, list[Node]] = defaultdict(list)
        for name, meter in plan.meters.items():
            upstream.setdefault(self.above(name), [])
            for fed in meter.feeds:
                upstream[self.below(fed)].append(self.above(name))
            if meter.virtual and self.parts is not None:
                for part, times in self.parts[name].items():
                    if times > 0:
                        upstream["", part].append(("in", name))
                        upstream["out", name].append(("", part))
        self.upstream = {node: list(dict.fromkeys(above)) for node, above in upstream.items()}
        self.order, loops = _ordered(self.upstream)
        # Told from what feeds to what is fed, and without the places before and after a virtual meter.
        self.loops = [_names(it) for it in loops]
        self.feeds = self._handed_down()

    def above(self, name: str) -> Node:
        """What leads on from a meter."""
        return ("out" if self._plan.meters[name].virtual else "", name)

    def below(self, name: str) -> Node:
        """What leads to a meter."""
        return ("in" if self._plan.meters[name].virtual else "", name)

    def _parts(self, order: Iterable[str], terms: Mapping[str, list[str]]) -> dict[str, dict[str, int]] | None:
        parts: dict[str, dict[str, int]] = {}
        count = 0
        for name in order:
            meter = self._plan.meters[name]
            if not meter.virtual:
                parts[name] = {name: 1}
                continue
            found: dict[str, int] = defaultdict(int)
            for term in terms[name]:
                for part, times in parts[term].items():
                    found[part] += meter.terms[term] * times
            parts[name] = {part: times for part, times in found.items() if times}
            count += len(found)
            if count > MOST_PARTS:
                return None
        return parts

    def _handed_down(self) -> dict[str, Feed | None]:
        found: dict[Node, Feed | None] = {}
        for node in self.order:
            above = {found.get(it) for it in self.upstream.get(node, [])}
            own = self._plan.meters[node[1]].declared.feed
            found[node] = own or (above.pop() if len(above) == 1 else None)
        return {name: found.get(self.above(name)) for name in self._plan.meters}


def _names(loop: Iterable[Node]) -> list[str]:
    names = [name for _, name in loop]
    return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1] or len(names) == 2]


def _ordered(before: dict[T, list[T]]) -> tuple[list[T], list[list[T]]]:
    """An order in which what is before comes first, and the loops in its way; `before` loses an edge of each."""
    loops: list[list[T]] = []
    while True:
        try:
            return list(TopologicalSorter(before).static_order()), loops
        except CycleError as error:
            loop: list[T] = error.args[1]
            loops.append(loop)
            if len(loops) < MOST_LOOPS:
                before[loop[1]].remove(loop[0])
            else:
                # Nothing of it comes into force: what else is checked may as well know no edges.
                before.update({node: [] for node in before})
