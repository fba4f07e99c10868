"""Quantizer modules: where they start, where they end, and the grids in between."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ptq.affine import per_channel
from ptq.errors import PtqError
from ptq.quantizer import (
    AdaRoundQuantizer,
    DropMask,
    Layer,
    Quantizer,
    QuantLayer,
    WeightQuantizer,
    weight_axis,
)
from ptq.spec import QuantSpec

CPU = torch.device("cpu")


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


def test_dropping_happens_in_training_mode_only() -> None:
    quantizer = Quantizer(QuantSpec(2)).set_range(torch.tensor(0.0), torch.tensor(1.0))
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    quantized = quantizer(x)
    quantizer.drop = DropMask(0.5, 0, CPU)
    assert torch.equal(quantizer.eval()(x), quantized)
    mixed = quantizer.train()(x)
    from_quantized, from_float = mixed == quantized, mixed == x
    assert bool((from_quantized | from_float).all())
    assert 0.4 < from_float.float().mean() < 0.6


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.5, 1.0])
def test_masks_keep_their_share(keep: float) -> None:
    mask = DropMask(keep, 0, CPU, pool=1 << 16)
    # Larger than the pool, too.
    for shape in ((50, 40, 5), (4, 32, 32, 32)):
        drawn = mask(torch.empty(shape))
        assert drawn.shape == shape
        assert set(drawn.unique().tolist()) <= {0.0, 1.0}
        assert abs(drawn.mean().item() - keep) < 0.02


def test_masks_differ_from_call_to_call_but_not_from_run_to_run() -> None:
    like = torch.empty(1000)
    first, again = DropMask(0.5, 7, CPU), DropMask(0.5, 7, CPU)
    drawn = [first(like).clone() for _ in range(3)]
    assert all(torch.equal(a, again(like)) for a in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], DropMask(0.5, 8, CPU)(like))


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
@pytest.mark.parametrize("cover", [1.0, 0.6])
def test_adaround_starts_at_the_float_weight_and_ends_on_a_neighbouring_code(
    name: str, cover: float
) -> None:
    op = layers()[name]
    nearest = calibrated(op, 4, cover)
    adaround = AdaRoundQuantizer(nearest, op.weight.detach())
    scale = per_channel(nearest.scale, op.weight, weight_axis(op))
    clipped = op.weight.detach().clamp(-8 * scale, 7 * scale)
    torch.testing.assert_close(adaround(op.weight), clipped, rtol=0, atol=2e-4 * float(scale.max()))
    # Undisturbed, it decides as nearest rounding does.
    torch.testing.assert_close(adaround.hardened(), nearest(op.weight))
    with torch.no_grad():
        adaround.alpha.copy_(
            torch.randn(adaround.alpha.shape, generator=torch.Generator().manual_seed(0)) * 9
        )
    hard = adaround.hardened()
    codes = (hard / scale).round()
    floor = (op.weight / scale).floor()
    assert codes.min() >= -8
    assert codes.max() <= 7
    assert bool(((codes == floor.clamp(-8, 7)) | (codes == (floor + 1).clamp(-8, 7))).all())
    # What reconstruction stores as the layer's weight is what nearest rounding then reads.
    assert torch.equal(nearest.codes(hard), codes)
    assert torch.equal(nearest(hard), hard)


def test_sharpness_decides_every_rounding() -> None:
    op = layers()["conv"]
    adaround = AdaRoundQuantizer(calibrated(op, 4), op.weight.detach())
    shares, distances = [], []
    for sharpness in (1.0, 10.0, 100.0, 1e6):
        adaround.sharpness = sharpness
        shares.append(adaround.undecided())
        soft = adaround(op.weight).detach()
        distances.append(float((soft - adaround.hardened()).abs().max()))
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 and shares[-1] == 0
    assert distances == sorted(distances, reverse=True) and distances[-1] == 0


@pytest.mark.parametrize("name", layers())
def test_a_layer_with_fine_codes_computes_what_the_float_layer_does(name: str) -> None:
    op = layers()[name]
    reader = Quantizer(QuantSpec(8)).set_range(torch.tensor(0.0), torch.tensor(1.0))
    layer = QuantLayer(op, calibrated(op, 8), reader)
    x = reader(an_input(op))
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
@pytest.mark.parametrize("learned", [False, True])
def test_biases_lie_on_the_grid_of_the_accumulator(name: str, learned: bool) -> None:
    op = layers()[name]
    assert op.bias is not None
    reader = Quantizer(QuantSpec(8)).set_range(torch.tensor(-0.3), torch.tensor(0.9))
    nearest = calibrated(op, 4)
    layer = QuantLayer(op, nearest, reader)
    if learned:
        layer.weight_quantizer = AdaRoundQuantizer(nearest, op.weight.detach())
    scale, bias = layer.bias_scale(), layer.bias()
    assert scale is not None
    assert bias is not None
    assert scale.shape == bias.shape == op.bias.shape
    # Each channel by its own weight's scale: in a transposed convolution groups share them.
    of_channel = nearest.scale.repeat(op.bias.numel() // nearest.scale.numel())
    torch.testing.assert_close(scale, reader.scale.detach() * of_channel, rtol=1e-6, atol=0)
    codes = bias.double() / scale.double()
    assert bool(((codes - codes.round()).abs() <= 1e-6 * codes.abs().clamp(min=1)).all())
    assert bool(((bias - op.bias).abs() <= scale * 0.501).all())


def test_a_layer_that_reads_floats_keeps_its_float_bias() -> None:
    op = layers()["conv"]
    layer = QuantLayer(op, calibrated(op, 4), None)
    assert layer.bias_scale() is None
    assert layer.bias() is op.bias


def test_the_input_quantizer_is_no_part_of_the_layer() -> None:
    op = layers()["conv"]
    layer = QuantLayer(op, calibrated(op, 4), Quantizer(QuantSpec(8)))
    assert set(layer.state_dict()) == {"op.weight", "op.bias", "weight_quantizer.scale"}
