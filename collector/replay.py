"""Feeds a recorded power trace through the window code and the API, so that real recordings can be looked at."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from collector import table
from collector.client import Client, utc_now
from collector.sources.nvml import GpuReading
from collector.windows import GpuFolder, from_ms
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Gpu, GpuWindow, Inventory
from gigawatch.settings import Settings
from gigawatch.units import MILLIJOULES_PER_JOULE, MILLISECONDS_PER_SECOND, MILLIWATTS_PER_WATT
from gigawatch.wire import Batch, encode

ROWS_PER_BATCH = 10_000
PREFERRED = "power_instant_w"
GREATEST_POWER_W = 2_000_000


class Summary(Struct, frozen=True, kw_only=True):
    """What a replay did."""

    gpu_uuid: str
    column: str
    start: datetime
    readings: int
    windows: int
    length_s: float
    energy_j: float
    """Sum over the windows."""
    trapezoid_j: float
    """Trapezoid over the column, at the recording's own times."""


def replay(
    settings: Settings,
    path: Path,
    *,
    column: str | None,
    start: str | None,
    gpu_model: str,
    dry_run: bool,
) -> Summary:
    """Fold a trace into windows and send them, as a node and GPU of their own.

    Raises:
        GigawatchError: the file is malformed (the line is named), or the server is away or refuses.
    """
    column, points = _read(path, column)
    length_s = points[-1][0] - points[0][0]
    begin = _begin(start, points)
    window_ms = settings.agent.window_s * MILLISECONDS_PER_SECOND
    # The trace's identity: replayed twice, it is the same GPU, and the server refuses the same windows.
    digest = hashlib.sha256(path.read_bytes() + column.encode()).hexdigest()
    uuid = f"REPLAY-{digest[:32]}"
    folder = GpuFolder(uuid, window_ms, tick_ms=max(1, round(length_s / len(points) * 1000)))
    windows: list[GpuWindow] = []
    last_ms = 0
    for at_ms, power_mw in _at_milliseconds(points, begin):
        folder.add(at_ms, GpuReading(uuid=uuid, power_mw=power_mw, power_instant_mw=power_mw))
        windows.extend(folder.close(at_ms))
        last_ms = at_ms
    windows.extend(folder.close(last_ms, stop=True))
    if not dry_run:
        _send(
            settings,
            windows,
            digest,
            Gpu(uuid=uuid, index=0, model=gpu_model, energy_counter=False),
            path.name,
        )
    return Summary(
        gpu_uuid=uuid,
        column=column,
        start=windows[0].start if windows else from_ms(begin),
        readings=len(points),
        windows=len(windows),
        length_s=length_s,
        energy_j=sum(window.energy_mj or 0 for window in windows) / MILLIJOULES_PER_JOULE,
        trapezoid_j=sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(points)),
    )


def _read(path: Path, column: str | None) -> tuple[str, list[tuple[float, float]]]:
    """The column's name, and its points as (seconds, watts)."""
    points: list[tuple[float, float]] = []
    lines = table.lines(path)
    _, header = next(lines)
    column = _choose(path, header, column)
    time_place, power_place = header.index("t_s"), header.index(column)
    for line, cells in lines:
        t_s = table.number(path, line, "t_s", cells[time_place])
        power_w = table.number(path, line, column, cells[power_place])
        if not 0 <= power_w <= GREATEST_POWER_W:
            raise table.broken(path, line, f"{column} = {power_w:g} W is impossible")
        if points and t_s < points[-1][0]:
            raise table.broken(path, line, f"t_s = {t_s:g} is before {points[-1][0]:g}, the line above")
        points.append((t_s, power_w))
    if len(points) < 2:
        raise GigawatchError(f"{path} has {len(points)} readings", "An energy needs two.", ExitCode.DATA)
    return column, points


def _choose(path: Path, header: list[str], column: str | None) -> str:
    powers = [name for name in header if name.startswith("power_") and name.endswith("_w")]
    if "t_s" not in header or not powers:
        raise GigawatchError(
            f"{path} has the columns {', '.join(header) or '(none)'}",
            "It needs t_s (seconds) and power_…_w (watts), e.g. power_instant_w, in its first line.",
            ExitCode.DATA,
        )
    if column is not None and column not in powers:
        raise GigawatchError(
            f"{path} has no column {column!r}",
            f"Choose one of: {', '.join(powers)}.",
            ExitCode.DATA,
        )
    return column or (PREFERRED if PREFERRED in powers else powers[0])


def _begin(start: str | None, points: list[tuple[float, float]]) -> int:
    """Milliseconds of UTC at t_s = 0."""
    if start is None:
        return round((utc_now().timestamp() - points[-1][0]) * MILLISECONDS_PER_SECOND)
    try:
        moment = datetime.fromisoformat(start)
    except ValueError as error:
        raise GigawatchError(
            f"--start {start!r} is not a time", "Write e.g. 2026-01-31T12:00:00Z.", ExitCode.DATA
        ) from error
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * MILLISECONDS_PER_SECOND)


def _at_milliseconds(points: list[tuple[float, float]], begin_ms: int) -> Iterator[tuple[int, int]]:
    """The points at whole milliseconds, as the window code takes them: several within one become their mean."""
    group: list[float] = []
    group_ms = 0
    for t_s, power_w in points:
        at_ms = begin_ms + round(t_s * MILLISECONDS_PER_SECOND)
        if group and at_ms != group_ms:
            yield group_ms, round(sum(group) / len(group) * MILLIWATTS_PER_WATT)
            group = []
        group_ms = at_ms
        group.append(power_w)
    yield group_ms, round(sum(group) / len(group) * MILLIWATTS_PER_WATT)


def _send(settings: Settings, windows: list[GpuWindow], digest: str, gpu: Gpu, name: str) -> None:
    client = Client(settings.agent)
    client.hello()
    inventory = Inventory(
        hostname=f"replay-{name}"[:200],
        site=settings.agent.site,
        rack=settings.agent.rack,
        gpus=(gpu,),
    )
    for first in range(0, len(windows), ROWS_PER_BATCH):
        part = windows[first : first + ROWS_PER_BATCH]
        batch = Batch(machine_id=f"replay-{digest[:32]}", sent_at=utc_now(), simulated=True)
        receipt = client.post(encode(batch, inventory=inventory, gpu_windows=part))
        if receipt.refused:
            refusal = receipt.refused[0]
            raise GigawatchError(
                f"The server refused {sum(it.count for it in receipt.refused)} windows: {refusal.error}",
                refusal.remedy,
                ExitCode.DATA,
            )
    client.close()
