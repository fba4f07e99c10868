"""The modules a quantized model is made of: quantizers of activations and weights, and their layers."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.errors import InputError
from ptq.quantization.activation_grids import clear_of_ties
from ptq.quantization.affine import fake_quant, per_channel, qparams, quantize
from ptq.quantization.spec import QuantSpec

__all__ = ["QuantLayer", "Quantizer", "WeightQuantizer", "apply_layer", "weight_axis"]

INT32 = 2**31 - 1
Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


class Quantizer(nn.Module):
    """Fake-quantizes an activation, per tensor and affine.

    Nothing here has a gradient; reconstruction learns the scale in a view of its own (`ptq.reconstruction.soft_modules`).

    Args:
        spec: the codes; per tensor.

    Raises:
        InputError: on a forward pass before `set_range`, instead of silently calibrating.

    Example:
        >>> quantizer = Quantizer(QuantSpec(8)).set_range(torch.tensor(0.0), torch.tensor(6.0))
        >>> quantizer(torch.tensor(7.0))
        tensor(6.)
    """

    scale: nn.Parameter
    zero_point: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scale = nn.Parameter(torch.tensor(math.nan), requires_grad=False)
        self.register_buffer("zero_point", torch.tensor(0.0))

    def set_range(self, low: Tensor, high: Tensor) -> "Quantizer":
        """Spread the codes over [low, high] and return self."""
        scale, zero_point = qparams(low, high, self.spec)
        if self.spec.grid == "sigmoid":
            scale = clear_of_ties(scale, zero_point, self.spec.qmax)
        self.scale.data.copy_(scale)
        self.zero_point.copy_(zero_point)
        return self

    @property
    def calibrated(self) -> bool:
        """Whether a range has been set."""
        return not bool(self.scale.isnan())

    def require_range(self) -> None:
        """Raise when no range has been set.

        Raises:
            InputError: saying what to do.
        """
        if not self.calibrated:
            raise InputError("this quantizer has no range yet: calibrate the quantized model first.")

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the quantizer's grid; same shape."""
        self.require_range()
        scale = self.scale.detach()
        return fake_quant(x, scale, self.zero_point, self.spec.qmin, self.spec.qmax)

    def extra_repr(self) -> str:
        """Show the bits and the range."""
        scale, zero_point = self.scale.item(), self.zero_point.item()
        return f"bits={self.spec.bits}, scale={scale:.4g}, zero_point={zero_point:.0f}"


class WeightQuantizer(nn.Module):
    """Rounds a weight to the nearest code, per output channel and symmetric.

    Args:
        spec: signed and symmetric, `axis` the output channel.
        channels: number of output channels.
    """

    scale: Tensor

    def __init__(self, spec: QuantSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("scale", torch.full((channels,), math.nan))

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Spread the codes over [low, high], each (C,)."""
        self.scale.copy_(qparams(low, high, self.spec)[0])

    def codes(self, weight: Tensor) -> Tensor:
        """Return integer-valued codes shaped like `weight`."""
        scale = per_channel(self.scale, weight, self.spec.axis)
        zero = torch.zeros((), device=weight.device)
        return quantize(weight.detach(), scale, zero, self.spec.qmin, self.spec.qmax)

    def forward(self, weight: Tensor) -> Tensor:
        """Return `weight` on the quantizer's grid."""
        return self.codes(weight) * per_channel(self.scale, weight, self.spec.axis)


class QuantLayer(nn.Module):
    """A convolution or linear layer with a quantized weight and its bias on the int32 grid.

    Integer kernels add the bias as int32 codes of scale scale_x * scale_w. Simulating that grid is
    what makes the quantized model agree with onnxruntime.

    Args:
        op: the float layer; its weight is (C_out, ...), for a transposed convolution (C_in,
            C_out / groups, ...).
        weight_quantizer: of its weight.
        input_quantizer: the quantizer whose values this layer reads; None leaves the bias in float.
    """

    def __init__(self, op: Layer, weight_quantizer: WeightQuantizer, input_quantizer: Quantizer | None) -> None:
        super().__init__()
        self.op = op
        self.weight_quantizer = weight_quantizer
        # In a tuple, because the module belongs to the graph it was placed in and not to this layer.
        self._input = (input_quantizer,)

    @property
    def input_quantizer(self) -> Quantizer | None:
        """The quantizer of this layer's input."""
        return self._input[0]

    def bias_scale(self) -> Tensor | None:
        """Return scale_x * scale_w per output channel (C,), or None where the input is float."""
        if self.input_quantizer is None:
            return None
        scale = self.weight_quantizer.scale.detach().flatten()
        if isinstance(self.op, nn.ConvTranspose2d):
            scale = scale.repeat(self.op.groups)
        return self.input_quantizer.scale.detach() * scale

    def bias_codes(self, scale: Tensor) -> Tensor | None:
        """Return the bias as integer-valued int32 codes on the grid `scale`, (C,)."""
        if self.op.bias is None:
            return None
        return quantize(self.op.bias.detach(), scale, scale.new_zeros(()), -INT32 - 1, INT32)

    def bias(self) -> Tensor | None:
        """Return the bias on its int32 grid, (C,); as it is where the input is float."""
        grid = self.bias_scale()
        codes = None if grid is None else self.bias_codes(grid)
        return self.op.bias if grid is None or codes is None else codes * grid

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; shapes as `op`."""
        return apply_layer(self.op, x, self.weight_quantizer(self.op.weight), self.bias())


def apply_layer(op: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply `op` with another weight and bias; shapes as `op`."""
    if isinstance(op, nn.Linear):
        return F.linear(x, weight, bias)
    if isinstance(op, nn.ConvTranspose2d):
        assert not isinstance(op.padding, str)
        return F.conv_transpose2d(x, weight, bias, op.stride, op.padding, op.output_padding, op.groups, op.dilation)
    out: Tensor = op._conv_forward(x, weight, bias)
    return out


def weight_axis(op: Layer) -> int:
    """The dimension of `op.weight` that holds output channels."""
    return 1 if isinstance(op, nn.ConvTranspose2d) else 0
