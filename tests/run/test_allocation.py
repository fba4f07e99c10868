"""Runs with a budget: met by the file, kept for another budget, judged on images that tuned nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ptq
from ptq.calibration import CalibrationSet
from ptq.config.bit_budget import check_budget, run_suffix
from ptq.config.flat_options import command, make_settings
from ptq.errors import InputError
from ptq.run.allocation import JUDGES, held_apart
from ptq.run.pipeline import Run
from tests.helpers.networks import build

FEW = {"calibration.count": 8}


def quantized(folder: Path, **budget: Any) -> Run:
    model = ptq.as_model(build("resnet"), size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    return ptq.quantize(
        model, images="noise", method="nearest", place="integers", out=str(folder), settings=FEW, **budget
    )


def test_another_budget_in_the_same_folder_measures_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quantized(tmp_path, max_size="33kB")
    assert (tmp_path / "model.onnx").stat().st_size <= 33_000
    assert first.report.allocation is not None and first.report.bits == first.report.allocation.bits
    assert first.report.allocation.size == pytest.approx((tmp_path / "model.onnx").stat().st_size, abs=64)
    monkeypatch.setattr("ptq.run.allocation.find_choices", None)
    second = quantized(tmp_path, max_size="31kB")
    assert second.report.allocation is not None
    assert (tmp_path / "model.onnx").stat().st_size <= 31_000
    assert second.report.allocation.predicted > first.report.allocation.predicted


def test_what_a_refused_budget_says_can_be_met_in_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as refusal:
        quantized(tmp_path, max_size="2kB")
    monkeypatch.setattr("ptq.run.allocation.find_choices", None)
    least = str(refusal.value).rpartition("takes ")[2].removesuffix(".")
    made = quantized(tmp_path, max_size=least)
    assert made.report.allocation is not None
    assert made.report.allocation.size == made.report.allocation.frontier[0].size


def test_an_agreement_is_judged_on_images_that_nothing_was_tuned_with(tmp_path: Path) -> None:
    made = quantized(tmp_path, min_agreement=50.0)
    assert made.report.validation.validated_on == JUDGES
    assert made.report.allocation is not None
    attempts = made.report.allocation.attempts
    chosen = min((attempt for attempt in attempts if attempt.enough), key=lambda attempt: attempt.size)
    assert made.report.allocation.size == chosen.size
    assert chosen.after == pytest.approx(made.report.validation.agreement["onnx"])  # of the file itself
    assert not list(tmp_path.glob("run.part/**/*"))
    assert len(made.images) == 8


@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({"min_agreement": 98.0}, 4),
        ({"min_agreement": 98.0, "data": "val"}, 0),
        ({"finetune": 20}, 2),
        ({"finetune": 20, "data": "val"}, 2),
        ({"finetune": 20, "min_agreement": 98.0}, 4),
        ({}, 0),
    ],
)
def test_whatever_judges_without_labels_judges_on_images_apart(options: dict[str, Any], apart: int) -> None:
    tuned, judged = held_apart(_one_gray_each(16), make_settings("resnet18", **options))
    assert len(tuned) == 16 - apart
    grays = torch.empty(0) if judged is None else judged.images.unique()
    assert len(grays) == apart and not torch.isin(grays, tuned.images).any()


@pytest.mark.parametrize("count", [1, 3, 8, 16, 2000])
def test_agreement_is_judged_on_mixed_copies_where_there_are_two_images_to_mix(count: int) -> None:
    images = _one_gray_each(count)
    tuned, judged = held_apart(images, make_settings("resnet18", min_agreement=98.0))
    apart = count - len(tuned)
    assert apart == (count // 4 if count > 4 else int(count > 1))
    if judged is not None:
        mixed = judged.images.flatten(1).amax(1) > judged.images.flatten(1).amin(1)
        assert len(judged) == (JUDGES if apart > 1 else apart)
        assert apart < 2 or mixed.float().mean() > 0.9


def _one_gray_each(count: int) -> CalibrationSet:
    grays = torch.linspace(0, 1, count).view(count, 1, 1, 1)
    return CalibrationSet.from_pixels(grays.expand(count, 3, 8, 8))


def test_a_drop_is_judged_on_labeled_images(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 16, 16), np.uint8)
    np.savez(data, images=pixels, labels=np.arange(20) % 10)
    made = quantized(tmp_path / "run", max_drop=100.0, data=str(data))
    assert made.report.allocation is not None
    assert made.report.allocation.size == made.report.allocation.frontier[0].size


def test_one_budget_at_most_and_a_drop_only_with_labels() -> None:
    for wrong in ({"max_size": "3MB", "max_drop": 1.0, "data": "val"}, {"max_drop": 1.0}):
        with pytest.raises(InputError):
            check_budget(make_settings("resnet18", **wrong))


def test_images_that_a_network_is_judged_by_decide_with_the_budget() -> None:
    for options, data in (({"min_agreement": 98.0}, "val"), ({"max_drop": 1.0}, "val"), ({"max_size": "3MB"}, None)):
        assert make_settings("resnet18", data="val", **options).decisive().evaluation.data == data


def test_a_recipe_and_a_command_hold_the_budget() -> None:
    settings = make_settings("resnet18", max_size="3MB")
    assert "--max-size 3MB" in command(settings)
    assert run_suffix(settings) == "max-size-3MB"
