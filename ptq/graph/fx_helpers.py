"""Small questions and edits on fx nodes that several passes share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = [
    "LAYERS",
    "add_module",
    "argument",
    "attribute",
    "averages_globally",
    "clamp_bounds",
    "foldable",
    "input_tensors",
    "is_tensor",
    "module_of",
    "op_name",
    "recompute",
    "sole_input",
    "watch",
]

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def attribute(root: nn.Module, node: fx.Node) -> Any:
    """Return the parameter, buffer or other attribute of `root` that a get_attr node stands for."""
    value: Any = root
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def op_name(node: fx.Node) -> str:
    """Return the name of the function or method a node calls; empty where it has none."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def recompute(graph: fx.GraphModule, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """Return what a node gives with other values in the place of those that it reads.

    Args:
        graph: of the node.
        node: calls a function, a method or a module.
        value: of a node that it reads.
    """
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), value)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    function: Any = module_of(graph, node) if node.op == "call_module" else node.target
    return function(*args, **kwargs)


def foldable(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node is an activation that the clamp of a quantizer behind it can do: a ReLU, or a clamp around 0.

    A clamp that keeps numbers from 0 is no such: what divides by them, or takes their logarithm, must not get a code for 0.
    """
    low, high = clamp_bounds(module_of(graph, node))
    return low <= 0 <= high and (low, high) != (-math.inf, math.inf)


def clamp_bounds(activation: nn.Module | None) -> tuple[float, float]:
    """Return what an activation clamps to; infinite where it is something else."""
    if isinstance(activation, nn.Hardtanh):  # nn.ReLU6 is one
        return float(activation.min_val), float(activation.max_val)
    return (0.0 if isinstance(activation, nn.ReLU) else -math.inf), math.inf


def averages_globally(module: nn.Module | None) -> bool:
    """Whether the module is the average over all pixels, which has an integer kernel."""
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def is_tensor(node: fx.Node) -> bool:
    """Whether the node stands for one tensor that depends on the input."""
    return node.op != "get_attr" and bool(node.meta.get("is_tensor", isinstance(node.meta.get("example"), Tensor)))


def sole_input(node: fx.Node) -> fx.Node:
    """Return the node's first input node: the tensor that a one-input operation works on."""
    return node.all_input_nodes[0]


def input_tensors(node: fx.Node) -> list[fx.Node]:
    """Return the node's inputs that depend on the network's input, in argument order."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def add_module(graph: fx.GraphModule, node: fx.Node, module: nn.Module, *inputs: fx.Node) -> fx.Node:
    """Make `node` a call of a new `module` on `inputs`; name and meta are kept.

    The module takes the place of the one that was called, where no other node calls that.
    """
    if node.op == "call_module":
        target = str(node.target)
        alone = all(n is node or n.target != target for n in graph.graph.nodes)
    else:
        target, alone = f"{node.meta.get('module_path', '')}.{node.name}".removeprefix("."), False
    while not alone and any(name == target for name, _ in graph.named_modules()):
        target += "_"
    graph.add_submodule(target, module.eval())
    node.op, node.target, node.args, node.kwargs = "call_module", target, inputs, {}
    return node


class _Watched(fx.Interpreter):
    """Runs a graph and hands what chosen nodes give to their watchers."""

    def __init__(self, graph: fx.GraphModule, watchers: Mapping[str, Callable[[Tensor], None]]) -> None:
        super().__init__(graph)
        self.watchers = watchers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.watchers:
            self.watchers[n.name](result)
        return result


def watch(
    graph: fx.GraphModule, x: Tensor | Sequence[Tensor], watchers: Mapping[str, Callable[[Tensor], None]]
) -> None:
    """Run `graph` on its input or inputs and show every watcher the tensor that the node of its name gives.

    Tensors are let go as soon as nobody reads them, as in a plain run.

    Example:
        >>> watch(graph_model.module, x, {"output": lambda y: print(y.shape)})
        torch.Size([2, 10])
    """
    with torch.no_grad():
        _Watched(graph, watchers).run(*([x] if isinstance(x, Tensor) else x))
