"""The shipped rules: their tables of tests, what runs these, and their SQL against the real views."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from api.alerts import configured, files, trial
from api.alerts.evaluation import evaluate
from gigawatch.errors import GigawatchError
from gigawatch.settings import Alerts
from tests.conftest import Server

PROJECT = Path(__file__).parents[2]
TABLES = PROJECT / "tests/alerts"


@pytest.fixture(scope="module")
def stage(embedded_server: Server) -> Iterator[trial.Stage]:
    url = embedded_server.create()
    with trial.Stage(url) as it:
        yield it
    embedded_server.drop(url)


def test_each_shipped_rule_has_tests_and_a_runbook() -> None:
    rules = set(files.shipped())
    assert {it.stem for it in TABLES.glob("*.yaml")} == rules
    assert {it.stem for it in (PROJECT / "docs/runbooks").glob("*.md")} == rules


def test_what_is_summed_up_fires_on_until_its_site_fires() -> None:
    summed_up = [it for it in files.shipped().values() if {"most_gpus", "most_racks"} & it.thresholds.keys()]
    assert len(summed_up) == 13
    assert [it.name for it in summed_up if it.keep_firing_for_s < it.for_s] == []


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda it: it.stem)
def test_tables(stage: trial.Stage, path: Path) -> None:
    results = stage.play(path)
    assert results
    assert not [(it.name, it.differences) for it in results if not it.passed]


def test_examples_of_the_documentation_do_what_it_says(
    stage: trial.Stage, rules_engine: Engine, tmp_path: Path
) -> None:
    page = (PROJECT / "docs/alerts.md").read_text(encoding="utf-8")
    rule, configuration, tests = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "own.yaml").write_text(rule, encoding="utf-8")
    own = files.read(tmp_path / "own.yaml")
    assert (own.name, own.origin, own.for_s, own.group_by) == ("own", "own", 300, ("site",))
    assert evaluate(rules_engine, own, datetime.now(UTC), Alerts()) == []
    found = configured.read(configuration.encode())
    assert found.warnings == []
    rules = found.configured.rules
    assert [name for name, it in rules.items() if not it.enabled] == ["power_cap"]
    assert evaluate(rules_engine, rules["gpu_temperature"], datetime.now(UTC), Alerts()) == []
    assert evaluate(rules_engine, rules["warm_thermometer"], datetime.now(UTC), Alerts()) == []
    (tmp_path / "tests.yaml").write_text(tests, encoding="utf-8")
    assert [it.differences for it in stage.play(tmp_path / "tests.yaml")] == [()]


OWN = """
about: Hot
summary: "{meter}: {value}"
labels: [site, meter]
for: 1m
interval: 30s
sql: SELECT site, meter, temp_c AS value FROM report.meters_now WHERE temp_c > 40
"""
TESTS = """
rule_file: own.yaml
tests:
  - name: wrong in all ways
    rows:
      - {at: 0s, report.meters_now: [{site: oslo, meter: a, temp_c: 41}, {site: oslo, meter: b, temp_c: 41}]}
    expect:
      - {at: 30s, firing: [{meter: a}], pending: [{meter: a}]}
      - {at: 1m, firing: [{meter: a, value: 40}, {meter: b}]}
  - name: right
    expect:
      - {at: 1m}
"""


def test_what_is_not_as_expected_is_told(stage: trial.Stage, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    path = tmp_path / "tests.yaml"
    path.write_text(TESTS, encoding="utf-8")
    wrong, right = stage.play(path)
    a, b = (f"{{site: oslo, meter: {it}, severity: warning, value: 41.0, summary: {it}: 41.0}}" for it in "ab")
    assert wrong.differences == (
        "at 30s: firing lacks {meter: a}; there is nothing",
        f"at 30s: pending has {b}, which was not expected",
        f"at 1m: firing lacks {{meter: a, value: 40}}; there is {a}; {b}",
        f"at 1m: firing has {a}, which was not expected",
    )
    assert right.passed
    assert trial.said(right) == "ok   own: right"
    assert trial.said(wrong).startswith(f"FAIL own: wrong in all ways ({path}:4)\n     at 30s: firing lacks")
    # A rule that fails says so, and harms no test after it.
    (tmp_path / "own.yaml").write_text(OWN.replace("temp_c AS value", "temp_c / 0 AS value"), encoding="utf-8")
    assert [it.differences for it in stage.play(path)] == [("at 0s: the rule fails: division by zero",), ()]


MANY = """
rule: breaker
tests:
  - name: a
    rows:
      - {at: soon, report.meter_now: []}
      - at: 1m
        report.meters_now: [{meters: a}]
        report.pue: 1
    expect:
      - {at: 2m}
      - {at: 1m}
"""


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ("rule: breakers\ntests: []", ["line 1: rule = 'breakers' is not shipped\n    Did you mean 'breaker'?"]),
        ("tests: []", ["line 1: a file of tests has either rule or rule_file"]),
        ("rule_file: none.yaml\ntests: []", ["line 1: rule_file = 'none.yaml': there is no such file"]),
        (
            MANY.replace("at: 1m}", "at: -1m, fires: []}"),
            [
                "line 12: at = '-1m': Expected `str` matching regex",
                "line 12: unknown key 'fires' of expect\n    Known are: at, firing, pending.",
            ],
        ),
        (
            MANY,
            [
                "line 6: at = 'soon' is no time",
                "line 6: there is no report.meter_now\n    Did you mean 'report.meters_now'?",
                "line 8: report.meters_now has no column 'meters'\n    Did you mean 'meter'?",
                "line 9: report.pue has no list of rows",
                "line 10: moments are not in order of time",
            ],
        ),
    ],
)
def test_wrong_files_of_tests_are_refused(stage: trial.Stage, tmp_path: Path, body: str, problems: list[str]) -> None:
    path = tmp_path / "tests.yaml"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(GigawatchError) as caught:
        stage.play(path)
    told = str(caught.value)
    assert [it for it in problems if it not in told] == [], told
    with pytest.raises(GigawatchError, match="cannot be read"):
        stage.play(tmp_path / "none")


def test_on_a_server_the_scratch_database_is_dropped_again(embedded_server: Server) -> None:
    def there() -> set[str]:
        with psycopg.connect(embedded_server.admin) as connection:
            query = "SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles"
            return {name for (name,) in connection.execute(query)}

    before = there()
    (result,) = trial.run([TABLES / "rule_failing.yaml"], embedded_server.url("postgres"))
    assert result.passed
    assert there() == before


def test_their_sql_runs_on_the_real_views(rules_engine: Engine) -> None:
    found = {name: evaluate(rules_engine, rule, datetime.now(UTC), Alerts()) for name, rule in files.shipped().items()}
    assert {name: rows for name, rows in found.items() if rows} == {}
