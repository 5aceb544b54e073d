"""The shipped rules: their tables of tests, and their SQL against the real views."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from api.alerts import files, trial
from api.alerts.evaluation import evaluate
from gigawatch.settings import Alerts
from tests.conftest import Server

TABLES = Path(__file__).parents[1] / "alerts"


@pytest.fixture(scope="module")
def stage(embedded_server: Server) -> Iterator[trial.Stage]:
    url = embedded_server.create()
    with trial.Stage(url) as it:
        yield it
    embedded_server.drop(url)


def test_each_shipped_rule_has_tests_and_a_runbook() -> None:
    rules = set(files.shipped())
    assert {it.stem for it in TABLES.glob("*.yaml")} == rules
    assert {it.stem for it in (Path(__file__).parents[2] / "docs/runbooks").glob("*.md")} == rules


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda it: it.stem)
def test_tables(stage: trial.Stage, path: Path) -> None:
    results = stage.play(path)
    assert results
    assert not [(it.name, it.differences) for it in results if not it.passed]


def test_their_sql_runs_on_the_real_views(report_engine: Engine) -> None:
    found = {name: evaluate(report_engine, rule, datetime.now(UTC), Alerts()) for name, rule in files.shipped().items()}
    assert {name: rows for name, rows in found.items() if rows} == {}
