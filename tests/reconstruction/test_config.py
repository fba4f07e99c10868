"""Methods and budgets: plain data."""

from dataclasses import asdict

import pytest

from ptq.errors import InputError
from ptq.reconstruction.config import ITERATIONS, METHODS, method_preset


@pytest.mark.parametrize("method", METHODS)
def test_presets_scale_the_budget_and_nothing_else(method: str) -> None:
    made = [method_preset(method, preset) for preset in ITERATIONS]
    iterations = [config.iterations for config in made]
    assert iterations == sorted(iterations)
    for config in made:
        budget = {
            name: getattr(config, name) for name in ("iterations", "finetune", "batch", "lr_finetune", "tune_below")
        }
        assert asdict(config) == asdict(METHODS[method]) | budget


def test_fast_leaves_8_bits_alone() -> None:
    tuned = {preset: method_preset("qdrop", preset).tune_below for preset in ITERATIONS}
    assert tuned.pop("fast") == 0 and min(tuned.values()) > 0


def test_nearest_stays_nearest() -> None:
    assert all(method_preset("nearest", preset).iterations == 0 for preset in ITERATIONS)


@pytest.mark.parametrize(("method", "preset"), [("magic", "fast"), ("qdrop", "slowly")])
def test_unknown_names_are_refused_with_the_known_ones(method: str, preset: str) -> None:
    with pytest.raises(InputError, match=method if preset == "fast" else preset):
        method_preset(method, preset)
