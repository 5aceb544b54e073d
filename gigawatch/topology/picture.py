"""The single-line diagram of a site, from its sources to its racks, as SVG: a pure function of its topology.

Columns are layers: sources, distribution, UPS, PDU, racks. Meters that one entry of the file declares share a box, and
racks that of their row. Where that is too many to read, meters share one by row, then by hall, in the end racks too.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Literal

from msgspec import Struct, field

from gigawatch.findings import Path, some
from gigawatch.topology.document import Feed
from gigawatch.topology.flow import Flow
from gigawatch.topology.plan import Plan, PlannedMeter

WORDS = {
    "utility": "grid", "generation": "generation", "fuel": "fuel", "ups_in": "UPS input", "ups_out": "UPS output",
    "pdu": "PDU", "it": "IT", "cooling": "cooling", "pump": "pump", "lighting": "lighting", "water": "water",
    "heat_reuse": "heat reuse", "heat_removed": "heat removed", "temperature": "temperature", "other": "other",
}  # fmt: skip
LAYERS = {"utility": 0, "generation": 0, "fuel": 0, "ups_in": 2, "ups_out": 3, "pdu": 4, "it": 5}
"""Least column of a role: what is of one kind stands in one line, also where one way is shorter."""
OTHERS_LAYER = 1
FEW_RACKS = 24
"""As many have a box each."""
FEW_ALIKE = 8
"""Entries of the file with a box each, though they are alike."""
MOST_BOXES = 150
MANY_IN_A_COLUMN = 24
"""Beyond this boxes have one line of text."""
WIDTH, TALL, LOW = 216, 44, 26
GAP, BETWEEN, MARGIN, HEAD = 10, 84, 24, 92
BETWEEN_COLUMNS = WIDTH + BETWEEN
CHARACTERS = 30
"""That fit into a box."""
Scheme = Literal["light", "dark"]
COLOURS: Mapping[Scheme, str] = {
    "light": "--ink: #1c2430; --muted: #566172; --ground: #f6f7f9; --box: #ffffff; --line: #8a94a3; --a: #1a63c0;"
    " --b: #ad4a06;",
    "dark": "--ink: #e6eaf0; --muted: #a3aebd; --ground: #12161c; --box: #1d232c; --line: #6d7888; --a: #76b5ff;"
    " --b: #ffb27a;",
}
STYLE = """
.gw-topology { font: 12px system-ui, sans-serif; }
.gw-topology text { fill: var(--ink); }
.gw-topology .muted { fill: var(--muted); font-size: 11px; }
.gw-topology .head { font-size: 18px; font-weight: 600; }
.gw-topology .ground { fill: var(--ground); }
.gw-topology rect.box { fill: var(--box); stroke: var(--line); stroke-width: 1.2; }
.gw-topology .virtual rect.box { stroke-dasharray: 5 3; }
.gw-topology path { fill: none; stroke: var(--line); stroke-width: 1.4; }
.gw-topology .a rect.box, .gw-topology path.a { stroke: var(--a); }
.gw-topology .b rect.box, .gw-topology path.b { stroke: var(--b); }
.gw-topology text.a { fill: var(--a); font-weight: 700; }
.gw-topology text.b { fill: var(--b); font-weight: 700; }
"""

Key = tuple[object, ...]


class _Box(Struct):
    title: str
    detail: str
    hint: str
    column: int
    feed: Feed | None = None
    virtual: bool = False
    downstream: dict[Key, bool] = field(default_factory=dict)
    """What it feeds; True: what it is a part of."""
    heading: str = ""
    """Stands above it."""
    x: float = 0
    y: float = 0
    height: float = TALL


def drawn(plan: Plan, scheme: Scheme | None = None) -> str:
    """A site's picture. Names are escaped; it loads nothing and runs nothing.

    Args:
        plan: of the site.
        scheme: its colours; None: as the reader's system has it.
    """
    return _Picture(plan).text(_colours(scheme))


def _colours(scheme: Scheme | None) -> str:
    if scheme is not None:
        return f".gw-topology {{ {COLOURS[scheme]} }}"
    return (
        f".gw-topology {{ {COLOURS['light']} }}\n"
        f"@media (prefers-color-scheme: dark) {{ .gw-topology {{ {COLOURS['dark']} }} }}"
    )


class _Picture:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._flow = Flow(plan)
        self._columns = self._layers()
        self._boxes: dict[Key, _Box] = {}
        self._aside: dict[Key, _Box] = {}
        # As coarse as it must be: meters by entries of the file, by rows, by halls; then racks by halls, too.
        for coarse in range(4):
            self._group(coarse)
            if len(self._boxes) + len(self._aside) <= MOST_BOXES:
                break
        self._place()

    def _layers(self) -> dict[str, int]:
        """Column of each meter: that of its role, or further than all that feeds it."""
        columns: dict[tuple[str, str], int] = {}
        for node in self._flow.order:
            role = self._plan.meters[node[1]].declared.role
            above = [columns[it] + (it[0] != "in") for it in self._flow.upstream.get(node, [])]
            # What leads to the parts of a virtual meter stands nowhere itself.
            least = 0 if node[0] == "in" else LAYERS.get(role, OTHERS_LAYER)
            columns[node] = max([least, *above])
        return {name: columns.get(self._flow.above(name), 0) for name in self._plan.meters}

    def _group(self, coarse: int) -> None:
        plan = self._plan
        linked = {name for meter in plan.meters.values() for name in meter.feeds}
        linked |= {meter.name for meter in plan.meters.values() if meter.feeds or meter.racks}
        linked |= {part for name in list(linked) for part in self._added(name)}
        groups: dict[Key, list[PlannedMeter]] = defaultdict(list)
        entries: dict[Key, set[Path]] = defaultdict(set)
        for meter in plan.meters.values():
            entries[self._alike(meter, coarse)].add(meter.path)
        for meter in plan.meters.values():
            key = self._alike(meter, coarse)
            own = coarse == 0 or len(entries[key]) <= FEW_ALIKE
            groups[(*key, meter.path) if own else key].append(meter)
        keys = {meter.name: key for key, meters in groups.items() for meter in meters}
        self._boxes, self._aside = {}, {}
        for key, meters in groups.items():
            inside = any(it.name in linked for it in meters)
            (self._boxes if inside else self._aside)[key] = self._meters(meters)
        racks = self._racks(coarse)
        last = max((it.column for it in self._boxes.values()), default=0) + 1
        self._boxes.update({key: self._rack_box(key, names, last) for key, names in racks.items()})
        of_rack = {rack: key for key, names in racks.items() for rack in names}
        for meter in plan.meters.values():
            at = keys[meter.name]
            below = [*(keys[it] for it in meter.feeds), *(of_rack[it] for it in meter.racks)]
            if below:
                self._boxes[at].downstream.update({it: False for it in below if it != at})
            for part in self._added(meter.name) if meter.name in linked else ():
                if keys[part] != at:
                    self._boxes[keys[part]].downstream.setdefault(at, True)

    def _added(self, name: str) -> list[str]:
        """Meters that a virtual one adds up."""
        return [it for it, sign in self._plan.meters[name].terms.items() if sign > 0]

    def _alike(self, meter: PlannedMeter, coarse: int) -> Key:
        """What meters must have in common to share a box."""
        feed, column = self._flow.feeds[meter.name], self._columns[meter.name]
        alike: Key = ("meters", meter.declared.role, feed, meter.virtual, column, meter.hall)
        if coarse != 1:
            return alike
        places = {(self._plan.racks[it].hall, self._plan.racks[it].row or "") for it in meter.racks}
        return (*alike, tuple(sorted(places)))

    def _racks(self, coarse: int) -> dict[Key, list[str]]:
        racks: dict[Key, list[str]] = defaultdict(list)
        for name, rack in self._plan.racks.items():
            if coarse == 0 and len(self._plan.racks) <= FEW_RACKS:
                racks["racks", rack.hall, rack.row, name].append(name)
            else:
                racks["racks", rack.hall, rack.row if coarse < 3 else None, ""].append(name)
        return dict(racks)

    def _meters(self, meters: list[PlannedMeter]) -> _Box:
        first = meters[0]
        it, written = first.declared, str(first.path[-1])
        many = f"×{len(meters)}" if len(meters) > 1 else ""
        if len(meters) == 1:
            title = first.name
        elif all(other.path == first.path for other in meters):
            title = written
        else:
            title = f"{first.name} … {meters[-1].name}"
        formula = " − ".join([" + ".join(it.plus), *it.minus])
        limits = (
            f"{it.rated_kw:g} kW" if it.rated_kw is not None else "",
            f"{it.breaker_a:g} A" if it.breaker_a is not None else "",
            f"contract {it.contract_kw:g} kW" if it.contract_kw is not None else "",
        )
        detail = [many, WORDS[it.role], f"= {formula}" if first.virtual else "", *limits]
        hint = [
            some((meter.name for meter in meters), 12),
            f"since {_day(it.since)}" if it.since else "",
            f"until {_day(it.until)}" if it.until else "",
        ]
        return _Box(
            title=title,
            detail=" · ".join(filter(None, detail)),
            hint=", ".join(filter(None, hint)),
            column=self._columns[first.name],
            feed=self._flow.feeds[first.name],
            virtual=first.virtual,
        )

    def _rack_box(self, key: Key, names: list[str], column: int) -> _Box:
        _, hall, row, alone = key
        scope = ("rack", names[0]) if alone else ("row", f"{hall}/{row}") if row else ("hall", f"{hall}")
        budget = self._plan.budgets_kw.get(scope)
        count = f"{len(names)} racks" if len(names) > 1 else "1 rack"
        detail = [] if alone else [count]
        detail += [f"≤ {budget:g} kW"] if budget is not None and (alone or row) else []
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        return _Box(
            title=f"{alone}" if alone else f"Row {row}" if row else shown,
            detail=" · ".join(detail),
            hint=some(names, 12),
            column=column,
            heading=f"{hall}",
        )

    def _place(self) -> None:
        used = sorted({it.column for it in self._boxes.values()})
        columns: list[list[_Box]] = [[] for _ in used]
        for box in self._boxes.values():
            box.column = used.index(box.column)
            columns[box.column].append(box)
        for boxes in columns:
            for box in boxes:
                box.height = LOW if len(boxes) > MANY_IN_A_COLUMN or not box.detail else TALL
        seen = ""
        for box in columns[-1] if columns else []:
            # Racks stand under the name of their hall.
            if box.heading == seen:
                box.heading = ""
            elif box.heading:
                seen = box.heading
                budget = self._plan.budgets_kw.get(("hall", seen))
                box.heading = f"Hall {seen}" + (f" · ≤ {budget:g} kW" if budget is not None else "")
        for boxes in reversed(columns):
            self._stack(boxes)
        top = min((box.y - _above(box) for box in self._boxes.values()), default=0)
        for box in self._boxes.values():
            box.x = MARGIN + box.column * BETWEEN_COLUMNS
            box.y += HEAD - top
        self._columns_used = columns
        self._bottom = max((box.y + box.height for box in self._boxes.values()), default=HEAD)
        self._across = max(len(columns), 3)
        for place, box in enumerate(self._aside.values()):
            line, at = divmod(place, self._across)
            box.x, box.y = MARGIN + at * BETWEEN_COLUMNS, self._bottom + 64 + line * (TALL + GAP)
        if self._aside:
            self._bottom = max(box.y + box.height for box in self._aside.values())

    def _stack(self, boxes: list[_Box]) -> None:
        """Put a column's boxes beside what they feed, as near as those above and below let them."""
        wanted: list[tuple[float, _Box]] = []
        for place, box in enumerate(boxes):
            fed = [self._boxes[it] for it in box.downstream if self._boxes[it].column > box.column]
            centres = [it.y + it.height / 2 for it in fed]
            below = place * 1e-6 + (sum(centres) / len(centres) if centres else 1e6)
            wanted.append((below, box))
        wanted.sort(key=lambda it: it[0])
        floor = max((it.y + it.height for it in self._boxes.values() if it.y), default=0)
        # Pools of boxes that touch, each where the mean of its boxes' wishes is.
        pools: list[tuple[float, int, list[_Box]]] = []
        offset = 0.0
        for below, box in wanted:
            centre = below if below < 1e6 else floor
            pool = (centre - box.height / 2 - offset, 1, [box])
            offset += box.height + GAP + _above(box)
            while pools and pools[-1][0] > pool[0]:
                mean, count, those = pools.pop()
                total = count + pool[1]
                pool = ((mean * count + pool[0] * pool[1]) / total, total, those + pool[2])
            pools.append(pool)
        offset = 0.0
        for start, _, those in pools:
            for box in those:
                offset += _above(box)
                box.y = start + offset
                offset += box.height + GAP

    def text(self, colours: str) -> str:
        """The SVG."""
        plan = self._plan
        width = 2 * MARGIN + self._across * BETWEEN_COLUMNS - BETWEEN
        height = self._bottom + 64
        name = f"gw-{hashlib.sha256(plan.name.encode()).hexdigest()[:8]}"
        meters = sum(1 for it in plan.meters.values() if not it.virtual)
        virtual = len(plan.meters) - meters
        counted = f"{len(plan.racks)} racks, {meters} meters, {virtual} virtual"
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="gw-topology" role="img" viewBox="0 0 {width} {height:.0f}"'
            f' width="{width}" height="{height:.0f}" aria-labelledby="{name}-title {name}-desc">'
        )
        parts = [
            opening,
            f'<title id="{name}-title">{_safe(plan.name)}: from its sources to its racks</title>',
            f'<desc id="{name}-desc">{_safe(self._described(counted))}</desc>',
            f"<style>{colours}{STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height:.0f}"/>',
            f'<text class="head" x="{MARGIN}" y="34">{_safe(plan.name)}</text>',
            f'<text class="muted" x="{MARGIN}" y="52">{counted}</text>',
        ]
        parts += [self._caption(column, boxes) for column, boxes in enumerate(self._columns_used)]
        parts += self._edges()
        parts += [_drawn(box) for box in [*self._boxes.values(), *self._aside.values()]]
        if self._aside:
            top = min(box.y for box in self._aside.values()) - 14
            parts.append(f'<text class="muted" x="{MARGIN}" y="{top:.0f}">Not in the way of the power</text>')
        return "\n".join([*parts, self._legend(height - 26), "</svg>\n"])

    def _described(self, counted: str) -> str:
        """The same in words, for who does not see it."""
        ways = [
            f"{box.title} feeds {some(fed, 4)}"
            for box in self._boxes.values()
            if (fed := [self._boxes[key].title for key, part in box.downstream.items() if not part])
        ]
        return f"{counted}. {'; '.join(ways[:60])}."

    def _caption(self, column: int, boxes: Iterable[_Box]) -> str:
        racks = column == len(self._columns_used) - 1 and any(it.heading for it in boxes)
        words = dict.fromkeys(part for box in boxes for part in box.detail.split(" · ") if part in WORDS.values())
        if len(words) > 1:
            words.pop(WORDS["other"], None)
        text = "racks" if racks else ", ".join(words)
        x = MARGIN + column * BETWEEN_COLUMNS
        return f'<text class="muted" x="{x}" y="{HEAD - 20}">{_safe(_short(text, CHARACTERS))}</text>'

    def _edges(self) -> list[str]:
        into: Mapping[int, list[Feed | None]] = defaultdict(list)
        parts = []
        for box in self._boxes.values():
            for key, part in box.downstream.items():
                fed = self._boxes[key]
                feed = fed.feed or box.feed
                # Feed A comes in above, feed B below.
                y = fed.y + fed.height * (0.3 if feed == "A" else 0.7 if feed == "B" else 0.5)
                x1, y1, x2 = box.x + WIDTH, box.y + box.height / 2, fed.x
                bend = max(30.0, (x2 - x1) / 2)
                way = f"M{x1:.0f} {y1:.1f}C{x1 + bend:.0f} {y1:.1f} {x2 - bend:.0f} {y:.1f} {x2:.0f} {y:.1f}"
                kind = f' class="{feed.lower()}"' if feed else ""
                dashes = ' stroke-dasharray="5 3"' if part else ""
                parts.append(f'<path{kind}{dashes} d="{way}"/>')
                if feed and not part and feed not in into[id(fed)]:
                    into[id(fed)].append(feed)
                    shift = -4 if feed == "A" else 11
                    parts.append(f'<text{kind} x="{x2 - 12:.0f}" y="{y + shift:.1f}" font-size="10">{feed}</text>')
        return parts

    def _legend(self, y: float) -> str:
        parts = []
        x = MARGIN
        for kind, words in (("a", "feed A"), ("b", "feed B"), ("", "no feed named")):
            parts.append(f'<path class="{kind}" d="M{x} {y - 4:.0f}h28"/>')
            parts.append(f'<text class="muted" x="{x + 34}" y="{y:.0f}">{words}</text>')
            x += 132
        parts.append(
            f'<g class="virtual"><rect class="box" x="{x}" y="{y - 12:.0f}" width="28" height="15" rx="3"/></g>'
            f'<text class="muted" x="{x + 34}" y="{y:.0f}">virtual: a sum of others</text>'
        )
        return f"<g>{''.join(parts)}</g>"


def _above(box: _Box) -> float:
    return 24 if box.heading else 0


def _drawn(box: _Box) -> str:
    kinds = " ".join(filter(None, ((box.feed or "").lower(), "virtual" if box.virtual else "")))
    low = box.height == LOW
    lines = [
        f'<g class="{kinds}"><title>{_safe(f"{box.hint} ({box.detail})")}</title>',
        f'<rect class="box" x="{box.x:.0f}" y="{box.y:.1f}" width="{WIDTH}" height="{box.height:.0f}" rx="5"/>',
    ]
    if box.heading:
        lines.append(f'<text class="muted" x="{box.x:.0f}" y="{box.y - 8:.1f}">{_safe(_short(box.heading, 40))}</text>')
    if low:
        text = f"{_short(box.title, 16)} · {box.detail}" if box.detail else box.title
        lines.append(f'<text x="{box.x + 10:.0f}" y="{box.y + 17:.1f}">{_safe(_short(text, CHARACTERS))}</text>')
    else:
        lines.append(f'<text x="{box.x + 10:.0f}" y="{box.y + 18:.1f}">{_safe(_short(box.title, CHARACTERS))}</text>')
        detail = _safe(_short(box.detail, CHARACTERS + 3))
        lines.append(f'<text class="muted" x="{box.x + 10:.0f}" y="{box.y + 34:.1f}">{detail}</text>')
    return "".join([*lines, "</g>"])


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _short(text: str, most: int) -> str:
    """Cut in the middle, since names differ at their ends; wide characters count twice."""
    if _wide(text) <= most:
        return text
    front, back = text, text
    while _wide(front) > most * 0.6:
        front = front[:-1]
    while _wide(back) > most * 0.4 - 1:
        back = back[1:]
    return f"{front}…{back}"


def _wide(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(it) in "WF" else 1 for it in text)


def _safe(text: str) -> str:
    """Escaped, and without what XML cannot hold."""
    return escape("".join(it if it.isprintable() else "\N{REPLACEMENT CHARACTER}" for it in text))
