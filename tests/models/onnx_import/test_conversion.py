"""Whole files: batches that are written into them, images with their channels last, other kinds of numbers, branches."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch import fx, nn

import ptq
from ptq.graph.preparation import prepare
from tests.helpers.onnx_graphs import floats, graph_of, imported, numbers

node = helper.make_node
INTS = np.int64


def layers(network: fx.GraphModule) -> dict[str, str]:
    """The names of modules and what they are; folders left out."""
    return {name: type(m).__name__ for name, m in network.named_modules() if name and type(m) is not nn.Module}


def test_modules_have_the_names_of_their_weights_or_nodes(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "stem.0.weight"], ["a"], name="/stem/stem.0/Conv"),
        node("BatchNormalization", ["a", "stem.1.weight", "b", "m", "v"], ["c"], name="bn"),
        node("Relu", ["c"], ["d"], name="/stem/stem.2/Relu"),
        node("Relu", ["d"], ["e"], name="/stem/stem:2/Relu"),
        node("GlobalAveragePool", ["e"], ["y"], name="/stem"),
    ]
    constants = {
        "stem.0.weight": numbers(4, 3, 3, 3),
        **dict.fromkeys(("stem.1.weight", "b", "m", "v"), np.ones(4, np.float32)),
    }
    assert layers(imported(graph_of(nodes, constants), tmp_path)) == {
        "stem.0": "Conv2d",
        "stem.1": "BatchNorm2d",
        "stem.stem.2.Relu": "ReLU",
        "stem.stem_2.Relu": "ReLU",
        "stem_2": "AdaptiveAvgPool2d",
    }


def test_weights_may_stand_anywhere(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["turned"], value=onnx.numpy_helper.from_array(numbers(3, 3, 3, 4))),
        node("Transpose", ["turned"], ["plain"], perm=[3, 2, 0, 1]),
        node("Identity", ["plain"], ["weight"]),
        node("Constant", [], ["flat"], value=onnx.numpy_helper.from_array(numbers(1, 4))),
        node("Constant", [], ["four"], value_ints=[4]),
        node("Reshape", ["flat", "four"], ["bias"]),
        node("Conv", ["x", "weight", "bias"], ["y"], name="conv"),
    ]
    conv = imported(graph_of(nodes), tmp_path).get_submodule("conv")
    assert isinstance(conv, nn.Conv2d) and torch.equal(
        conv.weight, torch.from_numpy(numbers(3, 3, 3, 4)).permute(3, 2, 0, 1)
    )


@pytest.mark.parametrize("opset", range(7, 22))
def test_keras_takes_images_with_their_channels_last(opset: int, tmp_path: Path) -> None:
    """A network as tf2onnx writes it: transposed, padded, and averaged over what it takes for height and width."""
    axes: dict[str, Any] = {"axes": [1, 2]} if opset < 18 else {}
    pads: dict[str, Any] = {"pads": [0, 0, 0, 0, 0, 0, 1, 1]}
    bounds: dict[str, Any] = {"min": 0.0, "max": 6.0}
    nodes = [
        node("Sub", ["x", "mean"], ["centered"]),
        node("Transpose", ["centered"], ["first"], perm=[0, 3, 1, 2]),
        node("Pad", ["first", *["pads"][: opset >= 11]], ["padded"], **(pads if opset < 11 else {})),
        node("Conv", ["padded", "weight"], ["conv"], strides=[2, 2], auto_pad="VALID"),
        node("Clip", ["conv", *["zero", "six"][: 2 * (opset >= 11)]], ["relu6"], **(bounds if opset < 11 else {})),
        node("Conv", ["relu6", "depthwise"], ["deep"], group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Transpose", ["deep"], ["last"], perm=[0, 2, 3, 1]),
        node("Mul", ["last", "gain"], ["scaled"]),
        node("ReduceMean", ["scaled", "spatial"][: 2 if opset >= 18 else 1], ["pooled"], keepdims=0, **axes),
        node("MatMul", ["pooled", "dense"], ["product"]),
        node("Add", ["product", "bias"], ["scores"]),
        node("Softmax", ["scores"], ["y"]),
    ]
    constants = {
        "mean": floats([0.5, 0.4, 0.3]),
        "pads": np.array(pads["pads"], INTS),
        "weight": numbers(4, 3, 3, 3),
        "zero": np.float32(0),
        "six": np.float32(6),
        "depthwise": numbers(4, 1, 3, 3),
        "gain": numbers(4),
        "spatial": np.array([1, 2], INTS),
        "dense": numbers(4, 5),
        "bias": numbers(5),
    }
    model = graph_of(nodes, constants, shape=("unk__1", 12, 14, 3), opset=opset)
    network = imported(model, tmp_path)
    assert network(torch.zeros(2, 3, 12, 14))["y"].shape == (2, 5)
    prepared = prepare(network, (3, 12, 14)).module
    assert "AdaptiveAvgPool2d" in layers(prepared).values()


def test_paddle_writes_shapes_as_arithmetic(tmp_path: Path) -> None:
    """A size of the images in the middle of arithmetic, and a hard swish in four operators."""
    nodes = [
        node("Conv", ["x", "weight"], ["conv"], pads=[1, 1, 1, 1]),
        node("Add", ["conv", "three"], ["plus"]),
        node("Clip", ["plus", "zero", "six"], ["clip"]),
        node("Mul", ["conv", "clip"], ["product"]),
        node("Div", ["product", "six"], ["swish"]),
        node("Shape", ["swish"], ["shape"]),
        node("Cast", ["shape"], ["shape32"], to=TensorProto.INT32),
        node("Slice", ["shape32", "start", "end", "axis"], ["batch32"]),
        node("Cast", ["batch32"], ["batch"], to=TensorProto.INT64),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Reshape", ["swish", "target"], ["flat"]),
        node("MatMul", ["flat", "dense"], ["y"]),
    ]
    one, two = (np.array([n], INTS) for n in (0, 1))
    constants = {
        "weight": numbers(4, 3, 3, 3),
        "three": floats([3]),
        "zero": np.float32(0),
        "six": np.float32(6),
        "start": one,
        "end": two,
        "axis": one,
        "rest": np.array([-1], INTS),
        "dense": numbers(4 * 48, 5),
    }
    network = imported(graph_of(nodes, constants, shape=(-1, 3, "h", "w"), opset=11), tmp_path, (6, 8))
    assert "Hardsigmoid" in layers(prepare(network, (3, 6, 8)).module).values()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_that_is_written_into_the_file_becomes_free(batch: int, tmp_path: Path) -> None:
    """Attention as torch writes it for a fixed batch, with a class token."""
    shapes = {"tokens": [batch, 4, -1], "heads": [batch, 17, 2, 2], "merged": [batch * 17, 4], "back": [batch, 17, 4]}
    nodes = [
        node("Reshape", ["x", "tokens"], ["rows"]),
        node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        node("Concat", ["token", "columns"], ["all"], axis=1),
        node("Reshape", ["all", "heads"], ["split"]),
        node("Transpose", ["split"], ["query"], perm=[2, 0, 1, 3]),  # the batch is not first
        node("Transpose", ["query"], ["key"], perm=[0, 1, 3, 2]),
        node("MatMul", ["query", "key"], ["products"]),
        node("Softmax", ["products"], ["weights"], axis=-1),
        node("MatMul", ["weights", "query"], ["values"]),
        node("Transpose", ["values"], ["together"], perm=[1, 2, 0, 3]),
        node("Reshape", ["together", "merged"], ["matrix"]),
        node("Gemm", ["matrix", "weight"], ["linear"]),
        node("Reshape", ["linear", "back"], ["output"]),
        node("Gather", ["output", "zero"], ["y"], axis=1),
    ]
    constants: dict[str, Any] = {name: np.array(shape, INTS) for name, shape in shapes.items()}
    constants |= {"token": numbers(1, 1, 4).repeat(batch, 0), "weight": numbers(4, 4), "zero": np.array(0)}
    network = imported(graph_of(nodes, constants, shape=(batch, 4, 4, 4)), tmp_path)
    assert network(torch.zeros(3, 4, 4, 4))["y"].shape == (3, 4)
    prepare(network, (4, 4, 4))


@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_other_real_numbers_become_float32(kind: str, tmp_path: Path) -> None:
    onnx_kind = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16}[kind]
    weight = ir.serde.serialize_tensor(ir.tensor(numbers(4, 3, 3, 3).astype(ir.DataType(onnx_kind).numpy())))
    weight.name = "w"
    model = graph_of(
        [node("Cast", ["x"], ["h"], to=onnx_kind), node("Conv", ["h", "w"], ["c"]), node("Cast", ["c"], ["y"], to=1)]
    )
    model.graph.initializer.append(weight)
    network = imported(model, tmp_path)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_bytes_go_in_as_numbers_of_0_to_255(tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], ["f"], to=1), node("Conv", ["f", "w"], ["y"])]
    model = graph_of(nodes, {"w": numbers(4, 3, 3, 3)}, kind=TensorProto.UINT8)
    onnx.save(model, tmp_path / "bytes.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is nothing to assume
        loaded = ptq.load_model(str(tmp_path / "bytes.onnx"))
    assert loaded.preprocess.normalize(torch.ones(1, 3, 2, 2)).max() == pytest.approx(255)


def test_a_branch_that_shapes_decide_is_taken(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    branches = {
        f"{name}_branch": helper.make_graph(
            [node(kind, ["x"], [name])], name, [], [value(name, TensorProto.FLOAT, None)]
        )
        for name, kind in (("then", "Relu"), ("else", "Sigmoid"))
    }
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "three"], ["width"]),
        node("Equal", ["width", "eight"], ["same"]),
        node("If", ["same"], ["y"], **branches),
    ]
    network = imported(graph_of(nodes, {"three": np.array(3), "eight": np.array(8)}), tmp_path)
    assert list(layers(network).values()) == ["ReLU"]


def test_functions_of_the_file_are_written_out(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17)]
    twice = helper.make_function("own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], opsets)
    model = graph_of([node("Twice", ["x"], ["y"], domain="own")])
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(imported(model, tmp_path)(x)["y"], 2 * x)


def test_a_bound_that_is_cast_to_the_kind_of_the_images_is_known(tmp_path: Path) -> None:
    """As torch's exporter writes a ReLU6 where it does not optimize."""
    nodes = [
        node("CastLike", ["zero", "x"], ["low"]),
        node("CastLike", ["six", "x"], ["high"]),
        node("Clip", ["x", "low", "high"], ["y"]),
    ]
    constants = {"zero": np.array(0, INTS), "six": np.array(6, INTS)}
    assert list(layers(imported(graph_of(nodes, constants), tmp_path)).values()) == ["ReLU6"]
