"""Activations that are written as arithmetic, recognized by the numbers they give.

0.5 * x * (1 + erf(x / sqrt(2))), x * tanh(log(1 + exp(x))), where(x > 0, x, 0.1 * x): there are more ways to write an
activation than a list of patterns holds. So a chain of operations that works number by number, on one tensor, is
computed on a few hundred numbers, and compared with the activations that ptq knows.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import add_module, attribute, input_tensors, module_of, op_name, recompute

__all__ = ["recognize_functions"]

MOST = 16  # operations in one activation
GRID = torch.linspace(-12, 12, 769, dtype=torch.float64)
CLOSE = 2e-5  # the two forms of GELU are 5e-4 apart; constants are written with five digits
KNOWN: tuple[nn.Module, ...] = (
    nn.ReLU(),
    nn.ReLU6(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Mish(),
    nn.Softplus(),
)
MODULES = (*map(type, KNOWN), nn.Hardtanh, nn.LeakyReLU, nn.Tanh)
FUNCTIONS = frozenset(
    [
        "abs",
        "add",
        "clamp",
        "clamp_max",
        "clamp_min",
        "clip",
        "cube",
        "div",
        "erf",
        "exp",
        "expm1",
        "float_power",
        "ge",
        "gt",
        "le",
        "log",
        "log1p",
        "lt",
        "maximum",
        "minimum",
        "mul",
        "neg",
        "pow",
        "reciprocal",
        "rsqrt",
        "sign",
        "sqrt",
        "square",
        "sub",
        "tanh",
        "truediv",
        "where",
    ]
)


def recognize_functions(graph: fx.GraphModule) -> None:
    """Write activations that are spelled out as modules, in place.

    Args:
        graph: in canonical form.
    """
    places = {node: at for at, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        for source, between in _chains(graph, node, places):
            if len(between) > 1 and (activation := _known(_computed(graph, source, between))) is not None:
                add_module(graph, node, activation, source)
                break
    graph.graph.eliminate_dead_code()


def _chains(
    graph: fx.GraphModule, node: fx.Node, places: Mapping[fx.Node, int]
) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """Tensors of which a node is a function, number by number, and the operations in between, the last one first."""
    between: list[fx.Node] = []
    waiting = {node}
    while waiting and len(between) < MOST:
        last = max(waiting, key=places.__getitem__)
        if not _is_pointwise(graph, last) or not ({*last.users} <= {*between} or last is node):
            return
        between.append(last)
        waiting = waiting - {last} | {*input_tensors(last)}
        if len(waiting) == 1:
            yield next(iter(waiting)), list(between)


def _is_pointwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node computes number by number, with nothing but single numbers beside its tensors."""
    module = module_of(graph, node)
    known = isinstance(module, MODULES) if module else op_name(node) in FUNCTIONS and node.op.startswith("call")
    constants = (attribute(graph, read) for read in node.all_input_nodes if read.op == "get_attr")
    return known and bool(input_tensors(node)) and all(isinstance(c, Tensor) and c.numel() == 1 for c in constants)


def _computed(graph: fx.GraphModule, source: fx.Node, between: list[fx.Node]) -> Tensor:
    """What a chain of operations gives for numbers from -12 to 12."""
    values: dict[fx.Node, Any] = {source: GRID}

    def value(node: fx.Node) -> Any:
        return values[node] if node in values else attribute(graph, node).double().reshape(())

    for node in reversed(between):
        values[node] = recompute(graph, node, value)
    return torch.as_tensor(values[between[0]])


def _known(given: Tensor) -> nn.Module | None:
    """A new module that gives these numbers; None where none does."""
    if given.shape != GRID.shape or not given.is_floating_point():
        return None
    slope = float(given[0] / GRID[0])
    candidates: list[nn.Module] = [*KNOWN, *([nn.LeakyReLU(slope)] if 0 < slope < 1 else [])]
    for activation in candidates:
        if torch.allclose(given, activation(GRID), rtol=CLOSE / 2, atol=CLOSE):
            return copy.deepcopy(activation)
    return None
