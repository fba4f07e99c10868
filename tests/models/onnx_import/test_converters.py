"""Files of tf2onnx and Paddle that nobody has optimized end in integer kernels alone, and compute what was simulated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper

import ptq
from ptq.export import export_qdq, ort
from ptq.models.model import load_model
from tests.helpers.onnx_graphs import graph_of, numbers, saved

node = helper.make_node
NORM = {"gain": abs(numbers(8)) + 0.5, "shift": numbers(8)}


def _channels_last(x: str, y: str, weight: str, **attributes: Any) -> list[NodeProto]:
    """A convolution between two transpositions."""
    return [
        node("Transpose", [x], [f"{y}_first"], perm=[0, 3, 1, 2]),
        node("Conv", [f"{y}_first", weight], [f"{y}_conv"], **attributes),
        node("Transpose", [f"{y}_conv"], [y], perm=[0, 2, 3, 1]),
    ]


def _keras() -> ModelProto:
    """As tf2onnx writes it: channels last between layers, BatchNorms as products and sums, weights behind Identity."""
    nodes = [
        *_channels_last("x", "stem", "w1", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Mul", ["stem", "gain"], ["stem_scaled"]),
        node("Add", ["stem_scaled", "shift"], ["stem_normed"]),
        node("Clip", ["stem_normed", "zero", "six"], ["stem_out"]),
        *_channels_last("stem_out", "deep", "w2", group=8, auto_pad="SAME_LOWER"),
        node("Sub", ["deep", "shift"], ["deep_centered"]),
        node("Mul", ["deep_centered", "gain"], ["deep_normed"]),
        node("Relu", ["deep_normed"], ["deep_out"]),
        *_channels_last("deep_out", "point", "w3"),
        node("Add", ["point", "stem_out"], ["sum"]),
        node("ReduceMean", ["sum"], ["pooled"], axes=[1, 2], keepdims=0),
        node("MatMul", ["pooled", "dense"], ["product"]),
        node("Add", ["bias", "product"], ["y"]),
    ]
    constants = {
        "w1": 0.3 * numbers(8, 3, 3, 3),
        "w2": numbers(8, 1, 3, 3),
        "w3": numbers(8, 8, 1, 1),
        "dense": numbers(8, 5),
        "bias": numbers(5),
    }
    return _as_nodes(nodes, {**constants, **NORM}, ("unk__1", 16, 16, 3))


def _paddle() -> ModelProto:
    """As paddle2onnx writes it: a BatchNorm as a chain behind the layer, a hard swish in four operators, biases apart."""
    per_channel = {name: value.reshape(1, 8, 1, 1) for name, value in NORM.items()}
    nodes = [
        node("Conv", ["x", "w1"], ["conv"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Mul", ["conv", "gain"], ["scaled"]),
        node("Add", ["scaled", "shift"], ["normed"]),
        node("Add", ["normed", "three"], ["plus"]),
        node("Clip", ["plus", "zero", "six"], ["clipped"]),
        node("Mul", ["normed", "clipped"], ["times"]),
        node("Div", ["times", "six"], ["swish"]),
        node("GlobalAveragePool", ["swish"], ["squeezed"]),
        node("Conv", ["squeezed", "w2"], ["excited"]),
        node("Add", ["excited", "b2"], ["biased"]),
        node("HardSigmoid", ["biased"], ["gate"], alpha=0.2, beta=0.5),
        node("Mul", ["swish", "gate"], ["gated"]),
        node("GlobalAveragePool", ["gated"], ["pooled"]),
        node("Squeeze", ["pooled"], ["flat"], axes=[2, 3]),
        node("Unsqueeze", ["flat"], ["wide"], axes=[1]),
        node("Squeeze", ["wide"], ["narrow"], axes=[1]),
        node("MatMul", ["narrow", "dense"], ["y"]),
    ]
    constants = {
        "w1": 0.3 * numbers(8, 3, 3, 3),
        "w2": numbers(8, 8, 1, 1),
        "b2": numbers(1, 8, 1, 1),
        "dense": numbers(8, 5),
    }
    return _as_nodes(nodes, {**constants, **per_channel}, (-1, 3, 16, 16))


def _as_nodes(nodes: Sequence[NodeProto], constants: Mapping[str, Any], shape: Sequence[Any]) -> ModelProto:
    """A file of operator set 11 whose constants are nodes, behind an Identity."""
    held = {**constants, "zero": np.float32(0), "three": np.float32(3), "six": np.float32(6)}
    made = []
    for name, value in held.items():
        made.append(node("Constant", [], [f"{name}_read"], value=onnx.numpy_helper.from_array(np.asarray(value))))
        made.append(node("Identity", [f"{name}_read"], [name]))
    return graph_of([*made, *nodes], shape=shape, opset=11)


@pytest.mark.slow
@pytest.mark.parametrize("model", [_keras(), _paddle()], ids=["keras", "paddle"])
def test_everything_is_in_integers(model: ModelProto, tmp_path: Path) -> None:
    network = load_model(str(saved(model, tmp_path)), mean=(0.5,) * 3, std=(0.5,) * 3)
    graph_model, x = ptq.prepare(network.module, (3, 16, 16)), torch.randn(4, 3, 16, 16)
    quantized_model = ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, 8))
    ptq.calibrate(quantized_model, x, observer="minmax")
    path = export_qdq(quantized_model, tmp_path / "integers.onnx")
    graph = ort.optimized(path)
    assert (ort.float_layers(graph), ort.float_operators(graph)) == ([], [])
    assert not {"Mul", "Add", "Transpose"} & {node.op_type for node in graph.node}
    assert torch.equal(quantized_model.integer_forward(x)["y"], torch.from_numpy(ort.run(ort.session(path), x.numpy())))
