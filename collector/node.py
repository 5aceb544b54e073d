"""This node as the agent sees it: reads GPUs and host, folds readings into records, follows the driver's fate.

Knows nothing of spools and servers. Used by one thread, but for the listener's.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from collector.assignments.configured import in_words
from collector.client import utc_now
from collector.sources.host import Host
from collector.sources.nvml import Device, DriverGone, GpuLost, GpuReading, Nvml, describe_event
from collector.windows import Gap, GpuFolder, GpusAtTick, Mark, NodeFolder, from_ms
from gigawatch import __version__
from gigawatch.records import (
    Assignment,
    Event,
    Gpu,
    GpuHealth,
    GpuWindow,
    Inventory,
    MeterWindow,
    NodeWindow,
    ServingWindow,
    Severity,
)
from gigawatch.settings import Agent
from gigawatch.units import MILLIJOULES_PER_JOULE, MILLISECONDS_PER_SECOND

REOPEN_S = 2.0
"""How often a driver that is gone is tried again."""
LOST_REOPEN_S = 30.0
"""How often NVML is started anew while a GPU is lost: only then one that came back can be seen."""
HEALTH_REPEAT_S = 3_600.0
RESET_REPEAT_S = 1_800.0
"""Half of the time for which the alert stays after such an event."""
EVENT_WAIT_MS = 500
EVENT_PAUSE_S = 1.0
log = logging.getLogger(__name__)


class Records(Struct, frozen=True, kw_only=True):
    """What is ready to be sent."""

    inventory: Inventory | None = None
    gpu_windows: Sequence[GpuWindow] = ()
    node_windows: Sequence[NodeWindow] = ()
    serving_windows: Sequence[ServingWindow] = ()
    meter_windows: Sequence[MeterWindow] = ()
    events: Sequence[Event] = ()
    health: Sequence[GpuHealth] = ()

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return any(getattr(self, name) for name in self.__struct_fields__)


class Node:
    """Reads and folds.

    Args:
        agent: settings of the agent.
        host: the node itself.
        nvml: its GPUs.
        hostname: its name.
        wake: called, from another thread, when an event came in.
        marks: up to where an earlier agent handed out energy, by GPU.
        known: GPUs that the node is known to have; one that is lost now would not be found.
        serves: what GPUs served, by UUID, when an earlier agent ended.
    """

    def __init__(
        self,
        agent: Agent,
        host: Host,
        nvml: Nvml,
        hostname: str,
        wake: Callable[[], None] = lambda: None,
        marks: dict[str, Mark] | None = None,
        known: Sequence[Gpu] = (),
        serves: Mapping[str, tuple[Assignment, ...]] | None = None,
    ) -> None:
        self._agent = agent
        self._host = host
        self._nvml = nvml
        self._hostname = hostname
        self._wake = wake
        self._window_ms = agent.window_s * MILLISECONDS_PER_SECOND
        self._tick_ms = round(agent.tick_s * MILLISECONDS_PER_SECOND)
        self._marks = dict(marks or {})
        self._known = {gpu.uuid: gpu for gpu in known}
        self._folders: dict[str, GpuFolder] = {}
        self.serves: Mapping[str, tuple[Assignment, ...]] = serves or {}
        """What GPUs serve, by UUID."""
        self.pids: Mapping[str, frozenset[int]] = {}
        """Processes on each GPU, by UUID, as they were read last; replaced when it changes."""
        self._over: list[GpuWindow] = []
        self._node_folder = NodeFolder(self._window_ms, self._tick_ms)
        self._listener: Listener | None = None
        self._missing: set[str] = set()
        self._driver_was_there: bool | None = None
        self._reopen_due_s = self._inventory_due_s = 0.0
        self._health_due_s: dict[str, float] = {}
        self._health_sent: dict[str, tuple[GpuHealth, float]] = {}
        self._resets_told: dict[str, tuple[str | None, float]] = {}
        self._inventory: Inventory | None = None
        # What take() hands out. Lists are appended to by the listener's thread too, which is safe.
        self._new_inventory: Inventory | None = None
        self._events: list[Event] = []
        self._health: list[GpuHealth] = []

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """GPUs that the node is known to have, the lost ones too."""
        return tuple(sorted(self._known.values(), key=lambda gpu: gpu.index))

    def keep_open(self, at_ms: int) -> None:
        """Start NVML if it is not started, and anew while GPUs are lost.

        It may take seconds, which belong to no reading: a tick's time is taken after it.
        """
        if time.monotonic() < self._reopen_due_s or (self._nvml.is_open and not self._missing):
            return
        self._reopen_due_s = time.monotonic() + (LOST_REOPEN_S if self._nvml.is_open else REOPEN_S)
        self.shut()
        try:
            self._nvml.open()
        except DriverGone as error:
            if self._driver_was_there is None:
                self.add_event(
                    at_ms, "no_driver", Severity.WARNING if self._known else Severity.INFO,
                    f"This node has no usable NVIDIA driver: {error}; it is looked for every {REOPEN_S:.0f} s",
                )  # fmt: skip
                self._driver_was_there = False
            self._describe(at_ms)
            return
        if self._driver_was_there is False:
            self.add_event(at_ms, "driver_reload", Severity.WARNING, "The NVIDIA driver is there again")
        self._driver_was_there = True
        present = {device.uuid for device in self._nvml.devices}
        for uuid in self._missing & present:
            self.add_event(at_ms, "gpu_back", Severity.INFO, f"{self._name(uuid)} answers again", uuid)
        self._missing &= set(self._known) - present
        for uuid in set(self._known) - present - self._missing:
            self._lose_gpu(at_ms, uuid)
        if self._nvml.has_events:
            self._listener = Listener(self._nvml, self._hear)
            self._listener.start()
        self._inventory_due_s = 0.0

    def tick(self, at_ms: int) -> None:
        """Read everything once. at_ms grows from call to call."""
        readings = self._read(at_ms)
        for reading in readings:
            folder = self._folders.get(reading.uuid)
            if folder is None:
                folder = self._folders[reading.uuid] = GpuFolder(
                    reading.uuid,
                    self._window_ms,
                    self._tick_ms,
                    self._marks.pop(reading.uuid, None),
                )
                folder.serves = self.serves.get(reading.uuid, ())
            self._events.extend(folder.add(at_ms, reading))
        powers = [reading.power_mw for reading in readings]
        complete = len(readings) == len(self._known) and None not in powers
        gpus = GpusAtTick(
            sum(power for power in powers if power is not None) if complete else None,
            len(readings),
            len(self._known),
            sum(folder.take_rejected() for folder in self._folders.values()),
        )
        self._node_folder.add(at_ms, gpus, self._host.read())
        self._report_gaps(at_ms)
        if self._nvml.is_open:
            try:
                self._read_slowly(at_ms)
            except DriverGone as error:
                self._lose_driver(at_ms, error)

    def assign(self, at_ms: int, serves: Mapping[str, tuple[Assignment, ...]]) -> None:
        """From at_ms, the moment of the last tick, on GPUs serve this, by UUID; the others serve nothing.

        Windows of a GPU that moved end here, so that each millijoule is that of the deployment that used it.
        """
        if serves == self.serves:
            return
        before, self.serves = self.serves, serves
        for uuid in sorted({*before, *serves}):
            if before.get(uuid, ()) != serves.get(uuid, ()):
                now_named, before_named = (in_words(it.get(uuid, ())) for it in (serves, before))
                message = f"{self._name(uuid)} serves {now_named}; before, {before_named}"
                self.add_event(at_ms, "assignment_changed", Severity.INFO, message, uuid)
        for uuid, folder in self._folders.items():
            if folder.serves != serves.get(uuid, ()):
                self._over += folder.close(at_ms, stop=True)
                folder.serves = serves.get(uuid, ())

    def close(self, until_ms: int, *, stop: bool = False) -> tuple[list[GpuWindow], list[NodeWindow]]:
        """The windows that are over at until_ms; with stop the open ones, too."""
        gpu_windows, self._over = self._over, []
        gpu_windows += [window for folder in self._folders.values() for window in folder.close(until_ms, stop=stop)]
        return gpu_windows, self._node_folder.close(until_ms, stop=stop)

    def take(self) -> tuple[Inventory | None, list[Event], list[GpuHealth]]:
        """What came up since the last call: the inventory if it changed, events, slow readings."""
        inventory, self._new_inventory = self._new_inventory, None
        events = [self._events.pop(0) for _ in range(len(self._events))]
        health, self._health = self._health, []
        return inventory, events, health

    def marks(self) -> dict[str, Mark]:
        """Up to where energy was handed out, by GPU; of GPUs not seen yet, what an earlier agent left."""
        found = {uuid: folder.mark() for uuid, folder in self._folders.items()}
        return {**self._marks, **{uuid: mark for uuid, mark in found.items() if mark is not None}}

    def shift(self, by_ms: int, at_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        for folder in self._folders.values():
            folder.shift(by_ms)
        self._node_folder.shift(by_ms)
        self.add_event(
            at_ms, "clock_step", Severity.WARNING,
            f"The wall clock was set by {by_ms / MILLISECONDS_PER_SECOND:+.3f} s; windows follow it",
        )  # fmt: skip

    def add_event(self, at_ms: int, kind: str, severity: Severity, message: str, gpu_uuid: str | None = None) -> None:
        """Report something that happened."""
        log.log(logging.INFO if severity is Severity.INFO else logging.WARNING, message)
        self.report(
            Event(
                time=from_ms(at_ms),
                kind=kind,
                severity=severity,
                message=message[:1_000],
                gpu_uuid=gpu_uuid,
            )
        )

    def report(self, event: Event) -> None:
        """Take in an event, from any thread."""
        self._events.append(event)
        self._wake()

    def shut(self) -> None:
        """Let go of the driver."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        self._nvml.close()

    def _read(self, at_ms: int) -> list[GpuReading]:
        if not self._nvml.is_open:
            return []
        try:
            readings, lost = self._nvml.read()
        except DriverGone as error:
            self._lose_driver(at_ms, error)
            return []
        for device in lost:
            self._lose_gpu(at_ms, device.uuid)
        return readings

    def _lose_gpu(self, at_ms: int, uuid: str) -> None:
        if uuid not in self._missing:
            self._missing.add(uuid)
            self._reopen_due_s = time.monotonic() + LOST_REOPEN_S
            self.add_event(
                at_ms,
                "gpu_lost",
                Severity.CRITICAL,
                f"{self._name(uuid)} does not answer any more",
                uuid,
            )

    def _lose_driver(self, at_ms: int, error: Exception) -> None:
        self.shut()
        self._driver_was_there = False
        self._reopen_due_s = time.monotonic() + REOPEN_S
        self.add_event(
            at_ms,
            "driver_gone",
            Severity.WARNING,
            f"The NVIDIA driver went away ({error}); its GPUs are not read",
        )

    def _hear(self, event: tuple[str | None, int, int], time: datetime) -> None:
        """Called from the listener's thread."""
        uuid = event[0]
        if uuid is not None:
            # Errors of memory are events and counters: what is read slowly tells how many they are.
            self._health_due_s.pop(uuid, None)
        self.report(describe_event(*event, time))

    def _read_slowly(self, at_ms: int) -> None:
        """The inventory when it is due, and one GPU's slow readings per tick at most: each costs milliseconds."""
        now_s = time.monotonic()
        if now_s >= self._inventory_due_s:
            self._inventory_due_s = now_s + self._agent.health_s
            if self._nvml.count() != len(self._nvml.devices) and not self._missing:
                self._reopen_due_s = 0.0
                self.shut()
                return
            self._describe(at_ms)
        # The one that waits longest: where there are more GPUs than ticks, each has its turn.
        due = [(self._health_due_s.get(it.uuid, 0.0), it) for it in self._nvml.devices if not it.lost]
        due_s, device = min(due, key=lambda it: it[0], default=(math.inf, None))
        if device is not None and now_s >= due_s:
            self._health_due_s[device.uuid] = now_s + self._agent.health_s
            self._read_health(device, at_ms)

    def _read_health(self, device: Device, at_ms: int) -> None:
        try:
            health = self._nvml.health(device, from_ms(at_ms))
            needed = device.reset_needed()
        except GpuLost:
            device.lost = True
            self._lose_gpu(at_ms, device.uuid)
            return
        on_it = frozenset(process.pid for process in health.processes or ())
        if self.pids.get(device.uuid) != on_it:
            self.pids = {**self.pids, device.uuid: on_it}
        sent, sent_s = self._health_sent.get(device.uuid, (None, 0.0))
        changed = sent is None or msgspec.structs.replace(health, time=sent.time) != sent
        if changed or time.monotonic() - sent_s > HEALTH_REPEAT_S:
            self._health_sent[device.uuid] = (health, time.monotonic())
            self._health.append(health)
        told, told_s = self._resets_told.get(device.uuid, (None, 0.0))
        if needed is not None and (needed != told or time.monotonic() - told_s > RESET_REPEAT_S):
            told_s = time.monotonic()
            self.add_event(at_ms, "gpu_recovery_action", Severity.CRITICAL, f"The GPU asks for {needed}", device.uuid)
        self._resets_told[device.uuid] = (needed, told_s)

    def _describe(self, at_ms: int) -> None:
        """Look at what the node is, and keep it for take() if it changed."""
        lost_before = {device.uuid for device in self._nvml.devices if device.lost}
        found = self._nvml.inventory() if self._nvml.is_open else ()
        for device in self._nvml.devices:
            if device.lost and device.uuid not in lost_before:
                self._lose_gpu(at_ms, device.uuid)
        for gpu in found:
            before = self._known.get(gpu.uuid)
            if before is not None and _mig(before) != _mig(gpu):
                self.add_event(
                    at_ms, "mig_changed", Severity.INFO,
                    f"{self._name(gpu.uuid)} now has {len(gpu.mig_instances)} MIG instances"
                    f" (MIG {'on' if gpu.mig_enabled else 'off'})",
                    gpu.uuid,
                )  # fmt: skip
            self._known[gpu.uuid] = gpu
        versions = self._nvml.versions() if self._nvml.is_open else {}
        inventory = Inventory(
            hostname=self._hostname,
            site=self._agent.site,
            rack=self._agent.rack,
            labels=self._agent.labels,
            agent_version=__version__,
            cpu_model=self._host.cpu_model(),
            gpus=self.gpus,
            **versions,
        )
        if inventory != self._inventory:
            self._inventory = self._new_inventory = inventory

    def _report_gaps(self, at_ms: int) -> None:
        """One event for all GPUs that were not read in the same time, not one each."""
        ended: list[Gap] = []
        for folder in self._folders.values():
            ended.extend(folder.gaps)
            folder.gaps.clear()
        for attributed in (True, False):
            gaps = [gap for gap in ended if gap.attributed == attributed]
            if not gaps:
                continue
            energy_j = sum(gap.energy_mj for gap in gaps) / MILLIJOULES_PER_JOULE
            length_s = max(gap.end_ms - gap.start_ms for gap in gaps) / MILLISECONDS_PER_SECOND
            ticks = sum((gap.end_ms - gap.start_ms) // self._tick_ms for gap in gaps)
            fate = "spread evenly over it" if attributed else "in no window, since the gap is too long"
            self.add_event(
                at_ms, "readings_gap", Severity.WARNING,
                f"{len(gaps)} GPUs were not read for {length_s:.1f} s (about {ticks} readings lost);"
                f" their {energy_j:.3f} J are known from the counters and {fate}",
            )  # fmt: skip

    def _name(self, uuid: str) -> str:
        gpu = self._known.get(uuid)
        return f"GPU {gpu.index} ({gpu.model})" if gpu else f"GPU {uuid}"


class Listener(threading.Thread):
    """Waits for NVML's events, such as XIDs, which no reading shows."""

    def __init__(self, nvml: Nvml, hear: Callable[[tuple[str | None, int, int], datetime], None]) -> None:
        super().__init__(name="nvml-events", daemon=True)
        self._nvml = nvml
        self._hear = hear
        self._ending = threading.Event()

    def run(self) -> None:
        """Listen until told to stop."""
        while not self._ending.is_set():
            try:
                event = self._nvml.wait_for_events(EVENT_WAIT_MS)
            except DriverGone as error:
                # While a GPU is lost the wait fails at once, over and over.
                log.debug("waiting for events: %s", error)
                self._ending.wait(EVENT_PAUSE_S)
                continue
            if event is not None:
                self._hear(event, utc_now())

    def stop(self) -> None:
        """End; NVML may be closed afterwards."""
        self._ending.set()
        self.join(2 * EVENT_WAIT_MS / MILLISECONDS_PER_SECOND + EVENT_PAUSE_S)


def _mig(gpu: Gpu) -> tuple[bool | None, tuple[str, ...]]:
    return gpu.mig_enabled, tuple(instance.uuid for instance in gpu.mig_instances)
