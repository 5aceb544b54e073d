"""Sends a prepared fleet from several processes, and sums up what they tell."""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Literal

import msgspec
from msgspec import Struct

from collector.simulated.fleet import NODES_PER_ROUND, Node
from collector.simulated.prepared import PreparedFleet
from collector.simulated.sending import Pace
from collector.simulated.traffic import REPORT_EVERY_S, Plan, Tally, Traffic
from gigawatch.errors import ExitCode, GigawatchError

LINE_EVERY_S = 10.0
ENDING_S = 5.0
"""How long the processes are waited for once they were told to end."""
MAXIMA = {"live_took_s", "busy_s", "bound_s", "behind_s", "behind_max_s"}
"""Fields of a tally of which the greatest counts, and not the sum: the busiest process sets the limit."""


class Failure(Struct, frozen=True, kw_only=True):
    """Why a process gave up."""

    problem: str
    remedy: str
    exit_code: int


class Word(Struct, frozen=True, kw_only=True):
    """What a process tells its parent."""

    tally: Tally
    phase: Literal["at work", "ready", "done"] = "at work"
    """Ready is who has introduced its nodes and waits for the start."""
    failure: Failure | None = None


class Start(Struct, frozen=True, kw_only=True):
    """What the parent says to the processes that are ready."""

    pace: Pace
    stop_s: float


class Processes:
    """The processes: told what to do, and listened to.

    Args:
        nodes: the fleet.
        plan: how it is sent.
    """

    def __init__(self, nodes: list[Node], plan: Plan) -> None:
        self.tallies = [Tally() for _ in range(plan.processes)]
        self._nodes = nodes
        self._plan = plan
        self._ears: list[Connection] = []
        self._children: list[ForkProcess] = []

    def start(self) -> None:
        """Start them; each begins to introduce its nodes."""
        # Forked children share the fleet's memory. No thread runs here that a fork could catch with a lock held.
        context = multiprocessing.get_context("fork")
        for number in range(self._plan.processes):
            ear, mouth = context.Pipe()
            child = context.Process(target=_work, args=(mouth, self._nodes, self._plan, number), daemon=True)
            child.start()
            mouth.close()
            self._ears.append(ear)
            self._children.append(child)

    def introduce(self) -> None:
        """Wait until the server knows all nodes.

        Raises:
            GigawatchError: a process gave up.
        """

        def line() -> str:
            return f"{sum(tally.introduced for tally in self.tallies):,} of {len(self._nodes):,} nodes introduced"

        self._listen("ready", line)

    def run(self, pace: Pace, stop_s: float) -> None:
        """Have windows sent until it is time to stop.

        Raises:
            GigawatchError: a process gave up.
        """
        start = msgspec.msgpack.encode(Start(pace=pace, stop_s=stop_s))
        for ear in self._ears:
            ear.send_bytes(start)
        before = summed(self.tallies)

        def line() -> str:
            nonlocal before
            now = summed(self.tallies)
            since, before = _difference(now, before), now
            found = figures(since, len(self._nodes), pace.window_s)
            return (
                f"{found['node_windows_per_s']:,.0f} node-windows/s, {found['gpu_windows_per_s']:,.0f} GPU-windows/s,"
                f" {found['real_time_factor']:.2f} × real time, acknowledged in {found['ack_p50_ms']} ms (p50),"
                f" {found['ack_p99_ms']} ms (p99), {since.behind_s:.1f} s behind,"
                f" generator {found['generator_busy']:.0%} busy{' and too slow' if since.generator_bound else ''},"
                f" {since.refused:,} rows refused"
            )

        self._listen("done", line)

    def stop(self) -> None:
        """End the processes, and hear what they have still to say."""
        for child in self._children:
            child.terminate()
        ears, until_s = set(self._ears), time.monotonic() + ENDING_S
        while ears and time.monotonic() < until_s:
            for ear in wait(ears, REPORT_EVERY_S):
                assert isinstance(ear, Connection)
                try:
                    self._word(ear)
                except GigawatchError:
                    ears.discard(ear)
        for child in self._children:
            child.kill()
            child.join()

    def _listen(self, phase: str, line: Callable[[], str]) -> None:
        """Until all processes have said that they are so far, with a line on stderr about every ten seconds."""
        ears, said_s = set(self._ears), time.monotonic()
        while ears:
            for ear in wait(ears, REPORT_EVERY_S):
                assert isinstance(ear, Connection)
                if self._word(ear).phase == phase:
                    ears.discard(ear)
            if time.monotonic() - said_s >= LINE_EVERY_S:
                said_s = time.monotonic()
                sys.stderr.write(f"{line()}\n")

    def _word(self, ear: Connection) -> Word:
        """What a process says.

        Raises:
            GigawatchError: it gave up, or has ended.
        """
        try:
            word = msgspec.msgpack.decode(ear.recv_bytes(), type=Word)
        except (EOFError, ConnectionError) as error:
            raise GigawatchError("A process of the simulator has ended", "What it wrote above says why.") from error
        self.tallies[self._ears.index(ear)] = word.tally
        if word.failure:
            raise GigawatchError(word.failure.problem, word.failure.remedy, ExitCode(word.failure.exit_code))
        return word


def summed(tallies: Iterable[Tally]) -> Tally:
    """All processes together."""
    total = Tally()
    for tally in tallies:
        for name, value in msgspec.structs.asdict(tally).items():
            if name == "acks":
                for step, count in tally.acks.items():
                    total.acks[step] = total.acks.get(step, 0) + count
            elif name in MAXIMA:
                setattr(total, name, max(getattr(total, name), value))
            else:
                setattr(total, name, getattr(total, name) + value)
    return total


def figures(tally: Tally, nodes: int, window_s: int) -> dict[str, Any]:
    """What people want to know of this tally.

    Args:
        tally: of windows alone.
        nodes: in the fleet.
        window_s: length of the windows.
    """
    took_s = tally.live_took_s or 1.0
    return {
        "node_windows_per_s": round(tally.node_windows / took_s, 1),
        "gpu_windows_per_s": round(tally.gpu_windows / took_s, 1),
        "real_time_factor": round(tally.node_windows / took_s * window_s / nodes, 3),
        "ack_p50_ms": tally.ack_ms(0.5),
        "ack_p99_ms": tally.ack_ms(0.99),
        "generator_busy": round(tally.busy_s / took_s, 3),
        "generator_bound": tally.generator_bound,
    }


def _difference(now: Tally, before: Tally) -> Tally:
    """What came since then; what is behind is so now."""
    since = Tally(acks={step: count - before.acks.get(step, 0) for step, count in now.acks.items()})
    for name in ("node_windows", "gpu_windows", "refused", "live_took_s", "busy_s", "bound_s"):
        setattr(since, name, getattr(now, name) - getattr(before, name))
    since.behind_s = now.behind_s
    return since


def _work(mouth: Connection, nodes: list[Node], plan: Plan, number: int) -> None:
    """One process: introduces its nodes, and sends their windows when it is told to."""
    # Ctrl-C reaches all processes of a terminal: the parent ends this one once it has done so itself.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = os.getppid()

    def tell(word: Word) -> None:
        if os.getppid() != parent:
            os._exit(1)  # it was killed: nobody would end us
        mouth.send_bytes(msgspec.msgpack.encode(word))

    fleet = PreparedFleet(
        [node for node in nodes if node.number // NODES_PER_ROUND % plan.processes == number],
        seed=plan.seed,
        processes=plan.processes,
        amount=plan.amount,
        window_s=plan.window_s,
    )
    # What lives as long as the process need not be looked through again and again.
    gc.freeze()
    traffic = Traffic(fleet, plan, lambda tally: tell(Word(tally=tally)))
    signal.signal(signal.SIGTERM, lambda *_: traffic.end())
    try:
        traffic.introduce(int(time.time()))
        tell(Word(tally=traffic.tally, phase="ready"))
        start = msgspec.msgpack.decode(mouth.recv_bytes(), type=Start)
        traffic.run(start.pace, start.stop_s)
    except (asyncio.CancelledError, SystemExit):
        pass  # the parent has asked for the end
    except GigawatchError as error:
        failure = Failure(problem=error.problem, remedy=error.remedy, exit_code=error.exit_code)
        tell(Word(tally=traffic.tally, failure=failure))
        return
    tell(Word(tally=traffic.tally, phase="done"))
