"""Kernels against plain autograd, against finite differences, and one implementation against the other."""

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from ptq.quantization.affine import fake_quant, round_ste
from ptq.reconstruction.kernels import (
    blend,
    fused_cpu,
    mean_error,
    quantize_activation,
    rectified_sigmoid,
    reference,
    soft_round,
)
from ptq.reconstruction.kernels.functions import implementation

BOUNDS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
CODES = [(-5.0, 10.0), (-128.0, 127.0), (-8.0, 7.0), (0.0, 3.0)]  # less the zero point
bounds = pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
codes = pytest.mark.parametrize("codes", CODES)
masked = pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])


def straight_through(x: Tensor, scale: Tensor, grid: Tensor, keep: Tensor | None) -> Tensor:
    """What `quantize_activation` computes, left to autograd."""
    low, high, first, last = grid
    c = x.clamp(low, high)
    scaled = c * (1 / scale)
    codes = scaled.detach().round()
    end = codes.clamp(first, last) * scale
    y = torch.where((codes >= first) & (codes <= last), round_ste(scaled) * scale, end)
    return y if keep is None else torch.where(keep > 0, y, c)


def random(seed: int, *shape: int, spread: float = 2.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread


def a_mask(like: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=torch.uint8).copy_(random(3, *like.shape) > 0)


@bounds
@codes
@masked
def test_backward_is_that_of_the_straight_through_estimator(
    bounds: tuple[float, float], codes: tuple[float, float], masked: bool
) -> None:
    grad, grid = random(1, 400), torch.tensor([*bounds, *codes])
    results = []
    for function in (quantize_activation, straight_through):
        x = random(0, 400, spread=4.0).requires_grad_()
        scale = torch.tensor(0.23, requires_grad=True)
        y = function(x, scale, grid, a_mask(x) if masked else None)
        y.backward(grad)
        assert x.grad is not None
        assert scale.grad is not None
        results.append((y.detach(), x.grad, scale.grad))
    (y, grad_x, grad_scale), (y2, grad_x2, grad_scale2) = results
    torch.testing.assert_close(y, y2)
    torch.testing.assert_close(grad_x, grad_x2)
    torch.testing.assert_close(grad_scale, grad_scale2, rtol=1e-5, atol=1e-3)


@given(st.integers(0, 1000), st.floats(0.1, 1.0), st.sampled_from(list(BOUNDS.values())))
def test_gradient_of_the_scale_by_finite_differences(seed: int, s0: float, bounds: tuple[float, float]) -> None:
    """Differentiable where rounding errors round(x/s) - x/s are held at their value, as STE does."""
    s0 = torch.tensor(s0).item()  # in float32, as the kernel computes
    scale = torch.tensor(s0, requires_grad=True)
    x = random(seed, 50)
    # Stay clear of the points where a code jumps: there is no derivative there.
    x = x[((x.double() / s0) % 1 - 0.5).abs() > 1e-3]
    quantize_activation(x, scale, torch.tensor([*bounds, -8.0, 7.0])).sum().backward()
    assert scale.grad is not None

    c = x.double().clamp(*bounds)
    codes = (c / s0).round()
    rest, inside = codes - c / s0, (codes >= -8) & (codes <= 7)

    def surrogate(s: float) -> float:
        return float(torch.where(inside, (c / s + rest) * s, codes.clamp(-8, 7) * s).sum())

    h = 1e-4 * s0
    numeric = (surrogate(s0 + h) - surrogate(s0 - h)) / (2 * h)
    assert scale.grad.item() == pytest.approx(numeric, rel=1e-5, abs=1e-4)


@codes
def test_without_an_activation_function_it_is_fake_quant(codes: tuple[float, float]) -> None:
    x, scale = random(0, 400), torch.tensor(0.25)  # divides exactly
    zero, last = -codes[0], codes[1] - codes[0]
    expected = fake_quant(x, scale, torch.tensor(zero), 0, int(last))
    grid, mask = torch.tensor([-math.inf, math.inf, *codes]), a_mask(x)
    assert torch.equal(quantize_activation(x, scale, grid), expected)
    assert torch.equal(quantize_activation(x.requires_grad_(), scale, grid), expected)
    mixed = quantize_activation(x, scale, grid, mask).detach()
    assert torch.equal(mixed[mask == 1], expected[mask == 1])
    assert torch.equal(mixed[mask == 0], x.detach()[mask == 0])


@bounds
@masked
def test_in_bfloat16_only_what_is_read_and_written_is_rounded(bounds: tuple[float, float], masked: bool) -> None:
    x, grad = random(0, 400, spread=4.0).bfloat16(), random(1, 400).bfloat16()
    scale, grid = torch.tensor(0.23), torch.tensor([*bounds, -5.0, 10.0])
    keep = a_mask(x) if masked else None
    y = reference.quantize_forward(x, keep, scale, grid)
    assert torch.equal(y, reference.quantize_forward(x.float(), keep, scale, grid).bfloat16())
    mine = reference.quantize_backward(grad, x, keep, scale, grid)
    other = reference.quantize_backward(grad.float(), x.float(), keep, scale, grid)
    assert torch.equal(mine[0], other[0].bfloat16())
    assert torch.equal(mine[1], other[1])


def test_rectified_sigmoid_reaches_both_ends_and_is_symmetric() -> None:
    alpha = torch.linspace(-6, 6, 25)
    h = rectified_sigmoid(alpha)
    assert (h.min().item(), h.max().item()) == (0, 1)
    assert bool((h.diff() >= 0).all())
    torch.testing.assert_close(h + h.flip(0), torch.ones(25))


@pytest.mark.parametrize("sharpness", [1.0, 7.0])
def test_soft_round_lies_between_floor_and_ceiling(sharpness: float) -> None:
    base, scale, alpha = torch.arange(-8.0, 8.0), torch.tensor(0.5), random(0, 16)
    soft = soft_round(base, alpha, scale, torch.tensor(sharpness), -8, 7) / scale
    assert bool((soft >= base).all() and (soft <= base + 1).all())
    assert soft.max() <= 7
    expected = (base + rectified_sigmoid(sharpness * alpha)).clamp(-8, 7)
    torch.testing.assert_close(soft, expected)


@given(st.integers(0, 1000), st.floats(0.5, 20.0), st.booleans())
def test_soft_round_has_the_gradient_of_its_formula(seed: int, sharpness: float, channels: bool) -> None:
    base = torch.arange(-8.0, 8.0, dtype=torch.float64).view(4, 4)
    alpha = random(seed, 4, 4, spread=1.5).double().requires_grad_()
    scale = torch.linspace(0.2, 0.8, 4).view(4, 1) if channels else torch.tensor(0.5)
    scale, sharp = scale.double(), torch.tensor(sharpness, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: soft_round(base, a, scale, sharp, -8, 7), alpha, eps=1e-7, atol=1e-4)
    # The largest code has nowhere to go.
    (grad,) = torch.autograd.grad(soft_round(base, alpha, scale, sharp, -8, 7).sum(), alpha)
    assert grad[-1, -1] == 0


def test_other_types_and_devices_are_left_to_the_reference() -> None:
    assert implementation(torch.empty(100, dtype=torch.float64)) is reference
    assert implementation(torch.empty(100, device="meta")) is reference


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_without_a_compiler_the_reference_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", command)
    assert fused_cpu._library.__wrapped__() is None
    assert not list(tmp_path.rglob("*.so"))


def test_kernels_are_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: None) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fused_cpu._library.__wrapped__() is not None
    (made,) = tmp_path.rglob("*.so")
    before = made.stat().st_mtime_ns
    assert fused_cpu._library.__wrapped__() is not None
    assert made.stat().st_mtime_ns == before


@pytest.fixture
def compiler() -> None:
    if not fused_cpu.available():
        pytest.skip("no C++ compiler here")


SHAPE = (4, 16, 33, 37)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
in_both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@in_both_types
@masked
def test_compiled_it_gives_what_the_reference_gives(dtype: torch.dtype, masked: bool, compiler: None) -> None:
    scale, grid = torch.tensor(0.23), torch.tensor([0.0, 6.0, -5.0, 10.0])
    for layout, other in product(LAYOUTS, LAYOUTS):
        x = random(0, *SHAPE, spread=4.0).to(dtype).contiguous(memory_format=layout)
        grad = random(1, *SHAPE).to(dtype).contiguous(memory_format=other)
        keep = a_mask(grad) if masked else None
        y = fused_cpu.quantize_forward(x, keep, scale, grid)
        grad_x, grad_scale = fused_cpu.quantize_backward(grad, x, keep, scale, grid)
        expected = reference.quantize_backward(grad, x, keep, scale, grid)
        assert y.stride() == grad_x.stride() == x.stride()
        torch.testing.assert_close(y, reference.quantize_forward(x, keep, scale, grid))
        torch.testing.assert_close(grad_x, expected[0])
        torch.testing.assert_close(grad_scale, expected[1], rtol=1e-4, atol=1e-2)
        assert implementation(x) is fused_cpu


def test_sums_do_not_depend_on_the_number_of_threads(compiler: None) -> None:
    x, grad = random(0, *SHAPE), random(1, *SHAPE)
    scale, grid, threads = (torch.tensor(0.3), torch.tensor([0.0, 6.0, 0.0, 15.0]), torch.get_num_threads())
    sums = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            error = fused_cpu.error_forward(x, grad, None)
            sums.append((error, fused_cpu.quantize_backward(grad, x, None, scale, grid)[1]))
    finally:
        torch.set_num_threads(threads)
    assert sums[0] == sums[1] == sums[2]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scales", [(), (6, 1, 1, 1), (1, 16, 1, 1)], ids=str)
def test_compiled_rounding_is_that_of_the_reference(
    layout: torch.memory_format, scales: tuple[int, ...], compiler: None
) -> None:
    base = random(0, 6, 16, 15, 17, spread=5.0).round().contiguous(memory_format=layout)
    alpha, grad = (random(k, *base.shape, spread=6.0) for k in (1, 2))
    scale, sharpness = random(3, *scales).abs() + 0.1, torch.tensor(7.0)
    arguments = base, alpha, scale, sharpness, -8, 7
    soft = fused_cpu.round_forward(*arguments)
    torch.testing.assert_close(soft, reference.round_forward(*arguments))
    assert soft.stride() == base.stride()
    mine, expected = fused_cpu.round_backward(grad, *arguments), reference.round_backward(grad, *arguments)
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_error_is_what_autograd_makes_of_its_formula(weighted: bool) -> None:
    target, weight = random(1), random(2).square() if weighted else None
    grads = []
    for own in (True, False):
        output = random(0).requires_grad_()
        if own:
            loss = mean_error(output, target, weight)
        else:
            loss = ((output - target).square() * (1 if weight is None else weight)).mean()
        (3 * loss).backward()
        assert output.grad is not None
        grads.append((loss.detach(), output.grad))
    torch.testing.assert_close(grads[0], grads[1])


def test_blend_takes_every_element_from_one_of_two() -> None:
    x, y, keep = random(0), random(1), random(2).gt(0).to(torch.uint8)
    assert torch.equal(blend(x, y, keep), torch.where(keep == 1, y, x))


@in_both_types
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("target_type", [torch.float32, torch.bfloat16], ids=str)
def test_compiled_errors_and_blends_are_those_of_the_reference(
    dtype: torch.dtype, layout: torch.memory_format, target_type: torch.dtype, compiler: None
) -> None:
    x, y, weight = (random(k, *SHAPE).contiguous(memory_format=layout) for k in range(3))
    x, y = x.to(dtype), y.to(target_type)
    keep, grad = weight.gt(0).to(torch.uint8), torch.tensor(2.0)
    assert torch.equal(fused_cpu.blend(x, y, keep), reference.blend(x, y, keep))
    for w in (None, weight, weight.to(dtype)):
        expected = reference.error_forward(x, y, w)
        torch.testing.assert_close(fused_cpu.error_forward(x, y, w), expected)
        torch.testing.assert_close(fused_cpu.error_backward(x, y, w, grad), reference.error_backward(x, y, w, grad))
