"""Every operator gives what onnxruntime gives: the import itself compares them, on two images at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from ptq.graph.preparation import prepare
from ptq.models.onnx_import.operators import OPERATORS
from tests.helpers.onnx_graphs import floats, graph_of, imported, numbers

ONES = np.array([1, 1], np.int64)
C = ("batch", 4, 7, 9)
FLAT = np.array([0, 4, -1], np.int64)
# Operator, opset, attributes, constants that are its further inputs; None for one left out.
CASES: list[tuple[str, int, dict[str, Any], list[Any]]] = [
    ("Conv", 11, {"pads": [1, 2, 1, 2]}, [numbers(6, 4, 3, 3), numbers(6)]),
    ("Conv", 11, {"pads": [0, 1, 2, 3], "strides": [2, 1]}, [numbers(6, 4, 3, 3)]),
    ("Conv", 11, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [numbers(6, 4, 3, 4)]),
    ("Conv", 11, {"auto_pad": "SAME_LOWER", "strides": [2, 2], "group": 2}, [numbers(6, 2, 2, 2)]),
    ("Conv", 11, {"auto_pad": "VALID", "dilations": [2, 3]}, [numbers(6, 4, 3, 3)]),
    ("ConvTranspose", 11, {"strides": [2, 2], "pads": [1, 1, 1, 1]}, [numbers(4, 3, 3, 3), numbers(3)]),
    ("ConvTranspose", 11, {"strides": [2, 2], "pads": [1, 0, 0, 1]}, [numbers(4, 3, 3, 3)]),
    ("ConvTranspose", 11, {"strides": [2, 2], "pads": [0, 0, 2, 2]}, [numbers(4, 3, 3, 3)]),
    ("ConvTranspose", 11, {"strides": [2, 3], "output_padding": [1, 2], "group": 2}, [numbers(4, 3, 3, 3)]),
    ("ConvTranspose", 11, {"strides": [2, 2], "output_shape": [14, 17]}, [numbers(4, 3, 3, 3)]),
    ("ConvTranspose", 11, {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, [numbers(4, 3, 3, 3)]),
    ("MatMul", 11, {}, [numbers(9, 5)]),
    ("MatMul", 11, {}, [numbers(4, 9, 5)]),
    ("Einsum", 12, {"equation": "nchw,wv->nchv"}, [numbers(9, 5)]),
    ("BatchNormalization", 11, {"epsilon": 0.01}, [numbers(4), numbers(4), numbers(4), abs(numbers(4)) + 1]),
    ("BatchNormalization", 15, {}, [numbers(4), numbers(4), numbers(4), abs(numbers(4)) + 1]),
    ("InstanceNormalization", 11, {}, [numbers(4), numbers(4)]),
    ("GroupNormalization", 18, {"num_groups": 2}, [numbers(2), numbers(2)]),
    ("GroupNormalization", 21, {"num_groups": 2}, [numbers(4), numbers(4)]),
    ("LayerNormalization", 17, {}, [numbers(9), numbers(9)]),
    ("LayerNormalization", 17, {"axis": 2, "epsilon": 0.1}, [numbers(7, 9)]),
    ("LRN", 13, {"size": 3, "alpha": 0.1}, []),
    ("LpNormalization", 13, {"axis": 1}, []),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}, []),
    ("MaxPool", 12, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, []),
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 2]}, []),
    ("MaxPool", 12, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, []),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, []),
    ("AveragePool", 11, {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, []),
    ("AveragePool", 11, {"kernel_shape": [3, 3], "pads": [0, 0, 1, 1], "count_include_pad": 1}, []),
    ("GlobalAveragePool", 11, {}, []),
    ("GlobalMaxPool", 11, {}, []),
    ("Mod", 13, {"fmod": 1}, [np.float32(0.7)]),
    ("Pow", 13, {}, [np.float32(2)]),
    ("Clip", 11, {}, [np.float32(0), np.float32(6)]),
    ("Clip", 12, {}, [np.float32(-1)]),
    ("Clip", 13, {}, [None, np.float32(0.5)]),
    ("Clip", 13, {}, [np.float32(-0.5), np.float32(0.5)]),
    ("Clip", 7, {"min": 0.0, "max": 6.0}, []),
    ("Clip", 10, {"max": 0.5}, []),
    ("PRelu", 16, {}, [numbers(4, 1, 1)]),
    ("PRelu", 16, {}, [numbers(4, 7, 9)]),
    ("HardSigmoid", 11, {}, []),
    ("HardSigmoid", 11, {"alpha": 1 / 6, "beta": 0.5}, []),
    ("HardSigmoid", 11, {"alpha": 0.3, "beta": 0.4}, []),
    ("Gelu", 20, {"approximate": "tanh"}, []),
    ("Softmax", 11, {}, []),
    ("Softmax", 12, {"axis": 2}, []),
    ("Softmax", 13, {}, []),
    ("LogSoftmax", 13, {"axis": 1}, []),
    ("Where", 16, {}, [numbers(4, 1, 1), numbers(9)]),
    ("Reshape", 13, {}, [FLAT]),
    ("Reshape", 14, {}, [np.array([1, 4, 63], np.int64)]),
    ("Flatten", 13, {}, []),
    ("Transpose", 13, {"perm": [0, 2, 3, 1]}, []),
    ("Unsqueeze", 11, {"axes": [1, 3]}, []),
    ("Unsqueeze", 13, {}, [np.array([1, -1], np.int64)]),
    ("Expand", 13, {}, [np.array([1, 4, 7, 9], np.int64)]),
    ("Concat", 13, {"axis": 1}, [numbers(1, 2, 7, 9)]),
    ("Slice", 11, {}, [np.array([1, 0], np.int64), np.array([3, 2**62], np.int64), np.array([1, 3], np.int64)]),
    ("Slice", 13, {}, [np.array(v, np.int64) for v in ([0], [9], [3], [2])]),
    ("Slice", 13, {}, [np.array(v, np.int64) for v in ([-1], [-(2**62)], [-1], [-1])]),
    ("Slice", 13, {}, [np.array(v, np.int64) for v in ([6], [0], [2], [-2])]),
    ("Slice", 9, {"starts": [1, 0], "ends": [3, 2**62], "axes": [1, 3]}, []),
    ("Slice", 10, {}, [np.array(v, np.int64) for v in ([0], [9], [3], [2])]),
    ("Gather", 13, {"axis": 1}, [np.array(-1, np.int64)]),
    ("Gather", 13, {"axis": 2}, [np.array([[0, -1], [2, 2]], np.int64)]),
    ("Tile", 13, {}, [np.array([1, 2, 1, 3], np.int64)]),
    ("DepthToSpace", 13, {"blocksize": 2}, []),
    ("DepthToSpace", 13, {"blocksize": 2, "mode": "CRD"}, []),
    ("Pad", 7, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, []),
    ("Pad", 10, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, []),
    ("Pad", 11, {}, [np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64)]),
    ("Pad", 13, {"mode": "reflect"}, [np.array([0, 0, 1, 2, 0, 0, 3, 0], np.int64)]),
    ("Pad", 13, {"mode": "edge"}, [np.array([0, 0, 0, 2, 0, 0, 0, 1], np.int64)]),
    ("Pad", 13, {}, [np.array([0, 1, 0, 0, 0, 0, -2, 0], np.int64), np.float32(0.5)]),
    ("Pad", 18, {}, [np.array([1, 2], np.int64), None, np.array([3], np.int64)]),
    ("ReduceMean", 13, {"axes": [2, 3]}, []),
    ("ReduceMean", 18, {"keepdims": 0}, [np.array([-1], np.int64)]),
    ("ReduceSum", 13, {}, [np.array([1], np.int64)]),
    ("ReduceMax", 13, {"axes": [1], "keepdims": 0}, []),
    ("ReduceProd", 13, {"axes": [1, 2]}, []),
    ("ReduceL2", 13, {"axes": [1]}, []),
    ("ReduceLogSumExp", 13, {"axes": [1]}, []),
    ("ArgMax", 13, {"axis": 1}, []),
    ("CumSum", 14, {}, [np.array(1, np.int64)]),
    *[("Upsample", 7, {"mode": mode, "scales": [1.0, 1.0, 2.0, 3.0]}, []) for mode in ("nearest", "linear")],
    *[
        (kind, opset, {"mode": mode}, [floats([1, 1, *scales])])
        for kind, opset, scales in (("Upsample", 9, [2, 3]), ("Upsample", 9, [1, 1.7]), ("Resize", 10, [2, 1.7]), ("Resize", 10, [0.5, 0.4]))
        for mode in ("nearest", "linear")
    ],
    ("Resize", 11, {"mode": "nearest"}, [floats([]), floats([1, 1, 2, 2])]),
    ("Resize", 13, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, [None, floats([1, 1, 3, 2])]),
    ("Resize", 13, {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"}, [None, floats([1, 1, 1.7, 3])]),
    ("Resize", 13, {"mode": "linear"}, [None, None, np.array([1, 4, 14, 12], np.int64)]),
    ("Resize", 13, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, [None, floats([1, 1, 2, 2])]),
    ("Resize", 13, {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, [None, floats([1, 1, 2, 0.5])]),
    ("Resize", 13, {"mode": "cubic"}, [None, floats([1, 1, 2, 2])]),
    ("Resize", 18, {"mode": "linear", "axes": [2, 3]}, [None, floats([2, 3])]),
    *[
        (name, 13, {}, [numbers(4, 1, 1)])
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")
    ],
    *[(name, 13, {}, [np.float32(0.3)]) for name in ("Add", "Sub", "Mul", "Div", "Max")],
    *[
        (name, 13, {}, [])
        for name in ["Neg", "Abs", "Sign", "Ceil", "Floor", "Round", "Reciprocal", "Exp", "Erf", "Sin", "Cos", "Atan", "Relu", "LeakyRelu", "Elu", "Celu", "Selu", "ThresholdedRelu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Identity", "Dropout"]
    ],
    *[(name, 20, {}, []) for name in ("HardSwish", "Mish", "Gelu")],
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_operators(case: tuple[str, int, dict[str, Any], list[Any]], tmp_path: Path) -> None:
    kind, opset, attributes, inputs = case
    names = ["x", *("" if value is None else f"c{at}" for at, value in enumerate(inputs))]
    constants = {f"c{at}": value for at, value in enumerate(inputs) if value is not None}
    node = [helper.make_node(kind, names, ["z"], **attributes)]
    if kind == "Where":
        node = [
            helper.make_node("Greater", ["x", "c0"], ["larger"]),
            helper.make_node("Where", ["larger", "x", "c1"], ["z"]),
        ]
    # What comes out is a network that ptq can trace: with a last operator that gives real numbers.
    node.append(helper.make_node("Cast", ["z"], ["y"], to=1))
    network = imported(graph_of(node, constants, shape=C, opset=opset), tmp_path)
    prepare(network, (4, 7, 9))


def test_all_operators_are_tried() -> None:
    untried = OPERATORS.keys() - {case[0] for case in CASES}
    others = """Gemm Shape Size Squeeze Split SpaceToDepth GatherElements TopK ArgMin ReduceMin ReduceL1 ReduceLogSum Equal
    Less ReduceSumSquare LessOrEqual Greater GreaterOrEqual And Or Xor Not IsNaN Tan Log Sqrt Swish Cast CastLike LSTM GRU"""
    assert untried <= set(others.split())


def test_several_results_and_comparisons(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Less", ["a", "b"], ["less"]),
        helper.make_node("Not", ["less"], ["more"]),
        helper.make_node("Cast", ["more"], ["mask"], to=1),
        helper.make_node("Abs", ["a"], ["positive"]),
        helper.make_node("Sqrt", ["positive"], ["root"]),
        helper.make_node("Mul", ["root", "mask"], ["masked"]),
        helper.make_node("TopK", ["masked", "two"], ["top", "places"], axis=3),
        helper.make_node("SpaceToDepth", ["top"], ["y"], blocksize=2),
    ]
    imported(graph_of(nodes, {"two": np.array([2], np.int64)}, shape=("n", 4, 6, 6)), tmp_path)


@pytest.mark.parametrize(
    ("attributes", "weight", "bias"),
    [
        ({}, numbers(12, 5), numbers(5)),
        ({"transB": 1, "alpha": 0.5, "beta": 2.0}, numbers(5, 12), numbers(1, 5)),
        ({"transB": 1}, numbers(5, 12), np.float32(3)),
        ({"alpha": 2.0}, numbers(12, 5), None),
    ],
)
def test_gemm_is_a_linear_layer(attributes: dict[str, Any], weight: Any, bias: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight", *["fc.bias"][: bias is not None]], ["y"], **attributes),
    ]
    constants = {"fc.weight": weight} | ({} if bias is None else {"fc.bias": bias})
    network = imported(graph_of(nodes, constants, shape=(1, 3, 2, 2)), tmp_path)
    assert isinstance(network.get_submodule("fc"), torch.nn.Linear)
