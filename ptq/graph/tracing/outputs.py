"""The outputs of a traced network, brought into the form that a prepared one has: one tensor, or tensors by name."""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, fx

from ptq.errors import ModelError
from ptq.tasks.outputs import SOLE, named, named_tensors

__all__ = ["name_outputs"]


def name_outputs(graph: fx.GraphModule, batch: int) -> None:
    """Make a traced network return one tensor, or a flat dictionary of tensors; their names are those of `named`.

    Args:
        graph: as it was traced, with examples.
        batch: of the example.

    Raises:
        ModelError: for outputs that are no tensors, or whose first dimension is not that of the images.
    """
    output = next(n for n in graph.graph.nodes if n.op == "output")
    found = named(_opened(graph, output.args[0], output))
    examples = {name: leaf.meta.get("example") if isinstance(leaf, fx.Node) else leaf for name, leaf in found.items()}
    for name, example in named_tensors(examples).items():
        if example.dim() == 0 or len(example) != batch:
            raise ModelError(
                f"the model answers {batch} images with {called(name)}of shape {tuple(example.shape)}: the first dimension "
                "of every output must be that of the images. Leave out what is not of images, and decode boxes behind "
                "the network"
            )
    output.args = (found[SOLE],) if list(found) == [SOLE] else (found,)
    graph.graph.eliminate_dead_code()


def called(name: str) -> str:
    """Return what a message calls an output."""
    return "an output " if name == SOLE else f"the output {name!r} "


def _opened(graph: fx.GraphModule, value: Any, end: fx.Node) -> Any:
    """The structure that is returned, with nodes where there are tensors, and not where there are several."""
    if isinstance(value, Mapping):
        return {key: _opened(graph, part, end) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(graph, part, end) for part in value]
    if not isinstance(value, fx.Node):
        return value
    if value.op == "call_function" and isinstance(value.target, type):
        return {key: _opened(graph, part, end) for key, part in _given(value)}
    example = value.meta.get("example")
    if isinstance(example, Tensor) or not isinstance(example, Mapping | list | tuple):
        return value
    keys = list(example) if isinstance(example, Mapping) else range(len(example))
    return {str(key): _opened(graph, _item(graph, value, key, example[key], end), end) for key in keys}


def _given(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """What a dataclass or a named tuple is made of, by the names of its fields."""
    kind: Any = node.target
    names = [item.name for item in fields(kind)] if is_dataclass(kind) else list(getattr(kind, "_fields", ()))
    yield from zip(names, node.args, strict=False)
    yield from node.kwargs.items()


def _item(graph: fx.GraphModule, node: fx.Node, key: Any, example: Any, end: fx.Node) -> fx.Node:
    """One of the several things that a node gives."""
    with graph.graph.inserting_before(end):
        item = graph.graph.call_function(operator.getitem, (node, key))
    item.meta.update(node.meta, example=example)
    return item
