"""The command `gigawatch simulate`: an imagined fleet, sent through the API as agents would."""

import json
import math
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, get_args

import click
import msgspec

from collector.client import Client
from collector.simulated import faults, fleet
from collector.simulated.faults import MINUTE_S
from collector.simulated.fleet import Node
from collector.simulated.metrics import MetricsServer
from collector.simulated.processes import Processes, figures, summed
from collector.simulated.requests import Requests, recorded, synthetic
from collector.simulated.sending import Pace, Simulation, Totals, connect
from collector.simulated.serving import served_by
from collector.simulated.traffic import Plan, Tally
from gigawatch import settings
from gigawatch.errors import GigawatchError
from gigawatch.settings import WINDOW_LENGTHS_S, Agent

UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
DEFAULT_HISTORY_S = 24 * UNITS_S["h"]
LARGEST_DETAILED = 1_000
"""Nodes of a fleet that is modelled node by node unless told otherwise."""
MAX_DURATION_S = 366 * UNITS_S["d"]


class Duration(click.ParamType[float]):
    """A time such as 90s, 15m, 24h or 7d; a bare 0 is good as well. In seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of this text."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value).strip())
        if not found and value != "0":
            self.fail(f"{value!r} is no duration: write 90s, 15m, 24h or 7d.", param, ctx)
        seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
        if seconds > MAX_DURATION_S:
            self.fail(f"{value!r} is longer than 366d.", param, ctx)
        return seconds


class Stopped(BaseException):
    """Somebody asked the process to end."""


class Progress:
    """Tells on a terminal how far the history is, and elsewhere in a line for each tenth."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._tenths = 0

    def __call__(self, share: float, gpu_windows: int) -> None:
        """Say it.

        Args:
            share: how much is done, from 0 to 1.
            gpu_windows: GPU windows stored so far.
        """
        text = f"history {share:4.0%}, {gpu_windows:,} GPU windows stored"
        if self._is_terminal:
            self._stream.write(f"\r{text}" + ("\n" if share >= 1 else ""))
        elif int(share * 10) > self._tenths:
            self._tenths = int(share * 10)
            self._stream.write(f"{text}\n")
        self._stream.flush()


@click.command()
@click.option("--server-url", help="The API to send to; by default agent.server_url of the settings.")
@click.option("--token-file", help="A file with an agent's token; by default agent.token_file.")
@click.option("--nodes", type=click.IntRange(1, 1_000_000), help="Nodes in the fleet. [default: 16]")
@click.option(
    "--megawatts",
    type=click.FloatRange(0.0, 10_000.0, min_open=True),
    help="In place of --nodes: as many as draw this much with all GPUs at their limits.",
)
@click.option("--gpus-per-node", type=click.IntRange(1, 16), default=8, show_default=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1,
    show_default=True,
    help="The same seed gives the same machines, work and faults.",
)
@click.option(
    "--history",
    "history_s",
    type=Duration(),
    help="How much of the past to send first, in full minutes; 0 for none.  [default: 24h; 0 with --prepared"
    " at --speed 1]",
)
@click.option(
    "--for",
    "for_s",
    type=Duration(),
    help="Stop after so much time of live windows; without it, when asked to.",
)
@click.option(
    "--window-s",
    type=click.Choice(WINDOW_LENGTHS_S),
    default=10,
    show_default=True,
    help="Length of the live windows.",
)
@click.option(
    "--speed",
    type=click.FloatRange(1.0, 100_000.0),
    default=1.0,
    show_default=True,
    help="Above 1: send the history as live windows, so many times as fast.",
)
@click.option(
    "--faults",
    "amount",
    type=click.Choice(get_args(faults.Amount)),
    default="few",
    show_default=True,
    help="What goes wrong in the fleet.",
)
@click.option(
    "--prepared/--detailed",
    "is_prepared",
    default=None,
    help="Copy the measurements of some modelled nodes to all, or model each. [default: prepared above"
    f" {LARGEST_DETAILED:,} nodes, or with one of the options below]",
)
@click.option(
    "--relay-size",
    type=click.IntRange(1, 1_000),
    help="Prepared: batches in one request, as a relay sends them; 1 is the agents' way. [default: 1]",
)
@click.option("--processes", type=click.IntRange(1, 256), help="Prepared: processes that send. [default: 1]")
@click.option("--connections", type=click.IntRange(1, 1_000), help="Prepared: of each process. [default: 32]")
@click.option("--compress/--no-compress", default=None, help="Prepared: zstd, as agents do. [default: compress]")
@click.option(
    "--requests",
    "requests_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Detailed: a CSV file of requests as the Azure LLM inference traces are, in place of such as one of them had.",
)
@click.option("--metrics-host", help="Detailed: address to serve the engines' metrics on. [default: 127.0.0.1]")
@click.option("--metrics-port", type=click.IntRange(0, 65_535), help="Detailed: its port. [default: any that is free]")
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as JSON at the end.")
@click.pass_context
def simulate(
    context: click.Context,
    server_url: str | None,
    token_file: str | None,
    nodes: int | None,
    megawatts: float | None,
    gpus_per_node: int,
    seed: int,
    history_s: float | None,
    for_s: float | None,
    window_s: int,
    speed: float,
    amount: faults.Amount,
    is_prepared: bool | None,
    relay_size: int | None,
    processes: int | None,
    connections: int | None,
    compress: bool | None,
    requests_file: Path | None,
    metrics_host: str | None,
    metrics_port: int | None,
    as_json: bool,
) -> None:
    """Send the data of a simulated fleet to an API, marked as simulated.

    First a history in windows of a minute, then live windows as time passes, until Ctrl-C or SIGTERM. Inference engines
    serve their metrics as vLLM does, under an address that is told at the start: `gigawatch engines probe` reads them.
    Great fleets are prepared: some nodes are modelled, and all others copy what those measured.
    Durations are written as 90s, 15m, 24h, 7d. docs/simulate.md says what is modelled and what is not.
    """
    if nodes and megawatts:
        raise click.UsageError("--nodes and --megawatts both say how large the fleet is: give one of them.")
    machines = (
        fleet.of_megawatts(megawatts, seed=seed, gpus_per_node=gpus_per_node)
        if megawatts
        else fleet.of_nodes(nodes or 16, seed=seed, gpus_per_node=gpus_per_node)
    )
    is_prepared = _is_prepared(
        is_prepared,
        len(machines),
        for_prepared={relay_size, processes, connections, compress},
        for_detailed={requests_file, metrics_host, metrics_port},
    )
    if history_s is None:
        history_s = DEFAULT_HISTORY_S if speed > 1 or not is_prepared else 0
    if history_s % MINUTE_S:
        raise click.BadParameter("it must be of full minutes", param_hint="--history")
    if speed > 1 and not history_s:
        raise click.UsageError("--speed hurries through the history, and --history is 0.")
    if is_prepared and history_s and speed == 1:
        raise click.UsageError("A prepared fleet has no history but what --speed above 1 hurries through.")
    path = context.obj if isinstance(context.obj, Path) else None
    flags = {"agent.server_url": server_url, "agent.token_file": token_file}
    agent = settings.load(path, flags).agent
    began_s = time.monotonic()
    sent: dict[str, Any] = {
        "sites": len({node.site.name for node in machines}),
        "nodes": len(machines),
        "gpus": len(machines) * gpus_per_node,
        "rated_w": round(sum(node.rated_w for node in machines)),
    }
    totals: Totals
    if is_prepared:
        plan = Plan(
            agent=agent,
            seed=seed,
            amount=amount,
            window_s=window_s,
            relay_size=relay_size or 1,
            processes=processes or 1,
            connections=connections or 32,
            compress=compress is not False,
        )
        totals, more = _send_prepared(machines, plan, int(history_s), speed, for_s)
    else:
        with MetricsServer(metrics_host or "127.0.0.1", metrics_port or 0).serving() as metrics:
            requests = recorded(requests_file) if requests_file else synthetic(seed)
            totals, more = _send_detailed(
                machines, agent, seed, amount, int(history_s), window_s, speed, for_s, requests, metrics
            )
    sent |= {"took_s": round(time.monotonic() - began_s, 3), **more}
    if as_json:
        click.echo(json.dumps(sent))
    else:
        click.echo(
            f"{sent['nodes']} simulated nodes, {sent['gpus']} GPUs: "
            f"{totals.gpu_windows:,} GPU windows stored in {sent['took_s']} s, "
            f"{totals.refused:,} rows refused",
            err=True,
        )
    if totals.refused_batches and not totals.batches:
        raise GigawatchError(
            "The server refused every batch",
            "The warnings above say why; `gigawatch doctor` checks the clock.",
        )


def _is_prepared(asked: bool | None, nodes: int, *, for_prepared: set[object], for_detailed: set[object]) -> bool:
    """Whether the fleet is prepared: as asked, else by options that only one of the modes has, else by its size."""
    if asked is None:
        asked = for_prepared != {None} or (nodes > LARGEST_DETAILED and for_detailed == {None})
    if for_prepared != {None} and not asked:
        raise click.UsageError("--relay-size, --processes, --connections and --compress need --prepared.")
    if for_detailed != {None} and asked:
        raise click.UsageError("--requests, --metrics-host and --metrics-port need --detailed: others have no engines.")
    return asked


def _send_detailed(
    machines: list[Node],
    agent: Agent,
    seed: int,
    amount: faults.Amount,
    history_s: int,
    window_s: int,
    speed: float,
    for_s: float | None,
    requests: Requests,
    metrics: MetricsServer,
) -> tuple[Totals, dict[str, Any]]:
    """Model every node. What was sent, and for the summary."""
    client = Client(agent)
    now_s = int(time.time()) // MINUTE_S * MINUTE_S
    struck = faults.plan(machines, amount, seed=seed, now_s=now_s, history_s=history_s)
    simulation = Simulation(machines, struck, client, seed=seed, requests=requests, metrics=metrics)
    if engines := sum(served_by(node) is not None for node in machines):
        click.echo(f"The metrics of {engines} simulated engines are at {metrics.url}", err=True)
    began_s = time.monotonic()
    history_took_s = None
    with _stopping():
        connect(client)
        simulation.introduce(now_s - history_s)
        live_s = now_s
        if speed > 1:
            live_s -= history_s
        elif history_s:
            simulation.send_history(now_s - history_s, now_s, Progress(sys.stderr))
            history_took_s = round(time.monotonic() - began_s, 3)
        stop_s = math.inf if for_s is None else time.time() + for_s
        simulation.run(live_s, window_s, speed=speed, stop_s=stop_s)
    client.close()
    return simulation.totals, {"history_took_s": history_took_s, **msgspec.structs.asdict(simulation.totals)}


def _send_prepared(
    machines: list[Node], plan: Plan, history_s: int, speed: float, for_s: float | None
) -> tuple[Totals, dict[str, Any]]:
    """Model some nodes, and have all others copy them. What was sent, and for the summary."""
    client = Client(plan.agent)
    processes = Processes(machines, plan)
    began_s = time.monotonic()
    introduction_took_s = None
    try:
        with _stopping():
            connect(client)
            client.close()
            processes.start()
            processes.introduce()
            introduction_took_s = round(time.monotonic() - began_s, 3)
            now_s = time.time()
            pace = Pace(
                origin_s=int(now_s - history_s) // plan.window_s * plan.window_s,
                began_s=now_s,
                window_s=plan.window_s,
                speed=speed,
            )
            processes.run(pace, math.inf if for_s is None else now_s + for_s)
    finally:
        processes.stop()
    total = summed(processes.tallies)
    if total.generator_bound:
        click.echo(
            "The simulator could not keep up with itself: these figures are its own and not the server's."
            " Give it more --processes, or cores of its own.",
            err=True,
        )

    def told(tally: Tally) -> dict[str, Any]:
        plain = msgspec.structs.asdict(tally)
        del plain["acks"]
        return {**plain, **figures(tally, len(machines), plan.window_s)}

    return total, {
        "introduction_took_s": introduction_took_s,
        **told(total),
        "processes": [told(tally) for tally in processes.tallies],
    }


@contextmanager
def _stopping() -> Iterator[None]:
    """Leave the block when SIGINT or SIGTERM comes, at once: a request under way is given up.

    Further signals are ignored: Ctrl-C under `gigawatch up` brings both, and what is left to do is short.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ignore(_number: int, _frame: FrameType | None) -> None:
        # Not SIG_IGN: Python complains where the second signal was on its way when the first came.
        pass

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, ignore)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except Stopped:
        before = {}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
