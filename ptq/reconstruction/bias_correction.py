"""The mean error of a block's output, taken out by a bias: the cheapest repair of a block that is not tuned.

Roundings of a layer's weights add up to an error that is much the same for all images, because neighboring inputs are alike.
Its mean per channel is known from the calibration images, and costs nothing to subtract (Nagel et al., ICCV 2019,
section 4.2; here it is measured, and the errors of the blocks before are in it).
"""

import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ptq.graph.blocks import Block
from ptq.graph.fx_helpers import module_of
from ptq.graph.passes import output_sqnr, watched
from ptq.quantization.layers import QuantLayer
from ptq.quantization.quantizers import Quantizer
from ptq.reconstruction.optimization import Pair

__all__ = ["correct_bias"]


def correct_bias(float_block: Block, block: Block, pair: Pair, sqnr: float) -> float:
    """Move the bias of the last layer behind each output by the mean error per channel, and keep that where it helps.

    The error is that of the layer's own output, before any activation function, or of the sum that it goes into.

    Args:
        float_block, block: the block in float, and in a calibrated quantized model.
        pair: what they read, and what the float block gives.
        sqnr: of the quantized block's outputs, dB.

    Returns:
        The SQNR of the block's outputs afterwards, at least `sqnr`.
    """
    floats = {node.name: node for node in float_block.module.graph.nodes}
    for node in _last_layers(block, pair.target):
        sqnr = _corrected(float_block, floats, block, node, pair, sqnr)
    return sqnr


def _corrected(
    float_block: Block, floats: Mapping[str, fx.Node], block: Block, node: fx.Node, pair: Pair, sqnr: float
) -> float:
    """Correct one layer, and return the SQNR afterwards."""
    layer = module_of(block.module, node)
    assert isinstance(layer, QuantLayer)
    if (bias := layer.op.bias) is None:
        return sqnr
    behind = _sum_behind(block.module, node)
    wanted = _channel_means(watched(float_block, pair.x_float, floats[behind.name]), layer.op)
    given = _channel_means(watched(block, pair.x_quantized, behind), layer.op)
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


def _last_layers(block: Block, names: Iterable[str]) -> list[fx.Node]:
    """The last layer behind each of some outputs, where it is called once; in order of computation."""
    graph = block.module
    output = next(n for n in graph.graph.nodes if n.op == "output")
    results = output.args[0] if len(block.outputs) > 1 else output.args
    assert isinstance(results, tuple)
    reaches: dict[fx.Node, set[str]] = defaultdict(set)  # the outputs that a node goes into
    for name, result in zip(block.outputs, results, strict=True):
        reaches[result].add(name)
    last: dict[str, fx.Node] = {}
    for node in reversed(graph.graph.nodes):
        for source in node.all_input_nodes:
            reaches[source] |= reaches[node]
        if isinstance(module_of(graph, node), QuantLayer):
            last = dict.fromkeys(reaches[node], node) | last
    chosen = {last[name] for name in names if name in last}
    calls = Counter(module_of(graph, n) for n in graph.graph.nodes)
    return [n for n in graph.graph.nodes if n in chosen and calls[module_of(graph, n)] == 1]


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
