"""Transposed convolutions are convolutions and shuffles in the file, and compute the same."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch import nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.export.operators.custom_ops import pixel_shuffle
from ptq.export.operators.transposed_convolutions import MOST, split_transposed
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from tests.helpers.networks import SHAPE, images


@dataclass(frozen=True)
class Axis:
    """Settings of a transposed convolution along one axis."""

    kernel: int
    stride: int
    padding: int
    extra: int
    dilation: int


AXES = st.builds(
    Axis, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(0, 1), st.integers(1, 2)
).filter(lambda a: a.extra < max(a.stride, a.dilation))


def transposed(rows: Axis, columns: Axis, groups: int = 1, bias: bool = True, channels: int = 8) -> nn.ConvTranspose2d:
    torch.manual_seed(0)
    pairs = zip(*((a.kernel, a.stride, a.padding, a.extra, a.dilation) for a in (rows, columns)), strict=True)
    kernel, stride, padding, extra, dilation = pairs
    return nn.ConvTranspose2d(
        channels * groups, 2 * groups, kernel, stride, padding, extra, groups, bias, dilation
    ).requires_grad_(False)


@given(AXES, AXES, st.integers(1, 3), st.booleans())
def test_a_convolution_and_a_shuffle_compute_the_same(rows: Axis, columns: Axis, groups: int, bias: bool) -> None:
    layer, x = transposed(rows, columns, groups, bias), images(2).repeat(1, 8, 1, 1)[:, : 8 * groups, :7, :6]
    split = split_transposed(layer)
    assume(split is not None)
    assert split is not None
    top, left, bottom, right = split.pads
    given_bias = None if layer.bias is None else split.per_channel(layer.bias)
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), split.weight(layer.weight), given_bias, groups=groups)
    torch.testing.assert_close(pixel_shuffle(y, split.stride, split.cuts), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("axis", "size", "cut"),
    [
        (Axis(2, 2, 0, 0, 1), 1, False),  # U-Net
        (Axis(4, 2, 1, 0, 1), 2, True),  # heads of keypoints
        (Axis(3, 2, 1, 1, 1), 2, False),  # autoencoders
        (Axis(3, 1, 1, 0, 1), 3, False),
        (Axis(16, 8, 4, 0, 1), 2, True),  # FCN
    ],
)
def test_kernels_have_as_few_places_as_they_can(axis: Axis, size: int, cut: bool) -> None:
    split = split_transposed(transposed(axis, axis))
    assert split is not None
    assert (split.rows.size, any(split.cuts)) == (size, cut)


def test_what_would_take_longer_stays() -> None:
    single = Axis(1, 2, 0, 0, 1)  # nine of ten products would be with zeros
    assert split_transposed(transposed(single, single)) is None and single.stride**2 > MOST
    plain = Axis(2, 2, 0, 0, 1)
    assert split_transposed(transposed(plain, plain, groups=4, channels=2)) is None


def test_files_have_integer_kernels_for_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=2), nn.BatchNorm2d(16)]
    layers += [nn.ReLU6(), nn.ConvTranspose2d(16, 8, 3, (1, 2), 1, (0, 1)), nn.SiLU()]
    layers += [nn.ConvTranspose2d(8, 12, 3, 2), nn.LeakyReLU(0.2), nn.PixelShuffle(2), nn.ConvTranspose2d(3, 3, 2, 2)]
    graph_model, x = prepare(nn.Sequential(*layers).eval().requires_grad_(False), SHAPE), images(4)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4)), x)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    graph = ort.optimized(path)
    assert ort.float_layers(graph) == ort.float_operators(graph) == []
    given = torch.from_numpy(ort.run(ort.session(path), x.numpy()))
    assert torch.equal(given, quantized_model.integer_forward(x))
