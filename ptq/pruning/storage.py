"""A pruned float network on disk: which channels are gone, and the weights of what is left. Nothing is unpickled."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from torch import Tensor, fx, nn

from ptq.errors import InputError, reason
from ptq.graph.fx_helpers import LAYERS
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.removal import remove
from ptq.pruning.results import PruneResult
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["FORMAT", "load_pruned", "save_pruned"]

FORMAT = "ptq-pruned-1"


def save_pruned(pruned: GraphModel, result: PruneResult, path: Path | str, about: Mapping[str, Any]) -> None:
    """Write a pruned float network atomically: weights, biases and constants, and what was removed.

    Args:
        pruned: as `ptq.prune` gave it.
        result: what it gave with that.
        path: a .safetensors file.
        about: JSON-able facts, which readers of the file find in its header.

    Example:
        >>> config = ptq.PruneConfig("1.5x", granule=2, block_iterations=0, network_iterations=4)
        >>> pruned, result = ptq.prune(graph_model, images, config)
        >>> save_pruned(pruned, result, "pruned.safetensors", {"model": None})
        >>> again, _ = load_pruned("pruned.safetensors", graph_model)
        >>> torch.equal(again.module(x), pruned.module(x))
        True
    """
    header = {"format": FORMAT, "result": asdict(result), "about": dict(about)}
    save_tensors(path, pruned.module.state_dict(), header)


def load_pruned(path: Path | str, graph_model: GraphModel) -> tuple[GraphModel, PruneResult]:
    """Rebuild a pruned float network from its file.

    Args:
        path: as `save_pruned` wrote it.
        graph_model: the network that it was made from, prepared; its weights do not matter, and it stays untouched.

    Raises:
        InputError: when the file is missing, damaged, or of another network.
    """
    try:
        header, tensors = read_header(path), read_tensors(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a pruned network ({reason(error)}); prune again.") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path} was not written by this version of ptq; prune again.")
    try:
        result = msgspec.convert(header.get("result"), PruneResult)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is damaged ({error}); prune again.") from error
    channels = find_channels(graph_model)
    kept = torch.ones(channels.count, dtype=torch.bool)
    try:
        kept[torch.tensor(result.removed, dtype=torch.int64)] = False
        pruned = remove(graph_model, channels, kept)
        _add_biases(pruned.module, tensors)
        pruned.module.load_state_dict(tensors)
    except (RuntimeError, IndexError, InputError) as error:
        raise InputError(f"{path} does not fit the network: {reason(error)}") from error
    pruned.module.requires_grad_(False)
    return pruned, result


def _add_biases(graph: fx.GraphModule, tensors: Mapping[str, Tensor]) -> None:
    """Give layers a bias that got one by their repair."""
    for name, layer in graph.named_modules():
        if isinstance(layer, LAYERS) and layer.bias is None and (bias := tensors.get(f"{name}.bias")) is not None:
            layer.bias = nn.Parameter(torch.empty_like(bias), requires_grad=False)
