"""The tree of routes as ways: what each route says with what it has from the ones above."""

from collections.abc import Iterator, Mapping

from msgspec import Struct, structs

from api.alerts.configuration import Configuration, Route
from api.alerts.durations import seconds
from gigawatch.alerts import matchers
from gigawatch.alerts.matchers import Matcher

GROUP_WAIT_S, GROUP_INTERVAL_S, REPEAT_INTERVAL_S = 1, 60, 4 * 3_600
ALL_LABELS = "..."
"""In place of labels to group by: each alert is a group."""
HEAR_OF_ACKNOWLEDGEMENT = frozenset({"pagerduty", "opsgenie"})
"""Kinds that call people until somebody takes the alert on."""


class Way(Struct, frozen=True, kw_only=True):
    """A route."""

    path: str
    """Its matchers and those above, as a name that lasts while other routes come and go."""
    target: str
    matchers: tuple[Matcher, ...]
    group_by: tuple[str, ...] | None
    """None: as the rule says."""
    group_wait_s: int
    group_interval_s: int
    repeat_interval_s: int
    is_kept_alive: bool
    """Whether its target, an Alertmanager, takes for ended of what it does not hear again."""
    hears_of_acknowledgement: bool
    """Whether its target calls people until somebody takes the alert on."""
    goes_on: bool
    """Whether what it takes may be taken by the next of its level as well."""
    below: tuple["Way", ...]

    def takers(self, labels: Mapping[str, str]) -> Iterator["Way"]:
        """The ways that take an alert with these labels: those below, else this one; none where it does not match."""
        if not matchers.all_match(self.matchers, labels):
            return
        taken = False
        for way in self.below:
            found = list(way.takers(labels))
            yield from found
            taken |= bool(found)
            if found and not way.goes_on:
                break
        if not taken:
            yield self


def first(configuration: Configuration) -> Way | None:
    """The way that all alerts begin on; None: nobody is to be told."""
    route = configuration.route
    if route is None or route.target is None:
        return None
    above = Way(
        path="",
        target=route.target,
        matchers=(),
        group_by=None,
        group_wait_s=GROUP_WAIT_S,
        group_interval_s=GROUP_INTERVAL_S,
        repeat_interval_s=REPEAT_INTERVAL_S,
        is_kept_alive=False,
        hears_of_acknowledgement=False,
        goes_on=False,
        below=(),
    )
    return _way(configuration, route, above)


def all_below(way: Way) -> Iterator[Way]:
    """A way with all that are below it."""
    yield way
    for it in way.below:
        yield from all_below(it)


def _way(configuration: Configuration, route: Route, above: Way) -> Way:
    of_route = tuple(matchers.parse(text) for text in route.matchers)
    target = route.target or above.target
    declared = configuration.targets.get(target)
    way = Way(
        path=f"{above.path}/{{{','.join(sorted(map(str, of_route)))}}}",
        target=target,
        matchers=of_route,
        group_by=above.group_by if route.group_by is None else route.group_by,
        group_wait_s=above.group_wait_s if route.group_wait is None else seconds(route.group_wait),
        group_interval_s=above.group_interval_s if route.group_interval is None else seconds(route.group_interval),
        repeat_interval_s=above.repeat_interval_s if route.repeat_interval is None else seconds(route.repeat_interval),
        is_kept_alive=declared is not None and declared.kind == "alertmanager_api",
        hears_of_acknowledgement=declared is not None and declared.kind in HEAR_OF_ACKNOWLEDGEMENT,
        goes_on=route.continue_,
        below=(),
    )
    return structs.replace(way, below=tuple(_way(configuration, it, way) for it in route.routes))
