"""The first layers of a network and the last ones of its heads."""

from collections.abc import Collection, Sequence

from torch import fx, nn

from ptq.graph.fx_helpers import LAYERS, module_of, op_name, sole_input
from ptq.graph.preparation import GraphModel
from ptq.models.inputs import take_input
from ptq.quantization.integer_ops import is_layer, range_source

__all__ = ["first_layers", "heads", "is_expected_value", "own_layers"]


def own_layers(graph: fx.GraphModule) -> list[fx.Node]:
    """Return the layers that learned, in order: neither those that stand for a BatchNorm, nor means of distributions."""
    layers = [node for node in graph.graph.nodes if is_layer(graph, node)]
    return [node for node in layers if not (node.meta.get("from_batchnorm") or is_expected_value(graph, node))]


def is_expected_value(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer takes the mean of a distribution: it has one output, and reads a softmax.

    So detectors read the sides of a box from scores of lengths (Li et al., NeurIPS 2020, arXiv 2006.04388). That is a
    part of their decoding: its weights, 0, 1, 2, ..., were not learned.
    """
    module = module_of(graph, node)
    if not isinstance(module, LAYERS) or module.weight.numel() != module.weight.shape[1]:
        return False
    source = range_source(graph, sole_input(node))
    return isinstance(module_of(graph, source), nn.Softmax) or op_name(source) == "softmax"


def first_layers(graph: fx.GraphModule, layers: Sequence[fx.Node]) -> tuple[fx.Node, ...]:
    """Return the first of some layers, and the first that reads each of several images."""
    images = [node for node in graph.graph.nodes if node.target is take_input]
    readers = [[layer for layer in layers if range_source(graph, sole_input(layer)) is image] for image in images]
    return tuple(dict.fromkeys([layers[0], *(some[0] for some in readers if some)]))


def heads(graph_model: GraphModel) -> tuple[tuple[fx.Node, ...], set[fx.Node]]:
    """Return the last layer of every head, and all nodes that no layer reads, be it through others.

    Both are empty for a classifier: its logits are one tensor, of one kind.

    Example:
        >>> heads(graph_model)
        ((), set())
    """
    graph = graph_model.module
    if list(graph_model.task.kinds.values()) == ["classify"]:
        return (), set()
    layers = own_layers(graph)
    behind = _behind_all(graph, layers)
    return tuple(node for node in layers if behind.issuperset(node.users)), behind


def _behind_all(graph: fx.GraphModule, layers: Collection[fx.Node]) -> set[fx.Node]:
    behind: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node not in layers and behind.issuperset(node.users):
            behind.add(node)
    return behind
