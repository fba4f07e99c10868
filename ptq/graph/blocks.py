"""Blocks of a network: stretches of its graph that hand each other named tensors.

The names are those of nodes of the float network, in the float and in the quantized one: a quantizer's node stands for the
tensor that it quantizes. What is alive between two blocks is a mapping of such names to tensors. A block takes from it what it reads,
and what it gives is put beside the rest, which passes by untouched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.rows import rows_of

__all__ = ["Block", "Chain", "compose", "extract", "named_inputs", "split", "tensor_name"]


@dataclass(frozen=True)
class Block:
    """A part of a network as a graph of its own.

    Where an image has several rows in a tensor, as windows and patches have, blocks hand it over as (N, rows, ...): an image
    is always one row.

    Args:
        module: takes the inputs in order; returns its output, or a tuple of several.
        inputs: names of the tensors that it reads.
        outputs: names of the tensors in it that others read.

    Example:
        >>> block = quantized_model.split()[0]
        >>> {name: tuple(y.shape) for name, y in block({"x": images}).items()}
        {'pool': (8, 8, 8, 8)}
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, alive: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the block gives, by name, when it reads from what is alive."""
        return self.named(self.module(*(alive[name] for name in self.inputs)))

    def named(self, given: Any) -> dict[str, Tensor]:
        """Return what the module gave by name."""
        return dict(zip(self.outputs, (given,) if len(self.outputs) == 1 else given, strict=True))


def split(graph: fx.GraphModule, assignment: Mapping[str, int]) -> list[Block]:
    """Return the blocks of a network; they share `graph`'s modules.

    Args:
        graph: a prepared network, or the quantized network made of it.
        assignment: block index by node name, as `assign_blocks` gives it.
    """
    nodes = [n for n in graph.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    members: list[list[fx.Node]] = [[] for _ in range(max(assignment[n.name] for n in nodes) + 1)]
    for node in nodes:
        members[assignment[node.name]].append(node)
    return [extract(graph, block) for block in members]


def extract(graph: fx.GraphModule, nodes: list[fx.Node]) -> Block:
    """Return the subgraph of `nodes` (in order) as a block."""
    inside = set(nodes)
    results = [n for n in nodes if any(user not in inside for user in n.users)]
    piece = fx.Graph()
    values = _placeholders(graph, piece, nodes)
    for node in nodes:
        values[node] = piece.node_copy(node, values.__getitem__)
    handed = [_handed_over(piece, values[n]) for n in results]
    piece.output(handed[0] if len(handed) == 1 else tuple(handed))
    return _block(graph, piece, tuple(map(tensor_name, results)))


class Chain(nn.Module):
    """Blocks in order, from some tensors that are alive to the network's output.

    Args:
        blocks: the last of the network, or all.
        ending: puts the output together.

    Attributes:
        inputs: names of the tensors that must be alive.
    """

    def __init__(self, blocks: Sequence[Block], ending: Block) -> None:
        super().__init__()
        self.blocks, self.ending = tuple(blocks), ending
        self.parts = nn.ModuleList(block.module for block in blocks)  # so that it has their state
        needed = [set(ending.inputs)]  # behind every block, and at last before the first
        for block in reversed(self.blocks):
            needed.append(needed[-1] - set(block.outputs) | set(block.inputs))
        self.inputs = tuple(sorted(needed.pop()))
        self.needed = needed[::-1]

    def alive(self, before: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the chain reads of what a block gave and of what was alive before that block and passed it by."""
        return {name: given[name] if name in given else before[name] for name in self.inputs}

    def forward(self, alive: Mapping[str, Tensor]) -> Any:
        """Return the network's output, as it is made up."""
        for block, needed in zip(self.blocks, self.needed, strict=True):
            given = {**alive, **block(alive)}
            alive = {name: given[name] for name in needed}
        return self.ending.module(*(alive[name] for name in self.ending.inputs))


def compose(graph: fx.GraphModule, blocks: Sequence[Block]) -> Chain:
    """Return the blocks in order as one network, which takes what is alive before them.

    Args:
        graph: the network that they are the last blocks of, or all.
        blocks: of it, or of the quantized network made of it.

    Example:
        >>> chain = compose(quantized_model.module, quantized_model.split())
        >>> torch.equal(chain(named_inputs(quantized_model.module, images)), quantized_model.module(images))
        True
    """
    output = next(n for n in graph.graph.nodes if n.op == "output")
    piece = fx.Graph()
    values = _placeholders(graph, piece, [output])
    piece.output(fx.map_arg(output.args[0], values.__getitem__))
    return Chain(blocks, _block(graph, piece, ()))


def named_inputs(graph: fx.GraphModule, *inputs: Tensor) -> dict[str, Tensor]:
    """Return a network's inputs by name: what is alive before its first block."""
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    return dict(zip(names, inputs, strict=True))


def tensor_name(node: fx.Node) -> str:
    """Return the name of the tensor that a node stands for: a quantizer's that of the tensor it quantizes."""
    return str(node.meta.get("tensor", node.name))


def _placeholders(graph: fx.GraphModule, piece: fx.Graph, nodes: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """What `nodes` read from outside of them: placeholders, in the network's order, and constants."""
    inside = set(nodes)
    read = {source for node in nodes for source in node.all_input_nodes} - inside
    sources = [node for node in graph.graph.nodes if node in read]
    values = {}
    for source in (s for s in sources if s.op != "get_attr"):
        values[source] = value = piece.placeholder(tensor_name(source))
        value.meta = dict(source.meta) | {"tensor": tensor_name(source)}
        if rows_of(source) > 1:
            values[source] = piece.create_node("call_function", torch.flatten, (value, 0, 1), name=f"{value.name}_rows")
            values[source].meta, value.meta = value.meta, value.meta | {"rows": 1}
    return values | {s: piece.node_copy(s) for s in sources if s.op == "get_attr"}


def _handed_over(piece: fx.Graph, value: fx.Node) -> fx.Node:
    """The value with one row per image."""
    rows = rows_of(value)
    return piece.call_function(torch.unflatten, (value, 0, (-1, rows))) if rows > 1 else value


def _block(graph: fx.GraphModule, piece: fx.Graph, outputs: tuple[str, ...]) -> Block:
    inputs = tuple(tensor_name(n) for n in piece.nodes if n.op == "placeholder")
    return Block(fx.GraphModule(graph, piece), inputs, outputs)
