"""Pruning: channels chosen for a budget and removed, and the layers behind them repaired."""

from collections.abc import Callable

from torch import Tensor, nn

from ptq.config.budgets import parse_budget
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.removal import remove
from ptq.pruning.repair import repair, split_images
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.results import PrunedLayer, PruneResult, RepairStep
from ptq.pruning.selection.ranking import Ranking, check_images, rank
from ptq.utils.activation_cache import ActivationCache

__all__ = ["prune"]


def prune(
    graph_model: GraphModel,
    images: Tensor,
    config: PruneConfig | None = None,
    *,
    ranking: Ranking | None = None,
    cache: ActivationCache | None = None,
    progress: Progress = SILENT,
    on_step: Callable[[RepairStep, nn.Module], None] | None = None,
) -> tuple[GraphModel, PruneResult]:
    """Remove channels of a float network until it meets a budget, and repair what is left.

    Args:
        graph_model: as `ptq.prepare` gives it; stays untouched.
        images: calibration images as the network takes them, (N, C, H, W), on its device.
        config: budget, score, allocation, granule and the steps of repair.
        ranking: of the same network with the same score, where it is known already.
        cache: keeps activations while layers and blocks are repaired; an `ActivationCache()` of its own when not given.
        progress: told of every layer that is fitted and of every iteration.
        on_step: called after removal and after every step of repair, with the network as it is then.

    Returns:
        The smaller network, for `ptq.make_plan` and all that follows, and what was removed and what repair brought.

    Raises:
        InputError: for a budget that cannot be met, images that the network does not take, and a network that has no channels to remove.

    Example:
        >>> config = ptq.PruneConfig("1.5x", granule=2, block_iterations=5, network_iterations=10)
        >>> pruned, result = ptq.prune(graph_model, images, config)
        >>> result.macs[0] / result.macs[1] >= 1.5
        True
        >>> pruned.module(x).shape
        torch.Size([2, 10])
    """
    config = (config or PruneConfig()).for_images(*images.shape[-2:])
    check_images(graph_model, images)
    ranking = ranking or rank(graph_model, images, config.score)
    channels, costs = ranking.channels, ranking.costs
    counts, kept = ranking.choose(parse_budget(config.budget), config.granule, config.allocation)
    pruned = remove(graph_model, channels, kept)
    pruned, steps = repair(
        graph_model, pruned, Survivors(channels, kept), images, config, cache=cache, progress=progress, on_step=on_step
    )
    learned, apart = map(len, split_images(images))
    layers = tuple(_layers(graph_model, pruned))
    result = PruneResult(
        layers=layers,
        macs=(round(float(costs.cost(costs.full, "macs"))), round(float(costs.cost(counts, "macs")))),
        parameters=(_parameters(graph_model), _parameters(pruned)),
        steps=steps,
        images=(learned, apart),
        fixed=channels.fixed,
        removed=tuple((~kept).nonzero().flatten().tolist()),
    )
    return pruned, result


def _parameters(graph_model: GraphModel) -> int:
    """Numbers in layers, with the biases that repair has given them."""
    graph = graph_model.module
    layers = [module_of(graph, node) for node in graph.graph.nodes]
    return sum(p.numel() for layer in layers if isinstance(layer, LAYERS) for p in layer.parameters())


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
