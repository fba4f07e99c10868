"""Grids on which gates are integer operators."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.nn import functional as F

from ptq.quantization.activation_grids import (
    BEND,
    CLOSE,
    ZERO_TO_ONE_SCALE,
    clear_of_ties,
    gate_codes,
    hard_grid,
    is_hard,
    observed,
)
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantSpec
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.loop import reconstruct
from tests.helpers.networks import images, quantized_network

FLOATS = st.floats(0.0078125, 1000, width=32)


@given(FLOATS, st.integers(4, 8))
def test_a_hard_sigmoid_is_its_codes_on_another_grid(high: float, bits: int) -> None:
    top = (1 << bits) - 1
    scale, zero = hard_grid(torch.tensor(high), top)
    assert top * scale - zero * scale >= 0.999 * min(high, 3 * top - 3)
    codes = torch.arange(top + 1)
    gate, largest = gate_codes(scale, zero)
    assert largest <= top
    wanted = F.hardsigmoid((codes - zero).double() * scale.double())
    torch.testing.assert_close(codes.clamp(0, largest) * gate.double(), wanted, atol=1e-6, rtol=0)


@given(st.floats(0.125, 100, width=32), st.floats(0.125, 100, width=32))
def test_small_inputs_of_a_gate_keep_their_precision(low: float, high: float) -> None:
    quantizer = Quantizer(QuantSpec(8, grid="hardswish"))
    quantizer.set_range(torch.tensor(-low), torch.tensor(high))
    assert is_hard(quantizer.scale, quantizer.zero_point) == (high >= BEND / 2)
    if high < BEND / 2:
        free = Quantizer(QuantSpec(8)).set_range(torch.tensor(-low), torch.tensor(high))
        assert quantizer.scale == free.scale and quantizer.zero_point == free.zero_point


@given(FLOATS, FLOATS)
def test_no_sigmoid_of_a_code_is_close_to_a_tie(low: float, high: float) -> None:
    quantizer = Quantizer(QuantSpec(8, grid="sigmoid"))
    quantizer.set_range(torch.tensor(-low), torch.tensor(high))
    free = Quantizer(QuantSpec(8)).set_range(torch.tensor(-low), torch.tensor(high))
    assert 1 <= quantizer.scale / free.scale < 1.01
    x = (np.arange(256) - quantizer.zero_point.numpy()) * quantizer.scale.numpy()
    x = x[np.abs(x) < 15].astype(np.float64)
    steps = 1 / (1 + np.exp(-x)) / ZERO_TO_ONE_SCALE
    assert np.abs(steps % 1 - 0.5).min() > CLOSE / 2


def test_a_grid_without_ties_stays_as_it_is() -> None:
    scale = torch.tensor(1.0)
    assert clear_of_ties(scale, torch.tensor(128.0), 255) == scale


@pytest.mark.parametrize(
    ("grid", "expected"),
    [("hardsigmoid", [-3.0, -1.0, 3.0]), ("hardswish", [-3.0, -1.0, 9.0]), ("free", [-9.0, -1.0, 9.0])],
)
def test_observers_see_what_makes_a_difference(grid: str, expected: list[float]) -> None:
    values = torch.tensor([-9.0, -1.0, 9.0])
    assert observed(values, QuantSpec(8, grid=grid)).tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["hard_gates", "squeeze_excite"])
def test_reconstruction_leaves_grids_that_gates_bind(name: str) -> None:
    quantized_model = quantized_network(name, 3, 3)
    before = {key: float(q.scale) for key, q in quantized_model.quantizers().items()}
    reconstruct(quantized_model, images(16), ReconstructConfig(iterations=20, batch=8, lr_scale=0.1))
    moved = {key for key, q in quantized_model.quantizers().items() if float(q.scale) != before[key]}
    bound = {key for key, q in quantized_model.quantizers().items() if q.spec.grid != "free"}
    assert bound and not moved & bound
    assert moved
