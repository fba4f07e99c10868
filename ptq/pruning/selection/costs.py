"""What a network costs when its groups keep so many channels: multiply-accumulates and parameters of its layers.

Both are sums over layers of inputs times outputs, at so many places, and each of these is linear in what the groups keep.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq.config.budgets import Budget
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, read_axis
from ptq.pruning.coupling.groups import Group

__all__ = ["Costs", "find_costs"]


@dataclass(frozen=True)
class Costs:
    """The cost of every layer, as a function of how many coupled channels each group keeps.

    Args:
        inputs, outputs, places: how many channels a layer sums up for an output, how many outputs it has, and at how many
            places, for every coupled channel of each group; the last column is what is always there. (layers, groups + 1), float64.
            Places depend on channels where a layer works on every channel by itself.
        weights: numbers for one input and one output, (layers,).
        biases: 1 for a layer with bias, (layers,). Where channels are gone, every layer counts as one: its repair may give it a bias.
        full: how many coupled channels the groups have, (groups,).
    """

    inputs: Tensor
    outputs: Tensor
    places: Tensor
    weights: Tensor
    biases: Tensor
    full: Tensor

    def cost(self, counts: Tensor, quantity: str) -> Tensor:
        """Return the cost of each of several choices.

        Args:
            counts: coupled channels kept, (..., groups).
            quantity: "macs" or "parameters".

        Returns:
            float64 (...).
        """
        counts = counts.double()
        inputs, outputs, places = (m[:, -1] + counts @ m[:, :-1].T for m in (self.inputs, self.outputs, self.places))
        if quantity == "macs":
            return (self.weights * places * inputs * outputs).sum(-1)
        pruned = (counts < self.full).any(-1, keepdim=True)
        biases = torch.where(pruned, 1.0, self.biases)
        return (outputs * (self.weights * inputs + biases)).sum(-1)

    def share(self, counts: Tensor, budget: Budget) -> Tensor:
        """Return the cost relative to that of the whole network, (...)."""
        return self.cost(counts, budget.quantity) / self.cost(self.full, budget.quantity)


def find_costs(graph_model: GraphModel, channels: ChannelMap, groups: Sequence[Group]) -> Costs:
    """Return what the layers of a network cost for one image.

    Example:
        >>> from ptq.pruning import find_channels, find_groups
        >>> channels = find_channels(graph_model)
        >>> costs = find_costs(graph_model, channels, find_groups(channels))
        >>> int(costs.cost(costs.full, "parameters")) == sum(p.numel() for p in graph_model.module.parameters())
        True
    """
    graph = graph_model.module
    of_group = torch.full((channels.count,), len(groups))
    for index, group in enumerate(groups):
        of_group[group.ids] = index
    rows: list[tuple[Tensor, Tensor, Tensor, float, float]] = []
    for node in graph.graph.nodes:
        layer = module_of(graph, node)
        if not isinstance(layer, LAYERS):
            continue
        source, shape = sole_input(node), channels.shapes[node.name]
        transposed, axis = isinstance(layer, nn.ConvTranspose2d), read_axis(layer, len(shape))
        read = channels.shapes[source.name]
        count = math.prod(read) / read[1] if transposed else math.prod(shape) / shape[axis]
        inner, outer = (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else _sizes(layer)
        groups_of_layer = getattr(layer, "groups", 1)
        kernel = layer.weight[0, 0].numel()
        ids = channels.readers.get(node.name)
        inputs = _columns(ids, inner, of_group, len(groups)) / groups_of_layer
        if groups_of_layer == inner > 1:
            inputs = _columns(None, 1, of_group, len(groups))
        given = channels.of.get(node.name)
        written, beside = (given, None) if given is None or given.axis == axis else (None, given)
        outputs = _columns(written.ids if written else None, outer, of_group, len(groups))
        places = _columns(beside.ids if beside else None, 1, of_group, len(groups))
        places = places * count / (len(beside.ids) if beside else 1)
        rows.append((inputs, outputs, places, float(kernel), float(layer.bias is not None)))
    columns = list(zip(*rows, strict=True))
    inputs, outputs, places = (torch.stack(column) for column in columns[:3])
    full = torch.tensor([len(group) for group in groups], dtype=torch.float64)
    weights, biases = (torch.tensor(column, dtype=torch.float64) for column in columns[3:])
    return Costs(inputs, outputs, places, weights, biases, full)


def _sizes(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int]:
    return layer.in_channels, layer.out_channels


def _columns(ids: Tensor | None, size: int, of_group: Tensor, groups: int) -> Tensor:
    """How many of a tensor's channels every coupled channel of each group is, and in the last column those of none."""
    if ids is None:
        return torch.tensor([*[0.0] * groups, size], dtype=torch.float64)
    total = torch.bincount(of_group[ids], minlength=groups + 1).double()
    members = torch.bincount(of_group, minlength=groups + 1).double()
    members[-1] = 1
    return total / members
