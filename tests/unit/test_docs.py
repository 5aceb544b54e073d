"""Documentation against the code: generated parts are fresh, events are listed as they are, links lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from api.alerts import files as rules
from collector.sources import nvml
from docs import generate
from gigawatch.errors import ExitCode
from gigawatch.tokens import ROLES

PROJECT = Path(__file__).parents[2]
# Which argument of each function that reports is the kind; of an Event it is always named.
PLACES = {
    "add_event": 1, "_report_now": 0, "_report_loss": 0, "_tell": 0, "_event": 0, "_notice": 0, "_tell_while": 0,
}  # fmt: skip
KIND = re.compile(r"[a-z]+(_[a-z]+)*")


def table(name: str) -> list[list[str]]:
    """Rows of the tables of a page of documentation."""
    text = (PROJECT / "docs" / name).read_text(encoding="utf-8")
    rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def events() -> dict[str, str]:
    """Severity by kind, as docs/events.md says."""
    return {row[0].strip("`"): row[1] for row in table("events.md") if row[0].startswith("`")}


def reported() -> Iterator[tuple[str, set[str]]]:
    """Kinds that the agent's code can report, with the severities named beside them."""
    for path in (PROJECT / "collector").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                yield from _reported(function)


def _reported(function: ast.FunctionDef) -> Iterator[tuple[str, set[str]]]:
    for call in ast.walk(function):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = [it.value for it in call.keywords if name == "Event" and it.arg == "kind"]
        if name in PLACES and len(call.args) > PLACES[name]:
            given = [call.args[PLACES[name]]]
        severities = {it.attr.lower() for it in ast.walk(call) if isinstance(it, ast.Attribute)
                      and getattr(it.value, "id", "") == "Severity"}  # fmt: skip
        for expression in given:
            for kind in _texts(expression, function):
                yield kind, severities


def _texts(expression: ast.expr, function: ast.FunctionDef, seen: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of kinds in an expression, and in what its variables are assigned in the function."""
    for node in ast.walk(expression):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and KIND.fullmatch(node.value):
            yield node.value
        if isinstance(node, ast.Name) and node.id not in seen:
            for it in ast.walk(function):
                if isinstance(it, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == node.id
                    for whole in it.targets for target in ast.walk(whole)
                ):  # fmt: skip
                    yield from _texts(it.value, function, seen | {node.id})


def test_the_reference_of_settings_is_fresh() -> None:
    written = (PROJECT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == generate.configuration(), "run `make docs`"


def test_the_reference_of_engines_is_fresh() -> None:
    written = (PROJECT / "docs/engines.md").read_text(encoding="utf-8")
    assert written.endswith(generate.MARK + generate.engines().removeprefix(generate.MARK)), "run `make docs`"


def test_the_reference_of_meter_maps_is_fresh() -> None:
    written = (PROJECT / "docs/meters.md").read_text(encoding="utf-8")
    assert written.endswith(generate.meters()), "run `make docs`"


def test_the_list_of_shipped_rules_is_fresh() -> None:
    written = (PROJECT / "docs/alerts.md").read_text(encoding="utf-8")
    assert written.endswith(generate.alerts()), "run `make docs`"


def test_runbooks_name_the_thresholds_of_their_rules() -> None:
    for name, rule in rules.shipped().items():
        page = (PROJECT / f"docs/runbooks/{name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {name}\n")
        said = page.partition("## Thresholds")[2].partition("\n## ")[0]
        assert [limit for limit in rule.thresholds if f"`{limit}`" not in said] == [], name


def test_rules_look_for_the_xids_that_events_are_critical_for() -> None:
    found = {
        name: {int(number) for number in re.findall(r"\d+", re.findall(r"code IN \(([^)]*)\)", rule.sql)[0])}
        for name, rule in rules.shipped().items()
        if "code IN" in rule.sql
    }
    assert found == {"xid_fatal": nvml.FATAL_XIDS, "gpu_reset_needed": nvml.RESET_XIDS}
    assert set(range(144, 151)) == nvml.NVLINK5_XIDS


def test_events_are_listed_as_the_code_reports_them() -> None:
    listed = events()
    found: dict[str, set[str]] = {}
    for kind, severities in reported():
        found.setdefault(kind, set()).update(severities)
    assert set(found) == set(listed)
    for kind, severities in found.items():
        for severity in severities:
            assert severity in listed[kind], f"{kind} can be {severity}"


def test_the_critical_xids_are_those_of_the_code() -> None:
    said = events()["xid"].partition(";")[0].removeprefix("critical for ")
    numbers: set[int] = set()
    for part in said.split(", "):
        first, _, last = part.partition("–")
        numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == nvml.FATAL_XIDS | nvml.RESET_XIDS | nvml.NVLINK5_XIDS


def test_exit_codes_and_roles_are_those_of_the_code() -> None:
    rows = table("operations.md")
    assert {int(row[0]) for row in rows if row[0].isdigit() and int(row[0]) < 1000} == {0, *ExitCode}
    assert {row[0].strip("`") for row in rows if row[0].startswith("`") and len(row) == 2} == set(ROLES)


def test_links_within_the_documentation_lead_somewhere() -> None:
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md")):
        text = path.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
            if anchor:
                page = (path.parent / target if target else path).read_text(encoding="utf-8")
                heads = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{path.name}: #{anchor}"
