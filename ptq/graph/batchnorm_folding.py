"""BatchNorm folding (Jacob et al., CVPR 2018, section 3.2)."""

from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import LAYERS, add_module, module_of, sole_input

__all__ = ["fold_batchnorms", "gain_and_shift"]

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def gain_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
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


def fold_batchnorms(graph: fx.GraphModule) -> None:
    """Fold every BatchNorm into the layer before it, in place.

    A BatchNorm with no layer before it, or one whose layer feeds others too (DenseNet), becomes a
    depthwise 1x1 convolution: one weight per channel, which per-channel quantization holds exactly.
    Its node's meta says "from_batchnorm".
    """
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, BatchNorm) or norm.running_mean is None:
            continue
        source = sole_input(node)
        layer = module_of(graph, source)
        gain, shift = gain_and_shift(norm)
        if isinstance(layer, LAYERS) and len(source.users) == 1:
            _scale_layer(layer, gain, shift)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
        elif isinstance(norm, nn.BatchNorm2d):
            new = add_module(graph, node, _depthwise_layer(gain, shift), source)
            new.meta["from_batchnorm"] = True


def _scale_layer(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, gain: Tensor, shift: Tensor) -> None:
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
