"""Settings: checked when they are made, the same as JSON and back, and in step with the stages that take them."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

import ptq
from ptq.calibration import SynthesisConfig
from ptq.config.flat_options import make_settings
from ptq.config.settings import (
    EvaluationSettings,
    ExecutionSettings,
    ModelSettings,
    QuantizationSettings,
    ReconstructionSettings,
    Settings,
    SynthesisSettings,
    chosen,
)
from ptq.reconstruction.config import ReconstructConfig


@pytest.mark.parametrize("bits", [-3, 0, 1, 9])
def test_absurd_bits_are_refused_before_any_work(bits: int) -> None:
    with pytest.raises(ptq.InputError, match=r"quantization\.bits"):
        Settings(ModelSettings("resnet18"), QuantizationSettings(bits=bits))
    with pytest.raises(ptq.InputError, match=r"quantization\.layers"):
        Settings(ModelSettings("resnet18"), QuantizationSettings(layers={"fc": bits}))


def test_a_memory_limit_is_a_size() -> None:
    assert ExecutionSettings(memory_limit="1GiB").memory_bytes() == 1 << 30
    assert ExecutionSettings().memory_bytes() is None
    with pytest.raises(ptq.InputError, match="lots"):
        Settings(ModelSettings("resnet18"), execution=ExecutionSettings(memory_limit="lots"))


def test_json_and_back() -> None:
    settings = make_settings("net", 4, teachers=["a"], size=8, layers={"fc": None}, settings={"reconstruction.drop": 0})
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_what_is_measured_and_written_does_not_decide() -> None:
    settings = make_settings("net", 4, seed=1)
    other = replace(
        settings,
        evaluation=EvaluationSettings("val"),
        output=replace(settings.output, folder="elsewhere", format="int8"),
        execution=replace(settings.execution, memory_limit="1GiB"),
    )
    assert other.decisive() == settings.decisive()
    assert make_settings("net", 4, seed=2).decisive() != settings.decisive()


@pytest.mark.parametrize(
    ("settings", "config", "ours"),
    [
        (ReconstructionSettings, ReconstructConfig, {"seed"}),
        (SynthesisSettings, SynthesisConfig, {"seed", "method", "count", "terms"}),
    ],
)
def test_every_field_of_a_stage_can_be_set(settings: Any, config: Any, ours: set[str]) -> None:
    there = {field.name for field in fields(config)} - ours
    assert {field.name for field in fields(settings)} - {"method", "weights"} == there
    assert chosen(settings()) == {}  # all of it is the preset's
