"""Kernels against plain autograd, and against finite differences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ptq.affine import fake_quant, round_ste
from ptq.kernels import fake_quantize, rectified_sigmoid, soft_round

CASES = [(0, 15, 5.0), (0, 255, 128.0), (-8, 7, 0.0), (0, 3, 0.0)]


def straight_through(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: Tensor | None
) -> Tensor:
    """What `fake_quantize` computes, left to autograd."""
    codes = (x / scale).detach().round() + zero_point
    end = (codes.clamp(qmin, qmax) - zero_point) * scale
    y = torch.where((codes >= qmin) & (codes <= qmax), round_ste(x / scale) * scale, end)
    return y if keep is None else torch.where(keep > 0, y, x)


def random(seed: int, count: int = 400, spread: float = 2.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize(("qmin", "qmax", "zero"), CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_backward_is_that_of_the_straight_through_estimator(
    qmin: int, qmax: int, zero: float, masked: bool
) -> None:
    keep = random(3).gt(0).float() if masked else None
    grad, zero_point = random(1), torch.tensor(zero)
    results = []
    for function in (fake_quantize, straight_through):
        x = random(0).requires_grad_()
        scale = torch.tensor(0.23, requires_grad=True)
        y = function(x, scale, zero_point, qmin, qmax, keep)
        y.backward(grad)
        assert x.grad is not None
        assert scale.grad is not None
        results.append((y.detach(), x.grad, scale.grad))
    (y, grad_x, grad_scale), (y2, grad_x2, grad_scale2) = results
    torch.testing.assert_close(y, y2)
    torch.testing.assert_close(grad_x, grad_x2)
    torch.testing.assert_close(grad_scale, grad_scale2, rtol=1e-3, atol=1e-3)


@given(st.integers(0, 1000), st.floats(0.1, 1.0))
def test_gradient_of_the_scale_by_finite_differences(seed: int, step: float) -> None:
    """Differentiable where rounding errors round(x/s) - x/s are held at their value, as STE does."""
    x = random(seed, 50).double()
    # Stay clear of the points where a code jumps: there is no derivative there.
    x = x[((x / step) % 1 - 0.5).abs() > 1e-3]
    scale = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    zero_point = torch.tensor(8.0, dtype=torch.float64)
    fake_quantize(x, scale, zero_point, 0, 15).sum().backward()
    assert scale.grad is not None

    codes = (x / step).round() + 8
    rest = (x / step).round() - x / step
    inside = (codes >= 0) & (codes <= 15)

    def surrogate(s: float) -> float:
        return float(torch.where(inside, (x / s + rest) * s, (codes.clamp(0, 15) - 8) * s).sum())

    h = 1e-6 * step
    numeric = (surrogate(step + h) - surrogate(step - h)) / (2 * h)
    assert scale.grad.item() == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_without_gradients_it_is_fake_quant() -> None:
    x, scale, zero = random(0), torch.tensor(0.3), torch.tensor(7.0)
    expected = fake_quant(x, scale, zero, 0, 15)
    assert torch.equal(fake_quantize(x, scale, zero, 0, 15), expected)
    assert torch.equal(fake_quantize(x.requires_grad_(), scale, zero, 0, 15), expected)
    mask = random(1).gt(0).float()
    mixed = fake_quantize(x, scale, zero, 0, 15, mask).detach()
    assert torch.equal(mixed[mask == 1], expected[mask == 1])
    assert torch.equal(mixed[mask == 0], x.detach()[mask == 0])


def test_rectified_sigmoid_reaches_both_ends_and_is_symmetric() -> None:
    alpha = torch.linspace(-6, 6, 25)
    h = rectified_sigmoid(alpha)
    assert (h.min().item(), h.max().item()) == (0, 1)
    assert bool((h.diff() >= 0).all())
    torch.testing.assert_close(h + h.flip(0), torch.ones(25))


def test_soft_round_lies_between_floor_and_ceiling() -> None:
    base, scale = torch.arange(-8.0, 8.0), torch.tensor(0.5)
    soft = soft_round(base, random(0, 16), scale, -8, 7) / scale
    assert bool((soft >= base).all() and (soft <= base + 1).all())
    assert soft.max() <= 7


def test_soft_round_has_the_gradient_of_its_formula() -> None:
    base = torch.arange(-8.0, 8.0, dtype=torch.float64)
    alpha = random(0, 16).double().requires_grad_()
    scale = torch.tensor(0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: soft_round(base, a, scale, -8, 7), (alpha,))
    # The largest code has nowhere to go.
    (grad,) = torch.autograd.grad(soft_round(base, alpha, scale, -8, 7).sum(), alpha)
    assert grad[-1] == 0
