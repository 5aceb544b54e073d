"""A small AI factory through the API's own store and folder: deployments of which each shows something else."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
from msgspec import Struct
from sqlalchemy import Engine

from api.decode import Parcel, decode
from api.rollups import SETTLED, Folder
from api.store import Store
from gigawatch.records import (
    Assignment,
    EnergyMethod,
    Gpu,
    GpuWindow,
    Inventory,
    Latencies,
    NodeWindow,
    Role,
    ServingWindow,
)
from gigawatch.wire import MSGPACK, Batch, Receipt, encode

WINDOW_MS = 30_000
TTFT_US = (25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000)
ITL_US = (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
E2E_US = (500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000)
CHAT, UNSTEADY, SILENT, IDLE, STARTING = "chat-70b", "code-unsteady", "search-silent", "night-idle", "vision-starting"
GPUS = 4
NODE = 1_000
"""What a node uses beside its GPUs, W, where it has a meter."""


class Kind(Struct, frozen=True, kw_only=True):
    """A deployment."""

    name: str
    model: str
    site: str
    gpu_model: str
    nodes: int
    watts: int
    """Of a GPU at work."""
    tokens_per_s: float
    """Of an engine."""
    batch: int
    ttft_s: float
    metered: bool = True
    role: Role = Role.BOTH
    load: Callable[[float], float] = lambda _minute: 1.0
    """From 0 to 1, by the minute."""
    silent_after: float = math.inf
    """Minute from which on its last node sends nothing."""
    begins: float = 0.0
    """Minute at which its last node is first heard of."""
    method: EnergyMethod = EnergyMethod.COUNTER


H100, B200 = "NVIDIA H100 80GB HBM3", "NVIDIA B200"
KINDS = (
    Kind(name=CHAT, model="meta-llama/Llama-3.3-70B-Instruct", site="oslo", gpu_model=H100, nodes=3, watts=560,
         tokens_per_s=2_600, batch=96, ttft_s=0.42, load=lambda minute: 0.94 + 0.05 * math.sin(minute / 17)),
    Kind(name="chat-8b", model="meta-llama/Llama-3.1-8B-Instruct", site="oslo", gpu_model=H100, nodes=2, watts=480,
         tokens_per_s=9_800, batch=160, ttft_s=0.12, load=lambda minute: 0.95 + 0.04 * math.sin(minute / 23)),
    Kind(name="summary-8b", model="meta-llama/Llama-3.1-8B-Instruct", site="austin", gpu_model=B200, nodes=1, watts=700,
         tokens_per_s=16_500, batch=240, ttft_s=0.9, metered=False),
    Kind(name=UNSTEADY, model="Qwen/Qwen3-Coder-30B-A3B", site="oslo", gpu_model=B200, nodes=2, watts=610,
         tokens_per_s=5_200, batch=40, ttft_s=0.2, load=lambda minute: 0.15 + 0.85 * (minute // 6 % 2)),
    Kind(name=SILENT, model="BAAI/bge-reasoner-32b", site="austin", gpu_model=H100, nodes=2, watts=450,
         tokens_per_s=2_100, batch=24, ttft_s=0.3, silent_after=100, metered=False),
    Kind(name=IDLE, model="openai/gpt-oss-120b", site="oslo", gpu_model=B200, nodes=1, watts=640, tokens_per_s=7_000,
         batch=64, ttft_s=0.25, load=lambda minute: 0.0 if minute > 30 else 1.0),
    Kind(name=STARTING, model="Qwen/Qwen3-VL-235B", site="austin", gpu_model=B200, nodes=2, watts=500,
         tokens_per_s=1_400, batch=12, ttft_s=0.7, begins=112, method=EnergyMethod.INTERPOLATED),
)  # fmt: skip
FREE_NODES = 1
"""Nodes whose GPUs are assigned to nothing."""


def seed(engine: Engine, now: datetime, minutes: int = 125, kinds: tuple[Kind, ...] = KINDS) -> None:
    """Write and fold everything up to the start of this minute."""
    stop = now.replace(second=0, microsecond=0)
    start = stop - timedelta(minutes=minutes)
    parcels = [
        _parcel(kind, number, start, stop, now) for kind in kinds for number in range(kind.nodes)
    ] + [_free(start, stop, now)]  # fmt: skip
    store = Store(engine, timedelta(days=7))
    for receipt in store.store(parcels):
        assert isinstance(receipt, Receipt), receipt
        assert receipt.refused == [], receipt
    store.close()
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        Folder(connection, lambda _: None).run(stop + SETTLED)


def _parcel(kind: Kind, number: int, start: datetime, stop: datetime, now: datetime) -> Parcel:
    last = number == kind.nodes - 1
    host = f"{kind.name}-n{number + 1}"
    serves = (Assignment(deployment=kind.name, role=kind.role, endpoint="127.0.0.1:8000"),)
    gpu_windows: list[GpuWindow] = []
    node_windows: list[NodeWindow] = []
    serving_windows: list[ServingWindow] = []
    count = int((stop - start).total_seconds() * 1000 / WINDOW_MS)
    for place in range(count):
        at = start + timedelta(milliseconds=WINDOW_MS * place)
        minute = place * WINDOW_MS / 60_000
        if last and (minute < kind.begins or minute >= kind.silent_after):
            continue
        # A node that starts reports its GPUs for a while before it serves.
        load = 0.0 if last and kind.begins else kind.load(minute)
        watts = round(90 + (kind.watts - 90) * (0.25 + 0.75 * load)) if load else 110
        noise = 1 + 0.02 * math.sin(place * 1.7 + number)
        gpu_windows += [_gpu_window(host, gpu, at, round(watts * noise), kind.method, serves) for gpu in range(GPUS)]
        node_windows.append(_node_window(at, watts * GPUS, metered=kind.metered))
        serving_windows.append(_serving_window(kind, at, load))
    return _decoded(host, kind.site, kind.gpu_model, gpu_windows, node_windows, serving_windows, now)


def _free(start: datetime, stop: datetime, now: datetime) -> Parcel:
    count = int((stop - start).total_seconds() * 1000 / WINDOW_MS)
    times = [start + timedelta(milliseconds=WINDOW_MS * place) for place in range(count)]
    gpus = [_gpu_window("free-n1", gpu, at, 95, EnergyMethod.COUNTER, ()) for at in times for gpu in range(GPUS)]
    nodes = [_node_window(at, 95 * GPUS, metered=True) for at in times]
    return _decoded("free-n1", "oslo", H100, gpus, nodes, [], now)


def _gpu_window(
    host: str, gpu: int, at: datetime, watts: int, method: EnergyMethod, serves: tuple[Assignment, ...]
) -> GpuWindow:
    ticks = WINDOW_MS // 1000
    return GpuWindow(
        gpu_uuid=f"GPU-{host}-{gpu}", start=at, covered_ms=WINDOW_MS, ticks_taken=ticks, ticks_expected=ticks,
        energy_mj=watts * WINDOW_MS, energy_method=method, gpu_util_pm=700, serves=serves,
    )  # fmt: skip


def _node_window(at: datetime, gpu_watts: int, *, metered: bool) -> NodeWindow:
    ticks = WINDOW_MS // 1000
    return NodeWindow(
        start=at, covered_ms=WINDOW_MS, ticks_taken=ticks, ticks_expected=ticks, gpus_read=GPUS, gpus_expected=GPUS,
        tick_ms=1000, gpu_power_mw=(gpu_watts * 1000,) * ticks,
        node_power_mean_mw=(gpu_watts + NODE) * 1000 if metered else None,
    )  # fmt: skip


def _serving_window(kind: Kind, at: datetime, load: float) -> ServingWindow:
    seconds = WINDOW_MS / 1000
    tokens = round(kind.tokens_per_s * load * seconds)
    requests = round(tokens / 180)
    return ServingWindow(
        deployment=kind.name, endpoint="127.0.0.1:8000", engine="vllm", model=kind.model, role=kind.role, start=at,
        covered_ms=WINDOW_MS, observed_ms=WINDOW_MS, scrapes_taken=6, scrapes_expected=6, prompt_tokens=tokens * 3,
        cached_tokens=tokens, generated_tokens=tokens, requests_finished=requests,
        running_request_ms=round(kind.batch * load * WINDOW_MS), waiting_request_ms=round(2 * load * WINDOW_MS),
        running_requests_max=round(kind.batch * load * 1.3), active_ms=WINDOW_MS if load else 0,
        kv_cache_use_max_pm=round(700 * load),
        time_to_first_token=_latencies(TTFT_US, kind.ttft_s * (0.6 + 0.4 * load), requests),
        inter_token_latency=_latencies(ITL_US, kind.batch * load / max(1.0, kind.tokens_per_s * load) or 0.01, tokens),
        end_to_end_latency=_latencies(E2E_US, 4.0, requests),
    )  # fmt: skip


def _latencies(bounds_us: tuple[int, ...], median_s: float, count: int) -> Latencies:
    """So many about a median, log-normally."""
    upto = [0.5 * (1 + math.erf(math.log(bound / 1e6 / median_s) / (0.7 * math.sqrt(2)))) for bound in bounds_us]
    places = [round(count * share) for share in (*upto, 1.0)]
    return Latencies(
        bounds_us=bounds_us, counts=(places[0], *(b - a for a, b in zip(places, places[1:], strict=False)))
    )


def _decoded(
    host: str,
    site: str,
    gpu_model: str,
    gpu_windows: list[GpuWindow],
    node_windows: list[NodeWindow],
    serving_windows: list[ServingWindow],
    now: datetime,
) -> Parcel:
    gpus = tuple(Gpu(uuid=f"GPU-{host}-{index}", index=index, model=gpu_model) for index in range(GPUS))
    body = encode(
        Batch(machine_id=f"machine-{host}", sent_at=now, simulated=True),
        inventory=Inventory(hostname=host, site=site, rack=f"{site}-r1", gpus=gpus),
        gpu_windows=gpu_windows, node_windows=node_windows, serving_windows=serving_windows,
    )  # fmt: skip
    found = decode(body, MSGPACK, now, 300)[0]
    assert isinstance(found, Parcel), found
    return found
