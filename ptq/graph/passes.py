"""What blocks give on cached activations, a few images at a time: all that needs no gradients.

Where there are several ranks, each computes a share of the images, and all have the whole.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ptq.graph.blocks import Block
from ptq.graph.fx_helpers import watch
from ptq.graph.rows import rows_of
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.metrics import energies, joint_decibels
from ptq.utils.ranks import gathered
from ptq.utils.shares import exchange, share

__all__ = ["cached", "capture", "device_of", "in_parts", "output_sqnr", "rows_at", "run_cached", "watched"]

BATCH = 16  # images at a time


def device_of(network: nn.Module, otherwise: Tensor) -> torch.device:
    """Return where a network computes; where the tensor is, for one without any state."""
    return next(iter(network.state_dict().values()), otherwise).device


def in_parts(tensors: Mapping[str, Tensor], network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Yield cached activations in pieces, in float32 on the network's device."""
    first = next(iter(tensors.values()))
    device = device_of(network, first)
    for pieces in zip(*(x.split(BATCH) for x in tensors.values()), strict=True):
        yield {name: piece.to(device).float() for name, piece in zip(tensors, pieces, strict=True)}


def rows_at(values: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Return some rows of a cached tensor on a device, in the memory layout they have."""
    index = index.to(values.device)
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        # Whole rows of memory; index_select itself would bring images into another layout.
        rows = values.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    else:
        rows = values.index_select(0, index)
    return rows.to(device)


@torch.no_grad()
def run_cached(
    block: Block, alive: Mapping[str, Tensor], cache: ActivationCache, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """Return what a block gives on cached activations, cached in `dtype`, by name."""
    read = {name: alive[name] for name in block.inputs}
    count = len(next(iter(read.values())))
    return cached(lambda rows: map(block, in_parts(_at(read, rows), block.module)), count, cache, dtype)


def cached(
    parts: Callable[[slice], Iterable[Mapping[str, Tensor]]],
    count: int,
    cache: ActivationCache,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Tensor]:
    """Return cached tensors of `count` rows, of which every rank computes a share.

    Args:
        parts: computes some rows, a few at a time, by name.
        count: of rows.
        cache: keeps them.
        dtype: in which they are kept.
    """
    rows = share(count, BATCH).rows
    made = cache.gather_named(parts(rows), count, dtype, rows)
    for values in made.values():
        exchange(values, BATCH)
    return made


@torch.no_grad()
def output_sqnr(
    block: Block, alive: Mapping[str, Tensor], target: Mapping[str, Tensor], weight: Mapping[str, Tensor] | None = None
) -> float:
    """Return the signal-to-quantization-noise ratio in dB of what a block gives on cached activations.

    Of several outputs, each relative to its signal. Squares count by their weight, if there are weights.
    """
    signals, noises = dict.fromkeys(target, 0.0), dict.fromkeys(target, 0.0)
    own = share(len(next(iter(target.values()))), BATCH).rows
    read = in_parts(_at({name: alive[name] for name in block.inputs}, own), block.module)
    weights = itertools.repeat(None) if weight is None else in_parts(_at(weight, own), block.module)
    wanted_parts = in_parts(_at(target, own), block.module)
    for part, wanted, worth in zip(read, wanted_parts, weights, strict=False):  # repeat has no end
        given = block(part)
        for name, reference in wanted.items():
            approximation = given[name]
            if worth is not None:
                root = worth[name].sqrt()
                reference, approximation = reference * root, approximation * root
            signal, noise = energies(reference, approximation)
            signals[name] += signal
            noises[name] += noise
    # The same sums on all ranks: they decide by them.
    found = gathered([[*signals.values()], [*noises.values()]])
    return joint_decibels(*([sum(each) for each in zip(*sums, strict=True)] for sums in zip(*found, strict=True)))


def _at(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: values[rows] for name, values in tensors.items()}


def watched(block: Block, alive: Mapping[str, Tensor], node: fx.Node) -> Iterator[Tensor]:
    """Run a block on cached activations, and yield what a node in it gives, piece by piece."""
    for part in in_parts({name: alive[name] for name in block.inputs}, block.module):
        seen: list[Tensor] = []
        watch(block.module, tuple(part.values()), {node.name: seen.append})
        yield seen[0]


def capture(block: Block, node: fx.Node, alive: Mapping[str, Tensor], cache: ActivationCache) -> Tensor:
    """Return what a node of a block gives on cached activations, cached: one row for every image."""
    rows, count = rows_of(node), len(alive[block.inputs[0]])
    parts = watched(block, alive, node)
    return cache.gather((part.unflatten(0, (-1, rows)) if rows > 1 else part for part in parts), count)
