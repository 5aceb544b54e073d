"""The engines that are known: which metric of each means what, from the *.toml files beside this module."""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from gigawatch.errors import ExitCode, GigawatchError

FOLDER = Path(__file__).parent
TOKENS = ("prompt_tokens", "cached_tokens", "generated_tokens")
COUNTERS = (*TOKENS, "requests_finished")
GAUGES = ("running_requests", "waiting_requests", "kv_cache_use")
LATENCIES = ("time_to_first_token", "inter_token_latency", "end_to_end_latency")
UNITS = {"s": 1_000_000, "ms": 1_000, "fraction": 1_000, "percent": 10}
"""What makes µs of a latency, and per mille of a use."""

MetricName = Annotated[str, Meta(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$")]


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """One way in which an engine tells a figure."""

    metric: MetricName
    """The name of the series as the engine writes it; of a histogram, without _bucket."""
    labels: dict[str, tuple[str, ...]] = {}
    """Series that have another value of such a label are not meant; a label that is absent is empty."""
    unit: Literal["s", "ms", "fraction", "percent"] | None = None
    at_end: bool = False
    """Whether tokens are counted when their request ends, and not as they come."""


class Figures(Struct, frozen=True, forbid_unknown_fields=True):
    """Where each figure is found: sources in the order of preference, of which the first that is served is taken."""

    prompt_tokens: tuple[Source, ...] = ()
    cached_tokens: tuple[Source, ...] = ()
    generated_tokens: tuple[Source, ...] = ()
    requests_finished: tuple[Source, ...] = ()
    running_requests: tuple[Source, ...] = ()
    waiting_requests: tuple[Source, ...] = ()
    kv_cache_use: tuple[Source, ...] = ()
    time_to_first_token: tuple[Source, ...] = ()
    inter_token_latency: tuple[Source, ...] = ()
    end_to_end_latency: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        """Check that each source has a unit of its figure's kind."""
        for figure, sources in self.each():
            allowed: tuple[str | None, ...] = (None,)
            if figure in LATENCIES:
                allowed = ("s", "ms")
            elif figure == "kv_cache_use":
                allowed = ("fraction", "percent")
            for source in sources:
                if source.unit not in allowed:
                    wanted = " or ".join(str(it) for it in allowed)
                    raise ValueError(f"{figure}: {source.metric} has unit {source.unit}, and {wanted} is wanted")

    def each(self) -> Iterator[tuple[str, tuple[Source, ...]]]:
        """Each figure's name and sources."""
        for figure in self.__struct_fields__:
            yield figure, getattr(self, figure)


class Engine(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of one engine's metrics."""

    name: str
    """The name of its file: what settings call it."""
    title: Annotated[str, Meta(min_length=1)]
    versions: Annotated[str, Meta(min_length=1)]
    """Of what versions the names are."""
    sources: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Where the names were read."""
    path: Annotated[str, Meta(pattern="^/")]
    port: Annotated[int, Meta(ge=1, le=65_535)]
    model_labels: tuple[str, ...] = ()
    """Labels that name the model, of which the first that a series has is taken."""
    repeated_by: tuple[str, ...]
    """Labels by which the same count is served several times: it is taken once."""
    split_by: tuple[str, ...]
    """Labels by which a count is served in parts: they are added up, and so are parts by labels that nobody knows."""
    notes: tuple[str, ...] = ()
    figures: Figures

    def metrics(self) -> Iterator[str]:
        """The name of every series and histogram that a figure may come from."""
        for _, sources in self.figures.each():
            for source in sources:
                yield source.metric


def read(path: Path) -> Engine:
    """The engine that a file describes.

    Raises:
        GigawatchError: the file cannot be read, or a key is unknown, missing or has an impossible value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert({**content, "name": path.stem}, Engine)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise GigawatchError(
            f"The engine file {path} cannot be used: {error}",
            "Mend it after the files beside it; docs/engines.md says what each key means.",
            ExitCode.CONFIGURATION,
        ) from error


@cache
def engines() -> Mapping[str, Engine]:
    """The known engines by name."""
    return {path.stem: read(path) for path in sorted(FOLDER.glob("*.toml"))}


def usual(key: Literal["path", "port"]) -> str:
    """Paths or ports that are usual for metrics, with the engines that have them, for people who look for theirs."""
    engines_of: dict[str | int, list[str]] = {}
    for name, engine in engines().items():
        engines_of.setdefault(getattr(engine, key), []).append(name)
    return ", ".join(f"{it} ({', '.join(names)})" for it, names in sorted(engines_of.items()))


def named(name: str) -> Engine:
    """The engine of this name.

    Raises:
        GigawatchError: there is none.
    """
    known = engines()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise GigawatchError(
            f"No engine is named {name!r}",
            f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}.",
            ExitCode.CONFIGURATION,
        )
    return known[name]
