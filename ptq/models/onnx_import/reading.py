"""An ONNX file is read, and what cannot be converted is refused before anything else is done."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from ptq.errors import InputError, ModelError, PtqError, reason
from ptq.models.onnx_import.op import describe
from ptq.models.onnx_import.operators import OPERATORS
from ptq.models.onnx_import.validity import refuse_broken_names, refuse_unreadable_weights

__all__ = ["read_float"]

OLDEST = 7  # before, operators broadcast in another way
LEAST_IR = 4  # from here on weights need not be inputs, too
STANDARD = ("", "ai.onnx")
QUANTIZING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def read_float(path: Path) -> ir.Model:
    """Read a float network; functions are written out, and all real numbers made float32.

    Raises:
        InputError: for a file that is not there, is not ONNX, or lacks its weights.
        ModelError: for a network that is quantized already, is of an old operator set, or has operators that ptq does
            not know.
    """
    model = _load(path)
    version = next((v for domain, v in model.opset_imports.items() if domain in STANDARD), 0)
    if not version:
        raise InputError("it does not say of which operator set it is: export it again")
    if version < OLDEST:
        raise ModelError(
            f"it is of operator set {version}: export it again with {OLDEST} or later, or convert it with "
            "onnx.version_converter"
        )
    quantizing = [n for n in _nodes(model.graph) if n.op_type in QUANTIZING or n.op_type.startswith("QLinear")]
    if quantizing:
        raise ModelError(
            f"it is quantized already, at {describe(quantizing[0])}: give the float file that it was made from"
        )
    _refuse_unknown(model.graph)
    _to_float32(model.graph)
    return model


def _load(path: Path) -> ir.Model:
    if not path.is_file():
        raise InputError("there is no such file")
    try:
        proto = onnx.load(str(path), load_external_data=False)
        if not proto.HasField("graph") or not proto.graph.node:
            raise ValueError("it holds no graph")
        refuse_broken_names(proto)
        _refuse_absent_weights(proto, path.parent)
        onnx.load_external_data_for_model(proto, str(path.parent))
        model = ir.from_proto(proto)
        model = common.InlinePass()(model).model
        common.RemoveInitializersFromInputsPass()(model)
        model.ir_version = max(model.ir_version, LEAST_IR)
        common.RemoveUnusedNodesPass()(model)
        _sort(model.graph)
        refuse_unreadable_weights(model.graph)
    except onnx.checker.ValidationError as error:  # of weights beside the file
        raise InputError(
            f"its weights are in another file, which cannot be read ({reason(error)}): keep both in one folder"
        ) from error
    except PtqError:
        raise
    except Exception as error:  # protobuf, onnx and onnx_ir raise their own
        raise InputError(f"it is no ONNX file that can be read ({reason(error)})") from error
    return model


def _refuse_absent_weights(proto: onnx.ModelProto, folder: Path) -> None:
    """onnx says of a file that is not there that it is no regular file."""
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data)
    for name in sorted({entry.value for entry in entries if entry.key == "location"}):
        if not (folder / name).exists():
            raise InputError(f"its weights are in another file, {name}, which is not there: keep both in one folder")


def _sort(graph: ir.Graph) -> None:
    """Put every node behind what it reads; onnxruntime does so, too."""
    try:
        graph.sort()
    except ValueError as error:
        raise InputError("its nodes read each other in a circle: no network can be computed so") from error


def _nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """All nodes, those of branches too."""
    yield from graph.all_nodes()


def _refuse_unknown(graph: ir.Graph) -> None:
    """What reads nothing but constants is computed, whatever it is. `If` may turn out to be one."""
    depends = set(graph.inputs)
    unknown = []
    for node in graph:
        if node.op_type in ("Shape", "Size") or not depends.intersection(node.inputs):
            continue
        depends.update(node.outputs)
        if node.domain not in STANDARD or node.op_type not in (*OPERATORS, "If"):
            unknown.append(node)
    if unknown:
        first = {(n.domain, n.op_type): n for n in reversed(unknown)}
        named = sorted(map(describe, first.values()))
        raise ModelError(
            f"it has operators that ptq does not know: {', '.join(named)}. Export the network without them: "
            "what selects boxes belongs behind it"
        )


def _to_float32(graph: ir.Graph) -> None:
    """Make all real numbers float32: half precision is for other machines."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value = _as_float32(value.const_value)
        _widen(value)
    for value in (*graph.inputs, *graph.outputs, *(v for node in _nodes(graph) for v in node.outputs)):
        _widen(value)
    for node in _nodes(graph):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _as_float32(attribute.value))
            elif node.op_type == "Cast" and name == "to" and attribute.value in FLOATS:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _widen(value: ir.Value) -> None:
    if value.dtype in FLOATS:
        value.dtype = ir.DataType.FLOAT


def _as_float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in FLOATS:
        return tensor
    return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)
