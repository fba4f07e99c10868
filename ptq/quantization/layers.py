"""Layers of a quantized model: integer weights, and a bias on the grid of their products."""

import copy

from torch import Tensor, nn
from torch.nn import functional as F

from ptq.quantization.affine import quantize
from ptq.quantization.quantizers import Quantizer, WeightQuantizer

__all__ = ["Layer", "QuantLayer", "apply_layer", "weight_axis"]

LARGEST_BIAS = 2**30  # as a code: products are added to it, and int32 must hold the sum
EXACT_BIAS = 2**24  # codes up to here are exact in float32, so simulation and kernel agree
Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


class QuantLayer(nn.Module):
    """A convolution or linear layer with a quantized weight and its bias on the int32 grid.

    Integer kernels add the bias as int32 codes of scale scale_x * scale_w. Simulating that grid is
    what makes the quantized model agree with onnxruntime.

    Args:
        op: the float layer, which stays as it is; its weight is (C_out, ...), for a transposed convolution
            (C_in, C_out / groups, ...).
        weight_quantizer: of its weight.
        input_quantizer: the quantizer whose values this layer reads; None leaves the bias in float.

    Attributes:
        op: a copy without the weight, which the weight quantizer holds.
    """

    def __init__(self, op: Layer, weight_quantizer: WeightQuantizer, input_quantizer: Quantizer | None) -> None:
        super().__init__()
        self.op = copy.deepcopy(op)
        self.op.register_parameter("weight", None)
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
        return self.bias_grid(self.input_quantizer.scale, self.weight_quantizer.scale)

    def bias_grid(self, input_scale: Tensor, weight_scale: Tensor) -> Tensor:
        """Return scale_x * scale_w per output channel, (C,), of any such scales: () and one per channel of the weight."""
        groups = self.op.groups if isinstance(self.op, nn.ConvTranspose2d) else 1
        return input_scale * weight_scale.repeat(groups)

    def bias_codes(self, scale: Tensor) -> Tensor | None:
        """Return the bias as integer-valued codes, at most 2^30, on the grid `scale`, (C,)."""
        if self.op.bias is None:
            return None
        return quantize(self.op.bias.detach(), scale, scale.new_zeros(()), -LARGEST_BIAS, LARGEST_BIAS)

    def least_weight_scale(self) -> Tensor:
        """Return the scales of the weight, (C,), that are just large enough for the codes of the bias; 0 without one.

        A channel whose weights are nearly zero would have a bias of more codes than float32 can tell apart.
        """
        weight = self.weight_quantizer.float_weight
        channels = weight.shape[weight_axis(self.op)]  # fewer than biases in a grouped transposed convolution
        if self.op.bias is None or self.input_quantizer is None:
            return weight.new_zeros(channels)
        least = self.op.bias.detach().abs() / (self.input_quantizer.scale * EXACT_BIAS)
        return least.reshape(-1, channels).amax(0)

    def bias(self) -> Tensor | None:
        """Return the bias on its int32 grid, (C,); as it is where the input is float."""
        grid = self.bias_scale()
        codes = None if grid is None else self.bias_codes(grid)
        return self.op.bias if grid is None or codes is None else codes * grid

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; shapes as `op`."""
        return apply_layer(self.op, x, self.weight_quantizer(), self.bias())


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
