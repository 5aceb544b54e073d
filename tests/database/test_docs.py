"""Documentation of the store against a real one: the reference of the views is fresh, the examples run."""

import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from docs import generate

SQL = (Path(__file__).parents[2] / "docs/sql.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sql\n(.*?)```", SQL, re.DOTALL)


def test_the_reference_of_views_is_fresh(engine: Engine) -> None:
    with engine.connect() as connection:
        assert SQL.partition(generate.MARK)[2] == generate.views(connection).removeprefix(generate.MARK), "make docs"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 8


@pytest.mark.parametrize("statement", EXAMPLES)
def test_examples_run_as_the_report_role(report_engine: Engine, statement: str) -> None:
    with report_engine.connect() as connection:
        connection.execute(text(statement.replace(":", r"\:")))
