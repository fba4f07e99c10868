"""The quantized model in the arithmetic of onnxruntime's integer kernels, bit for bit.

Simulating on real numbers rounds in other places than a kernel that sums integers, and a code that falls
to the other side of a tie makes others fall: after twenty layers every second code of two such networks
differs, and with them a few predictions in a thousand. So a quantized model that predicts computes what the kernels do:

- layers, sums, products, averages and softmaxes are integer kernels (`integer_kernels.py`);
- everything else dequantizes, computes in float32 and quantizes again, as the ONNX operators say.

Every rounding is half to even.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import clamp_bounds, foldable, input_tensors, module_of, sole_input
from ptq.quantization.activation_grids import is_hard
from ptq.quantization.integer_kernels import Codes, Pending, hard_sigmoid, pending
from ptq.quantization.integer_ops import IN_FLOAT
from ptq.quantization.quantizers import Quantizer
from ptq.tasks.outputs import Output

__all__ = ["code_bounds", "folded_activation", "hard_gate", "replay", "run_exact"]

Compare = Callable[[str, Tensor, Tensor, Tensor | None], object]


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
                return hard_sigmoid(values[0])
            if moves_data(self.quantized_model, n):
                return self._moved(n, values[0])
            if not n.meta.get(IN_FLOAT) and (result := pending(n, module, values)) is not None:
                return result
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
