"""A group of operators as a file of its own, in integers and in float, to be timed.

What a kernel takes depends on shapes alone, so weights are random. The file in integers begins and ends with codes,
that in float with real numbers: what a conversion between the two takes is another file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

__all__ = ["END", "Kernel", "build", "crossing"]

OPSET = 21
SCALE = 0.02
WIDE, NARROW = 127, 63  # the largest code of a weight: kernels without VNNI are slower with codes beyond 7 bits
END = "Neg"  # an operator that is no part of any group, for tensors of any shape
Shape = tuple[int, ...]
Gate = Literal["", "table", "clip", "float"]


@dataclass(frozen=True)
class Kernel:
    """A group of operators that compute together, all that its time depends on.

    Args:
        operator: of ONNX.
        inputs: shapes of the activations that it reads, for one image.
        attributes: of the operator.
        weight: its shape; None where there is none.
        bias: whether there is one.
        narrow: no weight has more than 7 bits.
        activation: behind it, "Relu", "Clip" or none.
        gate: Sigmoid or HardSigmoid: before a product on its last input, and behind a layer on what it gives, which is
            then scaled by that.
        codes: how the gate computes in integers: by a table, as a clip of codes, or in float.
    """

    operator: str
    inputs: tuple[Shape, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    weight: Shape | None = None
    bias: bool = False
    narrow: bool = False
    activation: str = ""
    gate: str = ""
    codes: Gate = ""


class _File:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.random = np.random.default_rng(0)

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.constants.append(helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True))
        return name

    def grid(self, zero_point: int = 128, scale: float = SCALE) -> list[str]:
        return [self.constant(np.array(scale, np.float32)), self.constant(np.array(zero_point, np.uint8))]

    def weight(self, shape: Shape, axis: int, largest: int | None) -> str:
        """A weight; in codes up to `largest`, or in float."""
        if largest is None:
            return self.constant(self.random.standard_normal(shape).astype(np.float32))
        codes = self.random.integers(-largest, largest + 1, shape).astype(np.int8)
        scale = np.full(shape[axis], SCALE, np.float32)
        zero = np.zeros(shape[axis], np.int8)
        constants: list[NDArray[Any]] = [codes, scale, zero]
        return self.add("DequantizeLinear", [*map(self.constant, constants)], axis=axis)

    def bias(self, size: int, integers: bool) -> str:
        if not integers:
            return self.constant(np.zeros(size, np.float32))
        scale = np.full(size, np.float32(SCALE) * np.float32(SCALE), np.float32)
        codes: list[NDArray[Any]] = [np.zeros(size, np.int32), scale, np.zeros(size, np.int32)]
        return self.add("DequantizeLinear", [*map(self.constant, codes)], axis=0)

    def model(self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, int]) -> ModelProto:
        given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
        made = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
        graph: GraphProto = helper.make_graph(self.nodes, "kernel", given, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def build(kernel: Kernel, integers: bool) -> ModelProto:
    """Write a group of operators as a file that reads and gives codes, or real numbers.

    Args:
        kernel: the group.
        integers: whether it shall compute in integers.

    Example:
        >>> relu = Kernel("Add", ((1, 8, 4, 4), (1, 8, 4, 4)), activation="Relu")
        >>> [node.op_type for node in build(relu, integers=False).graph.node]
        ['Add', 'Relu']
    """
    file = _File()
    kind = TensorProto.UINT8 if integers else TensorProto.FLOAT
    names = [f"x{index}" for index in range(len(kernel.inputs))]
    grids = [file.grid() for _ in names] if integers else []
    read = list(names)
    for index, grid in enumerate(grids):
        read[index] = file.add("DequantizeLinear", [names[index], *grid])
    if kernel.gate and kernel.weight is None:
        read = [read[0], _gate(file, kernel, names[-1], read[-1])]
    options = dict(kernel.attributes)
    if kernel.weight is not None:
        axis = 1 if kernel.operator == "Gemm" else 0
        largest = (NARROW if kernel.narrow else WIDE) if integers else None
        read.append(file.weight(kernel.weight, axis, largest))
        if kernel.bias:
            read.append(file.bias(kernel.weight[axis], integers))
    made = file.add(kernel.operator, read, **options)
    if kernel.activation == "Clip" and not integers:
        made = file.add("Clip", [made, *(file.constant(np.array(bound, np.float32)) for bound in (0, 6))])
    elif kernel.activation and not integers:  # in integers the clamp does it
        made = file.add(kernel.activation, [made])
    if kernel.gate and kernel.weight is not None:
        codes, grid = made, file.grid()
        if integers:
            codes = file.add("QuantizeLinear", [made, *grid])
            made = file.add("DequantizeLinear", [codes, *grid])
        made = file.add("Mul", [made, _gate(file, kernel, codes, made)])
        if not integers:  # onnxruntime fuses nothing with what a file ends with
            made = file.add(END, [made])
    if integers:
        made = file.add("QuantizeLinear", [made, *file.grid(0 if kernel.activation else 128)])
    return file.model({x: (kind, shape) for x, shape in zip(names, kernel.inputs, strict=True)}, {made: kind})


def _gate(file: _File, kernel: Kernel, codes: str, real: str) -> str:
    """What the gate gives."""
    integers = codes != real
    if integers and kernel.codes == "clip":
        bounds = [file.constant(np.array(bound, np.uint8)) for bound in (0, 200)]
        return file.add("DequantizeLinear", [file.add("Clip", [codes, *bounds]), *file.grid(0, 1 / 200)])
    options = {"alpha": 1 / 6, "beta": 0.5} if kernel.gate == "HardSigmoid" else {}
    made = file.add(kernel.gate, [real], **options)
    if integers and kernel.codes == "table":
        grid = file.grid(0, 1 / 256)
        made = file.add("DequantizeLinear", [file.add("QuantizeLinear", [made, *grid]), *grid])
    return made


def crossing(shape: Shape) -> ModelProto:
    """Write a file that turns a tensor into codes, and back into real numbers.

    Around it are layers where the tensor is an image: they want it in another layout in integers than in float.

    Example:
        >>> [node.op_type for node in crossing((1, 64)).graph.node]
        ['QuantizeLinear', 'DequantizeLinear']
    """
    file, image = _File(), len(shape) == 4
    if not image:
        codes = file.add("QuantizeLinear", ["x", *file.grid()])
        real = file.add("DequantizeLinear", ["z", *file.grid()])
        given = {"x": (TensorProto.FLOAT, shape), "z": (TensorProto.UINT8, shape)}
        return file.model(given, {codes: TensorProto.UINT8, real: TensorProto.FLOAT})

    def layer(x: str, largest: int | None) -> str:
        weight = file.weight((shape[1], 1, 1, 1), 0, largest)
        return file.add("Conv", [x, weight], group=shape[1], kernel_shape=[1, 1])

    def codes_of(x: str) -> str:
        grid = file.grid()
        return file.add("DequantizeLinear", [file.add("QuantizeLinear", [x, *grid]), *grid])

    real = layer(codes_of(layer(codes_of(layer("x", None)), NARROW)), None)
    return file.model({"x": (TensorProto.FLOAT, shape)}, {real: TensorProto.FLOAT})
