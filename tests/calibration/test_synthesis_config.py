"""Synthesis methods and presets: complete, each with its own objective, and the budget left to the preset."""

import json
from dataclasses import asdict

import pytest

from ptq.calibration.synthesis_config import PRESETS, SYNTHESIS_METHODS, SynthesisConfig, synthesis_preset
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError

SMALL = Preprocess((32, 32), 32, "bilinear", (0.5,) * 3, (0.5,) * 3)
LARGE = Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3)


def test_presets_cost_more_as_they_promise_more() -> None:
    for size in (0, 1):
        steps = [PRESETS[name][size] for name in ("fast", "default", "best")]
        costs = [c.count * c.iterations for c in steps]
        assert costs == sorted(costs) and len(set(costs)) == 3
    assert synthesis_preset("fast", SMALL) == PRESETS["fast"][0]
    assert synthesis_preset("fast", LARGE) == PRESETS["fast"][1]


@pytest.mark.parametrize("method", SYNTHESIS_METHODS)
@pytest.mark.parametrize("preprocess", [SMALL, LARGE])
def test_a_method_sets_the_objective_and_leaves_the_budget(method: str, preprocess: Preprocess) -> None:
    budget = synthesis_preset("best", preprocess, seed=7)
    config = synthesis_preset("best", preprocess, method, seed=7)
    assert config.method == method
    for name in ("count", "batch", "iterations", "seed"):
        assert getattr(config, name) == getattr(budget, name)
    differ = {k for k, v in asdict(config).items() if v != asdict(budget)[k]}
    assert bool(differ) == (method != "mixmix")


def test_weights_of_terms_are_set_by_name() -> None:
    config = synthesis_preset("fast", SMALL, weights={"Label": 0.5, "TotalVariation": 0})
    assert {type(term).__name__: term.weight for term in config.terms} == {
        "TotalVariation": 0,
        "BatchNormStatistics": 1.0,
        "Label": 0.5,
    }
    with pytest.raises(InputError, match="Label"):
        synthesis_preset("fast", SMALL, "genie", weights={"Label": 1})


def test_settings_are_json_that_tells_methods_apart() -> None:
    methods = [synthesis_preset("fast", SMALL, method).to_json() for method in SYNTHESIS_METHODS]
    assert all(json.loads(json.dumps(one))["terms"][0]["weight"] > 0 for one in methods)
    assert [one["terms"] for one in methods].count(methods[0]["terms"]) == 1


def test_errors_name_what_there_is() -> None:
    with pytest.raises(InputError, match="'slow'; choose one of fast, default, best"):
        synthesis_preset("slow", SMALL)
    with pytest.raises(InputError, match=r"magic.*mixmix"):
        synthesis_preset("fast", SMALL, "magic")
    with pytest.raises(InputError, match="no setting color"):
        synthesis_preset("fast", SMALL, color="red")
    for change in (
        {"batch": 1},
        {"half_resolution": 2},
        {"lr": 0},
        {"data_mixing": 1.5},
        {"low_pass": -1},
        {"parameterization": "oil"},
        {"feature_mixing": "all"},
        {"schedule": ""},
        {"terms": ()},
    ):
        with pytest.raises(InputError, match="synthesis: "):
            SynthesisConfig(**change)
