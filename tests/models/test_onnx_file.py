"""ONNX files as models: what images they take, what is refused, and a run from file to file."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import save_file

import ptq
from ptq.data.preprocess import Preprocess
from ptq.models.model import load_model
from tests.helpers.onnx_graphs import graph_of, numbers, saved

node = helper.make_node
CLASSIFIER = [
    node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
    node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
    node("Relu", ["n"], ["r"]),
    node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=0),
    node("Gemm", ["p", "fc.weight"], ["y"], transB=1),
]
WEIGHTS = {
    "conv.weight": numbers(8, 3, 3, 3),
    **{name: np.ones(8, np.float32) for name in "gbmv"},
    "fc.weight": numbers(5, 8),
}


def test_its_input_says_what_images_it_takes(tmp_path: Path) -> None:
    path = str(saved(graph_of(CLASSIFIER, WEIGHTS, shape=("n", 3, 12, "w")), tmp_path))
    with pytest.raises(ptq.InputError, match=r"any width: .*--size"):
        load_model(path)
    with pytest.warns(UserWarning, match="--mean --std"):
        model = load_model(path, size=(12, 10))
    assert (model.name, model.num_classes, model.preprocess.size, model.weights_source) == (
        "net",
        5,
        (12, 10),
        "net.onnx",
    )
    with pytest.warns(UserWarning, match="goes with: mean, std$"):  # where options are of the other network
        beside = load_model(path, like=Preprocess.of((12, 10), mean=0.5, std=0.25))
    assert (beside.preprocess.size, beside.preprocess.mean, beside.preprocess.std) == (
        (12, 10),
        (0.5,) * 3,
        (0.25,) * 3,
    )
    assert ptq.prepare(model.module, (3, 12, 10)).task.kinds == {"y": "classify"}
    save_file(model.module.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ptq.InputError, match="--weights"):
        load_model(path, tmp_path / "w.safetensors", size=12, mean=(0,), std=(1,))


def _one(*nodes: onnx.NodeProto, **more: object) -> Callable[[], ModelProto]:
    return lambda: graph_of(nodes, {"w": numbers(4, 3, 3, 3)}, **more)  # type: ignore[arg-type]


def _quantized() -> ModelProto:
    constants = {"s": np.float32(0.1), "z": np.uint8(3)}
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    return graph_of(nodes, constants)


def _two_inputs() -> ModelProto:
    model = graph_of([node("Add", ["x", "z"], ["y"])])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def _custom() -> ModelProto:
    model = graph_of([node("Relu", ["x"], ["r"]), node("Fancy", ["r"], ["y"], domain="my.ops", name="last")])
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    return model


def _integer_weights() -> ModelProto:
    constants = {"w": np.ones((4, 3, 3, 3), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    return graph_of([node("DequantizeLinear", ["w", "s", "z"], ["f"]), node("Conv", ["x", "f"], ["y"])], constants)


def _fused() -> ModelProto:
    conv = node("FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu")
    model = graph_of([conv], {"w": numbers(4, 3, 3, 3)})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


REFUSED: dict[str, tuple[Callable[[], ModelProto], type[ptq.PtqError], str]] = {
    "quantized": (_quantized, ptq.ModelError, "QuantizeLinear"),
    "custom operators": (_custom, ptq.ModelError, r"last \(my.ops.Fancy\)"),
    "boxes selected": (_one(node("NonZero", ["x"], ["y"])), ptq.ModelError, "NonZero"),
    "an old operator set": (_one(node("Relu", ["x"], ["y"]), opset=6), ptq.ModelError, "6"),
    "several inputs": (_two_inputs, ptq.ModelError, "x, z"),
    "a vector": (_one(node("Relu", ["x"], ["y"]), shape=(1, 128)), ptq.ModelError, "2 dimensions"),
    "many channels": (_one(node("Relu", ["x"], ["y"]), shape=(1, 16, 8, 8)), ptq.ModelError, "16"),
    "any height and width": (_one(node("Relu", ["x"], ["y"]), shape=(1, 3, "h", "w")), ptq.InputError, "height and width"),
    "statistics of the batch": (
        lambda: graph_of([node("BatchNormalization", [*"xgbmv"], ["y"], training_mode=1)], {n: np.ones(3, np.float32) for n in "gbmv"}),
        ptq.ModelError,
        "BatchNormalization",
    ),
    "the number of images": (
        _one(node("Size", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("Div", ["x", "f"], ["y"])),
        ptq.ModelError,
        "number of images",
    ),
    "an output without images": (
        lambda: graph_of([node("Relu", ["x"], ["y"]), node("Identity", ["k"], ["anchors"])], {"k": numbers(3)}, outputs=("y", "anchors")),
        ptq.ModelError,
        "anchors",
    ),
    "a sequence": (_one(node("SplitToSequence", ["x"], ["y"], axis=1), opset=11), ptq.ModelError, "SplitToSequence"),
    "weights in integers": (_integer_weights, ptq.ModelError, "DequantizeLinear"),
    "what onnxruntime has fused": (_fused, ptq.ModelError, "com.microsoft.FusedConv"),
    "sizes that do not fit": (_one(node("Conv", ["x", "w"], ["y"]), shape=(1, 4, 8, 8)), ptq.ModelError, "Conv"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_converted_is_refused_with_its_name(what: str, tmp_path: Path) -> None:
    make, kind, says = REFUSED[what]
    with pytest.raises(kind, match=says) as caught:
        load_model(str(saved(make(), tmp_path)), mean=(0.5,), std=(0.5,))
    assert "net.onnx" in str(caught.value)


def test_files_that_are_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty.onnx").touch()
    onnx.save(
        graph_of(CLASSIFIER, WEIGHTS),
        tmp_path / "far.onnx",
        save_as_external_data=True,
        location="far.data",
        size_threshold=0,
    )
    (tmp_path / "far.data").unlink()
    for name in ("text", "empty", "far", "absent"):
        with pytest.raises(ptq.InputError, match=f"{name}.onnx"):
            load_model(str(tmp_path / f"{name}.onnx"))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "far.onnx"
    onnx.save(graph_of(CLASSIFIER, WEIGHTS), path, save_as_external_data=True, location="far.data", size_threshold=0)
    assert load_model(str(path), mean=(0.5,), std=(0.5,)).num_classes == 5


def test_names_of_inputs_and_outputs_are_kept_from_file_to_file(tmp_path: Path) -> None:
    model = graph_of(CLASSIFIER, WEIGHTS, shape=("n", 3, 8, 8))
    model.graph.input[0].name = model.graph.node[0].input[0] = "the:images"
    model.graph.output[0].name = model.graph.node[-1].output[0] = "the/scores"
    saved(model, tmp_path)
    options: dict[str, Any] = {"preset": "fast", "images": "noise", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with contextlib.suppress(ptq.ValidationError):  # integers may be slower in a network this small
        ptq.quantize(str(tmp_path / "net.onnx"), 8, out=str(tmp_path / "run"), **options)
    assert ptq.load(tmp_path / "run").task.kinds == {"the/scores": "classify"}
    written = onnx.load(tmp_path / "run" / "model.onnx").graph
    assert ([v.name for v in written.input], [v.name for v in written.output]) == (["the:images"], ["the/scores"])
