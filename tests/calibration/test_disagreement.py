"""Images that a student has something to learn from."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import ptq
from ptq.calibration.disagreement import Disagreement, against, divergence
from ptq.calibration.objectives import Batch, Observation
from ptq.models.model import Model

GIVEN: dict[str, Any] = {"size": 16, "mean": 0.3, "std": 0.35}


def other() -> Model:
    """A student that has learned nothing."""
    torch.manual_seed(3)
    head = nn.Linear(8, 10, bias=False)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    torch.nn.init.normal_(head.weight, std=10.0)
    return ptq.as_model(body.eval(), **GIVEN)


def test_divergence_lies_between_0_and_1_and_does_not_tell_the_two_apart() -> None:
    one, two = torch.randn(2, 64, 10) * 20
    found = float(divergence(one, two))
    assert 0 < found < 1
    assert float(divergence(two, one)) == pytest.approx(found, abs=1e-6)
    assert float(divergence(one, one + 7.0)) == pytest.approx(0.0, abs=1e-6)


def test_without_scores_nothing_is_wrong(digits: Any) -> None:
    images = torch.rand(4, 3, 16, 16)
    silent = Observation(images, (), None, False)
    batch = Batch(images, images, torch.zeros(4, 0), lambda: [silent])
    assert float(Disagreement(student=other()).loss(batch)) == 0.0


def test_images_are_those_that_the_student_takes_for_something_else(digits: Any) -> None:
    teacher, student = ptq.as_model(digits.model, **GIVEN), other()
    plain = ptq.SynthesisConfig(count=16, batch=16, iterations=40, data_mixing=0.0)

    def apart(config: ptq.SynthesisConfig) -> float:
        pixels = ptq.synthesize([teacher], config).floats()
        x = teacher.preprocess.normalize(pixels)
        with torch.no_grad():
            return float(divergence(teacher.module(x), student.module(x)))

    assert apart(against(plain, student, weight=1.0, seed=0)) > 1.1 * apart(plain)


def test_what_images_were_made_for_is_written_down() -> None:
    student = other()
    said = against(ptq.SynthesisConfig(), student, 0.2, seed=5).to_json()
    assert said["seed"] == 5 and said["terms"][-1]["weight"] == 0.2
    changed = replace(student, module=nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))
    assert against(ptq.SynthesisConfig(), changed, 0.2, seed=5).to_json()["terms"][-1] != said["terms"][-1]
