"""Repair in closed form: every layer behind removed channels is fitted to what it gave before, front to back.

Least squares on the pruned network's own inputs (Channel Pruning, He et al., ICCV 2017; ThiNet, Luo et al., ICCV 2017): what
was lost is expressed by what is left. A layer whose output is added to another tensor makes that one's error good, too.
Sums of products are all that is kept of the images, and targets at as many places as there is something to learn from.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ptq.graph.blocks import tensor_name
from ptq.graph.fx_helpers import LAYERS, input_tensors, module_of, sole_input
from ptq.graph.rows import rows_of
from ptq.progress import SILENT, Progress
from ptq.pruning.coupling.channel_map import read_axis
from ptq.pruning.repair_steps.least_squares import fit, moments, samples
from ptq.pruning.repair_steps.patches import Layer, matrix_of, outputs_at, patches_of, set_matrix
from ptq.pruning.repair_steps.side_by_side import BlockPair, Survivors, block_pairs, values_of
from ptq.utils.activation_cache import ActivationCache

__all__ = ["fit_layers"]

APART = 4  # every fourth image says how strong the ridge must be
ENOUGH = 10  # samples for every weight of an output
LEAST = 4096  # samples where there are that many
MANY = 1024  # inputs of an output, of which sums of products take much where there are fewer samples


def fit_layers(
    original: fx.GraphModule,
    pruned: fx.GraphModule,
    survivors: Survivors,
    images: Tensor,
    cache: ActivationCache,
    *,
    progress: Progress = SILENT,
) -> None:
    """Give the pruned network the weights and biases that come nearest to the original's outputs, layer by layer, in place.

    Args:
        original: the network before.
        pruned: what `ptq.pruning.removal.remove` made of it.
        survivors: what stayed.
        images: as the network takes them, (N, C, H, W), at least 1.
        cache: keeps activations between blocks.
        progress: told of every layer.
    """
    changed = survivors.changed(pruned)
    total = sum(_to_fit(pruned, node, changed) for node in pruned.graph.nodes)
    with torch.no_grad(), progress.stage("fit layers", max(1, total)) as task:
        for pair in block_pairs(original, pruned, survivors, images, cache):
            for job in _jobs(pair, changed):
                known, apart = _moments(pair, job)
                fitted, bias = fit(known, apart, matrix_of(job.layer).to(known.x))
                set_matrix(job.layer, fitted, bias.flatten())
                task.advance()


@dataclass(frozen=True)
class _Job:
    """A layer to fit.

    Args:
        layer: of the pruned network.
        node: of it, in the pruned block.
        others: the node whose tensor the output is added to, if there is one.
        targets: for every part of the images, which pixels are looked at (None: all), and what the layer and what it is
            added to should give there together.
    """

    layer: Layer
    node: fx.Node
    others: list[fx.Node]
    targets: list[tuple[Tensor | None, Tensor]]


def _to_fit(graph: fx.GraphModule, node: fx.Node, changed: set[str]) -> bool:
    return isinstance(module_of(graph, node), LAYERS) and tensor_name(sole_input(node)) in changed


def _jobs(pair: BlockPair, changed: set[str]) -> list[_Job]:
    """The layers of a block to fit, with what they should give: the original runs once for all of them."""
    graph, jobs = pair.pruned.module, []
    for node in graph.graph.nodes:
        layer = module_of(graph, node)
        if isinstance(layer, LAYERS) and _to_fit(graph, node, changed):
            jobs.append(_Job(layer, node, _added(pair, node), []))
    if not jobs:
        return []
    before = {node.name: node for node in pair.original.module.graph.nodes}
    asked = [[before[n.name] for n in (job.node, *job.others)] for job in jobs]
    flat = list(dict.fromkeys(n for several in asked for n in several))
    images = len(next(iter(pair.reads_original.values())))
    for part, values in enumerate(values_of(pair.original, pair.reads_original, flat)):
        found = dict(zip(flat, values, strict=True))
        for job, several in zip(jobs, asked, strict=True):
            kept = [pair.survivors.of(n, found[n]) for n in several]
            at = _places(job, kept[0], images, part)
            job.targets.append((at, torch.stack([outputs_at(job.layer, value, at) for value in kept]).sum(0)))
    return jobs


def _places(job: _Job, output: Tensor, images: int, part: int) -> Tensor | None:
    """Pixels of a layer's output chosen at random, where all images have more than enough of them; None for all."""
    enough = max(LEAST, ENOUGH * matrix_of(job.layer).shape[-1])
    places = -(-enough // (images * max(1, rows_of(job.node))))
    pixels = output[0].numel() // output.shape[read_axis(job.layer, output.dim())]
    if pixels <= places:
        return None
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(part))
    return order[:places].to(output.device)


def _added(pair: BlockPair, node: fx.Node) -> list[fx.Node]:
    """The tensor that a layer's output is added to, where it is known by then and nothing else is done with the output."""
    (reader, *more), order = node.users, list(node.graph.nodes)
    if more or reader.target is not operator.add or len(input_tensors(reader)) != 2:
        return []
    shapes = pair.survivors.channels.shapes
    return [
        other
        for other in input_tensors(reader)
        if order.index(other) < order.index(node) and shapes[tensor_name(other)] == shapes[node.name]
    ]


def _moments(pair: BlockPair, job: _Job) -> tuple[Any, Any]:
    """Of the images to fit and of those apart; samples as they are where inputs are many more."""
    inputs, count = matrix_of(job.layer).shape[-1], sum(len(target) * target.shape[-1] for _, target in job.targets)
    summed = samples if inputs > max(MANY, count) else moments
    found: list[Any] = [None, None]
    rows, asked = max(1, rows_of(job.node)), [sole_input(job.node), *job.others]
    for (x, *others), (at, target) in zip(values_of(pair.pruned, pair.reads_pruned, asked), job.targets, strict=True):
        for other in others:
            target = target - outputs_at(job.layer, other, at)
        columns = patches_of(job.layer, x, at)
        apart = torch.arange(len(x), device=x.device) // rows % APART == APART - 1
        for i, chosen in enumerate((~apart, apart)):
            if bool(chosen.any()):
                sums = summed(*(t[chosen].permute(1, 2, 0, 3).flatten(2) for t in (columns, target)))
                known = found[i]
                found[i] = sums if known is None else known + sums
    fit_to, apart_from = found
    assert fit_to is not None
    return fit_to, apart_from or fit_to
