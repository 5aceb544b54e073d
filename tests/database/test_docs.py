"""Documentation against the code: generated parts are fresh, examples run, events are all listed."""

import ast
import re
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from docs import generate

PROJECT = Path(__file__).parents[2]
SQL = (PROJECT / "docs/sql.md").read_text(encoding="utf-8")


def test_the_reference_of_settings_is_fresh() -> None:
    written = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == generate.configuration(), "run `make docs`"


def test_the_reference_of_views_is_fresh(engine: Engine) -> None:
    with engine.connect() as connection:
        assert SQL.partition(generate.MARK)[2] == generate.views(connection).removeprefix(generate.MARK), "make docs"


@pytest.mark.parametrize("statement", re.findall(r"```sql\n(.*?)```", SQL, re.DOTALL))
def test_examples_run_as_the_report_role(report_engine: Engine, statement: str) -> None:
    with report_engine.connect() as connection:
        connection.execute(text(statement.replace(":", r"\:")))


def test_every_kind_of_event_is_listed() -> None:
    kinds: set[str] = set()
    for path in (PROJECT / "collector").glob("**/*.py"):
        if "simulated" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            kinds |= {it.value.value for it in node.keywords
                      if name == "Event" and it.arg == "kind" and isinstance(it.value, ast.Constant)}  # fmt: skip
            places = {"add_event": 1, "_report_now": 0, "_report_loss": 0, "_tell": 0, "_event": 0}
            if name in places and len(node.args) > places[name]:
                argument = node.args[places[name]]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    kinds.add(argument.value)
    assert len(kinds) > 12
    listed = set(re.findall(r"^\| `(\w+)` \|", (PROJECT / "docs/events.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert kinds <= listed, kinds - listed


def test_links_within_the_documentation_lead_somewhere() -> None:
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
