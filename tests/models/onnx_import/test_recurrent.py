"""Recurrent layers give what onnxruntime gives, and what torch has no arithmetic for is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto, helper
from torch import nn

import ptq
from ptq.graph.preparation import prepare
from tests.helpers.onnx_graphs import graph_of, imported, numbers

node = helper.make_node
GATES = {"LSTM": 4, "GRU": 3}


def reader(kind: str, *, bias: bool = True, outputs: str = "r", opset: int = 14, **attributes: Any) -> ModelProto:
    """Columns of an image, one after another, as Paddle writes them."""
    hidden, gates = 5, GATES[kind]
    count = 2 if attributes.get("direction") == "bidirectional" else 1
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    inputs = ["columns", "w", "r_", *(["b"] if bias else []), *(["", "", ""][: not bias]), "", "zeros"]
    nodes = [
        node("ReduceMean", ["x"], ["row"], axes=[2], keepdims=0),
        node("Transpose", ["row"], ["columns"], perm=[2, 0, 1]),
        node(kind, inputs, outputs.split(), hidden_size=hidden, **(more | attributes)),
        node("Transpose", ["r"], ["t"], perm=[2, 0, 1, 3]),
        node("Reshape", ["t", "together"], ["m"]),
        node("MatMul", ["m", "dense"], ["y"]),
    ]
    constants = {
        "w": numbers(count, gates * hidden, 4, seed=1),
        "r_": numbers(count, gates * hidden, hidden, seed=2),
        "b": numbers(count, 2 * gates * hidden, seed=3),
        "zeros": np.zeros((count, 1, hidden), np.float32),
        "together": np.array([0, 0, -1], np.int64),
        "dense": numbers(count * hidden, 7),
    }
    return graph_of(nodes, constants, shape=(1, 4, 6, 9), opset=opset)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias", [True, False])
def test_what_they_give(kind: str, direction: str, bias: bool, tmp_path: Path) -> None:
    network = imported(reader(kind, bias=bias, direction=direction), tmp_path)
    assert any(isinstance(module, nn.LSTM | nn.GRU) for module in network.modules())
    assert network(torch.zeros(3, 4, 6, 9))["y"].shape == (3, 9, 7)
    prepare(network, (4, 6, 9))


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"activations": ["Tanh", "Tanh", "Tanh"]}, "activation"),
        ({"clip": 1.0}, "clip"),
        ({"outputs": "last r"}, "last state"),
    ],
)
def test_what_torch_does_not_have(attributes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ptq.ModelError, match=says):
        imported(reader("LSTM", **attributes), tmp_path)


def test_the_other_order_of_a_reset(tmp_path: Path) -> None:
    with pytest.raises(ptq.ModelError, match="linear_before_reset"):
        imported(reader("GRU", linear_before_reset=0), tmp_path)
