"""`ptq distill`: its files, what quantization takes from them, and what an interruption leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

import ptq
from ptq.config.distillation_settings import DistillationSettings
from ptq.config.distilled_run import settings_of_student
from ptq.config.recipe_file import read_recipe
from ptq.config.settings import CalibrationSettings, ModelSettings, Settings, SynthesisSettings
from ptq.export import export_float, ort
from ptq.run.distilled_network import ENOUGH, _source, load_student
from tests.helpers.pages import Page

NETWORKS = """
import torch
from torch import nn
from tests.helpers.networks import ResNet

PREPROCESS = dict(size=16, mean=(0.3, 0.3, 0.3), std=(0.35, 0.35, 0.35))

def teacher():
    return ResNet()

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
"""
LEARN = (
    "--student",
    "nets.py:small",
    "--epochs",
    "3",
    "--images",
    "images.npz",
    "--data",
    "data.npz",
    "--threads",
    "1",
)


def call(*arguments: str) -> Result:
    from ptq.cli.commands import app

    return CliRunner().invoke(app, arguments)


def distill(*more: str) -> Result:
    return call("distill", "--teacher", "nets.py:teacher", "--weights", "teacher.safetensors", *LEARN, *more)


@pytest.fixture(scope="module")
def folder(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `ptq distill` in ``run``, and what it was made from."""
    at = tmp_path_factory.mktemp("distilled")
    (at / "nets.py").write_text(NETWORKS)
    save_file(digits.model.state_dict(), at / "teacher.safetensors")
    np.savez(at / "images.npz", images=digits.train_images[:64].numpy(), labels=np.zeros(64, int))
    np.savez(at / "data.npz", images=digits.images[:100].numpy(), labels=digits.labels[:100].numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(at)
        result = distill("--out", "run")
        assert result.exit_code == 0, result.output
    return at


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def facts(run: str = "run") -> Any:
    return json.loads((Path(run) / "distilled.json").read_text())


def test_weights_and_file_are_the_student(digits: Any) -> None:
    student = ptq.load_model("nets.py:small", Path("run/weights.safetensors"))
    x = digits.inputs(digits.images[:8])
    onnx = ort.run(ort.session(Path("run/student.onnx")), x.numpy())
    np.testing.assert_allclose(onnx, student.module(x).detach().numpy(), atol=1e-4)


def test_the_report_has_curves_accuracy_images_and_time() -> None:
    found = facts()
    epochs = found["distillation"]["epochs"]
    assert [epoch["number"] for epoch in epochs] == [1, 2, 3]
    assert epochs[-1]["accuracy"] == pytest.approx(found["top1"]["onnx"], abs=1.1)
    assert found["teacher_top1"]["teacher"] > 90
    assert found["images"]["count"] == 64
    assert {"images", "distill", "validate"} <= found["seconds"].keys()
    page = Path("run/report.md").read_text()
    assert "ptq quantize --from run" in page and "| 3 |" in page
    assert not Path("run/run.part").exists()
    shown = Page(Path("run/report.html").read_text())
    assert len(shown.of("svg")) == 3 and len(shown.of("img")) == 32


def test_the_page_is_made_anew_from_the_folder() -> None:
    before = Path("run/report.html").read_text()
    Path("run/report.html").unlink()
    assert call("report", "run").exit_code == 0
    assert Path("run/report.html").read_text() == before


def test_the_recipe_repeats_the_run() -> None:
    recipe = read_recipe("run/recipe.toml")
    assert (recipe.model.name, recipe.distillation.student) == ("nets.py:teacher", "nets.py:small")
    assert "ptq distill --config" in Path("run/recipe.toml").read_text()
    dumped = call("distill", "--config", "run/recipe.toml", "--dump-config")
    assert dumped.stdout == Path("run/recipe.toml").read_text()


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ptq.distillation.distillation.KEEP_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("ptq.run.distilled_network.write_float_file", stop)
        assert distill("--out", "stopped").exit_code != 0
    refused = distill("--out", "stopped", "--seed", "1")
    assert refused.exit_code == 2 and "seed" in refused.stderr
    result = distill("--out", "stopped")
    assert result.exit_code == 0 and "continues an interrupted run" in result.stdout
    assert Path("stopped/weights.safetensors").read_bytes() == Path("run/weights.safetensors").read_bytes()
    assert facts("stopped")["distillation"]["epochs"] == facts()["distillation"]["epochs"]


@pytest.mark.slow
def test_quantization_goes_on_with_the_student_its_weights_and_the_images() -> None:
    assert settings_of_student(Path("run"))["model.size"] == (16, 16)
    given = ("--method", "nearest", "--preset", "fast", "--threads", "1", "--data", "data.npz")
    result = call("quantize", "--from", "run", "--bits", "8", "--out", "quantized", *given)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("quantized/report.json").read_text())
    assert report["settings"]["model"]["weights"] == "run/weights.safetensors"
    assert report["images"]["count"] == 64
    assert report["top1"]["float"] == pytest.approx(facts()["top1"]["onnx"], abs=1.1)


@pytest.mark.slow
def test_quantization_goes_on_with_a_student_that_was_a_file() -> None:
    student = ptq.load_model("nets.py:small")
    export_float(
        ptq.prepare(student.module, student.preprocess.input_shape).module,
        Path("small.onnx"),
        torch.zeros(2, 3, 16, 16),
    )
    assert distill("--out", "of_a_file", "--student", "small.onnx").exit_code == 0
    given = ("--method", "nearest", "--preset", "fast", "--threads", "1", "--data", "data.npz")
    result = call("quantize", "--from", "of_a_file", "--bits", "8", "--out", "quantized_file", *given)
    assert result.exit_code == 0, result.output
    report = json.loads(Path("quantized_file/report.json").read_text())
    assert report["settings"]["model"]["name"] == "of_a_file/student.onnx"
    assert report["top1"]["float"] == pytest.approx(facts("of_a_file")["top1"]["onnx"], abs=1.1)


def test_a_quantized_network_is_not_overwritten() -> None:
    Path("taken").mkdir()
    Path("taken/quantized.safetensors").touch()
    assert distill("--out", "taken").exit_code == 2


def test_a_student_begins_with_weights_or_with_random_ones_of_the_seed() -> None:
    teacher = ptq.load_model("nets.py:teacher", Path("teacher.safetensors"))
    given = DistillationSettings("nets.py:teacher", "teacher.safetensors")
    assert load_student(given, teacher).sha256 == teacher.sha256
    first, again, other = (load_student(DistillationSettings("nets.py:small"), teacher, seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256


def test_small_images_are_made_in_few_iterations_unless_they_say_how_many() -> None:
    teacher = ptq.load_model("nets.py:teacher")

    def iterations(images: str = "mixmix", said: int | None = None) -> int:
        calibration = CalibrationSettings(images=images, synthesis=SynthesisSettings(iterations=said))
        return _source(Settings(ModelSettings(teacher.name), calibration=calibration), teacher).config.iterations

    assert iterations() == ENOUGH < iterations("deepinversion")
    assert iterations(said=70) == 70


def test_a_student_that_does_not_say_what_images_it_takes_takes_those_of_its_teacher() -> None:
    Path("bare.py").write_text("from nets import small\n")
    teacher = ptq.load_model("nets.py:teacher", Path("teacher.safetensors"))
    with pytest.warns(UserWarning, match="goes with: mean, std"):
        assert load_student(DistillationSettings("bare.py:small"), teacher).preprocess == teacher.preprocess
    assert distill("--out", "of_bare", "--student", "bare.py:small").exit_code == 0
    assert settings_of_student(Path("of_bare"))["model.mean"] == pytest.approx((0.3, 0.3, 0.3))
