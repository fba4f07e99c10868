"""Maps y = gain * x + shift per channel go into the layer before them (Jacob et al., CVPR 2018, section 3.2).

They are BatchNorms in eval mode, depthwise 1x1 convolutions, and products, sums, differences and quotients with
constants: layer scale, a learned bias, a normalization written by hand.
"""

import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import LAYERS, add_module, attribute, module_of, sole_input

__all__ = ["fold_affine_maps", "gain_and_shift"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
Affine = tuple[fx.Node, Tensor, Tensor]  # what is read, gain and shift per channel, in float64
Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def gain_and_shift(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return float64 (gain, shift), each (C,), such that norm(x) = gain * x + shift in eval mode.

    Example:
        >>> norm = nn.BatchNorm2d(1, eps=0).eval()
        >>> norm.running_var.fill_(4)
        tensor([4.])
        >>> gain_and_shift(norm)[0].tolist()
        [0.5]
    """
    assert norm.running_mean is not None and norm.running_var is not None
    # In float64: 1 / sqrt(var) of a nearly dead channel loses digits that the weights then carry.
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = -norm.running_mean.double() * gain
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return gain, shift


def fold_affine_maps(graph: fx.GraphModule) -> None:
    """Fold every affine map per channel into the layer before it, in place.

    A BatchNorm with no layer before it, or one whose layer feeds others too (DenseNet), becomes a depthwise 1x1
    convolution: one weight per channel, which per-channel quantization holds exactly.
    Its node's meta says "from_batchnorm".
    """
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if isinstance(norm, BatchNorm):
            found = _of_batchnorm(norm, node)
        else:
            found = _of_depthwise(norm, node) if isinstance(norm, nn.Conv2d) else _of_constant(graph, node)
        if found is None:
            continue
        source, gain, shift = found
        layer = module_of(graph, source)
        if isinstance(layer, LAYERS) and len(source.users) == 1 and _channel_axis(layer, source) == _axis(norm, source):
            _scale_layer(layer, gain, shift)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
        elif isinstance(norm, BatchNorm) and source.meta["example"].dim() == 4:
            new = add_module(graph, node, _depthwise_layer(gain, shift), source)
            new.meta["from_batchnorm"] = True


def _of_batchnorm(norm: BatchNorm, node: fx.Node) -> Affine | None:
    return None if norm.running_mean is None else (sole_input(node), *gain_and_shift(norm))


def _of_depthwise(layer: nn.Conv2d, node: fx.Node) -> Affine | None:
    """The map that a depthwise convolution of one pixel is."""
    channels = (layer.groups, layer.in_channels, layer.out_channels)
    if len(set(channels)) > 1 or layer.kernel_size != (1, 1) or layer.stride != (1, 1) or layer.padding != (0, 0):
        return None
    gain = layer.weight.detach().double().reshape(-1)
    return sole_input(node), gain, torch.zeros_like(gain) if layer.bias is None else layer.bias.detach().double()


def _axis(norm: nn.Module | None, source: fx.Node) -> int:
    """The dimension whose entries have a gain and a shift each: BatchNorm's, or that of the layer before a constant."""
    return 1 if isinstance(norm, BatchNorm) or source.meta["example"].dim() == 4 else source.meta["example"].dim() - 1


def _channel_axis(layer: Layer, source: fx.Node) -> int:
    return source.meta["example"].dim() - 1 if isinstance(layer, nn.Linear) else 1


_MAPS: Mapping[object, Callable[[Tensor], tuple[Tensor | float, Tensor | float]]] = {  # constant -> gain, shift
    operator.add: lambda c: (1.0, c),
    operator.sub: lambda c: (1.0, -c),
    operator.mul: lambda c: (c, 0.0),
    operator.truediv: lambda c: (1 / c, 0.0),
}


def _of_constant(graph: fx.GraphModule, node: fx.Node) -> Affine | None:
    """The map that arithmetic with a constant is, behind a layer."""
    if node.op != "call_function" or node.target not in _MAPS or len(node.args) != 2 or node.kwargs:
        return None
    left, right = node.args
    commutes = node.target in (operator.add, operator.mul)
    if commutes and _constant(graph, right) is None:
        left, right = right, left
    constant = _constant(graph, right)
    if constant is None or not isinstance(left, fx.Node):
        return None
    layer = module_of(graph, left)
    example = left.meta.get("example")
    if not isinstance(layer, LAYERS) or not isinstance(example, Tensor) or node.meta["example"].shape != example.shape:
        return None
    axis = _channel_axis(layer, left)
    shape = [1] * (example.dim() - constant.dim()) + list(constant.shape)
    if any(size != 1 for at, size in enumerate(shape) if at != axis):
        return None
    ones = torch.ones(example.shape[axis], dtype=torch.float64)
    gain, shift = _MAPS[node.target](constant.double().reshape(-1))
    gain, shift = ones * gain, ones * shift
    return (left, gain, shift) if bool(gain.isfinite().all()) else None


def _constant(graph: fx.GraphModule, value: object) -> Tensor | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, fx.Node) and value.op == "get_attr":
        held = attribute(graph, value)
        return held.detach() if isinstance(held, Tensor) and held.is_floating_point() else None
    return None


def _scale_layer(layer: Layer, gain: Tensor, shift: Tensor) -> None:
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):  # (C_in, C_out / groups, ...)
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        per_group = gain.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        scaled = (grouped * per_group).reshape(weight.shape)
    else:
        scaled = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * gain
    layer.weight = nn.Parameter(scaled.float(), requires_grad=False)
    layer.bias = nn.Parameter(shift.float(), requires_grad=False)


def _depthwise_layer(gain: Tensor, shift: Tensor) -> nn.Conv2d:
    channels = gain.numel()
    layer = nn.Conv2d(channels, channels, 1, groups=channels)
    layer.weight = nn.Parameter(gain.float().reshape(-1, 1, 1, 1), requires_grad=False)
    layer.bias = nn.Parameter(shift.float(), requires_grad=False)
    return layer
