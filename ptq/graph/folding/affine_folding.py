"""Maps y = gain * x + shift per channel go into the layers before or behind them (Jacob et al., CVPR 2018, section 3.2).

They are BatchNorms in eval mode, depthwise 1x1 convolutions, and products, sums, differences and quotients with
constants: layer scale, a learned bias, a normalization written by hand.
"""

import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, fx, nn

from ptq.graph.folding.affine_neighbors import Affine, Share, layers_before, layers_behind
from ptq.graph.fx_helpers import add_module, attribute, module_of, sole_input

__all__ = ["fold_affine_maps", "gain_and_shift"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


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
    """Fold every affine map per channel into the layers before it, or else into those that read it, in place.

    A map that changes nothing goes. A BatchNorm that no layer can take over (DenseNet) becomes a depthwise 1x1
    convolution: one weight per channel, which per-channel quantization holds exactly.
    Its node's meta says "from_batchnorm".

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
        >>> [node.name for node in ptq.prepare(net, (3, 16, 16)).module.graph.nodes]
        ['input_1', '_0', '_1', '_3', 'output']
    """
    while sum(_fold(graph, node) for node in list(graph.graph.nodes)):
        pass  # what has gone lets the map before it reach a layer


def _fold(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node was a map that has gone, or a difference that has become a sum."""
    if _add_negated(graph, node):
        return True
    if (found := _affine_map(graph, node)) is None:
        return False
    source, affine = found
    before = layers_before(graph, source, affine)
    behind = None if before else layers_behind(graph, node, affine)
    for share in before or ():
        _scale_outputs(module_of(graph, share.node), share)
    for share in behind or ():
        _scale_inputs(module_of(graph, share.node), share)
    if before or behind or affine.neutral:
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
        return True
    if isinstance(module_of(graph, node), BatchNorm) and source.meta["example"].dim() == 4:
        new = add_module(graph, node, _depthwise_layer(affine), source)
        new.meta["from_batchnorm"] = True
    return False


def _add_negated(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Write x - y as x + (-y) where the layers before y can compute -y: sums have an integer kernel."""
    if node.target is not operator.sub or not all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args):
        return False
    negated = node.args[1]
    assert isinstance(negated, fx.Node)
    ones = torch.ones([1] * negated.meta["example"].dim(), dtype=torch.float64)
    shares = layers_before(graph, negated, Affine(-ones, 0 * ones))
    for share in shares or ():
        _scale_outputs(module_of(graph, share.node), share)
    if shares:
        node.target = operator.add
    return bool(shares)


def _affine_map(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, Affine] | None:
    """What a node reads and the map that it is; None where it is something else."""
    module = module_of(graph, node)
    if isinstance(module, BatchNorm) and module.running_mean is not None:
        return _per_channel(node, *gain_and_shift(module))
    if isinstance(module, nn.Conv2d) and _is_depthwise(module):
        gain = module.weight.detach().double().reshape(-1)
        return _per_channel(
            node, gain, torch.zeros_like(gain) if module.bias is None else module.bias.detach().double()
        )
    return _of_constant(graph, node)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether a convolution computes every number from the one number in its place."""
    plain = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
    return plain and layer.groups == layer.in_channels == layer.out_channels


def _per_channel(node: fx.Node, gain: Tensor, shift: Tensor) -> tuple[fx.Node, Affine]:
    shape = (1, -1, *[1] * (node.meta["example"].dim() - 2))
    return sole_input(node), Affine(gain.reshape(shape), shift.reshape(shape))


_Map = Callable[[Tensor], tuple[Tensor | float, Tensor | float]]  # constant -> gain, shift
_MAPS: Mapping[object, _Map] = {
    operator.add: lambda c: (1.0, c),
    operator.sub: lambda c: (1.0, -c),
    operator.mul: lambda c: (c, 0.0),
    operator.truediv: lambda c: (1 / c, 0.0),
}
_MAPS_OF_THE_RIGHT: Mapping[object, _Map] = {  # with the constant on the left; c / x is none
    operator.add: _MAPS[operator.add],
    operator.sub: lambda c: (-1.0, c),
    operator.mul: _MAPS[operator.mul],
}


def _of_constant(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, Affine] | None:
    """The map that arithmetic with a constant is."""
    if node.op != "call_function" or node.target not in _MAPS or len(node.args) != 2 or node.kwargs:
        return None
    (left, right), maps = node.args, _MAPS
    if _constant(graph, right) is None:
        left, right, maps = right, left, _MAPS_OF_THE_RIGHT
    constant = _constant(graph, right)
    if constant is None or node.target not in maps or not isinstance(left, fx.Node) or left.op == "get_attr":
        return None
    example = left.meta.get("example")
    if (
        not isinstance(example, Tensor)
        or node.meta["example"].shape != example.shape
        or not example.is_floating_point()
    ):
        return None
    shape = [1] * (example.dim() - constant.dim()) + list(constant.shape)
    if shape[0] != 1:
        return None
    ones = torch.ones(shape, dtype=torch.float64)
    gain, shift = maps[node.target](constant.double().reshape(shape))
    affine = Affine(ones * gain, ones * shift)
    return (left, affine) if bool(affine.gain.isfinite().all() and affine.shift.isfinite().all()) else None


def _constant(graph: fx.GraphModule, value: object) -> Tensor | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, fx.Node) and value.op == "get_attr":
        held = attribute(graph, value)
        return held.detach() if isinstance(held, Tensor) and held.is_floating_point() else None
    return None


def _scale_outputs(layer: nn.Module | None, share: Share) -> None:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    weight, gain, shift = layer.weight.detach().double(), share.gain, share.shift
    if isinstance(layer, nn.ConvTranspose2d):  # (C_in, C_out / groups, ...)
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        weight = (grouped * gain.reshape(layer.groups, 1, -1, 1, 1)).reshape(weight.shape)
    else:
        weight = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * gain
    _set(layer, weight, shift)


def _scale_inputs(layer: nn.Module | None, share: Share) -> None:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    weight, gain, shift = layer.weight.detach().double(), share.gain, share.shift
    bias = torch.zeros(1).double() if layer.bias is None else layer.bias.detach().double()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight * gain.reshape(-1, 1, 1, 1)  # and no shift
    else:
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        bias = bias + (grouped.sum(3) * shift.reshape(groups, 1, -1)).sum(2).reshape(-1)
        weight = (grouped * gain.reshape(groups, 1, -1, 1)).reshape(weight.shape)
    _set(layer, weight, bias if layer.bias is not None or bool(shift.any()) else None)


def _set(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)


def _depthwise_layer(affine: Affine) -> nn.Conv2d:
    channels = affine.gain.numel()
    layer = nn.Conv2d(channels, channels, 1, groups=channels)
    _set(layer, affine.gain.reshape(-1, 1, 1, 1), affine.shift.reshape(-1))
    return layer
