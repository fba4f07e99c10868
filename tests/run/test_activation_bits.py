"""Activations of 4 or 8 bits in a run: chosen once, kept, and never those that the settings name."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import ptq
from ptq.calibration.activation_ranges import calibrate
from ptq.config.flat_options import command, make_settings
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.graph.preparation import prepare
from ptq.quantization.plan import make_plan
from ptq.run.activation_bits import plan_activations
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import build, images


def test_what_is_named_keeps_its_bits_and_what_was_found_is_kept(tmp_path: Path) -> None:
    graph_model, x = prepare(build("resnet"), (3, 16, 16)), images(8)
    settings = make_settings("mine", 4, act_bits="auto", tensors={"stem_2": 6, "blocks_1_relu": 8})
    chosen = replace(settings.quantization, act_harm=1.0)
    plan = make_plan(graph_model, 4, tensors=chosen.tensors)
    ranges = partial(calibrate, inputs=x)
    found = plan_activations(graph_model, plan, chosen, x, ranges, WorkStore(tmp_path))
    bits = {name: spec.bits for name, spec in found.activations.items()}
    assert bits["stem_2"] == 6 and bits["blocks_1_relu"] == 8 and bits["x"] == 8
    assert list(bits.values()).count(4) > 2
    again = plan_activations(graph_model, plan, chosen, x, lambda _: 1 / 0, WorkStore(tmp_path))
    assert again == found
    none = plan_activations(graph_model, plan, replace(chosen, act_harm=0.0), x, ranges)
    assert none.activations == plan.activations


def test_a_run_has_activations_of_both_widths(tmp_path: Path) -> None:
    model = ptq.as_model(build("resnet"), size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    few = {"calibration.count": 8, "quantization.act_harm": 0.02, "quantization.place": "integers"}
    out = str(tmp_path / "run")
    made = ptq.quantize(model, 4, act_bits="auto", images="noise", method="nearest", out=out, settings=few)
    assert {4, 8} == set(made.report.activation_bits.values())


def test_an_inspection_has_the_activations_of_a_run() -> None:
    model = ptq.as_model(build("resnet"), size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    few = {"calibration.count": 8, "quantization.act_harm": 0.02, "quantization.place": "integers"}
    found = ptq.inspect_model(make_settings("mine", 4, act_bits="auto", images="noise", settings=few), model, count=8)
    assert {4, 8} == {layer.input.bits for layer in found.before.layers if layer.input is not None}


def test_auto_is_said_as_any_number_of_bits_is() -> None:
    settings = make_settings("resnet18", 4, act_bits="auto")
    assert "--act-bits auto" in command(settings)
    assert Settings.from_json(settings.to_json()) == settings
    for wrong in ("many", 9, 1):
        with pytest.raises(InputError):
            make_settings("resnet18", 4, act_bits=wrong)
