"""Rewrites, before tracing, what hides from torch.fx or from integer kernels.

Every rewrite is generic: it looks at base classes and at what a module computes, never at a
model's name, and it is kept only where the rewritten module gives the same output.
"""

from contextlib import suppress

import torch
from torch import Tensor, nn

from ptq.errors import ModelError, PtqError, reason
from ptq.graph.tracing.attention import plain_attention
from ptq.utils.batchnorms import Calls, plain_batchnorms, record_calls, replace_module, same_output
from ptq.utils.modules import as_classes, copy_module, store_computed_weights, to_eval, unwrap, unwrap_parts

__all__ = ["hooks_of", "rewritten_copy", "same_padding"]


def rewritten_copy(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `model` made of modules that can be traced; `model` stays as it is.

    - Wrappers are taken off, weights that hooks or parametrizations compute are stored, all other hooks are dropped.
    - What computes as a BatchNorm becomes one; subclasses that carry an activation (timm's BatchNormAct2d) become
      BatchNorm + activation; so does every other module that scales and shifts channels (LayerScale).
    - torch's attention modules become linear layers, products and a softmax.
    - Convolutions that compute their padding from the input ("same") get explicit padding for the size of `example`.

    Args:
        model: any module that takes (N, C, H, W).
        example: one input.

    Raises:
        ModelError: when the model cannot be copied or does not run on `example`.
    """
    copied = copy_module(unwrap(model))
    unwrap_parts(copied)
    store_computed_weights(copied)
    to_eval(copied)
    _drop_hooks(copied, example)
    copied.float()
    as_classes(copied)
    copied.requires_grad_(False)
    try:
        plain_batchnorms(copied, example)
        calls = record_calls(copied, example, lambda module: _is_special(module) or _may_scale_channels(module))
    except PtqError:
        raise
    except Exception as error:
        raise ModelError(
            f"the model does not run on an input of shape {tuple(example.shape)}: {reason(error)}. {_hint(model, error)}"
        ) from error
    for module in list(copied.modules()):
        if (new := plain_attention(module)) is not None:
            copied = new.eval() if module is copied else copied
            replace_module(copied, module, new.eval())
    for module in list(copied.modules()):
        new = _plain_convolution(module, calls) or _batchnorm_and_activation(module) or _scaled_channels(module, calls)
        if new is not None and module is not copied:
            replace_module(copied, module, new)
    return copied


def _drop_hooks(model: nn.Module, example: Tensor) -> None:
    """Remove all hooks, in place; weights that some compute before every call are kept as they are then."""
    hooks = [one for module in model.modules() for one in hooks_of(module) if one]
    if hooks:
        first = next((p for p in model.parameters() if p.is_floating_point()), example)
        with torch.no_grad(), suppress(Exception):  # what a model raises is told when it runs without hooks
            model(example.to(first.dtype))
    for one in hooks:
        one.clear()
    for module in model.modules():
        for name in ("weight", "bias"):
            if isinstance(value := vars(module).get(name), Tensor):
                delattr(module, name)
                module._parameters.pop(f"{name}_orig", None)
                module.register_parameter(name, nn.Parameter(value.detach(), requires_grad=False))


def _hint(model: nn.Module, error: Exception) -> str:
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        return "It is run in float32: leave conversions to half precision out of its forward."
    if isinstance(error, TypeError) and "argument" in str(error):
        return "Its forward must take the images alone: say what else it takes, with inputs= or INPUTS in its file."
    return "Check the input size (--size) and the weights."


def hooks_of(module: nn.Module) -> list[dict[int, object]]:
    """Return the dictionaries of hooks that change what a module gives; empty ones included."""
    names = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
        "_forward_hooks_always_called",
    )
    return [getattr(module, name) for name in names]


def _is_special(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and (type(module) is not nn.Conv2d or isinstance(module.padding, str))


def _may_scale_channels(module: nn.Module) -> bool:
    own = not type(module).__module__.startswith("torch.nn.")
    return own and next(module.children(), None) is None and len(module.state_dict()) > 0


def _scaled_channels(module: nn.Module, calls: Calls) -> nn.Module | None:
    """A BatchNorm of mean 0 and variance 1, for a module that multiplies channels with constants and adds constants."""
    seen = calls.get(module, [])
    if not _may_scale_channels(module) or not seen or any(x.dim() != 4 or x.shape != y.shape for x, y in seen):
        return None
    x = seen[0][0][:1]
    try:
        with torch.no_grad():
            shift, moved = module(torch.zeros_like(x)), module(torch.ones_like(x))
    except RuntimeError:
        return None
    plain = nn.BatchNorm2d(x.shape[1], eps=0.0).eval().requires_grad_(False)
    plain.weight.copy_((moved - shift)[0, :, 0, 0])
    plain.bias.copy_(shift[0, :, 0, 0])
    return plain if all(same_output(plain, x, y) for x, y in seen) else None


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
    if not (isinstance(module, nn.Conv2d) and _is_special(module)) or not calls.get(module):
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
        if all(same_output(new, x, y) for x, y in calls[module]):
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


def _batchnorm_and_activation(module: nn.Module) -> nn.Module | None:
    """Split a BatchNorm2d subclass with an `act` into its two parts (timm's BatchNormAct2d)."""
    activation = getattr(module, "act", None)
    if not isinstance(module, nn.BatchNorm2d) or not isinstance(activation, nn.Module):
        return None
    plain = nn.BatchNorm2d(module.num_features, module.eps, affine=module.affine)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name in plain.state_dict()})
    return nn.Sequential(plain, activation).eval().requires_grad_(False)
