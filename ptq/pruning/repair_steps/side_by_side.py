"""The original and the pruned network side by side, block by block: what a block reads, and what it should give.

Activations of all images are kept between two blocks, within the limit of an `ActivationCache`. Inside a block they are
computed a few images at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from ptq.graph.blocks import Block, compose, named_inputs, split, tensor_name
from ptq.graph.cutting import assign_blocks
from ptq.graph.features import giving
from ptq.graph.fx_helpers import input_tensors
from ptq.graph.passes import in_parts, run_cached
from ptq.pruning.coupling.channel_map import ChannelMap
from ptq.utils.activation_cache import ActivationCache

__all__ = ["BlockPair", "Survivors", "block_pairs", "values_of"]


@dataclass(frozen=True)
class Survivors:
    """What stayed of a network.

    Args:
        channels: of the original.
        kept: whether a coupled channel stayed, bool (channels.count,).
    """

    channels: ChannelMap
    kept: Tensor

    def of(self, node: fx.Node, value: Tensor) -> Tensor:
        """Return those of a tensor's channels that stayed.

        Args:
            node: that gave the tensor in the original; in a block, what stands for it there.
            value: as the original gave it, (N, ...). One dimension more than the node has is that of an image's rows.
        """
        name = tensor_name(node)
        own = self.channels.of.get(name)
        if own is None:
            return value
        axis = own.axis + value.dim() - len(self.channels.shapes[name])
        return value.index_select(axis, self.kept[own.ids].nonzero().flatten().to(value.device))

    def changed(self, graph: fx.GraphModule) -> set[str]:
        """Return the names of nodes that no longer give what they gave: channels went, or something before them changed."""
        found: set[str] = set()
        for node in graph.graph.nodes:
            own = self.channels.of.get(node.name)
            went = own is not None and not bool(self.kept[own.ids].all())
            if went or any(source.name in found for source in input_tensors(node)):
                found.add(node.name)
        return found


@dataclass(frozen=True)
class BlockPair:
    """One block of both networks.

    Args:
        original, pruned: the block; the latter shares its modules with the pruned network.
        reads_original, reads_pruned: what it reads in each, by name, cached, (N, ...).
        wanted: what the original gives, by name, cached, (N, ...); with all its channels.
        survivors: what stayed of them.
    """

    original: Block
    pruned: Block
    reads_original: Mapping[str, Tensor]
    reads_pruned: Mapping[str, Tensor]
    wanted: Mapping[str, Tensor]
    survivors: Survivors

    def target(self, index: Tensor) -> dict[str, Tensor]:
        """Return what the pruned block should give for some images, by name."""
        nodes = {tensor_name(node): node for node in self.original.module.graph.nodes}
        return {name: self.survivors.of(nodes[name], value[index]) for name, value in self.wanted.items()}


def block_pairs(
    original: fx.GraphModule, pruned: fx.GraphModule, survivors: Survivors, images: Tensor, cache: ActivationCache
) -> Iterator[BlockPair]:
    """Yield the blocks in order; what is done to a pruned one before the next is asked for, the next one reads.

    Args:
        original, pruned: networks with the same nodes.
        survivors: what stayed of the original.
        images: as the networks take them, (N, C, H, W).
        cache: keeps activations, in float32.
    """
    assignment = assign_blocks(original)
    both = zip(split(original, assignment), split(pruned, assignment), strict=True)
    blocks, fewer = (list(side) for side in zip(*both, strict=True))
    before = after = named_inputs(original, images)
    for i, (block, less) in enumerate(zip(blocks, fewer, strict=True)):
        wanted = run_cached(block, before, cache, torch.float32)
        yield BlockPair(block, less, before, after, wanted, survivors)
        before = compose(original, blocks[i + 1 :]).alive(before, wanted)
        del wanted
        given = run_cached(less, after, cache, torch.float32)
        after = compose(pruned, fewer[i + 1 :]).alive(after, given)


def values_of(block: Block, reads: Mapping[str, Tensor], nodes: Sequence[fx.Node]) -> Iterator[tuple[Tensor, ...]]:
    """Yield what nodes of a block give, a few images at a time; nothing is computed that they do not need.

    Args:
        block: of any network.
        reads: what it reads, by name, cached.
        nodes: of its graph.
    """
    network = giving(block.module, nodes)
    with torch.no_grad():
        for part in in_parts({name: reads[name] for name in block.inputs}, block.module):
            given = network(*part.values())
            yield tuple(given[node.name] for node in nodes)
