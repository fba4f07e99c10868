"""The weights and biases of layers as numbers that one optimizer can move alike.

With BatchNorm folded in, filters are of very different sizes. A step of Adam is the same for all numbers: so each is moved
in units of its own filter's size, and a bias in units of what its channel varies by.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import LAYERS, module_of, watch
from ptq.pruning.coupling.channel_map import read_axis

__all__ = ["Trainable"]

TINY = 1e-8


class Trainable:
    """The weights and biases of some layers of a network, each as what it was and how far it went from there.

    Args:
        graph: the network; it stays as it is until `commit`.
        nodes: names of the layers that are moved.
        inputs: of the network, some images: what channels vary by.

    Attributes:
        moves: the parameters to optimize, in units; 0 where nothing moved yet.

    Example:
        >>> trainable = Trainable(graph_model.module, ["fc"], [images])
        >>> torch.equal(trainable(images), graph_model.module(images))
        True
        >>> [tuple(move.shape) for move in trainable.moves]
        [(10, 16), (10,)]
    """

    def __init__(self, graph: fx.GraphModule, nodes: Iterable[str], inputs: Iterable[Tensor]) -> None:
        self.graph, self.base, self.unit = graph, dict[str, Tensor](), dict[str, Tensor]()
        spread: dict[str, Tensor] = {}
        targets: dict[str, str] = {}
        wanted = set(nodes)
        for node in graph.graph.nodes:
            layer = module_of(graph, node)
            if node.name in wanted and isinstance(layer, LAYERS):
                targets[node.name] = str(node.target)

        def look(name: str, layer: nn.Module, y: Tensor) -> None:
            values = y.movedim(read_axis(layer, y.dim()), 0).flatten(1).float()
            spread[name] = values.std(1, correction=0).clamp(min=TINY)

        layers = {name: graph.get_submodule(target) for name, target in targets.items()}
        watchers = {name: lambda y, name=name, layer=layer: look(name, layer, y) for name, layer in layers.items()}
        watch(graph, tuple(inputs), watchers)
        for name, target in targets.items():
            layer = layers[name]
            assert isinstance(layer, LAYERS)
            self.base[f"{target}.weight"] = weight = layer.weight.detach()
            self.unit[f"{target}.weight"] = _sizes(layer, weight)
            if layer.bias is not None:
                self.base[f"{target}.bias"] = layer.bias.detach()
                self.unit[f"{target}.bias"] = spread[name]
        self.moves = [torch.zeros_like(value, requires_grad=True) for value in self.base.values()]

    def state(self) -> Mapping[str, Tensor]:
        """Return the weights and biases as they stand, by their names in the network."""
        pairs = zip(self.base.items(), self.unit.values(), self.moves, strict=True)
        return {name: value + unit * move for (name, value), unit, move in pairs}

    def __call__(self, *inputs: Tensor) -> object:
        """Return what the network gives as it stands."""
        return torch.func.functional_call(self.graph, dict(self.state()), inputs)

    @torch.no_grad()
    def commit(self, state: Mapping[str, Tensor] | None = None) -> None:
        """Give the network its weights and biases as they stand, or those of a `state`."""
        for name, value in (state or self.state()).items():
            path, _, kind = name.rpartition(".")
            setattr(self.graph.get_submodule(path), kind, nn.Parameter(value.detach().clone(), requires_grad=False))


def _sizes(layer: nn.Module, weight: Tensor) -> Tensor:
    """The root mean square of every filter, shaped to multiply the weight; of a transposed convolution that of all."""
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.square().mean().sqrt().clamp(min=TINY)
    dims = tuple(range(1, weight.dim()))
    return weight.square().mean(dims, keepdim=True).sqrt().clamp(min=TINY)
