"""A metric of the user's own gets a network and gives numbers; what is wrong with it is one message."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ptq
from ptq.tasks.user_metric import UserMetric, load_metric

METRIC = """
import torch

def shares(predict):
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    images[0] = 255
    return {"mean": predict(images).mean(), "first": predict(images[:1].float() / 255).max()}

def fails(predict):
    raise KeyError("lost")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(METRIC)
    return tmp_path / "own.py"


def test_it_gets_a_network_and_gives_numbers(file: Path) -> None:
    metric = load_metric(f"{file}:shares")
    assert metric.measure(lambda images: 2 * images) == {"mean": 1.0, "first": 2.0}


def test_arrays_are_images_too() -> None:
    metric = UserMetric("own", lambda predict: {"sum": predict(np.full((1, 3, 2, 2), 255, np.uint8)).sum()})
    assert metric.measure(lambda images: images) == {"sum": 12.0}


@pytest.mark.parametrize("reference", ["nowhere.py:shares", "own.py:none", "own.py", "shares"])
def test_what_is_not_there_is_refused(reference: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ptq.InputError):
        load_metric(reference)


@pytest.mark.parametrize("value", [None, {}, 0.5, {"a": "b"}, {"a": float("nan")}, {"a": torch.ones(2)}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ptq.InputError, match="own"):
        UserMetric("own", lambda predict: value).measure(lambda images: images)


def test_a_metric_that_raises_is_one_message(file: Path) -> None:
    with pytest.raises(ptq.InputError, match="KeyError"):
        load_metric(f"{file}:fails").measure(lambda images: images)
    with pytest.raises(ptq.InputError, match="RGB"):
        UserMetric("own", lambda predict: predict(torch.ones(3, 4, 4))).measure(lambda images: images)
