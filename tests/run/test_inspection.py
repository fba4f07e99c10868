"""Inspecting a trained network by command: a finished run, and one that is yet to be quantized."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ptq
from ptq.calibration import CalibrationSet
from ptq.config.flat_options import make_settings
from ptq.config.nested import build, leaf_values
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.errors import PtqError
from ptq.run import pipeline
from tests.cli.test_commands import call

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.3,) * 3, (0.35,) * 3)
FACTORY = """
from tests.helpers.networks import ResNet
PREPROCESS = dict(size=16, resize=16, mean=(0.3,) * 3, std=(0.35,) * 3)
def net():
    return ResNet()
"""


@pytest.fixture(scope="module")
def settings(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A trained network by reference, with images that it knows."""
    folder = tmp_path_factory.mktemp("inspection")
    (folder / "net.py").write_text(FACTORY)
    torch.save(digits.model.state_dict(), folder / "net.pth")
    CalibrationSet.from_pixels(digits.train_images[:96]).save(folder / "images.safetensors")
    return make_settings(
        f"{folder / 'net.py'}:net",
        2,
        act_bits=4,
        preset="fast",
        weights=str(folder / "net.pth"),
        images=str(folder / "images.safetensors"),
        out=str(folder / "run"),
        threads=1,
    )


@pytest.fixture(scope="module")
def run_dir(settings: Settings) -> Path:
    return pipeline.run(settings).folder


def of_a_model(settings: Settings, *more: str) -> tuple[str, ...]:
    weights = settings.model.weights
    assert weights is not None
    return ("inspect", "--model", settings.model.name, "--weights", weights, "--threads", "1", *more)


@pytest.mark.slow
def test_reconstruction_helps_the_network_and_every_block_alone(run_dir: Path) -> None:
    found = ptq.inspect_run(run_dir, count=96, threads=1)
    assert found.after is not None
    assert found.after.network.loss < found.before.network.loss
    assert found.after.network.sqnr > found.before.network.sqnr + 3
    report = json.loads((run_dir / "report.json").read_text())
    states = found.before.blocks, found.after.blocks, report["blocks"]
    for before, block, told in zip(*states, strict=True):
        assert list(block.layers) == told["layers"]
        # The report's figure is of activations in bfloat16, whose steps at the end of the range are as wide as half a
        # code of 8 bits: blocks of 8 bits notice.
        if told["kept"] == "learned":
            assert block.isolated > before.isolated
            assert block.cumulative == pytest.approx(told["sqnr"], abs=0.5)
        else:  # its bias may take out what the blocks before it add, which it does not see alone
            assert block.cumulative > before.cumulative
            assert block.cumulative == pytest.approx(told["sqnr"], abs=1.5)


@pytest.mark.slow
def test_the_state_before_is_rebuilt_as_it_was(settings: Settings, tmp_path: Path) -> None:
    chosen = build(
        Settings,
        leaf_values(settings)
        | {
            "reconstruction.method": "nearest",
            "reconstruction.correct_bias": False,
            "calibration.mixed_copies": 1,
            "execution.seed": 3,
            "output.folder": str(tmp_path / "run"),
        },
    )
    # 2 bits rounded to the nearest lose the predictions. The run says so, and is there to be looked at.
    with pytest.raises(ptq.ValidationError, match=r"--layer blocks_.*=8"):
        pipeline.run(chosen)
    found = ptq.inspect_run(chosen.output.folder, threads=1)
    assert found.before == found.after


@pytest.mark.slow
def test_a_run_by_command(run_dir: Path) -> None:
    result = call("inspect", str(run_dir), "--top", "3", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "3 layers that cost most" in result.output
    assert "before" in result.output and "after" in result.output
    assert "--layer " in result.output.splitlines()[-3]
    data = json.loads((run_dir / "inspect.json").read_text())
    names = [layer["name"] for layer in data["before"]["layers"]]
    assert names == [layer["name"] for layer in data["after"]["layers"]]
    page = (run_dir / "inspect.md").read_text()
    assert all(f"\n| {name} | " in page for name in names)
    assert "96 images" in page and "measured on 32 of them" in page


@pytest.mark.slow
def test_a_model_by_command(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = of_a_model(settings, "--bits", "2", "--act-bits", "4", "--images", settings.calibration.images)
    result = call(*arguments, "--all", "--json", str(file), "--count", "96")
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    assert (data["after"], data["before"]["images"]) == (None, 96)
    assert "these images are noise" not in result.output
    first = result.output.split("Layers that cost most")[1].split("What they hold")[0]
    for layer in data["before"]["layers"]:
        assert first.count(f"{layer['name']} ") == 1
    assert f"wrote {file}" in result.output.replace("\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.slow
def test_without_images_noise_is_what_it_is_and_is_said(settings: Settings) -> None:
    result = call(*of_a_model(settings, "--bits", "3", "--count", "2"))
    assert result.exit_code == 0, result.output
    assert "these images are noise: ranges mean little" in result.output
    assert "gaussian noise" in result.output


@pytest.mark.slow
def test_a_run_of_another_network_is_refused(settings: Settings, run_dir: Path, digits: Any, tmp_path: Path) -> None:
    other = nn.Sequential(*list(digits.model.children()))
    with pytest.raises(PtqError):
        ptq.inspect_run(run_dir, other)
    torch.manual_seed(1)
    with pytest.raises(PtqError, match="has other weights now"):
        ptq.inspect_run(run_dir, type(digits.model)().eval())


@pytest.mark.slow
def test_a_run_of_a_module_needs_the_module(digits: Any, settings: Settings, tmp_path: Path) -> None:
    made = ptq.quantize(
        digits.model,
        4,
        preprocess=PREPROCESS,
        method="nearest",
        images=settings.calibration.images,
        out=str(tmp_path / "run"),
        threads=1,
        settings={"reconstruction.correct_bias": False},
    )
    result = call("inspect", str(made.folder))
    assert result.exit_code == 2
    assert "use ptq.inspect_run(folder, model) from Python" in result.stderr
    found = ptq.inspect_run(made.folder, digits.model, threads=1)
    assert found.before == found.after and found.name == "model"


@pytest.mark.slow
def test_what_is_missing_from_a_run_is_said(settings: Settings, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "quantized.safetensors").write_bytes((run_dir / "quantized.safetensors").read_bytes())
    for name, message in (("report.json", "no readable report.json"), ("images", "images")):
        result = call("inspect", str(tmp_path))
        assert (result.exit_code, "Traceback" in result.output) == (2, False)
        assert message in result.stderr
        if name == "report.json":
            (tmp_path / name).write_bytes((run_dir / name).read_bytes())


RUN = ("inspect", "run")
MODEL = ("inspect", "--model", "resnet18", "--bits", "4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect",), "give the directory of a finished run, or --model and --bits"),
        (("inspect", "--model", "resnet18"), "or --model and --bits"),
        (("inspect", "--bits", "4"), "or --model and --bits"),
        (("inspect", "nowhere"), "there is nothing at nowhere"),
        (RUN, "give the directory of a finished ptq quantize"),
        ((*RUN, "--model", "resnet18"), "--model: run says this by itself"),
        ((*RUN, "--act-bits", "8"), "--act-bits: run says this by itself"),
        ((*RUN, "--reduce-range"), "--reduce-range: run says this by itself"),
        ((*RUN, "--device", "gpu"), "--device: 'gpu'; give cpu"),
        ((*MODEL, "--bits", "1"), "--bits"),
        ((*MODEL, "--act-bits", "9"), "--act-bits"),
        ((*MODEL, "--images", "mixmix"), "ptq synthesize --model resnet18"),
        ((*MODEL, "--images", "absent.npz"), "--images: 'absent.npz'"),
        ((*MODEL, "--weights", "no.pth"), "--weights: there is nothing at no.pth"),
        ((*MODEL, "--json", "run"), "--json: run is a folder; give a file"),
        ((*MODEL, "--top", "0"), "--top"),
        ((*MODEL, "--count", "0"), "--count"),
    ],
)
def test_bad_options_are_refused(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not list((tmp_path / "run").iterdir())
