"""Topologies: what a file means, that all that is wrong with it is named at once, and the picture of it."""

import json
import random
import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from api.declared import nodes
from api.declared.values import Unfit
from api.topology import commands, files
from gigawatch.errors import ExitCode
from gigawatch.findings import Finding
from gigawatch.schema import METER_ROLES
from gigawatch.topology import picture
from gigawatch.topology.document import MeterRole, Site, Topology
from gigawatch.topology.flow import Flow
from gigawatch.topology.plan import Plan, in_force
from gigawatch.topology.ranges import Pattern, WrongRange

PAGE = (Path(__file__).parents[2] / "docs/topology.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMPLETE = """
  u: {role: utility}
  i: {role: ups_out}
"""
"""Meters with which a site can have a PUE."""


def found(text: str | bytes) -> list[Finding]:
    return files.examine(text.encode() if isinstance(text, str) else text)[1].findings


def site_of(meters: str = "", halls: str = "", rest: str = "") -> str:
    """A file with a site."""

    def part(name: str, text: str) -> str:
        lines = [f"      {line.strip()}" for line in text.strip("\n").splitlines()]
        return "\n".join([f"    {name}:", *lines]) + "\n" if lines else ""

    return "sites:\n  oslo:\n" + part("halls", halls) + part("meters", meters) + rest


def words(text: str) -> list[str]:
    """Errors in words."""
    return [it.problem for it in found(text) if it.severity == "error"]


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 # our own


def planned(text: str) -> Plan:
    read = files.read(text.encode())
    ((name, site),) = read.topology.sites.items()
    return in_force(name, site)


def test_the_example_of_the_documentation_is_understood_without_a_warning() -> None:
    read = files.read(EXAMPLE.encode())
    assert read.checked.findings == []
    (site,) = read.checked.sites
    assert (site.site, site.racks, site.pue_categories) == ("oslo", 130, (1, 2))
    plan = planned(EXAMPLE)
    pdu = plan.meters["pdu-A3-07-b"]
    assert (pdu.racks, pdu.hall, Flow(plan).feeds["pdu-A3-07-b"]) == (("A3-07",), "H1", "B")
    assert plan.meters["bmc-gpu-007"].node == "gpu-007.oslo.example"
    assert plan.meters["chillers-without-pumps"].terms == {"chillers": 1, "pumps": -1}
    assert plan.budgets_kw["rack", "A4-24"] == 40
    assert plan.budgets_kw["row", "H1/A1"] == 1100


def test_what_is_written_again_means_the_same() -> None:
    topology = files.read(EXAMPLE.encode()).topology
    assert files.read(files.written(topology).encode()).topology == topology
    assert files.read(msgspec.json.encode(topology)).topology == topology
    assert msgspec.convert(json.loads(msgspec.json.encode(topology)), Topology, str_keys=True) == topology


def test_the_parser_in_python_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without the one in C."""
    expected = files.read(EXAMPLE.encode()).topology
    assert nodes.LOADER is yaml.CSafeLoader
    monkeypatch.setattr(nodes, "LOADER", yaml.SafeLoader)
    assert files.read(EXAMPLE.encode()).topology == expected
    assert words('sites: {"o\\ud800": {}}')[0] == "name in sites = 'o\\ud800' is no text"
    assert found(b"[" * 1_000)[0].problem == "this is nested deeper than a topology is"


def test_every_key_is_documented() -> None:
    for key in re.findall(r"[a-z_0-9]+", " ".join(_keys(Topology, set()))):
        assert f"`{key}`" in PAGE or re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", PAGE), key
    assert set(get_args(MeterRole)) == set(METER_ROLES)


def _keys(kind: Any, seen: set[Any]) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        fields = msgspec.structs.fields(kind)
        return [it.name for it in fields] + [key for it in fields for key in _keys(it.type, seen)]
    return [key for it in get_args(kind) for key in _keys(it, seen)]


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("A1", ["A1"]),
        ("A-[08-11]", ["A-08", "A-09", "A-10", "A-11"]),
        ("A[9-11]", ["A9", "A10", "A11"]),
        ("[A-C]", ["A", "B", "C"]),
        ("r[1,3,7-8]", ["r1", "r3", "r7", "r8"]),
        ("[a-b][1-2]", ["a1", "a2", "b1", "b2"]),
        ("[098-101]", ["098", "099", "100", "101"]),
    ],
)
def test_ranges_make_names(written: str, names: list[str]) -> None:
    assert [name for name, _ in Pattern(written).names()] == names


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("A[", "bracket has no partner"), ("A]1[", "bracket has no partner"), ("A[[1-2]]", "bracket has no partner"),
        ("A[]", "is no range"), ("A[x-]", "is no range"), ("A[1-2-3]", "is no range"), ("A[-1]", "is no range"),
        ("A[01-1]", "begins and ends unlike"), ("A[a-9]", "begins and ends unlike"),
        ("A[a-Z]", "begins and ends unlike"),
        ("A[9-1]", "runs backwards"), ("A[1-3,2]", "gives '2' twice"), ("A[1-999999999]", "makes 999999999 names"),
        ("[1-999][1-999]", "makes 998001 names"), ("A[*]", "has 1 [*], and the name that it goes by has 0 ranges"),
        (" A", "is no name"), ("x" * 199 + "[10-12]", "is no name"),
    ],
)  # fmt: skip
def test_what_is_no_range_is_told(written: str, problem: str) -> None:
    with pytest.raises(WrongRange, match=re.escape(problem)):
        Pattern(written).names()


def test_a_star_is_what_the_range_of_the_name_gives() -> None:
    assert Pattern("A[*]-[01-02]").names(("3",)) == [("A3-01", ("3", "01")), ("A3-02", ("3", "02"))]
    assert Pattern("[*]/[*]").names(("3", "x"))[0][0] == "3/x"
    assert Pattern("[*]/[*]").names(("3",))[0][0] == "3/3"
    with pytest.raises(WrongRange, match="has 2 ranges"):
        Pattern("[*]").names(("3", "x"))


def test_values_mean_what_their_place_says() -> None:
    plan = planned(
        site_of(
            COMPLETE + "  on: {role: it, node: 1e3}\n  012: {role: other}", 'h: {racks: [01, 0x1F, ~x, "null", No]}'
        )
    )
    assert list(plan.racks) == ["01", "0x1F", "~x", "null", "No"]
    assert plan.meters["on"].node == "1e3"
    assert "012" in plan.meters


WRONG: list[tuple[str, list[str]]] = [
    # Form
    (site_of("m: {role: utilty}"), ["role = 'utilty' is not known"]),
    (site_of("m: {rated_kw: 5}"), ["meters.m has no role"]),
    (site_of("m: {role: it, ratedkw: 5}"), ["unknown key 'ratedkw' of meters.m"]),
    (site_of("m: {role: it, rated_kw: 12 MW}"), ["rated_kw = '12 MW' is no number"]),
    (site_of("m: {role: it, rated_kw: .nan}"), ["rated_kw = '.nan' is no number"]),
    (site_of("m: {role: it, rated_kw: -5}"), ["rated_kw = '-5': Expected `float` > 0.0"]),
    (site_of("m: {role: it, rated_kw: [5]}"), ["rated_kw = a list: one value was expected"]),
    (site_of("m: {role: it, since: yesterday}"), ["since = 'yesterday' is no moment"]),
    (site_of("m: {role: it, since: 2026-01-01T00:00}"), ["since = '2026-01-01T00:00' is no moment"]),
    (site_of("m: {role: water, potable: yes}"), ["potable = 'yes' is neither true nor false"]),
    (site_of("m: {role: it, racks: {a: b}}"), ["racks = keys: a list was expected"]),
    (site_of("m: [it]"), ["meters.m = a list: keys with values were expected"]),
    (site_of("m: {role: it}\nm: {role: pdu}"), ["'m' is there twice, on lines 4 and 5"]),
    (site_of("m: {role: it, feeds: [~]}"), ["feeds = nothing: one value was expected"]),
    (site_of(rest="    eu_report: {years: {2019: {ppa_kwh: 1}}}\n"),
     ["name in years = '2019': Expected `int` >= 2023"]),
    (site_of(rest="    eu_report: {pdit_kw: 0}\n"), ["pdit_kw = '0': Expected `float` > 0.0"]),
    ("sites: {}", ["there is no site"]),
    ("halls: {}", ["unknown key 'halls'", "has no sites"]),
    ("- a", ["a topology was expected"]),
    # Names
    (site_of("a: {role: it, feeds: b}"), ["there is no meter 'b'"]),
    (site_of("a: {role: it, racks: 'r[1-3]'}"), ["there is no rack 'r1' (and 2 more like it)"]),
    (site_of("a: {role: it, hall: H2}", "H1: {}"), ["there is no hall 'H2'"]),
    (site_of("a[1-2]: {role: other}\na2: {role: it}"), ["meter 'a2' is there already"]),
    (site_of("", "H: {racks: [a, a]}"), ["rack 'a' stands in hall 'H' already"]),
    (site_of("", "H: {rows: {A: {racks: a}}}\nI: {racks: a}"), ["rack 'a' stands in hall 'H', row 'A' already"]),
    (site_of("", "H: {rows: {'A[1-2]': {}, A2: {}}}"), ["row 'A2' of hall 'H' is there already"]),
    (site_of("", "'H[1-2]': {}\nH2: {}"), ["hall 'H2' is there already"]),
    (site_of("a: {role: other, feeds: [b, b]}\nb: {role: it}"), ["meter 'b' is named twice"]),
    (site_of("a: {role: it, node: 'n[1-2]'}"), ["'n[1-2]' is 2 names"]),
    (site_of("", "H: {racks: a, rack_budgets_kw: {b: 1}}"), ["there is no rack 'b' in hall 'H'"]),
    (site_of("", "H: {racks: a, rack_budgets_kw: {a: 1, 'a[*]': 1}}"),
     ["'a[*]': it has 1 [*], and the name that it goes by has 0 ranges"]),
    (site_of("", "H: {racks: 'a[1-2]', rack_budgets_kw: {a1: 1, 'a[1-2]': 1}}"), ["rack 'a1' has a budget already"]),
    # Loops
    (site_of("a: {role: other, feeds: b}\nb: {role: other, feeds: a}"), ["feeds go round: a → b → a"]),
    (site_of("a: {role: other, feeds: a}"), ["feeds go round: a → a"]),
    (site_of("a: {role: other, plus: b}\nb: {role: other, plus: a}"),
     ["virtual meters are made of themselves: a → b → a"]),
    (site_of("v: {role: other, plus: a, feeds: a}\na: {role: other}"), ["feeds go round: v → a → v"]),
    # Counted twice
    (site_of("a: {role: utility, feeds: b}\nb: {role: generation}"),
     ["b (role generation) is behind a (role utility): what flows through both would count twice"]),
    (site_of("a: {role: fuel, feeds: b}\nb: {role: generation}"),
     ["b (role generation) is behind a (role fuel): what flows through both would count twice"]),
    (site_of("a: {role: pdu, feeds: m}\nm: {role: other, feeds: b}\nb: {role: pdu}"),
     ["b (role pdu) is behind a (role pdu): what flows through both would count twice"]),
    (site_of("a: {role: ups_out, feeds: b}\nb: {role: ups_out}"),
     ["b (role ups_out) is behind a (role ups_out): what flows through both would count twice"]),
    (site_of("a: {role: it, feeds: b}\nb: {role: it}"),
     ["b (role it) is behind a (role it): what flows through both would count twice"]),
    (site_of("a: {role: cooling, feeds: b}\nb: {role: pump}"),
     ["b (role pump) is behind a (role cooling): what flows through both would count twice"]),
    (site_of("a: {role: water, feeds: b}\nb: {role: water}"),
     ["b (role water) is behind a (role water): what flows through both would count twice"]),
    (site_of("v: {role: pdu, plus: [a, b]}\na: {role: pdu}\nb: {role: other}"),
     ["a counts twice: in a (role pdu), v (role pdu)"]),
    (site_of("v: {role: it, plus: [a, b]}\nw: {role: it, plus: [b, c]}\n'[a-c]': {role: other}"),
     ["b counts twice: in v (role it), w (role it)"]),
    (site_of("v: {role: it, plus: [w, a]}\nw: {role: other, plus: a}\na: {role: other}"),
     ["a counts 2 times: in v (role it)"]),
    (site_of("x: {role: pdu, feeds: a}\nv: {role: pdu, plus: a}\na: {role: other}"),
     ["v (role pdu) is behind x (role pdu): what flows through both would count twice"]),
    (site_of("v: {role: pdu, plus: a, feeds: b}\na: {role: other}\nb: {role: pdu}"),
     ["b (role pdu) is behind v (role pdu): what flows through both would count twice"]),
    (site_of("a: {role: pdu, racks: r}\nb: {role: pdu, racks: r}", "H: {racks: r}"),
     ["rack 'r' is under two meters of role pdu that are no A/B pair: a and b"]),
    (site_of("a: {role: pdu, feed: A, racks: r}\nb: {role: pdu, feed: A, racks: r}", "H: {racks: r}"),
     ["rack 'r' is under two meters of role pdu that are no A/B pair: a and b"]),
    (site_of("a: {role: pdu, feeds: x}\nx: {role: other, racks: r}\nb: {role: pdu, racks: r}", "H: {racks: r}"),
     ["rack 'r' is under two meters of role pdu that are no A/B pair: a and b"]),
    (site_of("a: {role: it, node: n}\nb: {role: other, node: n}"), ["node 'n' is metered twice, by a and b"]),
    # Units
    (site_of("w: {role: water, racks: r}", "H: {racks: r}"), ["w (role water) measures water and has racks"]),
    (site_of("w: {role: heat_reuse, node: n}"), ["w (role heat_reuse) measures heat and has node"]),
    (site_of("w: {role: water, feeds: p}\np: {role: pump}"),
     ["w measures water and feeds p, which measures electricity"]),
    (site_of("p: {role: cooling, feeds: f}\nf: {role: fuel}"),
     ["p measures electricity and feeds f, which measures fuel"]),
    (site_of("v: {role: cooling, plus: [a, w]}\na: {role: other}\nw: {role: water}"),
     ["v (role cooling) is a sum of electricity and water"]),
    (site_of("v: {role: other, plus: [a, w]}\na: {role: pdu}\nw: {role: water}"),
     ["v (role other) is a sum of electricity and water"]),
    (site_of("v: {role: other, plus: t}\nt: {role: temperature}"), ["v (role other) is a sum of temperature"]),
    # Each for itself
    (site_of("a: {role: it, minus: b}\nb: {role: other}"), ["a: minus comes without plus"]),
    (site_of("a: {role: it, plus: b, minus: b}\nb: {role: other}"), ["'b' is added as well"]),
    (site_of("a: {role: it, since: 2026-02-01, until: 2026-02-01}"),
     ["a: since = 2026-02-01T00:00:00+00:00 is not before until = 2026-02-01T00:00:00+00:00"]),
    (site_of("a: {role: it, fuel_kwh_per_l: 9.9}"), ["a: fuel_kwh_per_l does not go with role it"]),
    (site_of("a: {role: it, potable: true}"), ["a: potable does not go with role it"]),
    (site_of("a: {role: utility, backup: true}"), ["a: backup does not go with role utility"]),
    (site_of("a: {role: water, feed: A, breaker_a: 5}"),
     ["a: feed does not go with role water", "a: breaker_a does not go with role water"]),
    (site_of("a: {role: fuel, fuel_kwh_per_l: 35.6}"), ["fuel_kwh_per_l = '35.6': Expected `float` <= 15.0"]),
    (site_of("a: {role: utility, rated_kw: 100, contract_kw: 120}"),
     ["a: contract_kw = 120 is more than rated_kw = 100"]),
    (site_of("a: {role: pdu, rated_kw: 22000, breaker_a: 32}"),
     ["a: rated_kw = 22000 at breaker_a = 32 is 6.875e+05 V"]),
    (site_of("a: {role: pdu, rated_kw: 0.022, breaker_a: 32}"), ["a: rated_kw = 0.022 at breaker_a = 32 is 0.6875 V"]),
    (site_of("", "H: {rows: {A: {racks: r, budget_kw: 9}}, budget_kw: 8, rack_budgets_kw: {r: 10}}",
             "    budget_kw: 7\n"),
     ["budget of hall 'H' is 8 kW, more than that of site 'oslo', 7 kW",
      "budget of row 'H/A' is 9 kW, more than that of hall 'H', 8 kW",
      "budget of rack 'r' is 10 kW, more than that of row 'H/A', 9 kW"]),
    (site_of(rest="    eu_report: {sdc_m2: 1, scr_m2: 2}\n"), ["scr_m2 = 2 is more than sdc_m2 = 1"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problems"), WRONG)
def test_what_is_wrong_is_named(text: str, problems: list[str]) -> None:
    assert sorted(words(text)) == sorted(problems)
    lines = text.splitlines()
    for it in found(text):
        assert it.remedy
        assert it.line is not None and 1 <= it.line <= len(lines)
    with pytest.raises(Unfit) as caught:
        files.read(text.encode())
    assert caught.value.exit_code == ExitCode.DATA


def test_all_is_told_at_once_where_it_stands() -> None:
    text = """\
sites:
  oslo:
    halls:
      H1: {racks: "A-[1-3]"}
    meters:
      grid:
        role: utilty
      pdu:
        role: pdu
        rated_kw: 5 kW
        feeds:
          - gridd
          - grid
        rack: "A-[1-3]"
      pdu:
        role: pdu
  paris:
    budgetkw: 7
"""
    told = {it.line: (it.place, it.problem, it.remedy) for it in found(text) if it.severity == "error"}
    meters = "sites.oslo.meters"
    assert told == {
        7: (f"{meters}.grid.role", "role = 'utilty' is not known", "Did you mean 'utility'?"),
        8: (f"{meters}.pdu", "'pdu' is there twice, on lines 8 and 15", "A key comes once."),
        10: (f"{meters}.pdu.rated_kw", "rated_kw = '5 kW' is no number",
             "Write digits alone, with a point for decimals: the unit is in the key's name."),
        12: (f"{meters}.pdu.feeds.0", "there is no meter 'gridd'", "Did you mean 'grid'?"),
        14: (f"{meters}.pdu.rack", "unknown key 'rack' of meters.pdu", "Did you mean 'racks'?"),
        18: ("sites.paris.budgetkw", "unknown key 'budgetkw' of paris", "Did you mean 'budget_kw'?"),
    }  # fmt: skip


GOOD = {
    "A and B": site_of(
        "u: {role: utility, feeds: [a, b]}\n"
        "a: {role: ups_out, feed: A, feeds: pa}\nb: {role: ups_out, feed: B, feeds: pb}\n"
        "pa: {role: pdu, racks: r}\npb: {role: pdu, racks: r}", "H: {racks: r}",
    ),
    "a sum of four whips": site_of(
        "u: {role: utility}\n'w[1-4]': {role: other}\nv: {role: pdu, plus: 'w[1-4]', racks: r}", "H: {racks: r}"
    ),
    "the rest of a whole": site_of(
        "u: {role: utility}\nall: {role: other, feeds: s}\ns: {role: it}\nrest: {role: it, plus: all, minus: s}"
    ),
    "the rest of a whole, and what is behind what was taken out": site_of(
        "u: {role: utility}\nall: {role: other, feeds: s}\ns: {role: other, feeds: t}\nt: {role: it}\n"
        "rest: {role: it, plus: all, minus: s}"
    ),
    "one after the other": site_of(
        "u: {role: utility}\n"
        "old: {role: pdu, racks: r, until: 2026-01-01}\nnew: {role: pdu, racks: r, since: 2026-01-01}\n"
        "x: {role: it, node: n, until: 2026-01-01}\ny: {role: it, node: n, since: 2026-01-01}\n"
        "p: {role: ups_out, feeds: q, until: 2026-01-01}\nq: {role: ups_out, since: 2026-01-01}", "H: {racks: r}",
    ),
    "a generator": site_of("f: {role: fuel, backup: true, feeds: g}\ng: {role: other, feeds: p}\np: {role: pdu}"),
    "a node with two feeds": site_of(
        "u: {role: utility}\na: {role: it, node: n, feed: A}\nb: {role: it, node: n, feed: B}"
    ),
    "800 V direct current": site_of("u: {role: utility}\na: {role: pdu, rated_kw: 800, breaker_a: 1000}"),
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_what_is_right_passes_without_a_word(text: str) -> None:
    assert found(text) == []


NO_PUE = "site 'oslo' can have no measured PUE: no meter has role"


@pytest.mark.parametrize(
    ("text", "line", "warning"),
    [
        (site_of(), 2, f"{NO_PUE} utility, generation or fuel"),
        (site_of("a: {role: pdu}\nb: {role: it}"), 3,
         f"{NO_PUE} utility, generation or fuel; with one, of category 2 and 3"),
        (site_of("a: {role: utility}"), 3, f"{NO_PUE} ups_out (category 1), pdu (category 2) or it (category 3)"),
        (site_of("a: {role: utility}\np: {role: pdu, racks: r1}", "H: {racks: 'r[1-9]'}"), 5,
         "PUE of category 2 leaves out racks that no meter of role pdu feeds: r2, r3, r4, r5, r6, r7 and 2 more"),
        (site_of("a: {role: utility}\nx: {role: ups_out, feed: A, feeds: y}\ny: {role: pdu, feed: B}"), 5,
         "x is of feed A and feeds y of feed B"),
    ],
)  # fmt: skip
def test_what_may_be_meant_is_a_warning(text: str, line: int, warning: str) -> None:
    (it,) = found(text)
    assert (it.severity, it.line, it.problem) == ("warning", line, warning)
    assert files.read(text.encode()).checked.findings == [it]


def chain() -> str:
    """Each fed by the next, and made of it."""
    return "\n".join(f"m{it}: {{role: other, feeds: m{it - 1}, plus: m{it - 1}}}" for it in range(20_000))


WIDE = "site 'oslo' has more than 300000 names, written out"


def bomb() -> str:
    lines = ["a: &a [x]"]
    lines += [f"{chr(98 + it)}: &{chr(98 + it)} [{', '.join([f'*{chr(97 + it)}'] * 9)}]" for it in range(9)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("body", "line", "problem"),
    [
        (bomb().encode(), 1, "&a is an anchor"),
        (b"sites: *x", 1, "*x is an alias"),
        (b"sites:\n  o: !!python/object/apply:os.system [ls]", 2,
         "'tag:yaml.org,2002:python/object/apply:os.system' is a tag"),
        (b"sites:\n\to: {}", 2, "this is not YAML: while scanning for the next token found character that cannot"),
        (b"", 1, "the file is empty"),
        (b"# nothing\n", 1, "the file is empty"),
        (b"null", 1, "a topology was expected"),
        (b"sites: null", 1, "there is no site"),
        (b"\x00\x01\x02", 1, "a character that text does not have"),
        (b"sites:\n  o: \xff\xfe", 2, "the file is no text in UTF-8"),
        (b"sites: {}\n---\nsites: {}", 2, "there is a second document"),
        (b"[" * 100_000, 1, "this is nested deeper than a topology is"),
        (b"{a: " * 100_000, 1, "this is nested deeper than a topology is"),
        (b"\n".join(b" " * it + b"- " for it in range(1_000)), 13, "this is nested deeper than a topology is"),
        (b"? [a, b]\n: c", 1, "a key is no name"),
        (b"sites: {oslo: {meters: {A-[1-3]: {role: it}}}}", 1, "this is not YAML"),
        (b"x" * (10 * 2**20), None, "the file is larger than 4 MiB"),
        (b"- a\n" * 600_000, 500_000, "there are more than 500000 values"),
        (b'sites: {"o\\ud800": {}}', 1, "this is not YAML: while parsing a quoted scalar"),
        (b'sites: {"o\\0": {}}', 1, "name in sites = 'o\\x00'"),
        (site_of("'m[1-20000][1-3]': {role: it}").encode(), 4, "'m[1-20000][1-3]': it makes 60000 names"),
        (site_of("\n".join(f"'{it}[1-20000]': {{role: it}}" for it in "abcdefghijklmnop")).encode(), 2, WIDE),
        (site_of("'m[1-20000]': {role: other, racks: 'r[1-20000]'}", "H: {racks: 'r[1-20000]'}").encode(), 2, WIDE),
        (site_of("'m[1-20000]': {role: other, hall: 'h[1-20000]'}").encode(), 2, WIDE),
        (site_of("", "'H[1-20000]': {rows: {'R[1-20000]': {racks: 'r[1-20000]'}}}").encode(), 2, WIDE),
        (site_of(chain()).encode(), 4, "there is no meter 'm-1'"),
        (site_of("'v[1-300]': {role: it, plus: 'm[1-900]'}\n'm[1-900]': {role: other}").encode(), 2,
         "virtual meters are made of more than 200000 meters"),
        (site_of("'m[1-5000]': {role: other, feeds: 'x[1-50]'}").encode(), 4,
         "there is no meter 'x1' (and 249999 more like it)"),
        (f"sites: {{{', '.join(f's{it}: {{x: }}' for it in range(20_000))}}}".encode(), 1, "unknown key 'x' of s0"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused_soon(body: bytes, line: int | None, problem: str) -> None:
    began = time.process_time()
    told = [it for it in found(body) if it.severity == "error"]
    assert time.process_time() - began < 20
    assert (told[0].line, problem) == (line, told[0].problem[: len(problem)])


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_do_harm(body: bytes) -> None:
    _, checked = files.examine(body)
    assert checked.findings


KEYS = ["sites", "halls", "rows", "racks", "meters", "role", "feeds", "plus", "m", "n", "m[1-2]", "eu_report"]
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


@given(DOCUMENTS)
def test_no_document_does_harm(document: object) -> None:
    body = yaml.safe_dump({"sites": {"o": document}}, allow_unicode=True).encode()
    _, checked = files.examine(body)
    for it in checked.findings:
        assert it.remedy


def random_site(choose: random.Random) -> tuple[dict[str, Any], dict[str, tuple[str, str]], dict[str, set[str]]]:
    """A valid site as a document, with what it means: where each rack stands, and the racks of each PDU."""
    halls: dict[str, Any] = {}
    racks: dict[str, tuple[str, str]] = {}
    pdus: dict[str, set[str]] = {}
    meters: dict[str, Any] = {"grid-[1-2]": {"role": "utility", "feeds": ["ups-[A-B]"]}}
    feeds: dict[str, list[str]] = {"A": [], "B": []}
    for hall in range(choose.randint(1, 3)):
        rows: dict[str, Any] = {}
        for row in range(choose.randint(1, 3)):
            count, name = choose.randint(1, 12), f"R{hall}{row}"
            written = f"{name}-[01-{count:02d}]"
            names = [f"{name}-{it:02d}" for it in range(1, count + 1)]
            rows[name] = {"racks": [written] if choose.random() < 0.5 else names}
            racks.update(dict.fromkeys(names, (f"H{hall}", name)))
            for feed in "AB":
                if choose.random() < 0.5:
                    pdu = f"pdu-{name}-[01-{count:02d}]-{feed}"
                    meters[pdu] = {"role": "pdu", "racks": [f"{name}-[*]"]}
                    pdus.update({f"pdu-{it.partition('-')[0]}-{it[-2:]}-{feed}": {it} for it in names})
                else:
                    pdu = f"busway-{name}-{feed}"
                    meters[pdu] = {"role": "pdu", "racks": [written]}
                    pdus[pdu] = set(names)
                feeds[feed].append(pdu)
        halls[f"H{hall}"] = {"rows": rows}
    for feed, fed in feeds.items():
        meters[f"ups-{feed}"] = {"role": "ups_out", "feed": feed, "feeds": fed}
    return {"halls": halls, "meters": meters}, racks, pdus


@given(st.randoms(use_true_random=False))
def test_a_random_site_means_what_it_was_made_of(choose: random.Random) -> None:
    document, racks, pdus = random_site(choose)
    text = yaml.safe_dump({"sites": {"s": document}}, sort_keys=False)
    read = files.read(text.encode())
    assert read.checked.findings == []
    assert json.loads(msgspec.json.encode(read.topology)) == {"sites": {"s": document}}
    plan = in_force("s", read.topology.sites["s"])
    # Every rack stands in one hall and row, and hangs on one PDU of each feed.
    assert {name: (it.hall, it.row) for name, it in plan.racks.items()} == racks
    assert {name: set(it.racks) for name, it in plan.meters.items() if it.declared.role == "pdu"} == pdus
    down = Flow(plan).feeds
    for rack in racks:
        assert sorted(down[name] or "" for name, it in plan.meters.items() if rack in it.racks) == ["A", "B"]
    # One that is put behind itself goes round, wherever that is.
    wrong = {**document, "meters": {**document["meters"], "back": {"role": "other", "feeds": ["grid-1"]}}}
    first = next(it for it in document["meters"] if it.startswith("busway") or "pdu" in it)
    wrong["meters"][first] = {**wrong["meters"][first], "feeds": ["back"]}
    assert any("feeds go round" in it for it in words(yaml.safe_dump({"sites": {"s": wrong}})))
    parsed(picture.drawn(plan))


def large() -> str:
    """2,016 racks in 84 rows, each with two PDUs that are declared one by one."""
    rows = [f"{hall}{row:02d}" for hall in "ABCD" for row in range(1, 22)]
    halls = {
        hall: {"rows": {row: {"racks": [f"{row}-[01-24]"]} for row in rows if row[0] == hall}, "budget_kw": 60_000.0}
        for hall in "ABCD"
    }
    meters: dict[str, Any] = {"grid": {"role": "utility", "feeds": [f"ups-{it}-[A-D]" for it in "ab"]}}
    for feed in "ab":
        for hall in "ABCD":
            fed = [f"pdu-{row}-[01-24]-{feed}" for row in rows if row[0] == hall]
            meters[f"ups-{feed}-{hall}"] = {"role": "ups_out", "feed": feed.upper(), "feeds": fed}
    for row in rows:
        for rack in range(1, 25):
            for feed in "ab":
                meters[f"pdu-{row}-{rack:02d}-{feed}"] = {"role": "pdu", "racks": [f"{row}-{rack:02d}"]}
    return yaml.safe_dump({"sites": {"large": {"halls": halls, "meters": meters}}}, sort_keys=False)


def test_a_large_site_is_checked_and_drawn_soon_by_row() -> None:
    text = large()
    began = time.process_time()
    plan = planned(text)
    checked = time.process_time()
    svg = picture.drawn(plan)
    drawn = time.process_time()
    assert len(plan.racks) == 2_016 and len(plan.meters) == 4_041
    assert (checked - began < 10) and (drawn - checked < 5)
    texts = [it.text for it in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert [it for it in texts if it and it.startswith("Row A01")] == ["Row A01 · 24 racks"]
    assert sum(it.startswith("Row ") for it in texts if it) == 84
    assert len(svg) < 200_000


def test_the_picture_says_what_is_in_the_file() -> None:
    svg = picture.drawn(planned(EXAMPLE))
    root = parsed(svg)
    space = "{http://www.w3.org/2000/svg}"
    texts = [it.text for it in root.iter(f"{space}text")]
    for label in (
        "oslo",
        "grid-[1-2]",
        "ups-A",
        "Row A1",
        "Hall H1 · ≤ 4500 kW",
        "feed A",
        "= chillers − pumps",
        "A",
        "B",
    ):
        assert any(label in (it or "") for it in texts), label
    assert "oslo" in root.findtext(f"{space}title", "") and "feeds" in root.findtext(f"{space}desc", "")
    assert (root.get("role"), len(root.get("aria-labelledby", "").split())) == ("img", 2)
    assert "prefers-color-scheme: dark" in svg
    # A page's own theme need not be that of the system.
    for scheme, other in (("light", "dark"), ("dark", "light")):
        of_page = picture.drawn(planned(EXAMPLE), scheme)
        assert picture.COLOURS[scheme] in of_page
        assert not any(it in of_page for it in ("prefers-color-scheme", picture.COLOURS[other]))
    assert svg == picture.drawn(planned(EXAMPLE))


def test_names_do_no_harm_in_a_picture() -> None:
    name = "<script>alert('x')</script>&\"\u202e\ufffe"
    document = {"meters": {name: {"role": "utility", "feeds": ["a"]}, "a": {"role": "pdu", "node": name}}}
    svg = picture.drawn(in_force(name, msgspec.convert(document, Site)))
    assert "<script" not in svg
    assert any(name[:8] in (it.text or "") for it in parsed(svg).iter())
    parsed(picture.drawn(in_force("empty", Site())))


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    path = tmp_path / "oslo.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    result = CliRunner().invoke(commands.topology, ["check", str(path)])
    assert (result.exit_code, result.output) == (
        0, "oslo: 3 halls, 6 rows, 130 racks, 409 meters (1 virtual); PUE of category 1, 2.\n",
    )  # fmt: skip
    path.write_text(EXAMPLE.replace("feeds: mv-board", "feeds: mv-bord"), encoding="utf-8")
    result = CliRunner().invoke(commands.topology, ["check", str(path), "--json"])
    assert result.exit_code == ExitCode.DATA
    told = msgspec.json.decode(result.output)["findings"]
    assert [it["problem"] for it in told] == [
        "there is no meter 'mv-bord' (and 1 more like it)",
        "there is no meter 'mv-bord'",
    ]
    assert {it["remedy"] for it in told} == {"Did you mean 'mv-board'?"}


def test_limits_are_those_of_the_documentation() -> None:
    assert f"up to {nodes.MOST_BYTES // 2**20} MiB" in PAGE
