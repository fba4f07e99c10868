"""Validation measures, and its checks catch what they are there for."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import ptq
from ptq.calibration.activation_ranges import calibrate
from ptq.data.preprocess import Preprocess
from ptq.export import Validation, export_qdq, onnx_files, ort, validate
from ptq.export.results import OWN_METRIC, Check
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.user_metric import UserMetric
from tests.helpers import networks

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.3,) * 3, (0.35,) * 3)


@pytest.fixture(scope="module")
def trained(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedModel, Path]:
    """A W8A8 quantized model of the network trained on digits, and its file."""
    graph_model = prepare(digits.model, networks.SHAPE)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8, 8))
    calibrate(quantized_model, digits.inputs(digits.train_images[:128]))
    path = tmp_path_factory.mktemp("validate") / "model.onnx"
    return quantized_model, export_qdq(quantized_model, path)


def batches(digits: Any, labels: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in (0, 150, 300):
        part = slice(start, start + 150)
        yield digits.images[part].float() / 255, digits.labels[part] if labels else None


def corrupted(path: Path, target: Path, name: str, change: float) -> Path:
    """Copy a file with all initializers whose name ends in `name` multiplied by `change`."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name.endswith(name):
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((value * change).astype(value.dtype), tensor.name))
    onnx.save(model, str(target))
    return target


def test_figures_of_a_sound_file(digits: Any, trained: tuple[QuantizedModel, Path]) -> None:
    quantized_model, path = trained
    found = validate(path, quantized_model, PREPROCESS, batches(digits), threads=1, runs=5)
    assert found.failed == () and found.float_layers == ()
    found.raise_for_failure()
    assert found.validated_on == 450
    assert set(found.top1) == {"float", "simulated", "onnx", "onnx_unoptimized"}
    assert abs(found.top1["onnx"] - found.top1["float"]) <= 0.5 and found.top1["float"] > 95
    assert found.disagreement is not None and found.disagreement <= 0.5
    assert found.agreement["onnx"] > 99
    assert found.size_bytes["onnx"] < found.size_bytes["float"]
    assert min(found.latency_ms["float"], found.latency_ms["onnx"]) > 0
    assert found.latency_ms["threads"] == 1
    assert found.to_json()["top1"] == found.top1


def test_figures_of_a_file_with_weights_beside_it(
    digits: Any, trained: tuple[QuantizedModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "LARGE", 1000)
    quantized_model, one_file = trained
    path, float_path = export_qdq(quantized_model, tmp_path / "model.onnx"), tmp_path / "float.onnx"
    found = validate(
        path, quantized_model, PREPROCESS, batches(digits), threads=1, runs=5, exact=True, float_path=float_path
    )
    assert found.failed == () and found.unmeasured == () and found.exact is not None
    files = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(files) == {"model.onnx", "model.onnx.data", "float.onnx", "float.onnx.data"}
    assert found.size_bytes["onnx"] == files["model.onnx"] + files["model.onnx.data"] > files["model.onnx.data"] > 1000
    alone = validate(one_file, quantized_model, PREPROCESS, batches(digits), threads=1, runs=1, baseline=False)
    assert found.top1 == alone.top1 and {check.name for check in alone.checks} < {check.name for check in found.checks}


def test_without_labels_or_simulation(digits: Any, trained: tuple[QuantizedModel, Path]) -> None:
    quantized_model, path = trained
    found = validate(
        path, quantized_model, PREPROCESS, batches(digits, labels=False), threads=1, runs=2, baseline=False
    )
    assert found.top1 == {} and found.agreement["onnx"] > 99 and found.failed == ()
    alone = validate(path, None, PREPROCESS, batches(digits), threads=1, runs=2, baseline=False)
    assert set(alone.top1) == {"onnx", "onnx_unoptimized"} and alone.failed == ()
    assert alone.disagreement is None and set(alone.size_bytes) == {"onnx"}


def test_wrong_scales_are_caught(digits: Any, trained: tuple[QuantizedModel, Path], tmp_path: Path) -> None:
    """A bias scale that does not fit, and weights that change the results."""
    quantized_model, path = trained
    bad = corrupted(path, tmp_path / "bias.onnx", "conv1.bias.scale", 1.01)
    bad = corrupted(bad, tmp_path / "bad.onnx", "conv2.weight.codes", 0.1)
    found = validate(bad, quantized_model, PREPROCESS, batches(digits), threads=1, runs=2, baseline=False)
    assert any("bias scale" in line and "conv1" in line for line in found.failed)
    assert any("of the simulation differ" in line for line in found.failed)
    with pytest.raises(ptq.ValidationError, match="bias scale"):
        found.raise_for_failure()


def test_a_wrong_axis_is_caught(digits: Any, trained: tuple[QuantizedModel, Path], tmp_path: Path) -> None:
    """onnxruntime's kernels do not mind; other runtimes would compute something else."""
    model = onnx.load(str(trained[1]))
    (codes,) = [t for t in model.graph.initializer if t.name == "blocks.0.conv1.weight.codes"]
    assert codes.dims[0] == codes.dims[1]  # so that the file is still valid
    (dequantize,) = [n for n in model.graph.node if codes.name in n.input]
    (axis,) = [a for a in dequantize.attribute if a.name == "axis"]
    axis.i = 1
    onnx.save(model, str(tmp_path / "axis.onnx"))
    found = validate(tmp_path / "axis.onnx", trained[0], PREPROCESS, batches(digits), runs=2, baseline=False)
    assert any("wrong axis" in line and "blocks.0.conv1" in line for line in found.failed)


@pytest.mark.parametrize("shift", [1, -3])
def test_a_shifted_zero_point_is_caught(
    shift: int, digits: Any, trained: tuple[QuantizedModel, Path], tmp_path: Path
) -> None:
    """Of one activation: accuracy hardly changes, but the numbers do."""
    model = onnx.load(str(trained[1]))
    used = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"][1:]
    (zero, *_) = [t for t in model.graph.initializer if t.name in used and 10 < int(numpy_helper.to_array(t)) < 245]
    shifted = (numpy_helper.to_array(zero) + np.int64(shift)).astype(np.uint8)
    zero.CopyFrom(numpy_helper.from_array(shifted, zero.name))
    onnx.save(model, str(tmp_path / "zero.onnx"))
    found = validate(tmp_path / "zero.onnx", trained[0], PREPROCESS, batches(digits), runs=2, baseline=False)
    assert any("the file was changed" in line for line in found.failed)


def test_float_layers_are_caught(digits: Any, trained: tuple[QuantizedModel, Path], tmp_path: Path) -> None:
    """A layer left in float passes when the plan left it, and fails when the plan did not."""
    quantized_model, _ = trained
    graph_model = quantized_model.require_float_model()
    plan = make_plan(graph_model, 8, 8, layers={"blocks.1.conv1": None})
    partly = calibrate(insert_quantizers(graph_model, plan), digits.inputs(digits.train_images[:64]))
    partly_path = export_qdq(partly, tmp_path / "partly.onnx")
    allowed = validate(partly_path, partly, PREPROCESS, batches(digits), threads=1, runs=2, baseline=False)
    assert allowed.failed == () and allowed.float_layers == ("blocks.1.conv1/Conv",)
    found = validate(partly_path, quantized_model, PREPROCESS, batches(digits), threads=1, runs=2, baseline=False)
    assert any("1 layers that the plan quantizes are float" in line for line in found.failed)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
def test_unreadable_files_are_one_message(damage: str, trained: tuple[QuantizedModel, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    if damage == "truncated":
        bad.write_bytes(trained[1].read_bytes()[:-500])
    elif damage == "text":
        bad.write_text("no model")
    kind = ptq.InputError if damage == "missing" else ptq.ExportError
    with pytest.raises(kind, match=r"bad\.onnx"):
        validate(bad, None, PREPROCESS, [(torch.zeros(1, 3, 16, 16), None)])


def test_no_images_and_wrong_size(trained: tuple[QuantizedModel, Path]) -> None:
    with pytest.raises(ptq.InputError):
        validate(trained[1], None, PREPROCESS, [])
    with pytest.raises(ptq.ExportError):
        validate(trained[1], None, PREPROCESS, [(torch.zeros(1, 3, 8, 8), None)])


def test_sums_are_exact_in_the_sessions_validation_opens(trained: tuple[QuantizedModel, Path], digits: Any) -> None:
    """8-bit weights: on a CPU whose default kernels saturate, ptq's sessions must not."""
    x = digits.inputs(digits.images).numpy()
    fast, slow = (ort.run(ort.session(trained[1], optimize=o), x) for o in (True, False))
    assert float(np.mean(fast.argmax(1) == slow.argmax(1))) > 0.99
    assert float(np.abs(fast - slow).mean()) < 0.02 * float(np.abs(slow).mean())


def test_validation_is_plain_data() -> None:
    made = Validation(
        validated_on=1,
        top1={},
        agreement={},
        disagreement=None,
        exact=None,
        latency_ms={},
        size_bytes={},
        format="int8",
        precise=False,
        float_layers=(),
        checks=(Check("one", "1", "a"), Check("two", "2"), Check("three", "3", "b")),
    )
    with pytest.raises(ptq.ValidationError, match="- a\n- b"):
        made.raise_for_failure()
    data = json.loads(json.dumps(made.to_json()))
    assert data["failed"] == ["a", "b"]
    assert [check["passed"] for check in data["gates"]] == [False, True, False]


class Attention(nn.Module):
    """Products of activations, one with a scale that onnxruntime fuses with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.conv(x).flatten(2)
        weights = (features.transpose(1, 2) @ (features * 0.3)).softmax(-1)
        logits: torch.Tensor = self.fc((features @ weights).mean(-1))
        return logits


def test_products_that_are_float_on_purpose_pass(tmp_path: Path) -> None:
    torch.manual_seed(0)
    quantized_model = insert_quantizers(graph_model := prepare(Attention(), (3, 16, 16)), make_plan(graph_model, 8))
    images = torch.rand(16, 3, 16, 16)
    calibrate(quantized_model, PREPROCESS.normalize(images))
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    found = validate(path, quantized_model, PREPROCESS, [(images, None)], threads=1, runs=2, baseline=False)
    assert any("Fusion" in name for name in found.float_layers)
    assert not any("in float" in line for line in found.failed), found.failed


def of_float_alone(wrong: Any) -> UserMetric:
    """A metric that is right once, and then gives or raises something else."""
    answers: Iterator[Any] = iter([{"brightness": 1.0}])

    def metric(predict: Any) -> Any:
        found = next(answers, wrong)
        if isinstance(found, Exception):
            raise found
        return found

    return UserMetric("own", metric)


@pytest.mark.parametrize("wrong", [KeyError("lost"), {"brightness": float("nan")}, {"other": 1.0}, 0.5])
def test_a_metric_that_fails_for_integers_costs_nothing_but_itself(
    digits: Any, trained: tuple[QuantizedModel, Path], wrong: Any
) -> None:
    quantized_model, path = trained
    found = validate(
        path,
        quantized_model,
        PREPROCESS,
        batches(digits),
        threads=1,
        runs=2,
        baseline=False,
        metric=of_float_alone(wrong),
    )
    assert found.metrics == {} and found.agreement["onnx"] > 99
    assert [check.name for check in found.checks if not check.passed] == [OWN_METRIC]
    with pytest.raises(ptq.PtqError, match="own"):
        found.raise_for_failure()
