"""Named reads of what deployments used and served: like gigawatch.readings, for energy per token."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, text

T = TypeVar("T")
Boundary = Literal["gpu", "it", "facility"]
BOUNDARIES: tuple[Boundary, ...] = ("gpu", "it", "facility")
TokenGroup = Literal["fleet", "site", "gpu_model", "deployment", "model"]
Latency = Literal["time_to_first_token", "inter_token_latency", "end_to_end_latency"]


class Of(Struct, frozen=True, kw_only=True):
    """A part of what is served; all of it by default."""

    site: str | None = None
    gpu_model: str | None = None
    deployment: str | None = None


EVERYTHING = Of()


class EnergyPerToken(Struct, frozen=True, kw_only=True):
    """Energy of a group at one boundary, and what was made of it: report.energy_per_token()."""

    time: datetime
    """Start of the bin, or of the period."""
    label: str
    boundary: Boundary
    energy_j: float | None
    """None: not known at this boundary."""
    prompt_tokens: float | None
    cached_tokens: float | None
    generated_tokens: float | None
    requests: float | None
    generated_tokens_per_s: float | None
    j_per_generated_token: float | None
    """The headline; over the minutes alone in which energy and tokens are of the same GPUs."""
    j_per_token: float | None
    """For each token of prompts and answers."""
    j_per_request: float | None
    tokens_per_s_per_mw: float | None
    prefill_j_per_prompt_token: float | None
    decode_j_per_generated_token: float | None
    variation: float | None
    """Coefficient of variation of j_per_generated_token over the buckets of the period, 1."""
    gpus: int
    gpus_silent: int
    coverage: float | None
    """GPU-time in the ratios over all that the group had, 0 to 1."""
    measured_share: float | None
    """Part of the energy that is a difference of counters or metered, 0 to 1; the four shares add up to 1."""
    interpolated_share: float | None
    integrated_share: float | None
    modelled_share: float | None
    gpu_s_per_generated_token: float | None
    """GPU-time for each generated token, s."""
    gpu_s_per_request: float | None
    measured_pue_share: float | None
    """At boundary facility: part of the energy with a PUE measured that day, 0 to 1; of the rest it is configured."""


class Serving(Struct, frozen=True, kw_only=True):
    """What a group served, and how long its users waited: report.serving()."""

    time: datetime
    label: str
    prompt_tokens_per_s: float | None
    generated_tokens_per_s: float | None
    requests_per_s: float | None
    batch: float | None
    """Requests that an engine ran at once, in the mean."""
    waiting: float | None
    running_requests_max: int | None
    active_share: float | None
    """Part of the observed time in which requests ran, 0 to 1."""
    kv_cache_use_max: float | None
    ttft_p50_s: float | None
    """Time to first token: half of the requests waited no longer."""
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    itl_p50_s: float | None
    """Time between tokens."""
    itl_p95_s: float | None
    e2e_p50_s: float | None
    """From a request to its last token."""
    e2e_p95_s: float | None
    interpolated_share: float | None
    scrape_coverage: float | None


class Idle(Struct, frozen=True, kw_only=True):
    """Metered GPU energy in its four parts, which add up to it: report.idle()."""

    time: datetime
    label: str
    energy_j: float
    active_j: float
    provisioned_idle_j: float
    unobserved_j: float
    unallocated_j: float
    coverage: float | None


class TokenCost(Struct, frozen=True, kw_only=True):
    """What a million generated tokens cost: report.token_cost()."""

    time: datetime
    label: str
    boundary: Boundary
    currency: str | None
    """None: the group's energy has no price."""
    energy_cost_per_million_tokens: float | None
    price_coverage: float | None
    gpu_hours_per_million_tokens: float | None
    gpu_cost_per_million_tokens: float | None
    """At the price of a GPU-hour that was asked with; in whatever currency that is."""
    coverage: float | None


class TokenCarbon(Struct, frozen=True, kw_only=True):
    """What a million generated tokens emit, by one method of accounting: report.token_carbon()."""

    time: datetime
    label: str
    boundary: Boundary
    method: Literal["location", "market"]
    instrument: str | None
    carbon_kg_per_million_tokens: float | None
    carbon_g_per_request: float | None
    sci_g_per_request: float | None
    """With the share of what making the GPUs emitted that was asked with."""
    intensity_coverage: float | None
    coverage: float | None


class Deployment(Struct, frozen=True, kw_only=True):
    """What GPUs serve: report.deployments."""

    deployment: str
    role: Literal["both", "prefill", "decode"]


class RampUp(Struct, frozen=True, kw_only=True):
    """How long a node took from being heard of in a deployment to its first token: report.ramp_up."""

    deployment: str
    role: str
    site: str
    rack: str | None
    node_id: int
    hostname: str
    simulated: bool
    first_seen: datetime
    first_token: datetime | None
    ramp_up_s: float | None


def energy_per_token(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    group_by: TokenGroup = "fleet",
    boundary: Boundary | None = None,
    of: Of = EVERYTHING,
) -> list[EnergyPerToken]:
    """Energy per token by group, bin and boundary; without a boundary at all three."""
    return _grouped(
        connection, EnergyPerToken, "report.energy_per_token", start, stop, step, group_by, of,
        before="CAST(:boundary AS text), ", boundary=boundary,
    )  # fmt: skip


def serving(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    group_by: TokenGroup = "fleet",
    of: Of = EVERYTHING,
    latencies: tuple[Latency, ...] | None = None,
) -> list[Serving]:
    """What was served by group and bin; with some latencies or, which takes longest, all."""
    return _grouped(
        connection, Serving, "report.serving", start, stop, step, group_by, of,
        after=", CAST(:latencies AS text[])", latencies=None if latencies is None else list(latencies),
    )  # fmt: skip


def idle(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    group_by: TokenGroup = "fleet",
    of: Of = EVERYTHING,
) -> list[Idle]:
    """Energy by whether it served requests, by group and bin."""
    return _grouped(connection, Idle, "report.idle", start, stop, step, group_by, of)


def token_cost(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    group_by: TokenGroup = "fleet",
    boundary: Boundary = "gpu",
    of: Of = EVERYTHING,
    price_per_gpu_hour: float | None = None,
) -> list[TokenCost]:
    """What a million generated tokens cost; step is of whole hours."""
    return _grouped(
        connection, TokenCost, "report.token_cost", start, stop, step, group_by, of,
        before="CAST(:boundary AS text), CAST(:price AS numeric), ", boundary=boundary, price=price_per_gpu_hour,
    )  # fmt: skip


def token_carbon(
    connection: Connection,
    start: datetime,
    stop: datetime,
    step: timedelta | None = None,
    group_by: TokenGroup = "fleet",
    boundary: Boundary = "gpu",
    of: Of = EVERYTHING,
    embodied_g_per_gpu_hour: float | None = None,
) -> list[TokenCarbon]:
    """What a million generated tokens emit; step is of whole hours."""
    return _grouped(
        connection, TokenCarbon, "report.token_carbon", start, stop, step, group_by, of,
        before="CAST(:boundary AS text), CAST(:embodied AS numeric), ", boundary=boundary,
        embodied=embodied_g_per_gpu_hour,
    )  # fmt: skip


def ramp_ups(connection: Connection, since: datetime, of: Of = EVERYTHING, limit: int = 1_000) -> list[RampUp]:
    """Nodes first heard of in a deployment since then: those without a token yet, then the others, the newest first."""
    rows = connection.execute(
        text(
            "SELECT * FROM report.ramp_up WHERE first_seen >= :since"
            " AND (CAST(:deployment AS text) IS NULL OR deployment = :deployment)"
            " AND (CAST(:site AS text) IS NULL OR site = :site)"
            " ORDER BY first_token IS NOT NULL, first_seen DESC, deployment, hostname LIMIT :limit"
        ),
        {"since": since, "deployment": of.deployment, "site": of.site, "limit": limit},
    )
    return [RampUp(**row._mapping) for row in rows]


def deployments(connection: Connection) -> list[Deployment]:
    """All deployments, by name; one whose prefill and decode run apart once for each role."""
    rows = connection.execute(text("SELECT deployment, role FROM report.deployments ORDER BY 1, 2"))
    return [Deployment(**row._mapping) for row in rows]


def deployment_names(connection: Connection) -> list[str]:
    """Names of all deployments, in their order."""
    return sorted({it.deployment for it in deployments(connection)})


def tokens_until(connection: Connection) -> datetime:
    """Up to when the figures of deployments are known now."""
    found: datetime = connection.execute(text("SELECT until FROM report.tokens_until")).scalar_one()
    return found


def _grouped(
    connection: Connection,
    kind: type[T],
    function: str,
    start: datetime,
    stop: datetime,
    step: timedelta | None,
    group_by: TokenGroup,
    of: Of,
    before: str = "",
    after: str = "",
    **values: Any,
) -> list[T]:
    rows = connection.execute(
        text(
            f"SELECT * FROM {function}(:start, :stop, CAST(:step AS interval), :group_by, {before}"
            f" CAST(:site AS text), CAST(:gpu_model AS text), CAST(:deployment AS text){after})"
        ),
        {
            "start": start,
            "stop": stop,
            "step": step,
            "group_by": group_by,
            "site": of.site,
            "gpu_model": of.gpu_model,
            "deployment": of.deployment,
            **values,
        },
    )
    return [kind(**{name: _plain(value) for name, value in row._mapping.items()}) for row in rows]


def _plain(value: Any) -> Any:
    """Decimals as floats: what is exact is in the views."""
    return float(value) if isinstance(value, Decimal) else value
