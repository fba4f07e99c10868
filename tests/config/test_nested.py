"""Nested settings as values by dotted name: checked on the way in, the same on the way back."""

from pathlib import Path
from typing import Any

import pytest

import ptq
from ptq.config.nested import build, checked, flatten, leaf_types, leaf_values
from ptq.config.settings import Settings


def test_values_by_name_are_the_settings() -> None:
    values = {"model.name": "net", "quantization.layers": {"fc": None}, "calibration.synthesis.lr": 0.5}
    settings = build(Settings, values)
    assert leaf_values(settings).keys() == leaf_types(Settings).keys()
    assert leaf_values(settings).items() >= values.items()
    assert flatten(Settings, settings.to_json()) == leaf_values(settings)
    assert build(Settings, leaf_values(settings)) == settings


@pytest.mark.parametrize(
    ("name", "value", "held"),
    [
        ("model.size", 64, (64, 64)),
        ("model.size", [64, 96], (64, 96)),
        ("model.mean", 0.5, (0.5,)),
        ("model.std", [1, 1, 1], (1.0, 1.0, 1.0)),
        ("model.weights", Path("a") / "b", "a/b"),
        ("quantization.layers", {"fc": "float", "conv": 8}, {"fc": None, "conv": 8}),
        ("calibration.teachers", ["a", "b"], ("a", "b")),
        ("calibration.synthesis.lr", 1, 1.0),
    ],
)
def test_short_forms(name: str, value: Any, held: Any) -> None:
    assert checked(Settings, {name: value}) == {name: held}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantization.bits", "four"),
        ("quantization.bits", 4.5),
        ("quantization.bits", True),
        ("quantization.bits", 9),
        ("quantization.bits", None),
        ("quantization.reduce_range", 1),
        ("quantization.layers", 4),
        ("quantization.layers", {"fc": "integer"}),
        ("quantization.layers", {"fc": 1}),
        ("calibration.teachers", "resnet18"),
        ("calibration.synthesis.half_resolution", 1.5),
        ("calibration.synthesis.schedule", "linear"),
        ("model.mean", float("nan")),
        ("model.size", 0),
        ("execution.preset", "magic"),
        ("reconstruction.lr_rounding", float("inf")),
        ("execution.seed", -1),
        ("execution.device", "gpu"),
        ("execution.threads", 100_000),
        ("output.folder", 7),
    ],
)
def test_values_that_a_field_cannot_have(name: str, value: Any) -> None:
    with pytest.raises(ptq.InputError, match=name):
        checked(Settings, {name: value})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("reconstruction.itertions", "reconstruction.iterations"),
        ("reconstruct.iterations", "reconstruction.iterations"),
        ("iterations", "iterations"),
        ("bits", "quantization.bits"),
        ("memory_limit", "execution.memory_limit"),
        ("output.xyzzy", "output.folder, output.format"),
        ("xyzzy", "calibration.*"),
    ],
)
def test_an_unknown_name_comes_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ptq.InputError) as error:
        checked(Settings, {name: 1})
    assert nearest in str(error.value)
