"""Modules as people give them: taken out of wrappers, copied whatever they hold, weights computed once."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from ptq.errors import InputError, ModelError

__all__ = ["copy_module", "store_computed_weights", "unwrap"]

WRAPPERS = {  # class name -> the attribute that holds the network
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
}


def unwrap(model: object) -> nn.Module:
    """Return the network inside DataParallel, AveragedModel, torch.compile and the like.

    Args:
        model: what somebody passes as a network.

    Raises:
        InputError: for what is no nn.Module.
        ModelError: for a ScriptModule, also within the network, or an exported program, whose Python code is gone.

    Example:
        >>> unwrap(nn.DataParallel(net)) is net
        True
    """
    while isinstance(model, nn.Module) and type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    if isinstance(model, torch.jit.ScriptModule | torch.export.ExportedProgram):
        raise ModelError(f"a {type(model).__name__} cannot be traced again: give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        inside = ": give its .module" if isinstance(getattr(model, "module", None), nn.Module) else ""
        raise InputError(f"a network must be an nn.Module, not a {type(model).__name__}{inside}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name} is scripted, and cannot be traced again: put the nn.Module there that it was made from"
            )
    return model


def copy_module(model: nn.Module) -> nn.Module:
    """Return a deep copy of a module.

    What copy.deepcopy refuses is shared with the original: a lock, an open file, a Python module. A tensor that
    was computed from parameters is copied as the numbers it holds.

    Example:
        >>> copy_module(net) is net
        False
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # an attribute may raise anything
        for module in model.modules():
            for name, value in vars(module).items():
                if name not in _OWN and not _copies(value, memo):
                    memo[id(value)] = value
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(f"cannot copy the model ({error}): remove what copy.deepcopy refuses from it") from error


_OWN = vars(nn.Module()).keys()  # what every module has: parameters, submodules, hooks


def _copies(value: object, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


@torch.no_grad()
def store_computed_weights(model: nn.Module) -> None:
    """Store weights that are computed at every call, in place: weight norm, spectral norm, pruning, parametrizations.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
        >>> store_computed_weights(layer)
        >>> sorted(layer.state_dict())
        ['bias', 'weight']
    """
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
        if parametrize.is_parametrized(module):
            _store_parametrized(module)


def _store_parametrized(module: nn.Module) -> None:
    """torch's `remove_parametrizations` would change the class, which the original of a copy shares."""
    assert isinstance(module.parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach() for name in module.parametrizations}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value, requires_grad=False))
