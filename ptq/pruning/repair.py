"""Repair in closed form: every layer behind removed channels is fitted to what it gave before, front to back.

Least squares on the pruned network's own inputs (Channel Pruning, He et al., ICCV 2017; ThiNet, Luo et al., ICCV 2017): what
was lost is expressed by what is left. A layer whose output is added to another tensor makes that one's error good, too.
"""

import copy
import operator
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ptq.graph.fx_helpers import LAYERS, input_tensors, module_of, sole_input
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.channel_map import ChannelMap
from ptq.pruning.least_squares import Moments, fit, moments
from ptq.pruning.patches import Layer, matrix_of, outputs_at, patches_of, set_matrix

__all__ = ["repair"]

BATCH = 16  # images at a time
APART = 4  # every fourth image says how strong the ridge must be
ENOUGH = 10  # samples for every weight of an output
LEAST = 4096  # samples where there are that many


def repair(
    graph_model: GraphModel,
    pruned: GraphModel,
    channels: ChannelMap,
    kept: Tensor,
    images: Tensor,
    *,
    progress: Progress = SILENT,
) -> GraphModel:
    """Return the pruned network with the weights and biases that come nearest to the original's outputs, layer by layer.

    Activations of all images are held as long as they are read, of both networks.

    Args:
        graph_model: the original.
        pruned: what `ptq.pruning.removal.remove` made of it; stays untouched.
        channels: of the original.
        kept: whether a coupled channel stayed, bool (channels.count,).
        images: as the network takes them, (N, C, H, W), at least 1.
        progress: told of every layer.
    """
    graph = copy.deepcopy(pruned.module)
    layers = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), LAYERS)]
    with torch.no_grad(), progress.stage("repair", len(layers)) as task:
        for node in _side_by_side(graph_model.module, graph, channels, kept, images):
            task.advance(int(node in layers))
    graph.recompile()
    return replace(pruned, module=graph.eval().requires_grad_(False))


def _side_by_side(
    original: fx.GraphModule, graph: fx.GraphModule, channels: ChannelMap, kept: Tensor, images: Tensor
) -> Iterator[fx.Node]:
    """Run both networks node by node; fit each layer before it runs."""
    before, after = _Stepwise(original, images), _Stepwise(graph, images)
    changed: set[str] = set()
    for node in graph.graph.nodes:
        if node.op == "output":
            return
        own = channels.of.get(node.name)
        layer = module_of(graph, node)
        behind = any(source.name in changed for source in node.all_input_nodes)
        if node.op != "get_attr":
            before.run_to(node.name)
        if behind and isinstance(layer, LAYERS):
            wanted = _kept(before.value(node.name), channels, kept, node.name)
            for other in _added(node):
                if after.knows(other.name):
                    gap = _kept(before.value(other.name), channels, kept, other.name) - after.value(other.name)
                    wanted = wanted + gap
            _fit(layer, after.value(sole_input(node).name), wanted)
        after.run_to(node.name)
        if behind or (own is not None and not bool(kept[own.ids].all())):
            changed.add(node.name)
        yield node


def _added(node: fx.Node) -> list[fx.Node]:
    """The tensor that a layer's output is added to, and nothing else done with it."""
    (reader, *more) = node.users
    if more or reader.target is not operator.add or len(input_tensors(reader)) != 2:
        return []
    return [other for other in input_tensors(reader) if other is not node]


def _kept(value: Tensor, channels: ChannelMap, kept: Tensor, name: str) -> Tensor:
    own = channels.of.get(name)
    return value if own is None else value.index_select(own.axis, kept[own.ids].nonzero().flatten().to(value.device))


def _fit(layer: Layer, x: Tensor, wanted: Tensor) -> None:
    matrix = matrix_of(layer)
    sums = _moments(layer, x, wanted)
    fitted, bias = fit(*sums, matrix.to(sums[0].xx))
    set_matrix(layer, fitted, bias.flatten())


def _moments(layer: Layer, x: Tensor, wanted: Tensor) -> tuple[Moments, Moments]:
    """Of the images to fit and of those apart, at places chosen at random where there are more than enough."""
    generator = torch.Generator().manual_seed(0)
    inputs = matrix_of(layer).shape[-1]
    least = -(-max(LEAST, ENOUGH * inputs) // len(x))
    apart = torch.arange(len(x)) % APART == APART - 1
    sets = [~apart, apart] if bool(apart.any()) else [~apart, ~apart]
    found: list[Moments] = []
    for chosen in sets:
        total: Moments | None = None
        for index in chosen.nonzero().flatten().split(BATCH):
            columns, targets = patches_of(layer, x[index]), outputs_at(layer, wanted[index])
            if columns.shape[-1] > least:
                places = torch.randperm(columns.shape[-1], generator=generator)[:least].to(x.device)
                columns, targets = columns[..., places], targets[..., places]
            part = moments(*(t.permute(1, 2, 0, 3).flatten(2) for t in (columns, targets)))
            total = part if total is None else total + part
        assert total is not None
        found.append(total)
    return found[0], found[1]


class _Stepwise(fx.Interpreter):
    """Runs a graph node by node, and lets go of what nobody reads any more."""

    def __init__(self, graph: fx.GraphModule, images: Tensor) -> None:
        super().__init__(graph)
        self.args_iter = iter((images,))
        self.ahead = iter(graph.graph.nodes)
        self.named: dict[str, fx.Node] = {}

    def run_to(self, name: str) -> None:
        """Run all nodes up to the one of that name, if it has not been run."""
        for last in self.done():
            self.env.pop(last, None)
        while name not in self.named:
            node = next(self.ahead)
            self.named[node.name] = node
            self.env[node] = self.run_node(node)

    def done(self) -> list[fx.Node]:
        """Nodes whose readers have all been run."""
        return [node for node in self.env if node.users and all(reader.name in self.named for reader in node.users)]

    def knows(self, name: str) -> bool:
        """Whether the node of that name has a value now."""
        return name in self.named and self.named[name] in self.env

    def value(self, name: str) -> Any:
        """Return what the node of that name gave."""
        return self.env[self.named[name]]
