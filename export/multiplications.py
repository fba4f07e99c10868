"""Which share of a file's multiply-accumulates onnxruntime does in float."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from ptq.export.onnx_files import LAYER_OPS, read_onnx
from ptq.export.ort import float_layers, optimized

__all__ = ["float_share"]

LARGE = 4096  # bytes: no shape is as long, so this is a weight


def float_share(path: Path | str) -> float:
    """Return the share of multiply-accumulates in layers and products of tensors that onnxruntime does in float, in percent.

    Args:
        path: of a file whose batch is free, as `export_qdq` writes it.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that onnxruntime cannot load.

    Example:
        >>> float_share(ptq.export_qdq(quantized_model, "model.onnx"))
        0.0
    """
    counts = _multiplications(path)
    in_float = float_layers(optimized(path))
    # What onnxruntime fuses with a layer is written behind its name.
    slow = sum(count for name, count in counts.items() if any(f"{layer}/".startswith(f"{name}/") for layer in in_float))
    return 100 * slow / sum(counts.values()) if slow else 0.0


def _multiplications(path: Path | str) -> dict[str, int]:
    """Of every convolution and product in a file, by its name, for one image."""
    model = read_onnx(path)
    del model.graph.value_info[:]  # where the batch is free
    shapes = {constant.name: list(constant.dims) for constant in model.graph.initializer}
    for constant in model.graph.initializer:
        if len(constant.raw_data) > LARGE:
            constant.ClearField("raw_data")
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return {node.name: _count(node, shapes) for node in graph.node if node.op_type in LAYER_OPS}


def _count(node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    x, weight, y = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    match node.op_type:
        case "Conv":
            return math.prod(y) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(x) * math.prod(weight[1:])
        case _:  # products of matrices
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            return math.prod(y) * x[-2 if turned else -1]
