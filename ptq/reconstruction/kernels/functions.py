"""The kernels as differentiable functions; which implementation runs is decided here, for each call."""

from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ptq.reconstruction.kernels import fused_cpu, reference
from ptq.reconstruction.kernels.reference import GAMMA, ZETA

FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # that the Triton kernels read and write

__all__ = ["blend", "implementation", "mean_error", "quantize_activation", "rectified_sigmoid", "soft_round"]


def implementation(x: Tensor) -> ModuleType:
    """The module whose kernels are the fastest for a tensor."""
    if x.is_cuda and x.dtype in FLOATS:
        return _fused(x.device) or reference
    if x.device.type == "cpu" and x.dtype in fused_cpu.TYPES and fused_cpu.available():
        return fused_cpu
    return reference


@cache
def _fused(device: torch.device) -> ModuleType | None:
    """The Triton kernels, where there is Triton and it compiles for this device."""
    try:
        from ptq.reconstruction.kernels import fused_triton
    except ImportError:
        return None
    return fused_triton if fused_triton.available(device) else None


class _QuantizeActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Tensor, keep: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, scale, grid, keep)
        out: Tensor = implementation(x).quantize_forward(x, keep, scale, grid)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, grid, keep = ctx.saved_tensors
        grad_x, grad_scale = implementation(x).quantize_backward(grads[0], x, keep, scale, grid)
        return grad_x, grad_scale.to(scale.dtype), None, None


def quantize_activation(x: Tensor, scale: Tensor, grid: Tensor, keep: Tensor | None = None) -> Tensor:
    """Apply a clamping activation and fake-quantize per tensor, differentiable in `x` and `scale`.

    Args:
        x: any shape, float32 or bfloat16.
        scale: (), > 0, float32.
        grid: (4,), float32: the activation's bounds (-inf, inf for none; 0, inf for ReLU), and the first and
            the last code less the zero point.
        keep: uint8, shaped like `x`; 1 where `x` is quantized and 0 where it is only clamped (QDrop).

    Returns:
        A tensor like `x` whose values lie on the grid of the codes, where kept.

    Example:
        >>> s, relu4 = torch.tensor(1.0, requires_grad=True), torch.tensor([0.0, torch.inf, 0.0, 3.0])
        >>> y = quantize_activation(torch.tensor([-2.0, 0.4, 9.0]), s, relu4)
        >>> y.sum().backward(); y.tolist(), round(s.grad.item(), 4)
        ([0.0, 0.0, 3.0], 2.6)
    """
    out: Tensor = _QuantizeActivation.apply(x, scale, grid, keep)
    return out


class _MeanError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(output, target, weight)
        error: Tensor = implementation(output).error_forward(output, target, weight)
        return error

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        output, target, weight = ctx.saved_tensors
        grad = implementation(output).error_backward(output, target, weight, grads[0])
        return grad, None, None


def mean_error(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean squared error, differentiable in `output`.

    Args:
        output, target: of one shape; in float32 or bfloat16, each.
        weight: of every error (BRECQ's diagonal Fisher information); the same shape.

    Returns:
        (), float32.
    """
    error: Tensor = _MeanError.apply(output, target, weight)
    return error


def blend(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """`y` where `keep` (uint8) is 1 and `x` where it is 0, without gradients; all of one shape (QDrop)."""
    mixed: Tensor = implementation(x).blend(x, y, keep)
    return mixed


class _SoftRound(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int
    ) -> Tensor:
        ctx.save_for_backward(base, alpha, scale, sharpness)
        ctx.bounds = qmin, qmax
        kernels = implementation(base)
        out: Tensor = kernels.round_forward(base, alpha, scale, sharpness, qmin, qmax)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        base, alpha, scale, sharpness = ctx.saved_tensors
        grad_alpha = implementation(base).round_backward(grads[0], base, alpha, scale, sharpness, *ctx.bounds)
        return None, grad_alpha, None, None, None, None


def soft_round(base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int) -> Tensor:
    """Return the softly rounded weight, differentiable in `alpha` (AdaRound, eq. 22).

    Args:
        base: floor(weight / scale), integer-valued.
        alpha: the rounding variable V, shaped like `base`.
        scale: broadcastable against `base`.
        sharpness: (); 1 for AdaRound's rectified sigmoid, larger for a steeper one.
        qmin: the smallest code.
        qmax: the largest code.

    Returns:
        clamp(base + h(sharpness * alpha), qmin, qmax) * scale.
    """
    out: Tensor = _SoftRound.apply(base, alpha, scale, sharpness, qmin, qmax)
    return out


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """AdaRound's h(V) = clip(sigmoid(V) * (zeta - gamma) + gamma, 0, 1)."""
    return (torch.sigmoid(alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
