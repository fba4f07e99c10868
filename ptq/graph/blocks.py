"""Cutting a graph into blocks of one input and one output tensor.

A block is the unit of reconstruction (BRECQ, Li et al., ICLR 2021). Blocks are found on the graph,
with no code per model: the order of computation is cut wherever exactly one tensor is alive, and
neighboring pieces that belong to one building block of the original model are joined.
"""

from collections.abc import Mapping

from torch import fx, nn

from ptq.graph.fx_helpers import LAYERS, is_tensor, module_of

__all__ = ["assign_blocks", "compose", "extract", "split"]


def assign_blocks(graph: fx.GraphModule) -> dict[str, int]:
    """Return for every computing node the index of its block, from 0 in order of computation.

    Args:
        graph: a prepared network.

    Example:
        >>> max(assign_blocks(graph_model.module).values()) + 1
        5
    """
    pieces = _pieces(graph)
    joined: list[list[fx.Node]] = []
    scopes: list[set[str | None]] = []
    for piece in pieces:
        layers = [n for n in piece if isinstance(module_of(graph, n), LAYERS)]
        own = {n.meta.get("scope") for n in layers}
        shared = bool(joined) and any(scope is not None and scope in scopes[-1] for scope in own)
        if joined and (not layers or shared or not scopes[-1]):
            joined[-1] += piece
            scopes[-1] |= own
        else:
            joined.append(list(piece))
            scopes.append(own)
    return {node.name: index for index, piece in enumerate(joined) for node in piece}


def _pieces(graph: fx.GraphModule) -> list[list[fx.Node]]:
    """Cut the order of computation wherever exactly one value is alive, and a tensor at that."""
    order = [n for n in graph.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    position = {node: i for i, node in enumerate(order)}
    last_use = {
        node: max((position.get(user, len(order)) for user in node.users), default=-1)
        for node in graph.graph.nodes
        if node.op != "get_attr"
    }
    pieces: list[list[fx.Node]] = [[]]
    alive = {node for node in graph.graph.nodes if node.op == "placeholder"}
    for i, node in enumerate(order):
        pieces[-1].append(node)
        alive.add(node)
        alive = {value for value in alive if last_use[value] > i}
        if len(alive) == 1 and all(map(is_tensor, alive)) and i + 1 < len(order):
            pieces.append([])
    return pieces


def split(graph: fx.GraphModule, assignment: Mapping[str, int]) -> list[fx.GraphModule]:
    """Return the blocks as graphs of one input and one output; they share `graph`'s modules.

    Args:
        graph: a prepared network, or the quantized network made of it.
        assignment: block index by node name, as `assign_blocks` gives it.
    """
    nodes = [n for n in graph.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
    count = max(assignment[n.name] for n in nodes) + 1
    return [extract(graph, [n for n in nodes if assignment[n.name] == index]) for index in range(count)]


def extract(graph: fx.GraphModule, nodes: list[fx.Node]) -> fx.GraphModule:
    """Return the subgraph of `nodes` (in order) as a graph of one input and one output."""
    inside = set(nodes)
    sources = {s for n in nodes for s in n.all_input_nodes if s not in inside and s.op != "get_attr"}
    results = [n for n in nodes if any(user not in inside for user in n.users)]
    assert len(sources) == 1 and len(results) == 1, "a block has one input and one output"
    piece = fx.Graph()
    values: dict[fx.Node, fx.Node] = {sources.pop(): piece.placeholder("x")}
    for node in nodes:
        for constant in node.all_input_nodes:
            if constant.op == "get_attr" and constant not in values:
                values[constant] = piece.node_copy(constant)
        values[node] = piece.node_copy(node, values.__getitem__)
    piece.output(values[results[0]])
    return fx.GraphModule(graph, piece)


def compose(blocks: list[fx.GraphModule]) -> nn.Sequential:
    """Return the blocks in order as one network."""
    return nn.Sequential(*blocks)
