"""From a quantized model to a graph of integer operators that says exactly what the ONNX file will say.

The quantized model simulates; this graph is what it becomes for deployment, and the quantized model stays as it is:

- a quantizer becomes QuantizeLinear and DequantizeLinear, and swallows the ReLU or ReLU6 before it;
- a layer holds integer weights, and its bias as int32 codes of scale scale_x * scale_w;
- a hard sigmoid becomes a Clip of its input's codes, read with another scale;
- zero padding before a convolution becomes the convolution's own;
- a border of reflected or repeated pixels is added before the layer;
- behind whatever only moves data stands its input's quantizer once more, so that onnxruntime moves bytes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from ptq.errors import ExportError
from ptq.export import custom_ops
from ptq.graph.fx_helpers import LAYERS, argument, attribute, averages_globally, module_of, op_name, sole_input
from ptq.quantization.activation_grids import gate_codes
from ptq.quantization.integer_ops import moves_data
from ptq.quantization.integer_simulation import code_bounds, folded_activation, hard_gate
from ptq.quantization.layers import Layer, QuantLayer, weight_axis
from ptq.quantization.quantizers import Quantizer, Rounding

__all__ = ["lower"]


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
    """

    def __init__(self, layer: QuantLayer, pads: Sequence[int] = (0, 0, 0, 0)) -> None:
        super().__init__()
        op, quantizer = layer.op, layer.weight_quantizer
        if quantizer.rounding is Rounding.NONE:
            raise ExportError("the quantized model has a weight without codes: calibrate it before export.")
        codes, axis = quantizer.codes, weight_axis(op)
        if isinstance(op, nn.Linear):
            codes, axis = codes.t().contiguous(), 1
        self.weight = Dequantize(codes, quantizer.scale, axis)
        self.bias = _integer_bias(layer)
        self.operator, self.arguments = _operator(op, pads)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as the quantized model's layer, whose border, if any but zeros, is there already."""
        bias = self.bias() if isinstance(self.bias, Dequantize) else self.bias
        return self.operator(x, self.weight(), bias, *self.arguments)  # type: ignore[operator, no-any-return]


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
    own_pads = (0, 0, 0, 0) if _border(op) else (*op.padding, *op.padding)
    total = [own + more for own, more in zip(own_pads, pads, strict=True)]
    return custom_ops.conv, (op.stride, total, op.dilation, op.groups)


def _border(op: Layer) -> tuple[list[int], str] | None:
    """What F.pad takes for a convolution that reflects, replicates or wraps its input."""
    if not isinstance(op, nn.Conv2d) or op.padding_mode == "zeros":
        return None
    return list(op._reversed_padding_repeated_twice), op.padding_mode


def _integer_bias(layer: QuantLayer) -> Dequantize | Tensor | None:
    scale, bias = layer.bias_scale(), layer.op.bias
    if scale is None or bias is None:
        return bias
    # In numpy and by itself: a wrong bias scale is the one mistake that nothing downstream notices.
    assert layer.input_quantizer is not None
    input_scale = np.float32(layer.input_quantizer.scale.item())
    weight_scale = layer.weight_quantizer.scale.flatten().float().numpy()
    repeats = scale.numel() // weight_scale.size
    if not np.array_equal(scale.numpy(), input_scale * np.tile(weight_scale, repeats)):
        raise ExportError("the scale of a bias is not scale_x * scale_w: please report this as a bug.")
    codes = layer.bias_codes(scale)
    assert codes is not None
    return Dequantize(codes.to(torch.int32), scale)


def lower(quantized_model: fx.GraphModule) -> fx.GraphModule:
    """Return the graph to export; it computes what `quantized_model` computes, and shares its float modules.

    Args:
        quantized_model: a calibrated quantized model's `module`.

    Raises:
        ExportError: for an activation without a range or a weight without codes.

    Example:
        >>> torch.allclose(lower(quantized_model.module)(x), quantized_model.module(x), atol=1e-5)
        True
    """
    modules: dict[str, nn.Module] = {}
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    grids: dict[fx.Node, QuantizeDequantize] = {}  # by the quantized model's nodes

    def call(name: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        modules[name] = module
        return graph.call_module(name, inputs)

    for node in quantized_model.graph.nodes:
        module = module_of(quantized_model, node)
        if isinstance(module, Quantizer):
            folded = folded_activation(quantized_model, node)
            source = sole_input(node if folded is None else folded)
            # onnxruntime makes one of two roundings in a row, on a grid of its own; a Clip between them prevents that.
            apart = source in grids and moves_data(quantized_model, source)
            grids[node] = _grid(module, None if folded is None else module_of(quantized_model, folded), clip=apart)
            new[node] = call(str(node.target), grids[node], new[source])
        elif isinstance(module, QuantLayer):
            source, pads = _padding(quantized_model, sole_input(node), module)
            x = new[source]
            if border := _border(module.op):
                # No operator pads with anything but zeros by itself.
                x = graph.call_function(F.pad, (x, *border))
                if source in grids:
                    x = call(f"bordered.{node.name}", grids[source].unclipped(), x)
            new[node] = call(str(node.target), IntegerLayer(module, pads), x)
        elif hard_gate(quantized_model, node):
            new[node] = call(str(node.target), HardGate(grids[sole_input(node)]), new[sole_input(node)])
        elif averages_globally(module):
            new[node] = call(str(node.target), GlobalAveragePool(), new[sole_input(node)])
        else:
            inputs = new
            if _may_be_quantized(module, node) and sole_input(node) in grids:
                source = sole_input(node)
                inputs = {**new, source: call(f"kept.{node.name}", KeepFloat(), new[source])}
            new[node] = graph.node_copy(node, inputs.__getitem__)
            if module is not None:
                modules[str(node.target)] = module
            elif node.op == "get_attr":
                modules[str(node.target)] = attribute(quantized_model, node)
            if moves_data(quantized_model, node) and sole_input(node) in grids:
                grids[node] = grids[sole_input(node)].unclipped()
                if not _is_tuple(node):
                    new[node] = call(f"moved.{node.name}", grids[node], new[node])
    lowered = fx.GraphModule(modules, graph)
    graph.eliminate_dead_code()
    lowered.delete_all_unused_submodules()
    lowered.recompile()
    return lowered.eval()


def _may_be_quantized(module: nn.Module | None, node: fx.Node) -> bool:
    """Whether onnxruntime would quantize a layer in float by itself, per tensor, between integers."""
    return isinstance(module, (*LAYERS, _ConvNd)) or op_name(node).startswith("conv")


def _grid(quantizer: Quantizer, activation: nn.Module | None, clip: bool) -> QuantizeDequantize:
    if not quantizer.calibrated:
        raise ExportError("the quantized model has an activation without a range: calibrate it before export.")
    bounds = code_bounds(quantizer, activation)
    return QuantizeDequantize(quantizer.scale, quantizer.zero_point, bounds, clip)


def _padding(
    quantized_model: fx.GraphModule, source: fx.Node, layer: QuantLayer
) -> tuple[fx.Node, tuple[int, int, int, int]]:
    """Skip a zero padding before a convolution: return what it pads, and top, left, bottom, right."""
    module = module_of(quantized_model, source)
    padding: Sequence[int] | None = None
    if isinstance(module, nn.ZeroPad2d):
        padding = module.padding
    elif source.op == "call_function" and source.target is F.pad and moves_data(quantized_model, source):
        given, mode = argument(source, 1, "pad"), argument(source, 2, "mode", "constant")
        if mode == "constant" and isinstance(given, list | tuple) and len(given) == 4:
            padding = [int(n) for n in given]
    plain = isinstance(layer.op, nn.Conv2d) and layer.op.padding_mode == "zeros"
    if padding is None or not plain or min(padding) < 0:
        return source, (0, 0, 0, 0)
    left, right, top, bottom = padding
    return sole_input(source), (top, left, bottom, right)


def _is_tuple(node: fx.Node) -> bool:
    return op_name(node) in ("chunk", "split")
