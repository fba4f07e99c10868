"""The whole road, without data, on a network that was really trained: accurate in onnxruntime."""

import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ptq
from ptq.calibration import CalibrationSet
from ptq.data.preprocess import Preprocess
from ptq.errors import PtqError
from ptq.export import Validation, ort, validate
from ptq.export.results import Check
from ptq.reporting.report import CachePeak
from ptq.run import stages
from ptq.run.pipeline import Run
from ptq.run.placing import placed_settings

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.3,) * 3, (0.35,) * 3)


def run(digits: Any, folder: Path, bits: int, act_bits: int, **options: Any) -> Run:
    np.savez(folder / "data.npz", images=digits.images.numpy(), labels=digits.labels.numpy())
    return ptq.quantize(
        digits.model,
        bits,
        preprocess=PREPROCESS,
        act_bits=act_bits,
        data=str(folder / "data.npz"),
        out=str(folder / "run"),
        threads=1,
        **options,
    )


@pytest.fixture(scope="module")
def made(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(digits, tmp_path_factory.mktemp("pipeline"), 8, 8, preset="fast")


@pytest.mark.slow
def test_eight_bits_lose_nothing_without_data(made: Run) -> None:
    top1 = made.report.validation.top1
    assert top1["float"] > 96
    assert top1["onnx"] >= top1["float"] - 0.5
    assert made.report.validation.disagreement is not None and made.report.validation.disagreement <= 0.5


@pytest.mark.slow
def test_four_bits_lose_little_without_data(digits: Any, tmp_path: Path) -> None:
    made = run(digits, tmp_path, 4, 4)
    assert made.report.validation.top1["onnx"] >= made.report.validation.top1["float"] - 3.0


@pytest.mark.slow
def test_the_run_directory_is_complete(made: Run) -> None:
    names = {path.name for path in made.folder.iterdir()}
    assert names == {
        "images.safetensors",
        "images.png",
        "quantized.safetensors",
        "model.onnx",
        "report.json",
        "report.md",
        "report.html",
        "recipe.toml",
    }
    recipe = ptq.read_recipe(made.folder / "recipe.toml")
    assert recipe == placed_settings(made.report.settings, made.quantized_model.plan)
    report = json.loads((made.folder / "report.json").read_text())
    assert set(report["top1"]) >= {"float", "simulated", "onnx"}
    assert set(report["agreement"]) >= {"simulated", "onnx"}
    assert set(report["latency_ms"]) == {"float", "onnx", "quantize_static", "threads"}
    assert set(report["size_bytes"]) == {"float", "onnx", "quantize_static"}
    for key in (
        "seconds",
        "peak_rss_bytes",
        "peak_activations_bytes",
        "blocks",
        "bits",
        "settings",
        "seed",
        "versions",
    ):
        assert report[key] is not None
    assert "torch" in report["versions"] and "onnxruntime" in report["versions"]
    assert (made.folder / "report.md").read_text().startswith("# ")
    page = html.unescape((made.folder / "report.html").read_text())
    for check in made.report.validation.checks:
        assert check.passed and check.name in page and check.measured in page
    assert len(report["worst_layers"]) == 6 and page.count("data:image/") == 32


@pytest.mark.slow
def test_a_run_loads_back_into_the_same_quantized_model(digits: Any, made: Run) -> None:
    quantized_model = ptq.load(made.folder, digits.model)
    x = digits.inputs(digits.images[:32])
    assert torch.equal(quantized_model.integer_forward(x), made.quantized_model.integer_forward(x))


@pytest.mark.slow
def test_the_file_computes_what_was_simulated(digits: Any, made: Run) -> None:
    x = digits.inputs(digits.images)
    onnx = ort.run(ort.session(made.folder / "model.onnx"), x.numpy())
    assert np.abs(onnx - made.quantized_model.integer_forward(x).numpy()).max() < 0.05 * np.abs(onnx).max()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(digits: Any, made: Run, tmp_path: Path) -> None:
    again = run(digits, tmp_path, 8, 8, preset="fast")
    expected = made.quantized_model.module.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.quantized_model.module.state_dict().items())
    assert torch.equal(again.images.images, made.images.images)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_stopped_at_export_and_without_memory_it_ends_with_the_same_files(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = tmp_path / "undisturbed", tmp_path / "stopped"
    for folder in folders:
        folder.mkdir()
    undisturbed = run(digits, folders[0], 4, 4, preset="fast")
    with monkeypatch.context() as patch:
        patch.setattr(stages, "export_qdq", stop)
        with pytest.raises(KeyboardInterrupt):
            run(digits, folders[1], 4, 4, preset="fast", memory_limit="0")
    with monkeypatch.context() as patch:  # images, ranges and blocks are there
        for name in ("run.stages.calibration_images", "run.stages.calibrate", "reconstruction.loop.optimize"):
            patch.setattr(f"ptq.{name}", stop)
        continued = run(digits, folders[1], 4, 4, preset="fast", memory_limit="0")
    for name in ("quantized.safetensors", "model.onnx", "images.safetensors"):
        one, other = (made.folder / name for made in (undisturbed, continued))
        assert one.read_bytes() == other.read_bytes()
    assert not (continued.folder / "run.part").exists()
    peaks = [made.report.peak_activations_bytes for made in (undisturbed, continued)]
    assert peaks[0] == CachePeak(memory=peaks[1].disk, disk=0) and peaks[1].memory == 0
    curves = [[block.losses for block in made.report.blocks] for made in (undisturbed, continued)]
    assert curves[0] == curves[1] and any(curves[0])
    assert any("continued after an interruption" in note for note in continued.report.notes)
    assert not any("continued" in note for note in undisturbed.report.notes)


def failing(*arguments: Any, **options: Any) -> Validation:
    found = validate(*arguments, **options)
    return replace(found, checks=(*found.checks, Check("it is small", "9 MB", "it is not small.")))


@pytest.mark.slow
def test_a_run_that_fails_a_check_has_a_report_that_says_which(
    digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "validate", failing)
    with pytest.raises(PtqError, match=r"- it is not small\."):
        run(digits, tmp_path, 8, 8, preset="fast", images="noise")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "failed 1 of 11 checks" in page and "it is not small." in page and "9 MB" in page


@pytest.mark.slow
def test_calibrate_datafree_leaves_the_model_as_it_was(digits: Any) -> None:
    before = {name: value.clone() for name, value in digits.model.state_dict().items()}
    calibrated = ptq.calibrate_datafree(digits.model, preprocess=PREPROCESS, preset="fast")
    assert isinstance(calibrated.images, CalibrationSet)
    assert all(torch.equal(v, before[k]) for k, v in digits.model.state_dict().items())
    x = digits.inputs(digits.images)
    right = (calibrated.quantized_model.integer_forward(x).argmax(1) == digits.labels).float().mean()
    assert right > 0.95


def test_everything_promised_is_exported() -> None:
    for name in dir(ptq):
        assert getattr(ptq, name) is not None
    assert callable(ptq.reconstruct) and callable(ptq.validate) and callable(ptq.calibrate)


@pytest.mark.slow
def test_an_inspection_goes_with_the_network_it_was_of(digits: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("inspect.md", "inspect.json", "mine.txt"):
        (tmp_path / "run" / name).touch()
    images = tmp_path / "images.npz"
    np.savez(images, images=digits.images.numpy()[:32])
    run(digits, tmp_path, 8, 8, preset="fast", images=str(images), method="nearest")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "mine.txt" in left and not any(name.startswith("inspect") for name in left)


@pytest.mark.slow
def test_what_fine_tuning_brought_is_in_the_report_and_exact_in_the_file(digits: Any, tmp_path: Path) -> None:
    settings = {"calibration.count": 16}
    made = run(digits, tmp_path, 3, 3, images="noise", method="nearest", finetune=20, settings=settings)
    tuned = made.report.finetuning
    assert tuned is not None and (tuned.iterations, tuned.images) == (20, 2)
    assert tuned.after <= tuned.before
    assert ptq.Report.from_json(json.loads((made.folder / "report.json").read_text())).finetuning == tuned
    assert f"{tuned.before:.4f}" in (made.folder / "report.md").read_text()
    assert made.report.seconds["fine-tune"] > 0
    assert made.report.validation.disagreement == 0
