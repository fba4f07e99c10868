"""What kind of thing a node of the network is: does it compute in integers, only move data, or end the network?

These are onnxruntime's rules: what its integer kernels read and write, what shares the range of its input, and which
gates read the codes of another tensor.
"""

import math
import operator
from collections.abc import Collection, Mapping

import torch
from torch import fx, nn
from torch.nn import functional as F

from ptq.config.choices import MAX_BITS
from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import LAYERS, averages_globally, foldable, module_of, sole_input
from ptq.models.inputs import is_input
from ptq.quantization.spec import Grid, QuantSpec

__all__ = [
    "IN_FLOAT",
    "computes_in_integers",
    "consumers",
    "finest_scale",
    "gate_grids",
    "is_convolution",
    "is_layer",
    "is_network_output",
    "range_source",
    "tail",
]

IN_FLOAT = "in_float"
"""In the meta of a quantized model's node: it computes in float although it has an integer kernel."""

TABLES = (nn.Sigmoid, nn.LeakyReLU)  # looked up by code
# In steps of the output, what a kernel may compute before it rounds and clamps: int32 holds 2^31, and the global average
# takes no input whose step is 256 times that of the output's sum. Half of either, for scales that are learned later.
LARGEST = 2.0**30
LARGEST_AVERAGE = 2.0**15


def is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a convolution or a linear layer."""
    return isinstance(module_of(graph, node), LAYERS)


def is_convolution(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is a convolution, transposed or not."""
    return is_layer(graph, node) and not isinstance(module_of(graph, node), nn.Linear)


def computes_in_integers(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Additions, products, concatenations, average pools and activations that have integer kernels."""
    module = module_of(graph, node)
    if averages_globally(module) or isinstance(module, nn.AvgPool2d):
        return True
    if isinstance(module, TABLES):
        return not is_network_output(graph, node)
    if node.op != "call_function":
        return False
    if node.target in (operator.add, operator.mul):
        # A square takes twice the bits of its root: like `pow`, it stays in float.
        return all(isinstance(a, fx.Node) and a.op != "get_attr" for a in node.args) and len(set(node.args)) == 2
    return node.target in (torch.cat, torch.concat, F.avg_pool2d)


def finest_scale(graph: fx.GraphModule, node: fx.Node, scales: Mapping[str, float]) -> float:
    """Return the smallest scale that a tensor may have for the kernel that writes it; 0 where any will do.

    A result that cancels out, like the mean of x less its mean, is far smaller than the terms it is computed from. With
    a scale as small, onnxruntime's QLinearGlobalAveragePool stops, and what QLinearAdd, QLinearMul and
    QLinearAveragePool convert to int32 overflows: their largest results get the smallest code.

    Args:
        graph: a prepared float network.
        node: a quantized one; an activation that its quantizer does stands for what it reads.
        scales: those of quantized nodes, by name; what the node reads is in float where it is not there.
    """
    node = sole_input(node) if foldable(graph, node) else node
    sources = [range_source(graph, read).name for read in node.all_input_nodes]
    if not computes_in_integers(graph, node) or not all(name in scales for name in sources):
        return 0.0
    peaks = [scales[name] * QuantSpec(MAX_BITS).qmax for name in sources]
    largest = math.prod(peaks) if node.target is operator.mul else sum(peaks)
    return largest / (LARGEST_AVERAGE if averages_globally(module_of(graph, node)) else LARGEST)


def range_source(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The node whose range `node` shares: back through everything that only moves data."""
    while moves_data(graph, node) or _hard_gate(graph, node):
        node = sole_input(node)
    return node


def _hard_gate(graph: fx.GraphModule, node: fx.Node) -> Grid | None:
    """What a hard sigmoid wants its input's grid to be, so that it can read the same codes (`ptq.quantization.activation_grids`).

    None for other nodes, and where somebody else reads the input, too, or anything but products the gate.
    """
    if not isinstance(module_of(graph, node), nn.Hardsigmoid):
        return None
    source = sole_input(node)
    scaled = {user for user in node.users if user.target is operator.mul}
    if len(scaled) < len(node.users) or moves_data(graph, source) or is_input(source):
        return None
    if averages_globally(module_of(graph, source)):
        return None  # whose kernel writes no grid that is far coarser than what it reads
    others = set(source.users) - {node}
    if not others:
        return "hardsigmoid"
    return "hardswish" if others == scaled else None


def tail(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The node to quantize behind `node`: its ReLU where that is the only reader."""
    users = list(node.users)
    return users[0] if len(users) == 1 and foldable(graph, users[0]) else node


def consumers(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Who computes with what `node` gives, behind everything that only moves data."""
    found = []
    for user in node.users:
        found += consumers(graph, user) if moves_data(graph, user) else [user]
    return found


def is_network_output(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether nobody but the network's output reads the node, be it behind what only moves data."""
    return all(
        user.op == "output" or (moves_data(graph, user) and is_network_output(graph, user)) for user in node.users
    )


def gate_grids(graph: fx.GraphModule, tensors: Collection[fx.Node]) -> dict[fx.Node, Grid]:
    """What the gates of the network bind the quantized tensors they read and write to."""
    grids: dict[fx.Node, Grid] = {}
    for node in graph.graph.nodes:
        if isinstance(module_of(graph, node), nn.Sigmoid) and node in tensors:
            grids[range_source(graph, sole_input(node))] = "sigmoid"
            grids[node] = "zero_to_one"
        elif gate := _hard_gate(graph, node):
            grids[sole_input(node)] = gate
    return grids
