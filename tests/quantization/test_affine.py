"""The affine map, against ONNX's definition written in numpy."""

import numpy as np
import torch
from hypothesis import given, strategies as st

from ptq.quantization.affine import dequantize, fake_quant, per_channel, qparams, quantize, round_ste
from ptq.quantization.spec import QuantSpec

numbers = st.floats(-1e4, 1e4, width=32)
spec_of_activations = st.builds(QuantSpec, st.integers(2, 8), st.booleans())


def test_halves_round_to_even() -> None:
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert quantize(halves, one, zero, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2]
    assert round_ste(halves).tolist() == [-2, -2, 0, 0, 2, 2]
    # ONNX adds the zero point after rounding: with an odd one, halves land on odd codes.
    assert quantize(halves, one, torch.tensor(3.0), 0, 15).tolist() == [1, 1, 3, 3, 5, 5]


@given(st.lists(numbers, min_size=1, max_size=40), st.floats(0.015625, 64, width=32), st.integers())
def test_quantize_is_onnx_quantizelinear(values: list[float], step: float, offset: int) -> None:
    scale, zero_point = np.float32(step), offset % 256
    x = np.array(values, np.float32)
    expected = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    actual = quantize(torch.tensor(values), torch.tensor(step), torch.tensor(float(zero_point)), 0, 255)
    assert np.array_equal(actual.numpy(), expected)


@given(numbers, numbers, spec_of_activations)
def test_every_range_holds_zero_exactly(a: float, b: float, spec: QuantSpec) -> None:
    scale, zero_point = qparams(torch.tensor(min(a, b)), torch.tensor(max(a, b)), spec)
    assert scale > 0
    assert spec.qmin <= zero_point <= spec.qmax
    assert zero_point == zero_point.round()
    zero = fake_quant(torch.tensor(0.0), scale, zero_point, spec.qmin, spec.qmax)
    assert zero.item() == 0


@given(numbers, numbers, spec_of_activations, st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_errors_inside_the_range_are_half_a_step_at_most(
    a: float, b: float, spec: QuantSpec, shares: list[float]
) -> None:
    scale, zero_point = qparams(torch.tensor(min(a, b)), torch.tensor(max(a, b)), spec)
    low, high = torch.tensor(min(a, b, 0.0)), torch.tensor(max(a, b, 0.0))
    x = low + (high - low) * torch.tensor(shares)
    error = (fake_quant(x, scale, zero_point, spec.qmin, spec.qmax) - x).abs()
    # Rounding the zero point moves the grid's ends by half a step; 1e-4 is float32's own error.
    ends = (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale
    inside = (x >= ends[0]) & (x <= ends[1])
    assert bool((error[inside] <= scale * 0.5001).all())
    assert bool((error <= scale * 1.0001).all())


@given(st.lists(numbers, min_size=1, max_size=8), st.integers(2, 8))
def test_symmetric_ranges_have_zero_point_zero_and_reach_both_ends(peaks: list[float], bits: int) -> None:
    spec = QuantSpec(bits, signed=True, symmetric=True, axis=0)
    high = torch.tensor(peaks).abs()
    scale, zero_point = qparams(-high, high, spec)
    assert scale.shape == zero_point.shape == high.shape
    assert not zero_point.any()
    assert bool((scale * spec.qmax >= high * (1 - 1e-6)).all())


def test_symmetric_unsigned_codes_spend_nothing_on_negative_numbers() -> None:
    spec = QuantSpec(8, symmetric=True)
    scale, zero_point = qparams(torch.tensor(-100.0), torch.tensor(2.55), spec)
    assert torch.isclose(scale, torch.tensor(0.01))
    assert zero_point == 0


def test_quantizing_twice_changes_nothing() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    spec = QuantSpec(4)
    scale, zero_point = qparams(x.min(), x.max(), spec)
    once = fake_quant(x, scale, zero_point, spec.qmin, spec.qmax)
    assert torch.equal(fake_quant(once, scale, zero_point, spec.qmin, spec.qmax), once)
    assert len(once.unique()) == 2**spec.bits
    codes = quantize(x, scale, zero_point, spec.qmin, spec.qmax)
    assert torch.equal(dequantize(codes, scale, zero_point), once)


def test_inputs_are_left_alone() -> None:
    x = torch.linspace(-1, 1, 7)
    kept = x.clone()
    fake_quant(x, torch.tensor(0.1), torch.tensor(2.0), 0, 3)
    assert torch.equal(x, kept)


def test_round_ste_passes_the_gradient_through() -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    (round_ste(x) * torch.tensor([3.0, 5.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 5]


def test_per_channel_broadcasts_along_its_axis() -> None:
    like, values = torch.zeros(2, 3, 4), torch.arange(3.0)
    assert per_channel(values, like, 1).shape == (1, 3, 1)
    assert per_channel(torch.tensor(1.0), like, 1).shape == ()
    assert per_channel(values, like, None) is values
