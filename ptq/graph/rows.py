"""Which rows of a tensor belong to which image: what must be known before activations are kept image by image."""

from functools import partial

import torch
from torch import Tensor, fx

from ptq.graph.fx_helpers import watch

__all__ = ["mark_rows", "rows_of"]

CLOSE = 1e-3  # of a tensor's numbers: what another batch size may change in float32


def mark_rows(graph: fx.GraphModule, *example: Tensor) -> None:
    """Write into every node's meta how many rows an image has, "rows", and how many numbers, "numel".

    Most tensors have one row per image. Windows and patches that are computed as if they were images have more, with
    those of one image behind each other. Other tensors get no mark: their batch is another dimension, they are integers,
    or images are mixed in them. Found by computing: the rows of the first image are what it gives alone.

    Args:
        graph: a prepared network.
        example: its inputs for two different images, (2, ...) each.

    Example:
        >>> mark_rows(graph_model.module, graph_model.example(2))
        >>> {node.meta["rows"] for node in graph_model.module.graph.nodes if "rows" in node.meta}
        {1}
    """
    nodes = {node.name: node for node in graph.graph.nodes if node.op not in ("get_attr", "output")}
    alone: dict[str, tuple[torch.Size, float, float]] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
            alone[name] = value.shape, _sum(value), _sum(value.abs())

    def compare(name: str, value: object) -> None:
        if name not in alone or not isinstance(value, Tensor):
            return
        shape, total, size = alone[name]
        if value.shape == (2 * shape[0], *shape[1:]) and abs(_sum(value[: shape[0]]) - total) <= CLOSE * size:
            nodes[name].meta.update(rows=shape[0], numel=shape.numel())

    watch(graph, tuple(x[:1] for x in example), {name: partial(keep, name) for name in nodes})
    watch(graph, example, {name: partial(compare, name) for name in nodes})


def rows_of(node: fx.Node) -> int:
    """Return how many rows an image has in a node's tensor; 0 where it has none of its own."""
    return int(node.meta.get("rows", 0))


def _sum(value: Tensor) -> float:
    return float(value.sum(dtype=torch.float64))
