"""Quantizer modules: where they start, where they end, and the grids in between."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from ptq.errors import InputError
from ptq.quantization.affine import per_channel, qparams
from ptq.quantization.layers import Layer, QuantLayer, weight_axis
from ptq.quantization.quantizers import Quantizer, Rounding, WeightQuantizer
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
    quantizer = WeightQuantizer(QuantSpec(bits, True, True, axis), op.weight)
    peak = op.weight.detach().movedim(axis, 0).flatten(1).abs().amax(1) * cover
    quantizer.set_scale(qparams(-peak, peak, quantizer.spec)[0])
    return quantizer


def an_input(op: Layer) -> Tensor:
    shape = (2, 4) if isinstance(op, nn.Linear) else (2, 4, 8, 8)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_uncalibrated_quantizer_refuses_instead_of_calibrating() -> None:
    quantizer = Quantizer(QuantSpec(8))
    assert not quantizer.calibrated
    with pytest.raises(InputError):
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
    weight = quantizer()
    step = per_channel(quantizer.scale, op.weight, weight_axis(op))
    assert bool(((weight - op.weight).abs() <= step * 0.5001).all())
    assert quantizer.codes.dtype == torch.int8 and quantizer.rounding is Rounding.NEAREST


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
    op.weight.data = layer.weight_quantizer()
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
    assert layer.bias() is layer.op.bias


def test_quantizers_have_no_gradients() -> None:
    op, x = layers()["conv"], an_input(layers()["conv"]).requires_grad_()
    quantizer = Quantizer(QuantSpec(4)).set_range(torch.tensor(0.0), torch.tensor(1.0, requires_grad=True))
    assert not quantizer(x).requires_grad
    assert not calibrated(op, 4)().requires_grad


def test_the_state_of_a_layer_is_its_codes_scale_and_bias() -> None:
    op = layers()["conv"]
    layer = QuantLayer(op, calibrated(op, 4), Quantizer(QuantSpec(8)))
    state = {name: value.dtype for name, value in layer.state_dict().items()}
    of_weight = {"_codes": torch.int8, "_scale": torch.float32, "_learned": torch.bool}
    assert state == {"op.bias": torch.float32, **{f"weight_quantizer.{k}": v for k, v in of_weight.items()}}
    assert isinstance(op.weight, nn.Parameter)  # the float layer is left as it was


def test_what_is_not_calibrated_says_so() -> None:
    op = layers()["conv"]
    quantizer = WeightQuantizer(QuantSpec(4, True, True, 0), op.weight)
    assert quantizer.rounding is Rounding.NONE and list(quantizer.state_dict()) == ["_learned"]
    for read in (lambda: quantizer.codes, lambda: quantizer.scale, quantizer, lambda: Quantizer(QuantSpec(4)).scale):
        with pytest.raises(InputError):
            read()
    with pytest.raises(InputError):
        quantizer.harden(torch.zeros_like(op.weight))


@pytest.mark.parametrize("codes", [torch.zeros(6, 4, 3, 2), torch.full((6, 4, 3, 3), 8.0)], ids=["shape", "range"])
def test_codes_that_no_kernel_reads_are_refused(codes: Tensor) -> None:
    quantizer = calibrated(layers()["conv"], 4)
    with pytest.raises(InputError):
        quantizer.harden(codes)
    assert quantizer.rounding is Rounding.NEAREST


@given(st.integers(2, 8), st.integers(0, 1000), st.floats(2**-30, 2**30, width=32))
def test_learned_codes_stay_whatever_the_scale(bits: int, seed: int, scale: float) -> None:
    """Also where real numbers would not give them back: round(code * scale / scale) is another code, or none."""
    spec = QuantSpec(bits, True, True, 0)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 5, generator=generator)
    learned = torch.randint(spec.qmin, spec.qmax + 1, (3, 5), generator=generator)
    quantizer = WeightQuantizer(spec, weight)
    quantizer.set_scale(torch.tensor([scale, 1e-42, 3e38]))  # the others underflow and overflow
    quantizer.harden(learned)
    again = WeightQuantizer(spec, torch.zeros(3, 5))
    again.load_state_dict(quantizer.state_dict())
    for each in (quantizer, again):
        assert torch.equal(each.codes, learned.to(torch.int8))
        assert torch.equal(each.scale, quantizer.scale) and each.rounding is Rounding.LEARNED
    assert torch.equal(quantizer.float_weight, weight)


def test_a_float_weight_that_was_dropped_is_asked_for_by_name() -> None:
    quantizer = calibrated(layers()["conv"], 4)
    codes = quantizer.codes.clone()
    quantizer.drop_float_weight()
    assert torch.equal(quantizer.codes, codes)
    with pytest.raises(InputError, match=r"ptq\.load\(folder, model\)"):
        quantizer.set_scale(quantizer.scale)
