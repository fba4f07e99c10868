"""What a coupled channel is worth: how much is lost without it, on the images. Each score is one function.

l1              the filters' weights, without images (Li et al., ICLR 2017)
activation      what the channel brings into the layers that read it: weights times activations
gradient        the change of the predictions, to first order (Molchanov et al., CVPR 2019; Theis et al., 2018)
reconstruction  what those layers lose that their other inputs cannot replace (OBS, Hassibi & Stork, 1993)
divergence      the same, and what such an error changes in the predictions
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.graph.fx_helpers import sole_input, watch
from ptq.graph.preparation import GraphModel
from ptq.pruning.coupling.channel_map import ChannelMap, read_axis
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.selection.allocation import growth
from ptq.pruning.selection.weights import weights_by_input, weights_by_output

__all__ = ["SCORES", "WITH_GRADIENTS", "changes"]

BATCH = 16  # images at a time
# Synthesized images are what a network is surest of: at 1 few of them have gradients, and these few decide. With MixMix images ResNet-20 at half
# its cost came to 64 % in closed form at 1, and comes to 77 % at 4 (docs/measured/pruning.md).
TEMPERATURE = 4.0
TINY = 1e-30
DAMPING = 1e-4  # of the mean variance: what else two equal channels would both be worth nothing


def l1(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the L1 norm of the filters that write a channel, relative to the mean of their layer."""
    total = torch.zeros(channels.count, dtype=torch.float64)
    times = torch.zeros_like(total)
    for name, ids in channels.writers.items():
        norms = weights_by_output(_layer(graph_model, name)).double().abs().sum(1).cpu()
        total.index_add_(0, ids, norms / norms.mean().clamp(min=TINY))
        times.index_add_(0, ids, torch.ones_like(norms))
    return total / times.clamp(min=1)


def activation(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the energy that a channel has in the outputs of its readers, as a share of their variance, summed."""
    statistics = _statistics(graph_model, channels, images)
    return _summed(channels, {name: s.covariance.diagonal() + s.mean**2 for name, s in statistics.items()}, statistics)


def reconstruction(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return what the outputs of the readers lose when a channel goes as the next one of its group, as a share of their variance.

    Channel by channel the one goes that costs least, and the other inputs of its readers make good what they can at the same
    pixel, by least squares. So the scores of all that a group loses add up to the error that is left, where one alone
    of two channels that can replace each other is worth nothing.
    """
    return _eliminated(channels, _statistics(graph_model, channels, images))


def divergence(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the same as `reconstruction`, where errors of an output count by its mean squared gradients: in nats.

    Half the error times the squared gradient is what the divergence of the predictions grows, to second order.
    """
    statistics = _statistics(graph_model, channels, images)
    curvature = _curvature(graph_model, list(statistics), images)
    for name, worth in curvature.items():
        statistics[name].worth = worth
    return _eliminated(channels, statistics)


def gradient(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return half the mean square of the loss's first-order change, image by image: to second order, what the KL grows."""
    return growth(changes(graph_model, channels, images))


def changes(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> Tensor:
    """Return the first-order change of every image's loss with each channel, float64 (images, channels.count).

    The loss is that of the network's own predictions (`Task.surprise`), whose squared gradients are the curvature of the KL;
    the KL itself has no gradient where nothing is changed yet.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for part in images.split(BATCH):
        gates = torch.ones(len(part), channels.count, device=part.device, requires_grad=True)
        with torch.enable_grad():
            output = _Gated(graph_model.module, channels.readers, gates).run(part)
            (grad,) = torch.autograd.grad(graph_model.task.surprise(output, generator, TEMPERATURE), gates)
        found.append(grad.double().cpu())
    return torch.cat(found)


SCORES: Mapping[str, Callable[[GraphModel, ChannelMap, Tensor], Tensor]] = {
    "l1": l1,
    "activation": activation,
    "gradient": gradient,
    "reconstruction": reconstruction,
    "divergence": divergence,
}
"""Each takes a network, its channels, and images as the network takes them; gives float64 (channels.count,)."""

WITH_GRADIENTS = ("gradient", "divergence")
"""The scores that need gradients of the outputs."""


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


def _eliminated(channels: ChannelMap, statistics: Mapping[str, "_Statistics"]) -> Tensor:
    total = torch.zeros(channels.count, dtype=torch.float64)
    for group in find_groups(channels):
        among = [_Elimination(s) for s in statistics.values() if bool(torch.isin(group.ids, s.ids).any())]
        rest, worst = group.ids, 0.0
        while len(rest):
            losses = sum((one.losses(rest) for one in among), torch.zeros(len(rest)).double())
            least = int(losses.argmin())
            worst = max(float(losses[least]), worst * (1 + 1e-9))  # later ones are worth no less, so that they stay
            total[rest[least]] = worst
            for one in among:
                one.remove(int(rest[least]))
            rest = torch.cat([rest[:least], rest[least + 1 :]])
    return total


class _Elimination:
    """Inputs of one layer that go one by one, while least squares over the others makes up for them (OBS)."""

    def __init__(self, statistics: "_Statistics") -> None:
        s = statistics
        damping = DAMPING * s.covariance.diagonal().mean().clamp(min=TINY)
        self.precision = torch.linalg.inv(s.covariance + damping * torch.eye(len(s.mean), dtype=torch.float64))
        self.products = s.weight_products
        self.position = torch.full((int(s.ids.max()) + 2,), -1)
        self.position[s.ids] = torch.arange(len(s.ids))

    def losses(self, ids: Tensor) -> Tensor:
        """What each would cost if it went next."""
        at = self.position[ids.clamp(max=len(self.position) - 1)]
        losses = self.products.diagonal()[at].clamp(min=0) / self.precision.diagonal()[at].clamp(min=TINY)
        return torch.where(at >= 0, losses, 0.0)

    def remove(self, i: int) -> None:
        """Let one go: what it brought is spread over the weights of the others."""
        at = int(self.position[min(i, len(self.position) - 1)])
        if at < 0:
            return
        row, weight = self.precision[at].clone(), self.products[at].clone()
        part = row / row[at]
        self.precision -= part.outer(row)
        self.products += weight[at] * part.outer(part) - part.outer(weight) - weight.outer(part)
        self.precision[at, at] = 1.0


class _Statistics:
    """Sums over images of what one layer reads and gives.

    What it reads of a coupled channel at several places (behind a flatten) counts as several pixels.
    """

    def __init__(self, layer: nn.Module, ids: Tensor) -> None:
        self.layer = layer
        self.ids, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
        self.inverse, self.counts = inverse, counts
        self.order = inverse.argsort(stable=True)
        size = len(self.ids)
        self.n = 0
        self.sum, self.products = torch.zeros(size).double(), torch.zeros(size, size).double()
        self.outputs = 0
        self.output_sum = self.output_squares = torch.zeros(()).double()
        self.worth: Tensor | None = None  # of an error of every output, (outputs,); else all share their variance

    def read(self, x: Tensor) -> None:
        rows = x.movedim(read_axis(self.layer, x.dim()), -1).flatten(0, -2)
        if bool((self.counts == self.counts[0]).all()):
            rows = rows[:, self.order.to(x.device)].reshape(len(rows), len(self.ids), -1).transpose(1, 2).flatten(0, 1)
        else:
            mean = torch.zeros(len(rows), len(self.ids), device=x.device, dtype=x.dtype)
            rows = mean.index_add_(1, self.inverse.to(x.device), rows) / self.counts.to(x.device)
        self.n += len(rows)
        self.sum += rows.sum(0, dtype=torch.float64).cpu()
        self.products += (rows.T @ rows).double().cpu()

    def gave(self, y: Tensor) -> None:
        rows = y.movedim(read_axis(self.layer, y.dim()), -1).flatten(0, -2)
        self.outputs += len(rows)
        self.output_sum = self.output_sum + rows.sum(0, dtype=torch.float64).cpu()
        self.output_squares = self.output_squares + rows.square().sum(dtype=torch.float64).cpu()

    @property
    def mean(self) -> Tensor:
        return self.sum / self.n

    @property
    def covariance(self) -> Tensor:
        return self.products / self.n - self.mean.outer(self.mean)

    @property
    def output_variance(self) -> Tensor:
        return self.output_squares / self.outputs - (self.output_sum / self.outputs).square().sum()

    @property
    def weight_products(self) -> Tensor:
        """Products of the weights of every two coupled channels, (channels, channels), by what outputs count; of places that match."""
        weights = weights_by_input(self.layer).double().cpu()
        if self.worth is None:
            weights = weights / self.output_variance.clamp(min=TINY).sqrt()
        else:
            groups = getattr(self.layer, "groups", 1)
            roots = self.worth.sqrt().reshape(groups, 1, -1, 1)
            weights = (
                weights.reshape(groups, -1, roots.shape[2], weights[0].numel() // roots.shape[2]) * roots
            ).reshape(weights.shape)
        if bool((self.counts == self.counts[0]).all()):
            weights = weights[self.order].reshape(len(self.ids), -1)
            return weights @ weights.T
        squares = weights.square().sum(1)
        return torch.diag(torch.zeros(len(self.ids)).double().index_add_(0, self.inverse, squares))


def _statistics(graph_model: GraphModel, channels: ChannelMap, images: Tensor) -> dict[str, _Statistics]:
    nodes = {node.name: node for node in graph_model.module.graph.nodes}
    found = {name: _Statistics(_layer(graph_model, name), ids) for name, ids in channels.readers.items()}
    watchers: dict[str, list[Callable[[Tensor], None]]] = {}
    for name, statistics in found.items():
        watchers.setdefault(sole_input(nodes[name]).name, []).append(statistics.read)
        watchers.setdefault(name, []).append(statistics.gave)

    def tell(listeners: list[Callable[[Tensor], None]], value: Tensor) -> None:
        for listener in listeners:
            listener(value)

    for part in images.split(BATCH):
        watch(graph_model.module, part, {name: partial(tell, listeners) for name, listeners in watchers.items()})
    return found


def _curvature(graph_model: GraphModel, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Half the squared gradients of the network's own predictions for every output of some layers, (outputs,): sums over an image."""
    found: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for part in images.split(BATCH):
        with torch.enable_grad():
            runner = _Keeping(graph_model.module, set(names))
            loss = graph_model.task.surprise(runner.run(part.clone().requires_grad_()), generator)
            grads = torch.autograd.grad(loss, [runner.kept[name] for name in names], materialize_grads=True)
        for name, grad in zip(names, grads, strict=True):
            axis = read_axis(_layer(graph_model, name), grad.dim())
            squares = grad.square().movedim(axis, 0).flatten(1).sum(1, dtype=torch.float64).cpu() / (2 * len(images))
            found[name] = found[name] + squares if name in found else squares
    return found


class _Keeping(fx.Interpreter):
    """Runs a network and keeps what some of its nodes give."""

    def __init__(self, graph: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph)
        self.names, self.kept = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.kept[n.name] = value
        return value


def _summed(channels: ChannelMap, energies: Mapping[str, Tensor], statistics: Mapping[str, _Statistics]) -> Tensor:
    """Sum over readers: energy of an input, times its squared weights, over the variance of the output."""
    total = torch.zeros(channels.count, dtype=torch.float64)
    for name, energy in energies.items():
        s = statistics[name]
        total.index_add_(0, s.ids, energy * s.weight_products.diagonal())
    return total


def _layer(graph_model: GraphModel, name: str) -> nn.Module:
    return next(graph_model.module.get_submodule(str(n.target)) for n in _calls(graph_model) if n.name == name)


def _calls(graph_model: GraphModel) -> Iterator[fx.Node]:
    return (node for node in graph_model.module.graph.nodes if node.op == "call_module")
