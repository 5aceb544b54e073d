"""Sends a prepared fleet's batches over a few connections, each kept open, and tells how that goes."""

import asyncio
import math
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from collector.client import ServerUnreachable, read_token, utc_now
from collector.simulated.faults import Amount
from collector.simulated.prepared import Prepared, PreparedFleet, body
from collector.simulated.sending import Pace, Retry, Totals, log
from gigawatch import __version__
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Agent
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import BATCHES, MSGPACK, Outcome, Receipt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSION_LEVEL = 1
"""For bodies of 100 batches it is faster than 3 and no larger; docs/simulate.md has the figures."""
TIMEOUT_S = 60.0
ACK_STEP = 1.05
"""Times of acknowledgement are counted in steps of five percent."""
REPORT_EVERY_S = 1.0
BUSY = 0.8
"""A process is held to be at its limit when it computes for more than so much of the time."""
BOUND_SHARE = 0.1
"""A run is held to be bound by the generator when it was at its limit and behind for so much of the time."""


class Plan(Struct, frozen=True, kw_only=True):
    """How a prepared fleet is sent."""

    agent: Agent
    seed: int
    amount: Amount
    window_s: int
    relay_size: int
    processes: int
    connections: int
    compress: bool


class Tally(Totals, kw_only=True):
    """What one process sent so far, and how that went."""

    introduced: int = 0
    """Nodes that the server knows."""
    unreachable: int = 0
    """Requests and batches that the server could not take, sent again."""
    gaps: int = 0
    """Batches that the server wanted to have under another number."""
    sent_bytes: int = 0
    """Bodies with windows, as they were sent."""
    live_took_s: float = 0.0
    """Since the first window was begun."""
    busy_s: float = 0.0
    """Time of the processor since then."""
    bound_s: float = 0.0
    """Time in which it was behind by more than a window and busy for more than 80 %."""
    behind_s: float = 0.0
    """How late the window is that is being sent."""
    behind_max_s: float = 0.0
    acks: dict[int, int] = msgspec.field(default_factory=dict)
    """Requests by the time to their answer: ACK_STEP to this power, in ms."""

    def ack_ms(self, share: float) -> float | None:
        """The time within which this share of the requests was answered."""
        left = share * sum(self.acks.values())
        for step, count in sorted(self.acks.items()):
            left -= count
            if left <= 0:
                return round(ACK_STEP**step, 3)
        return None

    @property
    def generator_bound(self) -> bool:
        """Whether it fell behind because of itself, and not because of the server."""
        return self.bound_s > BOUND_SHARE * self.live_took_s


class Problem(Struct, frozen=True, kw_only=True):
    """An answer that is no receipt."""

    detail: str | None = None
    code: str | None = None
    expected_seq: int | None = None


class Line:
    """One connection to the server, opened when it is needed."""

    def __init__(self, plan: Plan) -> None:
        url = urlsplit(plan.agent.server_url.rstrip("/"))
        assert url.hostname is not None  # the client has reached it
        self._host = url.hostname
        self._tls = ssl.create_default_context(cafile=plan.agent.ca_file) if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        token = read_token(plan.agent)
        self._is_relay = plan.relay_size > 1
        self._compress = plan.compress
        self._head = "".join(
            (
                f"POST {url.path}/api/v1/batches HTTP/1.1\r\n",
                f"Host: {url.netloc.rpartition('@')[2]}\r\n",
                f"User-Agent: gigawatch/{__version__}\r\n",
                f"Content-Type: {BATCHES if self._is_relay else MSGPACK}\r\n",
                "Content-Encoding: zstd\r\n" if plan.compress else "",
                f"Authorization: Bearer {token}\r\n" if token else "",
                "Accept: application/json\r\nContent-Length: ",
            )
        ).encode("ascii")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, batches: Sequence[Prepared], seqs: Sequence[int], tally: Tally) -> Sequence[Outcome]:
        """Send batches with their numbers in one request.

        Raises:
            ServerUnreachable: none is stored as far as we know; send them again.
            GigawatchError: the token is refused.
        """
        count = len(batches)
        sent = body(batches, seqs, utc_now(), is_relay=self._is_relay)
        if self._compress:
            sent = zstd.compress(sent, COMPRESSION_LEVEL)
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, retry_after_s, data = await self._exchange(sent)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise ServerUnreachable(f"{self._host}:{self._port} cannot be reached: {error!r}") from error
        ack_ms = (time.perf_counter() - began_s) * MILLISECONDS_PER_SECOND
        step = round(math.log(ack_ms, ACK_STEP))
        tally.acks[step] = tally.acks.get(step, 0) + 1
        tally.sent_bytes += len(sent)
        try:
            if status == 200:
                outcomes = (
                    msgspec.json.decode(data, type=list[Outcome])
                    if self._is_relay
                    else [Outcome(status=200, receipt=msgspec.json.decode(data, type=Receipt))]
                )
                if len(outcomes) != count:
                    raise ServerUnreachable(f"the server answered {len(outcomes)} outcomes to {count} batches")
                return outcomes
            problem = msgspec.json.decode(data, type=Problem)
        except msgspec.DecodeError as error:
            if status == 200:
                raise ServerUnreachable(f"the server's answer is malformed: {error}") from error
            problem = Problem(detail=data[:200].decode("utf-8", "replace"))
        if status in {401, 403}:
            raise GigawatchError(
                f"The server refuses the token: {problem.detail}",
                "Make one with `gigawatch token create --role agent NAME` and set agent.token_file.",
                ExitCode.CONFIGURATION,
            )
        if status == 429 or status >= 500:
            raise ServerUnreachable(f"the server answered {status}: {problem.detail}", retry_after_s)
        return [Outcome(status=status, **msgspec.structs.asdict(problem))] * count

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _exchange(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, Retry-After and body of the answer. By hand: http.client takes half as long again."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = self._streams
        writer.write(self._head + b"%d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" not in headers:
            raise ValueError("its answer has no Content-Length")
        data = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        asked = headers.get("retry-after", "")
        return int(status_line.split(" ")[1]), float(asked) if asked.isdecimal() else None, data


Relays = list[tuple[float, Sequence[int]]]
"""Nodes whose batches go in one request, with their place in the fleet, 0 to 1."""


class Meter:
    """Reads how late a process is and how busy.

    Args:
        tally: what it writes to.
        pace: when windows are due.
    """

    def __init__(self, tally: Tally, pace: Pace) -> None:
        self.due_s: dict[Line, float] = {}
        """When that is or was due which a connection sends next."""
        self._tally = tally
        self._late_s = pace.window_s / pace.speed
        self._began_s = time.perf_counter()
        self._began_busy_s = time.process_time()

    def read(self) -> None:
        """Write it down."""
        tally, took_s, busy_s = self._tally, self._tally.live_took_s, self._tally.busy_s
        tally.live_took_s = time.perf_counter() - self._began_s
        tally.busy_s = time.process_time() - self._began_busy_s
        now_s = time.time()
        tally.behind_s = max(0.0, now_s - min(self.due_s.values(), default=now_s))
        tally.behind_max_s = max(tally.behind_max_s, tally.behind_s)
        passed_s = tally.live_took_s - took_s
        if tally.busy_s - busy_s > BUSY * passed_s and tally.behind_s > self._late_s:
            tally.bound_s += passed_s


class Traffic:
    """One process's part of the fleet and its way to the server.

    Args:
        fleet: the nodes.
        plan: how they are sent.
        tell: called about once a second with what was sent so far.
    """

    def __init__(self, fleet: PreparedFleet, plan: Plan, tell: Callable[[Tally], None]) -> None:
        self.tally = Tally()
        self._fleet = fleet
        self._plan = plan
        self._tell = tell
        self._seqs = [0] * len(fleet.nodes)
        """The next batch's number of each node."""
        self._stop_s = math.inf
        self._cancel: Callable[[], object] | None = None
        self._is_ended = False

    def end(self) -> None:
        """End at once, from a handler of signals: what is under way is given up."""
        self._is_ended = True
        if self._cancel is None:
            raise SystemExit
        self._cancel()

    def introduce(self, time_s: int) -> None:
        """Have every node say what it is, as of this time, as fast as the server takes it."""

        async def over(line: Line, relays: Relays) -> None:
            retry = Retry(time.time)
            for _, places in relays:
                await self._deliver(line, retry, places, self._fleet.introductions(places, time_s))
                self.tally.introduced += len(places)

        asyncio.run(self._send(range(len(self._seqs)), over, lambda: None))
        # Introductions are larger than windows, and their answers take longer.
        self.tally.acks, self.tally.sent_bytes = {}, 0

    def run(self, pace: Pace, stop_s: float) -> None:
        """Send windows as time passes, spread over the window after.

        Args:
            pace: when they are due.
            stop_s: when to stop.
        """
        self._stop_s = stop_s
        meter = Meter(self.tally, pace)
        starts_s: dict[Line, int] = {}

        async def over(line: Line, relays: Relays) -> None:
            retry = Retry(time.time)
            start_s = starts_s[line] = pace.origin_s
            while True:
                for share, places in relays:
                    due_s = meter.due_s[line] = pace.due_s(start_s, share)
                    if max(due_s, time.time()) >= stop_s:
                        return
                    if (early_s := due_s - time.time()) > 0:
                        await asyncio.sleep(early_s)
                    await self._deliver(line, retry, places, self._fleet.windows(places, start_s))
                start_s = starts_s[line] = start_s + pace.window_s
                # Another connection may be some windows behind: what it still needs is kept.
                self._fleet.forget(min(starts_s.values()))

        heard = [place for place in range(len(self._seqs)) if place not in self._fleet.silent]
        asyncio.run(self._send(heard, over, meter.read))

    async def _send(
        self, places: Sequence[int], over: Callable[[Line, Relays], Awaitable[None]], look: Callable[[], None]
    ) -> None:
        """Share the nodes out among the connections, and look after them until all are done.

        Args:
            places: the nodes that have something to say.
            over: sends over one connection.
            look: called about once a second, and at the end.
        """
        size, count = self._plan.relay_size, self._plan.connections
        relays = [(first / len(places), places[first : first + size]) for first in range(0, len(places), size)]
        lines = [Line(self._plan) for _ in relays[:count]]
        task = asyncio.current_task()
        assert task is not None
        # Not asyncio's own handlers: a signal that comes while their loop is closed is lost.
        self._cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)

        async def watch() -> None:
            while True:
                await asyncio.sleep(REPORT_EVERY_S)
                look()
                self._tell(self.tally)

        watching = asyncio.create_task(watch())
        try:
            # A node's batches all go over the same connection, one after another.
            await asyncio.gather(*(over(line, relays[number::count]) for number, line in enumerate(lines)))
        finally:
            self._cancel = None
            watching.cancel()
            look()
            for line in lines:
                line.close()
        if self._is_ended:
            raise SystemExit

    async def _deliver(self, line: Line, retry: Retry, places: Sequence[int], batches: Sequence[Prepared]) -> None:
        """Send these nodes' batches until the server has said of each what became of it."""
        waiting = list(zip(places, batches, strict=True))
        while waiting and time.time() < self._stop_s:
            if (pause_s := min(retry.not_before_s, self._stop_s) - time.time()) > 0:
                await asyncio.sleep(pause_s)
                continue
            seqs = [self._seqs[place] for place, _ in waiting]
            try:
                outcomes = await line.post([batch for _, batch in waiting], seqs, self.tally)
            except ServerUnreachable as error:
                self.tally.unreachable += 1
                retry.failed(error)
                continue
            answered = zip(waiting, outcomes, strict=True)
            waiting = [one for one, outcome in answered if not self._settles(outcome, one[0])]
            if waiting:
                retry.failed(ServerUnreachable(f"the server did not take {len(waiting)} of {len(seqs)} batches"))
            else:
                retry.succeeded()

    def _settles(self, outcome: Outcome, place: int) -> bool:
        """Whether the server is done with this node's batch: only then its number moves on."""
        tally = self.tally
        if outcome.receipt is not None:
            tally.count(outcome.receipt)
        elif outcome.expected_seq is not None:
            tally.gaps += 1
            self._seqs[place] = outcome.expected_seq
            return False
        elif outcome.status in {400, 413, 415, 422} and outcome.code != "clock":
            if not tally.refused_batches:
                log.warning("batches are refused, the first with %d: %s", outcome.status, outcome.detail)
            tally.refused_batches += 1
        else:
            tally.unreachable += 1
            return False
        self._seqs[place] += 1
        return True
