"""The inputs of a file: those that the network has, where its graph has their images side by side (`ptq.models.inputs`)."""

import re
from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ptq.models.inputs import take_input

__all__ = ["channels_of", "separate", "split_channels"]


def separate(network: nn.Module, example: Tensor) -> tuple[nn.Module, list[str], tuple[Tensor, ...]]:
    """Return a network with every image as an input of its own, and the example as it takes it.

    In between are the names of the inputs, any text; none where they are those of the network's arguments.

    Args:
        network: what is exported; only a graph can have several inputs, others come back as they are.
        example: (N, C, H, W), with all images side by side.
    """
    taken = [n for n in network.graph.nodes if n.target is take_input] if isinstance(network, fx.GraphModule) else []
    if not taken:
        return network, [], (example,)
    assert isinstance(network, fx.GraphModule)
    graph, names, parts = fx.Graph(), [], []
    new: dict[fx.Node, fx.Node] = {}
    for node in taken:
        _, name, start, count = node.args
        new[node] = graph.placeholder(re.sub(r"\W", "_", f"input_{name}"))
        names.append(str(name))
        parts.append(example.narrow(1, start, count).contiguous())
    for node in network.graph.nodes:
        if node.op == "placeholder":
            new[node] = new[taken[0]]  # who reads it all the same asks how many images there are
        elif node not in new:
            new[node] = graph.node_copy(node, new.__getitem__)
    return fx.GraphModule(network, graph), names, tuple(parts)


def channels_of(graph: onnx.GraphProto) -> list[int]:
    """Return how many channels each input of a file takes."""
    return [value.type.tensor_type.shape.dim[1].dim_value for value in graph.input]


def split_channels(images: NDArray[np.float32], channels: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return the images of every input, which lie side by side along the channels.

    Example:
        >>> import numpy as np
        >>> [part.shape for part in split_channels(np.zeros((2, 4, 8, 8), np.float32), [3, 1])]
        [(2, 3, 8, 8), (2, 1, 8, 8)]
    """
    if len(channels) == 1:  # of whatever shape: the runtime says what is wrong
        return [np.ascontiguousarray(images)]
    return [np.ascontiguousarray(part) for part in np.split(images, np.cumsum(channels)[:-1], axis=1)]
