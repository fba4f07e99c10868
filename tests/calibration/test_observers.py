"""Rules from numbers to ranges: no worse than the whole range, and where theory puts them."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from ptq.calibration.observers import OBSERVERS, minmax, mse, percentile, weight_range
from ptq.quantization.affine import fake_quant, qparams
from ptq.quantization.spec import QuantSpec


def sample(seed: int, kind: str, count: int = 2000) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, generator=generator)
    if kind == "relu":
        return x.relu()
    return x**3 if kind == "heavy" else x + 0.5


def error(x: Tensor, ends: tuple[Tensor, Tensor], spec: QuantSpec) -> float:
    scale, zero_point = qparams(*ends, spec)
    return float((fake_quant(x, scale, zero_point, spec.qmin, spec.qmax) - x).square().mean())


@given(st.integers(0, 99), st.sampled_from(["normal", "relu", "heavy"]), st.integers(2, 8))
def test_mse_is_no_worse_than_minmax(seed: int, kind: str, bits: int) -> None:
    x, spec = sample(seed, kind), QuantSpec(bits)
    # Its candidates need not hold the whole range itself: at 8 bits that may be best.
    assert error(x, mse(x, spec), spec) <= error(x, minmax(x, spec), spec)


def test_mse_clips_heavy_tails_at_low_bits() -> None:
    x, spec = sample(0, "heavy"), QuantSpec(3)
    assert mse(x, spec)[1] < 0.8 * x.max()
    assert error(x, mse(x, spec), spec) < 0.75 * error(x, minmax(x, spec), spec)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("kind", ["normal", "relu", "heavy"])
def test_ranges_are_scalars_in_order(name: str, kind: str) -> None:
    low, high = OBSERVERS[name](sample(0, kind), QuantSpec(4))
    assert low.shape == high.shape == ()
    assert low < high


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_tensors_are_held(name: str, value: float) -> None:
    x, spec = torch.full((100,), value), QuantSpec(8)
    assert error(x, OBSERVERS[name](x, spec), spec) <= 1e-3 * value**2


def test_percentile_forgets_the_share_it_was_told_to() -> None:
    x = torch.arange(1001.0) - 500
    low, high = percentile(x, QuantSpec(8), 0.9)
    assert [low.item(), high.item()] == pytest.approx([-450, 450], abs=1)
    assert percentile(x, QuantSpec(8), 1.0) == minmax(x, QuantSpec(8))


def weights(axis: int) -> Tensor:
    x = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0)) ** 3
    return x.movedim(0, axis)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weight_ranges_are_symmetric_per_channel_and_no_worse_than_the_peak(axis: int, bits: int) -> None:
    weight, spec = weights(axis), QuantSpec(bits, True, True, axis)
    low, high = weight_range(weight, spec)
    assert high.shape == (6,)
    assert torch.equal(low, -high)
    rows = weight.movedim(axis, 0).flatten(1)
    peak = rows.abs().amax(1)
    assert bool((high <= peak).all() and (high > 0).all())
    for row, best, most in zip(rows, high, peak, strict=True):
        errors = [
            (fake_quant(row, *qparams(-h, h, spec), spec.qmin, spec.qmax) - row).abs().pow(2.4).mean()
            for h in (best, most)
        ]
        assert errors[0] <= errors[1]


def test_channels_do_not_see_each_other() -> None:
    spec = QuantSpec(4, True, True, 0)
    weight = weights(0)
    alone = torch.cat([weight_range(weight[i : i + 1], spec)[1] for i in range(6)])
    assert torch.equal(weight_range(weight, spec)[1], alone)
    weight[0] *= 4  # a power of two, so exactly
    assert torch.equal(weight_range(weight, spec)[1], alone * torch.tensor([4, 1, 1, 1, 1, 1]))


def test_dead_channels_have_an_empty_range() -> None:
    weight = weights(0)
    weight[2] = 0
    high = weight_range(weight, QuantSpec(4, True, True, 0))[1]
    assert high[2] == 0
    assert bool(torch.isfinite(high).all())
