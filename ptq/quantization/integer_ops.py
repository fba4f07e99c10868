"""What kind of thing a node of the network is: does it compute in integers, only move data, or end the network?

These are onnxruntime's rules: what its integer kernels read and write, what shares the range of its input, and which
gates read the codes of another tensor.
"""

import operator
from collections.abc import Collection

import torch
from torch import fx, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import LAYERS, argument, averages_globally, foldable, module_of, op_name, sole_input
from ptq.quantization.spec import Grid

__all__ = [
    "computes_in_integers",
    "consumers",
    "gate_grids",
    "is_convolution",
    "is_layer",
    "is_network_output",
    "moves_data",
    "range_source",
    "tail",
]

MOVING_MODULES = (
    nn.MaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.ZeroPad2d,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.PixelShuffle,
    nn.ChannelShuffle,
)
MOVING_FUNCTIONS = {
    "flatten",
    "reshape",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "chunk",
    "split",
    "getitem",
    "max_pool2d",
    "pad",
    "narrow",
    "select",
    "channel_shuffle",
    "roll",
    "interpolate",
}
TABLES = (nn.Sigmoid, nn.LeakyReLU)  # looked up by code


def moves_data(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node only rearranges or selects values: its output needs no range of its own."""
    if node.op == "call_module":
        module = module_of(graph, node)
        nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
        return nearest or isinstance(module, MOVING_MODULES)
    if node.op not in ("call_function", "call_method") or op_name(node) not in MOVING_FUNCTIONS:
        return False
    if op_name(node) == "getitem":  # of a tensor, or of its pieces, but not of several results
        source = sole_input(node)
        return bool(source.meta.get("is_tensor")) or moves_data(graph, source)
    if op_name(node) == "interpolate":
        return bool(argument(node, 3, "mode", "nearest") == "nearest")
    # Padding with anything but 0 brings in values the range may not hold.
    return op_name(node) != "pad" or (len(node.args) < 4 and not node.kwargs.get("value"))


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
    if len(scaled) < len(node.users) or moves_data(graph, source) or source.op == "placeholder":
        return None
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
