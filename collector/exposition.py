"""Fetches what a metrics endpoint says, and parses it with prometheus_client.

What is fetched is hostile until parsed: it may hang, never end, be a web page or be cut off.
"""

import time
from collections.abc import Callable, Iterable

import urllib3
from msgspec import Struct
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from collector import answers
from gigawatch import __version__
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.units import BYTES_PER_MIB

MOST_BYTES = 16 * BYTES_PER_MIB
LONGEST_LINE = 32_768
"""The parsers take a time that grows with the square of a line's length: minutes for one of many MiB."""
# It has no types.
_parse_openmetrics: Callable[[str], Iterable[Metric]] = openmetrics_parser.text_string_to_metric_families
# Asked for OpenMetrics, prometheus_client serves vllm:… as vllm_….
HEADERS = {"User-Agent": f"gigawatch/{__version__}", "Accept": "text/plain;version=0.0.4"}
LATEST_S = 2**33
START_TIME = "process_start_time_seconds"


class Advice(Struct, frozen=True, kw_only=True):
    """What people are told whose endpoint answers no metrics: sentences."""

    path: str
    """Where metrics are usually found."""
    port: str
    """What runs there, and at what port."""
    slow: str
    """Why an answer may take long."""
    locked: str
    """Why it may want a password."""


class Locked(GigawatchError):
    """An endpoint that does not let us in.

    Args:
        unknown: whether user and password are what it does not take (401); else they may not read this (403).
    """

    def __init__(self, problem: str, remedy: str, *, unknown: bool) -> None:
        super().__init__(problem, remedy, ExitCode.CONFIGURATION)
        self.unknown = unknown


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
        """Samples of a series; a counter that is served without _total is given one by the parser."""
        return self.samples.get(name) or self.samples.get(f"{name}_total") or []

    @property
    def started_s(self) -> float | None:
        """When the process started, s since 1970, if it tells."""
        found = self.samples.get(START_TIME)
        return found[0].value if found and 0 < found[0].value < LATEST_S else None


def fetch(pool: urllib3.PoolManager, url: str, limit_s: float, advice: Advice) -> Answer:
    """What the endpoint says now.

    Args:
        pool: of answers.connections(), with the headers that let us in if it wants any.
        url: of the metrics.
        limit_s: how long the whole answer may take, s.
        advice: for errors.

    Raises:
        Locked: it does not let us in.
        GigawatchError: no answer in time, or one that cannot be metrics.
    """
    deadline_s = time.monotonic() + limit_s
    try:
        response = pool.request(
            "GET", url, headers={**pool.headers, **HEADERS}, preload_content=False, redirect=False, retries=False,
            timeout=urllib3.Timeout(total=limit_s),
        )  # fmt: skip
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise _unreachable(url, error, limit_s, advice) from error
    at_s = time.monotonic()
    try:
        _check(url, response, advice)
        content = _read(url, response, deadline_s, limit_s, advice)
    except BaseException:
        # What is left of it must not be taken for the next answer.
        response.close()
        raise
    response.release_conn()
    # No text of the store may have a NUL.
    text = content.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    content_type = response.headers.get("Content-Type", "")
    if "html" in content_type or text.lstrip().startswith("<"):
        raise GigawatchError(
            f"{url} answers with a web page, not with metrics",
            advice.path,
            ExitCode.DATA,
        )
    return Answer(text, content_type, at_s)


def parse(url: str, answer: Answer, advice: Advice, only: Iterable[str] = ()) -> Exposition:
    """The answer's samples.

    Args:
        url: for errors.
        answer: what was fetched.
        advice: for errors.
        only: beginnings of the names that matter, where they are known; parsing the rest costs many times as much.

    Raises:
        GigawatchError: it is not in Prometheus' format.
    """
    families, samples = [], dict[str, list[Sample]]()
    openmetrics = "openmetrics" in answer.content_type
    lines = answer.text.split("\n")
    if any(len(line) > LONGEST_LINE for line in lines):
        raise GigawatchError(
            f"{url} answers a line of more than {LONGEST_LINE} characters; it begins {answer.text[:60]!r}",
            advice.path,
            ExitCode.DATA,
        )
    if only and not openmetrics:
        beginnings = (START_TIME, *only)
        # A name may be indented, or stand in quotes behind the bracket.
        lines = [line for line in lines if line.lstrip(' \t{"').startswith(beginnings)]
    text = "\n".join(lines)
    try:
        for family in _parse_openmetrics(text) if openmetrics else text_string_to_metric_families(text):
            families.append(family.name)
            for sample in family.samples:
                labelled = sample._replace(labels=sample.labels or {})
                samples.setdefault(sample.name, []).append(labelled)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # The parsers fail in all these ways on what is malformed.
        raise GigawatchError(
            f"{url} answers what is not in Prometheus' format ({str(error)[:100]}); it begins {answer.text[:60]!r}",
            advice.path,
            ExitCode.DATA,
        ) from error
    return Exposition(tuple(families), samples)


def _unreachable(url: str, error: Exception, limit_s: float, advice: Advice) -> GigawatchError:
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
        return GigawatchError(
            f"{url} does not answer within {limit_s:g} s",
            f"{advice.slow} A firewall that drops packets looks the same.",
            ExitCode.UNREACHABLE,
        )
    if isinstance(error, urllib3.exceptions.LocationValueError):
        return GigawatchError(f"{url} is no address of metrics: {error}", advice.path, ExitCode.CONFIGURATION)
    # Of a connection that was refused, urllib3 says first which object it was.
    reason = str(error).partition(": ")[2] if refused else error
    return GigawatchError(f"{url} cannot be reached: {reason}", advice.port, ExitCode.UNREACHABLE)


def _check(url: str, response: urllib3.BaseHTTPResponse, advice: Advice) -> None:
    """Refuse an answer that cannot be metrics, by what its head says."""
    status = response.status
    if status == 200:
        if (coding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise GigawatchError(
                f"{url} answers in the coding {coding}, which was not asked for",
                "Name the address of what serves the metrics, not of a proxy before it.",
                ExitCode.DATA,
            )
        return
    problem = f"{url} answers {status} {response.reason or ''}".rstrip()
    if status in {301, 302, 303, 307, 308}:
        raise GigawatchError(
            f"{problem}, and leads to {response.headers.get('Location')}",
            "Name that address, if it is the one you mean.",
            ExitCode.CONFIGURATION,
        )
    if status in {401, 403}:
        raise Locked(problem, advice.locked, unknown=status == 401)
    if status in {404, 405}:
        raise GigawatchError(problem, advice.path, ExitCode.CONFIGURATION)
    raise GigawatchError(problem, "See the log of what serves them; a retry may help.", ExitCode.UNREACHABLE)


def _read(url: str, response: urllib3.BaseHTTPResponse, deadline_s: float, limit_s: float, advice: Advice) -> bytes:
    """The body, within the limits of time and size."""
    try:
        return answers.body(response, deadline_s, MOST_BYTES)
    except answers.TooLong:
        raise GigawatchError(
            f"{url} answers more than {MOST_BYTES // BYTES_PER_MIB} MiB",
            "Nothing that is read here has that many metrics: name its own address.",
            ExitCode.DATA,
        ) from None
    except answers.TooSlow:
        raise GigawatchError(
            f"{url} does not end its answer within {limit_s:g} s", advice.slow, ExitCode.UNREACHABLE
        ) from None
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise _unreachable(url, error, limit_s, advice) from error
