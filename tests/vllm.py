"""An engine like vLLM: a process of its own that serves counters in vLLM's format, with a worker for each of its GPUs.

    python -m tests.vllm PORT WORKERS JOURNAL

It tells the workers' process ids on its first line, and writes each count of tokens that it served to the journal, with
its own process id.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from pathlib import Path

from tests.processes import free_port

METRICS = """\
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{engine="0",model_name="m"}} {tokens:e}
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{{engine="0",model_name="m"}} {prompt_tokens}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} 3.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started_s}
"""

CORE = """
import subprocess, sys, time
print(*(subprocess.Popen(["sleep", "600"]).pid for _ in range(int(sys.argv[1]))), flush=True)
time.sleep(600)
"""


class Vllm:
    """The engine as a test starts, hangs and kills it."""

    def __init__(self, journal: Path, workers: int = 1) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self.endpoint = f"127.0.0.1:{self.port}"
        self.workers: list[int] = []
        self._journal = journal
        self._count = workers
        self._frozen = False
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> "Vllm":
        """Start it and wait until it answers."""
        self._frozen = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.vllm", str(self.port), str(self._count), str(self._journal)],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.workers = [int(pid) for pid in self._process.stdout.readline().split()]
        return self

    @property
    def pid(self) -> int:
        """Of the process that serves."""
        assert self._process is not None
        return self._process.pid

    def freeze(self) -> None:
        """Its port takes connections, and nothing is answered any more; what was answered is in the journal."""
        assert self._process is not None and self._process.stdout is not None
        if not self._frozen:
            os.kill(self.pid, signal.SIGUSR1)
            assert self._process.stdout.readline()
            self._frozen = True

    def kill(self) -> None:
        """SIGKILL to it and its workers, between two answers."""
        assert self._process is not None and self._process.stdout is not None
        self.freeze()
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def tokens(self) -> int:
        """What was served from the first answer on: what the first said is not known to be of a window, while later
        processes counted from zero.
        """
        served = [tuple(map(int, line.split())) for line in self._journal.read_text(encoding="ascii").splitlines()]
        lives = [[tokens for _, tokens in of_one] for _, of_one in groupby(served, key=lambda it: it[0])]
        return sum(life[-1] for life in lives) - lives[0][0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    journal: Path
    tokens_per_s = 1_000.0
    answering = threading.Lock()
    began_s = time.monotonic()
    started_s = time.time()

    def do_GET(self) -> None:
        with self.answering:
            self._answer()

    def _answer(self) -> None:
        tokens = round((time.monotonic() - self.began_s) * self.tokens_per_s)
        body = METRICS.format(tokens=tokens, prompt_tokens=10 * tokens, started_s=self.started_s).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.journal.open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()} {tokens}\n")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def freeze(*_: object) -> None:
    """For ever."""
    Handler.answering.acquire()
    sys.stdout.write("frozen\n")
    sys.stdout.flush()


def main() -> None:
    port, workers, journal = sys.argv[1:4]
    Handler.journal = Path(journal)
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    signal.signal(signal.SIGUSR1, freeze)
    # A process is between, as vLLM's engine core is between its server and its workers.
    subprocess.Popen([sys.executable, "-c", CORE, workers])
    server.serve_forever()


if __name__ == "__main__":
    main()
