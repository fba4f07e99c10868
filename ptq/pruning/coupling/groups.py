"""Groups of coupled channels that are alike: all are in the same tensors, so that all cost and all shape the same.

A residual stream is a group, and so are the hidden channels of a block. Where a tensor is split, its parts are groups of
their own: a group's channels can be exchanged for one another, and no tensor loses all it has while each group keeps some.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.pruning.coupling.channel_map import ChannelMap

__all__ = ["Group", "find_groups"]


@dataclass(frozen=True)
class Group:
    """Coupled channels that differ in nothing but their weights.

    Args:
        name: of the first node that gives them.
        ids: the coupled channels, int64 (n,).
        multiple: how many channels of a tensor one of them is, at least; the others are multiples of it.
    """

    name: str
    ids: Tensor
    multiple: int

    def __len__(self) -> int:
        return len(self.ids)

    def sizes(self, granule: int) -> list[int]:
        """Return how many coupled channels may be kept, ascending: multiples of the granule, and all.

        Args:
            granule: what the kept channels of every tensor are a multiple of, 1..

        Example:
            >>> Group("conv", torch.arange(20), 1).sizes(8), Group("conv", torch.arange(6), 1).sizes(8)
            ([8, 16, 20], [6])
        """
        step = granule // math.gcd(granule, self.multiple)
        return [*range(step, len(self), step), len(self)]


def find_groups(channels: ChannelMap) -> tuple[Group, ...]:
    """Return the groups of coupled channels that can be removed, in the order of computation.

    Example:
        >>> from ptq.pruning import find_channels
        >>> [(group.name, len(group)) for group in find_groups(find_channels(graph_model))]
        [('stem_0', 8), ('blocks_0_conv1', 8), ('blocks_1_downsample_0', 16), ('blocks_1_conv1', 16), ('blocks_2_conv1', 16)]
    """
    where: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, tensor in channels.of.items():
        ids, counts = tensor.ids.unique(return_counts=True)
        for i, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if i not in channels.held:
                where[i].append((name, count))
    alike: dict[tuple[tuple[str, int], ...], list[int]] = defaultdict(list)
    for i, places in where.items():
        alike[tuple(places)].append(i)
    return tuple(
        Group(places[0][0], torch.tensor(ids), math.gcd(*(count for _, count in places)))
        for places, ids in alike.items()
    )
