"""The modules of an integer network: what the nodes of a quantized model become in the file.

Each computes in torch what `custom_ops.py` writes for it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.errors import ExportError
from ptq.export.operators import custom_ops
from ptq.export.operators.transposed_convolutions import SplitConvolution
from ptq.quantization.activation_grids import gate_codes
from ptq.quantization.layers import Layer, QuantLayer, weight_axis
from ptq.quantization.quantizers import Rounding

__all__ = [
    "Clamp",
    "Dequantize",
    "GlobalAveragePool",
    "HardGate",
    "IntegerLayer",
    "KeepFloat",
    "Mish",
    "PixelShuffle",
    "QuantizeDequantize",
    "Softplus",
    "border",
]


class QuantizeDequantize(nn.Module):
    """An activation through uint8 codes within [lo, hi].

    Args:
        scale, zero_point: of the grid, each ().
        bounds: lo and hi.
        clip: write the Clip to [lo, hi] even where it changes no code.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, bounds: tuple[int, int], clip: bool = False) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone())
        self.register_buffer("zero_point", zero_point.detach().to(torch.uint8))
        self.bounds, self.clip = bounds, clip

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        y: Tensor = custom_ops.quantize_dequantize(x, self.scale, self.zero_point, *self.bounds, self.clip)
        return y

    def unclipped(self) -> "QuantizeDequantize":
        """The same grid for values that are on it already."""
        return QuantizeDequantize(self.scale, self.zero_point, (0, custom_ops.UINT8_MAX))


class Dequantize(nn.Module):
    """Integer codes that stand for real numbers."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale.detach().float().clone())
        self.axis = axis

    def forward(self) -> Tensor:
        """Return the real numbers."""
        real: Tensor = custom_ops.dequantize(self.codes, self.scale, self.axis)
        return real


class IntegerLayer(nn.Module):
    """A convolution or linear layer with integer weights and bias.

    Args:
        layer: the quantized model's.
        pads: zeros that a padding before it adds: top, left, bottom, right.
        split: what a transposed convolution is computed as; the result then waits for its `PixelShuffle`.
    """

    def __init__(
        self, layer: QuantLayer, pads: Sequence[int] = (0, 0, 0, 0), split: SplitConvolution | None = None
    ) -> None:
        super().__init__()
        op, quantizer = layer.op, layer.weight_quantizer
        if quantizer.rounding is Rounding.NONE:
            raise ExportError("the quantized model has a weight without codes: calibrate it before export.")
        codes, scale, axis = quantizer.codes, quantizer.scale, weight_axis(op)
        self.bias = _integer_bias(layer, split)
        if isinstance(op, nn.Linear):
            codes, axis = codes.t().contiguous(), 1
        elif split is not None:
            codes, scale, axis = split.weight(codes), split.per_channel(scale.repeat(split.groups)), 0
        self.weight = Dequantize(codes, scale, axis)
        if split is None:
            self.operator, self.arguments = _operator(op, pads)
        else:
            self.operator, self.arguments = custom_ops.conv, ((1, 1), split.pads, (1, 1), split.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as the quantized model's layer, whose border, if any but zeros, is there already."""
        bias = self.bias() if isinstance(self.bias, Dequantize) else self.bias
        return self.operator(x, self.weight(), bias, *self.arguments)  # type: ignore[operator, no-any-return]


class PixelShuffle(nn.Module):
    """Channels that become pixels, of which some are left out.

    Args:
        stride: pixels that channels become, down and across.
        cuts: of the result: top, left, bottom, right.
    """

    def __init__(self, stride: tuple[int, int], cuts: tuple[int, int, int, int] = (0, 0, 0, 0)) -> None:
        super().__init__()
        self.stride, self.cuts = stride, cuts

    def forward(self, x: Tensor) -> Tensor:
        """(N, C * high * wide, H, W) -> (N, C, high * H, wide * W), less what is cut."""
        if x.dim() != 4:
            return F.pixel_shuffle(x, self.stride[0])
        y: Tensor = custom_ops.pixel_shuffle(x, self.stride, self.cuts)
        return y


class Clamp(nn.Module):
    """A clamp around 0 behind a linear layer in integers: with a Relu or Clip right there onnxruntime computes that layer in float.

    Args:
        low, high: infinite where nothing is cut.
    """

    low: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.high = high

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        x = torch.maximum(x, self.low)
        if math.isinf(self.high):
            return x
        return torch.clamp(x, max=self.high)  # Max and Min would become one Clip


class Mish(nn.Module):
    """nn.Mish, x * tanh(log(1 + exp(x))), by a sigmoid: onnxruntime takes nine times as long for its own Mish."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        # tanh(log(u)) = (u^2 - 1) / (u^2 + 1), where u = 1 + exp(x) = 1 / sigmoid(-x).
        share = torch.sigmoid(-x)
        return x * (2 / (share * share + 1) - 1)


class Softplus(nn.Module):
    """nn.Softplus, log(1 + exp(x)), in operators of which onnxruntime takes a quarter of the time of its own Softplus."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        return torch.relu(x) + torch.log(torch.exp(-x.abs()) + 1)


class GlobalAveragePool(nn.Module):
    """nn.AdaptiveAvgPool2d(1), as the ONNX operator that has an integer kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, 1)."""
        y: Tensor = custom_ops.global_average_pool(x)
        return y


class HardGate(nn.Module):
    """A hard sigmoid, as the codes of its input on another grid."""

    def __init__(self, grid: QuantizeDequantize) -> None:
        super().__init__()
        self.grid = grid
        scale, self.top = gate_codes(grid.scale, grid.zero_point)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros_like(grid.zero_point))

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        grid = self.grid
        y: Tensor = custom_ops.hard_gate(x, grid.scale, grid.zero_point, self.scale, self.zero, self.top)
        return y


class KeepFloat(nn.Module):
    """Before a layer that the plan leaves in float."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape stays."""
        y: Tensor = custom_ops.keep_float(x)
        return y


def _operator(op: Layer, pads: Sequence[int]) -> tuple[object, tuple[object, ...]]:
    """Return the operator that computes `op`, and its arguments behind x, weight and bias."""
    if isinstance(op, nn.Linear):
        return custom_ops.linear, ()
    assert not isinstance(op.padding, str)  # prepare made it explicit
    if isinstance(op, nn.ConvTranspose2d):
        return custom_ops.conv_transpose, (op.stride, op.padding, op.output_padding, op.dilation, op.groups)
    own_pads = (0, 0, 0, 0) if border(op) else (*op.padding, *op.padding)
    total = [own + more for own, more in zip(own_pads, pads, strict=True)]
    return custom_ops.conv, (op.stride, total, op.dilation, op.groups)


def border(op: Layer) -> tuple[list[int], str] | None:
    """Return what F.pad takes for a convolution that reflects, replicates or wraps its input."""
    if not isinstance(op, nn.Conv2d) or op.padding_mode == "zeros":
        return None
    return list(op._reversed_padding_repeated_twice), op.padding_mode


def _integer_bias(layer: QuantLayer, split: SplitConvolution | None) -> Dequantize | Tensor | None:
    scale, bias = layer.bias_scale(), layer.op.bias
    if scale is None or bias is None:
        return bias if bias is None or split is None else split.per_channel(bias)
    # In numpy and by itself: a wrong bias scale is the one mistake that nothing downstream notices.
    assert layer.input_quantizer is not None
    input_scale = np.float32(layer.input_quantizer.scale.item())
    weight_scale = layer.weight_quantizer.scale.flatten().float().numpy()
    repeats = scale.numel() // weight_scale.size
    if not np.array_equal(scale.numpy(), input_scale * np.tile(weight_scale, repeats)):
        raise ExportError("the scale of a bias is not scale_x * scale_w: please report this as a bug.")
    codes = layer.bias_codes(scale)
    assert codes is not None
    codes = codes.to(torch.int32)
    return Dequantize(codes, scale) if split is None else Dequantize(split.per_channel(codes), split.per_channel(scale))
