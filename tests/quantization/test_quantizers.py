"""Quantizer modules: where they start, where they end, and the grids in between."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from ptq.errors import PtqError
from ptq.quantization.affine import per_channel
from ptq.quantization.quantizers import Layer, Quantizer, QuantLayer, WeightQuantizer, weight_axis
from ptq.quantization.spec import QuantSpec


def layers() -> dict[str, Layer]:
    torch.manual_seed(0)
    return {
        "conv": nn.Conv2d(4, 6, 3, 2, 1),
        "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
        "linear": nn.Linear(4, 6),
        "transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1),
        "grouped_transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2, dilation=2),
        "reflecting": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False),
    }


def calibrated(op: Layer, bits: int, cover: float = 1.0) -> WeightQuantizer:
    """A weight quantizer that covers a share `cover` of every channel's largest weight."""
    axis = weight_axis(op)
    quantizer = WeightQuantizer(QuantSpec(bits, True, True, axis), op.weight.shape[axis])
    peak = op.weight.detach().movedim(axis, 0).flatten(1).abs().amax(1) * cover
    quantizer.set_range(-peak, peak)
    return quantizer


def an_input(op: Layer) -> Tensor:
    shape = (2, 4) if isinstance(op, nn.Linear) else (2, 4, 8, 8)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_uncalibrated_quantizer_refuses_instead_of_calibrating() -> None:
    quantizer = Quantizer(QuantSpec(8))
    assert not quantizer.calibrated
    with pytest.raises(PtqError, match="calibrate"):
        quantizer(torch.ones(3))
    assert quantizer.set_range(torch.tensor(0.0), torch.tensor(1.0)).calibrated


@given(st.integers(2, 8), st.floats(0.1, 100), st.floats(0.1, 100))
def test_quantizer_gives_few_values_within_its_range(bits: int, below: float, above: float) -> None:
    quantizer = Quantizer(QuantSpec(bits))
    quantizer.set_range(torch.tensor(-below), torch.tensor(above))
    x = torch.linspace(-2 * below, 2 * above, 2000)
    y = quantizer(x)
    assert len(y.unique()) <= 2**bits
    step = quantizer.scale.item()
    assert -below - step <= y.min()
    assert y.max() <= above + step


@pytest.mark.parametrize("name", layers())
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_nearest_rounding_is_the_nearest_code(name: str, bits: int) -> None:
    op = layers()[name]
    quantizer = calibrated(op, bits)
    weight = quantizer(op.weight)
    step = per_channel(quantizer.scale, op.weight, weight_axis(op))
    assert bool(((weight - op.weight).abs() <= step * 0.5001).all())
    # Its own fixed point.
    assert torch.equal(quantizer(weight), weight)


@pytest.mark.parametrize("name", layers())
def test_a_layer_with_fine_codes_computes_what_the_float_layer_does(name: str) -> None:
    op = layers()[name]
    consumer = Quantizer(QuantSpec(8)).set_range(torch.tensor(0.0), torch.tensor(1.0))
    layer = QuantLayer(op, calibrated(op, 8), consumer)
    x = consumer(an_input(op))
    expected, actual = op(x), layer(x)
    assert actual.shape == expected.shape
    assert (actual - expected).norm() < 0.02 * expected.norm()
    # Exactly: the layer with the same weight and bias put in.
    op.weight.data = layer.weight_quantizer(op.weight)
    bias = layer.bias()
    if op.bias is not None and bias is not None:
        op.bias.data = bias
    assert torch.equal(actual, op(x))


@pytest.mark.parametrize("name", [n for n, op in layers().items() if op.bias is not None])
def test_biases_lie_on_the_grid_of_the_accumulator(name: str) -> None:
    op = layers()[name]
    assert op.bias is not None
    consumer = Quantizer(QuantSpec(8)).set_range(torch.tensor(-0.3), torch.tensor(0.9))
    nearest = calibrated(op, 4)
    layer = QuantLayer(op, nearest, consumer)
    scale, bias = layer.bias_scale(), layer.bias()
    assert scale is not None
    assert bias is not None
    assert scale.shape == bias.shape == op.bias.shape
    # Each channel by its own weight's scale: in a transposed convolution groups share them.
    of_channel = nearest.scale.repeat(op.bias.numel() // nearest.scale.numel())
    torch.testing.assert_close(scale, consumer.scale.detach() * of_channel, rtol=1e-6, atol=0)
    codes = bias.double() / scale.double()
    assert bool(((codes - codes.round()).abs() <= 1e-6 * codes.abs().clamp(min=1)).all())
    assert bool(((bias - op.bias).abs() <= scale * 0.501).all())


def test_a_layer_that_reads_floats_keeps_its_float_bias() -> None:
    op = layers()["conv"]
    layer = QuantLayer(op, calibrated(op, 4), None)
    assert layer.bias_scale() is None
    assert layer.bias() is op.bias


def test_quantizers_have_no_gradients() -> None:
    op, x = layers()["conv"], an_input(layers()["conv"]).requires_grad_()
    quantizer = Quantizer(QuantSpec(4)).set_range(torch.tensor(0.0), torch.tensor(1.0))
    quantizer.scale.requires_grad_()
    assert not quantizer(x).requires_grad
    assert not calibrated(op, 4).codes(op.weight).requires_grad


def test_the_input_quantizer_is_no_part_of_the_layer() -> None:
    op = layers()["conv"]
    layer = QuantLayer(op, calibrated(op, 4), Quantizer(QuantSpec(8)))
    assert set(layer.state_dict()) == {"op.weight", "op.bias", "weight_quantizer.scale"}
