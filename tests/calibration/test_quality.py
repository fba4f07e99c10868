"""Quality figures: right where the answer is known, and in the order that sources have."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.quality import assess, vendi_score, with_quality
from ptq.calibration.synthesis import gaussian_noise
from ptq.errors import InputError
from ptq.models.model import Model, as_model
from ptq.tasks.task import Task


@pytest.fixture(scope="module")
def model(digits: Any) -> Model:
    return as_model(digits.model, size=16, mean=digits.mean, std=digits.std, name="digits")


@pytest.fixture(scope="module")
def real(digits: Any) -> CalibrationSet:
    return CalibrationSet.from_pixels(digits.images[:128], digits.labels[:128])


def test_vendi_score_counts_what_differs() -> None:
    assert vendi_score(torch.eye(5)) == pytest.approx(5)
    assert vendi_score(torch.ones(5, 3)) == pytest.approx(1)
    assert vendi_score(torch.eye(4).repeat(3, 1)) == pytest.approx(4)


def test_real_images_are_closer_more_diverse_and_rightly_labeled(model: Model, real: CalibrationSet) -> None:
    noise = gaussian_noise(model, 128)
    good, bad = assess(real, [model], model), assess(noise, [model], model)
    assert good.statistics["digits"] < 0.2 * bad.statistics["digits"]
    assert good.diversity > bad.diversity
    assert good.label_accuracy is not None and good.label_accuracy > 0.9
    assert bad.label_accuracy is None  # noise has no labels
    assert 1 <= good.diversity <= 128


def test_wrong_labels_are_seen(model: Model, real: CalibrationSet) -> None:
    wrong = replace(real, labels=(real.labels + 1) % 10)
    accuracy = assess(wrong, [model], model).label_accuracy
    assert accuracy is not None and accuracy < 0.1


def test_figures_go_into_the_provenance(model: Model, real: CalibrationSet) -> None:
    made = with_quality(real, [model], model)
    figures = made.provenance["quality"]
    assert figures["verifier"] == "digits" and set(figures["statistics"]) == {"digits"}
    assert made.provenance["source"] == real.provenance["source"]
    assert with_quality(real, [model]).provenance["quality"]["verifier"] is None


def test_a_held_out_classifier_of_other_classes_is_refused(model: Model, real: CalibrationSet) -> None:
    with pytest.raises(InputError):
        assess(real, [model], replace(model, task=Task(model.task.kinds, 7)))
