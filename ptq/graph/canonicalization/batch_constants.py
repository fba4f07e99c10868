"""Constants that are as long as the batch: class tokens repeated for every image, first states of an LSTM, zeros."""

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ptq.graph.fx_helpers import attribute, op_name
from ptq.models.inputs import is_input

__all__ = ["expand_to_batch", "follow_batch"]

NEW = {"new_zeros", "new_ones", "new_full"}  # of the type of a tensor whose numbers do not count
MAKERS = {"expand", "expand_as", "broadcast_to", "repeat", "tile", "zeros", "ones", "full", *NEW}


def expand_to_batch(constant: Tensor, images: Tensor, dim: int = 0) -> Tensor:
    """Repeat a constant, of size 1 in `dim`, for every image of a batch.

    Example:
        >>> expand_to_batch(torch.zeros(1, 1, 8), torch.zeros(5, 3, 4, 4), 1).shape
        torch.Size([1, 5, 8])
    """
    sizes = list(constant.shape)
    sizes[dim] = images.shape[0]
    return constant.expand(sizes)


def follow_batch(graph: fx.GraphModule, batch: int, retrace: Callable[[], fx.GraphModule]) -> None:
    """Let constants that are as long as the batch follow it, in place.

    Args:
        graph: as it was traced.
        batch: of the example it was traced with.
        retrace: traces the network again, with another batch; asked only where a constant may follow the batch.
    """
    nodes = list(graph.graph.nodes)
    made = [node for node in _constants(graph) if _is_made(node) and batch in _value(graph, node).shape]
    if not made:
        return
    other = retrace()
    again = list(other.graph.nodes)
    if [node.op for node in again] != [node.op for node in nodes]:
        return
    inputs = [node for node in nodes if is_input(node)]
    images = next((node for node in inputs if node.op != "placeholder"), inputs[0])
    for node, twin in zip(nodes, again, strict=True):
        if node not in made:
            continue
        value, longer = _value(graph, node), _value(other, twin)
        differing = [d for d, (a, b) in enumerate(zip(value.shape, longer.shape, strict=False)) if a != b]
        if value.dim() != longer.dim() or len(differing) != 1:
            continue
        one = value.narrow(differing[0], 0, 1)
        if torch.equal(one.expand_as(value), value):
            name = f"constant_{node.name}"
            graph.register_buffer(name, one.detach().clone())
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta = {"example": one}
            node.meta["example"] = value
            node.op, node.target, node.kwargs = "call_function", expand_to_batch, {}
            node.args = (constant, images, *differing) if differing[0] else (constant, images)


def _is_made(node: fx.Node) -> bool:
    """Whether a node makes a tensor of a size that is given, or is one that was made so while the forward ran."""
    return op_name(node) in MAKERS or str(node.target).startswith("_tensor_constant")


def _value(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    value = attribute(graph, node) if node.op == "get_attr" else node.meta.get("example")
    return value if isinstance(value, Tensor) else torch.empty(0)


def _constants(graph: fx.GraphModule) -> set[fx.Node]:
    """Nodes that no input reaches, but in its shape."""
    constants: set[fx.Node] = set()
    for node in graph.graph.nodes:
        known = op_name(node) in NEW or constants.issuperset(node.all_input_nodes)
        if known and node.op not in ("placeholder", "output"):
            constants.add(node)
    return constants
