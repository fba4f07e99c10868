"""The placement of a run is measured once."""

from pathlib import Path

import pytest

import ptq
from ptq.config.recipe_file import read_recipe
from ptq.placement.placing import Placement
from ptq.quantization.storage import load_quantized
from ptq.run import placing
from ptq.utils.work_store import WorkStore
from tests.helpers.networks import SHAPE, build

FOUND = Placement(("blocks_0_conv1", "blocks_0_conv2"), 12, {"integers": 3.0, "placed": 2.0, "float": 4.0})


def test_a_measured_placement_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph_model, settings = ptq.prepare(build("resnet"), SHAPE), ptq.make_settings("mine")
    plan, store = ptq.make_plan(graph_model, 8), WorkStore(tmp_path)
    monkeypatch.setattr(placing, "place", lambda *_, **__: FOUND)
    placed = placing.place_network(graph_model, plan, settings, [store])
    assert placed.in_float == FOUND.in_float and FOUND.note() in placed.notes
    monkeypatch.setattr(placing, "place", lambda *_, **__: pytest.fail("measured again"))
    assert placing.place_network(graph_model, plan, settings, [store]) == placed
    again = placing.placed_settings(settings, placed)
    assert placing.place_network(graph_model, plan, again).in_float == placed.in_float
    with pytest.raises(ptq.InputError, match="nowhere"):
        wrong = ptq.make_settings("mine", settings={"quantization.in_float": ["nowhere"]})
        placing.place_network(graph_model, plan, wrong)


def test_a_run_can_be_loaded_and_repeated_as_it_was_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "place", lambda *_, **__: FOUND)
    net = build("resnet")
    model = ptq.as_model(net, size=16, mean=0.5, std=0.25)
    few = {"calibration.count": 4, "reconstruction.iterations": 2}
    run = ptq.quantize(model, 4, images="noise", preset="fast", out=str(tmp_path / "one"), settings=few)
    assert run.quantized_model.plan.in_float == FOUND.in_float
    assert load_quantized(run.folder, net).plan == run.quantized_model.plan
    recipe = read_recipe(run.folder / "recipe.toml")
    assert recipe.quantization.in_float == FOUND.in_float
    assert any("blocks_0_conv1" in note for note in run.report.notes)
