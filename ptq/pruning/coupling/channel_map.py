"""The coupled channels of a network, as data."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["ChannelMap", "Channels", "read_axis"]


@dataclass(frozen=True)
class Channels:
    """The channels of a tensor.

    Args:
        axis: dimension that they lie along.
        ids: the coupled channel that every entry belongs to, int64 (C,).
    """

    axis: int
    ids: Tensor


@dataclass(frozen=True)
class ChannelMap:
    """The coupled channels of a network, numbered from 0.

    Args:
        of: name of a node -> channels of its tensor. A node that is missing has none that could be removed.
        pieces: name of a node that gives several tensors -> channels of each.
        shapes: name of a node -> shape of its tensor for one image.
        writers: name of a layer -> the coupled channels it computes, int64 (outputs,); not those it hands on (depthwise).
        readers: name of a layer -> the coupled channels it sums up, int64 (inputs,).
        held: coupled channel that must stay -> the reason.
        fixed: name of a layer none of whose outputs can be removed -> the reason.
        count: how many coupled channels there are.
    """

    of: Mapping[str, Channels]
    pieces: Mapping[str, tuple[Channels, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    writers: Mapping[str, Tensor]
    readers: Mapping[str, Tensor]
    held: Mapping[int, str]
    fixed: Mapping[str, str]
    count: int


def read_axis(layer: nn.Module, dimensions: int) -> int:
    """Return the dimension of a tensor of so many dimensions that a layer sums over."""
    return dimensions - 1 if isinstance(layer, nn.Linear) else 1
