"""Repair of a pruned network, step by step: each layer in closed form, each block, and the whole network by features and by outputs.

Every step goes nearer to what the original gives, from what the one before left. Images that no step learns from say what
each brought.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from ptq.data.views import mixed_views
from ptq.graph.features import feature_nodes, giving
from ptq.graph.passes import device_of
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.repair_steps.block_tuning import tune_blocks
from ptq.pruning.repair_steps.closed_form import fit_layers
from ptq.pruning.repair_steps.network_tuning import feature_loss, tune_network
from ptq.pruning.repair_steps.side_by_side import Survivors
from ptq.pruning.results import RepairStep
from ptq.tasks.outputs import named
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.metrics import energies, joint_decibels
from ptq.utils.sampling import every_so_many

__all__ = ["repair"]

BATCH = 16  # images at a time
APART = 8  # every eighth image is not learned from
VIEWS = 3  # of each of these, and the image itself
# What features must leave of the loss so that outputs are not learned behind them: these take as long again, and a little less loss on synthesized
# images was no gain on real ones.
ENOUGH = 0.9
# What the loss of outputs may grow where features came nearer, on the same images: on a few synthesized ones predictions say little. ResNet-20 with
# half its cost gained 1.5 points by features where this loss grew by a quarter.
LOOSE = 1.5


def repair(
    graph_model: GraphModel,
    pruned: GraphModel,
    survivors: Survivors,
    images: Tensor,
    config: PruneConfig,
    *,
    cache: ActivationCache | None = None,
    progress: Progress = SILENT,
    on_step: Callable[[RepairStep, nn.Module], None] | None = None,
) -> tuple[GraphModel, tuple[RepairStep, ...]]:
    """Return the pruned network with weights and biases that come nearer to the original's outputs, and what each step brought.

    Args:
        graph_model: the original.
        pruned: what `ptq.pruning.removal.remove` made of it; stays untouched.
        survivors: what stayed.
        images: as the network takes them, (N, C, H, W), at least 1. Every eighth is not learned from.
        config: which steps, and how long.
        cache: keeps activations between blocks; one of its own when not given.
        progress: told of every layer and every iteration.
        on_step: called after every step, with the network as it is then.
    """
    cache, config = cache or ActivationCache(), config.for_images(*images.shape[-2:])
    training, apart = split_images(images)
    every, original = torch.cat([training, apart]), graph_model.module
    shown = with_views(apart)
    judge = _Judge(graph_model, shown)
    graph, steps = pruned.module, [RepairStep("removal", *judge(pruned.module), True, 0.0)]

    if on_step is not None:
        on_step(steps[0], graph)

    # What steps return is whether something else than outputs came nearer on the images apart.

    def closed_form(graph: fx.GraphModule) -> None:
        fit_layers(original, graph, survivors, training, cache, progress=progress)

    def blocks(graph: fx.GraphModule) -> None:
        tune_blocks(original, graph, survivors, every, len(apart), config, cache, progress=progress)

    features = feature_nodes(original, graph_model.task)

    tuned = partial(tune_network, images=training, apart=shown, config=config, progress=progress)

    def learn_features(graph: fx.GraphModule) -> bool:
        names = {node.name for node in features}
        own = [node for node in graph.graph.nodes if node.name in names]
        loss, count = feature_loss(features, survivors), config.feature_iterations
        return tuned(giving(original, features), giving(graph, own), loss, count, stage="learn features")

    def learn_outputs(graph: fx.GraphModule) -> None:
        loss = partial(graph_model.task.loss, temperature=config.temperature)
        tuned(original, graph, loss, config.network_iterations, stage="learn outputs")

    asked = (
        ("closed form", closed_form, config.closed_form),
        ("blocks", blocks, config.block_iterations > 0),
        ("features", learn_features, config.feature_iterations != 0 and len(features) > 0),
        ("outputs", learn_outputs, config.network_iterations != 0 and graph_model.task.learnable),
    )
    for name, work, wanted in asked:
        if not wanted or (name == "outputs" and _features_suffice(steps)):
            continue
        started, attempt = time.perf_counter(), copy.deepcopy(graph)
        nearer = work(attempt)
        step = RepairStep(name, *judge(attempt), True, time.perf_counter() - started)
        if step.loss < (LOOSE if nearer else 1.0) * steps[-1].loss:  # NaN is no better either
            graph = attempt
        else:
            step = replace(steps[-1], name=name, kept=False, seconds=step.seconds)
        steps.append(step)
        if on_step is not None:
            on_step(step, graph)
    return replace(pruned, module=graph.eval().requires_grad_(False)), tuple(steps)


def _features_suffice(steps: Sequence[RepairStep]) -> bool:
    """Whether the last step learned features, and they brought the outputs nearer by more than a little."""
    return steps[-1].name == "features" and steps[-1].loss <= ENOUGH * steps[-2].loss


def split_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images to learn from, and images to judge by: every eighth; a single one is both.

    Example:
        >>> [len(part) for part in split_images(torch.rand(16, 3, 8, 8))]
        [14, 2]
    """
    apart = every_so_many(len(images), APART)
    return (images[~apart], images[apart]) if len(images) > 1 else (images, images)


def with_views(x: Tensor) -> Tensor:
    """Return images and views of them, always the same: how near two networks are on a few images is a matter of luck."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([x, *(mixed_views(x, generator) for _ in range(VIEWS))])


class _Judge:
    """Says how near a network's outputs are to those of the original on some images: loss, agreement, decibels."""

    def __init__(self, graph_model: GraphModel, images: Tensor) -> None:
        self.task, self.images = graph_model.task, images
        self.wanted = self.outputs(graph_model.module)

    def __call__(self, network: nn.Module) -> tuple[float, float, float]:
        given = self.outputs(network)
        pairs = [energies(value, given[name]) for name, value in self.wanted.items()]
        decibels = joint_decibels([signal for signal, _ in pairs], [noise for _, noise in pairs])
        return float(self.task.loss(given, self.wanted)), self.task.agreement(given, self.wanted), decibels

    @torch.no_grad()
    def outputs(self, network: nn.Module) -> dict[str, Tensor]:
        device = device_of(network, self.images)
        parts = [named(network(part.to(device))) for part in self.images.split(BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
