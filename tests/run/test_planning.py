"""The plan of a run: by settings, and by images."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ptq
from ptq.calibration.dataset import CalibrationSet
from ptq.config.settings import QuantizationSettings
from ptq.graph.preparation import prepare
from ptq.run.planning import KEY, plan_by_images, plan_by_settings, prepare_network
from ptq.utils.work_store import WorkStore
from tests.calibration.test_last_layers import heads
from tests.helpers.networks import SHAPE, build, images


def test_a_last_layer_that_costs_too_much_is_in_float_and_named() -> None:
    graph_model = prepare(heads(), SHAPE)
    plan = plan_by_images(graph_model, QuantizationSettings(4), images(8))
    assert set(plan_by_settings(graph_model, QuantizationSettings(4)).weights) - set(plan.weights) == {"mixed"}
    assert "mixed" not in plan.activations and "even" in plan.activations
    (note,) = (note for note in plan.notes if "mixed" in note)
    assert "0.001 of the variance" in note


def test_what_settings_say_of_a_layer_counts_for_more() -> None:
    graph_model = prepare(heads(), SHAPE)
    forced = QuantizationSettings(4, layers={"mixed": 8, "even": None})
    assert plan_by_images(graph_model, forced, images(8)) == plan_by_settings(graph_model, forced)


def test_a_classifier_is_planned_by_its_settings_alone() -> None:
    graph_model = prepare(build("resnet"), SHAPE)
    settings = QuantizationSettings(4, 4)
    assert plan_by_images(graph_model, settings, images(4)) == plan_by_settings(graph_model, settings)


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    graph_model = prepare(heads(), SHAPE)
    store, settings = WorkStore(tmp_path), QuantizationSettings(4)
    first = plan_by_images(graph_model, settings, images(8), store)
    assert plan_by_images(graph_model, settings, torch.zeros(1, *SHAPE), store) == first
    assert WorkStore(tmp_path).found == [KEY]


@pytest.mark.slow
def test_a_run_has_its_last_layers_as_planned(tmp_path: Path) -> None:
    model = ptq.as_model(heads(), size=16, mean=0.5, std=0.25)
    CalibrationSet.from_pixels(torch.rand(8, 3, 16, 16)).save(tmp_path / "images.safetensors")
    options: dict[str, Any] = {
        "images": str(tmp_path / "images.safetensors"),
        "preset": "fast",
        "method": "nearest",
        "threads": 1,
    }
    made = ptq.quantize(model, 8, out=str(tmp_path / "run"), **options)
    assert "mixed" not in made.report.bits and any("mixed" in note for note in made.report.notes)
    assert ptq.load(tmp_path / "run", model).plan == made.quantized_model.plan
    found = ptq.inspect_run(tmp_path / "run", model).before
    assert "mixed" not in {layer.name for layer in found.layers}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (QuantizationSettings(8), "none"),
        (QuantizationSettings(4), "identities"),
        (QuantizationSettings(8, layers={"fc": 4}), "identities"),
        (QuantizationSettings(8, max_size="1MB"), "identities"),
        (QuantizationSettings(4, keep_branches=True), "all"),
    ],
)
def test_identities_stay_where_weights_have_few_bits(settings: QuantizationSettings, kept: str) -> None:
    model = ptq.as_model(build("resnet"), size=16, mean=0.5, std=0.25)
    assert prepare_network(model, settings).keep_branches == kept
