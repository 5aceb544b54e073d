"""Rules as they are declared in files: those that are shipped, and one's own."""

import re
import string
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from api.alerts.configuration import RuleDeclared, ThresholdDeclared
from api.alerts.durations import LONGEST_S, seconds
from api.alerts.rule import SPECIAL, Override, Rule, Threshold
from api.declared import values
from api.declared.nodes import Form
from gigawatch.findings import Findings, suggestion
from gigawatch.findings import Path as Place

HERE = Path(__file__).parent / "rules"
FORM = Form(
    what="a rule",
    begin="Begin with `about:`.",
    shorter="Give each rule a file.",
    page="docs/alerts.md",
)
# Not the second colon of a cast, nor one within a time such as 12:30, nor one that is escaped.
_NAMED = re.compile(r"(?<![:\w\\]):(\w+)")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_NO_LABELS = (*SPECIAL, "rule", "alertname")
"""What a row says of itself, and the rule's name here and at Alertmanager."""
_MUST = ("about", "summary", "sql", "labels")


@cache
def shipped() -> Mapping[str, Rule]:
    """The rules that come with Gigawatch, by name, as they are where nothing is configured.

    Raises:
        Unfit: one of the files has errors.
    """
    rules = [read(path) for path in sorted(HERE.glob("*.yaml"))]
    return {
        it.name: msgspec.structs.replace(it, origin="shipped", runbook=f"docs/runbooks/{it.name}.md") for it in rules
    }


def read(path: Path) -> Rule:
    """A rule of one's own from a file, whose name it has.

    Raises:
        OSError: the file cannot be read.
        Unfit: it has errors, all of which it names.
    """
    declared, findings, lines = values.read(path.read_bytes(), RuleDeclared, FORM)
    found = rule(path.stem, declared, findings, ())
    values.refuse(findings, lines, FORM)
    assert found is not None, "what is missing is an error"
    return found


def rule(name: str, declared: RuleDeclared, findings: Findings, place: Place, base: Rule | None = None) -> Rule | None:
    """A rule as it is declared; None where it lacks what it must have.

    Args:
        name: its name.
        declared: what is said of it.
        findings: what is wrong is added there.
        place: where in the document it is declared.
        base: the shipped rule of this name, of which the rest is taken.
    """
    said = {
        field: value
        for field in ("about", "summary", "sql", "labels", "severity", "unit", "group_by", "events", "inhibits",
                      "equal", "runbook")
        if (value := getattr(declared, field)) is not None and (field, value) != ("labels", ())
    }  # fmt: skip
    for field in ("for_", "keep_firing_for", "interval"):
        if (duration := getattr(declared, field)) is not None:
            said[f"{field.rstrip('_')}_s"] = seconds(duration)
    if base is None:
        missing = [field for field in _MUST if field not in said]
        for field in missing:
            findings.error(place, f"{name} has no {field}", f"Add `{field}:`.")
        if missing:
            return None
        site = ("site",) if "site" in said["labels"] else ()
        base = Rule(
            **{
                "name": name, "origin": "own", "severity": "warning", "unit": None, "for_s": 0, "keep_firing_for_s": 0,
                "interval_s": 30, "group_by": site, "enabled": True, **said,
            }
        )  # fmt: skip
    made = msgspec.structs.replace(base, **said, enabled=declared.enabled)
    made = msgspec.structs.replace(made, thresholds=_thresholds(made, declared, findings, place))
    _check(made, findings, place)
    return made


def _thresholds(made: Rule, declared: RuleDeclared, findings: Findings, place: Place) -> dict[str, Threshold]:
    found = dict(made.thresholds)
    for name, value in declared.thresholds.items():
        before = found.get(name, Threshold(value=0, unit="", about=""))
        if isinstance(value, ThresholdDeclared):
            found[name] = Threshold(
                value=value.value, unit=value.unit or before.unit, about=value.about or before.about
            )
        else:
            found[name] = Threshold(value=value, unit=before.unit, about=before.about)
        found[name] = msgspec.structs.replace(found[name], overrides=before.overrides)
    for number, override in enumerate(declared.overrides):
        for name, limit in override.set.items():
            if name not in found:
                findings.unknown(
                    (*place, "overrides", number, "set", name), f"{made.name} has no threshold {name!r}", name, found,
                    "Its thresholds",
                )  # fmt: skip
                continue
            of_it = Override(where=dict(override.where), value=limit)
            found[name] = msgspec.structs.replace(found[name], overrides=(*found[name].overrides, of_it))
    return found


def _check(made: Rule, findings: Findings, place: Place) -> None:
    """What types cannot say of a rule."""
    named = set(_NAMED.findall(made.sql)) - {"now"}
    for name in sorted(named - made.thresholds.keys()):
        findings.error(
            (*place, "sql"), f":{name} in the SQL is no threshold", f"Add it below `thresholds:`. {_known(name, made)}"
        )
    for name in sorted(made.thresholds.keys() - named):
        findings.error(
            (*place, "thresholds", name), f"threshold {name!r} is not in the SQL of {made.name}", _known(name, made)
        )
    for label in made.labels:
        if label in _NO_LABELS or _NAME.fullmatch(label) is None:
            findings.error(
                (*place, "labels"), f"labels = {label!r} cannot be a label",
                f"Name columns of the SQL in small letters, other than {', '.join(_NO_LABELS)}.",
            )  # fmt: skip
    for key in ("for", "keep_firing_for", "interval"):
        if getattr(made, f"{key}_s") > LONGEST_S:
            findings.error((*place, key), f"{key} of {made.name} is longer than a year", "Write 366d at most.")
    if made.interval_s == 0:
        findings.error((*place, "interval"), "interval = '0s' is no interval", "Write 10s or more.")
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(made.summary) if field is not None]
    except ValueError as error:
        findings.error(
            (*place, "summary"), f"summary = {made.summary[:80]!r}: {error}",
            "Put names of columns in braces; write {{ for a brace.",
        )  # fmt: skip
        return
    for field in fields:
        if _NAME.fullmatch(field) is None:
            findings.error(
                (*place, "summary"), f"summary = {made.summary[:80]!r}: {{{field}}} names no column",
                "Put names of columns in braces, with a format after a colon: {value:.1f}.",
            )  # fmt: skip


def _known(name: str, made: Rule) -> str:
    return suggestion(name, made.thresholds, "Its thresholds")
