"""What is quantized, and with how many bits: exactly what onnxruntime's integer kernels read and write.

A layer, an addition, a multiplication, a concatenation or an average pool computes in integers when
all its inputs and its output are quantized. So these operations *demand* quantizers: at the
tensor each of them reads and, behind a ReLU or ReLU6 that folds into the clamp, at the tensor it
writes. What only moves data (max-pool, flatten, padding) shares the range of its input. Everything
else stays in float between two quantizers. So do the residual streams of transformers
(`ptq.quantization.residual_streams`), and what a linear layer writes for operations in float alone.

Behind the last layer of a head nothing makes good for an error, and little is left to compute. Where outputs are no class
scores, or several, the arithmetic there stays in float: boxes and scores that are put into one tensor would share 256
codes. A layer that takes the mean of a softmax is such arithmetic, too. Whether the last layer itself can have 8 bits,
images tell (`ptq.calibration.last_layers`).
"""

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import fx, nn

from ptq.config.choices import MAX_BITS, REDUCED_BITS
from ptq.errors import InputError, ModelError
from ptq.graph.fx_helpers import foldable, input_tensors, module_of, sole_input
from ptq.graph.preparation import GraphModel
from ptq.models.inputs import is_input
from ptq.quantization.edges import first_layers, heads, is_expected_value, own_layers
from ptq.quantization.integer_ops import (
    computes_in_integers,
    consumers,
    gate_grids,
    is_convolution,
    is_layer,
    is_network_output,
    range_source,
    tail,
)
from ptq.quantization.layers import weight_axis
from ptq.quantization.residual_streams import residual_streams
from ptq.quantization.spec import Grid, QuantPlan, QuantSpec

__all__ = ["Selection", "assign_bits", "layers_matched", "make_plan", "select"]

Bits = TypeVar("Bits", int, int | None)


@dataclass(frozen=True)
class Selection:
    """The nodes of a network that are quantized, in order of computation.

    Args:
        graph: the float network.
        layers: convolutions and linear layers whose weights are quantized.
        tensors: nodes whose output is quantized.
        first: the network's first layer, quantized or not; the first of every image where it takes several.
        last: those behind which there is no other, one for each head.
        integers: layers, and other nodes, that compute in integers.
    """

    graph: fx.GraphModule
    layers: tuple[fx.Node, ...]
    tensors: tuple[fx.Node, ...]
    first: tuple[fx.Node, ...]
    last: tuple[fx.Node, ...]
    integers: tuple[fx.Node, ...]


def make_plan(
    graph_model: GraphModel,
    weight_bits: int,
    act_bits: int = MAX_BITS,
    *,
    edge_bits: int = MAX_BITS,
    reduce_range: bool = False,
    layers: Mapping[str, int | None] | None = None,
    tensors: Mapping[str, int] | None = None,
    keep_float: Collection[str] = (),
) -> QuantPlan:
    """Decide what is quantized and with how many bits: `select`, then `assign_bits`.

    Patterns are those of fnmatch, for the name of a node or the path of its module: ``"layer4.*"``.

    Args:
        graph_model: the float network.
        weight_bits: of weights, 2..8.
        act_bits: of activations that a layer reads, 2..8.
        edge_bits: of the first layer and the last of every head, 2..8.
        reduce_range: no weight has more than 7 bits.
        layers: pattern of layers -> bits of their weights, or None to leave them in float.
        tensors: pattern of activations -> their bits, 2..8.
        keep_float: nodes of layers that stay in float where no pattern says anything else.

    Raises:
        ModelError: for a network without layers.
        InputError: for bits outside 2..8, a pattern that matches nothing, or a tensor whose scale a gate fixes.

    Example:
        >>> plan = make_plan(graph_model, weight_bits=4, layers={"blocks.1.*": 6}, tensors={"avgpool": 7})
        >>> plan.weights["stem_0"].bits, plan.weights["blocks_0_conv1"].bits, plan.weights["blocks_1_conv1"].bits
        (8, 4, 6)
        >>> plan.activations["avgpool"].bits
        7
    """
    layers, tensors = layers or {}, tensors or {}
    every = [node for node in graph_model.module.graph.nodes if is_layer(graph_model.module, node)]
    chosen = _matched(every, layers, "layer")
    in_float = {node.name for node, bits in chosen.items() if bits is None}
    selection = select(graph_model, in_float | (set(keep_float) - {node.name for node in chosen}))
    plan = assign_bits(
        selection,
        weight_bits,
        act_bits,
        edge_bits=edge_bits,
        reduce_range=reduce_range,
        weights={node: bits for node, bits in chosen.items() if bits is not None},
        activations=_matched(selection.tensors, tensors, "quantized activation"),
    )
    by_hand = (*_listed("weights", layers), *_listed("activations", tensors))
    return QuantPlan(plan.weights, plan.activations, (*plan.notes, *by_hand))


def layers_matched(graph_model: GraphModel, patterns: Collection[str]) -> list[str]:
    """Return the names of the layers' nodes that patterns of `make_plan` match, in order of computation.

    Raises:
        InputError: for a pattern that matches nothing.

    Example:
        >>> layers_matched(graph_model, ["blocks.1.conv*", "fc"])
        ['blocks_1_conv1', 'blocks_1_conv2', 'fc']
    """
    every = [node for node in graph_model.module.graph.nodes if is_layer(graph_model.module, node)]
    matched = _matched(every, dict.fromkeys(patterns), "layer")
    return [node.name for node in every if node in matched]


def select(graph_model: GraphModel, keep_float: Collection[str] = (), in_float: Collection[str] = ()) -> Selection:
    """Decide which layers and which tensors are quantized; a matter of the graph alone.

    Args:
        graph_model: the float network.
        keep_float: names of the nodes of layers that shall stay in float.
        in_float: names of the nodes that shall compute in float, layers with quantized weights among them.

    Raises:
        ModelError: for a network without layers.

    Example:
        >>> [node.name for node in select(graph_model).tensors][:3]
        ['x', 'stem_2', 'blocks_0_relu']
    """
    graph = graph_model.module
    own = own_layers(graph)
    if not own:
        raise ModelError("the model has no convolution and no linear layer to quantize.")
    layers = [n for n in graph.graph.nodes if is_layer(graph, n) and not is_expected_value(graph, n)]
    quantized = {node: None for node in layers if node.name not in keep_float}
    found: set[fx.Node] = set()
    ends, behind = heads(graph_model)
    integers = [n for n in _anchored(graph, quantized, in_float) if n in quantized or n not in behind]
    for node in integers:
        found.update(range_source(graph, source) for source in input_tensors(node))
        written = tail(graph, node)
        if isinstance(module_of(graph, node), nn.Linear):
            # Its kernel writes float numbers as fast as codes.
            needed = node not in ends and any(user in integers for user in consumers(graph, written))
        else:
            needed = is_convolution(graph, node) or not (node in ends or is_network_output(graph, written))
        if needed:
            found.add(written)
    tensors = tuple(node for node in graph.graph.nodes if node in found)
    return Selection(graph, tuple(quantized), tensors, first_layers(graph, own), ends or (own[-1],), tuple(integers))


def _anchored(graph: fx.GraphModule, layers: Collection[fx.Node], in_float: Collection[str]) -> list[fx.Node]:
    """Return what computes in integers: the layers, and the arithmetic that a chain of integers joins to one of them.

    Arithmetic among float operators alone (the mean in `x.pow(3).mean((2, 3)).pow(1 / 3)`) would only lose by it.
    """
    streams = residual_streams(graph)
    every = [node for node in graph.graph.nodes if node not in streams and node.name not in in_float]
    nodes = [node for node in every if node in layers or computes_in_integers(graph, node)]
    joined: dict[fx.Node, set[fx.Node]] = {node: {node} for node in nodes}
    for node in nodes:
        for source in map(partial(_producer, graph), input_tensors(node)):
            if source in joined and joined[source] is not joined[node]:
                joined[source] |= joined[node]
                for member in joined[node]:
                    joined[member] = joined[source]
    return [node for node in nodes if not joined[node].isdisjoint(layers)]


def _producer(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """What computes a tensor: back through what moves data, and through an activation that a clamp does."""
    node = range_source(graph, node)
    while foldable(graph, node):
        node = range_source(graph, sole_input(node))
    return node


def assign_bits(
    selection: Selection,
    weight_bits: int,
    act_bits: int = MAX_BITS,
    *,
    edge_bits: int = MAX_BITS,
    reduce_range: bool = False,
    weights: Mapping[fx.Node, int] | None = None,
    activations: Mapping[fx.Node, int] | None = None,
) -> QuantPlan:
    """Decide how many bits each weight and each activation has.

    Weights are quantized per output channel, symmetric and signed; activations per tensor, affine and unsigned.
    `act_bits` holds for what a layer multiplies with its weights. What only an addition, a product, a pool or a
    float activation reads has 8 bits: kernels are as fast, and the literature leaves these tensors in float.
    `edge_bits` holds for the weights of the first and the last layers, for what the first reads and writes, and for
    what the last read. The network's output stays in float: a linear layer's kernel writes it without rounding.

    Args:
        selection: what is quantized.
        weight_bits, act_bits, edge_bits: 2..8.
        reduce_range: no weight has more than 7 bits.
        weights: bits of some layers, which count for more than the above.
        activations: bits of some tensors, which count for more than the above.

    Raises:
        InputError: for bits outside 2..8, or a tensor whose scale a gate fixes.

    Example:
        >>> plan = assign_bits(select(graph_model), weight_bits=2, act_bits=4)
        >>> plan.weights["blocks_0_conv1"].bits, plan.activations["blocks_0_relu"].bits
        (2, 4)
    """
    graph, first, last = selection.graph, selection.first, selection.last
    of_weights = {
        node: edge_bits if node in (*first, *last) or node.meta.get("from_batchnorm") else weight_bits
        for node in selection.layers
    } | dict(weights or {})
    if reduce_range:
        of_weights = {node: min(bits, REDUCED_BITS) for node, bits in of_weights.items()}
    of_tensors = {
        node: act_bits if any(_weighs(user, of_weights) for user in consumers(graph, node)) else MAX_BITS
        for node in selection.tensors
    }
    grids = gate_grids(graph, selection.tensors)
    edges = [range_source(graph, sole_input(node)) for node in (*first, *last)]
    for node in (*edges, *(tail(graph, node) for node in first)):
        if node in of_tensors and not grids.get(node, "free").startswith("hard"):
            of_tensors[node] = edge_bits
    bound = {node: grid for node, grid in grids.items() if of_tensors.get(node) == MAX_BITS}
    images: dict[fx.Node, Grid] = {node: "images" for node in of_tensors if is_input(node)}
    known = images | bound
    for node, bits in (activations or {}).items():
        if node in bound and bits != MAX_BITS:
            raise InputError(f"{node.name} must keep {MAX_BITS} bits: a gate reads or writes its codes.")
        of_tensors[node] = bits
    return QuantPlan(
        {node.name: _weight_spec(graph, node, bits) for node, bits in of_weights.items()},
        {node.name: QuantSpec(bits, grid=known.get(node, "free")) for node, bits in of_tensors.items()},
        _notes(selection, weight_bits, act_bits, edge_bits, reduce_range),
    )


def _weighs(node: fx.Node, layers: Collection[fx.Node]) -> bool:
    """Whether a node is a layer of the network's own, and not a product with one number per channel."""
    return node in layers and not node.meta.get("from_batchnorm")


def _weight_spec(graph: fx.GraphModule, node: fx.Node, bits: int) -> QuantSpec:
    op = module_of(graph, node)
    return QuantSpec(bits, signed=True, symmetric=True, axis=weight_axis(op))  # type: ignore[arg-type]


def _matched(nodes: Sequence[fx.Node], patterns: Mapping[str, Bits], what: str) -> dict[fx.Node, Bits]:
    """The bits of the nodes that patterns match; of several patterns the last one counts."""
    found: dict[fx.Node, Bits] = {}
    for pattern, bits in patterns.items():
        matched = [node for node in nodes if any(fnmatch.fnmatch(name, pattern) for name in _names(node))]
        if not matched:
            some = ", ".join(_names(node)[-1] for node in nodes[:8])
            raise InputError(f"no {what} matches {pattern!r}; there are {some}, …")
        found.update(dict.fromkeys(matched, bits))
    return found


def _names(node: fx.Node) -> tuple[str, ...]:
    """What a node goes by: its name and, of a module, the path."""
    return (node.name, str(node.target)) if node.op == "call_module" else (node.name,)


def _notes(
    selection: Selection, weight_bits: int, act_bits: int, edge_bits: int, reduce_range: bool
) -> tuple[str, ...]:
    first, last = selection.first, tuple(n for n in selection.last if n in selection.layers) or selection.last
    widths = f"{act_bits} bits"
    if act_bits != MAX_BITS:
        widths += (
            f" where a layer reads them, {MAX_BITS} where only additions, products, concatenations, pools or float "
            "activations do"
        )
    graph = selection.graph
    ends = [is_convolution(graph, node) and is_network_output(graph, tail(graph, node)) for node in last]
    output = f"of {MAX_BITS} bits, since a convolution gives it" if all(ends) else "float"
    if any(ends) and not all(ends):
        output = f"float, or of {MAX_BITS} bits where a convolution gives it"
    return (
        f"weights: {weight_bits} bits, per output channel, symmetric"
        + (f", none above {REDUCED_BITS} bits" if reduce_range else ""),
        f"activations: {widths}; per tensor, affine",
        f"{_called('first', first)} and {_called('last', last)}: {edge_bits} bits for their weights, for what "
        f"the first reads and writes and for what the last reads; the network's output is {output}",
    )


def _called(which: str, layers: Sequence[fx.Node]) -> str:
    return f"{which} layer{'s' * (len(layers) > 1)} ({', '.join(str(node.target) for node in layers)})"


def _listed(what: str, overrides: Mapping[str, Bits]) -> tuple[str, ...]:
    """A note about bits that were given by hand; none where none were."""
    each = (f"{pattern}: {'float' if bits is None else f'{bits} bits'}" for pattern, bits in overrides.items())
    return (f"{what} by name: {', '.join(each)}",) if overrides else ()
