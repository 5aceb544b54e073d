"""Fetches what an engine's metrics endpoint says, and parses it with prometheus_client.

What is fetched is hostile until parsed: it may hang, never end, be a web page or be cut off.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http.client import HTTPException

import urllib3
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from urllib3.connection import HTTPConnection, HTTPSConnection

from collector.engines.catalogue import usual
from gigawatch import __version__
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.units import BYTES_PER_MIB

TIME_LIMIT_S = 4.0
MOST_BYTES = 16 * BYTES_PER_MIB
CHUNK_BYTES = 65_536
# It has no types.
_parse_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics_parser.text_string_to_metric_families
# Asked for OpenMetrics, prometheus_client serves vllm:… as vllm_….
HEADERS = {"User-Agent": f"gigawatch/{__version__}", "Accept": "text/plain;version=0.0.4"}
LATEST_S = 2**33
START_TIME = "process_start_time_seconds"


class Answer(Struct, frozen=True):
    """What an endpoint answered."""

    text: str
    content_type: str
    at_s: float
    """When the answer began, by the monotonic clock: what it says is of that moment."""


class Exposition(Struct, frozen=True):
    """Parsed metrics."""

    families: tuple[str, ...]
    """Names of the metric families, those without samples too."""
    samples: dict[str, list[Sample]]
    """Samples by the name of their series."""

    def find(self, name: str) -> list[Sample]:
        """Samples of a series; a counter that the engine serves without _total is given one by the parser."""
        return self.samples.get(name) or self.samples.get(f"{name}_total") or []

    @property
    def started_s(self) -> float | None:
        """When the process started, s since 1970, if it tells."""
        found = self.samples.get(START_TIME)
        return found[0].value if found and 0 < found[0].value < LATEST_S else None


def _in_time(connection: HTTPConnection, head: Callable[[], urllib3.HTTPResponse]) -> urllib3.HTTPResponse:
    """The head of an answer within the time limit, which is else one for each of its lines."""
    late = threading.Event()
    its = connection.sock

    def shut() -> None:
        late.set()
        with suppress(OSError):
            its.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(TIME_LIMIT_S, shut)
    timer.daemon = True
    timer.start()
    try:
        response = head()
    except (OSError, HTTPException) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        # What is cut off between two lines is the end of the head to http.client.
        response.close()
        raise TimeoutError
    return response


class _Connection(HTTPConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3's own
        return _in_time(self, super().getresponse)


class _SecureConnection(HTTPSConnection):
    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3's own
        return _in_time(self, super().getresponse)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def connections() -> urllib3.PoolManager:
    """What reads one endpoint again and again, over the same connection."""
    pool = urllib3.PoolManager(maxsize=1, retries=False)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return pool


def fetch(pool: urllib3.PoolManager, url: str) -> Answer:
    """What the endpoint says now.

    Args:
        pool: of connections().
        url: of its metrics.

    Raises:
        GigawatchError: no answer in time, or one that cannot be metrics.
    """
    deadline_s = time.monotonic() + TIME_LIMIT_S
    try:
        response = pool.request(
            "GET", url, headers=HEADERS, preload_content=False, redirect=False, retries=False,
            timeout=urllib3.Timeout(total=TIME_LIMIT_S),
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise _unreachable(url, error) from error
    at_s = time.monotonic()
    try:
        _check(url, response)
        body = _read(url, response, deadline_s)
    except BaseException:
        # What is left of it must not be taken for the next answer.
        response.close()
        raise
    response.release_conn()
    text = body.decode("utf-8", "replace")
    content_type = response.headers.get("Content-Type", "")
    if "html" in content_type or text.lstrip().startswith("<"):
        raise GigawatchError(
            f"{url} answers with a web page, not with metrics",
            f"Name the path of the metrics; usual are {usual('path')}.",
            ExitCode.DATA,
        )
    return Answer(text, content_type, at_s)


def parse(url: str, answer: Answer, only: Iterable[str] = ()) -> Exposition:
    """The answer's samples.

    Args:
        url: for errors.
        answer: what was fetched.
        only: beginnings of the names that matter, where they are known; parsing the rest costs many times as much.

    Raises:
        GigawatchError: it is not in Prometheus' format.
    """
    families, samples = [], dict[str, list[Sample]]()
    openmetrics = "openmetrics" in answer.content_type
    text = answer.text
    if only and not openmetrics:
        beginnings = (START_TIME, *only)
        text = "\n".join(line for line in text.splitlines() if line.startswith(beginnings))
    try:
        for family in _parse_openmetrics(text) if openmetrics else text_string_to_metric_families(text):
            families.append(family.name)
            for sample in family.samples:
                labelled = sample._replace(labels=sample.labels or {})
                samples.setdefault(sample.name, []).append(labelled)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # The parsers fail in all these ways on what is malformed.
        raise GigawatchError(
            f"{url} answers what is not in Prometheus' format ({error}); it begins {answer.text[:60]!r}",
            f"Name the path of the metrics; usual are {usual('path')}.",
            ExitCode.DATA,
        ) from error
    return Exposition(tuple(families), samples)


def _unreachable(url: str, error: Exception) -> GigawatchError:
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
        return GigawatchError(
            f"{url} does not answer within {TIME_LIMIT_S:g} s",
            "Is the engine still loading its model, or overloaded? A firewall that drops packets looks the same.",
            ExitCode.UNREACHABLE,
        )
    return GigawatchError(
        f"{url} cannot be reached: {error}",
        f"Is the engine running, and is this its port? Usual are {usual('port')}.",
        ExitCode.UNREACHABLE,
    )


def _check(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Refuse an answer that cannot be metrics, by what its head says."""
    status = response.status
    if status == 200:
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise GigawatchError(
                f"{url} answers in the coding {coding}, which was not asked for",
                "Name the address of the engine itself, not of a proxy before it.",
                ExitCode.DATA,
            )
        return
    problem = f"{url} answers {status} {response.reason or ''}".rstrip()
    if status in {301, 302, 303, 307, 308}:
        raise GigawatchError(
            f"{problem}, and leads to {response.headers.get('Location')}",
            "Name that address, if it is the engine's.",
            ExitCode.CONFIGURATION,
        )
    if status in {401, 403}:
        raise GigawatchError(
            problem,
            "Its metrics are locked, and no engine that is known locks them: is there a proxy before it?",
            ExitCode.CONFIGURATION,
        )
    if status in {404, 405}:
        raise GigawatchError(
            problem,
            f"Name the path of the metrics; usual are {usual('path')}. Some engines serve them only when told to:"
            " SGLang wants --enable-metrics, llama.cpp --metrics.",
            ExitCode.CONFIGURATION,
        )
    raise GigawatchError(problem, "See the engine's log; a retry may help.", ExitCode.UNREACHABLE)


def _read(url: str, response: urllib3.BaseHTTPResponse, deadline_s: float) -> bytes:
    """The body, within the limits of time and size."""
    chunks, size = [], 0
    try:
        # read1 returns what came: a server that sends a byte now and then cannot hold us beyond the deadline.
        while chunk := response.read1(CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > MOST_BYTES:
                raise GigawatchError(
                    f"{url} answers more than {MOST_BYTES // BYTES_PER_MIB} MiB",
                    "No engine has that many metrics: name the engine's own address.",
                    ExitCode.DATA,
                )
            if time.monotonic() > deadline_s:
                raise GigawatchError(
                    f"{url} does not end its answer within {TIME_LIMIT_S:g} s",
                    "Is the engine overloaded?",
                    ExitCode.UNREACHABLE,
                )
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise _unreachable(url, error) from error
    return b"".join(chunks)
