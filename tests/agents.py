"""Runs the real agent as a process of its own, on the stand-in for libnvidia-ml.so.1."""

import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from collector.spool import Spool
from gigawatch import wire
from gigawatch.records import Event, GpuHealth, Inventory, MeterWindow, NodeWindow, ServingWindow
from tests.nvml import standin
from tests.processes import GIGAWATCH, READY_TIMEOUT_S, Process


@functools.cache
def library() -> Path:
    """The folder with the stand-in, built once."""
    return standin.build(Path(tempfile.gettempdir()) / "gigawatch-tests")


def environment(scenario: Path | None, **settings: str) -> dict[str, str]:
    """The environment of an agent: without a scenario the machine has no NVIDIA driver."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIGAWATCH_")}
    driver = standin.environment(library(), scenario) if scenario else {}
    return {**clean, **driver, **settings}


def collect(scenario: Path | None, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `gigawatch collect` with these options to its end."""
    return subprocess.run(
        [*GIGAWATCH, "collect", *options],
        env=environment(scenario), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


@contextmanager
def running_agent(scenario: Path | None, data_dir: Path, *options: str, **settings: str) -> "Iterator[Agent]":
    """An agent that is stopped in the end."""
    agent = Agent(scenario, data_dir, options, settings)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()


class Agent(Process):
    """`gigawatch collect`."""

    def __init__(
        self, scenario: Path | None, data_dir: Path, options: tuple[str, ...], settings: dict[str, str]
    ) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        arguments = ["collect", "--data-dir", str(data_dir), *options]
        super().__init__(data_dir / "agent.log", arguments, environment(scenario, **settings))

    def start(self) -> None:
        """Start it and wait until it begins to read: before, it knows no signals."""
        said = self.log.stat().st_size if self.log.exists() else 0
        super().start()
        wait_for(
            "agent",
            lambda: b"Reading this node" in self.log.read_bytes()[said:] or self.process.poll() is not None,
            READY_TIMEOUT_S,
        )
        assert self.process.poll() is None, self.words()


@dataclass
class Spooled:
    """What an agent left in its spool, decoded."""

    batches: list[wire.Batch] = field(default_factory=list)
    inventories: list[Inventory] = field(default_factory=list)
    gpu_windows: list[dict[str, Any]] = field(default_factory=list)
    node_windows: list[NodeWindow] = field(default_factory=list)
    serving_windows: list[ServingWindow] = field(default_factory=list)
    meter_windows: list[MeterWindow] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    health: list[GpuHealth] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """Kinds of the events, in order."""
        return [event.kind for event in self.events]


def spooled(data_dir: Path) -> Spooled:
    """Read the spool of an agent that was stopped, emptying it."""
    spool = Spool(data_dir / "spool.sqlite", 512, 72)
    found = Spooled()
    while (waiting := spool.first()) is not None:
        batch = msgspec.msgpack.decode(waiting.body, type=wire.Batch)
        found.batches.append(batch)
        if isinstance(batch.inventory, msgspec.Raw):
            found.inventories.append(msgspec.msgpack.decode(batch.inventory, type=Inventory))
        found.gpu_windows += unpack(batch.packed_gpu_windows) if batch.packed_gpu_windows else []
        found.node_windows += unpack_nodes(batch.packed_node_windows) if batch.packed_node_windows else []
        found.serving_windows += [msgspec.msgpack.decode(raw, type=ServingWindow) for raw in batch.serving_windows]
        found.meter_windows += [msgspec.msgpack.decode(raw, type=MeterWindow) for raw in batch.meter_windows]
        found.events += [msgspec.msgpack.decode(raw, type=Event) for raw in batch.events]
        found.health += [msgspec.msgpack.decode(raw, type=GpuHealth) for raw in batch.health]
        spool.remove(waiting.seq)
    spool.close()
    return found


def unpack(packed: wire.PackedGpuWindows) -> list[dict[str, Any]]:
    """Packed windows as one dictionary each."""
    rows: list[dict[str, Any]] = [
        {"gpu_uuid": packed.gpu_uuids[index], "serves": packed.serves[index] if packed.serves else ()}
        for index in memoryview(packed.gpu).cast("i").tolist()
    ]
    for column in wire.columns():
        data = packed.columns.get(column.name)
        values = [None] * packed.rows if data is None else memoryview(data).cast(column.typecode).tolist()
        for row, value in zip(rows, values, strict=True):
            row[column.name] = None if value == column.absent else value
    return rows


def unpack_nodes(packed: wire.PackedNodeWindows) -> list[NodeWindow]:
    """Packed windows of a node as records."""
    ticks = [None if mw == wire.ABSENT_TICK else mw for mw in memoryview(packed.gpu_power_mw).cast("i").tolist()]
    windows, first = [], 0
    for row, count in enumerate(memoryview(packed.ticks).cast("h").tolist()):
        values: dict[str, Any] = {"gpu_power_mw": tuple(ticks[first : first + count])}
        for column in wire.node_columns():
            data = packed.columns.get(column.name)
            value = column.absent if data is None else memoryview(data).cast(column.typecode)[row]
            if value != column.absent:
                values[column.name] = value
        values["start"] = datetime.fromtimestamp(values["start"] / 1000, UTC)
        windows.append(NodeWindow(**values))
        first += count
    return windows


def wait_for(what: str, condition: Any, timeout_s: float = 60.0) -> Any:
    """Wait until the condition gives something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {timeout_s} s")
