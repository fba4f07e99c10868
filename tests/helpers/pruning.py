"""Channels chosen at random, and networks in which they count for nothing."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, read_axis
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import Group, find_groups
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.tasks.outputs import named
from ptq.utils.metrics import sqnr_db

__all__ = ["counted_costs", "nearness", "random_choice", "random_survivors", "survivors_without", "without_readers"]


def random_choice(count: int, groups: Sequence[Group], seed: int = 0) -> Tensor:
    """Return which coupled channels stay, bool (count,): at random, at least one of every group."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.ones(count, dtype=torch.bool)
    for group in groups:
        order = torch.randperm(len(group), generator=generator)
        least = int(torch.randint(1, len(group) + 1, (), generator=generator))
        kept[group.ids[order[least:]]] = False
    return kept


def without_readers(graph_model: GraphModel, channels: ChannelMap, kept: Tensor) -> GraphModel:
    """Return a copy in which all weights are 0 that layers give to channels that do not stay."""
    graph = copy.deepcopy(graph_model.module)
    for node in graph.graph.nodes:
        if node.name in channels.readers:
            layer, mask = module_of(graph, node), kept[channels.readers[node.name]]
            assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.data[~mask] = 0
            elif isinstance(layer, nn.Linear):
                layer.weight.data[:, ~mask] = 0
            else:
                for rows, read in zip(layer.weight.data.chunk(layer.groups), mask.chunk(layer.groups), strict=True):
                    rows[:, ~read] = 0
    return replace(graph_model, module=graph)


@torch.no_grad()
def counted_costs(graph: fx.GraphModule, x: Tensor, *, all_biased: bool) -> tuple[int, int]:
    """Return the multiply-accumulates of layers for one image, and their weights and biases, as they are when it runs.

    Args:
        graph: a network, prepared.
        x: one image, as it takes it.
        all_biased: whether layers without bias count as if they had one, which repair may give them.
    """
    macs = parameters = 0

    def count(layer: nn.Module, given: tuple[Tensor], y: Tensor) -> None:
        nonlocal macs, parameters
        assert isinstance(layer, LAYERS)
        if isinstance(layer, nn.Linear):
            macs += y.numel() * layer.in_features
        elif isinstance(layer, nn.ConvTranspose2d):
            macs += given[0].numel() * layer.weight[0].numel()
        else:
            macs += y.numel() * layer.weight[0].numel()
        biased = all_biased or layer.bias is not None
        parameters += layer.weight.numel() + biased * y.shape[read_axis(layer, y.dim())]

    handles = [m.register_forward_hook(count) for m in graph.modules() if isinstance(m, LAYERS)]
    graph(x)
    for handle in handles:
        handle.remove()
    return macs, parameters


def survivors_without(graph_model: GraphModel, name: str, which: slice) -> Survivors:
    """Return what stays of a network when some channels of one node go."""
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    kept[channels.of[name].ids[which]] = False
    return Survivors(channels, kept)


def random_survivors(graph_model: GraphModel, seed: int = 0) -> Survivors:
    """Return what stays of a network when channels go at random, at least one of every group."""
    channels = find_channels(graph_model)
    return Survivors(channels, random_choice(channels.count, find_groups(channels), seed))


@torch.no_grad()
def nearness(original: nn.Module, network: nn.Module, x: Tensor) -> float:
    """Return the signal to noise ratio of a network's outputs beside those of the original, in dB; of several the least."""
    wanted, given = named(original(x)), named(network(x))
    return min(sqnr_db(value, given[name]) for name, value in wanted.items())
