"""What a coupled channel is worth: how much is lost without it, on the images. Each score is one function.

l1              the filters' weights, without images (Li et al., ICLR 2017)
activation      what the channel brings into the layers that read it: weights times activations
gradient        the change of the predictions, to first order (Molchanov et al., CVPR 2019; Theis et al., 2018)
reconstruction  what those layers lose that their other inputs cannot replace (OBS, Hassibi & Stork, 1993)
divergence      the change of the predictions that other channels cannot make good: both of these
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ptq.graph.fx_helpers import module_of
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap
from ptq.pruning.coupling.groups import Group, find_groups
from ptq.pruning.selection.changes import changes, exchanges, growth, rows_of_exchanges
from ptq.pruning.selection.elimination import OutputErrors, Predictions, eliminate
from ptq.pruning.selection.reading import Reading, readings
from ptq.pruning.selection.weights import weights_by_output

__all__ = ["SCORES", "WITH_GRADIENTS"]

HELD = 2**28  # of exchanges that are kept at a time, some 1 GiB; what is more takes another pass over the images
TINY = 1e-30

Pair = tuple[Group, tuple[list[Reading], list[Reading]]]
"""A group, and what is read of it in each half of the images."""


def l1(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the L1 norm of the filters that write a channel, relative to the mean of their layer."""
    total = torch.zeros(channels.count, dtype=torch.float64)
    times = torch.zeros_like(total)
    nodes = {node.name: node for node in graph_model.module.graph.nodes}
    for name, ids in channels.writers.items():
        layer = module_of(graph_model.module, nodes[name])
        assert layer is not None
        norms = weights_by_output(layer).double().abs().sum(1).cpu()
        total.index_add_(0, ids, norms / norms.mean().clamp(min=TINY))
        times.index_add_(0, ids, torch.ones_like(norms))
    return total / times.clamp(min=1)


def activation(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the energy that a channel has in the outputs of its readers, as a share of their variance, summed."""
    total = torch.zeros(channels.count, dtype=torch.float64)
    for group, several in readings(graph_model, channels, find_groups(channels), images):
        for reading in several:
            total[group.ids] += reading.energy * reading.weight_products.diagonal()
    return total


def gradient(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return half the mean square of the loss's first-order change, image by image: to second order, what the KL grows."""
    return growth(changes(graph_model, channels, images))


def reconstruction(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return what the outputs of the readers lose when a channel goes as the next one of its group, as a share of their variance.

    The other inputs of its readers make good what they can at the same pixel, by least squares.
    """
    total = torch.zeros(channels.count, dtype=torch.float64)
    for group, several in readings(graph_model, channels, find_groups(channels), images):
        total[group.ids] = eliminate(len(group), OutputErrors(several))
    return total


def divergence(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return what the KL grows, to second order, when a channel goes as the next one of its group, and the others make good what they can.

    Channels that tell the same of a class are worth much together: each counts by what is left without it and those before.
    """
    total = torch.zeros(channels.count, dtype=torch.float64)
    groups = find_groups(channels)
    halves = (images[::2], images[1::2]) if len(images) > 1 else (images, images)
    first, second = (readings(graph_model, channels, groups, half) for half in halves)
    pairs = [(group, (ours, theirs)) for (group, ours), (_, theirs) in zip(first, second, strict=True)]
    for part in _parts(pairs, len(halves[0])):
        lost: dict[Reading, Tensor] = {}
        for which, half in enumerate(reversed(halves)):  # what one half says is told of the other
            several = [reading for _, pair in part for reading in pair[which]]
            lost.update(zip(several, exchanges(graph_model, several, half), strict=True))
        for group, pair in part:
            loss = Predictions([(said, [lost.pop(reading) for reading in said]) for said in pair])
            total[group.ids] = eliminate(len(group), loss)
    return total


SCORES: Mapping[str, Callable[[GraphModel, ChannelMap, Tensor], Tensor]] = {
    "l1": l1,
    "activation": activation,
    "gradient": gradient,
    "reconstruction": reconstruction,
    "divergence": divergence,
}
"""Each takes a network, its channels, and images as the network takes them; gives float64 (channels.count,)."""

WITH_GRADIENTS = ("gradient", "divergence")
"""The scores that need gradients of the outputs."""


def _parts(pairs: Sequence[Pair], images: int) -> Iterator[list[Pair]]:
    """Groups whose exchanges are kept at a time; without those that no layer reads."""
    part: list[Pair] = []
    held = 0
    for group, pair in pairs:
        size = sum(map(len, pair)) * len(group) ** 2 * rows_of_exchanges(len(group), images)
        if part and held + size > HELD:
            yield part
            part, held = [], 0
        if size:
            part, held = [*part, (group, pair)], held + size
    if part:
        yield part
