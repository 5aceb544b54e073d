"""Requests to simulated deployments, one after another: those of a recorded hour, or such as it had.

What is recorded is the Azure LLM inference trace of 2023, conversation: 19,366 chat requests of one hour (Patel et al.,
Splitwise, ISCA 2024; AzurePublicDataset, CC-BY 4.0). The constants of this module were fitted to it.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from random import Random
from statistics import NormalDist
from typing import NamedTuple

from collector import table
from collector.simulated.chance import uniform
from gigawatch.errors import ExitCode, GigawatchError

PROMPT_TOKENS, PROMPT_SIGMA = 1_155, 0.985
GENERATED_TOKENS, GENERATED_SIGMA = 211, 0.859
"""Means of the recorded hour, and the standard deviations of the logarithms. The two are nearly independent: their
logarithms correlate by 0.09."""
GAP_VARIATION = 1.094
"""Standard deviation of the gaps between arrivals over their mean: a little burstier than chance, which has 1."""
LOCAL = 300
"""Requests about one, a minute of the recorded hour, by whose mean gap its own is measured: how demand rises and falls
over minutes and hours is the load's to say, and is not to be in it twice."""
SYNTHETIC = 20_000
"""Requests that are drawn before they come again: about as many as the recorded hour has."""
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_TOKENS = 10_000_000
MOST_REQUESTS = 1_000_000


class Request(NamedTuple):
    """One request."""

    gap: float
    """Time since the request before, in mean gaps: how fast requests come is the load's to say."""
    prompt_tokens: int
    generated_tokens: int


class Requests:
    """Requests that come over and over.

    Args:
        gaps: the time before each, in any unit.
        lengths: tokens of each one's prompt and answer.
    """

    def __init__(self, gaps: Sequence[float], lengths: Sequence[tuple[int, int]]) -> None:
        mean = sum(gaps) / len(gaps)
        self._requests = [Request(gap / mean, *of_one) for gap, of_one in zip(gaps, lengths, strict=True)]
        self.generated_tokens = sum(generated for _, generated in lengths) / len(lengths)
        """Mean of their answers."""

    def __len__(self) -> int:
        return len(self._requests)

    def of(self, key: object) -> Iterator[Request]:
        """Requests without end, for each key from another place on."""
        place = int(uniform(key, "requests") * len(self))
        return islice(cycle(self._requests), place, None)


def synthetic(seed: int) -> Requests:
    """Requests such as the recorded hour had: gaps of a gamma distribution, lengths of log-normal ones.

    Lengths are the quantiles of their distributions in an order that the seed gives, so that their means are exact.
    """
    chance = Random(seed)  # noqa: S311 # chance that is the same in every run is wanted
    prompts, answers = (
        chance.sample(_log_normal(mean, sigma), SYNTHETIC)
        for mean, sigma in ((PROMPT_TOKENS, PROMPT_SIGMA), (GENERATED_TOKENS, GENERATED_SIGMA))
    )
    shape = GAP_VARIATION**-2
    gaps = [chance.gammavariate(shape, 1 / shape) for _ in range(SYNTHETIC)]
    return Requests(gaps, list(zip(prompts, answers, strict=True)))


def _log_normal(mean: float, sigma: float) -> list[int]:
    """Quantiles in whole tokens, at least one."""
    logarithm = NormalDist(math.log(mean) - sigma**2 / 2, sigma)
    return [max(1, round(math.exp(logarithm.inv_cdf((it + 0.5) / SYNTHETIC)))) for it in range(SYNTHETIC)]


def recorded(path: Path) -> Requests:
    """Requests of a file with the columns of the Azure traces.

    Raises:
        GigawatchError: the file is malformed; the line is named.
    """
    times_s, lengths = _read(path)
    count = len(times_s)
    # Around again: the first comes a mean gap after the last.
    round_s = (times_s[-1] - times_s[0]) * count / (count - 1)

    def time_s(number: int) -> float:
        turn, place = divmod(number, count)
        return times_s[place] + turn * round_s

    reach = min(LOCAL, count) // 2
    gaps = []
    for number in range(count):
        around_s = (time_s(number + reach) - time_s(number - reach)) / (2 * reach)
        gaps.append((time_s(number) - time_s(number - 1)) / around_s if around_s else 0.0)
    return Requests(gaps, lengths)


def _read(path: Path) -> tuple[list[float], list[tuple[int, int]]]:
    """When each request came, s, and its prompt's and its answer's tokens."""
    times_s: list[float] = []
    lengths: list[tuple[int, int]] = []
    lines = table.lines(path)
    _, header = next(lines)
    if not set(COLUMNS) <= set(header):
        raise GigawatchError(
            f"{path} has the columns {', '.join(header) or '(none)'}",
            f"It needs {', '.join(COLUMNS)} in its first line, as the Azure LLM inference traces have.",
            ExitCode.DATA,
        )
    places = [header.index(name) for name in COLUMNS]
    for line, cells in lines:
        time, prompt, generated = (cells[place] for place in places)
        try:
            moment = datetime.fromisoformat(time.strip())
            time_s = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError as error:
            problem = f"{COLUMNS[0]} = {time[:40]!r} is no time such as 2023-11-16 18:15:46.680590"
            raise table.broken(path, line, problem) from error
        if times_s and time_s < times_s[-1]:
            raise table.broken(path, line, f"{COLUMNS[0]} = {time} is before that of the line above")
        times_s.append(time_s)
        lengths.append((_tokens(path, line, COLUMNS[1], prompt), _tokens(path, line, COLUMNS[2], generated)))
        if len(lengths) > MOST_REQUESTS:
            raise GigawatchError(
                f"{path}, line {line}: more than {MOST_REQUESTS:,} requests", "Cut an hour out of it.", ExitCode.DATA
            )
    if len(times_s) < 2 or times_s[-1] == times_s[0]:
        raise GigawatchError(
            f"{path} has {len(times_s)} requests at {len(set(times_s))} times",
            "A rate needs two requests at different times.",
            ExitCode.DATA,
        )
    return times_s, lengths


def _tokens(path: Path, line: int, name: str, text: str) -> int:
    value = table.number(path, line, name, text)
    if not 1 <= value <= MOST_TOKENS or value % 1:
        raise table.broken(path, line, f"{name} = {text[:40]} is no number of tokens from 1 to {MOST_TOKENS:,}")
    return int(value)
