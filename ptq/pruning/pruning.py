"""Pruning: channels chosen for a budget and removed, and the layers behind them repaired."""

import torch
from torch import Tensor, nn

from ptq.config.budgets import parse_budget
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.ranking import Ranking, rank
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair
from ptq.pruning.results import PrunedLayer, PruneResult
from ptq.tasks.outputs import named
from ptq.utils.metrics import energies, joint_decibels

__all__ = ["prune"]

BATCH = 16  # images at a time


def prune(
    graph_model: GraphModel,
    images: Tensor,
    config: PruneConfig | None = None,
    *,
    ranking: Ranking | None = None,
    progress: Progress = SILENT,
) -> tuple[GraphModel, PruneResult]:
    """Remove channels of a float network until it meets a budget, and repair what is left.

    Args:
        graph_model: as `ptq.prepare` gives it; stays untouched.
        images: calibration images as the network takes them, (N, C, H, W), on its device.
        config: budget, score, allocation, granule and repair.
        ranking: of the same network with the same score, where it is known already.
        progress: told of every layer that is repaired.

    Returns:
        The smaller network, for `ptq.make_plan` and all that follows, and what was removed.

    Raises:
        InputError: for a budget that cannot be met, and for a network that has no channels to remove.

    Example:
        >>> config = ptq.PruneConfig("1.5x", granule=2)
        >>> pruned, result = ptq.prune(graph_model, images, config)
        >>> result.macs[0] / result.macs[1] >= 1.5
        True
        >>> pruned.module(x).shape
        torch.Size([2, 10])
    """
    config = config or PruneConfig()
    ranking = ranking or rank(graph_model, images, config.score)
    channels, costs = ranking.channels, ranking.costs
    counts, kept = ranking.choose(parse_budget(config.budget), config.granule, config.allocation)
    pruned = remove(graph_model, channels, kept)
    before = output_decibels(graph_model, pruned, images)
    after = None
    if config.repair:
        pruned = repair(graph_model, pruned, channels, kept, images, progress=progress)
        after = output_decibels(graph_model, pruned, images)
    sizes = {q: (int(costs.cost(costs.full, q)), int(costs.cost(counts, q))) for q in ("macs", "parameters")}
    layers = tuple(_layers(graph_model, pruned))
    removed = tuple((~kept).nonzero().flatten().tolist())
    return pruned, PruneResult(layers, sizes["macs"], sizes["parameters"], before, after, channels.fixed, removed)


def output_decibels(graph_model: GraphModel, pruned: GraphModel, images: Tensor) -> float:
    """Return the signal to noise ratio of a network's outputs beside those of another, in dB; over all images."""
    sums: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for part in images.split(BATCH):
            wanted, given = named(graph_model.module(part)), named(pruned.module(part))
            for name, reference in wanted.items():
                signal, noise = energies(reference, given[name])
                known = sums.get(name, (0.0, 0.0))
                sums[name] = known[0] + signal, known[1] + noise
    return joint_decibels([signal for signal, _ in sums.values()], [noise for _, noise in sums.values()])


def _layers(graph_model: GraphModel, pruned: GraphModel) -> list[PrunedLayer]:
    found = []
    for node in pruned.module.graph.nodes:
        before, after = module_of(graph_model.module, node), module_of(pruned.module, node)
        if isinstance(before, LAYERS) and isinstance(after, LAYERS):
            (inputs, outputs), (fewer_inputs, fewer_outputs) = _widths(before), _widths(after)
            found.append(PrunedLayer(node.name, (inputs, fewer_inputs), (outputs, fewer_outputs)))
    return found


def _widths(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels
