"""What a page shows, as its URL says it: part of the fleet, period, grouping. Anything else in it is ignored, and said.

The URL is all the state there is: it can be shared, and the back button goes back.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Struct

from gigawatch.alerts.notification import Severity
from gigawatch.facility_readings import HealthState
from gigawatch.readings import NodeOrder, NodeState, Where, step_for
from gigawatch.token_readings import Boundary, Of

Range = Literal["15m", "1h", "6h", "24h", "7d", "30d", "365d"]
Group = Literal["fleet", "site", "rack", "gpu_model"]
Heat = Literal["power", "temperature", "utilisation"]
By = Literal["deployment", "model", "gpu_model", "site"]
Wait = Literal["p50", "p95"]
TokenOrder = Literal[
    "label", "tokens", "j_per_token", "variation", "tokens_per_s_per_mw", "cost", "carbon", "ttft_p50", "ttft_p95",
    "itl", "batch", "idle", "gpus", "coverage",
]  # fmt: skip
Category = Literal["1", "2", "3"]
MeterOrder = Literal[
    "problem", "meter", "place", "role", "feed", "power", "coverage", "seen", "rejected", "stuck", "reversed"
]

RANGES: dict[Range, tuple[str, timedelta]] = {
    "15m": ("15 min", timedelta(minutes=15)),
    "1h": ("1 h", timedelta(hours=1)),
    "6h": ("6 h", timedelta(hours=6)),
    "24h": ("24 h", timedelta(hours=24)),
    "7d": ("7 d", timedelta(days=7)),
    "30d": ("30 d", timedelta(days=30)),
    "365d": ("12 months", timedelta(days=365)),
}
LIVE: tuple[Range, ...] = ("15m", "1h", "6h", "24h", "7d", "30d")
"""Of pages that show what is by the minute;"""
HOURLY: tuple[Range, ...] = ("24h", "7d", "30d", "365d")
"""and by the hour;"""
USUAL_HOURLY: Range = "7d"
"""what these show where the address names none of theirs."""
LONGEST = timedelta(days=366)
POINTS = 300
SHORT = timedelta(minutes=30)
"""A period so short is shown by less than a minute, if its windows are."""
LONGEST_FIND = 64
MOST_PAGES = 100_000
MOST_ALERTS = 2**63 - 1
SETTLED_S = 20
"""Windows of 10 s are in the store by then: a period ends so long ago, or its last bin would lack late nodes."""


class View(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    site: str | None = None
    rack: str | None = None
    model: str | None = None
    range: Range = "1h"
    start: datetime | None = None
    """With stop: a period of its own, in place of range."""
    stop: datetime | None = None
    group: Group = "site"
    heat: Heat = "power"
    find: str = ""
    """Of the list of nodes, as are those below: a text in the host name or the rack."""
    state: NodeState | None = None
    sort: NodeOrder = "place"
    descending: bool = False
    page: int = 1
    boundary: Boundary = "gpu"
    deployment: str | None = None
    """Of energy per token, as are those below."""
    by: By = "deployment"
    """What the rows of its table are."""
    order: TokenOrder = "tokens"
    rising: bool = False
    """Whether the table begins with the least."""
    ttft: Wait = "p50"
    against: str | None = None
    """The deployment to compare with."""
    against_start: datetime | None = None
    """With against_stop: the period to compare with, in place of the one before."""
    against_stop: datetime | None = None
    category: Category | None = None
    """Of the facility, as are those below: where the energy of IT is metered; None: nearest to the IT equipment."""
    health: HealthState | None = None
    meters: MeterOrder = "problem"
    meters_descending: bool = False
    rule: str | None = None
    """Of alerts, as are those below."""
    severity: Severity | None = None
    like: int | None = None
    """Number of the alert whose labels a new silence begins with."""

    @property
    def where(self) -> Where:
        """The part of the fleet."""
        return Where(site=self.site, rack=self.rack, gpu_model=self.model)

    @property
    def of(self) -> Of:
        """The part of what is served."""
        return Of(site=self.site, gpu_model=self.model, deployment=self.deployment)

    @property
    def filtered(self) -> bool:
        """Whether it is a part of the fleet."""
        return bool(self.site or self.rack or self.model)

    @property
    def custom(self) -> bool:
        """Whether the period is not one that ends now."""
        return self.start is not None and self.stop is not None


class Period(Struct, frozen=True):
    """A period in bins."""

    start: datetime
    stop: datetime
    step: timedelta


def parse(search: str | None) -> tuple[View, list[str]]:
    """What a URL's query asks for, and what of it was ignored, in words."""
    given: dict[str, str] = {}
    notices: list[str] = []
    for key, value in parse_qsl((search or "").removeprefix("?")[:4_000])[:50]:
        if key not in _KNOWN:
            notices.append(f"{key[:30]!r} is not a parameter of this page")
        else:
            given[key] = value[:200].replace("\0", "")
    named = ("site", "rack", "model", "deployment", "against", "rule")
    known: dict[str, Any] = {key: given[key] for key in named if key in given}
    known["find"] = given.get("find", "").strip()[:LONGEST_FIND]
    for key, field, marked in (
        ("sort", "descending", True), ("order", "rising", False), ("meters", "meters_descending", True),
    ):  # fmt: skip
        if key in given:
            known[field] = given[key].startswith("-") is marked
            given[key] = given[key].removeprefix("-")
    for key, kind in _KINDS.items():
        if key in given:
            if given[key] in get_args(kind):
                known[key] = given[key]
            else:
                notices.append(f"{key}={given[key][:30]!r} is none of {', '.join(get_args(kind))}")
    for read in (
        lambda: _period(given, ""), lambda: _period(given, "against_"),
        lambda: _number(given, "page", MOST_PAGES), lambda: _number(given, "like", MOST_ALERTS),
    ):  # fmt: skip
        try:
            known |= read()
        except ValueError as error:
            notices.append(str(error))
    return View(**known), notices


def _number(given: Mapping[str, str], key: str, most: int) -> dict[str, int]:
    if key not in given:
        return {}
    number = int(given[key]) if given[key].isascii() and given[key].isdigit() else 0
    if not 0 < number <= most:
        raise ValueError(f"{key}={given[key][:30]!r} is not a number from 1 to {most}")
    return {key: number}


def _period(given: Mapping[str, str], prefix: str) -> dict[str, datetime]:
    start, stop = f"{prefix}from", f"{prefix}to"
    if start not in given and stop not in given:
        return {}
    if not given.get(start) or not given.get(stop):
        raise ValueError(f"a custom period needs both {start} and {stop}")
    first, last = moment(start, given[start]), moment(stop, given[stop])
    if first >= last:
        raise ValueError(f"{start} must be before {stop}")
    if last - first > LONGEST:
        raise ValueError(f"{start} and {stop} are more than {LONGEST.days} days apart")
    return {f"{prefix}start": first, f"{prefix}stop": last}


def moment(key: str, value: str) -> datetime:
    """A time as people write it, of UTC where it says nothing else.

    Raises:
        ValueError: it is none; the message names the key.
    """
    try:
        # A "+" that nobody escaped arrives as a space.
        time = datetime.fromisoformat(value.strip())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{key}={value[:30]!r} is not a time such as 2026-01-31 08:00") from None
    if not 2000 <= time.year <= 2200:
        raise ValueError(f"{key}={value[:30]!r} is out of range")
    return time


def query(view: View, **changes: Any) -> str:
    """The URL's query for a view, with changes; what is as usual is left out."""
    changed = msgspec.structs.replace(view, **changes)
    usual = View()
    parts: dict[str, str] = {}
    for field, key in _KEYS.items():
        value = getattr(changed, field)
        if value is not None and value != getattr(usual, field):
            parts[key] = f"{value:%Y-%m-%dT%H:%MZ}" if isinstance(value, datetime) else str(value)
    if changed.descending:
        parts["sort"] = f"-{changed.sort}"
    if changed.order != usual.order or changed.rising:
        parts["order"] = changed.order if changed.rising else f"-{changed.order}"
    if changed.meters_descending:
        parts["meters"] = f"-{changed.meters}"
    return f"?{urlencode(parts)}" if parts else ""


_KEYS: Mapping[str, str] = {
    "site": "site", "rack": "rack", "model": "model", "range": "range", "start": "from", "stop": "to",
    "group": "group", "heat": "heat", "find": "find", "state": "state", "sort": "sort", "page": "page",
    "boundary": "boundary", "deployment": "deployment", "by": "by", "order": "order", "ttft": "ttft",
    "against": "against", "against_start": "against_from", "against_stop": "against_to", "category": "category",
    "health": "health", "meters": "meters", "rule": "rule", "severity": "severity", "like": "like",
}  # fmt: skip
_KINDS: Mapping[str, Any] = {
    "range": Range, "group": Group, "heat": Heat, "state": NodeState, "sort": NodeOrder, "boundary": Boundary,
    "by": By, "order": TokenOrder, "ttft": Wait, "category": Category, "health": HealthState, "meters": MeterOrder,
    "severity": Severity,
}  # fmt: skip
_KNOWN = frozenset(_KEYS.values())


def elsewhere(view: View) -> str:
    """The query of a link to another page: the same part of the fleet, period and boundary, and nothing of lists."""
    return query(View(site=view.site, rack=view.rack, model=view.model, range=view.range, start=view.start,
                      stop=view.stop, group=view.group, heat=view.heat, boundary=view.boundary))  # fmt: skip


def period(view: View, now: datetime, longest_window_s: Callable[[datetime, datetime], float]) -> Period:
    """The period to show, in whole bins.

    Args:
        view: what is asked for.
        now: the time.
        longest_window_s: the longest window between two moments; asked for short periods only.
    """
    latest = floor(now - timedelta(seconds=SETTLED_S), timedelta(seconds=10))
    if view.start is not None and view.stop is not None:
        start, stop = view.start, min(view.stop, max(latest, view.start + timedelta(minutes=1)))
    else:
        start, stop = latest - RANGES[view.range][1], latest
    finest_s = longest_window_s(start, stop) if stop - start <= SHORT else 60.0
    step = step_for(start, stop, POINTS, finest_s)
    return Period(floor(start, step), stop, step)


MOST_BUCKETS = 30_000
"""Buckets of deployments that a period of energy per token is read by: beyond, by hours, then by days."""


def token_period(view: View, until: datetime, deployments: int) -> Period:
    """The period of energy per token, which ends where it is known; many deployments are read by whole hours.

    Args:
        view: what is asked for.
        until: up to when the figures of deployments are known.
        deployments: how many there are to be read.
    """
    if view.start is not None and view.stop is not None:
        start, stop = view.start, view.stop
    else:
        start, stop = until - RANGES[view.range][1], until
    widths = (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1))
    width = next((it for it in widths if deployments * (stop - start) / it <= MOST_BUCKETS), widths[-1])
    if stop - start < 2 * width:
        width = widths[0]
    step = step_for(start, stop, POINTS, width.total_seconds())
    edge = min(width, timedelta(hours=1))
    return Period(floor(start, step), floor(stop, edge), step)


MOST_BY_HOUR = timedelta(days=62)
"""Of the facility: longer periods are read by the day."""
MOST_POINTS = 2_000
"""Hours of sites that are shown one by one; beyond, longer bins are."""


def facility_period(view: View, until: datetime, sites: int) -> Period:
    """The period of the facility's figures: whole hours that are known, in bins of 1 or 6 h, a day or a week.

    Args:
        view: what is asked for.
        until: up to when the hours of meters are known.
        sites: how many there are to be read.
    """
    hour, day = timedelta(hours=1), timedelta(days=1)
    if view.start is not None and view.stop is not None:
        start = floor(view.start, hour)
        stop = max(start + hour, min(floor(view.stop, hour), until))
    else:
        asked = view.range if view.range in HOURLY else USUAL_HOURLY
        start, stop = until - RANGES[asked][1], until
    finest = hour if stop - start <= MOST_BY_HOUR else day
    widths = (it for it in (hour, 6 * hour, day) if it >= finest and sites * (stop - start) / it <= MOST_POINTS)
    step = next(widths, 7 * day)
    return Period(floor(start, step), stop, step)


def today(now: datetime) -> Period:
    """The UTC day until now."""
    latest = floor(now - timedelta(seconds=SETTLED_S), timedelta(seconds=10))
    start = latest.replace(hour=0, minute=0, second=0, microsecond=0)
    return Period(start, max(latest, start + timedelta(seconds=10)), timedelta(hours=1))


EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Where bins begin; the figures of deployments are known up to there where there are none yet."""


def floor(time: datetime, step: timedelta) -> datetime:
    """The start of the bin that a time is in, as date_bin() of the views does it."""
    return EPOCH + (time - EPOCH) // step * step
