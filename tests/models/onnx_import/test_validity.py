"""Files that break the rules of ONNX, and such that only look so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

import ptq
from ptq.models.model import load_model
from tests.helpers.onnx_graphs import graph_of, imported, numbers, saved

node = helper.make_node
CONV = node("Conv", ["x", "w"], ["y"])
WEIGHT = {"w": numbers(4, 3, 3, 3)}
Change = Callable[[ModelProto], Any]


def changed(change: Change) -> ModelProto:
    """A convolution, and what was done to its file."""
    model = graph_of([CONV], WEIGHT)
    change(model)
    return model


def of(*nodes: onnx.NodeProto, **more: Any) -> ModelProto:
    return graph_of(nodes, WEIGHT, **more)


def renamed(part: str) -> Change:
    return lambda model: setattr(getattr(model.graph, part)[0], "name", "")


def again(part: str) -> Change:
    def change(model: ModelProto) -> None:
        parts = getattr(model.graph, part)
        parts.append(parts[0])

    return change


def sparse(model: ModelProto) -> None:
    values, places = numpy_helper.from_array(numbers(2), "s"), numpy_helper.from_array(np.array([0, 5]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3, 3, 3]))


def unlike(shape: tuple[int, ...]) -> Change:
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), shape)


def broken_branch() -> ModelProto:
    given = helper.make_tensor_value_info
    branch = helper.make_graph([node("Relu", ["nowhere"], ["r"])], "b", [], [given("r", TensorProto.FLOAT, None)])
    test = numpy_helper.from_array(np.array(True), "test")
    model = of(node("If", ["test"], ["z"], then_branch=branch, else_branch=branch), node("Conv", ["x", "w"], ["y"]))
    model.graph.initializer.append(test)
    return model


BROKEN: dict[str, tuple[ModelProto, type[ptq.PtqError], str]] = {
    "an input without a name": (changed(renamed("input")), ptq.InputError, "inputs or weights has no name"),
    "a weight without a name": (changed(renamed("initializer")), ptq.InputError, "inputs or weights has no name"),
    "an output without a name": (changed(renamed("output")), ptq.InputError, "outputs has no name"),
    "no outputs": (of(CONV, outputs=()), ptq.InputError, "no outputs"),
    "two inputs of one name": (changed(again("input")), ptq.InputError, "2 things have the name x"),
    "two weights of one name": (changed(again("initializer")), ptq.InputError, "2 things have the name w"),
    "two results of one name": (changed(again("node")), ptq.InputError, "2 things have the name y"),
    "a result named as a weight": (of(node("Relu", ["x"], ["w"]), CONV), ptq.InputError, "2 things have the name w"),
    "what is read and not there": (of(node("Conv", ["x", "v"], ["y"])), ptq.InputError, r"y \(Conv\) reads v"),
    "the same in a branch": (broken_branch(), ptq.InputError, r"r \(Relu\) reads nowhere"),
    "an output that is not there": (of(CONV, outputs=("z",)), ptq.InputError, "output z is given nowhere"),
    "a circle": (of(node("Add", ["x", "y"], ["a"]), node("Relu", ["a"], ["y"])), ptq.InputError, "circle"),
    "an input without a type": (changed(lambda m: m.graph.input[0].ClearField("type")), ptq.ModelError, "its type"),
    "an input without a shape": (
        changed(lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
        ptq.ModelError,
        "its shape",
    ),
    "a sequence of images": (
        changed(lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", 1, [1, 3, 8, 8]))),
        ptq.ModelError,
        "input x does not say its type",
    ),
    "no operator set": (changed(lambda m: m.ClearField("opset_import")), ptq.InputError, "operator set"),
    "no nodes": (of(outputs=("x",)), ptq.InputError, "no graph"),
    "too few numbers": (changed(unlike((4, 3, 3, 4))), ptq.InputError, "its weight w cannot be read"),
    "a weight without a type": (
        changed(lambda m: setattr(m.graph.initializer[0], "data_type", 0)),
        ptq.InputError,
        "its weight w cannot be read",
    ),
    "a weight that is NaN": (graph_of([CONV], {"w": WEIGHT["w"] * np.nan}), ptq.ModelError, "NaN"),
    "sparse weights": (changed(sparse), ptq.InputError, "sparse"),
    "an input too few": (of(node("Add", ["x"], ["y"])), ptq.ModelError, r"y \(Add\) is against the rules"),
    "no input at all": (
        of(node("Relu", [], ["a"]), node("Add", ["x", "a"], ["y"])),
        ptq.ModelError,
        "against the rules",
    ),
    "a text for numbers": (of(node("Conv", ["x", "w"], ["y"], strides="2")), ptq.ModelError, "against the rules"),
    "a weight for other images": (changed(unlike((3, 4, 3, 3))), ptq.ModelError, "check the file"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_the_rules_is_refused_by_name(what: str, tmp_path: Path) -> None:
    model, kind, says = BROKEN[what]
    with pytest.raises(kind, match=says):
        load_model(str(saved(model, tmp_path)), mean=(0.5,), std=(0.5,))


SOUND: dict[str, ModelProto] = {
    "a weight among the inputs": changed(
        lambda m: m.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    ),
    "results in another order": of(node("Relu", ["a"], ["y"]), node("Conv", ["x", "w"], ["a"])),
    "a result that nothing reads": of(CONV, node("NonZero", ["y"], ["unread"])),
    "a node without results": of(CONV, node("NonZero", ["y"], [])),
    "an output without a type": changed(lambda m: m.graph.output[0].ClearField("type")),
    "an output that is the input": of(CONV, node("Identity", ["x"], ["z"]), outputs=("y", "z")),
    "no shapes in between": of(node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])),
}


@pytest.mark.parametrize("what", SOUND)
def test_what_only_looks_broken_is_read(what: str, tmp_path: Path) -> None:
    network = imported(SOUND[what], tmp_path)
    assert network(torch.zeros(2, 3, 8, 8))["y"].shape == (2, 4, 6, 6)


def test_outputs_keep_names_that_are_numbers(tmp_path: Path) -> None:
    """As old exporters of PyTorch call them."""
    model = load_model(str(saved(of(node("Conv", ["x", "w"], ["537"]), outputs=("537",)), tmp_path)), mean=0.5, std=0.5)
    assert ptq.prepare(model.module, (3, 8, 8)).task.kinds == {"537": "generic"}
