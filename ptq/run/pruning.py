"""Pruning as a stage of a run: between the images and quantization."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq.config.budgets import parse_budget, parse_milliseconds
from ptq.config.choices import Arithmetic
from ptq.config.pruning_settings import PruningSettings
from ptq.config.settings import Settings, chosen
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.pruning import prune
from ptq.pruning.results import PruneResult
from ptq.pruning.selection.ranking import check_score, rank, unranked
from ptq.pruning.storage import load_pruned, save_pruned
from ptq.run.latency_budget import Sizes
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.ranks import by_first, done_by_first
from ptq.utils.work_store import WorkStore

__all__ = ["PRUNED", "check_pruning", "estimate_pruning", "keep_pruned", "prune_config", "prune_network", "pruned_by"]

FEW = 12  # iterations for an estimate
PRUNED = "pruned.safetensors"  # of a run directory: the float network without the channels that were removed


def prune_config(settings: PruningSettings, seed: int = 0) -> PruneConfig:
    """Return how channels are removed: as `PruneConfig` says, but for what is set. A latency is no budget of its."""
    config = PruneConfig(seed=seed, **chosen(settings))
    if settings.budget is None or settings.latency is not None:
        return config
    return replace(config, budget=settings.budget)


def prune_network(
    graph_model: GraphModel,
    inputs: Tensor,
    settings: Settings,
    device: torch.device,
    *,
    folder: Path | None = None,
    writes: Arithmetic = "int8",
    progress: Progress = SILENT,
) -> tuple[GraphModel, PruneResult]:
    """Remove channels as the settings say, and repair what is left.

    Args:
        graph_model: the float network; comes out as it went in, on the CPU.
        inputs: the run's images as the network takes them.
        settings: with a budget.
        device: where to compute.
        folder: for activations beyond the memory limit.
        writes: what a latency is measured of where the settings do not say, "int8" or "float".
        progress: told of every step.

    Raises:
        InputError: for a budget that cannot be met, and for a network that has no channels to remove.
    """
    config, pruning = prune_config(settings.pruning, settings.execution.seed), settings.pruning
    cache = ActivationCache(settings.execution.memory_bytes(), folder, device)
    graph_model.module.to(device)
    inputs, search = inputs.to(device), None
    ranking = rank(graph_model, inputs, config.score)
    if pruning.latency is not None:
        limit, of = parse_milliseconds(pruning.latency), pruning.latency_of or writes
        with Sizes(graph_model, ranking, config, settings, of, progress) as sizes:
            search = sizes.search(limit)
        config = replace(config, budget=f"{search.factor}x")
    pruned, result = prune(graph_model, inputs, config, ranking=ranking, cache=cache, progress=progress)
    for network in (graph_model, pruned):
        network.module.to(torch.device("cpu"))
    return pruned, replace(result, search=search)


@done_by_first
def check_pruning(
    graph_model: GraphModel, settings: Settings, *, writes: Arithmetic = "int8", progress: Progress = SILENT
) -> None:
    """Refuse a budget that no choice of channels can meet, before images are made; a latency is measured for that.

    Raises:
        InputError: for such a budget, which says what can be met, and for a network that has no channels to remove.
    """
    config, pruning = prune_config(settings.pruning), settings.pruning
    if pruning.budget is None:
        return
    ranking = unranked(graph_model)
    check_score(graph_model, config.score)
    if pruning.latency is None:
        ranking.choose(parse_budget(config.budget), config.granule, config.allocation)
    else:
        limit, of = parse_milliseconds(pruning.latency), pruning.latency_of or writes
        with Sizes(graph_model, ranking, config, settings, of, progress) as sizes:
            sizes.ends(limit)


def keep_pruned(
    folder: Path,
    store: WorkStore,
    graph_model: GraphModel,
    about: Mapping[str, Any],
    make: Callable[[], tuple[GraphModel, PruneResult]],
) -> tuple[GraphModel, PruneResult]:
    """Return the network of pruned.safetensors in a run directory; make it where there is no finished one.

    Args:
        folder: the run directory.
        store: vouches for a network that need not be made again.
        graph_model: the network before.
        about: facts for the file's header.
        make: prunes.
    """
    path = folder / PRUNED

    def finish() -> None:
        if not store.vouches(path):
            save_pruned(*make(), path, about)
            store.vouch(path)

    by_first(finish)
    return load_pruned(path, graph_model)


def pruned_by(folder: Path) -> Callable[[GraphModel], GraphModel]:
    """Return what makes the pruned network of a run directory out of the network before."""
    return lambda graph_model: load_pruned(folder / PRUNED, graph_model)[0]


def estimate_pruning(
    graph_model: GraphModel, inputs: Tensor, count: int, settings: Settings, device: torch.device
) -> tuple[GraphModel, float]:
    """Prune with a few images and iterations; return the network, and the seconds that all of them will take.

    Args:
        graph_model: the float network.
        inputs: a few images.
        count: how many there will be.
        settings: with a budget.
        device: where to compute.
    """
    config = prune_config(settings.pruning).for_images(*inputs.shape[-2:])
    wanted = {
        "blocks": config.block_iterations,
        "features": config.feature_iterations or 0,
        "outputs": config.network_iterations or 0,
    }
    few = {name: min(FEW, iterations) for name, iterations in wanted.items()}
    tried = replace(
        settings.pruning,
        block_iterations=few["blocks"],
        feature_iterations=few["features"],
        network_iterations=few["outputs"],
    )
    started = time.perf_counter()
    pruned, result = prune_network(graph_model, inputs, replace(settings, pruning=tried), device)
    iterations = {step.name: step.seconds for step in result.steps if few.get(step.name)}
    once = time.perf_counter() - started - sum(iterations.values())
    return pruned, once * count / len(inputs) + sum(s * wanted[name] / few[name] for name, s in iterations.items())
