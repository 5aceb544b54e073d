"""Energy per token, row by row: what belongs together of several reads, what stands out, and what may be compared."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from dashboard.plots import GOOD_COVERAGE, bins
from dashboard.view import Period, TokenOrder, Wait, floor
from gigawatch.readings import Carbon, Cost
from gigawatch.token_readings import EnergyPerToken, Idle, Latency, Serving
from gigawatch.units import JOULES_PER_KWH

STEADY_VARIATION = 0.1
"""Beyond it, energy per token moves so much within the period that its mean says little."""
MILLION = 1_000_000
LATENCIES: tuple[Latency, ...] = ("time_to_first_token", "inter_token_latency")
"""Those that are shown; each is a third of the time that all take."""


class Weighed(Struct, frozen=True):
    """What the energy of a million generated tokens costs or emits."""

    amount: float
    unit: str
    """The currency, or kg of CO2e."""
    coverage: float | None
    """Part of the energy that has a price or an intensity, and by which all of it is reckoned, 0 to 1."""


class Row(Struct, frozen=True, kw_only=True):
    """A deployment, or another group, with all that is known of it in a period."""

    label: str
    energy: EnergyPerToken
    serving: Serving | None = None
    idle: Idle | None = None
    costs: tuple[Weighed, ...] = ()
    """By currency."""
    carbon: Weighed | None = None
    """By the grid's intensity."""

    @property
    def doubts(self) -> list[str]:
        """Why its energy per token is not to be relied upon, in words; nothing where it is."""
        return doubts(self.energy)

    @property
    def idle_share(self) -> float | None:
        """Energy of assigned GPUs while nothing ran, over all of their energy, 0 to 1."""
        return idle_share(self.idle)

    def wait_s(self, wait: Wait) -> float | None:
        """Time to first token, s."""
        if self.serving is None:
            return None
        return self.serving.ttft_p50_s if wait == "p50" else self.serving.ttft_p95_s


def doubts(energy: EnergyPerToken) -> list[str]:
    """Why a figure is not to be relied upon."""
    if energy.j_per_generated_token is None:
        return []
    found = []
    if energy.variation is not None and energy.variation > STEADY_VARIATION:
        found.append("not stable")
    if energy.coverage is not None and energy.coverage < GOOD_COVERAGE:
        found.append("incomplete")
    return found


def idle_share(idle: Idle | None) -> float | None:
    """Provisioned idle energy over the energy of assigned GPUs, 0 to 1."""
    assigned_j = idle.energy_j - idle.unallocated_j if idle is not None else 0
    return idle.provisioned_idle_j / assigned_j if idle is not None and assigned_j > 0 else None


def idle_sum(rows: Sequence[Idle]) -> Idle | None:
    """The sum of the parts of energy over bins and labels; None where there is none."""
    if not rows:
        return None
    sums = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("energy_j", "active_j", "provisioned_idle_j", "unobserved_j", "unallocated_j")
    }
    return Idle(time=rows[0].time, label="sum", coverage=None, **sums)


def join(
    energy: Iterable[EnergyPerToken],
    serving: Iterable[Serving],
    idle: Iterable[Idle],
    cost: Iterable[Cost],
    carbon: Iterable[Carbon],
) -> list[Row]:
    """Rows of several reads of the same groups and period, each over the whole of it and at one boundary."""
    served = {it.label: it for it in serving}
    idled = {it.label: it for it in idle}
    # As report.token_cost() has it: the price is weighed by the group's own energy at its own times.
    per_j: dict[str, list[Weighed]] = defaultdict(list)
    for priced in cost:
        if priced.currency is not None and priced.cost is not None and priced.priced_energy_j:
            price = priced.cost / priced.priced_energy_j
            per_j[priced.label].append(Weighed(price, priced.currency, priced.price_coverage))
    emitted = {
        it.label: Weighed(it.carbon_kg / it.accounted_energy_j, "kg", it.intensity_coverage)
        for it in carbon
        if it.method == "location" and it.carbon_kg is not None and it.accounted_energy_j
    }
    return [
        Row(
            label=it.label,
            energy=it,
            serving=served.get(it.label),
            idle=idled.get(it.label),
            costs=tuple(_for_million(price, it) for price in per_j[it.label] if it.j_per_generated_token is not None),
            carbon=_for_million(emitted[it.label], it)
            if it.j_per_generated_token is not None and it.label in emitted
            else None,
        )
        for it in energy
    ]


def _for_million(of_j: Weighed, energy: EnergyPerToken) -> Weighed:
    return msgspec.structs.replace(of_j, amount=of_j.amount * (energy.j_per_generated_token or 0) * MILLION)


_ORDERS: Mapping[TokenOrder, Callable[[Row], float | None]] = {
    "tokens": lambda row: row.energy.generated_tokens_per_s,
    "j_per_token": lambda row: row.energy.j_per_generated_token,
    "variation": lambda row: row.energy.variation,
    "tokens_per_s_per_mw": lambda row: row.energy.tokens_per_s_per_mw,
    "cost": lambda row: row.costs[0].amount if row.costs else None,
    "carbon": lambda row: row.carbon.amount if row.carbon else None,
    "ttft_p50": lambda row: row.wait_s("p50"),
    "ttft_p95": lambda row: row.wait_s("p95"),
    "itl": lambda row: row.serving.itl_p50_s if row.serving else None,
    "batch": lambda row: row.serving.batch if row.serving else None,
    "idle": lambda row: row.idle_share,
    "gpus": lambda row: row.energy.gpus,
    "coverage": lambda row: row.energy.coverage,
}


def in_order(rows: Iterable[Row], order: TokenOrder, *, rising: bool) -> list[Row]:
    """The rows sorted; those without the figure are last either way."""
    by_label = sorted(rows, key=lambda row: row.label, reverse=order == "label" and not rising)
    if order == "label":
        return by_label
    figure = _ORDERS[order]
    known = [(row, value) for row in by_label if (value := figure(row)) is not None]
    known.sort(key=lambda it: it[1], reverse=not rising)
    return [row for row, _ in known] + [row for row in by_label if figure(row) is None]


def frontier(rows: Iterable[Row], wait: Wait) -> list[Row]:
    """The rows that no other betters both in energy per token and in the time to first token, by that time."""
    known = [(row.wait_s(wait), row.energy.j_per_generated_token, row) for row in rows]
    points = sorted(((x, y, row) for x, y, row in known if x is not None and y is not None), key=lambda it: it[:2])
    best: list[Row] = []
    least = float("inf")
    for _, y, row in points:
        if y < least:
            least = y
            best.append(row)
    return best


class Compared(Struct, frozen=True):
    """A figure of two periods or deployments."""

    name: str
    one: float | None
    other: float | None
    words: Callable[[float | None], str]
    doubt: str
    """Why their difference means nothing; empty where it does."""

    @property
    def difference(self) -> float | None:
        """Of the one from the other, as a part of the other."""
        return None if self.one is None or not self.other else (self.one - self.other) / self.other


def known_part(rows: Sequence[Idle], period: Period) -> float:
    """Part of the bins of a period in which anything was measured, 0 to 1: rates are over the whole of it.

    Args:
        rows: energy in its parts, by the bins of the period.
        period: in bins.
    """
    return min(1.0, len({row.time for row in rows}) / len(bins(period)))


def doubt_of_coverage(one: EnergyPerToken, other: EnergyPerToken) -> str:
    """Why the difference of two figures of GPUs means nothing, in words: too much of their time is not known."""
    poor = any(it.coverage is not None and it.coverage < GOOD_COVERAGE for it in (one, other))
    return "coverage is too low" if poor else ""


def doubt_of(one: EnergyPerToken, other: EnergyPerToken) -> str:
    """The same of two energies per token, which may also differ by no more than each varies by."""
    if poor := doubt_of_coverage(one, other):
        return poor
    if not one.j_per_generated_token or not other.j_per_generated_token:
        return ""
    difference = abs(one.j_per_generated_token / other.j_per_generated_token - 1)
    varies = max(one.variation or 0, other.variation or 0)
    return "within what it varies by" if difference <= varies else ""


def doubt_of_serving(one: Serving | None, other: Serving | None) -> str:
    """The same of what was served and how long it took."""
    shares = [it.scrape_coverage for it in (one, other) if it is not None and it.scrape_coverage is not None]
    return "the engines were read too seldom" if any(share < GOOD_COVERAGE for share in shares) else ""


class Priced(Struct, frozen=True):
    """Energy with a price, and what it cost."""

    energy_j: float
    currency: str
    cost: float


def idle_costs(idle: Iterable[Idle], cost: Iterable[Cost], step: timedelta) -> list[Priced]:
    """What the provisioned idle energy cost, by currency: each site's at the mean price of its energy at that time, as
    far as that energy has a price.

    Args:
        idle: by site, in bins none of which is in two of the cost's.
        cost: by site and step, at boundary gpu.
        step: of the cost.
    """
    prices: dict[tuple[str, datetime], list[tuple[str, float, float]]] = defaultdict(list)
    for it in cost:
        if it.currency is not None and it.cost is not None and it.priced_energy_j and it.price_coverage:
            price_per_j = it.cost / it.priced_energy_j
            prices[it.label, floor(it.time, step)].append((it.currency, price_per_j, it.price_coverage))
    sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for part in idle:
        for currency, price_per_j, share in prices[part.label, floor(part.time, step)]:
            energy_j, amount = sums[currency]
            priced_j = part.provisioned_idle_j * share
            sums[currency] = energy_j + priced_j, amount + priced_j * price_per_j
    return [Priced(energy_j, currency, amount) for currency, (energy_j, amount) in sorted(sums.items())]


def wh_per_thousand(j_per_token: float | None) -> float | None:
    """Watt-hours for a thousand tokens."""
    return None if j_per_token is None else j_per_token * 1000 / (JOULES_PER_KWH / 1000)
