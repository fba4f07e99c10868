"""Which tensors are quantized: exactly those that onnxruntime's integer kernels read and write.

A layer, an addition, a multiplication, a concatenation or an average pool computes in integers when
all its inputs and its output are quantized. So these operations *demand* quantizers: at the
tensor each of them reads and, behind a ReLU or ReLU6 that folds into the clamp, at the tensor it
writes. What only moves data (max-pool, flatten, padding) shares the range of its input. Everything
else stays in float between two quantizers.
"""

import copy
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from ptq.errors import InputError, ModelError
from ptq.graph.blocks import assign_blocks, split
from ptq.graph.fx_helpers import LAYERS, input_tensors, module_of, sole_input
from ptq.graph.preparation import GraphModel
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
from ptq.quantization.integer_simulation import run_exact
from ptq.quantization.quantizers import Quantizer, QuantLayer, WeightQuantizer, weight_axis
from ptq.quantization.spec import QuantPlan, QuantSpec

__all__ = ["QuantizedModel", "insert_quantizers", "make_plan"]

CONTAINER_BITS = 8
REDUCED_BITS = 7  # two products of a uint8 and a 7-bit weight fit the 16-bit sums of AVX2 kernels


def make_plan(
    graph_model: GraphModel,
    weight_bits: int,
    act_bits: int = 8,
    *,
    edge_bits: int = 8,
    reduce_range: bool = False,
    overrides: Mapping[str, int | None] | None = None,
) -> QuantPlan:
    """Decide what is quantized and with how many bits.

    Weights: per output channel, symmetric, signed. Activations: per tensor, affine, unsigned.
    `act_bits` holds for what a layer multiplies with its weights; what only an addition, a product,
    a pool or a float activation reads has the full 8 bits of its container: kernels are as fast, and
    the literature leaves these tensors in float. What the first layer reads and writes and what the
    last layer reads has `edge_bits`, like these two layers' weights. The network's output stays in
    float: the last layer's integer kernel writes it without another rounding.

    Args:
        graph_model: the float network.
        weight_bits: 2..8.
        act_bits: 2..8.
        edge_bits: of the first and last layer.
        reduce_range: no weight has more than 7 bits.
        overrides: layer name pattern (fnmatch, e.g. ``"layer4.*"``) -> weight bits, or None to
            leave the layer in float.

    Raises:
        PtqError: for a network without layers, or a pattern that matches none.

    Example:
        >>> plan = make_plan(prepare(torchvision.models.resnet18()), weight_bits=4)
        >>> plan.weights["conv1"].bits, plan.weights["layer1_0_conv1"].bits
        (8, 4)
    """
    graph = graph_model.module
    layers = [n for n in graph.graph.nodes if is_layer(graph, n)]
    real = [n for n in layers if not n.meta.get("affine")]
    if not real:
        raise ModelError("the model has no convolution and no linear layer to quantize.")
    edges = {real[0], real[-1]}
    bits: dict[fx.Node, int | None] = {
        n: edge_bits if n in edges or n.meta.get("affine") else weight_bits for n in layers
    }
    for pattern, value in (overrides or {}).items():
        matched = [n for n in layers if fnmatch.fnmatch(str(n.target), pattern) or fnmatch.fnmatch(n.name, pattern)]
        if not matched:
            names = ", ".join(str(n.target) for n in layers[:8])
            raise InputError(f"no layer matches {pattern!r}; the layers are {names}, …")
        bits.update(dict.fromkeys(matched, value))

    if reduce_range:
        bits = {n: None if b is None else min(b, REDUCED_BITS) for n, b in bits.items()}
    weights = {
        n.name: QuantSpec(b, signed=True, symmetric=True, axis=weight_axis(module_of(graph, n)))  # type: ignore[arg-type]
        for n, b in bits.items()
        if b is not None
    }
    tensors: dict[fx.Node, int] = {}
    for node in graph.graph.nodes:
        if not (node.name in weights or computes_in_integers(graph, node)):
            continue
        for source in input_tensors(node):
            tensors.setdefault(range_source(graph, source), act_bits)
        written = tail(graph, node)
        if not is_network_output(graph, written) or is_convolution(graph, node):
            tensors.setdefault(written, act_bits)
    for node in tensors:
        if not any(consumer.name in weights for consumer in consumers(graph, node)):
            tensors[node] = CONTAINER_BITS
    grids = gate_grids(graph, tensors)
    for node in (
        range_source(graph, sole_input(real[0])),
        tail(graph, real[0]),
        range_source(graph, sole_input(real[-1])),
    ):
        if node in tensors and not grids.get(node, "").startswith("hard"):
            tensors[node] = edge_bits
    order = {n: i for i, n in enumerate(graph.graph.nodes)}
    activations = {
        n.name: QuantSpec(bits, grid=grids.get(n, "free") if bits == CONTAINER_BITS else "free")
        for n, bits in sorted(tensors.items(), key=lambda item: order[item[0]])
    }
    notes = (
        f"weights: {weight_bits} bits, per output channel, symmetric"
        + (f", none above {REDUCED_BITS} bits" if reduce_range else ""),
        f"activations: {_widths(act_bits)}; per tensor, affine",
        f"first layer ({real[0].target}) and last layer ({real[-1].target}): {edge_bits} bits for their weights, for what "
        f"the first reads and writes and for what the last reads; the network's output is {_output(graph, real[-1])}",
    )
    return QuantPlan(weights, activations, notes)


def _widths(act_bits: int) -> str:
    if act_bits == CONTAINER_BITS:
        return f"{act_bits} bits"
    return (
        f"{act_bits} bits where a layer reads them, {CONTAINER_BITS} where only additions, products, concatenations, "
        "pools or float activations do"
    )


def _output(graph: fx.GraphModule, last: fx.Node) -> str:
    ends = is_convolution(graph, last) and is_network_output(graph, tail(graph, last))
    return f"of {CONTAINER_BITS} bits, since a convolution gives it" if ends else "float"


@dataclass(frozen=True)
class QuantizedModel:
    """The network with quantizers: the same graph as the float one, plus a node per quantizer.

    Args:
        module: the graph; call it like the network.
        float_model: the float network it imitates.
        plan: what is quantized.
        blocks: block index by node name.
    """

    module: fx.GraphModule
    float_model: GraphModel
    plan: QuantPlan
    blocks: Mapping[str, int] = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Run the integer network on normalized images (N, C, H, W), as onnxruntime will.

        `module` itself simulates the same on real numbers, with gradients.
        """
        return run_exact(self.module, x)

    def layers(self) -> dict[str, QuantLayer]:
        """Return the quantized layers by node name, in order of computation."""
        return {n.name: m for n in self.module.graph.nodes if isinstance(m := module_of(self.module, n), QuantLayer)}

    def quantizers(self) -> dict[str, Quantizer]:
        """Return the activation quantizers by the name of the node they quantize."""
        return {
            sole_input(n).name: m
            for n in self.module.graph.nodes
            if isinstance(m := module_of(self.module, n), Quantizer)
        }

    def split(self) -> list[fx.GraphModule]:
        """Return the quantized model's blocks; they share its modules."""
        return split(self.module, self.blocks)


def insert_quantizers(graph_model: GraphModel, plan: QuantPlan) -> QuantizedModel:
    """Put quantizers on a copy of the float network; they have no ranges yet.

    Args:
        graph_model: stays untouched.
        plan: as `make_plan` gives it, or edited.

    Raises:
        PtqError: when the plan names nodes the network does not have, or asks for what no integer kernel reads.
    """
    graph = copy.deepcopy(graph_model.module)
    blocks = assign_blocks(graph_model.module)
    nodes = {n.name: n for n in graph.graph.nodes}
    unknown = [name for name in plan.activations if name not in nodes]
    unknown += [n for n in plan.weights if n not in nodes or not is_layer(graph, nodes[n])]
    if unknown:
        raise InputError(f"the plan is of another network: {unknown[0]!r} is no such node here.")
    _check_kinds(graph, nodes, plan)
    quantizers = {name: Quantizer(spec) for name, spec in plan.activations.items()}
    for name, spec in plan.weights.items():
        node = nodes[name]
        op = module_of(graph, node)
        assert isinstance(op, LAYERS)
        weight = WeightQuantizer(spec, op.weight.shape[weight_axis(op)])
        layer = QuantLayer(op, weight, quantizers.get(range_source(graph, sole_input(node)).name))
        _set_module(graph, str(node.target), layer)
    for name, quantizer in quantizers.items():
        node = nodes[name]
        graph.add_submodule(f"quantizers.{name}", quantizer)
        users = list(node.users)
        with graph.graph.inserting_after(node):
            new = graph.graph.call_module(f"quantizers.{name}", (node,))
        for user in users:
            user.replace_input_with(node, new)
        # The network's input has no block of its own; its quantizer opens the first one.
        blocks[new.name] = blocks.get(name, 0)
        new.meta.update(scope=node.meta.get("scope"), tensor=True)
    graph.graph.lint()
    graph.recompile()
    return QuantizedModel(graph.eval(), graph_model, plan, blocks)


def _check_kinds(graph: fx.GraphModule, nodes: Mapping[str, fx.Node], plan: QuantPlan) -> None:
    """Refuse what no integer kernel reads."""
    for name, spec in plan.weights.items():
        op = module_of(graph, nodes[name])
        assert isinstance(op, LAYERS)
        if spec != QuantSpec(spec.bits, signed=True, symmetric=True, axis=weight_axis(op)):
            raise InputError(f"the plan's weight {name!r} must be signed and symmetric along axis {weight_axis(op)}.")
    for name, spec in plan.activations.items():
        if spec != QuantSpec(spec.bits, grid=spec.grid):
            raise InputError(f"the plan's activation {name!r} must be unsigned, affine and per tensor.")


def _set_module(graph: fx.GraphModule, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(graph.get_submodule(parent), child, module)
