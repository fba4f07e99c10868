"""Residual streams of transformers, which stay in float.

In a transformer each block adds a little to a sum that runs through the whole network, and a normalization reads it. Some
channels of that sum are a hundred times as large as others (Dettmers et al., NeurIPS 2022, arXiv 2208.07339). One scale
for all of them leaves few codes to the rest. Integers bring no time here: the linear layers that add to the sum write
float numbers as fast as codes, and the normalization reads float numbers. `python -m benchmarks.transformers` measures it.
"""

import operator

import torch
from torch import fx, nn

from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import input_tensors, module_of
from ptq.quantization.integer_ops import consumers

__all__ = ["residual_streams"]

CONCATENATIONS = (torch.cat, torch.concat)


def residual_streams(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the sums that linear layers add to, and what is joined with them by sums and concatenations alone.

    Args:
        graph: a prepared float network.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)
        ...
        ...     def forward(self, x):
        ...         x = x.flatten(2)
        ...         return x + self.linear(self.norm(x))
        >>> sorted(node.name for node in residual_streams(ptq.prepare(Block(), (3, 2, 4)).module))
        ['add']
    """
    sums = [node for node in graph.graph.nodes if node.target is operator.add]
    found: set[fx.Node] = set()
    waiting = [n for n in sums if any(isinstance(module_of(graph, term), nn.Linear) for term in _terms(graph, n))]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        waiting += [n for n in (*_terms(graph, node), *consumers(graph, node)) if n.target is operator.add]
    for node in reversed(graph.graph.nodes):  # class tokens are put before the others
        if node.target in CONCATENATIONS and found.issuperset(consumers(graph, node)):
            found.add(node)
    return found


def _terms(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """What computes the tensors that a sum or a concatenation is made of.

    Back through what moves data, products with constants (layer scale), and concatenations.
    """
    found = []
    for source in input_tensors(node):
        while moves_data(graph, source) or (source.target is operator.mul and len(input_tensors(source)) == 1):
            (source,) = input_tensors(source)
        found += _terms(graph, source) if source.target in CONCATENATIONS else [source]
    return found
