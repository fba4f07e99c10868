"""Rewrites, before tracing, what hides from torch.fx or from integer kernels.

Every rewrite is generic: it looks at base classes and at what a module computes, never at a
model's name, and it is kept only where the rewritten module gives the same output.
"""

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ptq.errors import ModelError, PtqError, reason

__all__ = ["rewritten_copy", "same_padding"]

Calls = dict[nn.Module, list[tuple[Tensor, Tensor]]]


def rewritten_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `model` made of modules that can be traced; `model` stays as it is.

    - BatchNorm subclasses that carry an activation (timm's BatchNormAct2d) become BatchNorm +
      activation.
    - Convolutions that compute their padding from the input ("same") get explicit padding for
      the size of `example`.
    - Parametrizations (weight norm, spectral norm) are computed once.

    Args:
        model: any module that takes (N, 3, H, W).
        example: one input.

    Raises:
        ModelError: when the model cannot be copied or does not run on `example`.
    """
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"cannot copy the model ({reason(error)}); remove what copy.deepcopy refuses from it."
        ) from error
    copied = copied.float().eval().requires_grad_(False)
    for module in copied.modules():
        module._forward_hooks.clear()  # they watch the original; what changes its output shows later
        if parametrize.is_parametrized(module):
            _compute_once(module)
    calls = _record(copied, example)
    for name, module in list(copied.named_modules()):
        new = _plain_convolution(module, calls) or _batchnorm_and_activation(module)
        if new is not None and name:
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, new)
    return copied


def _compute_once(module: nn.Module) -> None:
    """Put parameters in the place of parametrizations, whose values are computed once.

    torch's `remove_parametrizations` would do it on the class, which the original shares.
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach() for name in module.parametrizations}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value, requires_grad=False))


def _is_special(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and (type(module) is not nn.Conv2d or isinstance(module.padding, str))


def _record(model: nn.Module, example: Tensor) -> Calls:
    """Run the model once and keep what the special convolutions read and wrote."""
    calls: Calls = defaultdict(list)

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # Copies, because what follows may change them in place.
        calls[module].append((args[0].clone(), output.clone()))

    hooks = [m.register_forward_hook(keep) for m in model.modules() if _is_special(m)]
    try:
        with torch.no_grad():
            model(example.clone())
    except PtqError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model does not run on an input of shape {tuple(example.shape)}: {reason(error)}. "
            "Check the input size (--size) and the weights."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Zeros before and after one dimension such that the output has ceil(size / stride) entries.

    Example:
        >>> same_padding(224, 3, 2, 1)
        (0, 1)
    """
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _plain_convolution(module: nn.Module, calls: Calls) -> nn.Module | None:
    """An nn.Conv2d, behind zero padding where that is uneven, that does what `module` did."""
    if not (isinstance(module, nn.Conv2d) and _is_special(module)) or not calls[module]:
        return None
    height, width = calls[module][0][0].shape[-2:]
    same = [
        same_padding(size, kernel, stride, dilation)
        for size, kernel, stride, dilation in zip(
            (height, width), module.kernel_size, module.stride, module.dilation, strict=True
        )
    ]
    stated = (0, 0) if isinstance(module.padding, str) else module.padding
    for (top, bottom), (left, right) in (same, [(p, p) for p in stated]):
        even = top == bottom and left == right
        plain = _convolution(module, (top, left) if even else (0, 0))
        new = plain if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)
        if all(_close(new, x, y) for x, y in calls[module]):
            return new.eval()
    return None  # it does something else (weight standardization, say): trace through it


def _convolution(module: nn.Conv2d, padding: tuple[int, int]) -> nn.Conv2d:
    plain = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        (module.kernel_size[0], module.kernel_size[1]),
        (module.stride[0], module.stride[1]),
        padding,
        (module.dilation[0], module.dilation[1]),
        module.groups,
        module.bias is not None,
        device="meta",
    )
    plain.weight, plain.bias = module.weight, module.bias
    return plain


@torch.no_grad()
def _close(module: nn.Module, x: Tensor, y: Tensor) -> bool:
    try:
        result: Tensor = module(x)
    except RuntimeError:  # with such padding, the kernel is larger than the image
        return False
    return result.shape == y.shape and torch.allclose(result, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


def _batchnorm_and_activation(module: nn.Module) -> nn.Module | None:
    """Split a BatchNorm2d subclass with an `act` into its two parts (timm's BatchNormAct2d)."""
    activation = getattr(module, "act", None)
    if not isinstance(module, nn.BatchNorm2d) or not isinstance(activation, nn.Module):
        return None
    plain = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name in plain.state_dict()})
    return nn.Sequential(plain, activation).eval().requires_grad_(False)
