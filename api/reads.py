"""Reads: each route is one named read of gigawatch.readings, as JSON."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.access import require
from api.documents import answers
from gigawatch import facility_readings, readings, report_readings, token_readings
from gigawatch.facility_readings import FacilityGroup, HealthState, ReconciledGroup, Step
from gigawatch.known import require_known
from gigawatch.readings import GpuOrder, GroupBy, NodeOrder, NodeState, Where
from gigawatch.token_readings import Boundary, Of, TokenGroup

MOST_POINTS = 5_000
DEFAULT_PERIOD = timedelta(hours=1)
LONGEST_PERIOD = timedelta(days=3_660)
YEARS = range(2000, 2201)
"""In which moments may be asked for."""
LONGEST_OF_SECONDS = timedelta(hours=6)
router = APIRouter(prefix="/api/v1", dependencies=[Depends(require("viewer", "operator"))], tags=["reads"])

Limit = Annotated[int, Query(ge=1, le=10_000, description="Most rows to answer")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="Rows to pass over")]
Find = Annotated[str, Query(max_length=64, description="Text in the host name or the rack")]
GpuUuid = Annotated[str, Query(max_length=96)]


def _where(
    site: Annotated[str | None, Query(max_length=200)] = None,
    rack: Annotated[str | None, Query(max_length=200)] = None,
    gpu_model: Annotated[str | None, Query(max_length=200)] = None,
    node_id: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> Where:
    return Where(site=site, rack=rack, gpu_model=gpu_model, node_id=node_id)


class Period(msgspec.Struct, frozen=True):
    """A period and the step to show it by."""

    start: datetime
    stop: datetime
    step: timedelta


class Span(msgspec.Struct, frozen=True):
    """A period."""

    start: datetime
    stop: datetime


def _span(
    start: Annotated[datetime | None, Query(description="First moment; default an hour before stop")] = None,
    stop: Annotated[datetime | None, Query(description="Moment after the last; default now")] = None,
) -> Span:
    return _between(start, stop, DEFAULT_PERIOD)


def _between(start: datetime | None, stop: datetime | None, default: timedelta) -> Span:
    end = _utc(stop) if stop is not None else datetime.now(UTC)
    begin = _utc(start) if start is not None else end - default
    if not begin < end:
        raise HTTPException(422, f"start = {begin.isoformat()} is not before stop = {end.isoformat()}: swap them")
    if end - begin > LONGEST_PERIOD:
        raise HTTPException(422, "start and stop are more than ten years apart: ask for a shorter period")
    return Span(begin, end)


SpanQuery = Annotated[Span, Depends(_span)]


def _period(
    span: SpanQuery,
    step_s: Annotated[
        int | None, Query(ge=1, le=86_400, description="Length of a bin, s; default such that there are up to 300")
    ] = None,
) -> Period:
    step = readings.step_for(span.start, span.stop) if step_s is None else timedelta(seconds=step_s)
    return Period(span.start, span.stop, _bounded(span, step))


def _bounded(span: Span, step: timedelta) -> timedelta:
    if (span.stop - span.start) / step > MOST_POINTS:
        step_s = f"{step.total_seconds():g}"
        raise HTTPException(422, f"step_s = {step_s} gives more than {MOST_POINTS} bins: ask for a longer step")
    return step


def _utc(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise HTTPException(
            422, f"{moment.isoformat()} is out of range: ask for years from {YEARS.start} to {YEARS.stop - 1}"
        )
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


WhereQuery = Annotated[Where, Depends(_where)]
PeriodQuery = Annotated[Period, Depends(_period)]


def _period_of_seconds(period: PeriodQuery) -> Period:
    if period.stop - period.start > LONGEST_OF_SECONDS:
        raise HTTPException(422, "start and stop are more than 6 h apart: seconds are for short periods")
    return period


SecondsQuery = Annotated[Period, Depends(_period_of_seconds)]
GpuModel = Annotated[str | None, Query(max_length=200, description="GPU model; default all")]
DeploymentName = Annotated[str | None, Query(max_length=200, description="Deployment; default all")]
Site = Annotated[str | None, Query(max_length=200, description="Site; default the whole fleet")]


def _read(request: Request, read: Callable[[Connection], Any]) -> Response:
    """Run a read of what there is on a connection of the report role."""
    with request.app.state.report_engine.connect() as connection:
        require_known(connection, {**request.query_params, **request.path_params})
        found = read(connection)
    if found is None:
        raise HTTPException(404, "There is no such thing")
    return Response(msgspec.json.encode(found), media_type="application/json")


def _read_of_node(request: Request, node_id: int, read: Callable[[Connection], Any]) -> Response:
    """Run a read that of an unknown node would be empty."""
    return _read(request, lambda connection: readings.node_now(connection, _node(node_id)) and read(connection))


@router.get("/fleet", responses=answers(readings.FleetSummary))
def fleet(request: Request, where: WhereQuery) -> Response:
    """The fleet now: power, utilisation, how many GPUs report. Boundary: GPUs only."""
    return _read(request, lambda connection: readings.fleet_summary(connection, where))


@router.get("/sites", responses=answers(list[readings.SiteNow]))
def sites(request: Request) -> Response:
    """Sites with their racks, nodes and power now."""
    return _read(request, readings.sites_now)


@router.get("/nodes", responses=answers(list[readings.NodeNow]))
def nodes(
    request: Request,
    where: WhereQuery,
    find: Find = "",
    state: NodeState | None = None,
    order: NodeOrder = "place",
    descending: bool = False,
    limit: Limit = 1_000,
    offset: Offset = 0,
) -> Response:
    """Nodes as they are now; with state only those in it, with find those whose host name or rack contains it."""
    return _read(
        request,
        lambda connection: readings.nodes_now(
            connection, where, find=find, state=state, order=order, descending=descending, limit=limit, offset=offset
        ),
    )


@router.get("/nodes/counts", responses=answers(readings.NodeCounts))
def node_counts(request: Request, where: WhereQuery, find: Find = "") -> Response:
    """How many nodes there are, and in which state; with find of those whose host name or rack contains it."""
    return _read(request, lambda connection: readings.node_counts(connection, where, find))


@router.get("/nodes/{node_id}", responses=answers(readings.NodeNow))
def node(request: Request, node_id: int) -> Response:
    """One node as it is now."""
    return _read(request, lambda connection: readings.node_now(connection, _node(node_id)))


@router.get("/nodes/{node_id}/series", responses=answers(list[readings.NodePoint]))
def node_series(request: Request, node_id: int, period: PeriodQuery) -> Response:
    """Power over time of one node, by part."""
    return _read_of_node(
        request,
        node_id,
        lambda connection: readings.node_series(connection, node_id, period.start, period.stop, period.step),
    )


@router.get("/nodes/{node_id}/ticks", responses=answers(list[readings.Tick]))
def node_ticks(request: Request, node_id: int, period: PeriodQuery) -> Response:
    """Power of a node's GPUs together, tick by tick; for up to an hour."""
    if period.stop - period.start > timedelta(hours=1):
        raise HTTPException(422, "start and stop are more than an hour apart: ticks are for short periods")
    return _read_of_node(
        request, node_id, lambda connection: readings.node_ticks(connection, node_id, period.start, period.stop)
    )


@router.get("/gpus", responses=answers(list[readings.GpuNow]))
def gpus(
    request: Request,
    where: WhereQuery,
    order: GpuOrder = "place",
    throttled: bool = False,
    limit: Limit = 1_000,
    offset: Offset = 0,
) -> Response:
    """GPUs as they are now; with throttled only those that are held down."""
    return _read(
        request, lambda connection: readings.gpus_now(connection, where, order, limit, offset, throttled=throttled)
    )


@router.get("/gpus/{gpu_uuid}", responses=answers(readings.GpuFacts))
def gpu(request: Request, gpu_uuid: str) -> Response:
    """What one GPU is."""
    return _read(request, lambda connection: readings.gpu(connection, gpu_uuid))


@router.get("/gpus/{gpu_uuid}/series", responses=answers(list[readings.GpuPoint]))
def gpu_series(request: Request, gpu_uuid: str, period: PeriodQuery) -> Response:
    """All metrics over time of one GPU."""
    return _read(
        request,
        lambda connection: readings.gpu_series(connection, period.start, period.stop, period.step, gpu_uuid=gpu_uuid),
    )


@router.get("/power", responses=answers(list[readings.PowerPoint]))
def power(request: Request, where: WhereQuery, period: PeriodQuery, group_by: GroupBy = "fleet") -> Response:
    """Power over time, whole or by group. Boundary: GPUs only."""
    return _read(
        request,
        lambda connection: readings.power_series(connection, period.start, period.stop, period.step, where, group_by),
    )


@router.get("/site-seconds", responses=answers(list[readings.SiteSecond]))
def site_seconds(request: Request, period: SecondsQuery, site: Site = None) -> Response:
    """Power of a site, or of the fleet, second by second; for up to 6 h. Boundary: GPUs only."""
    return _read(request, lambda connection: readings.site_seconds(connection, period.start, period.stop, site))


@router.get("/load-swings", responses=answers(list[readings.LoadSwing]))
def load_swings(request: Request, period: PeriodQuery, site: Site = None) -> Response:
    """How the power of each site swung, by the minute; for up to 7 days. Boundary: GPUs only."""
    if period.stop - period.start > timedelta(days=7):
        raise HTTPException(422, "start and stop are more than 7 days apart: ask for a shorter period")
    return _read(request, lambda connection: readings.load_swings(connection, period.start, period.stop, site))


@router.get("/load-swings/summary", responses=answers(readings.LoadSwingSummary))
def load_swing_summary(
    request: Request,
    period: SecondsQuery,
    site: Site = None,
    over_s: Annotated[int, Query(ge=1, le=300, description="Length of the window of the swing, s")] = 10,
) -> Response:
    """The largest swing and ramps in a period of up to 6 h. Boundary: GPUs only."""
    over = timedelta(seconds=over_s)
    return _read(
        request, lambda connection: readings.load_swing_summary(connection, period.start, period.stop, site, over)
    )


@router.get("/load-swings/spectrum", responses=answers(list[readings.SpectrumLine]))
def load_spectrum(request: Request, period: SecondsQuery, site: Site = None) -> Response:
    """Amplitude of power's oscillations by frequency, in a period of up to 6 h. Boundary: GPUs only."""
    return _read(request, lambda connection: readings.load_spectrum(connection, period.start, period.stop, site))


@router.get("/energy", responses=answers(readings.Energy))
def energy(request: Request, where: WhereQuery, period: PeriodQuery) -> Response:
    """Energy over a period, with its coverage. Boundary: GPUs only."""
    return _read(request, lambda connection: readings.energy(connection, period.start, period.stop, where))


@router.get("/energy/hourly", responses=answers(list[readings.EnergyHour]))
def energy_hourly(request: Request, where: WhereQuery, period: PeriodQuery) -> Response:
    """Energy by GPU and hour; hours that begin within the period."""
    if period.stop - period.start > timedelta(days=31):
        raise HTTPException(422, "start and stop are more than 31 days apart: ask for a shorter period")
    return _read(request, lambda connection: readings.energy_hourly(connection, period.start, period.stop, where))


StepOfHours = Annotated[
    int | None,
    Query(ge=3_600, le=31_622_400, multiple_of=3_600, description="Length of a bin, s; default the whole period"),
]


class Weighed(msgspec.Struct, frozen=True):
    """What is asked of energy that is weighed by a price or an intensity."""

    span: Span
    step: timedelta | None
    where: Where
    group_by: TokenGroup
    boundary: Boundary
    deployment: str | None

    @property
    def of(self) -> Of:
        """The part of what is served."""
        return Of(site=self.where.site, gpu_model=self.where.gpu_model, deployment=self.deployment)


def _weighed(
    span: SpanQuery,
    step_s: StepOfHours = None,
    group_by: TokenGroup = "fleet",
    site: Site = None,
    gpu_model: GpuModel = None,
    boundary: Annotated[Boundary, Query(description="gpu, it or facility")] = "gpu",
    deployment: DeploymentName = None,
) -> Weighed:
    step = None if step_s is None else _bounded(span, timedelta(seconds=step_s))
    return Weighed(span, step, Where(site=site, gpu_model=gpu_model), group_by, boundary, deployment)


WeighedQuery = Annotated[Weighed, Depends(_weighed)]


@router.get("/cost", responses=answers(list[readings.Cost]))
def cost(request: Request, asked: WeighedQuery) -> Response:
    """What energy cost at a boundary: Σ over time of energy · price, a row for each currency."""
    return _read(
        request,
        lambda connection: readings.cost(
            connection,
            asked.span.start,
            asked.span.stop,
            asked.step,
            asked.where,
            asked.group_by,
            asked.boundary,
            asked.deployment,
        ),
    )


@router.get("/carbon", responses=answers(list[readings.Carbon]))
def carbon(request: Request, asked: WeighedQuery) -> Response:
    """What energy emitted at a boundary, kgCO2e, location-based and market-based apart."""
    return _read(
        request,
        lambda connection: readings.carbon(
            connection,
            asked.span.start,
            asked.span.stop,
            asked.step,
            asked.where,
            asked.group_by,
            asked.boundary,
            asked.deployment,
        ),
    )


StepOfMinutes = Annotated[
    int | None,
    Query(ge=60, le=31_622_400, multiple_of=60, description="Length of a bin, s; default the whole period"),
]


class Served(msgspec.Struct, frozen=True):
    """What is asked of deployments."""

    span: Span
    step: timedelta | None
    group_by: TokenGroup
    of: Of


def _served(
    span: SpanQuery,
    step_s: StepOfMinutes = None,
    group_by: TokenGroup = "fleet",
    site: Site = None,
    gpu_model: GpuModel = None,
    deployment: DeploymentName = None,
) -> Served:
    step = None if step_s is None else _bounded(span, timedelta(seconds=step_s))
    return Served(span, step, group_by, Of(site=site, gpu_model=gpu_model, deployment=deployment))


ServedQuery = Annotated[Served, Depends(_served)]


@router.get("/deployments", responses=answers(list[token_readings.Deployment]))
def deployments(request: Request) -> Response:
    """All deployments and their roles."""
    return _read(request, token_readings.deployments)


@router.get("/energy-per-token", responses=answers(list[token_readings.EnergyPerToken]))
def energy_per_token(
    request: Request,
    asked: ServedQuery,
    boundary: Annotated[Boundary | None, Query(description="gpu, it or facility; default all three")] = None,
) -> Response:
    """Energy for each token and request, with its coverage, variation and how it was obtained."""
    return _read(
        request,
        lambda connection: token_readings.energy_per_token(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, boundary, asked.of
        ),
    )


@router.get("/token-cost", responses=answers(list[token_readings.TokenCost]))
def token_cost(
    request: Request,
    asked: WeighedQuery,
    price_per_gpu_hour: Annotated[
        float | None, Query(ge=0, le=1e6, description="What an hour of a GPU costs, in any currency")
    ] = None,
) -> Response:
    """What the energy, and at a price of a GPU-hour the GPUs, of a million generated tokens cost."""
    return _read(
        request,
        lambda connection: token_readings.token_cost(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.boundary, asked.of,
            price_per_gpu_hour,
        ),
    )  # fmt: skip


@router.get("/token-carbon", responses=answers(list[token_readings.TokenCarbon]))
def token_carbon(
    request: Request,
    asked: WeighedQuery,
    embodied_g_per_gpu_hour: Annotated[
        float | None, Query(ge=0, le=1e6, description="Share of what making a GPU emitted, gCO2e for each of its hours")
    ] = None,
) -> Response:
    """What a million generated tokens and a request emit, location-based and market-based apart."""
    return _read(
        request,
        lambda connection: token_readings.token_carbon(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.boundary, asked.of,
            embodied_g_per_gpu_hour,
        ),
    )  # fmt: skip


@router.get("/serving", responses=answers(list[token_readings.Serving]))
def serving(request: Request, asked: ServedQuery) -> Response:
    """What was served: tokens and requests per second, batch, and quantiles of latencies."""
    return _read(
        request,
        lambda connection: token_readings.serving(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.of
        ),
    )


@router.get("/idle", responses=answers(list[token_readings.Idle]))
def idle(request: Request, asked: ServedQuery) -> Response:
    """Metered GPU energy in four parts: active, provisioned idle, unobserved, unallocated. Boundary: GPUs only."""
    return _read(
        request,
        lambda connection: token_readings.idle(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.of
        ),
    )


@router.get("/ramp-up", responses=answers(list[token_readings.RampUp]))
def ramp_up(
    request: Request,
    since: Annotated[datetime | None, Query(description="First seen since; default a day ago")] = None,
    site: Site = None,
    deployment: DeploymentName = None,
    limit: Limit = 1_000,
) -> Response:
    """Nodes lately first seen in a deployment and their time to the first token; those without one first."""
    begin = _utc(since) if since is not None else datetime.now(UTC) - timedelta(days=1)
    of = Of(site=site, deployment=deployment)
    return _read(request, lambda connection: token_readings.ramp_ups(connection, begin, of, limit))


def _span_of_hours(
    start: Annotated[datetime | None, Query(description="First moment; default a day before stop")] = None,
    stop: Annotated[datetime | None, Query(description="Moment after the last; default now")] = None,
) -> Span:
    return _between(start, stop, timedelta(days=1))


SpanOfHours = Annotated[Span, Depends(_span_of_hours)]


def _span_of_year(span: SpanOfHours) -> Span:
    if span.stop - span.start > timedelta(days=366):
        raise HTTPException(422, "start and stop are more than 366 days apart: ask for a shorter period")
    return span


SpanOfYear = Annotated[Span, Depends(_span_of_year)]
CalendarStep = Literal["hour", "day", "week", "month", "quarter", "year"]
_STEPS: Mapping[CalendarStep, Step] = {
    "hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": "1 month",
    "quarter": "3 months", "year": "1 year",
}  # fmt: skip
Category = Annotated[int | None, Query(ge=1, le=3, description="1 UPS output, 2 PDU output, 3 IT input; default all")]


class OfFacility(msgspec.Struct, frozen=True):
    """What is asked of the facility."""

    span: Span
    step: Step
    group_by: FacilityGroup
    site: str | None


def _of_facility(
    span: SpanOfHours,
    step: Annotated[CalendarStep | None, Query(description="Length of a bin, UTC; default the whole period")] = None,
    group_by: FacilityGroup = "fleet",
    site: Site = None,
) -> OfFacility:
    length = None if step is None else _STEPS[step]
    if isinstance(length, timedelta):
        _bounded(span, length)
    return OfFacility(span, length, group_by, site)


FacilityQuery = Annotated[OfFacility, Depends(_of_facility)]


@router.get("/pue", responses=answers(list[facility_readings.Pue]))
def pue(request: Request, asked: FacilityQuery, category: Category = None) -> Response:
    """PUE with its category, its name by period and its coverage; measured, or configured and said to be."""
    return _read(
        request,
        lambda connection: facility_readings.pue(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site, category
        ),
    )


@router.get("/power-ratio", responses=answers(list[facility_readings.PowerRatio]))
def power_ratio(request: Request, site: Site = None) -> Response:
    """Power of each site over that of its IT at this moment: indicative, and no PUE."""
    return _read(request, lambda connection: facility_readings.power_ratios_now(connection, site))


@router.get("/facility", responses=answers(list[facility_readings.FacilityEnergy]))
def facility(request: Request, asked: FacilityQuery) -> Response:
    """What the facility's meters counted, by role."""
    return _read(
        request,
        lambda connection: facility_readings.facility(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site
        ),
    )


@router.get("/water", responses=answers(list[facility_readings.Water]))
def water(request: Request, asked: FacilityQuery) -> Response:
    """WUE of all water and of drinking water, by category."""
    return _read(
        request,
        lambda connection: facility_readings.water(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site
        ),
    )


@router.get("/heat", responses=answers(list[facility_readings.Heat]))
def heat(request: Request, asked: FacilityQuery) -> Response:
    """ERF, ERE, energy made on site (REF), and CER."""
    return _read(
        request,
        lambda connection: facility_readings.heat(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site
        ),
    )


@router.get("/facility-carbon", responses=answers(list[facility_readings.FacilityCarbon]))
def facility_carbon(request: Request, asked: FacilityQuery) -> Response:
    """What the facility's energy emitted, and CUE, location-based and market-based apart; by fleet or site."""
    if asked.group_by == "hall":
        raise HTTPException(422, "group_by = hall: an intensity is of a whole site; ask for fleet or site")
    return _read(
        request,
        lambda connection: facility_readings.facility_carbon(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site
        ),
    )


@router.get("/facility-cost", responses=answers(list[facility_readings.FacilityCost]))
def facility_cost(request: Request, asked: FacilityQuery) -> Response:
    """What the facility's energy cost at its sites' prices, a row for each currency; by fleet or site."""
    if asked.group_by == "hall":
        raise HTTPException(422, "group_by = hall: a price is of a whole site; ask for fleet or site")
    return _read(
        request,
        lambda connection: facility_readings.facility_cost(
            connection, asked.span.start, asked.span.stop, asked.step, asked.group_by, asked.site
        ),
    )


@router.get("/facility-gaps", responses=answers(list[report_readings.Gap]))
def facility_gaps(request: Request, span: SpanOfYear, site: Site = None, category: Category = None) -> Response:
    """Hours that the facility's ratios lack, as ranges, and the meters that are why; for up to 366 days."""
    return _read(request, lambda connection: report_readings.gaps(connection, span.start, span.stop, site, category))


@router.get("/meters/coverage", responses=answers(list[facility_readings.MeterCoverage]))
def meter_coverage(request: Request, span: SpanOfYear, site: Site = None) -> Response:
    """How much of a period each meter is known for, and what it counted; for up to 366 days."""
    return _read(request, lambda connection: facility_readings.meter_coverage(connection, span.start, span.stop, site))


@router.get("/meters/health", responses=answers(list[facility_readings.MeterHealth]))
def meter_health(request: Request, site: Site = None, state: HealthState | None = None) -> Response:
    """Each meter, whether it is heard of, and whether what it says can be right; with state only those in it."""
    return _read(request, lambda connection: facility_readings.meter_health(connection, site, state))


@router.get("/capacity", responses=answers(list[facility_readings.Capacity]))
def capacity(request: Request, span: SpanOfHours, site: Site = None) -> Response:
    """Limits of feeds and budgets: what is drawn now, the peak of the period, headroom, and days to the limit."""
    return _read(request, lambda connection: facility_readings.capacity(connection, span.start, span.stop, site))


@router.get("/reconciliation", responses=answers(list[facility_readings.Reconciled]))
def reconciliation(
    request: Request, span: SpanOfHours, group_by: ReconciledGroup = "site", site: Site = None
) -> Response:
    """What each level from the GPUs to the grid measured, and what of it is unexplained; for up to 31 days."""
    if span.stop - span.start > timedelta(days=31):
        raise HTTPException(422, "start and stop are more than 31 days apart: ask for a shorter period")
    return _read(
        request,
        lambda connection: facility_readings.reconciliation(connection, span.start, span.stop, group_by, site),
    )


@router.get("/eu-eed", responses=answers(list[facility_readings.EuIndicator]))
def eu_eed(
    request: Request,
    site: Annotated[str, Query(max_length=200)],
    year: Annotated[int, Query(ge=2023, le=2100, description="Calendar year of the figures")],
    category: Category = None,
) -> Response:
    """The figures of a site's yearly report under Delegated Regulation (EU) 2024/1364, and what is missing for it."""
    return _read(request, lambda connection: facility_readings.eu_eed(connection, site, year, category))


@router.get("/tariffs", responses=answers(list[readings.Tariff]))
def tariffs(request: Request, span: SpanQuery, site: Site = None, limit: Limit = 1_000, offset: Offset = 0) -> Response:
    """Prices of energy that count in a period."""
    return _read(request, lambda connection: readings.tariffs(connection, span.start, span.stop, site, limit, offset))


@router.get("/tariffs/imports", responses=answers(list[readings.FactorImport]))
def tariff_imports(request: Request, site: Site = None) -> Response:
    """Files of prices that were taken in, the oldest first."""
    return _read(request, lambda connection: readings.tariff_imports(connection, site))


@router.get("/grid-intensity", responses=answers(list[readings.GridIntensity]))
def grid_intensity(
    request: Request, span: SpanQuery, site: Site = None, limit: Limit = 1_000, offset: Offset = 0
) -> Response:
    """Carbon intensities of energy that count in a period."""
    return _read(
        request, lambda connection: readings.grid_intensity(connection, span.start, span.stop, site, limit, offset)
    )


@router.get("/grid-intensity/imports", responses=answers(list[readings.FactorImport]))
def intensity_imports(request: Request, site: Site = None) -> Response:
    """Files of carbon intensities that were taken in, the oldest first."""
    return _read(request, lambda connection: readings.intensity_imports(connection, site))


@router.get("/configured-pue", responses=answers(list[readings.ConfiguredPue]))
def configured_pue(
    request: Request, span: SpanQuery, site: Site = None, limit: Limit = 1_000, offset: Offset = 0
) -> Response:
    """PUE that was configured, not measured, and counts in a period."""
    return _read(
        request, lambda connection: readings.configured_pue(connection, span.start, span.stop, site, limit, offset)
    )


@router.get("/configured-pue/imports", responses=answers(list[readings.FactorImport]))
def pue_imports(request: Request, site: Site = None) -> Response:
    """What configured PUE was taken in, the oldest first."""
    return _read(request, lambda connection: readings.pue_imports(connection, site))


@router.get("/health/gpus", responses=answers(list[readings.GpuHealthNow]))
def gpu_health(
    request: Request, where: WhereQuery, gpu_uuid: GpuUuid | None = None, limit: Limit = 1_000, offset: Offset = 0
) -> Response:
    """Latest slow readings of GPUs, the worst first: memory errors, row remap, XIDs."""
    return _read(request, lambda connection: readings.gpu_health(connection, where, gpu_uuid, limit, offset))


@router.get("/events", responses=answers(list[readings.EventRow]))
def events(
    request: Request, where: WhereQuery, period: PeriodQuery, gpu_uuid: GpuUuid | None = None, limit: Limit = 100
) -> Response:
    """What happened in a period, the newest first."""
    return _read(
        request,
        lambda connection: readings.events(connection, period.start, period.stop, where, gpu_uuid, limit),
    )


@router.get("/store", responses=answers(readings.StoreStatus))
def store(request: Request) -> Response:
    """The store itself: how far windows are folded, sizes of its tables, its jobs."""
    return _read(request, readings.store_status)


def _node(node_id: int) -> int:
    if not 1 <= node_id < 2**31:
        raise HTTPException(404, "There is no such thing")
    return node_id


@router.get("/topology", responses=answers(list[facility_readings.SiteTopology]))
def topology(request: Request, site: Site = None) -> Response:
    """Topologies in force: halls, racks, meters and what they feed, as they were declared."""
    return _read(request, lambda connection: facility_readings.topologies(connection, site))


@router.get("/meters", responses=answers(list[facility_readings.MeterNow]))
def meters(request: Request, site: Site = None, limit: Limit = 1_000, offset: Offset = 0) -> Response:
    """Meters of the facility: what each counts, what it feeds, and when it was last heard of."""
    return _read(request, lambda connection: facility_readings.meters(connection, site, limit, offset))
