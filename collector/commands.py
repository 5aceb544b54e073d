"""The verbs `gigawatch collect`, `replay` and `doctor`."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from collector.agent import Agent, Clock
from collector.doctor import examine, format_findings
from collector.node import Node, Records
from collector.replay import replay as replay_file
from collector.sources.host import Host
from collector.sources.nvml import Nvml
from gigawatch import settings
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import GpuWindow
from gigawatch.settings import Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

AGENT_FLAGS = (
    click.option("--server-url", help="Address of the API; default http://127.0.0.1:8600."),
    click.option("--token-file", help="File that holds a token with role agent."),
    click.option("--data-dir", help="Folder of the spool."),
    click.option("--site", help="Name of the site that this node is in."),
    click.option("--rack", help="Name of the rack that this node is in."),
)


def _agent_flags(command: Any) -> Any:
    for flag in reversed(AGENT_FLAGS):
        command = flag(command)
    return command


def _load(config: Path | None, flags: dict[str, Any]) -> Settings:
    sections = {"data_dir": "store", "host": "relay", "port": "relay"}
    return settings.load(config, {f"{sections.get(key, 'agent')}.{key}": value for key, value in flags.items()})


@click.command()
@_agent_flags
@click.option("--tick-s", type=float, help="Interval of the readings, s; default 1.")
@click.option("--window-s", type=int, help="Length of a window, s; default 10.")
@click.option("--once", is_flag=True, help="Read for one window, print it, and end; needs no server.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON.")
@click.option("--relay", is_flag=True, help="Relay other nodes' batches, in place of reading this node.")
@click.option("--host", help="With --relay: address to listen on; default 127.0.0.1.")
@click.option("--port", type=int, help="With --relay: port to listen on; default 8602.")
@click.pass_obj
def collect(config: Path | None, /, once: bool, as_json: bool, relay: bool, **flags: Any) -> None:
    """Read this node's GPUs and send what they did to the API: the node agent.

    Readings are folded into windows of 10 s, spooled on disk, and sent in order. While the server is away
    nothing is lost; a missing driver, a lost GPU and a driver reload are reported and survived.

    With --relay it reads nothing: it takes the batches of other nodes' agents as the API does, keeps them on disk,
    and forwards many in one request. Agents have the relay's address as their --server-url, and their own tokens.

    \b
      gigawatch collect --once                    look at this node now
      gigawatch collect --site paris --rack r12 --server-url https://gigawatch.example --token-file agent.token
      gigawatch collect --relay --host 10.0.12.1 --server-url https://gigawatch.example --token-file agent.token
    """
    loaded = _load(config, flags)
    if as_json and not once:
        raise click.UsageError("--json goes with --once.")
    if not relay and (flags["host"] or flags["port"] is not None):
        raise click.UsageError("--host and --port go with --relay.")
    if relay and once:
        raise click.UsageError("--once reads this node, and --relay does not: give one of them.")
    if relay:
        _relay(loaded)
        return
    if once:
        _print_once(loaded, as_json=as_json)
        return
    # What is simulated does not stand on this machine: nothing of it is read.
    agent = Agent(loaded, Host(Path(os.devnull)) if loaded.agent.simulated else Host())
    for number in (signal.SIGTERM, signal.SIGINT):
        # From a thread: a handler may interrupt the main one where it holds the lock of what is to be set.
        signal.signal(number, lambda *_: threading.Thread(target=agent.stop).start())
    click.echo(
        f"Reading this node every {loaded.agent.tick_s:g} s for {loaded.agent.server_url}.",
        err=True,
    )
    agent.run()


def _relay(loaded: Settings) -> None:
    try:
        from collector.relay.run import run  # noqa: PLC0415 # an agent has no granian
    except ModuleNotFoundError as error:
        raise GigawatchError(
            f"`gigawatch collect --relay` needs the Python module {error.name!r}, which is not installed.",
            "Install it with: pip install 'gigawatch[relay]'",
            ExitCode.CONFIGURATION,
        ) from error
    run(loaded)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_agent_flags
@click.pass_obj
def doctor(config: Path | None, /, as_json: bool, **flags: Any) -> None:
    """Say what can be read on this node, what cannot, and what to do about it.

    Ends with 0 where the agent would work, with 1 where something that it needs is missing.
    """
    findings = examine(_load(config, flags), Host(), Nvml())
    click.echo(msgspec.json.format(msgspec.json.encode(findings)).decode() if as_json else format_findings(findings))
    if any(finding.level == "bad" for finding in findings):
        sys.exit(ExitCode.FAILURE)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--column", help="The column to integrate; default power_instant_w, else the first power_…_w.")
@click.option(
    "--start",
    help="Time of t_s = 0, e.g. 2026-01-31T12:00:00Z; default: such that the trace ends now.",
)
@click.option("--gpu-model", default="replayed GPU", show_default=True, help="Model to show it as.")
@click.option("--dry-run", is_flag=True, help="Fold and print the energy; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_agent_flags
@click.pass_obj
def replay(
    config: Path | None,
    /,
    file: Path,
    column: str | None,
    start: str | None,
    gpu_model: str,
    dry_run: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Feed a recorded power trace through the agent's own window code and the API.

    FILE is CSV with the columns t_s (seconds, rising) and power_…_w (watts). It appears as a node of its own,
    marked as replayed, and its energy is integrated by the trapezoid.
    """
    summary = replay_file(_load(config, flags), file, column=column, start=start, gpu_model=gpu_model, dry_run=dry_run)
    if as_json:
        click.echo(msgspec.json.encode(summary).decode())
        return
    click.echo(
        f"{file.name}, column {summary.column}: {summary.readings} readings over {summary.length_s:.3f} s\n"
        f"  energy in {summary.windows} windows  {summary.energy_j:12.3f} J\n"
        f"  trapezoid over the column  {summary.trapezoid_j:12.3f} J"
        f"  (windows {100 * (summary.energy_j / summary.trapezoid_j - 1):+.4f} %)"
        if summary.trapezoid_j
        else f"{file.name}: no energy"
    )
    if not dry_run:
        click.echo(f"  sent as GPU {summary.gpu_uuid}, starting {summary.start:%Y-%m-%d %H:%M:%S} UTC")


def _print_once(loaded: Settings, *, as_json: bool) -> None:
    """Read one window's length from now on, and print it."""
    node = Node(loaded.agent, Host(), Nvml(), socket.gethostname())
    clock = Clock()
    shown = not as_json and sys.stderr.isatty()
    try:
        node.keep_open(clock.now_ms()[0])
        at_ms, _ = clock.now_ms()
        end_ms = at_ms + loaded.agent.window_s * MILLISECONDS_PER_SECOND
        while True:
            node.tick(at_ms)
            if at_ms >= end_ms:
                break
            if shown:
                click.echo(f"\rReading for {(end_ms - at_ms) / 1000:.0f} s … ", nl=False, err=True)
            time.sleep(min(loaded.agent.tick_s, max(0.0, (end_ms - clock.now_ms()[0]) / 1000)))
            at_ms, _ = clock.now_ms()
        gpu_windows, node_windows = node.close(at_ms, stop=True)
        inventory, events, health = node.take()
    finally:
        node.shut()
    if shown:
        click.echo("\r" + " " * 40 + "\r", nl=False, err=True)
    records = Records(
        inventory=inventory,
        gpu_windows=gpu_windows,
        node_windows=node_windows,
        events=events,
        health=health,
    )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(records)).decode())
        return
    for event in records.events:
        click.echo(f"{event.severity}: {event.message}")
    click.echo(format_windows(records.gpu_windows, {gpu.uuid: gpu.index for gpu in node.gpus}))


def format_windows(windows: Sequence[GpuWindow], indices: dict[str, int]) -> str:
    """GPU windows as a table for a terminal; a GPU's parts of several windows are added up."""
    by_gpu: dict[str, list[GpuWindow]] = {}
    for window in windows:
        by_gpu.setdefault(window.gpu_uuid, []).append(window)
    if not by_gpu:
        return "No GPU was read."
    header = (
        "GPU",
        "power W",
        "min",
        "max",
        "limit",
        "energy J",
        "by",
        "util %",
        "GPU °C",
        "mem °C",
        "SM MHz",
        "mem MiB",
    )
    rows = [header, *(_row(indices.get(uuid), parts) for uuid, parts in by_gpu.items())]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(index: int | None, parts: list[GpuWindow]) -> tuple[str, ...]:
    covered_ms = sum(part.covered_ms for part in parts)
    energies = [part.energy_mj for part in parts if part.energy_mj is not None]
    energy_mj = sum(energies) if energies else None
    methods = [part.energy_method for part in parts if part.energy_method is not None]
    last = parts[-1]

    def show(value: float | None, digits: int = 0) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    def extreme(name: str, choose: Any) -> Any:
        return choose((v for part in parts if (v := getattr(part, name)) is not None), default=None)

    def watts(value_mw: int | None) -> str:
        return show(None if value_mw is None else value_mw / 1000, 1)

    util = [(part.gpu_util_pm, part.covered_ms) for part in parts if part.gpu_util_pm is not None]
    return (
        "?" if index is None else str(index),
        watts(None if energy_mj is None else round(energy_mj * 1000 / covered_ms)),
        watts(extreme("power_min_mw", min)),
        watts(extreme("power_max_mw", max)),
        watts(last.power_limit_mw),
        show(None if energy_mj is None else energy_mj / 1000, 3),
        max(methods).name.lower() if methods else "–",
        show(sum(pm * ms for pm, ms in util) / sum(ms for _, ms in util) / 10 if util else None, 1),
        show(extreme("gpu_temp_max_c", max)),
        show(extreme("mem_temp_max_c", max)),
        show(last.sm_clock_mhz),
        show(extreme("mem_used_mib", max)),
    )
