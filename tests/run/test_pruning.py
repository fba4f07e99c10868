"""Pruning as a stage: a smaller network that is right in onnxruntime, that loads again, and that continues after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ptq
from ptq.config.flat_options import make_settings
from ptq.config.recipe_file import read_recipe
from ptq.data.preprocess import Preprocess
from ptq.export import ort
from ptq.pruning.storage import load_pruned
from ptq.reporting.facts import read_facts
from ptq.reporting.pruning_report import PruneFacts
from ptq.run import pruned_network, stages
from ptq.run.inspection import inspect_run
from ptq.run.pipeline import Run
from ptq.run.pruned_network import prune_model
from tests.helpers.networks import SHAPE, ResNet, build
from tests.helpers.pages import Page

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.3,) * 3, (0.35,) * 3)
OPTIONS: dict[str, Any] = {"preset": "fast", "method": "nearest", "threads": 1}
SMALL = {"pruning.granule": 2, "pruning.block_iterations": 2, "pruning.network_iterations": 4}


def run(digits: Any, folder: Path, **options: Any) -> Run:
    np.savez(folder / "data.npz", images=digits.images.numpy()[:200], labels=digits.labels.numpy()[:200])
    np.savez(folder / "some.npz", images=digits.train_images[:64].numpy())
    given = {"prune": "1.5x", "out": str(folder / "run"), "settings": SMALL, **OPTIONS, **options}
    data, images = str(folder / "data.npz"), str(folder / "some.npz")
    return ptq.quantize(digits.model, 8, preprocess=PREPROCESS, data=data, images=images, **given)


@pytest.fixture(scope="module")
def made(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(digits, tmp_path_factory.mktemp("pruned"))


@pytest.mark.slow
def test_the_file_is_smaller_and_as_right_as_its_float_network(made: Run) -> None:
    report = made.report
    assert report.pruning is not None and report.pruning.macs[0] >= 1.5 * report.pruning.macs[1]
    top1, size = report.validation.top1, report.validation.size_bytes
    assert top1["float"] > 96 and top1["pruned"] > 90 and top1["onnx"] > top1["pruned"] - 2
    assert size["pruned"] < size["float"]
    assert report.validation.disagreement == 0
    assert "pruned" in report.validation.agreement and "pruned" in report.validation.latency_ms
    assert "prune" in report.seconds and "--prune 1.5x" in report.command
    assert ptq.Report.from_json(json.loads((made.folder / "report.json").read_text())) == report


@pytest.mark.slow
def test_the_run_loads_back_into_the_same_networks(digits: Any, made: Run) -> None:
    again, x = ptq.load(made.folder, digits.model), digits.inputs(digits.images[:32])
    assert torch.equal(again.integer_forward(x), made.quantized_model.integer_forward(x))
    float_model = made.quantized_model.require_float_model()
    assert torch.equal(again.require_float_model().module(x), float_model.module(x))
    onnx = ort.run(ort.session(made.folder / "model.onnx"), x.numpy())
    assert np.array_equal(onnx, again.integer_forward(x).numpy())


@pytest.mark.slow
def test_a_run_without_its_pruned_network_is_refused(digits: Any, made: Run, tmp_path: Path) -> None:
    (tmp_path / "quantized.safetensors").write_bytes((made.folder / "quantized.safetensors").read_bytes())
    with pytest.raises(ptq.InputError, match=r"pruned\.safetensors"):
        ptq.load(tmp_path, digits.model)


@pytest.mark.slow
def test_a_run_is_inspected_as_it_was_pruned(digits: Any, made: Run) -> None:
    found = inspect_run(made.folder, ptq.as_model(digits.model, size=16, mean=0.3, std=0.35), count=4, threads=1)
    widths = {layer.name for layer in found.latest.layers}
    assert widths == set(made.quantized_model.layers())


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_stopped_behind_pruning_it_ends_with_the_same_files(
    digits: Any, made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stages, "calibrate", stop)
        with pytest.raises(KeyboardInterrupt):
            run(digits, tmp_path)
    with pytest.raises(ptq.InputError, match=r"prune: 1\.5x there, 2x here"):
        run(digits, tmp_path, prune="2x")
    with monkeypatch.context() as patch:
        patch.setattr("ptq.run.pruning.prune", stop)  # it is there
        continued = run(digits, tmp_path)
    for name in ("pruned.safetensors", "quantized.safetensors"):
        one, other = (load_file(folder / name) for folder in (made.folder, continued.folder))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("options", [{"prune": "50x"}, {"keep": "0.01%"}])
def test_what_cannot_be_met_is_refused_before_images_are_made(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "keep_images", lambda *_: pytest.fail("images were asked for"))
    given = {**OPTIONS, **options, "out": str(tmp_path / "run")}
    with pytest.raises(ptq.InputError):
        ptq.quantize(build("resnet"), preprocess=PREPROCESS, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_pruned_network_by_itself(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "some.npz", images=digits.train_images[:64].numpy())
    settings = make_settings(
        "net", keep="60%", images=str(tmp_path / "some.npz"), out=str(tmp_path / "run"), settings=SMALL, threads=1
    )
    model = ptq.as_model(digits.model, size=16, mean=0.3, std=0.35)
    with monkeypatch.context() as patch:
        patch.setattr(pruned_network, "write_float_file", stop)
        with pytest.raises(KeyboardInterrupt):
            prune_model(settings, model=model)
    found: list[str] = []
    made = prune_model(settings, model=model, say=found.append)
    assert found == ["continues an interrupted run: images, pruned already done"]
    before, after = made.facts.pruning.parameters
    assert after <= 0.6 * before and made.facts.validation.agreement["onnx"] > 85
    x = digits.inputs(digits.images[:8])
    onnx = ort.run(ort.session(made.folder / "pruned.onnx"), x.numpy())
    assert np.allclose(onnx, made.graph_model.module(x).numpy(), atol=1e-4)
    again, result = load_pruned(made.folder / "pruned.safetensors", ptq.prepare(digits.model, SHAPE))
    assert torch.equal(again.module(x), made.graph_model.module(x)) and result == made.facts.pruning
    assert read_facts(PruneFacts, made.folder) == made.facts
    assert read_recipe(made.folder / "recipe.toml").pruning.parameters == "60%"
    assert "ptq prune --config" in (made.folder / "recipe.toml").read_text()
    shown = Page((made.folder / "report.html").read_text())
    assert len(shown.of("img")) == 32 and "closed form" in shown.text
    assert not any("quantized layer" in check.name for check in made.facts.validation.checks)
    assert not (made.folder / "run.part").exists()


@pytest.mark.slow
def test_a_folder_of_a_quantized_network_is_not_taken(digits: Any, made: Run) -> None:
    settings = make_settings("net", prune="2x", images="noise", out=str(made.folder), settings=SMALL)
    with pytest.raises(ptq.InputError):
        prune_model(settings, model=ptq.as_model(digits.model, size=16, mean=0.3, std=0.35))


@pytest.mark.slow
def test_another_network_does_not_fit(made: Run) -> None:
    with pytest.raises(ptq.InputError):
        ptq.load(made.folder, ResNet(width=12))
