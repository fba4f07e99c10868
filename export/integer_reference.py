"""An interpreter of exported files in exact integer arithmetic: what a correct integer runtime computes.

It reads the ONNX file and nothing else, neither the quantized model nor the exporter, so that it can judge both.
Where the file says that a convolution, a matrix product, an addition, a product or a global average lies between
DequantizeLinear and QuantizeLinear, sums are taken over integers and rounded once, as onnxruntime's kernels do:

    layer           round(float32(sum of x w + bias) * float32(s_x s_w / s_y))
    addition        round(fma(a, s_a / s_y, fma(b, s_b / s_y, c)))     c = z_y - fma(s_a / s_y, z_a, s_b / s_y * z_b)
    product         round(a b * float32(s_a s_b / s_y))
    global average  round(float32(sum) * float32(s_x / (s_y h w)))

Every rounding is half to even. Operators between float tensors are left to onnxruntime, one at a time, without its
optimizations.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from ptq.export.network_inputs import channels_of, split_channels
from ptq.export.onnx_files import read_onnx
from ptq.export.results import Exact
from ptq.tasks.outputs import Output, named

__all__ = ["ExactComparison", "IntegerReference"]

UNPACKED = (onnx.TensorProto.INT4, onnx.TensorProto.INT2, onnx.TensorProto.UINT4)


@dataclass(frozen=True)
class Quantized:
    """What DequantizeLinear gives: integers that stand for (codes - zero) * scale.

    Attributes:
        codes: integer-valued, float64: sums of products stay exact up to 2^53.
        scale: float32, () or (C,).
        zero: float64, like `scale`.
        axis: of `scale` where it is (C,).
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    axis: int

    def centered(self) -> Tensor:
        """The codes less their zero point."""
        return self.codes - self._along(self.zero)

    def real(self) -> Tensor:
        """The real numbers, in float32 as onnxruntime computes them."""
        return self.centered().float() * self._along(self.scale)

    def _along(self, values: Tensor) -> Tensor:
        shape = [1] * self.codes.dim()
        if values.numel() > 1:
            shape[self.axis] = -1
        return values.reshape(shape) if self.codes.dim() else values.reshape(())


@dataclass(frozen=True)
class Pending:
    """A result that is not rounded yet.

    Attributes:
        real: gives it as real numbers.
        in_steps: gives it in steps of the scale that it will be rounded to, for that scale and its zero point.
    """

    real: Callable[[], Tensor]
    in_steps: Callable[[Tensor, Tensor], Tensor]


Value = Tensor | Quantized | Pending


class IntegerReference:
    """An exported file, ready to be computed exactly.

    Args:
        path: of the file.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that is no valid ONNX.

    Example:
        >>> path = ptq.export_qdq(quantized_model, "model.onnx")
        >>> IntegerReference(path)(x.numpy()).shape
        (2, 10)
    """

    def __init__(self, path: Path | str) -> None:
        self.model = read_onnx(path)
        self.graph = self.model.graph
        self.constants = {t.name: _tensor(t) for t in self.graph.initializer}
        self.consumers = Counter(name for node in self.graph.node for name in node.input)
        self.quantized = {node.input[0] for node in self.graph.node if node.op_type == "QuantizeLinear"}
        self.ends = {output.name for output in self.graph.output}
        self.sessions: dict[str, Any] = {}

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's only output for normalized images, float32 (N, C, H, W)."""
        (output,) = self.run_all(images)
        return output

    @torch.no_grad()
    def run_all(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return all outputs for normalized images, in the file's order."""
        values: dict[str, Value] = dict(self.constants)
        parts = split_channels(images, channels_of(self.graph))
        values |= {one.name: torch.from_numpy(part) for one, part in zip(self.graph.input, parts, strict=True)}
        left = self.consumers.copy()
        for node in self.graph.node:
            outputs = self._outputs(node, [values.get(name) for name in node.input])
            values.update(zip(node.output, outputs, strict=True))
            for name in node.input:
                left[name] -= 1
                if name and not left[name] and name not in self.constants and name not in self.ends:
                    del values[name]
        return [_real(values[output.name]).numpy() for output in self.graph.output]

    def _outputs(self, node: NodeProto, inputs: list[Value | None]) -> list[Value]:
        if node.op_type == "QuantizeLinear":
            return [_quantize(inputs, _attributes(node))]
        if node.op_type == "DequantizeLinear":
            return [_dequantize(inputs, _attributes(node))]
        kernel = KERNELS.get(node.op_type)
        given = [value for value in inputs if value is not None]
        if kernel is not None and all(isinstance(value, Quantized) for value in given):
            (output,) = node.output
            is_quantized = self.consumers[output] == 1 and output in self.quantized
            if is_quantized or node.op_type == "Gemm":  # which writes real numbers, too
                return [kernel(given, _attributes(node))]
        return list(self._in_float(node, [None if v is None else _real(v) for v in inputs]))

    def _in_float(self, node: NodeProto, inputs: list[Tensor | None]) -> list[Tensor]:
        """Run one operator with onnxruntime; constants that have no value here are left out."""
        feeds = {name: value.numpy() for name, value in zip(node.input, inputs, strict=True) if value is not None}
        key = f"{node.name}{node.output[0]}"
        if key not in self.sessions:
            self.sessions[key] = _single_operator(node, feeds, self.model)
        results = self.sessions[key].run(None, feeds)
        return [torch.from_numpy(np.asarray(result)) for result in results]


class ExactComparison:
    """Compares what a runtime gives for a file with exact integer arithmetic; slow, so that few images must do.

    Args:
        path: of the file.
    """

    IMAGES = 64

    def __init__(self, path: Path | str) -> None:
        self.integer_reference = IntegerReference(path)
        self.images, self.differing, self.largest = 0, 0, 0.0

    def add(self, x: Tensor, given: Output) -> None:
        """Compare outputs `given` for normalized images `x`, (N, C, H, W), as long as there were too few."""
        x = x[: max(0, self.IMAGES - self.images)]
        if not len(x):
            return
        differs = torch.zeros(len(x), dtype=torch.bool)
        for exact, output in zip(self.integer_reference.run_all(x.numpy()), named(given).values(), strict=True):
            expected = torch.from_numpy(exact)
            if not expected.is_floating_point():  # floats that are nearly tied decide them
                continue
            apart = (expected - output[: len(x)]).abs()
            differs |= apart.reshape(len(x), -1).amax(1).gt(0)
            self.largest = max(self.largest, float(apart.max() / expected.abs().max()) if apart.any() else 0.0)
        self.images += len(x)
        self.differing += int(differs.sum())

    def result(self) -> Exact:
        """Return what was found so far."""
        return Exact(self.images, self.differing, self.largest)


def _single_operator(node: NodeProto, feeds: dict[str, NDArray[Any]], model: onnx.ModelProto) -> Any:
    """Open a session of one operator, for inputs of any size."""
    ins = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in feeds.items()
    ]
    outs = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "single", ins, outs)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(single.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _tensor(constant: onnx.TensorProto) -> Tensor:
    values = numpy_helper.to_array(constant)
    return torch.from_numpy(np.array(values.astype(np.int8) if constant.data_type in UNPACKED else values))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _real(value: Value) -> Tensor:
    return value if isinstance(value, Tensor) else value.real()


def _dequantize(inputs: list[Value | None], attributes: dict[str, Any]) -> Quantized:
    codes, scale = inputs[:2]
    zero = inputs[2] if len(inputs) > 2 else None
    assert isinstance(codes, Tensor) and isinstance(scale, Tensor)
    zeros = zero.double() if isinstance(zero, Tensor) else torch.zeros_like(scale).double()
    return Quantized(codes.double(), scale, zeros, attributes.get("axis", 1))


def _quantize(inputs: list[Value | None], attributes: dict[str, Any]) -> Tensor:
    value, scale, zero = inputs
    assert isinstance(scale, Tensor) and isinstance(zero, Tensor) and zero.dtype == torch.uint8
    if isinstance(value, Pending):
        steps = value.in_steps(scale, zero.double())
    else:
        assert value is not None
        steps = (_real(value) / scale).double()
    return (steps.round() + zero.double()).clamp(0, 255).to(torch.uint8)


def _rounded_once(sums: Tensor, scale: Tensor) -> Pending:
    """Multiply integer sums by the real number that each step of them stands for, in float32 as kernels do."""
    return Pending(lambda: sums.float() * scale, lambda y, _: (sums.float() * (scale / y)).double())


def _conv(inputs: list[Quantized], attributes: dict[str, Any]) -> Pending:
    x, weight, *bias = inputs
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    padded = F.pad(x.centered(), (left, right, top, bottom))
    sums = F.conv2d(
        padded,
        weight.centered(),
        None,
        attributes.get("strides", 1),
        0,
        attributes.get("dilations", 1),
        attributes.get("group", 1),
    )
    return _layer(sums, x, weight, bias, (-1, 1, 1))


def _gemm(inputs: list[Quantized], attributes: dict[str, Any]) -> Pending:
    x, weight, *bias = inputs
    return _layer(x.centered() @ weight.centered(), x, weight, bias, (-1,))


def _layer(sums: Tensor, x: Quantized, weight: Quantized, bias: list[Quantized], shape: tuple[int, ...]) -> Pending:
    total = sums + bias[0].codes.reshape(shape) if bias else sums
    return _rounded_once(total, (x.scale * weight.scale).reshape(shape))


def _add(inputs: list[Quantized], attributes: dict[str, Any]) -> Pending:
    a, b = inputs

    def in_steps(scale: Tensor, zero: Tensor) -> Tensor:
        ratio_a, ratio_b = a.scale / scale, b.scale / scale
        constant = zero.float() - _fma(ratio_a, a.zero, ratio_b * b.zero.float())
        total = _fma(a.codes, ratio_a, _fma(b.codes, ratio_b, constant))
        return total.round().double() - zero

    return Pending(lambda: a.real() + b.real(), in_steps)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, rounded once to float32."""
    return (a.double() * b.double() + c.double()).float()


def _mul(inputs: list[Quantized], attributes: dict[str, Any]) -> Pending:
    a, b = inputs
    product, grain = (a.centered() * b.centered()).float(), a.scale * b.scale

    def in_steps(scale: Tensor, zero: Tensor) -> Tensor:
        # The zero point is added in float32, and before the rounding: half to even sees it.
        return (product * (grain / scale) + zero.float()).round().double() - zero

    return Pending(lambda: a.real() * b.real(), in_steps)


def _global_average(inputs: list[Quantized], attributes: dict[str, Any]) -> Pending:
    (x,) = inputs
    pixels = x.codes.shape[2:].numel()
    sums = x.centered().sum((2, 3), keepdim=True)
    return Pending(
        lambda: x.real().mean((2, 3), keepdim=True), lambda y, _: (sums.float() * (x.scale / (y * pixels))).double()
    )


KERNELS: dict[str, Callable[[list[Any], dict[str, Any]], Pending]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "Add": _add,
    "Mul": _mul,
    "GlobalAveragePool": _global_average,
}
