"""What the agent costs on a node of 8 GPUs at 1 Hz, beside nvitop-exporter on the same library: python -m bench.agent.

Both run against the stand-in NVML of the tests: the driver's own time is left out for both, so that what remains
is theirs. The agent sends to a real API on a real store; the exporter is scraped once a second. CPU time and
memory are the kernel's, from /proc, after a warm-up. Needs nvitop-exporter in a virtual environment of its own,
which is made on the first run.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path

from gigawatch import database
from gigawatch.embedded import EmbeddedServer
from migrations.run import migrate
from tests.agents import environment, running_agent
from tests.nvml import standin as nvml
from tests.processes import free_port
from tests.servers import running_api

GPUS = 8
WARM_UP_S = 15
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PEER = "nvitop-exporter==1.7.2"
LIMIT_CPU_PCT, LIMIT_RSS_MIB = 1.0, 40.0


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, s."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Greatest resident memory of a process so far, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


def scrape(port: int) -> None:
    urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()  # our own


def measure(pid: int, seconds: float, each_second: object = None) -> tuple[float, float]:
    """CPU, % of a core, and memory, MiB, over so many seconds after the warm-up."""
    for phase_s in (WARM_UP_S, seconds):
        began_s, before = time.monotonic(), cpu_s(pid)
        while time.monotonic() - began_s < phase_s:
            if callable(each_second):
                each_second()
            time.sleep(max(0.0, 1 - (time.monotonic() - began_s) % 1))
    return 100 * (cpu_s(pid) - before) / (time.monotonic() - began_s), rss_mib(pid)


def measure_agent(folder: Path, scenario: Path, seconds: float) -> tuple[float, float]:
    with EmbeddedServer(folder / "store") as server:
        engine = database.engine(server.url)
        migrate(engine)
        engine.dispose()
        with (
            running_api(server.url, folder / "api.log") as api,
            running_agent(scenario, folder / "data", GIGAWATCH_AGENT__SERVER_URL=api.url,
                          GIGAWATCH_AGENT__TOKEN=api.tokens["agent"]) as agent,
        ):  # fmt: skip
            return measure(agent.process.pid, seconds)


def measure_peer(folder: Path, scenario: Path, seconds: float) -> tuple[float, float]:
    venv.create(folder / "peer", with_pip=True)
    subprocess.run([folder / "peer" / "bin" / "pip", "install", "--quiet", PEER], check=True)
    port = free_port()
    process = subprocess.Popen(
        [folder / "peer" / "bin" / "nvitop-exporter", "--bind-address", "127.0.0.1", "--port", str(port),
         "--interval", "1"],
        env=environment(scenario), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(5)
        return measure(process.pid, seconds, lambda: scrape(port))
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measurement (default 60)")
    seconds = parser.parse_args().seconds
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-bench-"))
    folder.chmod(0o755)
    uuids = [f"GPU-{index:08d}-1111-2222-3333-444444444444" for index in range(GPUS)]
    scenario = folder / "scenario"
    nvml.Scenario([nvml.h100(uuid, nvml.Sine(100_000, 690_000, 30_000)) for uuid in uuids]).write(scenario)
    print(f"{GPUS} GPUs at 1 Hz, {seconds:.0f} s each, Python {platform.python_version()}, {os.cpu_count()} cores")
    agent = measure_agent(folder, scenario, seconds)
    peer = measure_peer(folder, scenario, seconds)
    print(f"{'':28}{'CPU, % of a core':>18}{'memory, MiB':>14}")
    print(f"{'limit':28}{LIMIT_CPU_PCT:18.2f}{LIMIT_RSS_MIB:14.1f}")
    print(f"{'gigawatch collect':28}{agent[0]:18.2f}{agent[1]:14.1f}")
    print(f"{PEER.replace('==', ' '):28}{peer[0]:18.2f}{peer[1]:14.1f}")
    print(f"{'peer / gigawatch':28}{peer[0] / agent[0]:18.1f}{peer[1] / agent[1]:14.1f}")
    within = agent[0] <= LIMIT_CPU_PCT and agent[1] <= LIMIT_RSS_MIB
    print("within the limits" if within else "ABOVE THE LIMITS")
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
