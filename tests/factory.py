"""An AI factory in which time is ours: counters and gauges in, batches out, by the agent's own folders and parsers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
from sqlalchemy import Engine, text

from api.decode import Parcel, decode
from api.rollups import SETTLED, Folder
from api.store import Store
from collector.engines.catalogue import named
from collector.engines.endpoint import Endpoint
from collector.engines.exposition import parse
from collector.engines.reading import read
from collector.exposition import Answer
from collector.sources.host import HostReading
from collector.sources.nvml import GpuReading
from collector.windows import GpuFolder, GpusAtTick, NodeFolder
from gigawatch.records import Assignment, Gpu, GpuWindow, Inventory, NodeWindow, Role, ServingWindow
from gigawatch.settings import Engine as EngineSettings
from gigawatch.wire import BATCHES, MSGPACK, Batch, Receipt, encode
from tests.merged import together

WINDOW_MS, TICK_MS, SCRAPE_MS = 10_000, 1_000, 5_000
MINUTE_MS = 60_000
KEEP = timedelta(days=7)


def now_minute_ms(minutes_ago: int) -> int:
    """The start of a minute so long ago, ms since 1970 UTC."""
    return (int(datetime.now(UTC).timestamp()) // 60 - minutes_ago) * MINUTE_MS


def at(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


@dataclass
class Vllm:
    """An engine's counters, served as vLLM serves them."""

    deployment: str
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    role: Role = Role.BOTH
    address: str = "127.0.0.1:8000"
    prompt_tokens: int = 0
    generated_tokens: int = 0
    requests: int = 0
    running: int = 0
    waiting: int = 0
    ttft_s: dict[float, int] = field(default_factory=lambda: dict.fromkeys((0.1, 0.5, 1.0, float("inf")), 0))
    """How many first tokens came within each bound and beyond the one before."""
    started_s: float = 1_000.0

    def restart(self, at_ms: int) -> None:
        self.prompt_tokens = self.generated_tokens = self.requests = self.running = 0
        self.ttft_s = dict.fromkeys(self.ttft_s, 0)
        self.started_s = at_ms / 1000

    def exposition(self) -> str:
        label = f'engine="0",model_name="{self.model}"'
        lines = [
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self.started_s!r}",
        ]
        for name, kind, value in (
            ("num_requests_running", "gauge", self.running),
            ("num_requests_waiting", "gauge", self.waiting),
            ("prompt_tokens_total", "counter", self.prompt_tokens),
            ("generation_tokens_total", "counter", self.generated_tokens),
        ):
            lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{label}}} {float(value)!r}"]
        lines += ["# TYPE vllm:request_success_total counter"]
        lines += [f'vllm:request_success_total{{{label},finished_reason="stop"}} {float(self.requests)!r}']
        lines += ["# TYPE vllm:time_to_first_token_seconds histogram"]
        upto = 0
        for bound_s, count in self.ttft_s.items():
            upto += count
            bound = "+Inf" if bound_s == float("inf") else repr(bound_s)
            lines.append(f'vllm:time_to_first_token_seconds_bucket{{{label},le="{bound}"}} {float(upto)!r}')
        lines.append(f"vllm:time_to_first_token_seconds_count{{{label}}} {float(upto)!r}")
        lines.append(f"vllm:time_to_first_token_seconds_sum{{{label}}} 0.0")
        return "\n".join([*lines, ""])


class Machine:
    """A node whose agent's folders are driven tick by tick."""

    def __init__(
        self,
        name: str,
        gpus: int = 1,
        *,
        site: str = "oslo",
        model: str = "NVIDIA H100 80GB HBM3",
        engines: Sequence[Vllm] = (),
    ) -> None:
        self.name = name
        self.uuids = [f"GPU-{name}-{index}" for index in range(gpus)]
        self.energy_mj = [10_000 * (index + 1) for index in range(gpus)]
        self.node_mw: int | None = None
        """What the node's own meter shows."""
        self.engines = list(engines)
        self._inventory = Inventory(
            hostname=name,
            site=site,
            gpus=tuple(Gpu(uuid=uuid, index=index, model=model) for index, uuid in enumerate(self.uuids)),
        )
        self._folders = [GpuFolder(uuid, WINDOW_MS, TICK_MS) for uuid in self.uuids]
        self._node_folder = NodeFolder(WINDOW_MS, TICK_MS)
        self._endpoints: dict[str, Endpoint] = {}
        self.gpu_windows: list[GpuWindow] = []
        self.node_windows: list[NodeWindow] = []
        self.serving_windows: list[ServingWindow] = []

    def serve(self, at_ms: int, serves: Mapping[int, Sequence[Assignment]]) -> None:
        """From now, the moment of the last tick, on these GPUs serve these deployments and the others none."""
        for index, folder in enumerate(self._folders):
            its = tuple(serves.get(index, ()))
            if its != folder.serves:
                self.gpu_windows += folder.close(at_ms, stop=True)
                folder.serves = its

    def tick(self, at_ms: int, used_mj: Sequence[int], *, scrape: bool) -> None:
        """Read everything once, after the GPUs used so much."""
        for index, used in enumerate(used_mj):
            self.energy_mj[index] += used
        for folder, energy_mj in zip(self._folders, self.energy_mj, strict=True):
            folder.add(at_ms, GpuReading(uuid=folder.uuid, energy_counter_mj=energy_mj, power_limit_mw=2_000_000))
            self.gpu_windows += folder.close(at_ms)
        powers = GpusAtTick(sum(used_mj), len(self.uuids), len(self.uuids), 0)
        self._node_folder.add(at_ms, powers, HostReading(node_power_mw=self.node_mw))
        self.node_windows += self._node_folder.close(at_ms)
        if scrape:
            self.scrape(at_ms)

    def scrape(self, at_ms: int) -> None:
        """Read the engines."""
        vllm = named("vllm")
        for engine in self.engines:
            endpoint = self._endpoints.get(engine.address)
            if endpoint is None:
                url = f"http://{engine.address}/metrics"
                settings = EngineSettings(url=url, deployment=engine.deployment, role=engine.role)
                endpoint = Endpoint(settings, engine.address, WINDOW_MS, at_ms - 1)
                self._endpoints[engine.address] = endpoint
            answer = Answer(engine.exposition(), "text/plain; version=0.0.4", 0.0)
            endpoint.take(at_ms, "vllm", read(parse(engine.address, answer, vllm.metrics()), vllm))
            endpoint.tick(at_ms)
            self.serving_windows += endpoint.close(at_ms)

    def end(self, at_ms: int) -> None:
        """Hand out what is open, as at an agent's end."""
        for folder in self._folders:
            self.gpu_windows += folder.close(at_ms, stop=True)
        self.node_windows += self._node_folder.close(at_ms, stop=True)
        for endpoint in self._endpoints.values():
            self.serving_windows += endpoint.close(at_ms, stop=True)

    def body(self) -> bytes:
        """What was handed out since the last call, as an agent sends it."""
        body = encode(
            Batch(machine_id=f"machine-{self.name}", sent_at=datetime.now(UTC)),
            inventory=self._inventory,
            gpu_windows=self.gpu_windows,
            node_windows=self.node_windows,
            serving_windows=self.serving_windows,
        )
        self.gpu_windows, self.node_windows, self.serving_windows = [], [], []
        return body


def run(
    machines: Sequence[Machine],
    start_ms: int,
    stop_ms: int,
    used_mj: Callable[[Machine, int, int, int], int],
    work: Callable[[int, int], None] = lambda _before_ms, _now_ms: None,
    silent: Callable[[Machine, int], bool] = lambda _machine, _now_ms: False,
) -> None:
    """Let time pass from start to stop, tick by tick; the first tick is at start.

    Args:
        used_mj: energy of a machine's GPU (by index) between two moments.
        work: called with each pair of moments before what is between them is read, to move the engines' counters.
        silent: machines whose agent does not read at a moment; their GPUs go on.
    """
    moments = [*range(start_ms, stop_ms, TICK_MS), stop_ms]
    unread = {machine.name: [0] * len(machine.uuids) for machine in machines}
    before_ms = start_ms
    for now_ms in moments:
        if now_ms > before_ms:
            work(before_ms, now_ms)
        for machine in machines:
            used = [
                carried + (used_mj(machine, index, before_ms, now_ms) if now_ms > before_ms else 0)
                for index, carried in enumerate(unread[machine.name])
            ]
            if silent(machine, now_ms):
                unread[machine.name] = used
                continue
            unread[machine.name] = [0] * len(used)
            machine.tick(now_ms, used, scrape=now_ms % SCRAPE_MS == 0 or now_ms in {start_ms, stop_ms})
        before_ms = now_ms


def evenly(total: int, start_ms: int, stop_ms: int, before_ms: int, now_ms: int) -> int:
    """The part between two moments of a total that is spread evenly over a time, in whole units without remainder."""
    return total * (now_ms - start_ms) // (stop_ms - start_ms) - total * (before_ms - start_ms) // (stop_ms - start_ms)


def store(engine: Engine, machines: Sequence[Machine], *, relayed: bool = False) -> None:
    """Store what the machines handed out, as the API does: batch by batch, or as a relay merges them."""
    bodies = [machine.body() for machine in machines]
    now = datetime.now(UTC)
    if relayed:
        merged = together([msgspec.msgpack.decode(body, type=Batch) for body in bodies])
        found = decode(merged, BATCHES, now, 300)
    else:
        found = [it for body in bodies for it in decode(body, MSGPACK, now, 300)]
    parcels = [it for it in found if isinstance(it, Parcel)]
    assert len(parcels) == len(machines), found
    writer = Store(engine, KEEP)
    receipts = writer.store(parcels)
    writer.close()
    for receipt in receipts:
        assert isinstance(receipt, Receipt), receipt
        assert receipt.refused == [], receipt


def fold(engine: Engine, now_ms: int) -> None:
    """Fold everything up to the minute before a moment."""
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True, options="-c timezone=UTC") as connection:
        Folder(connection, lambda _: None).run(at(now_ms) + SETTLED)


def rows(engine: Engine, sql: str, **values: Any) -> list[dict[str, Any]]:
    """The rows of a query, each as a dictionary; decimals as floats, exact below 2^53 thousandths."""
    with engine.connect() as connection:
        found = connection.execute(text(sql), values)
        return [
            {key: float(value) if isinstance(value, Decimal) else value for key, value in row._mapping.items()}
            for row in found
        ]
