"""Weights in the smallest container that holds their codes, at the speed of int8.

An initializer of 4 bits behind ``Cast(INT8) -> DequantizeLinear`` takes half the space, and onnxruntime folds the Cast when
it loads the file: from then on it is an int8 network. (Without the Cast it would run such weights in float.)
A layer that computes in float has its integer weights behind ``Cast(FLOAT) -> Mul`` instead: onnxruntime folds both when
it loads the file, and a DequantizeLinear of a weight never.

Weights of 2 bits need INT2, which opset 25 brings. Whether the onnxruntime at hand does all that is found out by
loading a small network, not by its version.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ptq.errors import PtqError
from ptq.export.onnx_files import LAYER_OPS
from ptq.export.ort import float_layers, optimized, run, session

__all__ = ["CONTAINERS", "LEAST", "Container", "pack", "supported", "unpack_at_load"]

UNPACKING = ("DequantizeLinear", "Cast")  # of integer weights, the latter in layers that compute in float
LEAST = 512  # weights: below this the Cast takes more of the file than it saves


@dataclass(frozen=True)
class Container:
    """An integer type narrower than int8.

    Args:
        bits: of a signed code.
        dtype: in ONNX.
        numpy: the same.
        opset: the first that has it.
    """

    bits: int
    dtype: ir.DataType
    numpy: np.dtype[np.generic]
    opset: int

    def holds(self, codes: NDArray[np.int8]) -> bool:
        """Whether all codes fit."""
        half = 1 << (self.bits - 1)
        return bool(codes.size) and -half <= int(codes.min()) and int(codes.max()) < half


CONTAINERS = (
    Container(2, ir.DataType.INT2, np.dtype(ml_dtypes.int2), 25),
    Container(4, ir.DataType.INT4, np.dtype(ml_dtypes.int4), 21),
)
"""From the smallest."""


def pack(model: ir.Model, containers: tuple[Container, ...]) -> int:
    """Move int8 weights whose codes fit into a smaller container there, in place.

    Args:
        model: every DequantizeLinear or Cast of a weight has an int8 initializer of its own.
        containers: of `CONTAINERS`, from the smallest.

    Returns:
        How many weights were moved. The model's opset is raised where a container needs that.
    """
    moved, graph = 0, model.graph
    for node in list(graph):
        codes = node.inputs[0] if node.op_type in UNPACKING else None
        if codes is None or not codes.is_initializer() or codes.dtype != ir.DataType.INT8:
            continue
        assert codes.const_value is not None and codes.name is not None
        values = codes.const_value.numpy()
        container = next((c for c in containers if c.holds(values)), None)
        if container is None or values.size < LEAST:
            continue
        del graph.initializers[codes.name]
        packed = ir.Value(name=codes.name, shape=codes.shape, type=ir.TensorType(container.dtype))
        packed.const_value = ir.Tensor(values.astype(container.numpy), dtype=container.dtype, name=codes.name)
        graph.register_initializer(packed)
        cast = ir.node("Cast", [packed], {"to": ir.DataType.INT8}, name=f"{node.name}.unpack")
        cast.outputs[0].name = f"{codes.name}.int8"
        cast.outputs[0].shape, cast.outputs[0].type = codes.shape, codes.type
        graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])
        graph.opset_imports[""] = max(graph.opset_imports[""], container.opset)
        moved += 1
    return moved


def unpack_at_load(graph: ir.Graph, layers: Collection[str]) -> None:
    """Let onnxruntime turn the integer weights of layers that compute in float into real numbers once, in place.

    Args:
        graph: named as `export_qdq` names; every DequantizeLinear of a weight has one reader.
        layers: paths of the layers.
    """
    for node in list(graph):
        scope = (node.name or "").rpartition("/")[0]
        weight = node.inputs[1].producer() if node.op_type in LAYER_OPS and node.inputs[1] else None
        if scope not in layers or weight is None or weight.op_type != "DequantizeLinear":
            continue
        codes, scale = weight.inputs[:2]
        assert codes is not None and codes.shape is not None and scale is not None and scale.const_value is not None
        along = [1] * len(codes.shape)
        if scale.const_value.size > 1:
            along[weight.attributes["axis"].as_int()] = scale.const_value.size
        values = ir.tensor(scale.const_value.numpy().reshape(along), name=f"{codes.name}.scale")
        factors = ir.Value(name=values.name, const_value=values, shape=ir.Shape(along), type=scale.type)
        graph.register_initializer(factors)
        cast = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT})
        product = ir.node("Mul", [cast.outputs[0], factors])
        for made in (cast, product):
            made.name = f"{scope}.weight/{made.op_type}"
            made.outputs[0].name = f"{scope}.weight.{made.op_type}"
            made.outputs[0].shape, made.outputs[0].type = codes.shape, scale.type
        graph.insert_before(weight, [cast, product])
        node.replace_input_with(1, product.outputs[0])
        graph.remove(weight, safe=True)


@cache
def supported() -> tuple[Container, ...]:
    """The containers that the onnxruntime at hand loads and runs in integers."""
    return tuple(container for container in CONTAINERS if _runs_in_integers(container))


def _runs_in_integers(container: Container) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        whole, packed = Path(folder) / "int8.onnx", Path(folder) / "packed.onnx"
        model = _probe()
        ir.save(model, whole)
        pack(model, (container,))
        ir.save(model, packed)
        try:
            x = np.linspace(-1, 1, 8 * 16, dtype=np.float32).reshape(1, 8, 4, 4)
            same = np.array_equal(run(session(packed), x), run(session(whole), x))
            return same and not float_layers(optimized(packed))
        except PtqError:
            return False


def _probe() -> ir.Model:
    """A quantized convolution with codes of 2 bits."""
    codes = (np.arange(64 * 8) % 4 - 2).astype(np.int8).reshape(64, 8, 1, 1)
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.01]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [128]),
        helper.make_tensor("codes", TensorProto.INT8, codes.shape, codes.flatten()),
        helper.make_tensor("scales", TensorProto.FLOAT, [64], [0.5] * 64),
        helper.make_tensor("zeros", TensorProto.INT8, [64], [0] * 64),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "scale", "zero"], ["xr"]),
        helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["xr", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["y8"]),
        helper.make_node("DequantizeLinear", ["y8", "scale", "zero"], ["y"]),
    ]
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 8, 4, 4]), ("y", [1, 64, 4, 4]))
    ]
    graph = helper.make_graph(nodes, "probe", shapes[:1], shapes[1:], constants)
    opset = [helper.make_opsetid("", 21)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))
