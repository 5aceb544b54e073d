"""Reads endpoints, each in a thread of its own, and hands their windows to the agent's thread.

An endpoint that hangs delays neither another one nor the GPUs' ticks: the agent only takes what is there.
"""

import logging
import threading
import time
from itertools import groupby
from queue import Empty, SimpleQueue

from msgspec import Struct

from collector.answers import connections
from collector.engines.address import endpoint_of, metrics_url, same
from collector.engines.catalogue import Engine, named
from collector.engines.endpoint import Endpoint
from collector.engines.exposition import fetch, parse
from collector.engines.reading import Reading, read, recognise
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Event, ServingWindow
from gigawatch.settings import Engine as Settings
from gigawatch.units import MILLISECONDS_PER_SECOND

log = logging.getLogger(__name__)


class Outcome(Struct, frozen=True):
    """How one reading went."""

    at_s: float
    """By the monotonic clock."""
    engine: str = ""
    reading: Reading | None = None
    problem: str = ""
    """Why there is no reading."""


class Reader:
    """Reads one endpoint, by the engine that it is found to be.

    Args:
        settings: of the engine.

    Raises:
        GigawatchError: settings name an engine that is not known.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = metrics_url(settings)
        self._engine: Engine | None = named(settings.engine) if settings.engine else None
        self._pool = connections()

    def read(self) -> Outcome:
        """What it says now, or why it says nothing."""
        try:
            return self._read()
        except GigawatchError as error:
            log.debug("%s", error.problem)
            return Outcome(time.monotonic(), problem=error.problem)

    def close(self) -> None:
        """Close the connection."""
        self._pool.clear()

    def _read(self) -> Outcome:
        answer = fetch(self._pool, self.url)
        if self._engine is None:
            self._engine = recognise(self.url, parse(self.url, answer))
            log.info("%s is %s", self.url, self._engine.title)
        engine = self._engine
        reading = read(parse(self.url, answer, engine.metrics()), engine)
        if not reading.sources and not self.settings.engine:
            # Another engine took its place: it is recognised anew.
            self._engine = None
        return Outcome(answer.at_s, engine.name, reading)


class Scraper(threading.Thread):
    """Reads one endpoint at multiples of its interval in UTC, so that readings lie on the ends of windows.

    Args:
        reader: of the endpoint.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(name=f"engine {reader.settings.deployment}", daemon=True)
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self._reader = reader
        self._ending = threading.Event()

    def run(self) -> None:
        """Read until told to stop."""
        interval_s = self._reader.settings.interval_s
        while not self._ending.wait(interval_s - time.time() % interval_s):
            self.outcomes.put(self._reader.read())
        self._reader.close()

    def stop(self) -> None:
        """End soon; a reading under way is left to itself."""
        self._ending.set()


class Engines:
    """All engines of this node, for the agent's thread.

    Args:
        settings: of each engine.
        window_ms: length of a window.
        now_ms: now, by the agent's clock.

    Raises:
        GigawatchError: settings name an engine that is not known, or an address twice.
    """

    def __init__(self, settings: tuple[Settings, ...], window_ms: int, now_ms: int) -> None:
        readers = [Reader(it) for it in settings]
        for _, alike in groupby(sorted((reader.url for reader in readers), key=same), key=same):
            if len(urls := list(alike)) > 1:
                raise GigawatchError(
                    f"[[engines]] name the same metrics {len(urls)} times: {', '.join(urls)}",
                    "Its tokens would be counted as often: leave one of them.",
                    ExitCode.CONFIGURATION,
                )
        self._scrapers = [Scraper(it) for it in readers]
        self._endpoints = [Endpoint(it, endpoint_of(it), window_ms, now_ms) for it in settings]

    def start(self) -> None:
        """Begin to read."""
        for scraper in self._scrapers:
            scraper.start()

    def tick(self, now_ms: int) -> None:
        """Take in what was read since the last call; now_ms is this very moment by the agent's clock."""
        now_s = time.monotonic()
        for scraper, endpoint in zip(self._scrapers, self._endpoints, strict=True):
            while True:
                try:
                    outcome = scraper.outcomes.get_nowait()
                except Empty:
                    break
                if outcome.reading is None:
                    endpoint.fail(outcome.problem)
                else:
                    at_ms = now_ms - round((now_s - outcome.at_s) * MILLISECONDS_PER_SECOND)
                    endpoint.take(at_ms, outcome.engine, outcome.reading)
            endpoint.tick(now_ms)

    def close(self, until_ms: int, *, stop: bool = False) -> list[ServingWindow]:
        """The windows that are over at until_ms; with stop the open ones, too."""
        return [window for endpoint in self._endpoints for window in endpoint.close(until_ms, stop=stop)]

    def take(self) -> list[Event]:
        """What deserved notice since the last call."""
        return [event for endpoint in self._endpoints for event in endpoint.take_events()]

    def shift(self, by_ms: int) -> None:
        """Follow the wall clock where it was set; every window was closed before."""
        for endpoint in self._endpoints:
            endpoint.shift(by_ms)

    def shut(self) -> None:
        """Stop reading."""
        for scraper in self._scrapers:
            scraper.stop()
