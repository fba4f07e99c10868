"""Calibration images from every source that a user can name, and what happens after an interruption."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ptq.calibration import CalibrationSet, gaussian_noise, synthesis_preset
from ptq.config.flat_options import make_settings
from ptq.config.settings import EvaluationSettings, Settings
from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError, ModelError
from ptq.models.model import Model, as_model
from ptq.run import inputs
from ptq.run.datafree import calibrate_datafree
from ptq.run.evaluation import data_of
from ptq.run.inputs import (
    BATCHES,
    calibration_images,
    image_source,
    keep_images,
    load_teacher,
    load_teachers_and_verifier,
    own_network,
)
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import build

NETWORK = """
from torch import nn

PREPROCESS = dict(size=16, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, 10))
"""


@pytest.fixture
def model() -> Model:
    return as_model(build("resnet"), size=16, mean=(0.5,) * 3, std=(0.25,) * 3, name="net")


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A reference with weights of its own: FILE.py:factory=WEIGHTS."""
    file, weights = tmp_path / "small.py", tmp_path / "small.pth"
    file.write_text(NETWORK)
    torch.manual_seed(0)
    torch.save(load_teacher(f"{file}:small").module.state_dict(), weights)
    return f"{file}:small={weights}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset of a second."""

    def preset(name: str, preprocess: object, method: str = "mixmix", **changes: object) -> object:
        budget = {"count": 6, "batch": 4, "iterations": 3}
        return synthesis_preset("fast", preprocess, method, **{**budget, **changes})  # type: ignore[arg-type]

    monkeypatch.setattr(inputs, "synthesis_preset", preset)


def settings(folder: Path, **options: Any) -> Settings:
    return make_settings("net", out=str(folder / "run"), **options)


def made_for(model: Model, chosen: Settings, folder: Path | None = None) -> CalibrationSet:
    source = image_source(chosen.calibration, chosen.execution, model.preprocess)
    teachers, verifier = load_teachers_and_verifier(chosen.calibration, model)
    return calibration_images(model, source, teachers, verifier, folder=folder)


def kept(folder: Path, model: Model, finished: WorkStore) -> CalibrationSet:
    """The images of a run directory."""
    chosen = settings(folder)
    source = image_source(chosen.calibration, chosen.execution, model.preprocess)
    return keep_images(folder, finished, partial(calibration_images, model, source))


@pytest.mark.parametrize("source", ["mixmix", "zeroq", "deepinversion", "genie", "synq"])
def test_methods_give_images_with_figures_of_their_quality(source: str, model: Model, tmp_path: Path) -> None:
    made = made_for(model, settings(tmp_path, images=source))
    assert len(made) == 6 and made.provenance["source"] == source
    assert set(made.provenance["quality"]["statistics"]) == {"net"}


def test_files_folders_and_noise(model: Model, tmp_path: Path) -> None:
    noise = made_for(model, settings(tmp_path, images="noise"))
    assert noise.provenance["source"] == "gaussian noise" and len(noise) == 6
    noise.save(tmp_path / "images.safetensors")
    again = made_for(model, settings(tmp_path, images=str(tmp_path / "images.safetensors")))
    assert torch.equal(again.images, noise.images)
    np.savez(tmp_path / "real.npz", images=noise.images.numpy())
    real = made_for(model, settings(tmp_path, images=str(tmp_path / "real.npz")))
    assert torch.equal(real.images, noise.images)
    CalibrationSet.from_pixels(torch.rand(2, 3, 8, 8)).save(tmp_path / "small.safetensors")
    fitted = made_for(model, settings(tmp_path, images=str(tmp_path / "small.safetensors")))
    assert fitted.images.shape == (2, 3, 16, 16) and fitted.provenance["resized_from"] == [8, 8]


def test_the_universal_set_serves_any_network_as_many_images_as_a_run_wants(model: Model, tmp_path: Path) -> None:
    made = made_for(model, settings(tmp_path, images="universal"))
    assert made.images.shape == (6, 3, 16, 16) and made.labels.tolist() == [-1] * 6
    assert set(made.provenance["quality"]["statistics"]) == {"net"}
    bare = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000))
    gray = as_model(bare, size=(12, 40), channels="L", mean=(0.5,), std=(0.25,))
    settled = settings(tmp_path, images="universal", settings={"calibration.count": 9})
    made = made_for(gray, settled)
    assert made.images.shape == (9, 3, 12, 40) and len(set(made.labels.tolist())) == 9  # the classes are ImageNet's


def test_teachers_bring_their_weights_and_a_verifier_judges(model: Model, teacher: str, tmp_path: Path) -> None:
    alone = made_for(model, settings(tmp_path))
    chosen = settings(tmp_path, teachers=(teacher,), verifier=teacher)
    made = made_for(model, chosen)
    assert [t["name"] for t in made.provenance["teachers"]] == ["net", "small"]
    assert made.provenance["teachers"][1]["weights"] == "small.pth"
    assert set(made.provenance["quality"]["statistics"]) == {"net", "small"}
    assert made.provenance["quality"]["verifier"] == "small"
    assert not torch.equal(made.images, alone.images)


def test_a_model_without_batch_norm_leaves_it_to_the_teachers(teacher: str, tmp_path: Path) -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    model = as_model(bare, size=(12, 20), mean=(0.5,) * 3, std=(0.25,) * 3, name="bare")
    made = made_for(model, settings(tmp_path, teachers=(teacher,)))
    assert made.images.shape == (6, 3, 12, 20)
    assert [t["name"] for t in made.provenance["teachers"]] == ["small"]
    with pytest.raises(ModelError, match="bare"):
        made_for(model, settings(tmp_path))


def test_an_interrupted_run_finds_its_batches(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(tmp_path)
    made = made_for(model, chosen, tmp_path / "parts")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == [
        "batch-0000.safetensors",
        "batch-0001.safetensors",
    ]
    monkeypatch.setattr("ptq.calibration.synthesis._optimize", None)  # nothing is left to optimize
    assert torch.equal(made_for(model, chosen, tmp_path / "parts").images, made.images)
    with pytest.raises(TypeError):
        made_for(model, settings(tmp_path, seed=1), tmp_path / "parts")


def test_images_that_are_finished_are_not_made_again_and_altered_ones_are(model: Model, tmp_path: Path) -> None:
    run, part = tmp_path / "run", tmp_path / "run" / "run.part"
    made = kept(run, model, WorkStore(part))
    names = {path.name for path in run.iterdir()}
    assert names == {"images.safetensors", "images.png", "run.part"}  # no batches any more
    WorkStore(part).save("ranges", model.module)
    (run / ".ptq-images-x7d.png").touch()  # what a kill left
    WorkStore(run / BATCHES).write("batch-0000", {})  # and what one left that came later
    again = keep_images(run, WorkStore(part), lambda folder: pytest.fail("made again"))
    assert torch.equal(again.images, made.images) and again.provenance == made.provenance
    assert {path.name for path in run.iterdir()} == names
    gaussian_noise(model, 6).save(run / "images.safetensors")
    finished = WorkStore(part)
    assert finished.found == ["images", "ranges"]
    assert torch.equal(kept(run, model, finished).images, made.images)
    assert finished.found == [] and WorkStore(part).found == ["images"]


def test_calibrate_datafree_takes_models_of_one_s_own(teacher: str) -> None:
    made = calibrate_datafree(
        build("resnet"), teachers=(load_teacher(teacher),), preset="fast", preprocess=load_teacher(teacher).preprocess
    )
    assert [t["name"] for t in made.images.provenance["teachers"]] == ["model", "small"]


def test_a_network_says_once_what_images_it_takes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    halves = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = own_network(net, None, {"size": (8, 8), **halves})
    assert model.preprocess == Preprocess((8, 8), 8, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert own_network(net, model.preprocess, {"size": 16}).preprocess.size == (16, 16)
    assert own_network(model, None, {}) is model
    with pytest.warns(UserWarning, match="assuming ImageNet's"):
        assert own_network(net, None, {"size": 8}).preprocess.std == IMAGENET.std
    with pytest.raises(InputError, match="size"):
        own_network(model, None, {"size": 8})
    with pytest.raises(InputError, match="weights"):
        own_network(net, model.preprocess, {"weights": "w.pth"})


def test_a_run_is_measured_again_on_its_own_data(tmp_path: Path) -> None:
    assert data_of(EvaluationSettings()) is None
    (tmp_path / "data.npz").touch()
    there = EvaluationSettings(str(tmp_path / "data.npz"))
    assert data_of(there) == str(tmp_path / "data.npz")
    (tmp_path / "data.npz").unlink()
    with pytest.warns(UserWarning, match="no accuracy without --data"):
        assert data_of(there) is None
