"""Quantizers put on a copy of the float network, as a plan says."""

import copy
from collections.abc import Mapping

from torch import fx, nn

from ptq.errors import InputError
from ptq.graph.cutting import assign_blocks
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input
from ptq.graph.preparation import GraphModel
from ptq.quantization.integer_ops import IN_FLOAT, is_layer, range_source
from ptq.quantization.layers import QuantLayer, weight_axis
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer, WeightQuantizer
from ptq.quantization.spec import QuantPlan, QuantSpec

__all__ = ["insert_quantizers"]


def insert_quantizers(graph_model: GraphModel, plan: QuantPlan) -> QuantizedModel:
    """Put quantizers on a copy of the float network; they have no ranges yet.

    Args:
        graph_model: stays untouched.
        plan: as `make_plan` gives it, or edited.

    Raises:
        PtqError: when the plan names nodes the network does not have, or asks for what no integer kernel reads.
    """
    graph, floats = copy.deepcopy(graph_model.module), {n.name: n for n in graph_model.module.graph.nodes}
    blocks = assign_blocks(graph_model.module)
    nodes = {n.name: n for n in graph.graph.nodes}
    unknown = [name for name in plan.activations if name not in nodes]
    unknown += [name for name in plan.in_float if name not in nodes]
    unknown += [n for n in plan.weights if n not in nodes or not is_layer(graph, nodes[n])]
    if unknown:
        raise InputError(f"the plan is of another network: {unknown[0]!r} is no such node here.")
    _check_kinds(graph, nodes, plan)
    for name in plan.in_float:
        nodes[name].meta[IN_FLOAT] = True
    quantizers = {name: Quantizer(spec) for name, spec in plan.activations.items()}
    for name, spec in plan.weights.items():
        node = nodes[name]
        op = module_of(graph_model.module, floats[name])
        assert isinstance(op, LAYERS)
        weight = WeightQuantizer(spec, op.weight)  # which both networks share: nobody writes to it
        read = None if name in plan.in_float else quantizers.get(range_source(graph, sole_input(node)).name)
        layer = QuantLayer(op, weight, read)
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
        new.meta.update(node.meta, tensor=name, is_tensor=True)
    graph.graph.lint()
    graph.recompile()
    about = (graph_model.input_shape, graph_model.task, graph_model.keep_branches)
    return QuantizedModel(graph.eval(), graph_model, plan, blocks, *about)


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
