"""Modules that are a BatchNorm in all but name become one: synchronized, frozen, subclassed, hand-written.

They are recognized by what they hold and what they compute, never by their class.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["plain_batchnorms", "record_calls", "replace_module", "same_output", "with_statistics"]

Calls = dict[nn.Module, list[tuple[Tensor, Tensor]]]
PLAIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}  # by the dimensions of what they read
EPS = (1e-5, 1e-3, 1e-6, 0.0)  # where a module does not say its own


def with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a network that remember moments; timm's BatchNormAct2d is one, too."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def plain_batchnorms(model: nn.Module, example: Tensor) -> None:
    """Replace what computes as a BatchNorm does by nn.BatchNorm1d or nn.BatchNorm2d, in place.

    A module is one when it has no submodules, holds `running_mean` and `running_var` and gives what BatchNorm gives:
    SyncBatchNorm, torchvision's and detectron's FrozenBatchNorm2d, subclasses that add nothing.

    Args:
        model: in eval mode.
        example: an input that it runs on.

    Example:
        >>> model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).eval()
        >>> plain_batchnorms(model, torch.zeros(1, 3, 8, 8))
        >>> type(model[1]).__name__
        'BatchNorm2d'
    """
    if not any(map(_may_be_one, model.modules())):
        return  # nearly always: the run below would be for nothing
    for module, seen in record_calls(model, example, _may_be_one).items():
        for candidate in _candidates(module, seen[0][0].dim()):
            if all(same_output(candidate, x, y) for x, y in seen):
                replace_module(model, module, candidate)
                break


def _may_be_one(module: nn.Module) -> bool:
    if type(module) in PLAIN.values() or next(module.children(), None) is not None:
        return False
    return all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))


def _candidates(module: nn.Module, dimensions: int) -> Iterator[nn.Module]:
    """BatchNorms with what `module` holds, one for each epsilon it may have."""
    if dimensions not in PLAIN:
        return
    held = {name: getattr(module, name, None) for name in ("weight", "bias", "running_mean", "running_var")}
    tensors = {name: value.detach().flatten().float() for name, value in held.items() if isinstance(value, Tensor)}
    channels = tensors["running_mean"].numel()
    if any(value.numel() != channels for value in tensors.values()):
        return
    stated = getattr(module, "eps", None)
    for eps in (stated,) if isinstance(stated, float) else EPS:
        norm = PLAIN[dimensions](channels, eps=eps).eval().requires_grad_(False)
        norm.load_state_dict(tensors, strict=False)
        yield norm


def record_calls(model: nn.Module, example: Tensor, wanted: Callable[[nn.Module], bool]) -> Calls:
    """Run a model once and return copies of what the wanted modules read and wrote.

    Modules that are called with anything but one tensor, or give anything else, are left out.
    """
    calls: Calls = defaultdict(list)

    def keep(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            inputs = before.pop(module, args[0])
            calls[module].append((inputs, output.clone()))
        else:
            other.add(module)

    def copy_input(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            before[module] = args[0].clone()  # the module, or what follows, may change it in place

    before: dict[nn.Module, Tensor] = {}
    other: set[nn.Module] = set()
    watched = [module for module in model.modules() if wanted(module)]
    hooks = [m.register_forward_pre_hook(copy_input) for m in watched]
    hooks += [m.register_forward_hook(keep, with_kwargs=True) for m in watched]
    try:
        with torch.no_grad():
            model(example.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return {module: seen for module, seen in calls.items() if module not in other}


@torch.no_grad()
def same_output(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether `module` gives `y` for `x`, but for rounding."""
    try:
        result: Tensor = module(x.clone())
    except RuntimeError:  # it cannot read such a tensor at all
        return False
    return result.shape == y.shape and torch.allclose(result, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `model` holds `old`."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
