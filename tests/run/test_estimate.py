"""An estimate says what the run then does, and writes nothing."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ptq.cli.commands import app
from ptq.cli.estimate_page import print_estimate
from ptq.config.flat_options import make_settings
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.models.model import Model, as_model
from ptq.run.estimate import Estimate, estimate_run
from ptq.run.pipeline import run

PREPROCESS = Preprocess((16, 16), 16, "bilinear", (0.3,) * 3, (0.35,) * 3)


@pytest.fixture(scope="module")
def model(digits: Any) -> Model:
    return as_model(digits.model, **asdict(PREPROCESS))


def settings(folder: Path, **options: Any) -> Settings:
    return make_settings("digits", **{"bits": 4, "preset": "fast", "threads": 1, "out": str(folder / "run"), **options})


@pytest.mark.slow
def test_the_run_is_what_the_estimate_said(model: Model, tmp_path: Path) -> None:
    chosen = settings(tmp_path, layers={"fc": None}, mixed_copies=1)
    said = estimate_run(chosen, model=model)
    assert list(tmp_path.iterdir()) == []
    report = run(chosen, model=model).report
    *quantized, last = said.blocks
    assert [block.name for block in quantized] == [block.name for block in report.blocks[:-1]]
    assert last.bits == {"fc": None}
    bits = {name: n for block in said.blocks for name, n in block.bits.items() if n is not None}
    assert bits == report.bits
    assert said.kept_float == (*report.validation.float_layers, *report.validation.float_operators)
    assert said.images == report.images.count
    assert said.cached_bytes == report.peak_activations_bytes.memory
    assert said.size_bytes["float"] == report.validation.size_bytes["float"]
    assert said.size_bytes["onnx"] == pytest.approx(report.validation.size_bytes["onnx"], rel=0.02)
    assert said.seconds.keys() < report.seconds.keys()
    assert all(seconds > 0 for seconds in said.seconds.values())


@pytest.mark.timed
def test_steps_that_are_still_to_come_are_counted(model: Model, tmp_path: Path) -> None:
    fast = estimate_run(settings(tmp_path), model=model)
    best = estimate_run(settings(tmp_path, preset="best"), model=model)
    assert best.images == 8 * fast.images  # 32 times the steps
    # Ranges are searched for in as many numbers; only the pass over the images grows.
    assert best.seconds["calibrate"] < 8 * fast.seconds["calibrate"]
    assert best.seconds["synthesize"] > 8 * fast.seconds["synthesize"]
    assert best.seconds["reconstruct"] > 8 * fast.seconds["reconstruct"]
    assert best.cached_bytes == 8 * fast.cached_bytes


def test_nearest_rounding_and_noise_take_no_steps(model: Model, tmp_path: Path) -> None:
    said = estimate_run(settings(tmp_path, images="noise", method="nearest"), model=model)
    assert said.seconds["synthesize"] < 5
    console = Console(width=80, record=True)
    print_estimate(said, console)
    shown = console.export_text()
    assert all(block.name in shown for block in said.blocks)


def test_what_is_not_tuned_takes_no_iterations(model: Model, tmp_path: Path) -> None:
    def seconds(tune_below: float) -> float:
        changed = {"reconstruction.iterations": 10**6, "reconstruction.tune_below": tune_below}
        return estimate_run(settings(tmp_path, bits=8, images="noise", settings=changed), model=model).seconds[
            "reconstruct"
        ]

    assert seconds(1000.0) > 100 > seconds(0.0)


def test_the_command_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def estimated(settings: Settings, progress: object) -> Estimate:
        seen.append(settings)
        return Estimate("net", (), (), ("gelu",), 8, {"onnx": 10}, {"onnx": 1.0}, {"load": 200.0}, 1, 1)

    monkeypatch.setattr("ptq.run.estimate.estimate_run", estimated)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["quantize", "--model", "resnet18", "--bits", "3", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "gelu" in result.stdout and "3.3 min" in result.stdout
    assert seen[0].quantization.bits == 3 and list(tmp_path.iterdir()) == []
