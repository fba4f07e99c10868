"""From any model to one float graph in canonical form: `prepare`.

The canonical form is what placement, reconstruction and export rely on:

- one input, one output tensor or several by name, no dropout, nothing in place;
- every convolution and linear layer is a module of its own (a module called twice becomes two);
- BatchNorm is folded into the layer before it, or is a depthwise 1x1 convolution, which holds it
  exactly;
- convolutions of one tensor that are added are one convolution;
- every global average pool is nn.AdaptiveAvgPool2d(1), ReLU and ReLU6 are modules;
- shapes are constants and the batch dimension is free.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ptq.config.choices import KeptBranches
from ptq.errors import ModelError
from ptq.graph.canonicalization.batch_constants import follow_batch
from ptq.graph.canonicalization.canonical_form import canonicalize
from ptq.graph.canonicalization.compound_functions import take_apart
from ptq.graph.canonicalization.data_movement import activations_first, drop_round_trips, normalize_last
from ptq.graph.canonicalization.pointwise_functions import recognize_functions
from ptq.graph.canonicalization.prelu import split_prelus
from ptq.graph.canonicalization.written_activations import recognize_activations
from ptq.graph.folding.affine_folding import fold_affine_maps
from ptq.graph.folding.branch_folding import fold_branches
from ptq.graph.fx_helpers import attribute, module_of, op_name, sole_input
from ptq.graph.rows import mark_rows
from ptq.graph.tracing.outputs import name_outputs
from ptq.graph.tracing.rewriting import rewritten_copy
from ptq.graph.tracing.scopes import mark_scopes
from ptq.graph.tracing.tracer import trace
from ptq.graph.tracing.verification import verify
from ptq.models.weights import check_finite
from ptq.tasks.task import Task, find_task
from ptq.utils.modules import eager, evaluating, unwrap

__all__ = ["GraphModel", "prepare"]

BATCH = 2  # of the example input
CASTS = ("to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda")  # nothing where the type stays
ASSERTS = (torch._assert, fx._symbolic_trace._assert_is_none)


@dataclass(frozen=True)
class GraphModel:
    """A float network in canonical form.

    Args:
        module: the graph; parameters are copies, so the caller's model stays untouched.
        input_shape: (C, H, W) it was prepared for.
        task: what it is for.
        keep_branches: which branches that add up were left as they are.
    """

    module: fx.GraphModule
    input_shape: tuple[int, int, int]
    task: Task
    keep_branches: KeptBranches = "none"

    def example(self, batch: int = 1) -> Tensor:
        """Return a seeded random input of `batch` images."""
        return example_input((batch, *self.input_shape))


def example_input(shape: tuple[int, ...]) -> Tensor:
    """Return seeded standard-normal numbers: what normalized images look like to a network."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def prepare(
    model: nn.Module,
    input_shape: tuple[int, int, int] = (3, 224, 224),
    *,
    task: Task | str = "auto",
    keep_branches: KeptBranches = "none",
) -> GraphModel:
    """Return `model` as one float graph in canonical form.

    Args:
        model: a trained network that maps (N, C, H, W) to a tensor, or to tensors in a tuple, list, dictionary or
            dataclass, nested or not; it comes out untouched. The graph gives several of them as a flat dictionary.
        input_shape: (C, H, W).
        task: what the network is for, as `ptq.find_task` takes it; or the task.
        keep_branches: convolutions of one tensor that are added become one, exactly. "all" leaves them as they are,
            "identities" what is added to them, as weights of less than 8 bits want it (`ptq.graph.folding.branch_folding`).

    Raises:
        InputError: for a task that the network cannot have.
        ModelError: when the model does not run on this shape, holds NaN or infinite weights, cannot
            be traced, or when the graph does not compute what the model computes.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> graph_model = prepare(net, (3, 32, 32))
        >>> graph_model.module(graph_model.example()).shape
        torch.Size([1, 8])
    """
    model = unwrap(model)
    example = example_input((BATCH, *input_shape))
    other = example_input((BATCH + 1, *input_shape))
    with eager(), evaluating(model):  # what a closure holds of it is traced, too
        traceable = rewritten_copy(model, example)
        graph = trace(traceable, example)
        follow_batch(graph, BATCH, lambda: trace(traceable, other))
    mark_scopes(graph, traceable)
    _remove_noops(graph)
    _keep_one_input(graph)
    name_outputs(graph, BATCH)
    _fold_constants(graph)
    take_apart(graph)
    canonicalize(graph)
    _merge_equal_calls(graph)
    recognize_functions(graph)
    recognize_activations(graph)
    _unshare_modules(graph)
    _own_constants(graph)
    fold_affine_maps(graph)
    while keep_branches != "all" and fold_branches(graph, identities=keep_branches == "none"):
        fold_affine_maps(graph)  # a sum of branches that is scaled is a layer that is scaled now
    split_prelus(graph)
    drop_round_trips(graph)
    activations_first(graph)
    normalize_last(graph)
    _rename_clashes(graph)
    _clean(graph)
    graph.eval().requires_grad_(False)
    check_finite(graph, "the model")
    with eager():
        output = verify(model, graph, other)
    mark_rows(graph, example_input((BATCH, *input_shape)))
    task = find_task(output, input_shape, task) if isinstance(task, str) else task
    return GraphModel(graph, input_shape, task, keep_branches)


def _remove_noops(graph: fx.GraphModule) -> None:
    """Remove asserts and everything that does nothing in eval mode."""
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in ASSERTS:
            graph.graph.erase_node(node)
        elif _does_nothing(graph, node):
            node.replace_all_uses_with(sole_input(node))
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def _keep_one_input(graph: fx.GraphModule) -> None:
    """Remove optional arguments that were left out."""
    for node in [n for n in graph.graph.nodes if n.op == "placeholder"][1:]:
        if node.users:
            raise ModelError(
                f"the model needs a second input ({node.name}), not images alone: say what it is, with inputs= or INPUTS in "
                "its file"
            )
        graph.graph.erase_node(node)


def _does_nothing(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        module = module_of(graph, node)
        dropout = isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
        return dropout or type(module).__name__ in ("DropPath", "StochasticDepth")
    if node.op == "call_function":
        return op_name(node) in ("dropout", "stochastic_depth")
    if node.op == "call_method" and node.target in CASTS:
        before, after = sole_input(node).meta.get("example"), node.meta.get("example")
        return isinstance(before, Tensor) and isinstance(after, Tensor) and before.dtype == after.dtype
    return node.op == "call_method" and node.target in ("contiguous", "detach", "clone", "requires_grad_")


def _fold_constants(graph: fx.GraphModule) -> None:
    """Compute once what does not depend on the input (standardized weights, position tables)."""
    depends: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output") or any(n in depends for n in node.all_input_nodes):
            depends.add(node)
    for node in list(graph.graph.nodes):
        value = node.meta.get("example")
        if node in depends or node.op == "get_attr" or not isinstance(value, Tensor):
            continue
        name = f"constant_{node.name}"
        graph.register_buffer(name, value.detach().clone())
        with graph.graph.inserting_before(node):
            constant = graph.graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
    graph.graph.eliminate_dead_code()


def _merge_equal_calls(graph: fx.GraphModule) -> None:
    """Call a module once where it is called twice on the same tensors, as a tower is that two heads share."""
    seen: dict[tuple[object, ...], fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args):
            first = seen.setdefault((node.target, *node.args), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.graph.erase_node(node)


def _unshare_modules(graph: fx.GraphModule) -> None:
    """Give every call its own module, so that each can be quantized by itself."""
    seen: set[int] = set()
    for node in graph.graph.nodes:
        if node.op != "call_module":
            continue
        module = module_of(graph, node)
        assert module is not None
        if id(module) in seen:
            target = f"{node.target}_{node.name}"
            graph.add_submodule(target, copy.deepcopy(module))
            node.target = target
        seen.add(id(module))


def _own_constants(graph: fx.GraphModule) -> None:
    """Copy the weights of layers that other nodes read, too: a quantized layer holds codes in their place."""
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    for node in graph.graph.nodes:
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] in called:
            name = f"constant_{node.name}"
            graph.register_buffer(name, attribute(graph, node).detach().clone())
            node.target = name


def _rename_clashes(graph: fx.GraphModule) -> None:
    """Rename nodes that are called as something every module has: quantizers take their names."""
    plain = nn.Module()
    for node in graph.graph.nodes:
        if hasattr(plain, node.name):
            node._rename(f"{node.name}_node")


def _delete_unread_tensors(graph: fx.GraphModule) -> None:
    """Delete what no node reads any more: the weight of F.conv2d, which a module holds now."""
    read = {str(node.target) for node in graph.graph.nodes if node.op in ("get_attr", "call_module")}
    for path, module in list(graph.named_modules()):
        for name in [*module._parameters, *module._buffers]:
            owners = f"{path}.{name}".removeprefix(".").split(".")
            if not any(".".join(owners[:length]) in read for length in range(1, len(owners) + 1)):
                delattr(module, name)


def _clean(graph: fx.GraphModule) -> None:
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    _delete_unread_tensors(graph)
    graph.graph.lint()
    graph.recompile()
    for node in graph.graph.nodes:  # the examples are large, and whether they were tensors is all that is asked later
        node.meta["is_tensor"] = isinstance(node.meta.pop("example", None), Tensor)
