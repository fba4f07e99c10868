"""What the loss of every image changes, to first order, where channels go: each for itself, or with another in its place.

The loss is that of the network's own predictions (`Task.surprise`), whose squared gradients are the curvature of the KL; the KL itself has no
gradient where nothing is changed yet.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, read_axis
from ptq.pruning.selection.reading import BATCH, Reading

__all__ = ["changes", "exchanges", "growth", "rows_of_exchanges"]

# Synthesized images are what a network is surest of: at 1 few of them have gradients, and these few decide. With MixMix images ResNet-20 at half
# its cost came to 64 % in closed form at 1, and to 77 % at 4.
TEMPERATURE = 4.0
LARGEST = 2**23  # numbers of one reading's exchanges; where channels are more, images are added up
LEAST = 16  # sums of a half of the images: of both, growth is then within a quarter of what all images say


def growth(change: Tensor) -> Tensor:
    """Return what the divergence of the predictions grows, to second order: half the mean square over images of the loss's change.

    Args:
        change: of every image's loss, to first order, (images, n).
    """
    return change.square().mean(0) / 2


def changes(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the change of every image's loss with each channel, float64 (images, channels.count)."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for part in images.split(BATCH):
        gates = torch.ones(len(part), channels.count, device=part.device, requires_grad=True)
        with torch.enable_grad():
            output = _Gated(graph_model.module, channels.readers, gates).run(part)
            (grad,) = torch.autograd.grad(graph_model.task.surprise(output, generator, TEMPERATURE), gates)
        found.append(grad.double().cpu())
    return torch.cat(found)


def rows_of_exchanges(group_size: int, images: int) -> int:
    """Return in how many rows `exchanges` of a group are told: those of all images, or sums of images where channels are many.

    Example:
        >>> rows_of_exchanges(64, 256), rows_of_exchanges(512, 256), rows_of_exchanges(2048, 256)
        (256, 32, 16)
    """
    return min(images, max(LEAST, LARGEST // group_size**2))


def exchanges(graph_model: GraphModel, readings: Sequence[Reading], images: Tensor) -> list[Tensor]:
    """Return for every reading what the loss changes where a channel c of its group goes, and where another, j, stands in for it.

    At c, c: what it brings above its mean goes. At c, j: what c's reader would gain by as much of j in its place. So with the factors b of
    least squares, what is lost without c is [c, c] less the sum over j of b[j] [c, j].

    Args:
        readings: of the same network.
        images: as the network takes them, (N, C, H, W).

    Returns:
        float32 (len(group), len(group), rows) each: by c, j and image. Where channels are many, rows are sums of images with random weights of
        the same mean square (Johnson and Lindenstrauss, 1984), the same for all readings of a group.
    """
    found = [torch.zeros(len(r.group) ** 2, rows_of_exchanges(len(r.group), len(images))) for r in readings]
    mixing = {rows: _mixing(len(images), rows) for rows in {sums.shape[1] for sums in found}}
    names = {reading.name for reading in readings}
    generator = torch.Generator().manual_seed(0)
    for number, part in enumerate(images.split(BATCH)):
        with torch.enable_grad():
            runner = _Keeping(graph_model.module, names)
            loss = graph_model.task.surprise(runner.run(part.clone().requires_grad_()), generator, TEMPERATURE)
            read = list(runner.read)
            grads = torch.autograd.grad(loss, [runner.read[name] for name in read], materialize_grads=True)
        gradient = dict(zip(read, grads, strict=True))
        for reading, sums in zip(readings, found, strict=True):
            x = reading.rows(runner.read[reading.name].detach(), len(part)) - reading.mean.to(part)
            g = reading.rows(gradient[reading.name], len(part), summed=True)
            products = (g.mT @ x).flatten(1).cpu()
            sums += products.T @ mixing[sums.shape[1]][number * BATCH :][: len(part)]
    return [sums.reshape(len(r.group), len(r.group), -1) for r, sums in zip(readings, found, strict=True)]


def _mixing(images: int, rows: int) -> Tensor:
    """The weight that every image has in every row, (images, rows)."""
    if rows == images:
        return torch.eye(images)
    return torch.randn(images, rows, generator=torch.Generator().manual_seed(0)) / math.sqrt(images)


class _Keeping(fx.Interpreter):
    """Runs a network and keeps what some of its layers read, each for itself."""

    def __init__(self, graph: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph)
        self.names, self.read = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.names:
            return super().run_node(n)
        (x, *_), _ = self.fetch_args_kwargs_from_env(n)
        self.read[n.name] = x = x.clone()
        return self.call_module(str(n.target), (x,), {})


class _Gated(fx.Interpreter):
    """Runs a network whose layers read every coupled channel times a gate of the image."""

    def __init__(self, graph: fx.GraphModule, readers: Mapping[str, Tensor], gates: Tensor) -> None:
        super().__init__(graph)
        self.readers, self.gates = readers, gates

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.readers:
            return super().run_node(n)
        (x, *_), _ = self.fetch_args_kwargs_from_env(n)
        gates = self.gates[:, self.readers[n.name]].repeat_interleave(len(x) // len(self.gates), 0)
        view = [len(x), *[1] * (x.dim() - 1)]
        view[read_axis(self.fetch_attr(str(n.target)), x.dim())] = -1
        return self.call_module(str(n.target), (x * gates.reshape(view),), {})
