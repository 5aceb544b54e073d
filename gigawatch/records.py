"""Frozen records of what travels from a node to the store.

Each field's bounds are those that a sensor can mean: what lies outside is refused at the door with the
field named. The bounds also choose the width of the field's packed column (gigawatch.wire). A value that a
GPU does not support is absent (None), never zero. Units are in the names.
"""

from datetime import datetime
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from gigawatch.units import MILLISECONDS_PER_HOUR, MILLISECONDS_PER_MINUTE

INT2_MAX = 2**15 - 1
INT4_MAX = 2**31 - 1
INT8_MAX = 2**63 - 1
MOST_SHARING = 16
"""Deployments that share one GPU at the same time."""

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern="^[^\\x00]*$")]
"""A name that people gave or a driver reports: a site, a rack, a host, a GPU model. The store cannot hold a NUL."""
Identity = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,95}$")]
"""A machine id, a GPU's UUID, a spool's id."""
Time = Annotated[datetime, Meta(tz=True)]
PerMille = Annotated[int, Meta(ge=0, le=1_000)]
Celsius = Annotated[int, Meta(ge=-50, le=250)]
Megahertz = Annotated[int, Meta(ge=0, le=INT2_MAX)]
Milliwatts = Annotated[int, Meta(ge=0, le=INT4_MAX)]
MilliwattsOfMeter = Annotated[int, Meta(ge=-INT8_MAX, le=INT8_MAX)]
"""Below 0 it flows the other way: what a site generates is exported, or a current transformer is mounted wrong."""
Millijoules = Annotated[int, Meta(ge=0, le=INT4_MAX)]
MillijoulesOfNode = Annotated[int, Meta(ge=0, le=INT8_MAX)]
Mebibytes = Annotated[int, Meta(ge=0, le=INT4_MAX)]
Kibibytes = Annotated[int, Meta(ge=0, le=INT8_MAX)]
Percent = Annotated[int, Meta(ge=0, le=200)]
Count = Annotated[int, Meta(ge=0, le=INT8_MAX)]
Ticks = Annotated[int, Meta(ge=0, le=INT2_MAX)]
CoveredMs = Annotated[int, Meta(ge=1, le=MILLISECONDS_PER_MINUTE)]
PartMs = Annotated[int, Meta(ge=0, le=MILLISECONDS_PER_MINUTE)]


class EnergyMethod(IntEnum):
    """How a window's energy was obtained; where parts differ, the weakest of them (the largest number)."""

    COUNTER = 1
    """The difference of the GPU's energy counter."""
    INTERPOLATED = 2
    """The counter's difference across a gap in the readings, spread evenly over it."""
    INTEGRATED = 3
    """The trapezoid of polled power: the GPU has no counter."""
    ESTIMATED = 4
    """The trapezoid of polled power in place of a counter that was reset or gave an impossible value."""


class MeterDoubt(IntEnum):
    """Why what a meter says of its energy is not believed."""

    STUCK = 1
    """Its register stands still although power flows."""
    REVERSED = 2
    """Its power flows backwards: current transformers that are swapped or mounted the wrong way."""


class Severity(StrEnum):
    """How much an event matters to an engineer on call."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Role(StrEnum):
    """What of serving an engine does: where prefill and decode run apart, each has GPUs and tokens of its own."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


class Assignment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a GPU serves: its energy is that of this deployment, busy or not."""

    deployment: Name
    role: Role = Role.BOTH
    endpoint: Name | None = None
    """The engine on the same node that the GPU works for, as in ServingWindow; absent where that is on another node."""


class GpuWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one physical GPU did in one window.

    A window ends on a multiple of its length in UTC; it starts on one too, except where the agent started
    within it. It never crosses a full minute, so that minutes, hours and days are exact sums of windows.
    """

    gpu_uuid: Identity
    start: Time
    covered_ms: CoveredMs
    """Time for which the energy is known."""
    ticks_taken: Ticks
    ticks_expected: Ticks
    energy_mj: Millijoules | None = None
    energy_method: EnergyMethod | None = None
    power_mean_mw: Milliwatts | None = None
    """Mean of the polled power: a cross-check of the counter, which gives the energy."""
    power_min_mw: Milliwatts | None = None
    power_max_mw: Milliwatts | None = None
    power_limit_mw: Milliwatts | None = None
    gpu_util_pm: PerMille | None = None
    mem_util_pm: PerMille | None = None
    gpu_temp_max_c: Celsius | None = None
    mem_temp_max_c: Celsius | None = None
    sm_clock_mhz: Megahertz | None = None
    mem_clock_mhz: Megahertz | None = None
    mem_used_mib: Mebibytes | None = None
    clock_event_reasons: Count | None = None
    """Union over the ticks of NVML's bits nvmlClocksEventReason*."""
    fan_pct: Percent | None = None
    pcie_tx_kib: Kibibytes | None = None
    pcie_rx_kib: Kibibytes | None = None
    nvlink_tx_kib: Kibibytes | None = None
    nvlink_rx_kib: Kibibytes | None = None
    serves: Annotated[tuple[Assignment, ...], Meta(max_length=MOST_SHARING)] = ()
    """What it served through all of covered_ms; several deployments where they shared it at the same time."""


class NodeWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one node did in one window, with its GPUs' total power tick by tick."""

    start: Time
    covered_ms: CoveredMs
    ticks_taken: Ticks
    ticks_expected: Ticks
    gpus_read: Ticks
    """GPUs that answered at the last tick."""
    gpus_expected: Ticks
    """GPUs that the node is known to have."""
    tick_ms: Annotated[int, Meta(ge=10, le=MILLISECONDS_PER_MINUTE)]
    gpu_power_mw: Annotated[tuple[Annotated[int, Meta(ge=0, le=INT4_MAX)] | None, ...], Meta(max_length=6_000)]
    """Sum over the node's GPUs at each tick expected; None where a tick was missed or a GPU did not answer."""
    cpu_energy_mj: MillijoulesOfNode | None = None
    dram_energy_mj: MillijoulesOfNode | None = None
    node_power_mean_mw: Milliwatts | None = None
    node_power_max_mw: Milliwatts | None = None
    rejected_readings: Count = 0
    """Energy counter readings refused as impossible."""


class Latencies(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A histogram of a latency: counts add up, bucket by bucket, over any time, node and deployment.

    Counts of histograms with other bounds are added at their own bounds: each bound keeps saying how many were
    at most that.
    """

    bounds_us: Annotated[tuple[Count, ...], Meta(max_length=1_000)]
    """Greatest latency of each bucket but the last, rising, µs."""
    counts: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=1_001)]
    """How many lie in each bucket: above the bound before and at most its own; the last, above all bounds."""

    def __post_init__(self) -> None:
        """Check what no single bound can say."""
        if len(self.counts) != len(self.bounds_us) + 1:
            raise ValueError(f"{len(self.bounds_us)} bounds want one count more, and have {len(self.counts)}")
        if any(before >= after for before, after in pairwise(self.bounds_us)):
            raise ValueError("bounds_us must rise")


class ServingWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one inference engine served of one model in one window, from what its counters grew by.

    It starts and ends as a GPU's window does. A mean over any time is a ratio of sums: the mean batch is
    running_request_ms over observed_ms. What an engine does not tell is absent.
    """

    deployment: Name
    endpoint: Name
    """Host and port that were read, with the path where it is not /metrics: a deployment may have several on a node."""
    engine: Name
    model: Name | None = None
    role: Role = Role.BOTH
    start: Time
    covered_ms: CoveredMs
    """Time for which the growth of the counters is known."""
    observed_ms: PartMs
    """Time between readings that came one after the other; in the rest of covered_ms growth was spread over a gap."""
    scrapes_taken: Ticks
    scrapes_expected: Ticks
    prompt_tokens: Count | None = None
    """Tokens of prompts, those from the cache among them where the engine counts them so (docs/engines.md)."""
    cached_tokens: Count | None = None
    """Tokens of prompts that came from the cache."""
    generated_tokens: Count | None = None
    requests_finished: Count | None = None
    running_request_ms: Count | None = None
    """Running requests times the time that they ran, within observed_ms."""
    waiting_request_ms: Count | None = None
    running_requests_max: Count | None = None
    active_ms: PartMs | None = None
    """Time of observed_ms with a request running."""
    kv_cache_use_max_pm: PerMille | None = None
    time_to_first_token: Latencies | None = None
    inter_token_latency: Latencies | None = None
    end_to_end_latency: Latencies | None = None


class MeterWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one meter counted in one window: electricity, heat, water or fuel.

    It starts and ends as a GPU's window does, or is longer where the meter is read more seldom. It never crosses a
    full hour, so that hours and days are exact sums. What a meter does not tell is absent.
    """

    meter: Name
    """Its name in the topology, unique within the site."""
    start: Time
    covered_ms: Annotated[int, Meta(ge=1, le=MILLISECONDS_PER_HOUR)]
    """Time for which the energy or volume is known; where neither is, because of a doubt, the power."""
    readings_taken: Ticks
    readings_expected: Ticks
    energy_mj: MillijoulesOfNode | None = None
    """Electricity, or of a heat meter heat."""
    energy_method: EnergyMethod | None = None
    power_mean_mw: MilliwattsOfMeter | None = None
    """Mean of the polled power: a cross-check of the register, which gives the energy."""
    power_min_mw: MilliwattsOfMeter | None = None
    power_max_mw: MilliwattsOfMeter | None = None
    current_max_ma: Count | None = None
    """Greatest current of a phase."""
    volume_ml: Count | None = None
    """Water, or fuel."""
    temp_mean_mc: Annotated[int, Meta(ge=-100_000, le=1_000_000)] | None = None
    """Mean temperature, thousandths of 1 °C: of the outside air, of a supply, of an inlet."""
    rejected_readings: Count = 0
    """Readings refused as impossible."""
    doubt: MeterDoubt | None = None
    """Why not all of its energy is told, although the meter answers."""


class Process(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A process that holds memory of a GPU."""

    pid: Annotated[int, Meta(ge=1, le=INT4_MAX)]
    name: Annotated[str, Meta(max_length=200)] | None = None
    mem_used_mib: Mebibytes | None = None


class GpuHealth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is read slowly of one GPU: sent when it changed, and once an hour."""

    gpu_uuid: Identity
    time: Time
    ecc_volatile_corrected: Count | None = None
    ecc_volatile_uncorrected: Count | None = None
    ecc_aggregate_corrected: Count | None = None
    ecc_aggregate_uncorrected: Count | None = None
    rows_remapped_corrected: Count | None = None
    rows_remapped_uncorrected: Count | None = None
    row_remap_pending: bool | None = None
    row_remap_failed: bool | None = None
    pages_retired: Count | None = None
    page_retirement_pending: bool | None = None
    pcie_replays: Count | None = None
    performance_state: Annotated[int, Meta(ge=0, le=15)] | None = None
    processes: Annotated[tuple[Process, ...], Meta(max_length=1_000)] | None = None


class Event(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something that happened on a node, to one GPU or to all."""

    time: Time
    kind: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
    """xid, gpu_lost, gpu_back, driver_reload, mig_changed, counter_reset, counter_rejected, clock_step,
    readings_gap, spool_dropped, agent_started, agent_stopped, …: docs/events.md lists them."""
    severity: Severity
    message: Annotated[str, Meta(min_length=1, max_length=1_000)]
    gpu_uuid: Identity | None = None
    code: Annotated[int, Meta(ge=0, le=INT4_MAX)] | None = None
    """The XID, for kind xid."""


class MigInstance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One MIG device of a GPU. Its energy is the physical GPU's, and counted there."""

    uuid: Identity
    gpu_instance_id: Annotated[int, Meta(ge=0, le=255)]
    compute_instance_id: Annotated[int, Meta(ge=0, le=255)] | None = None
    profile: Name | None = None
    mem_total_mib: Mebibytes | None = None


class Gpu(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one physical GPU is."""

    uuid: Identity
    index: Annotated[int, Meta(ge=0, le=1_023)]
    model: Name
    serial: Name | None = None
    pci_bus_id: Name | None = None
    vbios_version: Name | None = None
    mem_total_mib: Mebibytes | None = None
    power_limit_mw: Milliwatts | None = None
    power_limit_default_mw: Milliwatts | None = None
    power_limit_min_mw: Milliwatts | None = None
    power_limit_max_mw: Milliwatts | None = None
    temp_slowdown_c: Celsius | None = None
    temp_shutdown_c: Celsius | None = None
    energy_counter: bool = True
    """Whether the GPU has an energy counter."""
    power_scope: Name | None = None
    """'gpu', or 'module' where the sensor covers a CPU as well (Grace superchips)."""
    mig_enabled: bool | None = None
    mig_instances: Annotated[tuple[MigInstance, ...], Meta(max_length=64)] = ()


class Inventory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one node is. Sent at the start and whenever it changed."""

    hostname: Name
    site: Name = "default"
    rack: Name | None = None
    labels: Annotated[dict[Name, Name], Meta(max_length=64)] = {}
    agent_version: Name | None = None
    driver_version: Name | None = None
    cuda_version: Name | None = None
    nvml_version: Name | None = None
    cpu_model: Name | None = None
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=1_024)] = ()
