"""A simulated gigawatt in real time on this machine: python -m bench.gigawatt.

75,000 nodes of 8 GPUs send windows of 10 s through relays' posts to a real API on a real store, which folds them
meanwhile, and pages' reads are asked every 10 s. It says whether that keeps up, what acknowledgement takes, how far
behind folding is, what reads take, and whether memory stays flat. Everything runs on the same cores.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, text

from bench.ingest import tree_cpu_s
from gigawatch import database
from gigawatch.embedded import EmbeddedServer, installations
from migrations.run import migrate
from tests.servers import Api, running_api

READS = {
    "fleet": ("/api/v1/fleet", {}),
    "sites": ("/api/v1/sites", {}),
    "power by site, 1 h": ("/api/v1/power", {"group_by": "site"}),
    "hottest GPUs": ("/api/v1/gpus", {"order": "temperature", "limit": "10"}),
    "nodes, first 100": ("/api/v1/nodes", {"limit": "100"}),
}
EVERY_S = 10.0


def rss_mib(pid: int) -> float:
    """Memory of a process and its children that is theirs alone."""
    total_kib = 0
    for it in (pid, *_children(pid)):
        try:
            status = Path(f"/proc/{it}/status").read_text(encoding="ascii")
        except FileNotFoundError:
            continue
        total_kib += int(status.partition("RssAnon:")[2].split()[0])
    return total_kib / 1024


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text(encoding="ascii").split()] if path.exists() else []


def lag_s(engine: Engine) -> float | None:
    """Time since the end of what is folded into minutes."""
    with engine.connect() as connection:
        found = connection.scalar(text("SELECT extract(epoch FROM now() - folded) FROM gigawatch.rollup"
                                       " WHERE level = '1m'"))  # fmt: skip
    return None if found is None else float(found)


def watch(process: "subprocess.Popen[str]", api: Api, engine: Engine, server: EmbeddedServer) -> dict[str, Any]:
    """Ask and look until the simulator ends."""
    used_s = [0.0, 0.0, 0.0]
    took_ms: dict[str, list[float]] = {name: [] for name in READS}
    failed: dict[str, int] = {}
    lags_s, memory_mib = [], []
    before_s = [tree_cpu_s(it) for it in (api.pid, server.process.pid, process.pid)]
    with api.client("viewer") as client:
        while process.poll() is None:
            due_s = time.monotonic() + EVERY_S
            for name, (path, query) in READS.items():
                began_s = time.perf_counter()
                try:
                    good = client.get(path, params=query).status_code == 200
                except httpx.HTTPError:
                    good = False
                if good:
                    took_ms[name].append((time.perf_counter() - began_s) * 1_000)
                else:
                    failed[name] = failed.get(name, 0) + 1
            if (lag := lag_s(engine)) is not None:
                lags_s.append(lag)
            memory_mib.append(rss_mib(api.pid))
            # Of the simulator only while it runs.
            used_s = [tree_cpu_s(it) for it in (api.pid, server.process.pid, process.pid)]
            time.sleep(max(0.0, due_s - time.monotonic()))
    names = ("api", "store", "simulator")
    return {
        "reads_p50_ms": {name: _quantile(values, 0.5) for name, values in took_ms.items()},
        "reads_p95_ms": {name: _quantile(values, 0.95) for name, values in took_ms.items()},
        "reads_failed": failed,
        "rollup_lag_greatest_s": max(lags_s, default=None),
        "rollup_lag_last_s": lags_s[-1] if lags_s else None,
        "api_memory_mib": [round(it) for it in memory_mib[:: max(1, len(memory_mib) // 10)]],
        "cpu_s": {name: round(used - before, 1) for name, used, before in zip(names, used_s, before_s, strict=True)},
    }


def _quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=75_000)
    parser.add_argument("--relay-size", type=int, default=100)
    parser.add_argument("--connections", type=int, default=64, help="of relays, which are 750")
    parser.add_argument("--for", dest="for_s", default="600s")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    with EmbeddedServer(folder, installations()[0]) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with running_api(server.url, folder / "api.log", GIGAWATCH_SERVER__WORKERS=str(options.workers)) as api:
            token = folder / "agent.token"
            token.write_text(api.tokens["agent"], encoding="ascii")
            with subprocess.Popen(
                [sys.executable, "-m", "gigawatch", "simulate", "--nodes", str(options.nodes),
                 "--relay-size", str(options.relay_size), "--connections", str(options.connections),
                 "--for", options.for_s, "--json", "--server-url", api.url, "--token-file", str(token)],
                stdout=subprocess.PIPE, text=True,
            ) as process:  # fmt: skip
                seen = watch(process, api, engine, server)
                assert process.stdout is not None
                sent = json.loads(process.stdout.read())
        with engine.connect() as connection:
            kind = str(database.capabilities(connection))
        engine.dispose()
    print(json.dumps({"simulator": sent, **seen}, indent=1))
    print(f"{kind}; Python {platform.python_version()}; {os.cpu_count()} cores; {options.nodes:,} nodes")
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
