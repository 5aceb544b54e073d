"""Pages and report views at 75,000 nodes, with a month behind them: python -m bench.queries.

Each page is built by the dashboard's own code on a store as bench.stored fills it, as often as is asked for, and the
time is that of all a request needs: reads, figures, what goes to the browser; below it each of its reads. Then each
view of schema report is asked what a report would ask it, with the rights of a reader, and the API's reads over HTTP.
In a second store of 6,000 GPUs an hour's power and energy are asked for. What is above its limit is marked; a
statement that is stopped for its time says so. Periods end where the data do, and all nodes are heard of just now.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from inspect import getmembers, isfunction
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import sqlalchemy
from msgspec import Struct
from plotly.io.json import to_json_plotly
from sqlalchemy import Connection, Engine, event, text

from bench.loader import cpu_s
from bench.stored import Depth, filled, freshen
from dashboard import live, recent, theme, view
from dashboard.app import PAGES, build
from gigawatch import database, readings, token_readings
from gigawatch.embedded import EmbeddedServer, installations
from gigawatch.settings import Settings, Store
from migrations.run import migrate
from tests.servers import running_api

PAGE_MS, QUESTION_MS = 300.0, 20.0
"""Limits: of a page at 75,000 nodes, of a question to 6,000 GPUs."""
TIMEOUT_S = 30
PAGE = "page: "
SMALL_NODES = 750
HOUR = timedelta(hours=1)
FOLDING = timedelta(seconds=40)
"""From the end of what is folded to the moment at which pages are asked for: half of what it is at most."""

QUESTIONS = {
    "fleet_now": "SELECT * FROM report.fleet_now",
    "nodes: 100": "SELECT * FROM report.nodes ORDER BY node_id LIMIT 100",
    "nodes_now: 100": "SELECT * FROM report.nodes_now ORDER BY node_id LIMIT 100",
    "nodes_now: the fleet's power": "SELECT sum(power_w) FROM report.nodes_now",
    "racks: of a site": "SELECT rack FROM report.racks WHERE site = :site",
    "known_until": "SELECT report.known_until()",
    "gpus: of a node": "SELECT * FROM report.gpus WHERE node_id = :node_id",
    "gpu_windows: a node's last minute":
        "SELECT * FROM report.gpu_windows WHERE node_id = :node_id AND time >= :minute",
    "gpu_health: of a node": "SELECT * FROM report.gpu_health WHERE node_id = :node_id",
    "gpu_health: not ok": "SELECT * FROM report.gpu_health WHERE state <> 'ok'",
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
    "longest_window_s: a node, 1 h": "SELECT report.longest_window_s(:hour, :end, :node_id)",
    "store_rollups": "SELECT * FROM report.store_rollups",
    "store_tables": "SELECT * FROM report.store_tables",
    "store_jobs": "SELECT * FROM report.store_jobs",
}  # fmt: skip
SMALL_QUESTIONS = {
    "fleet power by minute, 1 h": "SELECT time, power_w FROM report.power_series(:hour, :end, '1 min')",
    "energy of each GPU, 1 h": "SELECT gpu_uuid, energy_j FROM report.energy_hourly WHERE time = :full_hour",
}


def api_reads(values: dict[str, Any], gpu_uuid: str) -> dict[str, str]:
    """Reads of the API, as scripts ask them."""
    node, site, end = values["node_id"], values["site"], values["end"]
    hour, day = (f"start={end - back:%Y-%m-%dT%H:%MZ}&stop={end:%Y-%m-%dT%H:%MZ}" for back in (HOUR, 24 * HOUR))
    return {
        "fleet": "fleet",
        "sites": "sites",
        "nodes: 1,000": "nodes",
        "nodes: silent": "nodes?state=silent",
        "nodes/counts": "nodes/counts",
        "node": f"nodes/{node}",
        "node: series, 24 h": f"nodes/{node}/series?{day}",
        "node: ticks, 1 h": f"nodes/{node}/ticks?{hour}",
        "gpus: hottest 10": "gpus?order=temperature&limit=10",
        "gpus: 1,000 of a site": f"gpus?site={site}",
        "gpu": f"gpus/{gpu_uuid}",
        "gpu: series, 24 h": f"gpus/{gpu_uuid}/series?{day}",
        "power: by site, 1 h": f"power?group_by=site&{hour}",
        "power: fleet, 24 h": f"power?{day}",
        "energy: 24 h": f"energy?{day}",
        "energy/hourly: a node, 24 h": f"energy/hourly?node_id={node}&{day}",
        "events: 24 h": f"events?{day}",
        "health/gpus: of a node": f"health/gpus?node_id={node}",
        "site-seconds: 1 h": f"site-seconds?{hour}",
        "load-swings: 24 h": f"load-swings?{day}",
        "load-swings/summary: 1 h": f"load-swings/summary?{hour}",
        "load-swings/spectrum: 1 h": f"load-swings/spectrum?{hour}",
        "store": "store",
    }


class Took(Struct, frozen=True):
    """What one read or page took, several times."""

    name: str
    limit_ms: float | None
    all_ms: list[float]
    sql_ms: list[float]
    size: str
    trouble: str = ""
    cpu_ms: list[float] = []
    """Of this process and the store's that answers it: on a shared machine what to compare by."""

    def row(self) -> str:
        """As a line of a table."""
        if self.trouble:
            over = "" if self.limit_ms is None else "**above**"
            return f"| {self.name} | {self.trouble} | | | | | {over} |"
        p95_ms = quantile(self.all_ms, 0.95)
        over = "" if self.limit_ms is None else "**above**" if p95_ms > self.limit_ms else "within"
        sql = f"{quantile(self.sql_ms, 0.5):.1f}" if self.sql_ms else ""
        cpu = f"{quantile(self.cpu_ms, 0.5):.0f}" if self.cpu_ms else ""
        return (
            f"| {self.name} | {quantile(self.all_ms, 0.5):.1f} | {p95_ms:.1f} | {sql} | {cpu} | {self.size} | {over} |"
        )


def quantile(values: Sequence[float], share: float) -> float:
    """Of several values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Read(Struct, frozen=True):
    """One call of a function of gigawatch.readings or token_readings."""

    name: str
    took_ms: float
    rows: int


@contextmanager
def noted(reads: list[Read]) -> Iterator[None]:
    """Note each read that is made within, without the reads that it makes itself.

    The functions are new ones each time: what the dashboard keeps of earlier reads is kept by function.
    """
    functions = [
        (module, name, function)
        for module in (readings, token_readings)
        for name, function in getmembers(module, isfunction)
        if next(iter(function.__code__.co_varnames), "") == "connection" and not name.startswith("_")
    ]
    under_way: list[str] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **given: Any) -> Any:
            under_way.append(name)
            began_s = time.perf_counter()
            try:
                found = function(*args, **given)
            finally:
                under_way.pop()
            if not under_way:
                rows = len(found) if isinstance(found, list) else 1
                reads.append(Read(name, (time.perf_counter() - began_s) * 1_000, rows))
            return found

        return read

    for module, name, function in functions:
        setattr(module, name, timed(name, function))
    try:
        yield
    finally:
        for module, name, function in functions:
            setattr(module, name, function)


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

    def measure(self, name: str, limit_ms: float | None, work: Callable[[Connection], str]) -> list[Took]:
        """Do it once for the caches, and then as often as asked for; work says how much came of it. Then its reads."""
        took = Took(name, limit_ms, [], [], "")
        all_reads: list[list[Read]] = []
        size = ""
        for place in range(self._times + 1):
            reads: list[Read] = []
            self._sql_s, began_s = 0.0, time.perf_counter()
            try:
                with self._engine.connect() as connection, noted(reads):
                    store = connection.connection.driver_connection
                    assert isinstance(store, psycopg.Connection)
                    pids = [os.getpid(), store.info.backend_pid]
                    used_s = -cpu_s(pids)
                    size = work(connection)
                    used_s += cpu_s(pids)
            except sqlalchemy.exc.DBAPIError as error:
                last = f", after {', '.join(it.name for it in reads)}" if reads else ""
                return [Took(name, limit_ms, [], [], "", str(error.orig).partition("\n")[0] + last)]
            if place:
                took.all_ms.append((time.perf_counter() - began_s) * 1_000)
                took.sql_ms.append(self._sql_s * 1_000)
                took.cpu_ms.append(used_s * 1_000)
                all_reads.append(reads)
        # As often as the same read is made for a page, by its place among its reads.
        of_each = zip(*all_reads, strict=False)
        parts = [
            Took(f"– {each[0].name}", None, [it.took_ms for it in each], [], f"{each[0].rows:,} rows")
            for each in of_each
        ]
        return [msgspec.structs.replace(took, size=size), *parts]


def page(path: str, query: str, now: datetime) -> Callable[[Connection], str]:
    """What a page needs of the server: reads, figures, JSON. Gives its size."""

    def work(connection: Connection) -> str:
        asked, notices = view.parse(query)
        assert not notices, notices
        for it in PAGES:
            if found := re.fullmatch(it.pattern, path):
                content = it.render(connection, asked, theme.LIGHT, now, *found.groups())
                recent.read(readings.fleet_summary, connection, readings.EVERYTHING)
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
        text("SELECT node_id, site, rack FROM report.nodes WHERE node_id % :every = 1"
             " ORDER BY node_id OFFSET 3 LIMIT 1"), {"every": Depth().every},
    ).one()  # fmt: skip
    return {
        "node_id": row.node_id, "site": row.site, "rack": row.rack, "end": end, "minute": end - timedelta(minutes=1),
        "hour": end - HOUR, "day": end - timedelta(days=1), "month": end - timedelta(days=30),
        "full_hour": end.replace(minute=0) - 2 * HOUR,
    }  # fmt: skip


def pages(values: dict[str, Any], gpu_uuid: str) -> dict[str, tuple[str, str]]:
    """Path and query of each page, as people open them."""
    site, rack, node, end = values["site"], values["rack"], values["node_id"], values["end"]
    return {
        "fleet": ("/", ""),
        "fleet, 24 h": ("/", "?range=24h"),
        "fleet, 30 d by model": ("/", "?range=30d&group=gpu_model"),
        "fleet, a site by rack": ("/", f"?site={site}&group=rack"),
        "fleet, a rack": ("/", f"?site={site}&rack={rack}"),
        "nodes": ("/nodes", ""),
        "nodes of a site": ("/nodes", f"?site={site}"),
        "nodes, the hottest": ("/nodes", "?sort=-temperature"),
        "nodes, found by name": ("/nodes", f"?find={rack}"),
        "node": (f"/nodes/{node}", ""),
        "node, 24 h": (f"/nodes/{node}", "?range=24h"),
        "node, 30 d": (f"/nodes/{node}", "?range=30d"),
        "GPU": (f"/gpus/{gpu_uuid}", ""),
        "GPU, 30 d": (f"/gpus/{gpu_uuid}", "?range=30d"),
        "load swings": ("/swings", ""),
        "load swings, 24 h": ("/swings", "?range=24h"),
        "store": ("/store", ""),
        "energy per token": ("/tokens", ""),
        "energy per token, it": ("/tokens", "?boundary=it"),
        "energy per token, facility": ("/tokens", "?boundary=facility"),
        "energy per token by model, facility": ("/tokens", "?by=model&boundary=facility"),
        "energy per token by site": ("/tokens", "?by=site"),
        "energy per token by GPU model": ("/tokens", "?by=gpu_model"),
        "energy per token of a site": ("/tokens", f"?site={site}"),
        "energy per token, 15 min": ("/tokens", "?range=15m"),
        "energy per token, 6 h": ("/tokens", "?range=6h"),
        "energy per token, 24 h": ("/tokens", "?range=24h"),
        "energy per token, 24 h, facility": ("/tokens", "?range=24h&boundary=facility"),
        "energy per token, 30 d": ("/tokens", "?range=30d"),
        "energy per token, an hour against another": (
            "/tokens",
            f"?against_from={end - 25 * HOUR:%Y-%m-%dT%H:%MZ}&against_to={end - 24 * HOUR:%Y-%m-%dT%H:%MZ}",
        ),
        "energy per token of a deployment": ("/tokens", "?deployment=deployment-7"),
        "energy per token of a deployment, 24 h, facility": (
            "/tokens",
            "?deployment=deployment-7&range=24h&boundary=facility",
        ),
        "energy per token of a deployment, 30 d": ("/tokens", "?deployment=deployment-7&range=30d"),
        "energy per token of a deployment against another, facility": (
            "/tokens",
            "?deployment=deployment-7&against=deployment-8&boundary=facility",
        ),
    }


@contextmanager
def opened(folder: Path, times: int) -> Iterator[tuple[Engine, str, dict[str, Callable[[Connection], str]], Timed]]:
    """The store in a folder: its owner's engine, its URL, all pages and questions, and what times them."""
    with EmbeddedServer(folder, installations()[0]) as server:
        owner = database.engine(server.url)
        migrate(owner)
        reader = database.engine(server.url, statement_timeout_s=TIMEOUT_S, role=database.REPORT_ROLE)
        with owner.connect() as connection:
            mark = connection.scalar(text("SELECT folded FROM gigawatch.rollup WHERE level = '1m'"))
            assert mark is not None
            values = values_of(connection, mark)
            uuid = connection.scalar(text("SELECT gpu_uuid FROM report.gpus WHERE node_id = :node_id LIMIT 1"), values)
            values["gpu_uuid"] = str(uuid)
        works = {
            f"{PAGE}{name}": page(path, query, mark + FOLDING)
            for name, (path, query) in pages(values, str(uuid)).items()
        }
        works |= {name: question(sql, values) for name, sql in (QUESTIONS | SMALL_QUESTIONS).items()}
        app = build(Settings(store=Store(database_url=server.url)))
        with app.app_context():
            yield owner, server.url, works, Timed(reader, times)
        reader.dispose()
        owner.dispose()


def ask(folder: Path, times: int, small: bool, only: str = "") -> list[Took]:
    """All questions to a store in a folder, or those whose name begins so."""
    found: list[Took] = []

    def add(more: list[Took]) -> None:
        found.extend(more)
        for it in more:
            print(it.row(), file=sys.stderr, flush=True)

    with opened(folder, times) as (owner, url, works, timed):
        for name, work in works.items():
            if name in SMALL_QUESTIONS:
                limit_ms: float | None = QUESTION_MS
            else:
                limit_ms = PAGE_MS if name.startswith(PAGE) else None
            if small != (name in SMALL_QUESTIONS) or not name.removeprefix(PAGE).startswith(only):
                continue
            if not small:
                freshen(owner)
            # As the dashboard does when it has started: its modules are not searched for garbage while it answers.
            gc.freeze()
            add(timed.measure(name, limit_ms, work))
        if not small and not only:
            freshen(owner)
            add(ask_api(owner, url, times, folder / "api.log"))
        with owner.connect() as connection:
            nodes = connection.scalar(text("SELECT count(*) FROM gigawatch.node"))
            print(f"{database.capabilities(connection)}; {nodes:,} nodes; {folder_gib(folder):.1f} GiB")
            if not small and not only:
                print_not_asked(connection)
    return found


def ask_api(owner: Engine, url: str, times: int, log: Path) -> list[Took]:
    """The API's reads, over HTTP."""
    with owner.connect() as connection:
        mark = connection.scalar(text("SELECT folded FROM gigawatch.rollup WHERE level = '1m'"))
        assert mark is not None
        values = values_of(connection, mark)
        uuid = connection.scalar(text("SELECT gpu_uuid FROM report.gpus WHERE node_id = :node_id LIMIT 1"), values)
    # Nothing is folded or removed meanwhile.
    with running_api(url, log, GIGAWATCH_SERVER__SCHEDULER="false") as api, api.client("viewer") as client:
        found = []
        for name, path in api_reads(values, str(uuid)).items():
            took_ms, size = [], ""
            for place in range(times + 1):
                began_s = time.perf_counter()
                response = client.get(f"/api/v1/{path}")
                if response.status_code != 200:
                    found.append(
                        Took(f"API: {name}", None, [], [], "", f"{response.status_code}: {response.text[:80]}")
                    )
                    break
                size = f"{len(response.content) / 1_024:,.0f} KiB"
                if place:
                    took_ms.append((time.perf_counter() - began_s) * 1_000)
            else:
                found.append(Took(f"API: {name}", None, took_ms, [], size))
    return found


def print_not_asked(connection: Connection) -> None:
    """Name the views and functions of schema report that no question here is put to."""
    names = connection.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relnamespace = 'report'::regnamespace AND relkind = 'v'"
            " UNION SELECT proname FROM pg_proc WHERE pronamespace = 'report'::regnamespace ORDER BY 1"
        )
    )
    asked = " ".join(QUESTIONS.values())
    missing = [it for it in names if not re.search(rf"report\.{it}\b", asked)]
    print(f"Not asked on their own: {', '.join(missing) or 'none'}", file=sys.stderr)


def explain(folder: Path, name: str) -> None:
    """Print the plans of a page or question as they ran, of each statement of 1 ms or more, those of functions too."""
    with opened(folder, 1) as (owner, _, works, _):
        freshen(owner)
        chosen = [it for it in works if name in (it, it.removeprefix(PAGE))]
        if not chosen:
            sys.exit(f"There is no {name!r}. There are: {', '.join(works)}")
        with owner.connect() as connection:
            # Of the owner, since readers may not load it; its statements and plans are the same.
            connection.execute(text("LOAD 'auto_explain'"))
            for setting in ("log_min_duration = 1", "log_analyze = on", "log_buffers = on",
                            "log_nested_statements = on"):  # fmt: skip
                connection.execute(text(f"SET auto_explain.{setting}"))
            for setting in ("jit = off", f"statement_timeout = '{TIMEOUT_S}s'", "client_min_messages = log"):
                connection.execute(text(f"SET {setting}"))
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.add_notice_handler(lambda notice: print(notice.message_primary, "\n"))
            works[chosen[0]](connection)


def folder_gib(folder: Path) -> float:
    """Size of what is in a folder."""
    return sum(it.stat().st_size for it in folder.rglob("*") if it.is_file()) / 1_024**3


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=75_000)
    parser.add_argument("--times", type=int, default=20, help="how often each is asked")
    parser.add_argument("--store", type=Path, help="a folder that `python -m bench.stored` filled, to be kept")
    parser.add_argument("--only", metavar="NAME", default="", help="of --store, what begins so, and no more")
    parser.add_argument("--json", action="store_true", help="all times as JSON")
    parser.add_argument("--explain", metavar="NAME", help="of --store, the plans of a page or question, and no more")
    options = parser.parse_args()
    if options.store is None and (options.explain is not None or options.only):
        parser.error("--explain and --only need --store")
    if options.explain is not None:
        explain(options.store, options.explain)
        return
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    folder.chmod(0o711)
    try:
        large = options.store or folder / "large"
        if options.store is None:
            filled(large, options.nodes, Depth())
        found = ask(large, options.times, small=False, only=options.only)
        if not options.only:
            filled(folder / "small", SMALL_NODES, Depth(minutes=60, hours=24, all_minutes=60, all_hours=4))
            found += ask(folder / "small", options.times, small=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps([{"name": it.name, "ms": it.all_ms, "sql_ms": it.sql_ms, "trouble": it.trouble}
                          for it in found], indent=1))  # fmt: skip
    else:
        print("| | median, ms | p95, ms | of that SQL, median | CPU, median | gives | limit |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for it in found:
            print(it.row())
        above = [it.name for it in found if "above" in it.row()]
        print(f"\nAbove their limit: {', '.join(above) or 'none'}")
    print(f"Python {platform.python_version()}; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
