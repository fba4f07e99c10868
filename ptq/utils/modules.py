"""Modules as people give them: taken out of wrappers, copied whatever they hold, weights computed once."""

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, signature
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from ptq.errors import InputError, ModelError

__all__ = [
    "as_classes",
    "copy_module",
    "eager",
    "evaluating",
    "store_computed_weights",
    "to_eval",
    "unwrap",
    "unwrap_parts",
]

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
    exported = isinstance(model, fx.GraphModule) and "eval" in vars(model)  # ExportedProgram.module() replaces it
    if exported or isinstance(model, torch.jit.ScriptModule | torch.export.ExportedProgram):
        kind = "an exported program" if exported else f"a network of type {type(model).__name__}"
        raise ModelError(f"{kind} cannot be traced again: give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise InputError(f"a network must be an nn.Module, not of type {type(model).__name__}{_instead(model)}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"{name} is scripted, and cannot be traced again: put the nn.Module there that it was made from"
            )
        if _is_quantized(module):
            raise ModelError(f"{name or 'the model'} is quantized already, by torch: give the float network")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("the model has no weights, only shapes: it is on the device meta; load its weights")
    return model


def _instead(given: object) -> str:
    """What to give in place of something that is no network."""
    if isinstance(getattr(given, "module", None), nn.Module):
        return ": give its .module"
    if isinstance(given, type):
        return f": give a network of this class, {given.__name__}()"
    return ": build the network, and load this into it" if isinstance(given, Mapping) else ""


def _is_quantized(module: nn.Module) -> bool:
    """Whether a module of torch's own quantization computes, or watches, with integers."""
    place, name = type(module).__module__, type(module).__name__
    own = place.startswith(("torch.ao.nn.", "torch.ao.quantization.fake_quantize", "torch.ao.quantization.observer"))
    return own and name not in ("FloatFunctional", "Identity") and ".intrinsic.modules.fused" not in place


def unwrap_parts(model: nn.Module) -> None:
    """Put the networks inside wrappers in these wrappers' places, in place: VGG's features in DataParallel.

    Example:
        >>> model = nn.Sequential(nn.DataParallel(net))
        >>> unwrap_parts(model)
        >>> model[0] is net
        True
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = unwrap(child)


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


def to_eval(model: nn.Module) -> None:
    """Put a model in eval mode, whatever its `train` returns or takes.

    Example:
        >>> to_eval(net)
        >>> net.training
        False
    """
    try:
        model.eval()
    except Exception:  # people's train() may take no mode
        for module in model.modules():
            module.training = False


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while; every module's mode is as before afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        to_eval(model)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def eager() -> Iterator[None]:
    """Let functions that torch.compile made run as they were written, for a while."""
    if "torch._dynamo" not in sys.modules:  # which takes seconds to import
        yield
        return
    config = sys.modules["torch._dynamo"].config
    with torch.compiler.set_stance("force_eager"), config.patch(error_on_nested_fx_trace=False):
        yield


def as_classes(model: nn.Module) -> None:
    """Make a forward that was put on a module that of a class of its own, in place; the model's takes one input.

    torch.fx asks a module's class, and takes what torch's modules do from their class.

    Example:
        >>> relu = nn.ReLU()
        >>> relu.forward = torch.tanh
        >>> as_classes(relu)
        >>> type(relu) is nn.ReLU, relu(torch.zeros(1))
        (False, tensor([0.]))
    """
    for module in model.modules():
        forward = vars(module).pop("forward", None)
        forward = getattr(forward, "_torchdynamo_orig_callable", forward)  # of torch.compile
        own, cls = getattr(forward, "__func__", forward), type(module)
        if own is not None and own is not cls.forward:
            bound = isinstance(forward, MethodType) and forward.__self__ is module
            module.__class__ = type(cls.__name__, (cls,), {"forward": own if bound else staticmethod(forward)})
    call, kinds = model.forward, (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    function = isinstance(vars(type(model)).get("forward"), staticmethod)
    if function or any(p.kind in kinds for p in signature(call).parameters.values()):

        def forward_one(self: nn.Module, x: Any) -> Any:  # torch.fx would record *args and **kwargs as inputs
            return call(x)

        model.__class__ = type(type(model).__name__, (type(model),), {"forward": forward_one})


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
