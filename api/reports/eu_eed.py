"""The yearly report of a site under Delegated Regulation (EU) 2024/1364, as amended where that is the regime."""

from datetime import UTC, datetime

from sqlalchemy import Connection

from api.reports import parts, periods
from api.reports.model import Chart, Column, Fact, Missing, Report, Series, Table
from api.reports.shown import shown
from gigawatch import facility_readings, report_readings
from gigawatch.facility_readings import EuIndicator, Pue, Water
from gigawatch.known import require_known

FIRST_YEAR, LAST_YEAR = 2023, 2100
NAMES = {
    "PUE": "Power usage effectiveness: EDC / EIT",
    "WUE": "Water usage effectiveness: WIN / EIT; from reporting year 2027 WIN-FRE / EIT",
    "ERF": "Energy reuse factor: EREUSE / EDC",
    "REF": "Renewable energy factor: ERES-TOT / EDC, at most 1",
    "EDC": "Energy consumption of the data centre",
    "EDC-BG": "Energy of backup generators",
    "EIT": "Energy consumption of the IT equipment",
    "WIN": "Water input",
    "WIN-POT": "Potable water input",
    "WIN-FRE": "Freshwater input",
    "EREUSE": "Waste heat that was reused",
    "ERES-TOT": "Renewable energy: ERES-GOO + ERES-PPA + ERES-OS",
    "ERES-GOO": "Renewable energy from guarantees of origin",
    "ERES-PPA": "Renewable energy from power purchase agreements",
    "ERES-OS": "Renewable energy made on site",
    "PDIT": "Installed power demand of the IT equipment",
    "SDC": "Floor area of the data centre",
    "SCR": "Floor area of the computer rooms",
}
_DECLARE = "Write it into the topology's file, and `gigawatch topology apply FILE`."
_DECLARE_ENERGY = f"{_DECLARE} Where there is none, write 0."
REMEDIES = {
    "EDC": parts.PLACE_METERS,
    "EDC-BG": _DECLARE_ENERGY,
    "EIT": parts.PLACE_METERS,
    "WIN": parts.PLACE_METERS,
    "WIN-POT": f"{_DECLARE} Where there is no meter: {parts.PLACE_METERS}",
    "WIN-FRE": f"{_DECLARE} Where there is no meter: {parts.PLACE_METERS}",
    "EREUSE": parts.PLACE_METERS,
    "ERES-GOO": _DECLARE_ENERGY,
    "ERES-PPA": _DECLARE_ENERGY,
    "ERES-OS": _DECLARE_ENERGY,
    "PDIT": _DECLARE,
    "SDC": _DECLARE,
    "SCR": _DECLARE,
}
"""Of what is put in; PUE, WUE, ERF, REF and ERES-TOT are made of it."""
NOT_IN_IT = (
    "TWH, TIN, CDD, CBtG, electrical grid functions, refrigerants, CSERV, CSTOR, BIN, BOUT, data traffic, which WUE "
    "category WIN is of, whether PDIT is installed or rated, and all of Annex I: Gigawatch does not know them. Add "
    "them by hand."
)
AMENDED = (
    "Adopted by the Commission on 21 September 2026, with first labels by 15 August 2027. Its number and its entry "
    "into force are not known to this version: check both before you report. WUE and the classes are its own (Annexes "
    "I and III); EDC, EIT and ERES-TOT, which it words anew, are still those of the regulation before, and LEEF is "
    "not computed."
)


def make(connection: Connection, site: str, year: int, category: int | None, now: datetime) -> Report:
    """The report of a site and year.

    Args:
        connection: in one snapshot, so that all figures fit each other.
        site: its name.
        year: the calendar year of the figures, UTC; the reporting year is the next.
        category: where IT is metered; None: nearest to the UPS.
        now: the time.

    Raises:
        GigawatchError: there is no such site, or no hour of the year is over.
    """
    start, stop = periods.year(year)
    over = periods.begun(start, now, str(year))
    require_known(connection, {"site": site})
    found = facility_readings.eu_eed(connection, site, year, category)
    chosen = found[0].category
    pues = facility_readings.pue(connection, start, stop, "1 month", "site", site, chosen) if chosen else []
    waters = [
        it
        for it in facility_readings.water(connection, start, stop, "1 month", "site", site)
        if it.category == chosen
    ]  # fmt: skip
    meters = facility_readings.meter_health(connection, site)
    gaps = report_readings.gaps(connection, start, stop, site, chosen)
    known = {it.indicator: it for it in found}
    return Report(
        report="eu-eed",
        title=f"Yearly report of {site} for {year}",
        site=site,
        period=str(year),
        start=start,
        stop=stop,
        time_zone="UTC",
        made=now,
        simulated=any(it.simulated for it in meters if it.role),
        facts=(
            Fact("Regime", f"{found[0].regime}, due on 15 May {found[0].reporting_year}"),
            *((Fact("State of the regime", AMENDED),) if "WIN-FRE" in known else ()),
            Fact("Reporting year", f"{found[0].reporting_year}"),
            Fact("Year of the figures", f"{year}, calendar year, UTC" + ("" if over >= stop else ": it is not over")),
            Fact("Boundary", f"the whole site; IT: {parts.of_category(chosen)}"),
            Fact("Not in this report", NOT_IN_IT),
            Fact("Known up to", f"{facility_readings.facility_until(connection):%Y-%m-%d %H:%M} UTC"),
        ),
        headline=tuple(_headline(known[name]) for name in ("PUE", "WUE", "ERF", "REF")),
        missing=missing(found),
        charts=_charts(pues, waters, min(stop, over)),
        tables=(
            _indicators(found),
            _months(pues, waters),
            parts.energy_by_role(connection, start, stop, site),
            parts.gaps([it for it in gaps if it.figure != "cer"]),
            parts.meters(meters, facility_readings.meter_coverage(connection, start, stop, site)),
        ),
        methods=(
            Fact(
                "Regime",
                "The formulas are those of the regime for this reporting year, Annexes II and III. EIT is wanted at "
                "the UPS (category 1), at the PDU where there is none (category 2), or at another point that is named: "
                "Annex II 1(e). REF is formed only where 99 % of the year's hours are in EDC, as ERES-TOT is of the "
                "whole year.",
            ),
            *parts.METHODS,
        ),
        versions=parts.versions(connection, site),
    )


def missing(found: list[EuIndicator]) -> tuple[Missing, ...]:
    """The inputs that are missing, each with what to do."""
    return tuple(
        Missing(
            indicator=it.indicator, lacks=(it.missing or "").removeprefix("declare "), remedy=REMEDIES[it.indicator]
        )
        for it in found
        if it.value is None and it.indicator in REMEDIES
    )


def _headline(it: EuIndicator) -> Fact:
    unit = "" if it.unit == "1" else f" {it.unit}"
    rated = f", class {it.efficiency_class}" if it.efficiency_class else ""
    return Fact(it.indicator, "missing" if it.value is None else f"{shown(it.value, 'ratio')}{unit}{rated}")


def _indicators(found: list[EuIndicator]) -> Table:
    return Table(
        name="indicators",
        title="Indicators",
        about="How: measured by meters, declared in the topology, or both. Coverage is the part of the year up to now "
        "that is in a figure; what is not is never scaled up. A class is that of Annex I for this value, and no label: "
        "those are issued by the European database alone.",
        columns=(
            Column("indicator", "Indicator"),
            Column("meaning", "Meaning"),
            Column("value", "Value", "number"),
            Column("unit", "Unit"),
            Column("efficiency_class", "Class"),
            Column("how", "How"),
            parts.COVERAGE,
            Column("missing", "What is missing"),
        ),
        rows=[
            (
                it.indicator, NAMES[it.indicator], it.value, it.unit, it.efficiency_class, it.how, it.coverage,
                it.missing,
            )
            for it in found
        ],
        empty="",
    )  # fmt: skip


def _months(pues: list[Pue], waters: list[Water]) -> Table:
    water_of = {it.time: it for it in waters}
    return Table(
        name="months",
        title="Months",
        about="PUE, EDC and EIT by month of the calendar, UTC; of one month it is an interim PUE.",
        columns=(
            Column("month", "Month", "date"),
            *parts.PUE_COLUMNS,
            Column("water_m3", "Water", "number", "m³"),
            Column("wue_m3_per_mwh", "WUE", "ratio", "m³/MWh"),
        ),
        rows=[
            (
                it.time.date(), *parts.pue_row(it),
                water_of[it.time].water_m3 if it.time in water_of else None,
                water_of[it.time].wue_l_per_kwh if it.time in water_of else None,
            )
            for it in pues
        ],
        empty=f"No hour has meters of the sources and of IT. {parts.PLACE_METERS}",
    )  # fmt: skip


def _charts(pues: list[Pue], waters: list[Water], over: datetime) -> tuple[Chart, ...]:
    if not pues:
        return ()
    year = pues[0].time.year
    months = [first for month in range(1, 13) if (first := datetime(year, month, 1, tzinfo=UTC)) < over]
    of_month = {it.time: it for it in pues}
    water_of = {it.time: it.water_m3 for it in waters}
    labels = [f"{it:%b}" for it in months]
    charts = parts.pue_charts("month", labels, [of_month.get(it) for it in months], pues[0].category, ("EDC", "EIT"))
    if not waters:
        return charts
    water = Series(name="WIN", values=[water_of.get(it) for it in months])
    return (*charts, Chart(title="Water by month", kind="columns", unit="m³", labels=labels, series=(water,)))
