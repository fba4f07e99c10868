"""The quantized model in the arithmetic of onnxruntime's integer kernels, bit for bit.

Simulating on real numbers rounds in other places than a kernel that sums integers, and a code that falls
to the other side of a tie makes others fall: after twenty layers every second code of two such networks
differs, and with them a few predictions in a thousand. So a quantized model that predicts computes what the kernels do:

- a layer sums products of codes exactly, adds its bias as an integer, and multiplies the sum once, by
  the float32 number scale_x * scale_w / scale_y, before the only rounding (QLinearConv, QGemm);
- an addition is fma(a, scale_a / scale_y, fma(b, scale_b / scale_y, c)) (QLinearAdd);
- a product is the integer product times scale_a * scale_b / scale_y, plus the zero point, and then rounded (QLinearMul);
- a hard sigmoid is a clamp of codes (`ptq.quantization.activation_grids`);
- a global average is the integer sum times scale_x / (scale_y * height * width) (QLinearGlobalAveragePool);
- a softmax is a share of a sum times floor(1 / scale_y), with the floor that the kernel has (QLinearSoftmax);
- everything else dequantizes, computes in float32 and quantizes again, as the ONNX operators say.

Every rounding is half to even.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.data_movement import moves_data
from ptq.graph.fx_helpers import (
    argument,
    averages_globally,
    clamp_bounds,
    foldable,
    input_tensors,
    module_of,
    op_name,
    sole_input,
)
from ptq.quantization.activation_grids import gate_codes, is_hard
from ptq.quantization.integer_ops import IN_FLOAT
from ptq.quantization.layers import QuantLayer, apply_layer
from ptq.quantization.quantizers import Quantizer
from ptq.tasks.outputs import Output

__all__ = ["code_bounds", "folded_activation", "hard_gate", "replay", "run_exact"]

Compare = Callable[[str, Tensor, Tensor, Tensor | None], object]
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


def run_exact(quantized_model: fx.GraphModule, x: Tensor) -> Output:
    """Run a quantized model's graph in integer arithmetic.

    Args:
        quantized_model: calibrated, in eval mode.
        x: images as the network takes them, float32 (N, C, H, W).

    Returns:
        The network's output; several by name.

    Raises:
        PtqError: when a quantizer has no range yet.

    Example:
        >>> run_exact(quantized_model.module, images).shape
        torch.Size([8, 10])
    """
    with torch.no_grad():
        y: Output = _Integers(quantized_model).run(x)
    return y


def replay(quantized_model: fx.GraphModule, x: Tensor, codes: Mapping[str, Tensor], compare: Compare) -> Output:
    """Run a quantized model's graph in integer arithmetic, and go on from codes that another runtime computed.

    Args:
        quantized_model: calibrated, in eval mode.
        x: images as the network takes them, float32 (N, C, H, W).
        codes: name of a quantizer -> the codes that the other runtime computed for `x`. Where it is not named, the
            simulation goes on from its own.
        compare: told of every quantizer in `codes`: its name, the simulation's codes, those given, and the real numbers
            that were quantized; None for what an integer kernel computes.

    Returns:
        The network's output, computed from the last codes.

    Example:
        >>> codes = {"x": torch.full(images.shape, 128, dtype=torch.uint8)}
        >>> y = replay(quantized_model.module, images, codes, lambda name, *_: print(name))
        x
    """
    with torch.no_grad():
        y: Output = _Replay(quantized_model, codes, compare).run(x)
    return y


def folded_activation(graph: fx.GraphModule, quantizer: fx.Node) -> fx.Node | None:
    """Return the ReLU or clamp before a quantizer that its clamp does as well, or None."""
    source = sole_input(quantizer)
    return source if foldable(graph, source) and len(source.users) == 1 else None


def hard_gate(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node of a quantized model is a hard sigmoid whose input's grid is made for it, and not too coarse."""
    if not isinstance(module_of(graph, node), nn.Hardsigmoid):
        return False
    quantizer = module_of(graph, sole_input(node))
    return (
        isinstance(quantizer, Quantizer)
        and quantizer.spec.grid.startswith("hard")
        and is_hard(quantizer.scale, quantizer.zero_point)
    )


def code_bounds(quantizer: Quantizer, activation: nn.Module | None) -> tuple[int, int]:
    """Return the lowest and highest code of a quantizer that also does the activation before it.

    Rounding is monotone, so clamping codes is exactly rounding what was clamped.

    Example:
        >>> code_bounds(Quantizer(ptq.QuantSpec(4)).set_range(torch.tensor(-1.0), torch.tensor(2.0)), nn.ReLU())
        (5, 15)
    """
    zero_point = int(quantizer.zero_point)
    low, high = quantizer.spec.qmin, quantizer.spec.qmax
    least, most = (torch.tensor(bound) / quantizer.scale.cpu() for bound in clamp_bounds(activation))
    if least.isfinite():
        low = max(low, int(least.round()) + zero_point)
    if most.isfinite():
        high = min(high, int(most.round()) + zero_point)
    return low, high


class _Integers(fx.Interpreter):
    """Runs a graph with codes between the nodes where the quantized model quantizes."""

    def __init__(self, quantized_model: fx.GraphModule) -> None:
        super().__init__(quantized_model)
        self.quantized_model = quantized_model

    def run_node(self, n: fx.Node) -> Any:
        module = module_of(self.quantized_model, n)
        values = [self.env[source] for source in input_tensors(n)]
        if isinstance(module, Quantizer):
            return _quantized(module, values[0])
        if n.op == "output":
            return super().run_node(n)
        if n.target is operator.getitem and isinstance(values[0], tuple):
            return values[0][n.args[1]]  # type: ignore[index]  # a piece of codes stays codes
        if foldable(self.quantized_model, n) and isinstance(values[0], Pending):
            consumers = [module_of(self.quantized_model, consumer) for consumer in n.users]
            if len(consumers) == 1 and isinstance(consumers[0], Quantizer):
                return replace(values[0], activation=module)
        if values and all(isinstance(value, Codes) for value in values):
            if hard_gate(self.quantized_model, n):
                return _gate(values[0])
            if moves_data(self.quantized_model, n):
                return self._moved(n, values[0])
            if not n.meta.get(IN_FLOAT) and (pending := _pending(n, module, values)) is not None:
                return pending
        return super().run_node(n)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """Give nodes that compute in float the real numbers."""
        return fx.node.map_aggregate(super().fetch_args_kwargs_from_env(n), _real)

    def _moved(self, n: fx.Node, source: Codes) -> Any:
        codes = fx.Interpreter.fetch_args_kwargs_from_env(self, n)
        args, kwargs = fx.node.map_aggregate(codes, lambda value: value.values if isinstance(value, Codes) else value)
        moved = getattr(self, n.op)(n.target, args, kwargs)
        if isinstance(moved, Tensor):
            return replace(source, values=moved)
        return tuple(replace(source, values=part) for part in moved)


class _Replay(_Integers):
    """Puts given codes in the place of those that quantizers give."""

    def __init__(self, quantized_model: fx.GraphModule, codes: Mapping[str, Tensor], compare: Compare) -> None:
        super().__init__(quantized_model)
        self.codes, self.compare = codes, compare

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if not isinstance(module_of(self.quantized_model, n), Quantizer):
            return result
        name = sole_input(n).name
        if name not in self.codes:
            return result
        given = self.codes[name].float().reshape(result.values.shape)  # tokens are rows in a file
        source = self.env[sole_input(n)]
        self.compare(name, result.values + result.zero_point, given, source if isinstance(source, Tensor) else None)
        return replace(result, values=given - result.zero_point)


def _real(value: Any) -> Any:
    return value.real() if isinstance(value, Codes | Pending) else value


def _quantized(quantizer: Quantizer, value: Any) -> Codes:
    activation = value.activation if isinstance(value, Pending) else None
    scaled = value.scaled(quantizer) if isinstance(value, Pending) else _real(value) / quantizer.scale
    low, high = code_bounds(quantizer, activation)
    zero_point = int(quantizer.zero_point)
    return Codes(scaled.round().clamp(low - zero_point, high - zero_point), quantizer.scale, quantizer.zero_point)


def _pending(n: fx.Node, module: nn.Module | None, values: list[Codes]) -> Pending | None:
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


def _gate(x: Codes) -> Codes:
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
