"""What a classifier knows of an image before it decides: the tensors that its last layers read, before they are pooled.

Class scores are a few numbers for an image, and those of an image that was made from the network itself say one class and little
else. Its features are thousands of numbers. A network that learns them needs fewer images (MiR, Wang et al., CVPR 2022).
"""

from collections.abc import Iterator, Sequence

from torch import fx

from ptq.graph.fx_helpers import LAYERS, input_tensors, module_of, op_name
from ptq.tasks.task import Task

__all__ = ["feature_nodes", "giving"]

# What they leave out, the last layer never sees.
PICKS = {"getitem", "select", "narrow", "index_select", "split", "chunk"}


def feature_nodes(graph: fx.GraphModule, task: Task) -> list[fx.Node]:
    """Return the nodes that give a network's features.

    Args:
        graph: of a prepared network.
        task: says what its outputs are.

    Returns:
        None of them where an output is not class scores of images, or a last layer reads what no layer has given.

    Example:
        >>> [node.name for node in feature_nodes(graph_model.module, graph_model.task)]
        ['blocks_2_relu_1']
    """
    if set(task.kinds.values()) != {"classify"}:
        return []
    output = next(node for node in graph.graph.nodes if node.op == "output")
    found = [_before_pooling(graph, input_tensors(head)[0]) for head in _heads(graph, output)]
    behind = _behind_layers(graph)
    return list(dict.fromkeys(found)) if all(node in behind for node in found) else []


def giving(graph: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """Return the part of a network that gives what some of its nodes give, as a dictionary by name; modules are shared.

    Example:
        >>> part = giving(graph_model.module, feature_nodes(graph_model.module, graph_model.task))
        >>> [(name, tuple(value.shape)) for name, value in part(images).items()]
        [('blocks_2_relu_1', (8, 16, 4, 4))]
    """
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op != "output":
            copies[node] = piece.node_copy(node, copies.__getitem__)
    piece.output({node.name: copies[node] for node in nodes})
    part = fx.GraphModule(graph, piece)
    part.graph.eliminate_dead_code()
    part.recompile()
    return part


def _heads(graph: fx.GraphModule, output: fx.Node) -> Iterator[fx.Node]:
    """The layers that nothing but operations without weights stand behind."""
    waiting, seen = [*output.all_input_nodes], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(module_of(graph, node), LAYERS):
            yield node
        else:
            waiting += input_tensors(node)


def _behind_layers(graph: fx.GraphModule) -> set[fx.Node]:
    found = set[fx.Node]()
    for node in graph.graph.nodes:
        if isinstance(module_of(graph, node), LAYERS) or any(source in found for source in input_tensors(node)):
            found.add(node)
    return found


def _before_pooling(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The largest tensor of which nothing but one operation after the other makes this one; of equal ones the last."""
    largest = node
    while not isinstance(module_of(graph, node), LAYERS) and op_name(node) not in PICKS:
        sources = input_tensors(node)
        if len(sources) != 1:
            break
        (node,) = sources
        if node.meta["numel"] > largest.meta["numel"]:
            largest = node
    return largest
