"""The affine map between real numbers and integer codes, as ONNX QuantizeLinear defines it.

    code = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)
    x~   = (code - zero_point) * scale

Codes are integers held in float tensors: torch computes on them without conversions.
"""

import torch
from torch import Tensor

from ptq.quantization.activation_grids import ZERO_TO_ONE_SCALE, hard_grid, suits
from ptq.quantization.spec import QuantSpec

__all__ = ["dequantize", "fake_quant", "per_channel", "qparams", "quantize", "round_ste"]

# Below this a scale underflows when a bias is put on the grid scale_x * scale_w in float32.
TINY = 1e-10


def round_ste(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes straight through (Bengio et al., 2013)."""
    return x + (x.round() - x).detach()


def per_channel(values: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Shape per-channel `values` (C,) so that they broadcast along `axis` of `like`.

    Example:
        >>> per_channel(torch.ones(8), torch.zeros(8, 3, 1, 1), 0).shape
        torch.Size([8, 1, 1, 1])
    """
    if axis is None or values.dim() == 0:
        return values
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape)


def qparams(low: Tensor, high: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Turn a range into a scale and a zero point.

    The range is widened to contain 0, so that zero padding and ReLU are exact. A grid that is bound to a gate
    takes from it what it can.

    Args:
        low, high: range ends, one per tensor () or per channel (C,).
        spec: the codes to spread over the range.

    Returns:
        scale > 0 and an integer-valued zero point within [qmin, qmax], shaped like `low`.

    Example:
        >>> scale, zero_point = qparams(torch.tensor(-1.0), torch.tensor(3.0), QuantSpec(2))
        >>> scale.item(), zero_point.item()
        (1.3333333730697632, 1.0)
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if spec.symmetric:
        scale = high / spec.qmax
        if spec.signed:
            scale = torch.maximum(low / spec.qmin, scale)
        scale = scale.clamp(min=TINY)
        return scale, torch.zeros_like(scale)
    if spec.grid == "zero_to_one":
        return torch.full_like(high, ZERO_TO_ONE_SCALE), torch.zeros_like(high)
    if spec.grid == "hardsigmoid" or (spec.grid == "hardswish" and suits(high)):
        return hard_grid(high, spec.qmax)
    scale = ((high - low) / (spec.qmax - spec.qmin)).clamp(min=TINY)
    zero_point = (spec.qmin - low / scale).round().clamp(spec.qmin, spec.qmax)
    return scale, zero_point


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Map real numbers to integer codes within [qmin, qmax] (ONNX QuantizeLinear)."""
    return (x / scale).round_().add_(zero_point).clamp_(qmin, qmax)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Map integer codes back to real numbers (ONNX DequantizeLinear)."""
    return (codes - zero_point) * scale


def fake_quant(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """Quantize and dequantize: the real numbers an integer kernel would see. No gradient.

    Example:
        >>> one, zero = torch.tensor(1.0), torch.tensor(0.0)
        >>> fake_quant(torch.tensor([0.5, 1.5, 9.0]), one, zero, 0, 3)
        tensor([0., 2., 3.])
    """
    return dequantize(quantize(x.detach(), scale, zero_point, qmin, qmax), scale, zero_point)
