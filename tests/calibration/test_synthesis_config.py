"""Recipes and presets: complete, each with its own objective, and the budget left to the preset."""

from dataclasses import asdict

import pytest

from ptq.calibration.bn_statistics import MATCHING
from ptq.calibration.synthesis_config import PRESETS, RECIPES, SynthesisConfig, synthesis_preset
from ptq.cli.options import Recipe
from ptq.data.preprocess import Preprocess
from ptq.errors import PtqError

SMALL = Preprocess((32, 32), 32, "bilinear", (0.5,) * 3, (0.5,) * 3)
LARGE = Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3)


def test_presets_cost_more_as_they_promise_more() -> None:
    for size in (0, 1):
        steps = [PRESETS[name][size] for name in ("fast", "default", "best")]
        costs = [c.images * c.iterations for c in steps]
        assert costs == sorted(costs) and len(set(costs)) == 3
    assert synthesis_preset("fast", SMALL) == PRESETS["fast"][0]
    assert synthesis_preset("fast", LARGE) == PRESETS["fast"][1]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preprocess", [SMALL, LARGE])
def test_a_recipe_sets_the_objective_and_leaves_the_budget(recipe: str, preprocess: Preprocess) -> None:
    budget = synthesis_preset("best", preprocess, seed=7)
    config = synthesis_preset("best", preprocess, recipe, seed=7)
    assert config.recipe == recipe and config.matching in MATCHING
    for name in ("images", "batch", "iterations", "seed"):
        assert getattr(config, name) == getattr(budget, name)
    differ = {k for k, v in asdict(config).items() if v != asdict(budget)[k]}
    assert bool(differ) == (recipe != "mixmix")


def test_the_command_line_offers_every_recipe() -> None:
    assert list(RECIPES) == [r.value for r in Recipe]


def test_errors_name_what_there_is() -> None:
    with pytest.raises(PtqError, match="no preset 'slow'; choose one of fast, default, best"):
        synthesis_preset("slow", SMALL)
    with pytest.raises(PtqError, match="no recipe 'magic'; choose one of mixmix"):
        synthesis_preset("fast", SMALL, "magic")
    with pytest.raises(PtqError, match="no setting color"):
        synthesis_preset("fast", SMALL, color="red")
    for change in (
        {"batch": 1},
        {"half": 2},
        {"lr": 0},
        {"mixed": 1.5},
        {"low_pass": -1},
        {"parameterization": "oil"},
        {"feature_mixing": "all"},
        {"schedule": ""},
    ):
        with pytest.raises(PtqError, match="synthesis: "):
            SynthesisConfig(**change)
