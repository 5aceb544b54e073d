"""A simulated inference engine: requests come in, are batched step by step, and are counted as vLLM counts them.

Power and speed agree by construction: each generated token takes the published energy of a token at the batch that runs
(collector.simulated.serving), so that an engine goes as fast as the energy of its GPUs lets it.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from functools import cache
from heapq import heappop, heappush
from itertools import accumulate
from math import ceil
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from collector.simulated.requests import Request
from collector.simulated.serving import BEST_BATCH, Served

STEP_TOKENS = 8_192
"""Tokens that a replica computes in one step, of prompts and answers together: vLLM's max_num_batched_tokens, as it is
by default for a server on GPUs with 70 GiB and more (vllm/engine/arg_utils.py, get_batch_defaults)."""
CACHE_TOKENS = 450_000
"""Tokens whose keys and values a replica has memory for: as many as 0.9 of the memory of four H100 holds beside the
weights of Llama-3.1-70B in 16 bits, or of one beside those of 8B."""
# vllm/v1/metrics/loggers.py.
TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2_560.0,
)  # fmt: skip
ITL_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
E2E_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1_920.0, 7_680.0,
)  # fmt: skip


class Arrival(NamedTuple):
    """Requests of the same lengths that came in the same moment."""

    time_s: float
    copies: int
    prompt_tokens: int
    generated_tokens: int


class Histogram:
    """How often a time fell into each bucket, and the sum of all, s."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.sum_s = 0.0
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)

    def observe(self, time_s: float, count: int) -> None:
        """Count this time so many times."""
        self._counts[bisect_left(self._bounds_s, time_s)] += count
        self.sum_s += time_s * count

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound as text, and how often it was at most that."""
        return list(zip(_texts(self._bounds_s), map(float, accumulate(self._counts)), strict=True))


@cache
def _texts(bounds_s: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(floatToGoString, bounds_s), "+Inf")


class Counts:
    """What one process of an engine has counted since it started."""

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.requests_finished = 0
        self.time_to_first_token = Histogram(TTFT_S)
        self.inter_token_latency = Histogram(ITL_S)
        self.end_to_end_latency = Histogram(E2E_S)


class Batcher:
    """What one process of an engine works on: continuous batching by replicas that share its requests evenly.

    Time goes in steps, in each of which every request that runs gets a token. A prompt is computed first, in as many
    steps as what the running ones leave of STEP_TOKENS makes necessary; the first token comes with its end.

    Args:
        served: the model.
        replicas: how many of it there are.
        started_s: when the process started, s since 1970 UTC.
    """

    def __init__(self, served: Served, replicas: int, started_s: float) -> None:
        self.counts = Counts(started_s)
        self.running = self.waiting = 0
        """Requests."""
        self._replicas = replicas
        self._token_j = cache(lambda decoding: served.token_j(max(decoding, 1) / replicas))
        """Of a generated token, with so many requests that get one."""
        self._queue: deque[Arrival] = deque()
        self._events: list[tuple[int, int, bool, Arrival]] = []
        """First and last tokens to come: after which step, in what order, whether it is the last, of which requests."""
        self._number = 0
        self._step = 0
        """Steps that are done."""
        self._paid_j = 0.0
        """Of the next step."""
        self._prefilled = 0.0
        """The step in which all prompts are done."""
        self._cached_tokens = 0
        self._set_decoding(0)
        self._now_s = started_s

    @property
    def cache_use(self) -> float:
        """Share of the cache's memory that is in use."""
        return min(1.0, self._cached_tokens / (self._replicas * CACHE_TOKENS))

    def take(self, arrival: Arrival) -> None:
        """Take in requests that came now. Where as many wait as can run, whoever sends them turns to other engines."""
        if self.waiting >= self._replicas * BEST_BATCH:
            return
        self._queue.append(arrival)
        self.waiting += arrival.copies
        self._admit()

    def work(self, until_s: float, power_w: float) -> None:
        """Work until then with so much power. What nobody asks for is spent on nothing."""
        energy_j = (until_s - self._now_s) * power_w
        while self._events and power_w > 0:
            steps, step_j = self._events[0][0] - self._step, self._step_j
            due_j = steps * step_j - self._paid_j
            if due_j > energy_j:
                self._paid_j += energy_j
                if self._paid_j >= step_j:
                    steps = int(self._paid_j / step_j)
                    self._paid_j -= steps * step_j
                    self._go(steps, step_j / power_w)
                break
            energy_j -= due_j
            self._paid_j = 0.0
            self._go(steps, step_j / power_w)
            self._happen(until_s - energy_j / power_w)
        self._now_s = until_s

    def _go(self, steps: int, step_s: float) -> None:
        """Do so many steps, each as long."""
        self._step += steps
        if tokens := steps * self._decoding:
            self._cached_tokens += tokens
            self.counts.generated_tokens += tokens
            self.counts.inter_token_latency.observe(step_s, tokens)

    def _happen(self, now_s: float) -> None:
        """The next first or last token."""
        _, _, is_last, it = heappop(self._events)
        counts = self.counts
        if is_last:
            self._set_decoding(self._decoding - it.copies)
            self.running -= it.copies
            self._cached_tokens -= it.copies * (it.prompt_tokens + it.generated_tokens)
            counts.requests_finished += it.copies
            counts.end_to_end_latency.observe(now_s - it.time_s, it.copies)
            self._admit()
            return
        self._set_decoding(self._decoding + it.copies)
        self._cached_tokens += it.copies
        # A first token takes as much as any other.
        self._paid_j -= it.copies * self._token_j(self._decoding)
        counts.prompt_tokens += it.copies * it.prompt_tokens
        counts.generated_tokens += it.copies
        counts.time_to_first_token.observe(now_s - it.time_s, it.copies)
        self._push(self._step + it.generated_tokens - 1, is_last=True, arrival=it)

    def _set_decoding(self, decoding: int) -> None:
        self._decoding = decoding
        # Where only prompts are computed a step takes what it takes with the smallest batch.
        self._step_j = max(1, decoding) * self._token_j(decoding)

    def _admit(self) -> None:
        """Run what waits, in its order, as long as there is a place."""
        while self._queue and self.running + self._queue[0].copies <= self._replicas * BEST_BATCH:
            it = self._queue.popleft()
            self.waiting -= it.copies
            self.running += it.copies
            self._cached_tokens += it.copies * it.prompt_tokens
            # It joins with the step after the one under way.
            begins = self._step + bool(self._events)
            left_tokens = self._replicas * STEP_TOKENS - self._decoding
            self._prefilled = max(self._prefilled, begins) + it.copies * it.prompt_tokens / left_tokens
            self._push(ceil(self._prefilled), is_last=False, arrival=it)

    def _push(self, step: int, *, is_last: bool, arrival: Arrival) -> None:
        self._number += 1
        heappush(self._events, (step, self._number, is_last, arrival))


class Engine(Collector):
    """An engine on one node, by whatever process: requests reach it as they come, and it tells what it counted.

    Args:
        served: the model.
        replicas: how many of it there are.
        requests: what comes.
        started_s: when its process started, s since 1970 UTC.
    """

    def __init__(self, served: Served, replicas: int, requests: Iterator[Request], started_s: float) -> None:
        self.batcher = Batcher(served, replicas, started_s)
        self._served = served
        self._replicas = replicas
        self._requests = requests
        self._next = next(requests)
        self._due = self._next.gap
        """Time until the next arrival, in mean gaps."""

    def restart(self, now_s: float) -> None:
        """End the process with all it was working on, and start another, which counts from zero."""
        self.batcher = Batcher(self._served, self._replicas, now_s)

    def run(self, start_s: float, length_s: float, energy_j: float, requests_per_s: float, copies: int) -> None:
        """Let time go on.

        Args:
            start_s: from when, s since 1970 UTC; it was run until then.
            length_s: for how long.
            energy_j: what its GPUs use meanwhile.
            requests_per_s: how many come in the mean.
            copies: so many that come together and are alike, in whole.
        """
        power_w, per_s = energy_j / length_s, requests_per_s / copies
        passed = 0.0
        while passed + self._due < length_s * per_s:
            passed += self._due
            came_s = start_s + passed / per_s
            self.batcher.work(came_s, power_w)
            self.batcher.take(Arrival(came_s, copies, self._next.prompt_tokens, self._next.generated_tokens))
            self._next = next(self._requests)
            # So many streams of requests together vary by so much less than one.
            self._due = 1 + (self._next.gap - 1) / copies**0.5
        self._due -= length_s * per_s - passed
        self.batcher.work(start_s + length_s, power_w)

    def collect(self) -> Iterator[Metric]:
        """Its metrics as vLLM has them (vllm/v1/metrics/loggers.py); prometheus_client writes them as text."""
        batcher, counts = self.batcher, self.batcher.counts
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            value=counts.started_s,
        )
        names, values = ["model_name", "engine"], [self._served.model, "0"]
        for name, words, value in (
            ("num_requests_running", "Number of requests in model execution batches.", batcher.running),
            ("num_requests_waiting", "Number of requests waiting to be processed.", batcher.waiting),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", batcher.cache_use),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", words, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        for name, words, value in (
            ("prompt_tokens", "Number of prefill tokens processed.", counts.prompt_tokens),
            ("generation_tokens", "Number of generation tokens processed.", counts.generated_tokens),
        ):
            counter = CounterMetricFamily(f"vllm:{name}", words, labels=names)
            counter.add_metric(values, value)
            yield counter
        words = "Count of successfully processed requests."
        success = CounterMetricFamily("vllm:request_success", words, labels=[*names, "finished_reason"])
        for reason, value in (("stop", counts.requests_finished), ("length", 0), ("abort", 0)):
            success.add_metric([*values, reason], value)
        yield success
        for name, words, latency in (
            ("time_to_first_token", "time to first token", counts.time_to_first_token),
            ("inter_token_latency", "inter-token latency", counts.inter_token_latency),
            ("e2e_request_latency", "e2e request latency", counts.end_to_end_latency),
        ):
            family = HistogramMetricFamily(f"vllm:{name}_seconds", f"Histogram of {words} in seconds.", labels=names)
            family.add_metric(values, latency.buckets(), latency.sum_s)
            yield family
