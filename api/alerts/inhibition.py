"""Which firing alerts another one explains: of a feed that is lost, its racks; of a rack, its nodes; and of a site that
a rule sums up, what the rule has there besides."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from msgspec import Struct
from sqlalchemy import Connection, text

from api.alerts.rule import Rule

Key = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A rule that is explained, the labels in which the two are alike, and their values."""


class Firing(Struct, frozen=True, kw_only=True):
    """An alert that fires."""

    alert_id: int
    rule: str
    labels: dict[str, str]
    racks: tuple[str, ...] | None
    """That it covers; None: whatever has the same labels."""
    inhibited_by: int | None = None


def apply(connection: Connection, rules: Mapping[str, Rule]) -> int:
    """Note of each firing alert which other explains it.

    Args:
        connection: of the store's owner, in the caller's transaction.
        rules: those in force.

    Returns:
        Alerts of which that changed.
    """
    rows = connection.execute(
        text("SELECT alert_id, rule, labels, racks, inhibited_by FROM gigawatch.alert WHERE state = 'firing'")
    )
    firing = [
        Firing(
            alert_id=row.alert_id, rule=row.rule, labels=row.labels, inhibited_by=row.inhibited_by,
            racks=None if row.racks is None else tuple(row.racks),
        )
        for row in rows
    ]  # fmt: skip
    found = explained(firing, rules)
    changed = [it.alert_id for it in firing if found.get(it.alert_id) != it.inhibited_by]
    if changed:
        connection.execute(
            text(
                "UPDATE gigawatch.alert SET inhibited_by = change.by"
                " FROM unnest(CAST(:ids AS bigint[]), CAST(:bys AS bigint[])) AS change (alert_id, by)"
                " WHERE alert.alert_id = change.alert_id"
            ),
            {"ids": changed, "bys": [found.get(it) for it in changed]},
        )
    return len(changed)


def explained(firing: Sequence[Firing], rules: Mapping[str, Rule]) -> dict[int, int]:
    """By number of an alert, that of the one that explains it: where several do, the one that explains most.

    A rule's alert explains those of the rules that it inhibits which have the same labels `equal`, and if it covers
    racks, one of these. What lacks one of the labels is not explained. One with the label site alone explains the
    others of its own rule at that site.
    """
    levels = _levels(rules)
    covering: dict[Key, dict[str | None, Firing]] = defaultdict(dict)
    equals: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    """By rule, the labels in which its alerts may be like one that explains them."""
    sums = {(it.rule, it.labels["site"]): it.alert_id for it in firing if it.labels.keys() == {"site"}}
    for it in sorted(firing, key=lambda it: (levels.get(it.rule, 0), -it.alert_id)):
        rule = rules.get(it.rule)
        alike = None if rule is None else _alike(it, rule.equal)
        if rule is None or alike is None:
            continue
        for child in rule.inhibits:
            equals[child].add(rule.equal)
            covering[child, rule.equal, alike] |= dict.fromkeys((None,) if it.racks is None else it.racks, it)
    found: dict[int, int] = {}
    for it in firing:
        above = []
        for equal in equals[it.rule]:
            covers = covering.get((it.rule, equal, _alike(it, equal) or ()), {})
            above += [covers[place] for place in (None, it.labels.get("rack")) if place in covers]
        # Two rules that name each other do not keep both quiet.
        above = [one for one in above if levels[one.rule] > levels.get(it.rule, 0)]
        sum_of_it = sums.get((it.rule, it.labels.get("site", "")), it.alert_id)
        if above:
            found[it.alert_id] = max(above, key=lambda one: (levels[one.rule], -one.alert_id)).alert_id
        elif sum_of_it != it.alert_id:
            found[it.alert_id] = sum_of_it
    return found


def _alike(it: Firing, equal: tuple[str, ...]) -> tuple[str, ...] | None:
    """Its values of these labels; None where it lacks one."""
    values = tuple(it.labels.get(label, "") for label in equal)
    return values if all(values) else None


def _levels(rules: Mapping[str, Rule]) -> dict[str, int]:
    """By rule, how many levels of rules it explains."""
    found: dict[str, int] = {}

    def of(name: str, above: tuple[str, ...]) -> int:
        if name in above or name not in rules:
            return 0
        if name not in found:
            found[name] = max((1 + of(child, (*above, name)) for child in rules[name].inhibits), default=0)
        return found[name]

    for name in rules:
        of(name, ())
    return found
