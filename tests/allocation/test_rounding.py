"""Rounding in closed form: never a code that there is not, and less error in the output than the nearest codes."""

import pytest
import torch

from ptq.allocation.rounding import feedback_rounding
from ptq.quantization.spec import QuantSpec


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("inputs", [9, 150])
def test_the_output_errs_less_than_with_the_nearest_codes(bits: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(2, inputs, inputs, generator=generator)
    x = mixing @ torch.randn(2, inputs, 400, generator=generator) + 1
    matrix, spec = torch.randn(2, 5, inputs, generator=generator), QuantSpec(bits, signed=True, symmetric=True)
    scale = matrix.abs().amax(2) / spec.qmax
    codes = feedback_rounding(matrix, x @ x.mT, scale, spec)
    nearest = (matrix / scale[..., None]).round().clamp(spec.qmin, spec.qmax)
    assert torch.equal(codes, codes.round()) and spec.qmin <= codes.min() and codes.max() <= spec.qmax
    error, of_nearest = ((((c * scale[..., None] - matrix) @ x) ** 2).mean() for c in (codes, nearest))
    assert error < of_nearest


def test_inputs_that_know_nothing_of_each_other_get_the_nearest_codes() -> None:
    matrix, spec = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1)), QuantSpec(4, True, True)
    scale = torch.full((3, 4), 0.3)
    codes = feedback_rounding(matrix, torch.eye(6).expand(3, 6, 6), scale, spec)
    assert torch.equal(codes, (matrix / 0.3).round().clamp(spec.qmin, spec.qmax))


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    spec = QuantSpec(2, True, True)
    codes = feedback_rounding(torch.ones(1, 1, 4), torch.zeros(1, 4, 4), torch.ones(1, 1), spec)
    assert bool(codes.isfinite().all())
