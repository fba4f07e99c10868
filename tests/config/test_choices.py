"""Every list of choices is written once: the registries behind them have the same keys."""

from typing import get_args

import pytest

import ptq
from ptq.calibration.synthesis_config import PRESETS, SYNTHESIS_METHODS
from ptq.config.choices import Method, Preset, SynthesisMethod, check_bits, check_choice
from ptq.reconstruction.config import ITERATIONS, METHODS


@pytest.mark.parametrize(
    ("choices", "registry"),
    [(Preset, PRESETS), (Preset, ITERATIONS), (Method, METHODS), (SynthesisMethod, SYNTHESIS_METHODS)],
)
def test_registries_have_what_can_be_chosen(choices: object, registry: dict[str, object]) -> None:
    assert list(get_args(choices)) == list(registry)


def test_a_choice_that_there_is_not_comes_with_the_nearest() -> None:
    with pytest.raises(ptq.InputError, match="brecq"):
        check_choice("breck", get_args(Method), "method")
    for method in get_args(Method):
        check_choice(method, get_args(Method), "method")


@pytest.mark.parametrize("bits", [-3, 0, 1, 9, 4.0])
def test_bits_are_between_2_and_8(bits: int) -> None:
    assert check_bits(2, "weights") == 2 and check_bits(8, "weights") == 8
    with pytest.raises(ptq.InputError):
        check_bits(bits, "weights")
