"""What an engine's metrics endpoint says, with the advice of the engines that are known."""

from collections.abc import Iterable
from functools import cache

import urllib3

from collector import exposition
from collector.engines.catalogue import usual
from collector.exposition import Advice, Answer, Exposition

TIME_LIMIT_S = 4.0


def fetch(pool: urllib3.PoolManager, url: str) -> Answer:
    """What the endpoint says now.

    Raises:
        GigawatchError: no answer in time, or one that cannot be metrics.
    """
    return exposition.fetch(pool, url, TIME_LIMIT_S, _advice())


def parse(url: str, answer: Answer, only: Iterable[str] = ()) -> Exposition:
    """The answer's samples.

    Args:
        url: for errors.
        answer: what was fetched.
        only: beginnings of the names that matter, where they are known; parsing the rest costs many times as much.

    Raises:
        GigawatchError: it is not in Prometheus' format.
    """
    return exposition.parse(url, answer, _advice(), only)


@cache
def _advice() -> Advice:
    return Advice(
        path=f"Name the path of the metrics; usual are {usual('path')}. Some engines serve them only when told to:"
        " SGLang wants --enable-metrics, llama.cpp --metrics.",
        port=f"Is the engine running, and is this its port? Usual are {usual('port')}.",
        slow="Is the engine still loading its model, or overloaded?",
        locked="Its metrics are locked, and no engine that is known locks them: is there a proxy before it?",
    )
