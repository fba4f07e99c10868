"""A student with trained weights takes smaller steps, and no hints; so does one without BatchNorm take smaller steps."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import ptq
from ptq.config.choices import Optimizer
from ptq.distillation.beginning import config_for
from ptq.distillation.config import GENTLE, HINTS, DistillConfig
from ptq.models.model import Model


def student(normalized: bool, seen: bool, source: str = "random") -> Model:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)] if normalized else [nn.Conv2d(3, 4, 3)]
    body = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    if seen:
        body.train()(torch.rand(8, 3, 8, 8))
    return replace(ptq.as_model(body.eval(), size=8, mean=0.5, std=0.25), weights_source=source)


@pytest.mark.parametrize(
    ("normalized", "seen", "source", "quarters", "trained"),
    [
        (True, False, "as given", 0, False),
        (True, True, "random", 1, True),
        (False, False, "random", 1, False),
        (False, False, "weights.pth", 2, True),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_is_trained_takes_small_steps_without_hints(
    normalized: bool, seen: bool, source: str, quarters: int, trained: bool, optimizer: Optimizer
) -> None:
    config = DistillConfig(optimizer=optimizer)
    found = config_for(student(normalized, seen, source), config)
    whole = config_for(student(normalized=True, seen=False), config)
    assert found.lr is not None and whole.lr is not None
    assert found.lr == pytest.approx(whole.lr * GENTLE**quarters)
    assert found.hints == (0.0 if trained else HINTS)
    assert found.weight_decay == whole.weight_decay


def test_what_is_asked_for_stays() -> None:
    config = DistillConfig(lr=0.1, weight_decay=0.2, hints=3.0)
    assert config_for(student(normalized=False, seen=False, source="weights.pth"), config) == config
