"""The mean error of a block's output, taken out by a bias: the cheapest repair of a block that is not tuned.

Roundings of a layer's weights add up to an error that is much the same for all images, because neighboring inputs are alike.
Its mean per channel is known from the calibration images, and costs nothing to subtract (Nagel et al., ICCV 2019,
section 4.2; here it is measured, and the errors of the blocks before are in it).
"""

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import module_of
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.optimization import Pair
from ptq.reconstruction.passes import output_sqnr, watched

__all__ = ["correct_bias"]


def correct_bias(float_block: fx.GraphModule, block: fx.GraphModule, pair: Pair, sqnr: float) -> float:
    """Move the bias of a block's last layer by the mean error per channel, and keep that where it helps.

    The error is that of the layer's own output, before any activation function, or of the sum that it goes into.

    Args:
        float_block, block: the block in float, and in a calibrated quantized model.
        pair: what they read, and what the float block gives.
        sqnr: of the quantized block's output, dB.

    Returns:
        The SQNR of the block's output afterwards, at least `sqnr`.
    """
    found = _last_layer(block)
    if found is None or (bias := found[1].op.bias) is None:
        return sqnr
    node, layer = found
    name = _sum_behind(block, node).name
    wanted, given = (
        _channel_means(watched(graph, x, name), layer.op)
        for graph, x in ((float_block, pair.x_float), (block, pair.x_quantized))
    )
    if bias.shape != wanted.shape:  # the sum has channels that the layer has not
        return sqnr
    before = bias.detach().clone()
    with torch.no_grad():
        bias += (wanted - given).to(bias)
        after = output_sqnr(block, pair.x_quantized, pair.target)
        if not after > sqnr:  # NaN is no better either
            bias.copy_(before)
            return sqnr
    return after


def _last_layer(block: fx.GraphModule) -> tuple[fx.Node, QuantLayer] | None:
    """The last layer of a block, where it is called once."""
    layers = [(n, m) for n in block.graph.nodes if isinstance(m := module_of(block, n), QuantLayer)]
    return layers[-1] if sum(m is layers[-1][1] for _, m in layers) == 1 else None  # no layers: the sum is 0


def _sum_behind(block: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The last sum that a layer's output goes into and nothing else comes of; without one the layer itself."""
    found = node
    while len(node.users) == 1:
        (node,) = node.users
        if node.target is operator.add:
            found = node
        elif not isinstance(module_of(block, node), Quantizer):
            break
    return found


def _channel_means(parts: Iterator[Tensor], op: nn.Module) -> Tensor:
    """Means per channel, (C,), in float64."""
    channel = -1 if isinstance(op, nn.Linear) else 1
    sums, count = torch.zeros((), dtype=torch.float64), 0
    for part in parts:
        by_channel = part.movedim(channel, 0).flatten(1)
        sums = sums.to(part.device) + by_channel.sum(1, dtype=torch.float64)
        count += by_channel.shape[1]
    return sums / count
