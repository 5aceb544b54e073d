"""What simulated deployments serve, and what a token takes: published measurements.

Energy per generated token falls with the batch, along a line in logarithms through two measured points.
"""

import math

from msgspec import Struct

from collector.simulated.chance import digest
from collector.simulated.fleet import Node
from collector.simulated.hardware import B200, H100

SMALL_BATCH, BEST_BATCH = 8, 256
"""Requests that an engine runs at once at the two points. The best batch of a measurement differs from model to model;
this one stands for all."""


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
