"""What graphs give on cached activations, a few images at a time: all that needs no gradients."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import watch
from ptq.reconstruction.activation_cache import ActivationCache
from ptq.utils.metrics import sqnr_db_in_parts

__all__ = ["capture", "in_parts", "output_sqnr", "run_cached", "watched"]

BATCH = 16  # images at a time


def in_parts(x: Tensor, network: nn.Module) -> Iterator[Tensor]:
    """Yield cached activations in pieces, in float32 on the network's device."""
    device = next(iter(network.state_dict().values()), x).device
    for part in x.split(BATCH):
        yield part.to(device).float()


@torch.no_grad()
def run_cached(network: fx.GraphModule, x: Tensor, cache: ActivationCache) -> Tensor:
    """Return what a network gives on cached activations, cached."""
    return cache.gather((network(part) for part in in_parts(x, network)), len(x))


@torch.no_grad()
def output_sqnr(block: fx.GraphModule, x: Tensor, target: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio in dB of what a block gives on cached activations."""
    parts = zip(in_parts(x, block), in_parts(target, block), strict=True)
    return sqnr_db_in_parts((wanted, block(part)) for part, wanted in parts)


def watched(graph: fx.GraphModule, x: Tensor, name: str) -> Iterator[Tensor]:
    """Run a graph on cached activations, and yield what the node of a name gives, piece by piece."""
    for part in in_parts(x, graph):
        seen: list[Tensor] = []
        watch(graph, part, {name: seen.append})
        yield seen[0]


def capture(graph: fx.GraphModule, name: str, x: Tensor, cache: ActivationCache) -> Tensor:
    """Return what the node of a name gives when `graph` runs on cached activations, cached."""
    return cache.gather(watched(graph, x, name), len(x))
