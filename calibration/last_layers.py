"""What 8 bits in the last layer of a head cost its outputs, measured on images.

Errors of a last layer go straight into the outputs, and arithmetic that follows may make them larger: `exp` of a box does. So
each last layer is quantized by itself, as the plan says: its weight, and of a convolution the tensor that it writes. Then the
outputs are compared with those in float, each as its kind compares (`ptq.tasks.kinds`).

A loss over all numbers does not see what happens to small ones beside large ones, scores beside boxes in one tensor. So
of an output of plain numbers the layer's channels count, too, each by its own variance; whichever is more is the error.
The mean error of a channel is left out: the bias takes it (`ptq.reconstruction.bias_correction`).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from ptq.calibration.observers import mse, weight_range
from ptq.graph.blocks import Chain, compose, extract
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input, watch
from ptq.graph.preparation import GraphModel
from ptq.graph.rows import rows_of
from ptq.quantization.affine import fake_quant, per_channel, qparams
from ptq.quantization.edges import heads
from ptq.quantization.integer_ops import tail
from ptq.quantization.spec import QuantPlan
from ptq.tasks.kinds import TINY
from ptq.tasks.outputs import Output, named
from ptq.tasks.task import Task
from ptq.utils.sampling import evenly

__all__ = ["measure_last_layers", "too_costly"]

IMAGES, BATCH = 16, 4
SAMPLE = 1 << 13  # numbers of a batch that a range is found from
PRECISE = 1e-6  # a channel's variance is at least this share of its mean square
Errors = dict[str, dict[str, float]]


@torch.no_grad()
def measure_last_layers(graph_model: GraphModel, plan: QuantPlan, inputs: Tensor) -> Errors:
    """Return what every last layer costs at the bits of a plan: layer -> output -> error.

    Takes two passes of the float network over 16 images.

    Args:
        graph_model: the float network; it computes where it is.
        plan: of it.
        inputs: images as the network takes them, (N, C, H, W), normalized; up to 16 of them are used.

    Returns:
        The last layers that the plan quantizes, with the outputs that they change. Empty for a classifier: its last
        layer always has 8 bits.

    Example:
        >>> two = ptq.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), (3, 16, 16))
        >>> errors = measure_last_layers(two, ptq.make_plan(two, 8), images)
        >>> errors["_2"]["output"] < 0.001
        True
    """
    graph = graph_model.module
    last, behind = heads(graph_model)
    layers = [_LastLayer(graph, node, plan) for node in last if node.name in plan.weights]
    if not layers:
        return {}
    rest = _computed_from(graph, behind)
    names = {*rest.inputs, *(layer.name for layer in layers), *(layer.read for layer in layers)}
    batches = evenly(inputs, IMAGES).split(BATCH)
    for tensors in _passes(graph, batches, names):
        for layer in layers:
            layer.observe(tensors[layer.read], tensors[layer.name])
    for layer in layers:
        layer.decide()
    costs = {layer.name: _Cost(graph_model.task) for layer in layers}
    for tensors in _passes(graph, batches, names):
        alive = {name: _by_image(graph, name, tensors[name]) for name in rest.inputs}
        wanted = rest(alive)
        for layer in layers:
            given = layer.quantized(tensors[layer.read])
            cost = costs[layer.name]
            cost.add_channels(layer.rows(layer.activation(tensors[layer.name])), layer.rows(given))
            cost.add_outputs(wanted, rest(alive | {layer.name: _by_image(graph, layer.name, given)}))
    return {name: cost.errors() for name, cost in costs.items()}


def too_costly(errors: Mapping[str, Mapping[str, float]], task: Task) -> Errors:
    """Return the layers that cost more than their outputs tolerate (`ptq.tasks.kinds.Kind`), with those outputs.

    Example:
        >>> task = ptq.find_task({"boxes": torch.rand(2, 7, 4)}, (3, 16, 16))
        >>> too_costly({"wide": {"boxes": 0.02}, "narrow": {"boxes": 0.0002}}, task)
        {'wide': {'boxes': 0.02}}
    """
    beyond = {
        layer: {name: error for name, error in each.items() if not error <= task.kind(name).tolerance}  # NaN is
        for layer, each in errors.items()
    }
    return {layer: each for layer, each in beyond.items() if each}


def _computed_from(graph: fx.GraphModule, behind: set[fx.Node]) -> Chain:
    """What follows the last layers, up to the network's output."""
    nodes = [n for n in graph.graph.nodes if n in behind and n.op not in ("placeholder", "get_attr", "output")]
    return compose(graph, [extract(graph, nodes)] if nodes else [])


def _passes(graph: fx.GraphModule, batches: Iterable[Tensor], names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield per batch of images the tensors of these names."""
    device = next(graph.parameters()).device
    for batch in batches:
        found: dict[str, Tensor] = {}
        watch(graph, batch.to(device), {name: partial(found.__setitem__, name) for name in names})
        yield found


def _by_image(graph: fx.GraphModule, name: str, value: Tensor) -> Tensor:
    """A tensor as blocks hand it over: an image is one row."""
    rows = next(rows_of(node) for node in graph.graph.nodes if node.name == name)
    return value.unflatten(0, (-1, rows)) if rows > 1 else value


class _LastLayer:
    """A last layer by itself, at the bits of a plan."""

    def __init__(self, graph: fx.GraphModule, node: fx.Node, plan: QuantPlan) -> None:
        op = module_of(graph, node)
        assert isinstance(op, LAYERS)
        written, spec = tail(graph, node), plan.weights[node.name]
        self.name, self.read, self.op = node.name, sole_input(node).name, op
        self.activation = nn.Identity() if written is node else graph.get_submodule(str(written.target))
        self.axis = -1 if isinstance(op, nn.Linear) else 1
        scale, zero_point = (
            per_channel(x, op.weight, spec.axis) for x in qparams(*weight_range(op.weight, spec), spec)
        )
        self.weight = fake_quant(op.weight, scale, zero_point, spec.qmin, spec.qmax)
        self.spec = plan.activations.get(written.name)
        self.sampled: list[Tensor] = []
        self.mean_errors: list[Tensor] = []

    def observe(self, read: Tensor, given: Tensor) -> None:
        """Take in what the layer reads and gives in float."""
        self.mean_errors.append(self.rows(self._computed(read) - given).mean(0))
        flat = self.activation(given).flatten()
        self.sampled.append(torch.cat([flat[:: max(1, len(flat) // SAMPLE)], flat.min()[None], flat.max()[None]]))

    def decide(self) -> None:
        """Find the mean error, and the range of what the layer writes."""
        self.mean_error = torch.stack(self.mean_errors).mean(0)
        if self.spec is not None:
            self.grid = qparams(*mse(torch.cat(self.sampled), self.spec), self.spec)

    def quantized(self, read: Tensor) -> Tensor:
        """Return what the layer gives with its bits, its activation included."""
        given = self._computed(read)
        given = self.activation(given - per_channel(self.mean_error, given, self.axis))
        return given if self.spec is None else fake_quant(given, *self.grid, self.spec.qmin, self.spec.qmax)

    def rows(self, values: Tensor) -> Tensor:
        """What the layer gives with the channels behind, (n, C)."""
        return values.movedim(self.axis, -1).flatten(0, -2)

    def _computed(self, read: Tensor) -> Tensor:
        given: Tensor = functional_call(self.op, {"weight": self.weight}, (read,))
        return given


class _Cost:
    """What is summed up about the errors of a last layer."""

    def __init__(self, task: Task) -> None:
        self.task, self.images = task, 0
        self.channels: list[Tensor] = []
        self.losses: dict[str, float] = {}

    def add_channels(self, wanted: Tensor, given: Tensor) -> None:
        """Take in what the layer gives in float and quantized, (n, C)."""
        wanted, given = wanted.double(), given.double()
        self.channels.append(torch.stack([wanted.mean(0), wanted.square().mean(0), (given - wanted).square().mean(0)]))

    def add_outputs(self, wanted: Output, given: Output) -> None:
        """Take in the network's outputs in float, and with the layer quantized."""
        theirs, ours = named(wanted), named(given)
        for name in self.task.kinds:
            if torch.equal(ours[name], theirs[name]):
                continue
            loss = float(self.task.kind(name).loss(ours[name].double(), theirs[name].double()))
            self.losses[name] = self.losses.get(name, 0.0) + loss * len(theirs[name])
        self.images += len(next(iter(theirs.values())))

    def errors(self) -> dict[str, float]:
        """Return the error of every output that was changed."""
        mean, square, error = torch.stack(self.channels).mean(0)
        variance = torch.maximum(square - mean.square(), PRECISE * square).clamp(min=TINY)
        share = float((error / variance).clamp(max=1).mean())
        found = {name: loss / self.images for name, loss in self.losses.items()}
        return {name: max(loss, share) if self.task.kinds[name] == "generic" else loss for name, loss in found.items()}
