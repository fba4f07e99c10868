"""Reference kernels in plain torch: the definition that every other kernel is tested against."""

from typing import Any

import torch
from torch import Tensor

from ptq.affine import dequantize, quantize

__all__ = ["GAMMA", "ZETA", "fake_quantize", "rectified_sigmoid", "soft_round"]

# The rectified sigmoid stretches (0, 1) to (GAMMA, ZETA) so that it reaches 0 and 1 exactly
# (Louizos et al., 2018; AdaRound, Nagel et al., ICML 2020).
ZETA, GAMMA = 1.1, -0.1


class _FakeQuantize(torch.autograd.Function):
    """Fake-quantization with the gradients of LSQ (Esser et al., ICLR 2020) for x and scale.

    Written for few passes over memory. Masks are floats and comparisons are clamps, because torch's
    boolean kernels take twenty times as long on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        keep: Tensor | None,
    ) -> Tensor:
        y = dequantize(quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)
        ctx.save_for_backward(x, y, scale, zero_point, keep)
        ctx.bounds = qmin, qmax
        return y if keep is None else torch.lerp(x, y, keep)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, y, scale, zero_point, keep = ctx.saved_tensors
        qmin, qmax = ctx.bounds
        step, zero = float(scale), float(zero_point)
        through = grad if keep is None else grad * keep
        # The gradient of a clamp to the range of values that are not clipped.
        inside = torch.ops.aten.hardtanh_backward(
            through, x, (qmin - 0.5 - zero) * step, (qmax + 0.5 - zero) * step
        )
        grad_scale = None
        if ctx.needs_input_grad[1]:
            # Inside the range d y / d scale = round(x/s) - x/s = (y - x) / s, outside it is y / s.
            grad_scale = (_dot(through, y) - _dot(inside, x)) / scale
        grad_x = inside if keep is None else inside.add_(grad).sub_(through)
        return grad_x, grad_scale, None, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    keep: Tensor | None = None,
) -> Tensor:
    """Quantize and dequantize `x` per tensor, differentiable in `x` and `scale`.

    Args:
        x: any shape.
        scale: (), > 0.
        zero_point: (), integer-valued.
        qmin, qmax: the code range.
        keep: shaped like `x`; 1 where `x` is quantized and 0 where it stays as it is (QDrop).

    Returns:
        A tensor like `x` whose values lie on the grid (k - zero_point) * scale, where kept.

    Example:
        >>> s = torch.tensor(1.0, requires_grad=True)
        >>> y = fake_quantize(torch.tensor([0.4, 9.0]), s, torch.tensor(0.0), 0, 3)
        >>> y.sum().backward(); round(s.grad.item(), 4)
        2.6
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        out: Tensor = _FakeQuantize.apply(x, scale, zero_point, qmin, qmax, keep)
        return out
    y = dequantize(quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)
    return y if keep is None else torch.lerp(x, y, keep)


def rectified_sigmoid(alpha: Tensor) -> Tensor:
    """AdaRound's h(V) = clip(sigmoid(V) * (zeta - gamma) + gamma, 0, 1)."""
    return (torch.sigmoid(alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def soft_round(base: Tensor, alpha: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """Return the softly rounded weight, differentiable in `alpha` (AdaRound, eq. 22).

    Args:
        base: floor(weight / scale), integer-valued.
        alpha: the rounding variable V, shaped like `base`.
        scale: broadcastable against `base`.
        qmin, qmax: the code range.

    Returns:
        clamp(base + h(alpha), qmin, qmax) * scale.
    """
    return (base + rectified_sigmoid(alpha)).clamp(qmin, qmax) * scale
