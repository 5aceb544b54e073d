"""Reports through the real path: registers and windows in, fold, files out, and their values read back."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from api.factors import commands as factors
from api.meter_commands import import_
from api.reports.commands import report as command
from gigawatch import report_readings
from gigawatch.records import Event, Severity
from tests.facility import DAY, HOUR, fold, hourly, place, send, today, window

Run = Callable[..., str]
START = today() - 3 * DAY
YEAR = 2025
OF_YEAR = {
    "guarantees_of_origin_kwh": 3_000_000, "ppa_kwh": 2_000_000, "on_site_renewable_kwh": 1_000_000,
    "backup_generators_kwh": 5_000,
}  # fmt: skip
OF_SITE = {"pdit_kw": 1_200, "sdc_m2": 3_000, "scr_m2": 1_500}
EU_NUMBERS = {
    "PUE": 1.25, "WUE": 1.5, "ERF": 0.15, "REF": 0.6, "EDC": 10_000_000, "EDC-BG": 5_000, "EIT": 8_000_000,
    "WIN": 12_000, "WIN-POT": 12_000, "EREUSE": 1_500_000, "ERES-TOT": 6_000_000, "ERES-GOO": 3_000_000,
    "ERES-PPA": 2_000_000, "ERES-OS": 1_000_000, "PDIT": 1_200, "SDC": 3_000,
    "SCR": 1_500,
}  # fmt: skip
UTILITY_AND_PDU = {"u": {"role": "utility"}, "p": {"role": "pdu"}}


@pytest.fixture
def run(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a verb on the store, in a folder of its own; what it wrote to standard output and error."""
    of_store = ["--database-url", engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    monkeypatch.chdir(tmp_path)

    def invoke(verb: Any, name: str, *arguments: str, status: int = 0, stderr: bool = False) -> str:
        result = CliRunner().invoke(verb, [name, *of_store, *arguments], obj=None)
        assert result.exit_code == status, (result.output, result.exception)
        return result.stderr if stderr else result.stdout

    return invoke


def declare(engine: Engine) -> None:
    """What meters cannot know, as a topology does."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO gigawatch.topology (site_id, source, sha256, document)"
                " SELECT site_id, 'oslo.yaml', repeat('ab', 32), CAST(:it AS json) FROM gigawatch.site"
            ),
            {"it": json.dumps({"eu_report": {**OF_SITE, "years": {str(YEAR): OF_YEAR}}})},
        )


def a_year(engine: Engine, run: Run, tmp_path: Path) -> None:
    """The EU form's numbers as registers of a year."""
    place(engine, {"u": {"role": "utility"}, "i": {"role": "pdu"}, "h": {"role": "heat_reuse"},
                   "w": {"role": "water", "potable": True}})  # fmt: skip
    for unit, totals in (("kwh", {"u": 10_000_000, "i": 8_000_000, "h": 1_500_000}), ("m3", {"w": 12_000})):
        path = tmp_path / f"{unit}.csv"
        lines = [f"{year}-01-01T00:00Z,{meter},{total * (year - YEAR)}" for meter, total in totals.items()
                 for year in (YEAR, YEAR + 1)]  # fmt: skip
        path.write_text("\n".join([f"start,meter,register_{unit}", *lines]))
        run(import_, str(path), "--site", "oslo")
    fold(engine, datetime(YEAR + 1, 1, 1, 2, tzinfo=UTC))


def tables_of_csv(body: str) -> dict[str, list[dict[str, str]]]:
    """Rows by table, put together again from the long form."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for line in csv.DictReader(io.StringIO(body)):
        found.setdefault(line["table"], {}).setdefault(line["row"], {})[line["column"]] = line["value"]
    return {table: list(rows.values()) for table, rows in found.items()}


def test_example_9_in_each_format(engine: Engine, run: Run, tmp_path: Path) -> None:
    """EDC 10 GWh, EIT 8 GWh, WIN 12,000 m³, reuse 1.5 GWh, renewable 6 GWh: PUE 1.25, WUE 1.5, ERF 0.15, REF 0.60."""
    a_year(engine, run, tmp_path)
    declare(engine)
    asked = ("eu-eed", "--site", "oslo", "--year", str(YEAR), "--strict")
    formats = [it for name in ("json", "csv", "xlsx", "html") for it in ("--format", name)]
    said = run(command, *asked, *formats, stderr=True)
    paths = {name: tmp_path / f"gigawatch-eu-eed-oslo-{YEAR}.{name}" for name in ("json", "csv", "xlsx", "html")}
    assert all(f"Wrote {path.name}" in said and path.exists() for path in paths.values())

    of_json = json.loads(paths["json"].read_text())
    assert {it["indicator"]: it["value"] for it in of_json["tables"]["indicators"]["rows"]} == EU_NUMBERS
    assert (of_json["missing"], of_json["simulated"]) == ([], False)
    assert of_json["facts"]["Regime"].startswith("Delegated Regulation (EU) 2024/1364")
    assert of_json["facts"]["Year of the figures"] == f"{YEAR}, calendar year, UTC"
    assert of_json["facts"]["Reporting year"] == str(YEAR + 1)
    assert "State of the regime" not in of_json["facts"]
    assert "SHA-256 " + "ab" * 32 in of_json["versions"]["Topology in force"]
    assert len(of_json["versions"]["Definition of the views"].removeprefix("SHA-256 ")) == 64

    of_csv = tables_of_csv(paths["csv"].read_text())
    assert {it["indicator"]: float(it["value"]) for it in of_csv["indicators"]} == EU_NUMBERS
    assert len(of_csv["months"]) == 12

    book = openpyxl.load_workbook(paths["xlsx"])
    rows = list(book["indicators"].values)
    assert {row[0]: row[2] for row in rows[1:]} == EU_NUMBERS
    assert book["indicators"].freeze_panes == "A2"
    months = list(book["months"].values)
    assert months[0][:5] == ("Month", "Category", "Name", "PUE (1)", "Facility (kWh)")
    assert months[1][:4] == (datetime(YEAR, 1, 1), 2, "interim PUE", 1.25)  # noqa: DTZ001 # as sheets have it
    assert sum(row[4] for row in months[1:]) == pytest.approx(10_000_000)

    page = paths["html"].read_text()
    for words in ("<dd>1.250</dd>", "<dd>1.500 m³/MWh</dd>", "<dd>0.150</dd>", "<dd>0.600</dd>", "(EU) 2024/1364",
                  "Signature", "PUE by month (category 2, PDU output)"):  # fmt: skip
        assert words in page
    assert "imulated data" not in page


def test_what_is_missing_of_the_eus_form_is_named(engine: Engine, run: Run) -> None:
    place(engine, {"u": {"role": "utility"}})
    asked = ("eu-eed", "--site", "oslo", "--year", str(YEAR), "--format", "json", "--output", "-")
    said = run(command, *asked, stderr=True)
    assert said.startswith("Missing inputs: 12\n  EDC: no hour has meters of the sources")
    for field, remedy in (
        ("PDIT: eu_report.pdit_kw", "topology apply"), ("WIN: no hour has meters of role water", "Place them"),
        (f"ERES-GOO: eu_report.years.{YEAR} in the topology: guarantees_of_origin_kwh", "write 0"),
    ):  # fmt: skip
        assert field in said
        assert remedy in said.partition(field)[2]
    found = json.loads(run(command, *asked))
    assert {it["indicator"] for it in found["missing"]} == EU_NUMBERS.keys() - {"PUE", "WUE", "ERF", "REF", "ERES-TOT"}
    assert [it["how"] for it in found["tables"]["indicators"]["rows"]] == ["missing"] * 17
    run(command, *asked, "--strict", status=1)
    # The page is made all the same, and says it.
    page = run(command, *asked[:-3], "html", "--output", "-")
    assert "Missing inputs: 12" in page
    assert "<svg" not in page


def test_a_regime_that_may_not_be_in_force_is_said_to_be_that(engine: Engine, run: Run) -> None:
    place(engine, {"u": {"role": "utility"}})
    found = json.loads(run(command, "eu-eed", "--site", "oslo", "--year", "2026", "--format", "json", "--output", "-"))
    facts = found["facts"]
    assert facts["Regime"].endswith("as amended by C(2026) 3472 final, due on 15 May 2027")
    assert "entry into force are not known" in facts["State of the regime"]
    assert facts["Reporting year"] == "2027"
    lacking = {it["indicator"]: it["lacks"] for it in found["missing"]}
    assert "WIN-POT" not in lacking
    assert lacking["WIN-FRE"] == "no hour has meters of role water and of IT"


def gaps(engine: Engine, stop: datetime, category: int | None = None) -> list[tuple[str, int, int, str, str]]:
    """Figure, first hour, hours, state and reasons."""
    with engine.connect() as connection:
        return [
            (it.figure, (it.time - START) // HOUR, it.hours, it.state,
             "; ".join(f"{meter}: {reason}" for meter, reason in zip(it.meters, it.reasons, strict=False))
             or "; ".join(it.reasons))
            for it in report_readings.gaps(connection, START, stop, "oslo", category)
        ]  # fmt: skip


def test_missing_hours_are_ranges_with_the_meters_that_are_why(engine: Engine) -> None:
    place(engine, {**UTILITY_AND_PDU, "below": {"role": "pdu"}, "late": {"role": "pdu", "since": START + 20 * HOUR},
                   "w": {"role": "water", "potable": None}}, feeds=[("p", "below")])  # fmt: skip
    send(engine, [
        *hourly("u", START, 4, kwh=120), *hourly("u", START + 7 * HOUR, 17, kwh=120),
        # Behind p: what it lacks is no gap.
        *hourly("below", START, 1, kwh=10),
        *hourly("p", START, 9, kwh=100), window("p", START + 9 * HOUR, kwh=50, covered_ms=1_800_000),
        window("p", START + 10 * HOUR, kwh=130), *hourly("p", START + 11 * HOUR, 13, kwh=100),
        *hourly("w", START, 24, volume_ml=1_000),
    ])  # fmt: skip
    fold(engine, START + DAY)
    found = gaps(engine, START + DAY)
    assert [it for it in found if it[0] == "pue"] == [
        ("pue", 4, 3, "missing", "u: no data"),
        ("pue", 9, 1, "missing", "p: known in part"),
        ("pue", 10, 1, "faulty", "energy of IT above that of the sources"),
        ("pue", 20, 4, "missing", "late: no data"),
    ]
    # Without the utility meter, but with water: what is missing is another.
    assert [it[1:3] for it in found if it[0] == "wue"] == [(9, 1), (20, 4)]
    assert {it[4] for it in found if it[0] == "wue_potable"} >= {"w: nobody said whether it is drinking water"}
    # All hours of the period are in a sum or in a gap.
    with engine.connect() as connection:
        dropped = sum(it[2] for it in found if it[0] == "pue")
        counted = connection.scalar(
            text("SELECT hours FROM report.pue(:start, :stop, group_by => 'site')"),
            {"start": START, "stop": START + DAY},
        )
    assert dropped + counted == 24
    assert gaps(engine, START + DAY, 3) == []


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"kwh": 0, "power_mean_mw": 10**8, "power_min_mw": 10**8, "power_max_mw": 10**8, "readings_taken": 360},
         "p: it stood still"),
        ({"kwh": 100, "power_mean_mw": -(10**8), "power_min_mw": -(10**8), "power_max_mw": -1},
         "p: power flowed backwards"),
    ],
)  # fmt: skip
def test_faulty_hours_name_the_meter(engine: Engine, wrong: dict[str, int], why: str) -> None:
    place(engine, UTILITY_AND_PDU)
    send(engine, [*hourly("u", START, 3, kwh=120), window("p", START, kwh=100), window("p", START + HOUR, **wrong),
                  window("p", START + 2 * HOUR, kwh=100)])  # fmt: skip
    fold(engine, START + 3 * HOUR)
    assert gaps(engine, START + 3 * HOUR) == [("pue", 1, 1, "faulty", why)]


def test_hours_before_the_first_are_absent(engine: Engine) -> None:
    place(engine, UTILITY_AND_PDU)
    send(engine, [*hourly("u", START + 5 * HOUR, 3, kwh=120), *hourly("p", START + 5 * HOUR, 3, kwh=100)])
    fold(engine, START + 8 * HOUR)
    assert gaps(engine, START + DAY) == [("pue", 0, 5, "absent", "no meters for both sums")]


@pytest.fixture
def a_month(engine: Engine, run: Run, tmp_path: Path) -> datetime:
    """The first ten days of last month, with an hour that the utility meter lacks, and a price."""
    first = (today().replace(day=1) - DAY).replace(day=1)
    place(engine, {"=u": {"role": "utility", "contract_mw": 200_000_000}, "p": {"role": "pdu"}})
    its = [*hourly("=u", first, 30, kwh=120), *hourly("=u", first + 31 * HOUR, 10 * 24 - 31, kwh=120),
           *hourly("p", first, 10 * 24, kwh=100)]  # fmt: skip
    what = "<b>=u</b> said nothing for 5 min"
    event = Event(time=datetime.now(UTC), kind="meter_silent", severity=Severity.WARNING, message=what)
    send(engine, its, simulated=True, events=[event])
    with engine.begin() as connection:
        # Agents' own batches are never so old.
        connection.execute(text("UPDATE gigawatch.event SET time = :at"), {"at": first + 30 * HOUR})
    prices = tmp_path / "prices.csv"
    prices.write_text(f"start,stop,price_per_kwh\n{first:%Y-%m-%dT%H:%MZ},{first + 40 * DAY:%Y-%m-%dT%H:%MZ},0.1\n")
    run(factors.tariff, "import", str(prices), "--site", "oslo", "--source", "=cmd()", "--currency", "EUR")
    fold(engine, first + 10 * DAY)
    return first


def test_a_month_in_each_format(a_month: datetime, run: Run, tmp_path: Path) -> None:
    asked = ("monthly", "--site", "oslo", "--month", f"{a_month:%Y-%m}")
    (tmp_path / "out").mkdir()
    formats = [it for name in ("json", "csv", "xlsx", "html") for it in ("--format", name)]
    run(command, *asked, *formats, "--output", "out")
    base = tmp_path / "out" / f"gigawatch-monthly-oslo-{a_month:%Y-%m}"
    found = json.loads(base.with_suffix(".json").read_text())
    assert found["simulated"] is True
    tables = {name: it["rows"] for name, it in found["tables"].items()}
    (pue,) = tables["pue"]
    assert (pue["pue"], pue["category"], pue["name"]) == (1.2, 2, "interim PUE")
    assert (pue["hours"], pue["hours_missing"]) == (239, 1)
    days = tables["days"]
    assert [it["pue"] for it in days[:10]] == [1.2] * 10
    assert {it["pue"] for it in days[10:]} == {None}
    assert (days[1]["hours"], days[1]["hours_missing"], days[1]["coverage"]) == (23, 1, pytest.approx(23 / 24))
    gap = tables["missing_hours"][0]
    assert (gap["hours"], gap["state"], gap["why"], gap["figures"]) == (1, "missing", "=u: no data", "PUE (category 2)")
    assert gap["start"] == f"{a_month + 30 * HOUR:%Y-%m-%dT%H:%M:%SZ}"
    assert {it["role"]: it["energy_kwh"] for it in tables["energy_by_role"]} == {"pdu": 24_000, "utility": 239 * 120}
    levels = {it["level"]: it["unexplained_kwh"] for it in tables["reconciliation"]}
    assert levels == {"pdu": None, "facility": 239 * 20}
    assert [(it["what"], it["power_kw"]) for it in tables["peaks"]] == [("facility", 120), ("IT", 100)]
    (capacity,) = tables["capacity"]
    assert (capacity["peak"], capacity["headroom"], capacity["unit"]) == (120_000, 80_000, "W")
    (event,) = tables["meter_events"]
    assert event["kind"] == "meter_silent"
    (source,) = tables["sources"]
    assert (source["what"], source["kind"], source["source"]) == ("price", "EUR", "=cmd()")
    assert {it["meter"]: it["coverage"] for it in tables["meters"]} == {"=u": pytest.approx(239 / 240), "p": 1}
    (cost,) = tables["facility_cost"]
    assert (cost["currency"], cost["cost"], cost["price_coverage"]) == ("EUR", pytest.approx(239 * 12), 1)
    assert tables["gpus"] == tables["energy_per_token"] == tables["water"] == []

    of_csv = tables_of_csv(base.with_suffix(".csv").read_text())
    assert [float(it["pue"]) for it in of_csv["days"][:10]] == [1.2] * 10
    assert (of_csv["meters"][0]["meter"], of_csv["sources"][0]["source"]) == ("'=u", "'=cmd()")

    book = openpyxl.load_workbook(base.with_suffix(".xlsx"))
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row]
    assert "f" not in {cell.data_type for cell in cells}
    assert {"=u", "=cmd()"} <= {cell.value for cell in cells if cell.data_type == "s"}
    day = next(book["days"].iter_rows(min_row=2))
    assert (day[0].value, day[3].value) == (a_month.replace(tzinfo=None), 1.2)
    assert {sheet.oddHeader.right.text for sheet in book} == {"SIMULATED DATA"}

    page = base.with_suffix(".html").read_text()
    assert "&lt;b&gt;=u&lt;/b&gt; said nothing" in page
    assert "<b>=u" not in page
    assert page.count("SIMULATED DATA") == 2
    assert "http" not in page.partition("<body>")[0].replace("http-equiv", "")


def test_a_month_is_of_the_sites_own_clocks(a_month: datetime, run: Run) -> None:
    asked = ("monthly", "--site", "oslo", "--month", f"{a_month:%Y-%m}", "--format", "json", "--output", "-")
    found = json.loads(run(command, *asked, "--time-zone", "Asia/Kolkata"))
    # At half past five the month's first full hour begins at 19:00 UTC of the day before.
    assert found["start"] == f"{a_month - 5 * HOUR:%Y-%m-%dT%H:%M:%SZ}"
    days = found["tables"]["days"]["rows"]
    assert (days[0]["hours"], days[0]["coverage"]) == (19, pytest.approx(19 / 24))
    assert found["tables"]["missing_hours"]["rows"][0]["state"] == "absent"


def test_a_month_that_is_not_over_says_so(engine: Engine, run: Run) -> None:
    place(engine, UTILITY_AND_PDU)
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if now - first < HOUR:
        run(command, "monthly", "--site", "oslo", "--month", f"{now:%Y-%m}", status=2)
        return
    asked = ("--site", "oslo", "--month", f"{now:%Y-%m}", "--format", "json", "--output", "-")
    found = json.loads(run(command, "monthly", *asked))
    assert "it is not over" in found["facts"]["Month"]
    assert len(found["tables"]["days"]["rows"]) == (now - timedelta(hours=1)).day


def test_what_cannot_be_reported_is_refused(engine: Engine, run: Run, tmp_path: Path) -> None:
    place(engine, UTILITY_AND_PDU)
    month = ("--month", "2026-01")
    assert "There are: oslo" in run(command, "monthly", "--site", "bergen", *month, status=1, stderr=True)
    assert "There are: oslo" in run(command, "eu-eed", "--site", "bergen", "--year", "2025", status=1, stderr=True)
    asked = ("monthly", "--site", "oslo")
    assert "like 2026-01" in run(command, *asked, "--month", "2026-13", status=2, stderr=True)
    assert "No hour of 2099-12" in run(command, *asked, "--month", "2099-12", status=2, stderr=True)
    assert "xlsx is no text" in run(command, *asked, *month, "--format", "xlsx", "--output", "-", status=2, stderr=True)
    both = ("--format", "csv", "--format", "html")
    assert "Name a folder" in run(command, *asked, *month, *both, "--output", "x.html", status=2, stderr=True)
    assert "cannot be written" in run(command, *asked, *month, "--output", "no/where.html", status=1, stderr=True)
    run(command, *asked, *month, "--time-zone", "Mars/Olympus", status=7)


def test_a_configured_pue_is_called_that(engine: Engine, run: Run) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO gigawatch.site (name) VALUES ('oslo')"))
    run(factors.pue, "set", "--pue", "1.4", "--site", "oslo", "--from", "2026-01-01", "--to", "2026-02-01",
        "--source", "design")  # fmt: skip
    asked = ("monthly", "--site", "oslo", "--month", "2026-01")
    found = json.loads(run(command, *asked, "--format", "json", "--output", "-"))
    (pue,) = found["tables"]["pue"]["rows"]
    assert (pue["name"], pue["pue"], pue["category"], pue["facility_energy_kwh"]) == ("configured PUE", 1.4, None, None)
    page = run(command, *asked, "--output", "-")
    assert "configured PUE" in page
    assert "There is no hour with a measured PUE." in page
