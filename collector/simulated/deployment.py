"""One node's part of a simulated deployment: its engine, run by what its GPUs use, and what its agent reads of it.

While the fleet's time is the clock's, the agent's readings go over HTTP as those of any engine do. The past cannot be
scraped: there the same metrics are taken as they are. To write them as text and parse that again would take as long as
all else that the simulator does for the history; what follows is the same.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil
from threading import Lock
from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.samples import Sample

from collector.engines.catalogue import named
from collector.engines.endpoint import Endpoint
from collector.engines.reading import read
from collector.engines.scraper import Reader
from collector.exposition import Exposition
from collector.simulated.engine import Engine
from collector.simulated.fleet import Node
from collector.simulated.load import Load
from collector.simulated.requests import Requests
from collector.simulated.serving import BEST_BATCH, Served
from gigawatch.records import Assignment, Event, ServingWindow
from gigawatch.settings import Engine as Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

ENDPOINT = "127.0.0.1:8000"
"""What windows say was read: the engine as its node has it, wherever the simulator serves its metrics."""
KIND = "vllm"
FULL_BATCH = 0.9 * BEST_BATCH
"""Requests in the mean where a kernel always runs. At an engine's limit itself a queue would never end."""
LARGEST_SHARE = 8
"""Requests that come together are at most one part in so many of what an engine can run at once."""


class Tick(NamedTuple):
    """What a node does for its engine in a time."""

    start_s: int
    length_s: int
    load: Load
    gpus: int
    """Those that work."""
    energy_j: float
    """Of all of them."""
    restarts: bool
    """Whether the engine's process ends, and begins anew."""


class Deployment:
    """An engine with a replica for each of so many GPUs of a node.

    Args:
        node: where it is.
        served: the model.
        requests: what comes.
        started_s: when its process started, s since 1970 UTC.
    """

    def __init__(self, node: Node, served: Served, requests: Requests, started_s: int) -> None:
        self.served = served
        self.assignment = Assignment(deployment=served.name, endpoint=ENDPOINT)
        self._model = node.model
        self._mean_tokens = requests.generated_tokens
        replicas = max(1, len(node.gpu_uuids) // served.gpus)
        most_w = len(node.gpu_uuids) * node.model.limit_w
        self._most_requests_per_s = most_w / served.best_batch_j / self._mean_tokens
        self._most_copies = replicas * BEST_BATCH // LARGEST_SHARE
        self._engine = Engine(served, replicas, requests.of(node.machine_id), started_s)
        self._ticks: deque[Tick] = deque()
        self._lock = Lock()
        """Of the engine and the ticks: other threads ask for its metrics."""

    def observe(self, settings: Settings, window_s: int, at_s: int, requests_per_s: float) -> None:
        """Begin to read it, from a moment up to which it has run.

        Args:
            settings: as its node's agent has them.
            window_s: length of the windows.
            at_s: the moment, s since 1970 UTC.
            requests_per_s: how many may be modelled one by one; where more come, each stands for several.
        """
        self._copies = min(ceil(self._most_requests_per_s / requests_per_s), self._most_copies)
        self._reader = Reader(settings)
        # A millisecond before, since no reading is in the moment of another.
        at_ms = at_s * MILLISECONDS_PER_SECOND
        self._endpoint = Endpoint(settings, ENDPOINT, window_s * MILLISECONDS_PER_SECOND, at_ms - 1)
        self.read(at_s)

    def feed(self, ticks: Iterable[Tick]) -> None:
        """Take in what its node does next."""
        with self._lock:
            self._ticks.extend(ticks)

    def metrics(self, now_s: float) -> bytes:
        """What its endpoint answers now."""
        with self._lock:
            self._run(now_s)
            return generate_latest(self._engine)

    def read(self, at_s: int) -> None:
        """Read it as of this moment, with no endpoint between."""
        with self._lock:
            self._run(at_s)
            families = list(self._engine.collect())
        samples: dict[str, list[Sample]] = {}
        for family in families:
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample)
        exposition = Exposition(tuple(family.name for family in families), samples)
        self._endpoint.take(at_s * MILLISECONDS_PER_SECOND, KIND, read(exposition, named(KIND)))

    def scrape(self, clock: Callable[[], float]) -> None:
        """Read its endpoint now."""
        at_ms = round(clock() * MILLISECONDS_PER_SECOND)
        outcome = self._reader.read()
        if outcome.reading is None:
            self._endpoint.fail(outcome.problem)
        else:
            self._endpoint.take(at_ms, outcome.engine, outcome.reading)

    def close(self, until_s: float) -> tuple[list[ServingWindow], list[Event]]:
        """The windows that are over, and what deserved notice."""
        until_ms = round(until_s * MILLISECONDS_PER_SECOND)
        self._endpoint.tick(until_ms)
        return self._endpoint.close(until_ms), self._endpoint.take_events()

    def _run(self, until_s: float) -> None:
        """Let the engine go on until then, as far as it is known what its node does."""
        while self._ticks and self._ticks[0].start_s + self._ticks[0].length_s <= until_s:
            it = self._ticks.popleft()
            if it.restarts:
                self._engine.restart(it.start_s)
            self._engine.run(it.start_s, it.length_s, it.energy_j, self._requests_per_s(it), self._copies)

    def _requests_per_s(self, tick: Tick) -> float:
        """As many as make the batch follow utilisation in the mean, by the power of GPUs as they are meant to be."""
        if tick.load.util == 0:
            return 0.0
        power_w = tick.gpus * self._model.wanted_w(tick.load.draw, tick.load.mem)
        return power_w / self.served.token_j(FULL_BATCH * tick.load.util) / self._mean_tokens
