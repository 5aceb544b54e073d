"""Rules as they are declared: what is read, what is refused, and what a configuration changes."""

from pathlib import Path

import msgspec
import pytest

from api.alerts import files
from api.alerts.configuration import OverrideDeclared, RuleDeclared, ThresholdDeclared
from api.alerts.durations import seconds
from api.alerts.rule import Override, Threshold
from api.declared.values import Unfit
from gigawatch.findings import Findings

WHOLE = """
about: Hot
summary: "{meter}: {value:.1f}"
labels: [site, meter]
sql: SELECT site, meter, temp_c AS value FROM report.meters_now WHERE temp_c > :most_c AND time > :now::timestamptz
thresholds: {most_c: 40}
"""


def read(folder: Path, body: str) -> str:
    """What is said of a file."""
    path = folder / "hot.yaml"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(Unfit) as caught:
        files.read(path)
    return str(caught.value)


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "hot.yaml").write_text(WHOLE, encoding="utf-8")
    rule = files.read(tmp_path / "hot.yaml")
    assert (rule.name, rule.origin, rule.severity, rule.for_s, rule.interval_s) == ("hot", "own", "warning", 0, 30)
    assert rule.thresholds == {"most_c": Threshold(value=40, unit="", about="")}
    assert (rule.group_by, rule.equal, rule.runbook, rule.enabled) == (("site",), ("site",), None, True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("labels: [site, meter]", "label: [site]"), "line 4: unknown key 'label'\n    Did you mean 'labels'?"),
        (("labels: [site, meter]", ""), "hot has no labels\n    Add `labels:`."),
        (("labels: [site, meter]", "labels: [site, value]"), "line 4: labels = 'value' cannot be a label"),
        (("labels: [site, meter]", "labels: [site, rule]"), "line 4: labels = 'rule' cannot be a label"),
        (("labels: [site, meter]", "labels: [site, alertname]"), "line 4: labels = 'alertname' cannot be a label"),
        (("about: Hot", "about: Hot\nfor: 5 minutes"), "line 3: for = '5 minutes': Expected `str` matching regex"),
        (("about: Hot", "about: Hot\ninterval: 0s"), "line 3: interval = '0s' is no interval"),
        (("about: Hot", "about: Hot\nseverity: page"), "line 3: severity = 'page' is not known\n    Known are: info"),
        (("most_c: 40", "most_f: 40"), "line 5: :most_c in the SQL is no threshold"),
        (("most_c: 40", "most_f: 40, most_c: 40"), "line 6: threshold 'most_f' is not in the SQL of hot"),
        (("most_c: 40", "most_c: warm"), "line 6: most_c = 'warm' is no number"),
        (("most_c: 40", "most_c: {value: 40, units: C}"), "line 6: unknown key 'units' of most_c"),
        (("{value:.1f}", "{value"), "line 3: summary = '{meter}: {value': expected '}' before end of string"),
        (("{value:.1f}", "{value.real}"), "{value.real} names no column"),
        (
            ("most_c: 40}", "most_c: 40}\noverrides: [{where: {rack: A1}, set: {most: 50}}]"),
            "line 7: hot has no threshold 'most'\n    Did you mean 'most_c'?",
        ),
        (
            ("most_c: 40}", "most_c: 40}\noverrides: [{where: {row: A1}, set: {most_c: 50}}]"),
            "line 7: name in where = 'row' is not known\n    Known are: site, rack, gpu_model, deployment, meter.",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    assert WHOLE.count(change[0]) == 1
    assert problem in read(tmp_path, WHOLE.replace(*change))


def test_a_configuration_changes_a_shipped_rule() -> None:
    breaker = files.shipped()["breaker"]
    declared = RuleDeclared(
        for_="10m",
        severity="critical",
        thresholds={"share": 0.7},
        overrides=(
            OverrideDeclared(where={"site": "oslo"}, set={"share": 0.6}),
            OverrideDeclared(where={"site": "oslo", "meter": "p1"}, set={"share": 0.5}),
        ),
    )
    findings = Findings()
    changed = files.rule("breaker", declared, findings, (), breaker)
    assert findings.listed({}) == []
    share = msgspec.structs.replace(
        breaker.thresholds["share"],
        value=0.7,
        overrides=(
            Override(where={"site": "oslo"}, value=0.6),
            Override(where={"site": "oslo", "meter": "p1"}, value=0.5),
        ),
    )
    assert changed == msgspec.structs.replace(breaker, for_s=600, severity="critical", thresholds={"share": share})
    assert share.unit == breaker.thresholds["share"].unit
    off = files.rule("breaker", RuleDeclared(enabled=False), findings, (), breaker)
    assert off == msgspec.structs.replace(breaker, enabled=False)
    # What a rule has no use for is told.
    files.rule("breaker", RuleDeclared(thresholds={"limit": ThresholdDeclared(value=1)}), findings, ("x",), breaker)
    assert [it.problem for it in findings.listed({})] == ["threshold 'limit' is not in the SQL of breaker"]


@pytest.mark.parametrize(
    ("duration", "s"), [("0s", 0), ("90s", 90), ("5m", 300), ("1h30m", 5_400), ("7d", 604_800), ("1d1h1m1s", 90_061)]
)
def test_durations(duration: str, s: int) -> None:
    assert seconds(duration) == s


def test_shipped_rules_are_whole() -> None:
    rules = files.shipped()
    for name, rule in rules.items():
        assert (rule.name, rule.origin, rule.runbook) == (name, "shipped", f"docs/runbooks/{name}.md")
        assert set(rule.inhibits) <= rules.keys()
        assert all(it.about and it.unit for it in rule.thresholds.values())
