"""What layers read of the channels of a group: how these vary together, and what each weighs."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ptq.graph.fx_helpers import LAYERS, module_of, sole_input, watch
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, read_axis
from ptq.pruning.coupling.groups import Group
from ptq.pruning.selection.weights import weights_by_input

__all__ = ["Reading", "readings"]

BATCH = 16  # images at a time
TINY = 1e-30


class Reading:
    """One layer, and the channels of one group that it reads. Sums over images, in float64.

    What it reads of a coupled channel at several places (behind a flatten, or in several groups of a convolution) counts as several pixels.

    Attributes:
        name: of the layer's node.
        group: whose channels.
        n: pixels.
        mean: of each channel, (len(group),); 0 of what is not read.
        covariance: of every two, (len(group), len(group)).
        energy: of each, the mean square, (len(group),).
        weight_products: of every two, as a share of the variance of the output, (len(group), len(group)); of places that match.
    """

    def __init__(self, name: str, outputs: "_Outputs", ids: Tensor, group: Group) -> None:
        self.name, self.outputs, self.layer, self.group = name, outputs, outputs.layer, group
        at = torch.full((int(max(ids.max(), group.ids.max())) + 1,), -1)
        at[group.ids] = torch.arange(len(group))
        own = at[ids]
        self.inputs = (own >= 0).nonzero().flatten()  # of the layer
        self.channels = own[self.inputs]  # of the group, for each of these inputs
        counts = self.channels.bincount(minlength=len(group))
        self.read = counts > 0
        self.places = int(counts.max())
        self.alike = bool((counts[self.read] == self.places).all())
        self.order = self.channels.argsort(stable=True)
        self.counts = counts.clamp(min=1)
        self.n = 0
        self.sum = torch.zeros(len(group)).double()
        self.products = torch.zeros(len(group), len(group)).double()

    def rows(self, x: Tensor, images: int, *, summed: bool = False) -> Tensor:
        """Return what the layer reads, by channel of the group: (images, pixels, len(group)).

        Args:
            x: as the layer reads it.
            images: how many there are.
            summed: where a channel is at more places than others, they are added, not averaged.
        """
        raw = x.movedim(read_axis(self.layer, x.dim()), -1)
        raw = raw.reshape(images, -1, raw.shape[-1])[..., self.inputs.to(x.device)]
        size = len(self.group)
        if self.alike:
            found = (
                raw[..., self.order.to(x.device)].reshape(*raw.shape[:2], -1, self.places).transpose(2, 3).flatten(1, 2)
            )
            if bool(self.read.all()):
                return found
            full = found.new_zeros(*found.shape[:2], size)
            full[..., self.read.to(x.device)] = found
            return full
        total = raw.new_zeros(*raw.shape[:2], size).index_add_(2, self.channels.to(x.device), raw)
        return total if summed else total / self.counts.to(x)

    def see(self, x: Tensor) -> None:
        """Add what was read."""
        rows = self.rows(x, 1)[0]
        self.n += len(rows)
        self.sum += rows.sum(0, dtype=torch.float64).cpu()
        self.products += (rows.T @ rows).double().cpu()

    @property
    def mean(self) -> Tensor:
        return self.sum / self.n

    @property
    def covariance(self) -> Tensor:
        return self.products / self.n - self.mean.outer(self.mean)

    @property
    def energy(self) -> Tensor:
        return self.products.diagonal() / self.n

    @property
    def weight_products(self) -> Tensor:
        weights = (
            weights_by_input(self.layer).double().cpu()[self.inputs] / self.outputs.variance.clamp(min=TINY).sqrt()
        )
        size = len(self.group)
        if self.alike:
            full = torch.zeros(size, self.places * weights.shape[1]).double()
            full[self.read] = weights[self.order].reshape(int(self.read.sum()), -1)
            return full @ full.T
        return torch.diag(torch.zeros(size).double().index_add_(0, self.channels, weights.square().sum(1)))


class _Outputs:
    """What a layer gave: sums over images, in float64, the same for all groups that it reads."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.n = layer, 0
        self.sum = self.squares = torch.zeros(()).double()

    def see(self, y: Tensor) -> None:
        """Add what it gave."""
        rows = y.movedim(read_axis(self.layer, y.dim()), -1).flatten(0, -2)
        self.n += len(rows)
        self.sum = self.sum + rows.sum(0, dtype=torch.float64).cpu()
        self.squares = self.squares + rows.square().sum(dtype=torch.float64).cpu()

    @property
    def variance(self) -> Tensor:
        return self.squares / self.n - (self.sum / self.n).square().sum()


def readings(
    graph_model: GraphModel, channels: ChannelMap, groups: Sequence[Group], images: Tensor
) -> list[tuple[Group, list[Reading]]]:
    """Return what every group's readers read of it, on the images.

    Without depthwise layers: a channel that goes takes its part of them with it, and nothing in them can stand in for it.

    Args:
        images: as the network takes them, (N, C, H, W).
    """
    nodes = {node.name: node for node in graph_model.module.graph.nodes}
    layers = {name: module_of(graph_model.module, nodes[name]) for name in channels.readers}

    def reads(name: str, group: Group) -> bool:
        return bool(torch.isin(group.ids, channels.readers[name]).any())

    outputs = {
        name: _Outputs(layer) for name, layer in layers.items() if isinstance(layer, LAYERS) and not _depthwise(layer)
    }
    found = [
        (group, [Reading(name, outputs[name], channels.readers[name], group) for name in outputs if reads(name, group)])
        for group in groups
    ]
    watchers: dict[str, list[Callable[[Tensor], None]]] = {}
    every = [reading for _, several in found for reading in several]
    for reading in every:
        watchers.setdefault(sole_input(nodes[reading.name]).name, []).append(reading.see)
    for name in dict.fromkeys(reading.name for reading in every):
        watchers.setdefault(name, []).append(outputs[name].see)

    def tell(listeners: list[Callable[[Tensor], None]], value: Tensor) -> None:
        for listener in listeners:
            listener(value)

    for part in images.split(BATCH):
        watch(graph_model.module, part, {name: partial(tell, listeners) for name, listeners in watchers.items()})
    return found


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups == layer.in_channels > 1
