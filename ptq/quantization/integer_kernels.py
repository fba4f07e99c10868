"""onnxruntime's integer kernels on codes, bit for bit, before the only rounding of each.

- a layer sums products of codes exactly, adds its bias as an integer, and multiplies the sum once, by
  the float32 number scale_x * scale_w / scale_y, before the only rounding (QLinearConv, QGemm);
- an addition is fma(a, scale_a / scale_y, fma(b, scale_b / scale_y, c)) (QLinearAdd);
- a product is the integer product times scale_a * scale_b / scale_y, plus the zero point, and then rounded (QLinearMul);
- a hard sigmoid is a clamp of codes (`ptq.quantization.activation_grids`);
- a global average is the integer sum times scale_x / (scale_y * height * width) (QLinearGlobalAveragePool);
- a softmax is a share of a sum times floor(1 / scale_y), with the floor that the kernel has (QLinearSoftmax).
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import argument, averages_globally, op_name
from ptq.quantization.activation_grids import gate_codes
from ptq.quantization.layers import QuantLayer, apply_layer
from ptq.quantization.quantizers import Quantizer

__all__ = ["Codes", "Pending", "hard_sigmoid", "pending"]

EXACT = 2**24  # integers up to here, and so their sums, are exact in float32


@dataclass(frozen=True)
class Codes:
    """A tensor in integers.

    Attributes:
        values: integer-valued float32 codes less the zero point.
        scale, zero_point: of the grid, each ().
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor

    def real(self) -> Tensor:
        """The real numbers that the codes stand for."""
        return self.values * self.scale


@dataclass(frozen=True)
class Pending:
    """What an integer kernel holds before it rounds to codes of the output.

    Attributes:
        real: the real numbers, for readers that are not a quantizer.
        scaled: output quantizer -> the result over its scale, not yet rounded.
        activation: a ReLU or clamp that the output's clamp does.
    """

    real: Callable[[], Tensor]
    scaled: Callable[[Quantizer], Tensor]
    activation: nn.Module | None = None


def pending(n: fx.Node, module: nn.Module | None, values: list[Codes]) -> Pending | None:
    """The integer kernel for a node that reads codes, or None where it computes in float."""
    if isinstance(module, QuantLayer):
        return _layer(module, values[0])
    if averages_globally(module):
        return _global_average(values[0])
    if (dim := _softmax_dim(n, module)) is not None:
        return _softmax(values[0], dim)
    if n.op == "call_function" and len(values) == len(n.args) == 2:
        if n.target is operator.add:
            return _sum(*values)
        if n.target is operator.mul:
            return _product(*values)
    return None


def _layer(layer: QuantLayer, x: Codes) -> Pending:
    grid = layer.bias_scale()
    assert grid is not None
    weight, bias = layer.weight_quantizer.codes.to(x.values.dtype), layer.bias_codes(grid)
    if _largest_sum(layer, x.values, weight) < EXACT:
        products = apply_layer(layer.op, x.values, weight, None)
    else:
        products = apply_layer(layer.op, x.values.double(), weight.double(), None)
    shape = (-1, *[1] * (0 if isinstance(layer.op, nn.Linear) else 2))
    # One addition of two integers, rounded once: like an int32 sum on its way to float32.
    sums = (products if bias is None else products + bias.to(products).reshape(shape)).float()
    return Pending(lambda: sums * grid.reshape(shape), lambda y: sums * (grid / y.scale).reshape(shape))


def _largest_sum(layer: QuantLayer, x: Tensor, weight: Tensor) -> float:
    """A bound for every partial sum of a layer, whatever the order it is added up in."""
    rows = weight.transpose(0, 1) if isinstance(layer.op, nn.ConvTranspose2d) else weight
    up, down = rows.clamp(min=0).flatten(1).sum(1), rows.clamp(max=0).flatten(1).sum(1).neg()
    low, high = (end.abs() for end in x.aminmax())
    return float(torch.maximum(up * high + down * low, up * low + down * high).max())


def hard_sigmoid(x: Codes) -> Codes:
    """A hard sigmoid: the same codes, clamped, on another grid (`ptq.quantization.activation_grids`)."""
    scale, top = gate_codes(x.scale, x.zero_point)
    return Codes((x.values + x.zero_point).clamp(0, top), scale, torch.zeros_like(scale))


def _sum(a: Codes, b: Codes) -> Pending:
    def scaled(y: Quantizer) -> Tensor:
        ratio_a, ratio_b = a.scale / y.scale, b.scale / y.scale
        # The kernel's constant is in float32, and its codes still hold their zero points.
        constant = y.zero_point - _fma(ratio_a, a.zero_point, ratio_b * b.zero_point)
        inner = _fma(b.values + b.zero_point, ratio_b, constant)
        return _fma(a.values + a.zero_point, ratio_a, inner).round() - y.zero_point

    return Pending(lambda: a.real() + b.real(), scaled)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c rounded once to float32."""
    return (a.double() * b.double() + c.double()).float()


def _product(a: Codes, b: Codes) -> Pending:
    def scaled(y: Quantizer) -> Tensor:
        ratio = a.scale * b.scale / y.scale
        # The kernel rounds with the zero point in: half to even means another neighbor where it is odd.
        return (a.values * b.values * ratio + y.zero_point).round() - y.zero_point

    return Pending(lambda: a.real() * b.real(), scaled)


def _softmax_dim(n: fx.Node, module: nn.Module | None) -> int | None:
    """The dimension that a softmax sums over, or None for other nodes."""
    if isinstance(module, nn.Softmax):
        return module.dim
    if n.op not in ("call_function", "call_method") or op_name(n) != "softmax":
        return None
    dim: int | None = argument(n, 1, "dim")
    return dim


def _softmax(x: Codes, dim: int) -> Pending:
    def real() -> Tensor:
        return x.real().double().softmax(dim).float()

    return Pending(real, lambda y: real() * (1 / y.scale).floor())


def _global_average(x: Codes) -> Pending:
    def scaled(y: Quantizer) -> Tensor:
        pixels = math.prod(x.values.shape[2:])
        sums = x.values.double().sum((2, 3), keepdim=True).float()
        return sums * (x.scale / (y.scale * pixels))

    return Pending(lambda: x.real().mean((2, 3), keepdim=True), scaled)
