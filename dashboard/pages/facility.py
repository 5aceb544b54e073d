"""PUE and the facility: what IT takes of all energy, where the rest goes, and whether the meters may be believed."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from dash import dcc, html
from msgspec import Struct
from sqlalchemy import Connection

from dashboard import ahead, components, facility_figures, facility_rows, quantities, recent, view
from dashboard.components import badge, card, chart, choice, panel, table
from dashboard.facility_rows import CATEGORIES, CHAIN, ROLES, Flow, Place
from dashboard.pages import facility_meters
from dashboard.plots import GOOD_COVERAGE
from dashboard.quantities import SPACE, UNKNOWN
from dashboard.theme import Theme
from dashboard.view import Category, Period, View
from gigawatch import facility_readings as facility
from gigawatch import readings
from gigawatch.facility_readings import (
    Capacity,
    FacilityCarbon,
    FleetPowerRatio,
    Heat,
    MeterHealth,
    PowerRatio,
    Pue,
    PueConditions,
    Reconciled,
    SiteTopology,
    Water,
)
from gigawatch.findings import some
from gigawatch.readings import Where
from gigawatch.topology.picture import drawn
from gigawatch.topology.plan import in_force

T = TypeVar("T")

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MOST_LAG = timedelta(minutes=75)
"""An hour is known a few minutes after its end; later, something does not go on."""
MOST_WRONG = 3
"""Contradictions that are shown at once."""
MUCH_FAULTY = 0.05
"""Of the hours; less is a warning."""
MOST_SITE_DAYS = 30
"""Of a longer period so many days of sites, and one at least, are compared level by level: it is read hour by hour."""
MOST_NODES = 2_000
"""Beyond, levels are not compared: it is read node by node."""
MOST_LISTED = 200
"""Meters of the topology as a table."""
NO_PUE = (
    "Nothing measures a PUE yet: it wants meters of all sources (utility, generation, fuel) and of IT (ups_out, pdu or"
    " it) in the topology, and a full hour of both."
)
PERIOD, NOW = "period", "now"
CONFIGURED = "Nothing is measured here: the PUE is configured, a number that somebody wrote down."
PROBE = "gigawatch meter probe 10.0.8.21 \\\n    --map schneider-pm5000"
METERS = """[[meters]]
name = "main-a"             # as the topology calls it
driver = "modbus"           # or snmp, redfish, mqtt, …
address = "10.0.8.21"
map = "schneider-pm5000"    # gigawatch meter maps lists them"""
TOPOLOGY = """sites:
  oslo:
    meters:
      main-a: {role: utility, feeds: [ups-in]}
      ups-in: {role: ups_in, feeds: [ups-out]}
      ups-out: {role: ups_out, feeds: ["pdu-[1-8]"]}
      "pdu-[1-8]": {role: pdu, breaker_a: 63}
      chiller: {role: cooling}
      outside-air: {role: temperature}"""


def render(connection: Connection, asked: View, theme: Theme, now: datetime) -> Any:
    """The page."""
    return render_until(connection, asked, theme, now, ahead.until(connection, facility.facility_until, asked))


def render_until(connection: Connection, asked: View, theme: Theme, now: datetime, until: datetime) -> Any:
    """The page, where hours of meters are known up to some moment."""
    hour = view.floor(now, HOUR)
    # Before the first hour of meters there may still be a configured PUE.
    measured_until = until if until.year > 2000 else hour
    sites = _sites(connection, measured_until)
    if not sites:
        return _teach()
    if asked.site is not None and asked.site not in sites:
        return components.message(
            "No meters at this site",
            html.P([html.Code(asked.site[:96]), " has neither meters nor a configured PUE."]),
            dcc.Link("All sites", href=f"/facility{view.query(asked, site=None)}", className="button"),
            *_how(),
        )
    # A site that is alone has its own figures at once.
    site = asked.site or (sites[0] if len(sites) == 1 else None)
    shown = [site] if site else sites
    period = view.facility_period(asked, measured_until, len(shown))
    step = period.step
    found = _read(connection, asked, period, measured_until, site, shown)
    head = [_title(asked, site, until, now, found), _cards(found, now)]
    if not found.meters:
        # Of a number that somebody wrote down there is nothing to draw.
        return html.Div([*head, panel("Connect meters", *_how(), wide=True)], className="grid")
    return html.Div(
        [
            *head,
            panel(
                "PUE over time",
                chart(
                    facility_figures.trend(
                        found.trend, found.category, period, theme, facility_rows.dropped_out(found.conditions)
                    ), "facility-trend",
                ),
                note=f"{_metered(found.category)} · by the {facility_figures.each(period.step)} · strip: coverage",
                wide=True,
            ),
            _flow(found.flow, theme, _of_levels(found, period)),
            _scatter(
                "PUE against load", "facility-load", facility_figures.against_load(found.conditions, step, theme),
                facility_figures.left_out(found.conditions, step), found.category,
            ),
            _scatter(
                "PUE against outside temperature", "facility-temperature",
                facility_figures.against_temperature(found.conditions, step, theme),
                _without_temperature(found.conditions, step), found.category,
            ),
            _places(found, asked, site),
            panel("Water, heat, carbon", _beside(found), note=f"of the period · {_metered(found.category)}", wide=True),
            _calendar(found, theme),
            *_picture(found.topology, theme),
            _reconciliation(found, site, _of_levels(found, period)),
            facility_meters.limits(found.limits),
            *facility_meters.render(found.meters, asked, now),
        ],
        className="grid",
    )  # fmt: skip


class _Found(Struct, frozen=True, kw_only=True):
    """What the page shows."""

    category: int | None
    categories: list[int]
    ratios: Sequence[PowerRatio | FleetPowerRatio]
    spans: dict[str, list[Pue]]
    """PUE of the spans of the cards."""
    sites: list[str]
    """All that are looked at."""
    without: dict[str, list[str]]
    """Those none of whose hours are in the figure of the period, of a span, or of now; of one site nothing."""
    trend: list[Pue]
    conditions: list[PueConditions]
    flow: Flow
    places: list[Place]
    """Sites, or the halls of one."""
    of_places: dict[str, dict[str, float | None]]
    """WUE, CUE, ERF and REF of each site."""
    water: list[Water]
    heat: list[Heat]
    carbon: list[FacilityCarbon]
    days: list[Pue]
    months: list[Pue]
    levels: list[Reconciled]
    levels_from: datetime
    nodes: int
    topology: SiteTopology | None
    """Of one site."""
    limits: list[Capacity]
    meters: list[MeterHealth]


def _sites(connection: Connection, until: datetime) -> list[str]:
    """Sites with meters, or with a PUE that was configured for the last twelve months."""
    configured = recent.read_folded(readings.configured_pue, connection, until - 365 * DAY, until)
    return sorted({*recent.read(facility.metered_sites, connection)} | {it.site for it in configured})


def _read(
    connection: Connection, asked: View, period: Period, until: datetime, site: str | None, sites: list[str]
) -> _Found:
    def read(what: Callable[..., T], *args: Any) -> T:
        return recent.read_hourly(what, connection, *args)

    group: facility.FacilityGroup = "site" if site else "fleet"
    start, stop, step = period.start, period.stop, period.step
    month = until.replace(day=1, hour=0)
    year_ago = month.replace(year=month.year - 1)
    by_site = read(facility.pue, start, stop, None, "site", site)
    # A period without a measurement may still be of a site that has some.
    measured = (
        by_site if any(it.category for it in by_site) else read(facility.pue, year_ago, until, None, "site", site)
    )
    levels_from = max(start, stop - max(1, MOST_SITE_DAYS // len(sites)) * DAY)
    categories = sorted({row.category for row in measured if row.category is not None})
    chosen = int(asked.category) if asked.category else None
    category = chosen if chosen in categories else facility_rows.nearest(measured)
    spans = {
        "24 h": (until - DAY, until),
        "This month": (month, until),
        "This year": (month.replace(month=1), until),
        "Last 12 months": (year_ago, month),
    }
    fleet_now = [] if site else recent.read(facility.fleet_power_ratios_now, connection)
    without: dict[str, list[str]] = {}
    if site is None:
        # Spans of whole months are sums of them.
        of_months = read(facility.pue, year_ago, until, "1 month", "site", None, category)
        by_span = {
            "24 h": read(facility.pue, until - DAY, until, None, "site", None, category),
            "This month": [row for row in of_months if row.time >= month],
            "This year": [row for row in of_months if row.time.year == month.year],
            "Last 12 months": [row for row in of_months if row.time < month],
            PERIOD: by_site,
        }
        without = {name: facility_rows.without(rows, category, sites) for name, rows in by_span.items()}
        known = {name for it in fleet_now if it.category == category for name in it.known}
        without[NOW] = [it for it in sites if it not in known]
    month_ago = view.floor(until, DAY) - 30 * DAY
    limits = read(facility.capacity, month_ago, until, site, None, facility_meters.MOST_LIMITS)
    water = read(facility.water, start, stop, None, group, site, category)
    heat = read(facility.heat, start, stop, None, group, site)
    carbon = read(facility.facility_carbon, start, stop, None, "site" if site else "both", site, category)
    nodes = recent.read(readings.fleet_summary, connection, Where(site=site)).nodes
    levels = read(facility.reconciliation, levels_from, stop, "site", site) if nodes <= MOST_NODES else []
    return _Found(
        category=category,
        categories=categories,
        ratios=recent.read(facility.power_ratios_now, connection, site) if site else fleet_now,
        spans={
            name: read(facility.pue, first, last, None, group, site) if first < last else []
            for name, (first, last) in spans.items()
        },
        sites=sites,
        without=without,
        trend=read(facility.pue, start, stop, step, group, site, category),
        conditions=[] if category is None else read(facility.pue_conditions, start, stop, step, site, category),
        flow=facility_rows.flow(read(facility.facility, levels_from, stop, None, "site", site), levels),
        places=facility_rows.places(
            read(facility.pue, start, stop, None, "hall", site) if site else by_site, category
        ),
        of_places={} if site else _of_sites(
            read(facility.water, start, stop, None, "site", None, category),
            read(facility.heat, start, stop, None, "site", None),
            carbon,
        ),
        water=water, heat=heat,
        carbon=[it for it in carbon if it.label == site],
        days=read(facility.pue, year_ago, until, DAY, group, site, category),
        months=read(facility.pue, year_ago, until, "1 month", group, site, category),
        levels=levels,
        limits=limits,
        levels_from=levels_from,
        nodes=nodes,
        topology=next(iter(read(facility.topologies, site)), None) if site else None,
        meters=recent.read(facility.meter_health, connection, site),
    )  # fmt: skip


def _of_sites(
    water: Sequence[Water], heat: Sequence[Heat], carbon: Sequence[FacilityCarbon]
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for part in water:
        found.setdefault(part.label, {})["wue"] = part.wue_l_per_kwh
    for reused in heat:
        found.setdefault(reused.label, {}).update(erf=reused.erf, ref=reused.ref_on_site)
    for emitted in carbon:
        if emitted.label and emitted.method == "location":
            found.setdefault(emitted.label, {})["cue"] = emitted.cue_kg_per_kwh
    return found


def _metered(category: int | None) -> str:
    return f"category {category}: IT metered at {CATEGORIES[category]}" if category else "nothing measured"


def _title(asked: View, site: str | None, until: datetime, now: datetime, found: _Found) -> html.Div:
    late = until.year > 2000 and now - until > MOST_LAG and not asked.custom
    if until.year > 2000:
        known = f"Figures are of whole hours, and known up to {quantities.moment(until)} UTC."
    elif found.meters:
        known = "No hour of meters is over yet: the first figures come a few minutes after the first full hour."
    else:
        known = "Nothing is measured."
    if late:
        known += (
            f" That is {quantities.duration((now - until).total_seconds())} ago: does gigawatch serve run, with"
            " server.scheduler on, and do agents reach it? The page Store says how far folding is."
        )
    options: dict[str, str] = {
        f"{number} · {CATEGORIES[number]}": view.query(asked, category=_named(number)) for number in found.categories
    }
    return html.Div(
        [
            html.H1(
                [
                    "PUE & facility", *([f" · {site}"] if site else []),
                    *([" ", badge("simulated", "simulated")] if any(it.simulated for it in found.meters) else []),
                ]
            ),
            choice("Category", options, f"{found.category} · {CATEGORIES[found.category]}")
            if found.category and len(options) > 1 else None,
            html.P(
                "Boundary: the whole facility, all its sources (E_DC), over its IT equipment (E_IT). Times are UTC.",
                className="boundary",
            ),
            html.P([badge("stale", "warn"), f" {known}"] if late else known, id="live-known", className="boundary"),
            *([facility_meters.summary(found.meters, asked)] if found.meters else []),
            html.Div(_limits(asked, found), id="live-limits", className="boundary"),
            *([_contents(site, found)] if found.meters else []),
        ],
        className="title wide",
    )  # fmt: skip


def _contents(site: str | None, found: _Found) -> html.Nav:
    """The way to each part of a long page."""
    parts = {
        "facility-trend": "PUE over time", "facility-flow": "Energy flow", "facility-load": "Load and weather",
        "live-halls" if site else "live-sites-side-by-side": "Halls" if site else "Sites",
        "live-water-heat-carbon": "Water, heat, carbon", "facility-calendar": "Coverage",
        **({"live-topology": "Topology"} if found.topology else {}),
        "live-reconciliation": "Reconciliation", "live-capacity": "Capacity", "meters": "Meters",
    }  # fmt: skip
    return html.Nav(
        [html.A(words, href=f"#{identity}") for identity, words in parts.items()],
        className="contents wide", **{"aria-label": "On this page"},
    )  # fmt: skip


def _named(category: int) -> Category:
    names: dict[int, Category] = {1: "1", 2: "2", 3: "3"}
    return names[category]


def _limits(asked: View, found: _Found) -> list[Any]:
    """What is in no figure, and what to do."""
    said = []
    rows = [row for row in found.trend if row.category == found.category]
    missing, faulty = (sum(getattr(row, it) or 0 for row in rows) for it in ("hours_missing", "hours_faulty"))
    if found.category and faulty:
        said.append(
            html.Div(
                f"{quantities.count(faulty)} h of this period are faulty: IT's energy was above the facility's, or a"
                " meter stood still or ran backwards. They are in no figure. Meters and their health names the meters.",
                className="banner bad",
            )
        )
    if found.category and missing:
        said.append(
            html.Div(
                f"{quantities.count(missing)} h of this period are missing: a meter that the sums want was not known"
                " for 99 % of them. They are in neither sum, and nothing is filled in.",
                className="banner warn",
            )
        )
    if found.category and len(found.sites) > 1:
        within = _in_words(found, PERIOD) or f"all {len(found.sites)} sites"
        said.append(html.P(f"The PUE of this period is of {within}."))
    if not found.category:
        said.append(html.Div(NO_PUE if found.meters else CONFIGURED, className="banner warn"))
    if asked.rack or asked.model:
        said.append(html.P("The filters for racks and GPU models do not apply here."))
    return said


def _cards(found: _Found, now: datetime) -> html.Dl:
    return html.Dl(
        [
            _now_card(
                next((it for it in found.ratios if it.category == found.category), None), _in_words(found, NOW), now
            ),
            *(_span_card(name, rows, found.category, _in_words(found, name)) for name, rows in found.spans.items()),
        ],
        id="live-cards",
        className="cards",
    )


def _in_words(found: _Found, of: str) -> str:
    """Which sites are in a figure of all of them, in words; nothing where all are, or there is one."""
    without = found.without.get(of)
    if not without:
        return ""
    return (
        f"{len(found.sites) - len(without)} of {len(found.sites)} sites, without"
        f" {some(without, facility_figures.MOST_NAMES)}"
    )


def _now_card(it: PowerRatio | FleetPowerRatio | None, sites: str, now: datetime) -> html.Div:
    if it is None:
        return card("Power ratio now", UNKNOWN, "indicative · no meters of sources and IT")
    where = _short(it.category)
    if it.power_ratio is None:
        return card("Power ratio now", UNKNOWN, f"indicative · {where} · {it.meters_silent} meters silent", tone="warn")
    powers = f"{quantities.power(it.facility_power_w)} over {quantities.power(it.it_power_w)}"
    note: list[Any] = [f"power ratio, indicative · {where} · {powers}"]
    if sites:
        note.append(f" · {sites}")
    if it.time is not None:
        note.append(f" · {quantities.duration((now - it.time).total_seconds())} ago")
    faulty = it.power_ratio < 1
    if faulty:
        note.insert(0, html.Strong("Below 1: a meter is wrong. "))
    return card("Power ratio now", quantities.ratio(it.power_ratio), note, tone="bad" if faulty else "")


def _short(category: int) -> str:
    return f"category {category}, {CATEGORIES[category]}"


def _span_card(name: str, rows: Sequence[Pue], category: int | None, sites: str) -> html.Div:
    measured = next((it for it in rows if it.category == category and it.source == "measured"), None)
    if measured is None:
        configured = next((it for it in rows if it.source == "configured"), None)
        if configured is None:
            return card(name, UNKNOWN, "not measured")
        return card(name, quantities.ratio(configured.pue), [html.Strong("configured PUE"), " · not measured"])
    note: list[Any] = [
        html.Strong(measured.name),
        f" · {_short(measured.category or 0)} · coverage {quantities.share(measured.coverage)}",
    ]
    if sites:
        note.append(f" · {sites}")
    if measured.hours_missing:
        note.append(f" · {quantities.count(measured.hours_missing)}{SPACE}h missing")
    if measured.hours_faulty:
        note.append(html.Strong(f" · {quantities.count(measured.hours_faulty)}{SPACE}h faulty"))
    coverage, faulty = measured.coverage or 0.0, measured.hours_faulty or 0
    much = faulty > MUCH_FAULTY * ((measured.hours or 0) + faulty)
    tone = "bad" if much else "warn" if faulty or coverage < GOOD_COVERAGE else ""
    return card(name, quantities.ratio(measured.pue), note, tone=tone, share=coverage)


def _of_levels(found: _Found, period: Period) -> str:
    """What part of the period levels are compared over."""
    if found.levels_from <= period.start:
        return "of the period"
    return f"of the last {quantities.duration((period.stop - found.levels_from).total_seconds())} of the period"


def _flow(found: Flow, theme: Theme, of: str) -> html.Section:
    rows = [
        [link.source, link.target, quantities.power(link.power_w), badge("unexplained") if link.unexplained else ""]
        for link in found.links
    ]
    return panel(
        "Energy flow",
        chart(facility_figures.flow(found, theme), "facility-flow", least_width="60rem"),
        html.Div(_contradictions(found.contradictions), id="live-flow-contradictions"),
        html.Details(
            [
                html.Summary("As a table"),
                html.Div(
                    table("Mean power from part to part", ("From", "To", "Mean power", ""), rows,
                          "No power is known in this period.", numbers=(2,)),
                    id="live-flow-table",
                ),
            ]
        ),
        note=f"mean power {of}, each meter while it is known · grey: what no meter below explains",
        wide=True,
    )  # fmt: skip


def _contradictions(found: Sequence[str]) -> list[Any]:
    """What cannot be right, the first few at once."""
    said = [
        html.P([badge("wrong", "bad"), f" {it}: a meter or the topology is wrong. Faulty hours are in it."])
        for it in found
    ]
    if len(said) <= MOST_WRONG:
        return said
    more = html.Summary(f"{len(said) - MOST_WRONG} more are wrong")
    return [*said[:MOST_WRONG], html.Details([more, *said[MOST_WRONG:]])]


def _scatter(title: str, identity: str, drawn: Any, words: str, category: int | None) -> html.Section:
    return panel(
        title, chart(drawn, identity), html.P(words, id=f"live-{identity}-left-out", className="note"),
        note=_metered(category),
    )  # fmt: skip


def _without_temperature(rows: Sequence[PueConditions], step: timedelta) -> str:
    """What is not drawn against the temperature."""
    said = facility_figures.left_out(rows, step)
    without = sum(1 for row in rows if row.pue is not None and row.outside_temp_c is None)
    if without:
        said += (
            f" {quantities.count(without)} of them have no outside temperature: a meter of role temperature tells it,"
        )
        said += " of the whole site and of no hall."
    return said


def _places(found: _Found, asked: View, site: str | None) -> html.Section:
    title, noun = ("Halls", "hall") if site else ("Sites side by side", "site")
    header = [noun.capitalize(), "PUE", "At other categories", "Coverage", "Missing", "Faulty", "E_DC", "E_IT"]
    header += [] if site else ["WUE, L/kWh", "CUE, kg/kWh", "ERF", "REF on site"]
    return panel(
        title,
        table(
            f"{title}: PUE by category with its coverage, energies and figures beside it", header,
            [_place(it, found, asked, site) for it in found.places],
            "No hall has meters of its own." if site else "No site has a PUE in this period.",
            numbers=range(3, len(header)),
        ),
        note=f"of the period · {_metered(found.category)} where a {noun} has it"
        + ("; pPUE: infrastructure and IT of the hall" if site else "; CUE by the grid's intensity"),
        wide=True,
    )  # fmt: skip


def _place(it: Place, found: _Found, asked: View, site: str | None) -> list[Any]:
    row = it.shown
    name = it.label.partition(" / ")[2] if site else it.label
    configured = row.source == "configured"
    kind = "configured" if configured else row.name
    value: list[Any] = [html.Strong(quantities.ratio(row.pue)), " ", badge(kind, "warn" if configured else "")]
    if row.category not in {None, found.category}:
        value += [" ", badge(f"category {row.category}")]
    poor = not configured and (row.coverage or 0) < GOOD_COVERAGE
    coverage = quantities.share(row.coverage)
    cells: list[Any] = [
        [
            name if site else dcc.Link(name, href=f"/facility{view.query(asked, site=it.label, page=1)}"),
            " ", components.simulated_badge(bool(row.simulated)) or "",
        ],
        value,
        " · ".join(f"{other.category}: {quantities.ratio(other.pue)}" for other in it.others) or UNKNOWN,
        badge(coverage, "warn") if poor else coverage,
        _hours(row.hours_missing, "warn"),
        _hours(row.hours_faulty, "bad"),
        quantities.work(row.facility_energy_j),
        quantities.work(row.it_energy_j),
    ]  # fmt: skip
    if not site:
        beside = found.of_places.get(it.label, {})
        cells += [
            _number(beside.get("wue")), _number(beside.get("cue")), _number(beside.get("erf")),
            _number(beside.get("ref")),
        ]  # fmt: skip
    return cells


def _hours(number: int | None, tone: str) -> Any:
    if not number:
        return UNKNOWN if number is None else "0"
    return badge(f"{quantities.count(number)}{SPACE}h", tone)


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}"


def _beside(found: _Found) -> html.Dl:
    water = next((it for it in found.water if it.category == found.category), None)
    heat = next((it for it in found.heat if it.category in {found.category, None}), None)
    carbon = [it for it in found.carbon if it.category == found.category and it.carbon_kg is not None]
    return html.Dl([*_water(water), *_heat(heat), *_carbon(carbon)], className="cards")


def _water(it: Water | None) -> list[html.Div]:
    if it is None:
        return [card("WUE", UNKNOWN, "no meter of role water")]
    return [
        _figure(
            "WUE", it.wue_l_per_kwh, "L/kWh", it.coverage,
            f"{quantities.volume(it.water_m3)} over {quantities.work(it.it_energy_j)} of IT", "no hour is known",
        ),
        _figure(
            "WUE, drinking water", it.wue_potable_l_per_kwh, "L/kWh", it.coverage_potable,
            f"{quantities.volume(it.potable_m3)} of it", "not said of each water meter: potable",
        ),
    ]  # fmt: skip


def _heat(it: Heat | None) -> list[html.Div]:
    if it is None:
        return [card("ERF", UNKNOWN, "no meters of sources and heat")]
    return [
        _figure(
            "ERF", it.erf, "", it.erf_coverage,
            f"{quantities.work(it.reuse_energy_j)} reused of E_DC · ERE {quantities.ratio(it.ere)}",
            "no meter of role heat_reuse",
        ),
        _figure(
            "REF on site", it.ref_on_site, "", it.ref_coverage,
            f"{quantities.work(it.on_site_energy_j)} of E_DC · without certificates", "no meter of role generation",
        ),
        _figure(
            "CER", it.cer, "", it.cer_coverage,
            f"{quantities.work(it.heat_removed_j)} of heat by {quantities.work(it.cooling_energy_j)}",
            "no meters of roles heat_removed and cooling",
        ),
    ]  # fmt: skip


def _carbon(accounts: Sequence[FacilityCarbon]) -> list[html.Div]:
    shown = [
        card(
            "CUE" if it.method == "location" else f"CUE, {it.instrument}",
            f"{_number(it.cue_kg_per_kwh)}{SPACE}kg/kWh",
            f"{quantities.mass(it.carbon_kg)} CO2e, {'by the grid' if it.method == 'location' else 'market-based'} · "
            f"{quantities.share(it.intensity_coverage)} of E_DC has an intensity",
            share=it.intensity_coverage,
            tone="warn" if (it.intensity_coverage or 0) < GOOD_COVERAGE else "",
        )
        for it in accounts
    ]
    if not any(it.method == "location" for it in accounts):
        shown.append(card("CUE", UNKNOWN, ["no carbon intensity: ", html.Code("gigawatch intensity import")]))
    return shown


def _figure(label: str, value: float | None, unit: str, coverage: float | None, note: str, without: str) -> html.Div:
    if value is None:
        return card(label, UNKNOWN, without)
    return card(
        label,
        SPACE.join(filter(None, (_number(value), unit))),
        f"{note} · coverage {quantities.share(coverage)}",
        share=coverage,
        tone="warn" if coverage is not None and coverage < GOOD_COVERAGE else "",
    )


def _picture(found: SiteTopology | None, theme: Theme) -> list[html.Section]:
    """The single-line diagram, where the site's topology is declared."""
    if found is None:
        return []
    plan = in_force(found.site, found.document)
    svg = b64encode(drawn(plan, theme.name).encode()).decode()
    words = f"Single-line diagram of {found.site}: what feeds what, from the sources to the racks"
    meters = list(plan.meters.values())
    more = f", {quantities.count(MOST_LISTED)} of {quantities.count(len(meters))} meters"
    return [
        panel(
            "Topology",
            html.Div(
                html.Img(src=f"data:image/svg+xml;base64,{svg}", alt=words),
                className="scroll picture",
                tabIndex=0,
                role="region",
                **{"aria-label": words},
            ),
            html.Details(
                [
                    html.Summary(f"As a table{more if len(meters) > MOST_LISTED else ''}"),
                    table(
                        f"What each meter of {found.site} feeds",
                        ("Meter", "Role", "Hall", "Feeds"),
                        [
                            [
                                it.name,
                                ROLES[it.declared.role],
                                it.hall or UNKNOWN,
                                some((*it.feeds, *it.racks)) or UNKNOWN,
                            ]
                            for it in meters[:MOST_LISTED]
                        ],
                        "No meter is declared.",
                    ),
                ]
            ),
            note=f"in force since {quantities.moment(found.applied)} UTC, from {found.source}",
            wide=True,
        )
    ]


def _calendar(found: _Found, theme: Theme) -> html.Section:
    days = [row for row in found.days if row.category == found.category and row.source == "measured"]
    months = [row for row in found.months if row.category == found.category and row.source == "measured"]
    return panel(
        "Coverage by day",
        chart(facility_figures.calendar(days, theme), "facility-calendar"),
        html.P(
            [
                html.Span([html.Span(sign, className="swatch", style={"background": colour}), words])
                for sign, colour, words in facility_figures.key(theme)
            ],
            className="key",
        ),
        html.Details(
            [
                html.Summary("Month by month"),
                html.Div(
                    table(
                        "PUE and its hours by month",
                        ("Month", "PUE", "Name", "Counted", "Missing", "Faulty", "Coverage", "E_DC", "E_IT"),
                        [_month(row) for row in reversed(months)],
                        "No hour was measured yet.",
                        numbers=(1, 3, 4, 5, 6, 7, 8),
                    ),
                    id="live-months",
                ),
            ]
        ),
        note=f"hours in both sums, of each day of thirteen months · {_metered(found.category)}",
        wide=True,
    )


def _month(row: Pue) -> list[Any]:
    return [
        f"{row.time:%B %Y}", quantities.ratio(row.pue), row.name, f"{quantities.count(row.hours)}{SPACE}h",
        _hours(row.hours_missing, "warn"), _hours(row.hours_faulty, "bad"), quantities.share(row.coverage),
        quantities.work(row.facility_energy_j), quantities.work(row.it_energy_j),
    ]  # fmt: skip


LEVELS = {**{level: name for level, (name, _) in CHAIN.items()}, "facility": "All sources"}


def _reconciliation(found: _Found, site: str | None, of: str) -> html.Section:
    if found.nodes > MOST_NODES:
        said = f"Levels are compared of up to {quantities.count(MOST_NODES)} nodes: choose a site."
        shown: Any = html.P(said, className="empty")
    elif site:
        shown = table(
            "Energy at each level, from the sources to the GPUs, and what of it the level below does not explain",
            ("Level", "Energy", "Hours known", "Compared with", "Hours compared", "Unexplained", "Part of it"),
            [
                [
                    LEVELS[it.level], quantities.work(it.energy_j), f"{quantities.count(it.hours)}{SPACE}h",
                    LEVELS[it.below] if it.below else UNKNOWN,
                    f"{quantities.count(it.hours_compared)}{SPACE}h" if it.below else UNKNOWN,
                    quantities.work(it.unexplained_j), _unexplained(it),
                ]
                for it in sorted(found.levels, key=lambda it: -it.place)
            ],
            "No level is known in this period.",
            numbers=(1, 2, 4, 5, 6),
        )  # fmt: skip
    else:
        shown = _by_site(found.levels)
    return panel(
        "Reconciliation",
        shown,
        note=f"{of} · unexplained: what a level has and the next below it does not, while both are known",
        wide=True,
    )


def _by_site(levels: Sequence[Reconciled]) -> html.Div:
    """For each site the unexplained part of each step."""
    steps = sorted({(-it.place, it.level) for it in levels if it.below})
    by_site: dict[str, dict[str, Reconciled]] = {}
    below: dict[str, set[str]] = {level: set() for _, level in steps}
    for it in levels:
        by_site.setdefault(it.label, {})[it.level] = it
        if it.below:
            below[it.level].add(it.below)
    return table(
        "The unexplained part of each level by site",
        ("Site", *([LEVELS[level], _less(below[level])] for _, level in steps)),
        [
            [site, *(_step(of_site.get(level), below[level]) for _, level in steps)]
            for site, of_site in sorted(by_site.items())
            if any(it.below for it in of_site.values())
        ],
        "No two levels of a site are known in this period.",
        numbers=range(1, len(steps) + 1),
    )


def _less(below: set[str]) -> Any:
    """What a level is compared with, where all sites have the same below it."""
    return html.Span(f"less {LEVELS[next(iter(below))]}", className="note") if len(below) == 1 else ""


def _step(it: Reconciled | None, below: set[str]) -> Any:
    if it is None or it.below is None:
        return UNKNOWN
    return [_unexplained(it), "" if len(below) == 1 else _less({it.below})]


def _unexplained(it: Reconciled) -> Any:
    if it.unexplained_share is None:
        return UNKNOWN
    said = f"{100 * it.unexplained_share:.1f}{SPACE}%".replace("-", "\u2212")
    return badge(f"{said}: below is more", "bad") if it.unexplained_share < -facility_rows.TOLERANCE else said


def _how() -> list[Any]:
    """How to connect meters."""
    return [
        html.Ol(
            [
                html.Li(["Look at a meter once:", _code(PROBE)]),
                html.Li(
                    [
                        "An agent reads meters, on any machine that reaches them. Name each in its settings:",
                        _code(METERS), _code("gigawatch collect"),
                    ]
                ),
                html.Li(
                    [
                        "Say what each measures and feeds, in one file for all sites, and apply it:", _code(TOPOLOGY),
                        _code("gigawatch topology check sites.yaml\ngigawatch topology apply sites.yaml"),
                    ]
                ),
            ]
        ),
    ]  # fmt: skip


def _code(text: str) -> html.Pre:
    """Lines that are scrolled, by keyboard too, where they have no room."""
    return html.Pre(text, tabIndex=0)


def _teach() -> html.Div:
    return components.message(
        "No meter yet",
        html.P("PUE is the energy of the whole facility over that of its IT equipment, and wants meters of both."),
        *_how(),
        html.P(["Without meters a PUE can be configured; it is shown as configured, never as measured: ",
                html.Code("gigawatch pue set"), "."]),
        html.P(["Or look at a simulated facility first: ", html.Code("gigawatch up --demo"), "."]),
    )  # fmt: skip
