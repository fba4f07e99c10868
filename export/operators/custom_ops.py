"""The operators of an integer network as torch sees them while exporting, and as ONNX writes them.

torch has no operator that exports to QuantizeLinear with fewer than 8 bits, to an int8 weight behind
DequantizeLinear, to a convolution with uneven padding or to GlobalAveragePool. These do, each
through one function that writes its ONNX nodes. In torch they compute the same real numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import Tensor
from torch.nn import functional as F

from ptq.export.operators.token_layers import write_linear
from ptq.quantization.affine import fake_quant, per_channel, quantize

__all__ = [
    "TRANSLATIONS",
    "conv",
    "conv_transpose",
    "dequantize",
    "global_average_pool",
    "hard_gate",
    "keep_float",
    "linear",
    "pixel_shuffle",
    "quantize_dequantize",
]

UINT8_MAX = 255


@torch.library.custom_op("ptq::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, clip: bool) -> Tensor:
    """Quantize `x` to codes within [lo, hi] and back; `scale` () float32, `zero_point` () uint8.

    `clip` writes the Clip into the file even where uint8 alone keeps the codes within [lo, hi].
    """
    return fake_quant(x, scale, zero_point.float(), lo, hi)


@torch.library.custom_op("ptq::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Turn int8 or int32 `codes` into real numbers; `scale` is (C,)."""
    return codes.float() * per_channel(scale, codes, axis)


@torch.library.custom_op("ptq::conv", mutates_args=())
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Convolve with zero padding of its own at every side: `pads` is top, left, bottom, right."""
    top, left, bottom, right = pads
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)


@torch.library.custom_op("ptq::conv_transpose", mutates_args=())
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Transposed convolution, as torch has it."""
    return F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)


@torch.library.custom_op("ptq::pixel_shuffle", mutates_args=())
def pixel_shuffle(x: Tensor, stride: Sequence[int], cuts: Sequence[int]) -> Tensor:
    """Turn (N, C * high * wide, H, W) into (N, C, high * H, wide * W) less `cuts`: top, left, bottom, right."""
    (high, wide), (top, left, bottom, right) = stride, cuts
    batch, sorts, rows, columns = x.shape  # of which the first is free
    apart = x.reshape(batch, sorts // (high * wide), high, wide, rows, columns).permute(0, 1, 4, 2, 5, 3)
    pixels = apart.flatten(4).flatten(2, 3)
    return pixels[:, :, top : high * rows - bottom, left : wide * columns - right].clone()


@torch.library.custom_op("ptq::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply (..., in) by a weight that is already transposed, (in, out)."""
    return F.linear(x, weight.t(), bias)


@torch.library.custom_op("ptq::global_average_pool", mutates_args=())
def global_average_pool(x: Tensor) -> Tensor:
    """Average (N, C, H, W) to (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


@torch.library.custom_op("ptq::hard_gate", mutates_args=())
def hard_gate(x: Tensor, scale: Tensor, zero_point: Tensor, gate_scale: Tensor, gate_zero: Tensor, top: int) -> Tensor:
    """Hard sigmoid of `x`, which is on the grid of `scale` and `zero_point`, as codes within [0, top]."""
    codes = quantize(x, scale, zero_point.float(), 0, top)
    return codes * gate_scale


@torch.library.custom_op("ptq::keep_float", mutates_args=())
def keep_float(x: Tensor) -> Tensor:
    """Return `x`; stands before a layer that shall compute in float although its neighbors do not."""
    return x.clone()


@quantize_dequantize.register_fake
def _like_x(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, clip: bool) -> Tensor:
    return torch.empty_like(x)


@dequantize.register_fake
def _like_codes(codes: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


# The other operators find the shape of their result by running on tensors without data.
for _operator in (conv, conv_transpose, pixel_shuffle, linear, global_average_pool, hard_gate, keep_float):
    _operator.register_fake(_operator._init_fn)


def _write_quantize_dequantize(x: Any, scale: Any, zero_point: Any, lo: int, hi: int, clip: bool) -> Any:
    codes = op.QuantizeLinear(x, scale, zero_point)
    if clip or lo > 0 or hi < UINT8_MAX:
        # Between the two, on integers: onnxruntime fuses what is around it. A float Clip would not fuse.
        low, high = (_uint8(bound) for bound in (lo, hi))
        codes = op.Clip(codes, low, high)
    return op.DequantizeLinear(codes, scale, zero_point)


def _uint8(value: int) -> Any:
    return op.Constant(value=ir.tensor(np.uint8(value)))  # type: ignore[arg-type]


def _write_dequantize(codes: Any, scale: Any, axis: int) -> Any:
    return op.DequantizeLinear(codes, scale, axis=axis)


def _write_conv(
    x: Any, weight: Any, bias: Any, stride: Sequence[int], pads: Sequence[int], dilation: Sequence[int], groups: int
) -> Any:
    return op.Conv(x, weight, bias, strides=stride, pads=pads, dilations=dilation, group=groups, auto_pad="NOTSET")


def _write_conv_transpose(
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    return op.ConvTranspose(
        x,
        weight,
        bias,
        strides=stride,
        pads=[*padding, *padding],
        output_padding=output_padding,
        dilations=dilation,
        group=groups,
    )


def _write_pixel_shuffle(x: Any, stride: Sequence[int], cuts: Sequence[int]) -> Any:
    # As transpositions of matrices, which onnxruntime does in a third of the time of its DepthToSpace.
    (high, wide), (top, left, bottom, right) = stride, cuts
    _, sorts, rows, columns = x.shape
    channels, height, width = sorts // (high * wide), high * rows, wide * columns
    y = op.Transpose(_reshaped(x, -1, channels * high, wide, rows * columns), perm=[0, 1, 3, 2])
    y = op.Transpose(_reshaped(y, -1, channels, high, rows, width), perm=[0, 1, 3, 2, 4])
    y = _reshaped(y, -1, channels, height, width)
    if any(cuts):
        kept = (_integers(top, left), _integers(height - bottom, width - right), _integers(2, 3))
        y = op.Slice(y, *kept)
    return y


def _reshaped(x: Any, *shape: int) -> Any:
    return op.Reshape(x, _integers(*shape))


def _integers(*values: int) -> Any:
    return op.Constant(value=ir.tensor(np.array(values, np.int64)))  # type: ignore[arg-type]


def _write_global_average_pool(x: Any) -> Any:
    return op.GlobalAveragePool(x)


def _write_hard_gate(x: Any, scale: Any, zero_point: Any, gate_scale: Any, gate_zero: Any, top: int) -> Any:
    codes = op.QuantizeLinear(x, scale, zero_point)  # undone where `x` comes from such codes: `export_qdq`
    return op.DequantizeLinear(op.Clip(codes, _uint8(0), _uint8(top)), gate_scale, gate_zero)


def _write_keep_float(x: Any) -> Any:
    # onnxruntime quantizes the float weight of a layer between DequantizeLinear and QuantizeLinear by
    # itself, per tensor. A Clip that clips nothing, before the layer, keeps it away (behind it does not).
    limits = np.finfo(np.float32)
    low, high = (
        op.Constant(value=ir.tensor(np.float32(bound)))  # type: ignore[arg-type]
        for bound in (limits.min, limits.max)
    )
    return op.Clip(x, low, high)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.ptq.quantize_dequantize.default: _write_quantize_dequantize,
    torch.ops.ptq.dequantize.default: _write_dequantize,
    torch.ops.ptq.conv.default: _write_conv,
    torch.ops.ptq.conv_transpose.default: _write_conv_transpose,
    torch.ops.ptq.pixel_shuffle.default: _write_pixel_shuffle,
    torch.ops.ptq.linear.default: write_linear,
    torch.ops.ptq.global_average_pool.default: _write_global_average_pool,
    torch.ops.ptq.hard_gate.default: _write_hard_gate,
    torch.ops.ptq.keep_float.default: _write_keep_float,
}
