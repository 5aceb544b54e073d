"""What simulated deployments serve with what their GPUs use: energy per token follows published measurements.

Energy per generated token falls with the batch, along a line in logarithms through two measured points; tokens are the
GPUs' energy over it. So power, throughput and energy per token agree with each other by construction.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from msgspec import Struct

from collector.simulated.chance import digest
from collector.simulated.fleet import Node
from collector.simulated.hardware import B200, H100
from collector.simulated.load import Load
from gigawatch.records import Assignment, Latencies, ServingWindow
from gigawatch.units import MILLIJOULES_PER_JOULE, MILLISECONDS_PER_SECOND, PER_MILLE

SMALL_BATCH, BEST_BATCH = 8, 256
"""Requests that an engine runs at once at the two points. The best batch of a measurement differs from model to model;
this one stands for all."""
ENDPOINT = "127.0.0.1:8000"
PROMPT_TOKENS, ANSWER_TOKENS = 1_155, 211
"""Means of 19,366 chat requests: Azure LLM inference trace of 2023, conversation."""
TTFT_US = (10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000)
ITL_US = (2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)
E2E_US = (500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000, 40_000_000, 80_000_000)


class Served(Struct, frozen=True):
    """A model on so many GPUs of a kind, and what a generated token takes, J: GPUs only."""

    name: str
    model: str
    gpus: int
    small_batch_j: float
    best_batch_j: float

    def token_j(self, batch: float) -> float:
        """Energy of a generated token at a batch, J. Below the smaller point it is in inverse proportion."""
        slope = math.log(self.best_batch_j / self.small_batch_j) / math.log(BEST_BATCH / SMALL_BATCH)
        return self.small_batch_j * (batch / SMALL_BATCH) ** (slope if batch >= SMALL_BATCH else -1)


# ML.ENERGY Benchmark v3, vLLM 0.11.1: at a batch of 8, and at the best.
CATALOGUE = {
    H100.name: (
        Served("assist-8b", "meta-llama/Llama-3.1-8B-Instruct", 1, 0.455, 0.070),
        Served("chat-70b", "meta-llama/Llama-3.3-70B-Instruct", 4, 3.76, 0.373),
        Served("agent-235b", "Qwen/Qwen3-235B-A22B-FP8", 8, 11.4, 0.74),
        Served("expert-405b", "meta-llama/Llama-3.1-405B-Instruct-FP8", 8, 14.0, 2.06),
    ),
    B200.name: (
        Served("chat-70b-b200", "meta-llama/Llama-3.3-70B-Instruct", 2, 3.57, 0.189),
        Served("reason-120b", "openai/gpt-oss-120b", 1, 0.49, 0.040),
        Served("research-671b", "deepseek-ai/DeepSeek-V3.1", 8, 8.6, 0.61),
        Served("assist-8b-b200", "meta-llama/Llama-3.1-8B-Instruct", 1, 0.391, 0.047),
    ),
}


def served_by(node: Node) -> Served | None:
    """What a node's GPUs serve: one model to a rack; None where they serve none, or nobody measured such GPUs."""
    known = CATALOGUE.get(node.model.name)
    if known is None or node.role != "inference":
        return None
    # Racks are numbered from one end of a site: neighbours serve different models.
    return known[int(digest(node.site.name, node.rack, "served")[:6], 16) % len(known)]


class Deployment:
    """One node's part of a deployment: an engine with a replica for each of so many GPUs.

    Windows must be asked for one after another: what is left of a token goes on to the next.
    """

    def __init__(self, served: Served, gpus: int) -> None:
        self._served = served
        self._replicas = max(1, gpus // served.gpus)
        self.assignment = Assignment(deployment=served.name, endpoint=ENDPOINT)
        self._left_tokens = self._left_requests = 0.0

    def window(self, start: datetime, length_ms: int, loads: Sequence[Load], energy_mj: int) -> ServingWindow:
        """What it serves in a window.

        Args:
            start: of the window.
            length_ms: its length.
            loads: of the node, tick by tick.
            energy_mj: of its GPUs, busy or not.
        """
        busy = [load.util for load in loads if load.util > 0]
        active_ms = length_ms * len(busy) // len(loads)
        util = sum(busy) / len(busy) if busy else 0.0
        batch = max(1.0, BEST_BATCH * util)
        exact = self._left_tokens
        if busy:
            exact += energy_mj / MILLIJOULES_PER_JOULE * len(busy) / len(loads) / self._served.token_j(batch)
        tokens = int(exact)
        self._left_tokens = exact - tokens
        exact = self._left_requests + tokens / ANSWER_TOKENS
        requests = int(exact)
        self._left_requests = exact - requests
        running = round(batch * self._replicas) if busy else 0
        # By Little's law: as many tokens at once as requests run.
        itl_us = running * active_ms * MILLISECONDS_PER_SECOND / tokens if tokens else 0.0
        ttft_us = 3 * itl_us + 40_000 / max(0.05, 1 - util)
        return ServingWindow(
            deployment=self._served.name,
            endpoint=ENDPOINT,
            engine="vllm",
            model=self._served.model,
            start=start,
            covered_ms=length_ms,
            observed_ms=length_ms,
            scrapes_taken=len(loads),
            scrapes_expected=len(loads),
            prompt_tokens=requests * PROMPT_TOKENS,
            generated_tokens=tokens,
            requests_finished=requests,
            running_request_ms=running * active_ms,
            waiting_request_ms=round(running * max(0.0, util - 0.9)) * active_ms,
            running_requests_max=running,
            active_ms=active_ms,
            kv_cache_use_max_pm=round(min(1.0, 0.05 + 0.9 * util) * PER_MILLE) if busy else 0,
            time_to_first_token=_latencies(TTFT_US, requests, ttft_us, 0.6),
            inter_token_latency=_latencies(ITL_US, tokens, itl_us, 0.2),
            end_to_end_latency=_latencies(E2E_US, requests, ttft_us + ANSWER_TOKENS * itl_us, 0.5),
        )


def _latencies(bounds_us: tuple[int, ...], count: int, median_us: float, sigma: float) -> Latencies:
    """So many latencies of a log-normal distribution, in whole numbers whose sum is exact."""
    upto = [round(count * _share(bound_us, round(median_us), sigma)) for bound_us in bounds_us] if count else []
    edges = [0, *upto, count] if count else [0] * (len(bounds_us) + 2)
    return Latencies(
        bounds_us=bounds_us,
        counts=tuple(after - before for before, after in pairwise(edges)),
    )


def _share(bound_us: int, median_us: int, sigma: float) -> float:
    return 0.5 * (1 + math.erf(math.log(bound_us / max(1, median_us)) / sigma / math.sqrt(2)))
