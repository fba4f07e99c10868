"""Networks that are no classifiers, from a module to a file that computes bit for bit what the simulation does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import ptq
from ptq.calibration import SynthesisConfig, synthesize
from ptq.export import ort
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import METHODS
from ptq.tasks.outputs import named
from tests.helpers.other_tasks import OTHER, other_model, pixels

KINDS = {
    "segmentation": {"output": "dense"},
    "detector": {"boxes": "generic", "scores": "generic"},
    "two heads": {"output_0": "classify", "output_1_box": "generic", "output_1_age": "generic"},
    "embedding": {"output": "embed"},
    "autoencoder": {"output": "generic"},
    "stereo": {"left": "generic", "box": "classify"},
    "gray": {"output": "classify"},
    "BGR": {"output": "classify"},
}
LAST = {
    "segmentation": ["head"],
    "detector": ["box", "box_1", "box_2", "head", "head_1", "head_2"],
    "two heads": ["net_fc", "box"],
    "embedding": ["fc"],
    "autoencoder": ["last"],
    "stereo": ["network_head", "network_box"],
    "gray": ["fc"],
    "BGR": ["fc"],
}
networks = pytest.mark.parametrize("name", OTHER)
# Behind the last codes floats are computed, whose rounding is the runtime's.
ROUNDED = ("detector", "autoencoder")


def quantized(model: ptq.Model, bits: int = 4) -> QuantizedModel:
    graph_model = ptq.prepare(model.module, model.preprocess.input_shape, task=model.task)
    quantized_model = ptq.insert_quantizers(graph_model, ptq.make_plan(graph_model, bits, bits))
    return ptq.calibrate(quantized_model, model.preprocess.normalize(pixels(16)), preprocess=model.preprocess)


@networks
def test_the_task_and_the_last_layers_are_found(name: str) -> None:
    model = other_model(name)
    graph_model = ptq.prepare(model.module, model.preprocess.input_shape, task=model.task)
    assert graph_model.task.kinds == model.task.kinds == KINDS[name]
    x = model.preprocess.normalize(pixels(3))
    with torch.no_grad():
        wanted, given = named(model.module(x)), named(graph_model.module(x))
    assert list(wanted) == list(given) == list(KINDS[name])
    assert all(torch.allclose(given[key], value, atol=1e-4) for key, value in wanted.items())
    plan = ptq.make_plan(graph_model, 4, 4)
    assert {n for n, spec in plan.weights.items() if spec.bits == 8} >= set(LAST[name])


@networks
def test_the_file_computes_what_the_simulation_does(name: str, tmp_path: Path) -> None:
    model = other_model(name)
    quantized_model, x = quantized(model), model.preprocess.normalize(pixels(16))
    config = ptq.ReconstructConfig(iterations=4, batch=4, finetune=3, fisher="on", tune_below=99.0)
    ptq.reconstruct(quantized_model, x, config)
    ptq.finetune(quantized_model, x[:-2], x[-2:], config)
    path = ptq.export_qdq(quantized_model, tmp_path / "model.onnx")
    batches = [(pixels(24, seed=1), None)]
    found = ptq.validate(path, quantized_model, model.preprocess, batches, runs=2, exact=True, baseline=False)
    assert found.failed == () and found.float_layers == ()
    given = ort.run_all(ort.session(path, threads=1), x.numpy())
    for ours, theirs in zip(named(quantized_model.integer_forward(x)).values(), given, strict=True):
        assert ours.shape == theirs.shape
        assert name in ROUNDED or torch.equal(ours, torch.from_numpy(theirs))
        assert torch.allclose(ours, torch.from_numpy(theirs), rtol=1e-5, atol=1e-5)
    assert [output.name for output in found.outputs] == list(KINDS[name])
    assert found.agreement["onnx"] == min(output.agreement["onnx"] for output in found.outputs) > 50
    assert found.exact is not None and found.exact.largest < 1e-5


def test_files_keep_the_names_of_inputs_and_outputs(tmp_path: Path) -> None:
    graph = onnx.load(str(ptq.export_qdq(quantized(other_model("stereo")), tmp_path / "model.onnx"))).graph
    shapes = {i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input}
    sides = [16, 16]
    assert shapes == {"left": ["batch", 3, *sides], "right": ["batch", 3, *sides], "depth": ["batch", 1, *sides]}
    assert [o.name for o in graph.output] == ["left_0", "box"]  # an input has the name of the first
    graph = onnx.load(str(ptq.export_qdq(quantized(other_model("two heads")), tmp_path / "heads.onnx"))).graph
    assert [o.name for o in graph.output] == ["output_0", "output_1_box", "output_1_age"]


def test_every_image_has_its_own_range_and_its_own_first_layer() -> None:
    quantized_model = quantized(other_model("stereo"))
    inputs = [n for n in quantized_model.plan.activations if n.startswith("take_input")]
    assert [quantized_model.plan.activations[n].bits for n in inputs] == [8, 8, 8]
    assert [quantized_model.plan.activations[n].grid for n in inputs] == ["images"] * 3
    first = [n for n in quantized_model.plan.weights if n.startswith(("network_body_0", "network_of_depth"))]
    assert [quantized_model.plan.weights[n].bits for n in first] == [8, 8, 8]


@pytest.mark.parametrize("name", ["segmentation", "stereo", "gray"])
def test_images_are_synthesized_without_classes(name: str) -> None:
    model = other_model(name)
    config = SynthesisConfig(count=6, batch=4, iterations=3, data_mixing=1.0)
    images = synthesize([model], config)
    labeled = model.num_classes is not None
    assert bool((images.labels >= 0).all()) == labeled and bool((images.labels == -1).all()) == (not labeled)
    noise = synthesize([model], SynthesisConfig(count=6, batch=4, iterations=1))
    assert images.images.shape == noise.images.shape == (6, 3, 16, 16)
    again = synthesize([model, other_model("two heads")], config)  # its classes say nothing to the first
    assert torch.equal(again.labels, images.labels)


def test_a_whole_run_of_a_network_with_heads(tmp_path: Path) -> None:
    model = other_model("detector")
    few: dict[str, Any] = {"calibration.count": 16, "calibration.synthesis.iterations": 3}
    made = ptq.quantize(model, 8, preset="fast", method="nearest", out=tmp_path / "run", settings=few, threads=1)
    assert {output.name: output.kind for output in made.report.validation.outputs} == KINDS["detector"]
    assert made.report.validation.top1 == {}
    again = ptq.load(tmp_path / "run", model)
    x = model.preprocess.normalize(pixels(4))
    for name, value in named(made.quantized_model.integer_forward(x)).items():
        assert torch.equal(value, named(again.integer_forward(x))[name])
    assert again.task == model.task
    found = ptq.inspect_run(tmp_path / "run", model)
    assert found.after is not None and found.after.unit == "of the variance"


class Odd(nn.Module):
    """A network that gives what it is told to."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.conv, self.give = nn.Conv2d(3, 4, 3), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.conv(x))


@pytest.mark.parametrize(
    "give",
    [
        lambda y: {"out": y, "loss": 3.0},
        lambda y: None,
        lambda y: [],
        lambda y: {"out": y.mean()},
        lambda y: [{"boxes": y.flatten()[:7].reshape(7, 1)}],
    ],
    ids=["number", "none", "empty", "scalar", "boxes"],
)
def test_what_is_no_output_is_refused(give: Any) -> None:
    with pytest.raises(ptq.ModelError):
        ptq.prepare(Odd(give), (3, 16, 16))
    with pytest.raises(ptq.ModelError):
        ptq.as_model(Odd(give), size=16)


@pytest.mark.parametrize(
    "give",
    [
        lambda y: {"a": y, "b": y, "c": y.flatten(1), "d": y.relu(), "e": y.detach()},
        lambda y: [y, torch.zeros_like(y), torch.ones(1, 3, device=y.device).expand(len(y), -1)],
        lambda y: (y.mean((2, 3)).topk(3), [{"sure": y > 0, "side": y.argmax(1)}]),
    ],
    ids=["twice", "constant", "nested"],
)
def test_odd_outputs_are_in_the_file_as_they_are(give: Any, tmp_path: Path) -> None:
    quantized_model, x = quantized(ptq.as_model(Odd(give), size=16, mean=0.5, std=0.25), bits=8), pixels(4)
    given = ort.run_all(ort.session(ptq.export_qdq(quantized_model, tmp_path / "model.onnx")), x.numpy())
    wanted = named(quantized_model.integer_forward(x))
    assert len(given) == len(wanted)
    for (name, ours), theirs in zip(wanted.items(), given, strict=True):
        assert ours.dtype == torch.from_numpy(theirs).dtype, name
        assert torch.allclose(ours.double(), torch.from_numpy(theirs).double(), atol=1e-5), name


def test_what_is_no_input_is_refused() -> None:
    module = other_model("stereo").module.get_submodule("network")
    with pytest.raises(ptq.ModelError, match="left, right, depth"):
        ptq.as_model(module, size=16)
    for inputs in ({"left": "RGB"}, {"top": "RGB"}, {"scale": 2.0}, {"left": "XYZ"}):
        with pytest.raises(ptq.PtqError):
            ptq.as_model(module, size=16, inputs=inputs)


def test_whole_numbers_are_outputs_too(tmp_path: Path) -> None:
    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = other_model("segmentation").module

        def forward(self, x: Tensor) -> Any:
            scores = nn.functional.interpolate(self.net(x), scale_factor=2.0, mode="bilinear").softmax(1)
            sure, mask = scores.max(1)
            return {"mask": mask, "sure": sure > 0.5, "bytes": (sure * 255).round().to(torch.uint8)}

    model = ptq.as_model(Mask(), size=16, mean=0.5, std=0.25)
    quantized_model = quantized(model)
    for method in ("qdrop", "brecq"):
        ptq.reconstruct(
            quantized_model, model.preprocess.normalize(pixels(8)), replace(METHODS[method], iterations=2, batch=4)
        )
    x = model.preprocess.normalize(pixels(8))
    assert ptq.finetune(quantized_model, x[:-1], x[-1:], ptq.ReconstructConfig(finetune=2)) is None
    assert quantized_model.integer_forward(model.preprocess.normalize(pixels(2)))["mask"].dtype == torch.int64
    assert ptq.measure_sensitivity(quantized_model, model.preprocess.normalize(pixels(4))).unit == "of the numbers"
    path = ptq.export_qdq(quantized_model, tmp_path / "model.onnx")
    found = ptq.validate(
        path, quantized_model, model.preprocess, [(pixels(16), None)], runs=2, exact=True, baseline=False
    )
    assert [check for check in found.checks if not check.passed and "not slower" not in check.name] == []
    assert [output.kind for output in found.outputs] == ["discrete"] * 3


class Tied(nn.Module):
    """One of its 256 comparisons is between numbers that are equal but for their rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 256, 3, bias=False), nn.BatchNorm2d(256), nn.Conv2d(3, 256, 3)
        self.norm.weight.data.fill_(0.7)
        self.other.weight.data[0] = 0.7 * self.conv.weight[0] / (1 + self.norm.eps) ** 0.5
        nn.init.zeros_(self.get_parameter("other.bias"))

    def forward(self, x: Tensor) -> Tensor:
        larger: Tensor = self.norm(self.conv(x)) > self.other(x)
        return larger


def test_what_is_nearly_tied_may_fall_otherwise() -> None:
    model, x = Tied().eval(), pixels(4)
    graph_model = ptq.prepare(model, (3, 16, 16))
    assert graph_model.task.kinds == {"output": "discrete"}
    assert 0 < int((graph_model.module(x) != model(x)).sum()) < 0.01 * model(x).numel()


class Anchored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.anchors = nn.Conv2d(3, 4, 3), nn.Parameter(torch.rand(1, 8, 4))

    def forward(self, x: Tensor) -> Any:
        return self.conv(x), self.anchors


def test_what_is_the_same_for_all_images_is_named() -> None:
    with pytest.raises(ptq.ModelError, match="output_1"):
        ptq.prepare(Anchored(), (3, 16, 16))
