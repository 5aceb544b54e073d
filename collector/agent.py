"""The node agent: ticks at an even pace, puts what a node's folders hand out into the spool, minds the sender."""

import logging
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from collector.assignments.assigner import Assigner
from collector.assignments.discovery import Discovery
from collector.client import Client, greet, utc_now
from collector.meters.register import MeterMark
from collector.node import Node, Records
from collector.sender import Sender
from collector.sources.host import Host
from collector.sources.nvml import NoGpus, Nvml
from collector.spool import Checkpoint, Spool, SpoolFull, Windows
from gigawatch.records import Event, Severity
from gigawatch.settings import Settings
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import Batch, encode

if TYPE_CHECKING:
    from collector.engines.scraper import Engines
    from collector.meters.reader import Meters

HUNG_AFTER_S = 10.0
MOST_HELD_WINDOWS = 100_000
"""GPU windows kept in memory while the disk takes nothing."""
FINISH_S = 5.0
LARGEST_DRIFT_S = 0.5
LARGEST_SLEW = 0.01
log = logging.getLogger(__name__)


class Clock:
    """Milliseconds of UTC that never go back: the monotonic clock, drawn gently to the wall clock."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()
        self._offset_s = time.time() - self._last_s

    def now_ms(self) -> tuple[int, int]:
        """Now, and by how much the wall clock was set since the last call, 0 if it was not."""
        monotonic_s = time.monotonic()
        drift_s = time.time() - monotonic_s - self._offset_s
        if stepped := abs(drift_s) > LARGEST_DRIFT_S:
            self._offset_s += drift_s
        else:
            most_s = LARGEST_SLEW * (monotonic_s - self._last_s)
            self._offset_s += max(-most_s, min(most_s, drift_s))
        self._last_s = monotonic_s
        now_ms = round((monotonic_s + self._offset_s) * MILLISECONDS_PER_SECOND)
        return now_ms, round(drift_s * MILLISECONDS_PER_SECOND) if stepped else 0


class Agent:
    """One agent on one node.

    Args:
        settings: all settings; sections agent, store, engines, assignments and meters matter.
        host: the node itself.

    Raises:
        GigawatchError: the spool is in use, the token is refused, the clock is off, or the settings of an
            engine or a meter cannot be used.
    """

    def __init__(self, settings: Settings, host: Host) -> None:
        self._agent = settings.agent
        self._tick_ms = round(settings.agent.tick_s * MILLISECONDS_PER_SECOND)
        self._machine_id = settings.agent.machine_id or host.machine_id()
        self._boot_id = host.boot_id()
        self._clock = Clock()
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._engines = _engines(settings, self._clock)
        discovery = Discovery(settings)
        self._client = Client(settings.agent)
        greet(self._client)
        self._spool = Spool(
            Path(settings.store.data_dir).expanduser() / "spool.sqlite",
            settings.agent.spool_max_mib,
            settings.agent.spool_max_age_h,
        )
        self._sender = Sender(self._spool, self._client, self._report)
        checkpoint = self._spool.checkpoint()
        self._meters = _meters(settings, self._clock, checkpoint.meters if checkpoint else {})
        same_boot = checkpoint is not None and checkpoint.boot_id == self._boot_id
        before = checkpoint.serves if checkpoint and same_boot else {}
        self._node = Node(
            settings.agent,
            host,
            NoGpus() if settings.agent.simulated else Nvml(),
            self._machine_id if settings.agent.simulated else socket.gethostname(),
            self._wake.set,
            checkpoint.marks if checkpoint and same_boot else None,
            checkpoint.gpus if checkpoint and same_boot else (),
            before,
        )
        self._assigner = Assigner(settings, discovery, before, self._report)
        self._held = Records()
        self._lost_windows = Windows()
        self._closed_ms = checkpoint.closed_ms if checkpoint else 0
        self._reading_since_s: float | None = None
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._say_started(checkpoint, same_boot=same_boot)

    def run(self) -> None:
        """Work until stop() is called; then hand out what is open, and send what can be sent at once."""
        self._sender.start()
        self._watchdog.start()
        if self._engines:
            self._engines.start()
        if self._meters:
            self._meters.start()
        at_ms = 0
        while not self._ending.is_set():
            at_ms = self._tick()
            self._flush(at_ms)
            self._wait_for_next_tick()
        if at_ms:
            self._flush(at_ms, stop=True)
        if self._engines:
            self._engines.shut()
        if self._meters:
            self._meters.shut()
        self._node.shut()
        self._sender.finish(FINISH_S)
        self._spool.close()
        self._client.close()

    def stop(self) -> None:
        """End soon; may be called from a signal handler."""
        self._ending.set()
        self._wake.set()

    def _tick(self) -> int:
        self._reading_since_s = time.monotonic()
        self._node.keep_open(self._now_ms())
        at_ms = self._now_ms()
        if self._engines:
            self._engines.tick(at_ms)
        if self._meters:
            self._meters.tick(at_ms)
        self._node.tick(at_ms)
        self._reading_since_s = None
        self._node.assign(at_ms, self._assigner.find(self._node.gpus, self._node.pids))
        return at_ms

    def _now_ms(self) -> int:
        """Now; where the wall clock was set, what is open ends and goes on by the new time."""
        at_ms, stepped_ms = self._clock.now_ms()
        if stepped_ms:
            before_ms = at_ms - stepped_ms
            self._flush(before_ms, stop=True)
            self._node.shift(stepped_ms, at_ms)
            if self._engines:
                self._engines.shift(stepped_ms)
            if self._meters:
                self._meters.shift(stepped_ms)
        return at_ms

    def _wait_for_next_tick(self) -> None:
        """Wait until the next multiple of the tick in UTC, sending events that come in meanwhile."""
        while not self._ending.is_set():
            now_s = time.time()
            tick_s = self._tick_ms / MILLISECONDS_PER_SECOND
            if not self._wake.wait(tick_s - now_s % tick_s):
                return
            self._wake.clear()
            self._flush_events()

    def _flush(self, until_ms: int, *, stop: bool = False) -> None:
        """Spool the windows that are over, with everything else that came up."""
        gpu_windows, node_windows = self._node.close(until_ms, stop=stop)
        serving_windows = self._engines.close(until_ms, stop=stop) if self._engines else []
        meter_windows = self._meters.close(until_ms, stop=stop) if self._meters else []
        inventory, events, health = self._node.take()
        if self._engines:
            events += self._engines.take()
        if self._meters:
            events += self._meters.take()
        self._closed_ms = until_ms
        self._store(
            Records(
                inventory=inventory,
                gpu_windows=gpu_windows,
                node_windows=node_windows,
                serving_windows=serving_windows,
                meter_windows=meter_windows,
                events=events,
                health=health,
            ),
            with_checkpoint=bool(gpu_windows or node_windows or meter_windows),
        )

    def _flush_events(self) -> None:
        inventory, events, health = self._node.take()
        self._store(Records(inventory=inventory, events=events, health=health), with_checkpoint=False)

    def _store(self, new: Records, *, with_checkpoint: bool) -> None:
        """Put records into the spool; while the disk takes nothing, hold them in memory up to a bound."""
        held = self._held
        records = Records(
            inventory=new.inventory or held.inventory,
            gpu_windows=[*held.gpu_windows, *new.gpu_windows],
            node_windows=[*held.node_windows, *new.node_windows],
            serving_windows=[*held.serving_windows, *new.serving_windows],
            meter_windows=[*held.meter_windows, *new.meter_windows],
            events=[*held.events, *new.events],
            health=[*held.health, *new.health],
        )
        if not records:
            return
        body = encode(
            self._batch(),
            inventory=records.inventory,
            gpu_windows=records.gpu_windows,
            node_windows=records.node_windows,
            serving_windows=records.serving_windows,
            meter_windows=records.meter_windows,
            events=records.events,
            health=records.health,
        )
        checkpoint = Checkpoint(
            self._boot_id,
            self._closed_ms,
            self._node.marks(),
            self._node.gpus,
            self._node.serves,
            self._meters.marks() if self._meters else {},
        )
        try:
            dropped = self._spool.append(body, _counted(records), checkpoint if with_checkpoint or held else None)
        except SpoolFull as error:
            self._hold(records, error)
            return
        self._held = Records()
        self._sender.notify()
        if dropped is not None:
            self._report_loss(
                "spool_dropped",
                f"The spool's bound dropped {dropped.batches} batches with {dropped.windows} that the server had not"
                " taken",
            )

    def _hold(self, records: Records, error: Exception) -> None:
        if not self._held:
            log.warning("The spool %s takes nothing: %s; holding records in memory", self._spool.path, error)
        self._held = Records(
            inventory=records.inventory,
            gpu_windows=records.gpu_windows[-MOST_HELD_WINDOWS:],
            node_windows=records.node_windows[-MOST_HELD_WINDOWS:],
            serving_windows=records.serving_windows[-MOST_HELD_WINDOWS:],
            meter_windows=records.meter_windows[-MOST_HELD_WINDOWS:],
            events=records.events[-1_000:],
            health=records.health[-1_000:],
        )
        lost = _counted(records) - _counted(self._held)
        if lost != Windows():
            self._lost_windows += lost
            log.error("A full disk has cost %s so far", self._lost_windows)

    def _report(self, event: Event) -> None:
        """Take in an event of the sender's thread."""
        self._node.report(event)

    def _report_loss(self, kind: str, message: str) -> None:
        log.error(message)
        self._report(Event(time=utc_now(), kind=kind, severity=Severity.WARNING, message=message))

    def _watch(self) -> None:
        """Say that the driver hangs while it hangs: the tick's own thread cannot."""
        told = False
        while not self._ending.wait(1.0):
            since_s = self._reading_since_s
            hangs = since_s is not None and time.monotonic() - since_s > HUNG_AFTER_S
            if hangs and not told:
                self._report_now(
                    "driver_hung",
                    Severity.CRITICAL,
                    f"The NVIDIA driver has not answered for {HUNG_AFTER_S:.0f} s",
                )
            if told and not hangs:
                self._report_now("driver_answers", Severity.INFO, "The NVIDIA driver answers again")
            told = hangs

    def _batch(self) -> Batch:
        """An empty one, which the sender numbers."""
        return Batch(
            machine_id=self._machine_id,
            sent_at=utc_now(),
            spool_id=self._spool.spool_id,
            simulated=self._agent.simulated,
        )

    def _report_now(self, kind: str, severity: Severity, message: str) -> None:
        log.warning(message)
        event = Event(time=utc_now(), kind=kind, severity=severity, message=message)
        try:
            self._spool.append(encode(self._batch(), events=[event]), Windows(), None)
        except SpoolFull as error:
            log.error("The event cannot be stored: %s", error)
            return
        self._sender.notify()

    def _say_started(self, checkpoint: Checkpoint | None, *, same_boot: bool) -> None:
        message = "The agent started"
        now_ms, _ = self._clock.now_ms()
        if checkpoint is not None:
            away_s = (now_ms - checkpoint.closed_ms) / MILLISECONDS_PER_SECOND
            message += f"; the last window it had handed out ended {away_s:.1f} s before"
            if not same_boot:
                message += ", before a reboot: the energy between is unknown"
        self._node.add_event(now_ms, "agent_started", Severity.INFO, message)


def _counted(records: Records) -> Windows:
    """How many windows there are."""
    kinds = (records.gpu_windows, records.node_windows, records.serving_windows, records.meter_windows)
    return Windows(*map(len, kinds))


def _engines(settings: Settings, clock: Clock) -> "Engines | None":
    """The engines of the settings; None where there are none, which spares their parser's memory."""
    if not settings.engines:
        return None
    from collector.engines.scraper import Engines  # noqa: PLC0415

    return Engines(settings.engines, settings.agent.window_s * MILLISECONDS_PER_SECOND, clock.now_ms()[0])


def _meters(settings: Settings, clock: Clock, marks: Mapping[str, MeterMark]) -> "Meters | None":
    """The meters of the settings; None where there are none, which spares their libraries."""
    if not settings.meters:
        return None
    from collector.meters.reader import Meters  # noqa: PLC0415

    return Meters(settings.meters, settings.agent.window_s, clock.now_ms()[0], marks)
