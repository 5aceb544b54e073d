"""The monthly report of a site: PUE, energy, water, carbon, cost, energy per token, capacity, meters."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from api.reports import parts, periods
from api.reports.model import Chart, Column, Fact, Report, Series, Table, Value
from api.reports.shown import number, shown
from gigawatch import facility_readings, readings, report_readings, token_readings
from gigawatch.facility_readings import FacilityCarbon, FacilityCost, Heat, Pue, Water
from gigawatch.known import require_known
from gigawatch.readings import Where
from gigawatch.token_readings import BOUNDARIES, EnergyPerToken, Of
from gigawatch.units import SECONDS_PER_HOUR

MOST_EVENTS = 1_000
MOST_BARS = 24
HOUR = timedelta(hours=1)
WATTS_PER_KILOWATT = 1_000


def make(connection: Connection, site: str, month: str, zone: ZoneInfo, category: int | None, now: datetime) -> Report:
    """The report of a site and month.

    Args:
        connection: in one snapshot, so that all figures fit each other.
        site: its name.
        month: as 2026-01.
        zone: of the month and its days. Where its clocks are not whole hours off UTC, they begin with the next full
            hour.
        category: where IT is metered; None: all that are.
        now: the time.

    Raises:
        GigawatchError: there is no such site or month, or no hour of it is over.
    """
    start, stop = periods.month(month, zone)
    over = min(stop, periods.begun(start, now, month))
    require_known(connection, {"site": site})
    days = periods.days(start, over, zone)
    totals = facility_readings.pue(connection, start, over, None, "site", site, category)
    by_day = {
        it.day: facility_readings.pue(connection, it.start, it.stop, None, "site", site, category) for it in days
    }  # fmt: skip
    best = parts.best(totals)
    chosen = best.category if best else None
    hours = facility_readings.pue(connection, start, over, HOUR, "site", site, chosen) if chosen else []
    waters = facility_readings.water(connection, start, over, None, "site", site, category)
    heats = facility_readings.heat(connection, start, over, None, "site", site, category)
    carbons = facility_readings.facility_carbon(connection, start, over, None, "site", site, category)
    costs = facility_readings.facility_cost(connection, start, over, None, "site", site, category)
    tokens = token_readings.energy_per_token(connection, start, over, None, "deployment", of=Of(site=site))
    meters = facility_readings.meter_health(connection, site)
    roles = parts.energy_by_role(connection, start, over, site)
    levels = _levels(connection, start, over, site)
    nodes = {it.site: it for it in readings.sites_now(connection)}.get(site)
    return Report(
        report="monthly",
        title=f"Monthly report of {site} for {month}",
        site=site,
        period=month,
        start=start,
        stop=stop,
        time_zone=zone.key,
        made=now,
        simulated=any(it.simulated for it in meters if it.role) or (nodes is not None and nodes.simulated),
        facts=(
            Fact(
                "Month",
                f"{month}, {zone.key}: {start:%Y-%m-%d %H:%M} to {stop:%Y-%m-%d %H:%M} UTC"
                + ("" if over >= stop else f"; it is not over: figures reach to {over:%Y-%m-%d %H:%M} UTC"),
            ),
            Fact("Boundary", f"the whole site; IT: {parts.of_category(chosen)}"),
            Fact("Facility known up to", f"{facility_readings.facility_until(connection):%Y-%m-%d %H:%M} UTC"),
            Fact("Tokens known up to", f"{token_readings.tokens_until(connection):%Y-%m-%d %H:%M} UTC"),
        ),
        headline=_headline(best, waters, carbons, chosen),
        missing=(),
        charts=_charts(days, by_day, chosen, roles, levels, tokens),
        tables=(
            _pue(totals, facility_readings.pue(connection, start, over, None, "hall", site, category), site),
            _days(days, by_day),
            roles,
            levels,
            _water(waters),
            _heat(heats),
            _facility_cost(costs),
            _facility_carbon(carbons),
            _gpus(connection, start, over, site),
            _tokens(tokens),
            _cost(connection, start, over, site),
            _carbon(connection, start, over, site),
            _peaks(hours),
            _capacity(connection, start, over, site),
            parts.gaps(report_readings.gaps(connection, start, over, site, category)),
            parts.meters(meters, facility_readings.meter_coverage(connection, start, over, site)),
            _events(connection, site, start, over),
            _sources(connection, site, start, over),
        ),
        methods=(
            *parts.METHODS,
            Fact(
                "GPUs and tokens",
                "Energy of GPUs is the difference of their counters. Energy per token divides the energy of the "
                "assigned GPUs, busy or not, by the tokens that they made, at three boundaries: gpu (the GPUs alone), "
                "it (with what their nodes use beside them), facility (that times the site's PUE of the day).",
            ),
            Fact(
                "Cost and carbon",
                "Energy times price, and energy times intensity, hour by hour, never a mean times a total. "
                "Location-based and market-based emissions are two accounts of the same energy.",
            ),
        ),
        versions=parts.versions(connection, site),
    )  # fmt: skip


def _headline(
    best: Pue | None, waters: Sequence[Water], carbons: Sequence[FacilityCarbon], category: int | None
) -> tuple[Fact, ...]:
    water = next((it for it in waters if it.category == category), None)
    carbon = next((it for it in carbons if it.category == category and it.method == "location"), None)
    return (
        Fact(best.name if best else "PUE", shown(best.pue if best else None, "ratio")),
        Fact("Facility", _with_unit(parts.mwh(parts.kwh(best.facility_energy_j if best else None)), "MWh")),
        Fact("IT", _with_unit(parts.mwh(parts.kwh(best.it_energy_j if best else None)), "MWh")),
        Fact("Coverage", shown(best.coverage if best else None, "share")),
        Fact("WUE", _with_unit(water.wue_l_per_kwh if water else None, "L/kWh")),
        Fact("CUE, location-based", _with_unit(carbon.cue_kg_per_kwh if carbon else None, "kg/kWh")),
    )


def _with_unit(value: float | None, unit: str) -> str:
    return shown(None, "number") if value is None else f"{number(value)} {unit}"


def _pue(totals: Sequence[Pue], halls: Sequence[Pue], site: str) -> Table:
    return Table(
        name="pue",
        title="PUE of the month",
        about="Of the site, by each category that is metered, and of its halls (partial PUE). A configured PUE is a "
        "number that somebody wrote down: it has no energies.",
        columns=(Column("of", "Of"), *parts.PUE_COLUMNS),
        rows=[(it.label, *parts.pue_row(it)) for it in (*totals, *(it for it in halls if it.label != site))],
        empty="No hour has meters of the sources (utility, generation, fuel) and of IT (ups_out, pdu, it), and no PUE "
        f"is configured. {parts.PLACE_METERS}",
    )  # fmt: skip


def _days(days: Sequence[periods.Day], by_day: dict[date, list[Pue]]) -> Table:
    nothing: tuple[Value, ...] = (None,) * len(parts.PUE_COLUMNS)
    return Table(
        name="days",
        title="PUE by day",
        about="Of local days that are over, or as far as they are; of one day it is an interim PUE.",
        columns=(Column("day", "Day", "date"), *parts.PUE_COLUMNS),
        rows=[
            (day.day, *row)
            for day in days
            for row in ([parts.pue_row(it) for it in by_day[day.day]] or [nothing])
        ],
        empty="",
    )  # fmt: skip


def _levels(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    return Table(
        name="reconciliation",
        title="From the GPUs to the grid",
        about="What each level measured over the hours in which it is known; and over the hours in which the level "
        "below is known too, what of it that does not explain: losses, cooling, and what no meter sees. Below 0 a "
        "meter is wrong, or the topology.",
        columns=(
            Column("level", "Level"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            Column("hours", "Hours", "integer", "h"),
            Column("below", "Level below"),
            Column("hours_compared", "Compared", "integer", "h"),
            Column("compared_kwh", "Its energy then", "number", "kWh"),
            Column("below_kwh", "Below", "number", "kWh"),
            Column("unexplained_kwh", "Unexplained", "number", "kWh"),
            Column("unexplained_share", "Unexplained", "share"),
        ),
        rows=[
            (
                it.level, parts.kwh(it.energy_j), it.hours, it.below, it.hours_compared,
                parts.kwh(it.compared_energy_j), parts.kwh(it.below_energy_j), parts.kwh(it.unexplained_j),
                it.unexplained_share,
            )
            for it in facility_readings.reconciliation(connection, start, stop, "site", site)
        ],
        empty="No level is known for a whole hour.",
    )  # fmt: skip


def _water(found: Sequence[Water]) -> Table:
    return parts.listed(
        found,
        name="water",
        title="Water",
        about="WUE of the whole site: water / E_IT, over the hours in which both are known.",
        columns=(
            Column("category", "Category", "integer"),
            Column("wue_l_per_kwh", "WUE", "ratio", "L/kWh"),
            Column("wue_potable_l_per_kwh", "WUE, drinking water", "ratio", "L/kWh"),
            Column("wue_fresh_l_per_kwh", "WUE, fresh water", "ratio", "L/kWh"),
            Column("water_m3", "Water", "number", "m³"),
            Column("potable_m3", "Drinking water", "number", "m³"),
            Column("fresh_m3", "Fresh water", "number", "m³"),
            Column("it_energy_kwh", "IT", "number", "kWh"),
            *parts.HOURS,
        ),
        empty=f"No hour has meters of role water and of IT. {parts.PLACE_METERS}",
    )


def _heat(found: Sequence[Heat]) -> Table:
    return parts.listed(
        found,
        name="heat",
        title="Reuse, renewable energy and cooling",
        about="ERF, the part of REF that meters know (made on site), ERE = (1 − ERF) × PUE, and CER; each over its own "
        "hours.",
        columns=(
            Column("category", "Category of ERE", "integer"),
            Column("erf", "ERF", "ratio", "1"),
            Column("erf_coverage", "Coverage of ERF", "share"),
            Column("ref_on_site", "REF, on site", "ratio", "1"),
            Column("ref_coverage", "Coverage of REF", "share"),
            Column("ere", "ERE", "ratio", "1"),
            Column("cer", "CER", "ratio", "1"),
            Column("cer_coverage", "Coverage of CER", "share"),
            Column("reuse_energy_kwh", "Reused", "number", "kWh"),
            Column("on_site_energy_kwh", "Made on site", "number", "kWh"),
        ),
        empty="No hour has meters of role heat_reuse or generation beside the sources, or heat_removed beside cooling. "
        f"{parts.PLACE_METERS}",
    )


def _facility_cost(found: Sequence[FacilityCost]) -> Table:
    return parts.listed(
        found,
        name="facility_cost",
        title="Cost of the facility's energy",
        about="E_DC of the hours that PUE has, times the price of each, by currency; energy made on site is priced as "
        "what is bought. By kWh of IT it is that over E_IT of the same hours.",
        columns=(
            Column("category", "Category", "integer"),
            Column("currency", "Currency"),
            Column("cost", "Cost", "number"),
            Column("cost_per_it_kwh", "By kWh of IT", "number"),
            Column("facility_energy_kwh", "Facility", "number", "kWh"),
            Column("price_coverage", "With a price", "share"),
            parts.COVERAGE,
        ),
        empty="There is no hour with a measured PUE.",
    )


def _facility_carbon(found: Sequence[FacilityCarbon]) -> Table:
    return parts.listed(
        found,
        name="facility_carbon",
        title="Emissions of the facility",
        about="E_DC of the hours that PUE has, times the intensity of each; CUE is that over E_IT of the same hours. "
        "Two methods, never added.",
        columns=(
            Column("category", "Category", "integer"),
            Column("method", "Method"),
            Column("instrument", "Instrument"),
            Column("carbon_kg", "CO2e", "number", "kg"),
            Column("cue_kg_per_kwh", "CUE", "ratio", "kg/kWh"),
            Column("facility_energy_kwh", "Facility", "number", "kWh"),
            Column("intensity_coverage", "With an intensity", "share"),
            Column("estimated_share", "Of it estimated", "share"),
            parts.COVERAGE,
        ),
        empty="There is no hour with a measured PUE.",
    )


def _gpus(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    energy = readings.energy(connection, start, stop, Where(site=site))
    use = next(iter(token_readings.idle(connection, start, stop, None, "site", Of(site=site))), None)
    split: tuple[Value, ...] = (None,) * 4
    if use is not None:
        split = tuple(map(parts.kwh, (use.active_j, use.provisioned_idle_j, use.unobserved_j, use.unallocated_j)))
    return Table(
        name="gpus",
        title="Energy of the GPUs",
        about="At boundary gpu, and by minutes: active where requests ran; idle where GPUs were assigned, and none "
        "ran; not observed where the engine was not; unallocated where they served nobody. Coverage is GPU-time that "
        "is known over that of as many GPUs as there were at most.",
        columns=(
            Column("gpus", "GPUs", "integer"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            parts.COVERAGE,
            Column("counter_share", "By counters", "share"),
            Column("active_kwh", "Active", "number", "kWh"),
            Column("idle_kwh", "Idle", "number", "kWh"),
            Column("unobserved_kwh", "Not observed", "number", "kWh"),
            Column("unallocated_kwh", "Unallocated", "number", "kWh"),
        ),
        rows=[(energy.gpus, parts.kwh(energy.energy_j), energy.coverage, energy.counter_share, *split)]
        if energy.gpus
        else [],
        empty="No GPU of this site was heard of.",
    )  # fmt: skip


def _tokens(found: Sequence[EnergyPerToken]) -> Table:
    return Table(
        name="energy_per_token",
        title="Energy per token",
        about="Of each deployment's GPUs at this site, at the boundaries gpu, it and facility. A token is one that was "
        "generated, unless it says all: then prompts count as well.",
        columns=(
            Column("deployment", "Deployment"),
            Column("boundary", "Boundary"),
            Column("j_per_generated_token", "Per token", "number", "J"),
            Column("j_per_token", "Per token of all", "number", "J"),
            Column("tokens_per_s_per_mw", "Tokens/s/MW", "number"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            Column("generated_tokens", "Tokens", "number"),
            Column("prompt_tokens", "Prompt tokens", "number"),
            parts.COVERAGE,
            Column("measured_share", "Measured", "share"),
            Column("modelled_share", "Modelled", "share"),
            Column("measured_pue_share", "With measured PUE", "share"),
        ),
        rows=[
            (
                it.label, it.boundary, it.j_per_generated_token, it.j_per_token, it.tokens_per_s_per_mw,
                parts.kwh(it.energy_j), it.generated_tokens, it.prompt_tokens, it.coverage, it.measured_share,
                it.modelled_share, it.measured_pue_share,
            )
            for it in found
        ],
        empty="No GPU of this site is known to serve a deployment: `[[engines]]` in the agents' settings.",
    )  # fmt: skip


def _cost(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    where = Where(site=site)
    found = [
        it
        for boundary in BOUNDARIES
        for it in readings.cost(connection, start, stop, None, where, "site", boundary)
    ]  # fmt: skip
    return parts.listed(
        found,
        name="cost",
        title="Cost of the GPUs' energy",
        about="At the boundaries gpu, it and facility, by currency. Energy without a price is not in the cost.",
        columns=(
            Column("boundary", "Boundary"),
            Column("currency", "Currency"),
            Column("cost", "Cost", "number"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            Column("price_coverage", "With a price", "share"),
            Column("boundary_coverage", "Known at boundary", "share"),
            Column("measured_pue_share", "With measured PUE", "share"),
            parts.COVERAGE,
        ),
        empty="No energy of GPUs is known.",
    )


def _carbon(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    where = Where(site=site)
    found = [
        it
        for boundary in BOUNDARIES
        for it in readings.carbon(connection, start, stop, None, where, "site", boundary)
    ]  # fmt: skip
    return parts.listed(
        found,
        name="carbon",
        title="Emissions of the GPUs' energy",
        about="At the boundaries gpu, it and facility, location-based and by each market instrument: accounts of the "
        "same energy, never added. Energy without an intensity is not in them.",
        columns=(
            Column("boundary", "Boundary"),
            Column("method", "Method"),
            Column("instrument", "Instrument"),
            Column("carbon_kg", "CO2e", "number", "kg"),
            Column("energy_kwh", "Energy", "number", "kWh"),
            Column("intensity_coverage", "With an intensity", "share"),
            Column("estimated_share", "Of it estimated", "share"),
            Column("boundary_coverage", "Known at boundary", "share"),
            parts.COVERAGE,
        ),
        empty="No energy of GPUs is known.",
    )


def _peaks(hours: Sequence[Pue]) -> Table:
    known = [it for it in hours if it.facility_energy_j is not None and it.it_energy_j is not None]
    rows: list[tuple[Value, ...]] = []
    for what, energy in (("facility", _facility_j), ("IT", _it_j)):
        if known:
            most = max(known, key=energy)
            rows.append((what, energy(most) / SECONDS_PER_HOUR / WATTS_PER_KILOWATT, most.time, most.pue))
    return Table(
        name="peaks",
        title="Peak power",
        about="The greatest mean of an hour, of the hours in which all meters of PUE are known.",
        columns=(
            Column("what", "Of"),
            Column("power_kw", "Peak", "number", "kW"),
            Column("hour", "Hour", "time", "UTC"),
            Column("power_ratio", "E_DC / E_IT of the hour", "ratio", "1"),
        ),
        rows=rows,
        empty="There is no hour with a measured PUE.",
    )


def _facility_j(it: Pue) -> float:
    return it.facility_energy_j or 0


def _it_j(it: Pue) -> float:
    return it.it_energy_j or 0


def _capacity(connection: Connection, start: datetime, stop: datetime, site: str) -> Table:
    return Table(
        name="capacity",
        title="Peaks against limits",
        about="Usable is the limit, of a breaker 80 % of its rating. Headroom is what of that was left at the month's "
        "peak. The trend is that of the daily peaks over up to 30 days before the month's end.",
        columns=(
            Column("scope", "Scope"),
            Column("name", "Name"),
            Column("feed", "Feed"),
            Column("kind", "Limit by"),
            Column("basis", "Known by"),
            Column("unit", "Unit"),
            Column("limit", "Limit", "number"),
            Column("usable", "Usable", "number"),
            Column("peak", "Peak", "number"),
            Column("peak_share", "Of usable", "share"),
            Column("headroom", "Headroom", "number"),
            Column("trend_per_day", "Trend by day", "number"),
            Column("days_to_limit", "To the limit", "number", "days"),
        ),
        rows=[
            (
                it.scope, it.name, it.feed, it.kind, it.basis, it.unit, it.limit_value, it.usable, it.peak,
                it.peak_share, it.stranded, it.trend_per_day, it.days_to_limit,
            )
            for it in facility_readings.capacity(connection, start, stop, site)
        ],
        empty="The topology names no limit: breaker_a, contract_kw and rated_kw of meters, budget_kw of their places.",
    )  # fmt: skip


def _events(connection: Connection, site: str, start: datetime, stop: datetime) -> Table:
    found, count = report_readings.meter_events(connection, site, start, stop, MOST_EVENTS)
    more = f" The first {MOST_EVENTS} of {count}." if count > len(found) else ""
    return parts.listed(
        found,
        name="meter_events",
        title="Events of meters",
        about=f"What agents said of the meters that they read.{more}",
        columns=(
            Column("time", "Time", "time", "UTC"),
            Column("severity", "Severity"),
            Column("kind", "Kind"),
            Column("hostname", "Agent on"),
            Column("message", "What happened"),
        ),
        empty="None.",
    )


def _sources(connection: Connection, site: str, start: datetime, stop: datetime) -> Table:
    kinds = (
        ("price", readings.tariff_imports(connection, site)),
        ("intensity", readings.intensity_imports(connection, site)),
        ("PUE", readings.pue_imports(connection, site)),
    )
    return Table(
        name="sources",
        title="Sources of prices, intensities and configured PUE",
        about="Imports that count, of values of this month.",
        columns=(
            Column("what", "What"),
            Column("kind", "Kind"),
            Column("source", "Source"),
            Column("version", "Version"),
            Column("imported", "Imported", "time", "UTC"),
            Column("start", "From", "time", "UTC"),
            Column("stop", "To", "time", "UTC"),
            Column("import_id", "Import", "integer"),
        ),
        rows=[
            (what, it.kind, it.source, it.version, it.imported, it.start, it.stop, it.import_id)
            for what, found in kinds
            for it in found
            if it.counting and it.start < stop and it.stop > start
        ],
        empty="None: `gigawatch tariff import`, `gigawatch intensity import`.",
    )  # fmt: skip


def _charts(
    days: Sequence[periods.Day],
    by_day: dict[date, list[Pue]],
    category: int | None,
    roles: Table,
    levels: Table,
    tokens: Sequence[EnergyPerToken],
) -> tuple[Chart, ...]:
    its = [next((it for it in by_day[day.day] if it.category == category), None) for day in days]
    labels = [f"{it.day.day}" for it in days]
    bars = tokens[:MOST_BARS]
    return (
        *parts.pue_charts("day", labels, its, category, ("facility", "IT")),
        _bars("Energy by role", "MWh", [(f"{row[0]}", parts.mwh(_number(row[2]))) for row in roles.rows]),
        _bars(
            "From the GPUs to the grid", "MWh", [(f"{row[0]}", parts.mwh(_number(row[1]))) for row in levels.rows]
        ),
        _bars(
            "Energy per generated token", "J", [(f"{it.label}, {it.boundary}", it.j_per_generated_token) for it in bars]
        ),
    )  # fmt: skip


def _bars(title: str, unit: str, found: Sequence[tuple[str, float | None]]) -> Chart:
    return Chart(
        title=title, kind="bars", unit=unit, labels=[label for label, value in found if value is not None],
        series=(Series(name=title, values=[value for _, value in found if value is not None]),),
    )  # fmt: skip


def _number(value: Value) -> float | None:
    return value if isinstance(value, float) else None
