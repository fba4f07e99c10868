"""The kernels in plain torch: the definition that every other implementation is tested against.

They know nothing of autograd (`ptq.reconstruction.kernels.functions` does). All arithmetic is in float32, whatever the tensors
are in.
"""

import torch
from torch import Tensor

__all__ = [
    "GAMMA",
    "ZETA",
    "blend",
    "error_backward",
    "error_forward",
    "quantize_backward",
    "quantize_forward",
    "round_backward",
    "round_forward",
]

# The rectified sigmoid stretches (0, 1) to (GAMMA, ZETA) so that it reaches 0 and 1 exactly
# (Louizos et al., 2018; AdaRound, Nagel et al., ICML 2020).
ZETA, GAMMA = 1.1, -0.1


def quantize_forward(x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor) -> Tensor:
    """An activation function that clamps, then fake-quantization of a share of the elements.

    Args:
        x: any shape.
        keep: uint8, shaped like `x`; 1 where it is quantized, 0 where it stays in float (QDrop). None for all.
        scale: (), > 0.
        grid: (4,): the activation's bounds, and the first and the last code less the zero point.

    Returns:
        Shape and type as `x`.
    """
    c, _, codes = _codes(x, scale, grid)
    y = codes * scale
    return (y if keep is None else torch.where(keep > 0, y, c)).to(x.dtype)


def quantize_backward(
    grad: Tensor, x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of `quantize_forward` by LSQ (Esser et al., ICLR 2020).

    Rounding is passed through. Inside the range d y / d scale = round(x/s) - x/s, outside it is the last code.

    Returns:
        With respect to x, shape and type as `x`, and with respect to scale, float32 ().
    """
    g = grad.float()
    c, scaled, codes = _codes(x, scale, grid)
    through = g if keep is None else g * keep.float()
    inside = (scaled > grid[2] - 0.5) & (scaled < grid[3] + 0.5)
    grad_scale = (through * torch.where(inside, codes - scaled, codes)).sum()
    grad_c = torch.where(inside, g, g - through)
    grad_x = torch.where(x.float() == c, grad_c, 0.0)  # the activation function's own clamp
    return grad_x.to(x.dtype), grad_scale


def _codes(x: Tensor, scale: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The clamped input, the same over the scale, and its codes less the zero point."""
    c = torch.clamp(x.float(), grid[0], grid[1])
    scaled = c * (1 / scale)
    return c, scaled, torch.clamp(scaled.round(), grid[2], grid[3])


def blend(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """`y` where `keep` (uint8) is 1 and `x` where it is 0; all of one shape."""
    return torch.where(keep > 0, y.to(x.dtype), x)


def error_forward(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of the squared errors of an output, each by its weight, if any; float32 ()."""
    square = (output.float() - target.float()).square()
    return (square if weight is None else square * weight.float()).mean()


def error_backward(output: Tensor, target: Tensor, weight: Tensor | None, grad: Tensor) -> Tensor:
    """The gradient of `error_forward` with respect to the output, whose gradient is `grad`, ()."""
    slope = (output.float() - target.float()) * (grad * (2 / output.numel()))
    return (slope if weight is None else slope * weight.float()).to(output.dtype)


def round_forward(base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int) -> Tensor:
    """The softly rounded weight: clamp(base + h(sharpness * alpha), qmin, qmax) * scale (AdaRound, eq. 22).

    Args:
        base: floor(weight / scale), integer-valued.
        alpha: the rounding variable, shaped like `base`.
        scale: broadcastable against `base`.
        sharpness: (); the larger, the more h jumps from 0 to 1.
        qmin, qmax: the code range.
    """
    h = (torch.sigmoid(sharpness * alpha) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)
    return (base + h).clamp(qmin, qmax) * scale


def round_backward(
    grad: Tensor, base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int
) -> Tensor:
    """The gradient of `round_forward` with respect to alpha."""
    sigmoid = torch.sigmoid(sharpness * alpha)
    stretched = sigmoid * (ZETA - GAMMA) + GAMMA
    codes = base + stretched.clamp(0.0, 1.0)
    inner: Tensor = torch.ops.aten.hardtanh_backward(grad * scale, codes, float(qmin), float(qmax))
    inner = torch.ops.aten.hardtanh_backward(inner, stretched, 0.0, 1.0)
    slope = (ZETA - GAMMA) * sharpness * sigmoid * (1 - sigmoid)
    return inner * slope
