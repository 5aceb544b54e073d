"""Sends a simulated fleet's records to the API: a history in large batches, then windows as time passes."""

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from itertools import count

from msgspec import Struct

from collector.client import BatchRefused, Client, SequenceGap, ServerUnreachable, utc_now
from collector.simulated.deployment import ENDPOINT, Deployment
from collector.simulated.faults import Faults
from collector.simulated.fleet import Node
from collector.simulated.machine import Parcel, SimulatedNode
from collector.simulated.metrics import MetricsServer
from collector.simulated.requests import Requests, synthetic
from collector.simulated.serving import served_by
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Engine
from gigawatch.wire import Batch, Receipt, encode

log = logging.getLogger(__name__)

HISTORY_WINDOW_S = 60
HISTORY_TICK_S = 5
HISTORY_BATCH_S = 4 * 3_600
LIVE_TICK_S = 1
SCRAPE_EVERY_S = 5
"""As agents do, where windows are not shorter."""
HISTORY_REQUESTS_PER_S = 5.0
"""Requests to an engine that are modelled one by one: docs/simulate.md says what that costs."""
LIVE_REQUESTS_PER_S = 10_000.0
"""The same in a second of the clock, to all engines together: less than a tenth of a core."""
MAX_PARCEL_ROWS = 5_000
"""GPU windows that are gathered into one batch while the server is away."""
MAX_PARCELS = 20
"""Batches that a node keeps; beyond them it drops its oldest, as an agent's spool does."""
MAX_DELAY_S = 60.0
SPREAD = 0.9
"""Share of a window's length over which the nodes' batches are spread."""


class Totals(Struct, kw_only=True):
    """What was sent so far, by the server's receipts."""

    batches: int = 0
    gpu_windows: int = 0
    node_windows: int = 0
    events: int = 0
    health: int = 0
    duplicate_batches: int = 0
    """Batches that an earlier request had stored."""
    refused: int = 0
    """Rows that the server did not take: those it has already are among them."""
    refused_batches: int = 0
    dropped_batches: int = 0
    """Batches that a node gave up while the server was away."""

    def count(self, receipt: Receipt) -> None:
        """Count what this receipt says."""
        self.batches += 1
        self.gpu_windows += receipt.gpu_windows
        self.node_windows += receipt.node_windows
        self.events += receipt.events
        self.health += receipt.health
        self.duplicate_batches += receipt.duplicate
        self.refused += sum(refusal.count for refusal in receipt.refused)


class Retry:
    """When to turn to the server again: later after each failure, with jitter, or as it asks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self.not_before_s = 0.0

    def failed(self, error: ServerUnreachable) -> None:
        """Wait longer."""
        if not self._failures:
            log.warning("%s; trying again", error)
        self._failures += 1
        longest_s = min(MAX_DELAY_S, 2.0 ** min(self._failures, 10))
        chance = secrets.randbelow(1_000) / 1_000
        delay_s = longest_s * (0.5 + 0.5 * chance)
        if error.retry_after_s is not None:
            # Never sooner than asked, and not everybody in the same moment.
            delay_s = max(delay_s, error.retry_after_s * (1 + 0.1 * chance))
        self.not_before_s = self._clock() + delay_s

    def succeeded(self) -> None:
        """Wait no more."""
        if self._failures:
            log.warning("the server answers again")
        self._failures = 0
        self.not_before_s = 0.0


class Pace(Struct, frozen=True, kw_only=True):
    """How the fleet's time goes: from a moment of the past so many times as fast, and as it does once it is now."""

    origin_s: int
    """Start of the first window, s since 1970 UTC."""
    began_s: float
    """When the first window began to be sent."""
    window_s: int
    speed: float

    def due_s(self, start_s: int, share: float) -> float:
        """When a node's window is to be sent.

        Args:
            start_s: start of the window.
            share: the node's place in the fleet, 0 to 1: the nodes are spread over the window after.
        """
        return self.clock_s(start_s + self.window_s * (1 + SPREAD * share))

    def clock_s(self, fleet_s: float) -> float:
        """What the clock says when it is so late for the fleet."""
        return max(fleet_s, self.began_s + (fleet_s - self.origin_s) / self.speed) if self.speed > 1 else fleet_s


class Outbox:
    """What one node has still to send: numbered batches in order, each sent until the server has it.

    The spool's id is new in each run, so that numbers begin anew with it.
    """

    def __init__(self, node: Node, faults: Faults, totals: Totals) -> None:
        self._machine_id = node.machine_id
        self._ahead = timedelta(seconds=faults.clock_ahead_s)
        self._spool_id = f"sim-{secrets.token_hex(12)}"
        self._parcels: deque[Parcel] = deque()
        self._first_seq = 0
        self._is_first_tried = False
        self._totals = totals

    def __len__(self) -> int:
        return len(self._parcels)

    def put(self, parcel: Parcel) -> None:
        """Keep a parcel for sending, within the batch before it where that was not sent yet."""
        # A batch that was tried may be stored: it must stay what it was under its number.
        untried = len(self._parcels) - self._is_first_tried
        if untried and len(self._parcels[-1].gpu_windows) < MAX_PARCEL_ROWS:
            self._parcels[-1].add(parcel)
            return
        self._parcels.append(parcel)
        if len(self._parcels) > MAX_PARCELS:
            self._leave_first()
            self._totals.dropped_batches += 1

    def send(self, client: Client) -> None:
        """Send the oldest batch.

        Raises:
            ServerUnreachable: it is still to be sent.
            GigawatchError: the token is refused.
        """
        parcel = self._parcels[0]
        batch = Batch(
            machine_id=self._machine_id,
            sent_at=utc_now() + self._ahead,
            spool_id=self._spool_id,
            seq=self._first_seq,
            oldest_seq=self._first_seq,
            simulated=True,
        )
        self._is_first_tried = True
        try:
            receipt = client.post(
                encode(
                    batch,
                    inventory=parcel.inventory,
                    gpu_windows=parcel.gpu_windows,
                    node_windows=parcel.node_windows,
                    serving_windows=parcel.serving_windows,
                    events=parcel.events,
                    health=parcel.health,
                )
            )
        except (BatchRefused, SequenceGap) as error:
            log.warning("a batch of %s was refused: %s", self._machine_id, error)
            self._totals.refused_batches += 1
        else:
            self._totals.count(receipt)
        self._leave_first()

    def _leave_first(self) -> None:
        self._parcels.popleft()
        self._first_seq += 1
        self._is_first_tried = False


def connect(
    client: Client, *, clock: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait until the server is there and lets us in.

    Args:
        client: the API.
        clock: s since 1970 UTC.
        sleep: waits for so many s.

    Raises:
        GigawatchError: the token is refused, the URL is not one of Gigawatch, or the clocks differ.
    """
    retry = Retry(clock)
    while True:
        try:
            hello = client.hello()
        except ServerUnreachable as error:
            retry.failed(error)
            sleep(retry.not_before_s - clock())
        else:
            break
    retry.succeeded()
    ahead_s = clock() - hello.server_time.timestamp()
    if abs(ahead_s) > hello.max_clock_offset_s:
        raise GigawatchError(
            f"This machine's clock is {ahead_s:+.0f} s off the server's",
            f"The server takes no more than {hello.max_clock_offset_s:.0f} s: set the clock right.",
            ExitCode.CLOCK,
        )


class Simulation:
    """A fleet and its way to the server.

    Args:
        fleet: the nodes.
        faults: what goes wrong with each of them.
        client: the API.
        seed: the fleet's.
        requests: what comes to its engines; by default such as a recorded hour had.
        metrics: serves what its engines count, to the agents too; without it they read with no endpoint between.
        clock: s since 1970 UTC.
        sleep: waits for so many s.
    """

    def __init__(
        self,
        fleet: list[Node],
        faults: list[Faults],
        client: Client,
        *,
        seed: int,
        requests: Requests | None = None,
        metrics: MetricsServer | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.totals = Totals()
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._retry = Retry(clock)
        self._requests = requests or synthetic(seed)
        self._metrics = metrics
        members = [
            (SimulatedNode(node, of_node, seed), Outbox(node, of_node, self.totals))
            for node, of_node in zip(fleet, faults, strict=True)
        ]
        # A node that is off by now goes first: it counts as silent a minute after its last batch.
        self._members = sorted(members, key=lambda member: member[0].faults.silent_from_s is None)

    def introduce(self, time_s: int) -> None:
        """Have every node say what it is, as of this time, with the first batch that it sends."""
        for node, outbox in self._members:
            outbox.put(node.introduction(time_s))

    def send_history(self, start_s: int, end_s: int, progress: Callable[[float, int], None]) -> None:
        """Send the windows of this time, node after node, however long the server is away meanwhile.

        Args:
            start_s: start of the history, a full minute, s since 1970 UTC.
            end_s: end of the history, a full minute.
            progress: told the share done (0 to 1) and the GPU windows stored.
        """
        self._observe(start_s, HISTORY_WINDOW_S, HISTORY_WINDOW_S, HISTORY_REQUESTS_PER_S)
        for number, (node, outbox) in enumerate(self._members):
            for batch_s in range(start_s, end_s, HISTORY_BATCH_S):
                for window_s in range(batch_s, min(batch_s + HISTORY_BATCH_S, end_s), HISTORY_WINDOW_S):
                    if parcel := node.window(window_s, HISTORY_WINDOW_S, HISTORY_TICK_S):
                        node.read(window_s + HISTORY_WINDOW_S)
                        parcel.add(node.served(window_s + HISTORY_WINDOW_S))
                        outbox.put(parcel)
                while outbox:
                    self._wait_until(self._retry.not_before_s)
                    self._try(outbox)
                of_node = min(1.0, (batch_s + HISTORY_BATCH_S - start_s) / (end_s - start_s))
                progress((number + of_node) / len(self._members), self.totals.gpu_windows)

    def run(self, start_s: int, window_s: int, *, speed: float, stop_s: float) -> None:
        """Send windows as time passes, each node's in a batch of its own, spread over the window after.

        Args:
            start_s: start of the first window, a full minute, s since 1970 UTC.
            window_s: length of the windows.
            speed: how fast the fleet's time goes until it has caught up with the clock.
            stop_s: when to stop.
        """
        pace = Pace(origin_s=start_s, began_s=self._clock(), window_s=window_s, speed=speed)
        every_s = min(window_s, SCRAPE_EVERY_S)
        engines = sum(served_by(node.node) is not None for node, _ in self._members)
        self._observe(start_s, window_s, every_s, LIVE_REQUESTS_PER_S / speed / max(1, engines))
        scrapes = count(start_s + every_s, every_s)
        scrape_s = next(scrapes)

        def passes(until_s: float) -> bool:
            """Wait until the clock says so, reading the engines meanwhile; whether there is time left."""
            nonlocal scrape_s
            while (due_s := pace.clock_s(scrape_s)) <= min(until_s, stop_s):
                self._wait_until(due_s)
                self._scrape(scrape_s, every_s)
                scrape_s = next(scrapes)
            self._wait_until(min(until_s, stop_s))
            return max(until_s, self._clock()) < stop_s

        parcels: list[Parcel | None] = []
        while passes(pace.clock_s(start_s)):
            # What a node does is known as the window begins: its engine goes on with it while it lasts.
            before, parcels = parcels, [node.window(start_s, window_s, LIVE_TICK_S) for node, _ in self._members]
            for number, (parcel, (node, outbox)) in enumerate(zip(before, self._members, strict=False)):
                if not passes(pace.due_s(start_s - window_s, number / len(self._members))):
                    return
                if parcel:
                    parcel.add(node.served(scrape_s))
                    outbox.put(parcel)
                if not node.faults.is_cut_off(start_s - window_s):
                    self._send_all(outbox)
            start_s += window_s

    def _observe(self, at_s: int, window_s: int, every_s: int, requests_per_s: float) -> None:
        """Have the agents read their engines from now on."""
        for node, _ in self._members:
            served = served_by(node.node)
            if served is None:
                continue
            if node.deployment is None:
                node.deployment = Deployment(node.node, served, self._requests, at_s)
            name = node.node.hostname
            url = self._metrics.url_of(name) if self._metrics else f"http://{ENDPOINT}/metrics"
            settings = Engine(url=url, deployment=served.name, interval_s=every_s)
            node.deployment.observe(settings, window_s, at_s, requests_per_s)
        if self._metrics:
            self._metrics.clock = self._clock
            serving = [node for node, _ in self._members if node.deployment is not None]
            self._metrics.engines = {it.node.hostname: it.metrics for it in serving}

    def _scrape(self, at_s: int, every_s: int) -> None:
        """Have the agents read their engines, over HTTP where the fleet's time is the clock's."""
        for node in (node for node, _ in self._members if not node.faults.is_silent(at_s)):
            if self._metrics and self._clock() < at_s + every_s:
                node.scrape(self._clock)
            else:
                node.read(at_s)

    def _send_all(self, outbox: Outbox) -> None:
        while outbox and self._clock() >= self._retry.not_before_s:
            self._try(outbox)

    def _try(self, outbox: Outbox) -> None:
        try:
            outbox.send(self._client)
        except ServerUnreachable as error:
            self._retry.failed(error)
        else:
            self._retry.succeeded()

    def _wait_until(self, time_s: float) -> None:
        while (left_s := time_s - self._clock()) > 0:
            self._sleep(min(left_s, 1.0))
