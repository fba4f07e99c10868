"""Figures of tensors in pieces are those of the whole tensors."""

import math

import pytest
import torch

from ptq.analysis.accumulators import Change, Extent, Noise
from ptq.quantization.affine import fake_quant
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantSpec
from ptq.tasks.task import Task
from ptq.utils.metrics import kl_divergence, sqnr_db

CLASSIFIER = Task({"output": "classify"}, 10)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 10, generator=generator)
    return x, x + 0.1 * torch.randn(20, 10, generator=generator)


def test_pieces_make_the_whole() -> None:
    x, y = pair()
    noise, change = Noise(), Change(CLASSIFIER)
    for part in (slice(0, 3), slice(3, 20)):
        noise.add(x[part], y[part])
        change.add(x[part], y[part])
    assert noise.db() == pytest.approx(sqnr_db(x, y))
    assert change.cost().sqnr == pytest.approx(sqnr_db(x, y))
    assert change.cost().loss == pytest.approx(kl_divergence(x, y))


def test_an_extent_knows_what_a_quantizer_clips() -> None:
    x, _ = pair()
    quantizer = Quantizer(QuantSpec(4)).set_range(torch.tensor(-1.0), torch.tensor(1.5))
    extent = Extent(quantizer.spec, quantizer.scale, quantizer.zero_point)
    extent.add(x[:7])
    extent.add(x[7:])
    found = extent.result()
    inner = quantizer(x)
    assert (found.low, found.high) == (float(x.min()), float(x.max()))
    assert found.grid_low == pytest.approx(float(inner.min()))
    assert found.grid_high == pytest.approx(float(inner.max()))
    moved = (x - inner).abs() > quantizer.scale / 2 * (1 + 1e-5)
    assert found.clipped == pytest.approx(float(moved.float().mean()))
    assert 0 < found.clipped < 1


def test_an_extent_per_channel_shows_the_widest() -> None:
    spec = QuantSpec(3, signed=True, symmetric=True, axis=0)
    scale = torch.tensor([0.1, 1.0])
    extent = Extent(spec, scale, torch.zeros(()))
    weight = torch.tensor([[0.2, 0.9], [0.2, 0.9]])  # the first channel ends at 0.3
    extent.add(weight)
    found = extent.result()
    assert (found.grid_low, found.grid_high, found.clipped) == (-4.0, 3.0, 0.25)
    on_grid = fake_quant(weight, scale.view(2, 1), torch.zeros(()), spec.qmin, spec.qmax)
    assert on_grid[0].tolist() == pytest.approx([0.2, 0.3])


def test_nothing_lost_is_no_noise() -> None:
    x, _ = pair()
    change = Change(CLASSIFIER)
    change.add(x, x.clone())
    assert (change.cost().loss, change.cost().sqnr) == (0.0, math.inf)
