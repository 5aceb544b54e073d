"""Pages and report views at 75,000 nodes, with a month behind them: python -m bench.queries.

Each page is built by the dashboard's own code on a store as bench.stored fills it, as often as is asked for, and the
time is that of all a request needs: reads, figures, what goes to the browser. Then each view of schema report is
asked what a report would ask it, with the rights of a reader. In a second store of 6,000 GPUs an hour's power and
energy are asked for. What is above its limit is marked; a statement that is stopped for its time says so.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy
from msgspec import Struct
from plotly.io.json import to_json_plotly
from sqlalchemy import Connection, Engine, event, text

from bench.stored import Depth, filled, freshen
from dashboard import live, theme, view
from dashboard.app import PAGES, build
from gigawatch import database, readings
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.settings import Settings, Store
from migrations.run import migrate

PAGE_MS, QUESTION_MS = 300.0, 20.0
"""Limits: of a page at 75,000 nodes, of a question to 6,000 GPUs."""
TIMEOUT_S = 30
SMALL_NODES = 750
HOUR = timedelta(hours=1)

QUESTIONS = {
    "fleet_now": "SELECT * FROM report.fleet_now",
    "nodes: 100": "SELECT * FROM report.nodes ORDER BY node_id LIMIT 100",
    "nodes_now: 100": "SELECT * FROM report.nodes_now ORDER BY node_id LIMIT 100",
    "nodes_now: the fleet's power": "SELECT sum(power_w) FROM report.nodes_now",
    "gpus: of a node": "SELECT * FROM report.gpus WHERE node_id = :node_id",
    "gpu_windows: a node's last minute":
        "SELECT * FROM report.gpu_windows WHERE node_id = :node_id AND time >= :minute",
    "gpu_health: of a node": "SELECT * FROM report.gpu_health WHERE node_id = :node_id",
    "events: a day": "SELECT * FROM report.events WHERE time >= :day ORDER BY time DESC LIMIT 100",
    "power: a node's last hour": "SELECT * FROM report.power WHERE node_id = :node_id AND time >= :hour",
    "power_series: fleet, 1 h": "SELECT * FROM report.power_series(:hour, :end, '1 min')",
    "power_series: by site, 24 h": "SELECT * FROM report.power_series(:day, :end, '5 min', 'site')",
    "power_series: by rack of a site, 1 h":
        "SELECT * FROM report.power_series(:hour, :end, '1 min', 'rack', in_site => :site, in_rack => :rack)",
    "power_series: by model, 30 d": "SELECT * FROM report.power_series(:month, :end, '1 h', 'gpu_model')",
    "power_series: a node, 24 h":
        "SELECT * FROM report.power_series(:day, :end, '5 min', 'node', in_node_id => :node_id)",
    "fleet_energy: 24 h": "SELECT * FROM report.fleet_energy(:day, :end)",
    "fleet_energy: 30 d": "SELECT * FROM report.fleet_energy(:month, :end)",
    "gpu_series: a node, 24 h": "SELECT * FROM report.gpu_series(:day, :end, '5 min', in_node_id => :node_id)",
    "node_series: a node, 30 d": "SELECT * FROM report.node_series(:node_id, :month, :end, '1 h')",
    "node_ticks: a node, 2 min": "SELECT * FROM report.node_ticks(:node_id, :minute, :end)",
    "energy_hourly: a node, 30 d": "SELECT * FROM report.energy_hourly WHERE node_id = :node_id AND time >= :month",
    "energy_hourly: all GPUs, an hour": "SELECT gpu_model, sum(energy_j) FROM report.energy_hourly"
        " WHERE time = :full_hour GROUP BY 1",
    "site_seconds: a site, 10 min": "SELECT * FROM report.site_seconds(:end - interval '10 min', :end, :site)",
    "load_swings: 24 h": "SELECT * FROM report.load_swings WHERE time >= :day",
    "load_swing_summary: 24 h": "SELECT * FROM report.load_swing_summary(:day, :end)",
    "load_spectrum: 1 h": "SELECT * FROM report.load_spectrum(:hour, :end)",
    "store_rollups": "SELECT * FROM report.store_rollups",
    "store_tables": "SELECT * FROM report.store_tables",
    "store_jobs": "SELECT * FROM report.store_jobs",
}  # fmt: skip
SMALL_QUESTIONS = {
    "fleet power by minute, 1 h": "SELECT time, power_w FROM report.power_series(:hour, :end, '1 min')",
    "energy of each GPU, 1 h": "SELECT gpu_uuid, energy_j FROM report.energy_hourly WHERE time = :full_hour",
    "energy by site, 1 h": "SELECT * FROM report.fleet_energy(:hour, :end)",
}


class Took(Struct, frozen=True):
    """What one read or page took, several times."""

    name: str
    limit_ms: float | None
    all_ms: list[float]
    sql_ms: list[float]
    size: str
    trouble: str = ""

    def row(self) -> str:
        """As a line of a table."""
        if self.trouble:
            return f"| {self.name} | {self.trouble} | | | | |"
        p95_ms = quantile(self.all_ms, 0.95)
        over = "" if self.limit_ms is None else "above" if p95_ms > self.limit_ms else "within"
        return (
            f"| {self.name} | {quantile(self.all_ms, 0.5):.0f} | {p95_ms:.0f} | {quantile(self.sql_ms, 0.5):.0f}"
            f" | {self.size} | {over} |"
        )


def quantile(values: Sequence[float], share: float) -> float:
    """Of several values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Timed:
    """Times reads on an engine, and the statements among them."""

    def __init__(self, engine: Engine, times: int) -> None:
        self._engine = engine
        self._times = times
        self._sql_s = 0.0
        self._began_s = 0.0
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, *_: Any) -> None:
        self._began_s = time.perf_counter()

    def _after(self, *_: Any) -> None:
        self._sql_s += time.perf_counter() - self._began_s

    def measure(self, name: str, limit_ms: float | None, work: Callable[[Connection], str]) -> Took:
        """Do it once for the caches, and then as often as asked for; work says how much came of it."""
        took = Took(name, limit_ms, [], [], "")
        size = ""
        for place in range(self._times + 1):
            self._sql_s, began_s = 0.0, time.perf_counter()
            try:
                with self._engine.connect() as connection:
                    size = work(connection)
            except sqlalchemy.exc.DBAPIError as error:
                return Took(name, limit_ms, [], [], "", str(error.orig).partition("\n")[0])
            if place:
                took.all_ms.append((time.perf_counter() - began_s) * 1_000)
                took.sql_ms.append(self._sql_s * 1_000)
        return Took(name, limit_ms, took.all_ms, took.sql_ms, size)


def page(path: str, query: str) -> Callable[[Connection], str]:
    """What a page needs of the server: reads, figures, JSON. Gives its size."""

    def work(connection: Connection) -> str:
        asked, notices = view.parse(query)
        assert not notices, notices
        for it in PAGES:
            if found := re.fullmatch(it.pattern, path):
                content = it.render(connection, asked, theme.LIGHT, datetime.now(UTC), *found.groups())
                readings.fleet_summary(connection)
                live.digests(live.parts(content))
                return f"{len(to_json_plotly(content)) / 1_024:,.0f} KiB"
        raise AssertionError(path)

    return work


def question(sql: str, values: dict[str, Any]) -> Callable[[Connection], str]:
    """A question in SQL. Gives the number of rows."""

    def ask(connection: Connection) -> str:
        used = {name: value for name, value in values.items() if re.search(rf":{name}\b", sql)}
        return f"{len(connection.execute(text(sql), used).all()):,} rows"

    return ask


def values_of(connection: Connection, end: datetime) -> dict[str, Any]:
    """Parameters: a node that has all its past, and where it stands."""
    row = connection.execute(
        text("SELECT node_id, site, rack FROM report.nodes WHERE node_id % 50 = 1 ORDER BY node_id OFFSET 3 LIMIT 1")
    ).one()
    return {
        "node_id": row.node_id, "site": row.site, "rack": row.rack, "end": end, "minute": end - timedelta(minutes=1),
        "hour": end - HOUR, "day": end - timedelta(days=1), "month": end - timedelta(days=30),
        "full_hour": end.replace(minute=0) - 2 * HOUR,
    }  # fmt: skip


def pages(values: dict[str, Any], gpu_uuid: str) -> dict[str, tuple[str, str]]:
    """Path and query of each page, as people open them."""
    site, rack, node = values["site"], values["rack"], values["node_id"]
    return {
        "fleet": ("/", ""),
        "fleet, 24 h": ("/", "?range=24h"),
        "fleet, 30 d by model": ("/", "?range=30d&group=gpu_model"),
        "fleet, a site by rack": ("/", f"?site={site}&group=rack"),
        "fleet, a rack": ("/", f"?site={site}&rack={rack}"),
        "nodes": ("/nodes", ""),
        "nodes of a site": ("/nodes", f"?site={site}"),
        "node": (f"/nodes/{node}", ""),
        "node, 24 h": (f"/nodes/{node}", "?range=24h"),
        "node, 30 d": (f"/nodes/{node}", "?range=30d"),
        "GPU": (f"/gpus/{gpu_uuid}", ""),
        "GPU, 30 d": (f"/gpus/{gpu_uuid}", "?range=30d"),
        "load swings": ("/swings", ""),
        "load swings, 24 h": ("/swings", "?range=24h"),
        "store": ("/store", ""),
    }


def ask(folder: Path, times: int, small: bool) -> list[Took]:
    """All questions to a store in a folder."""
    with EmbeddedServer(folder, installations()[0]) as server:
        owner = database.engine(server.url)
        migrate(owner)
        with owner.connect() as connection:
            mark = connection.scalar(text("SELECT folded FROM gigawatch.rollup WHERE level = '1m'"))
            assert mark is not None
        reader = database.engine(server.url, statement_timeout_s=TIMEOUT_S, role=database.REPORT_ROLE)
        timed = Timed(reader, times)
        with reader.connect() as connection:
            values = values_of(connection, mark)
            uuid = connection.scalar(text("SELECT gpu_uuid FROM report.gpus WHERE node_id = :node_id LIMIT 1"), values)
        found = []
        if not small:
            app = build(Settings(store=Store(database_url=server.url)))
            for name, (path, query) in pages(values, str(uuid)).items():
                freshen(owner)
                with app.app_context():
                    found.append(timed.measure(f"page: {name}", PAGE_MS, page(path, query)))
                print(found[-1].row(), file=sys.stderr)
        limit_ms = QUESTION_MS if small else None
        for name, sql in (SMALL_QUESTIONS if small else QUESTIONS).items():
            found.append(timed.measure(name, limit_ms, question(sql, values)))
            print(found[-1].row(), file=sys.stderr)
        with owner.connect() as connection:
            nodes = connection.scalar(text("SELECT count(*) FROM gigawatch.node"))
            print(f"{database.capabilities(connection)}; {nodes:,} nodes; {folder_gib(folder):.1f} GiB")
        reader.dispose()
        owner.dispose()
    return found


def folder_gib(folder: Path) -> float:
    """Size of what is in a folder."""
    return sum(it.stat().st_size for it in folder.rglob("*") if it.is_file()) / 1_024**3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=75_000)
    parser.add_argument("--times", type=int, default=20, help="how often each is asked")
    parser.add_argument("--store", type=Path, help="a folder that `python -m bench.stored` filled, to be kept")
    parser.add_argument("--json", action="store_true", help="all times as JSON")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    folder.chmod(0o711)
    large = options.store or folder / "large"
    if options.store is None:
        filled(large, options.nodes, Depth())
    found = ask(large, options.times, small=False)
    filled(folder / "small", SMALL_NODES, Depth(minutes=60, hours=24, all_minutes=60, all_hours=4))
    found += ask(folder / "small", options.times, small=True)
    if options.json:
        print(json.dumps([{"name": it.name, "ms": it.all_ms, "sql_ms": it.sql_ms, "trouble": it.trouble}
                          for it in found], indent=1))  # fmt: skip
    else:
        print("| | median, ms | p95, ms | of that SQL, median | size | limit |")
        print("| --- | ---: | ---: | ---: | ---: | --- |")
        for it in found:
            print(it.row())
    print(f"Python {platform.python_version()}; {os.cpu_count()} cores")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
