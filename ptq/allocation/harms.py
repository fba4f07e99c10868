"""What a network's output suffers when the weights of one layer, or of several, have fewer bits; all else is in float.

Weights are rounded in closed form (`ptq.allocation.rounding`): what the nearest codes do says little of what tuned ones will.
What comes before a layer's block is computed once, and only the rest of the network runs for every width.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from ptq.allocation.rounding import feedback_rounding
from ptq.analysis.accumulators import Change
from ptq.calibration.observers import weight_range
from ptq.graph.blocks import Block, compose, named_inputs, split
from ptq.graph.cutting import assign_blocks
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input, watch
from ptq.graph.preparation import GraphModel
from ptq.progress import SILENT, Progress
from ptq.pruning.repair_steps.patches import Layer, matrix_of, patches_of, weight_of
from ptq.quantization.affine import per_channel, qparams
from ptq.quantization.layers import weight_axis
from ptq.quantization.spec import QuantSpec

__all__ = [
    "BATCH",
    "Measured",
    "RoundedWeight",
    "measure_harms",
    "measure_together",
    "rounded_network",
    "share_of_noise",
]

BATCH = 16  # images at a time: their activations within one block are what is in memory
TOGETHER = 8192  # inputs of an output, whose rounding makes good for one another: products of all of 25,088 would take 5 GB, and an hour
PATCHES = 8192  # of a layer's input, from all images: enough for their second moments
WORST = 1e6  # a harm that is infinite, since the output is nothing but error


@dataclass(frozen=True)
class RoundedWeight:
    """A weight of few bits.

    Args:
        codes: int8, shaped like the weight.
        scale: what a code stands for, per output channel, (C,).
        axis: of the output channels.
    """

    codes: Tensor
    scale: Tensor
    axis: int

    def __call__(self) -> Tensor:
        """Return the real numbers that the codes stand for."""
        return self.codes * per_channel(self.scale, self.codes, self.axis)


Rounded = dict[str, dict[int, RoundedWeight]]
Pieces = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Measured:
    """What several rounded layers do together.

    Args:
        harm: squared error of the output as a share of the squared output.
        loss: as the network's task counts it.
    """

    harm: float
    loss: float


@torch.no_grad()
def measure_harms(
    graph_model: GraphModel,
    widths: Mapping[str, Sequence[int]],
    inputs: Tensor,
    others: Tensor,
    *,
    progress: Progress = SILENT,
) -> tuple[dict[str, dict[int, float]], Rounded]:
    """Return the harm of each width of each layer alone, and the weights rounded to it.

    Args:
        graph_model: the float network; it computes where its module is.
        widths: node of a layer -> the bits that its weights can have.
        inputs: images as the network takes them, (N, C, H, W), normalized.
        others: images that weights are rounded by: on those, a layer of many inputs looks as if it lost nothing.
        progress: told of every layer.

    Returns:
        Layer -> bits -> harm, `Measured.harm`; and layer -> bits -> weight.

    Example:
        >>> harms, weights = measure_harms(graph_model, {"blocks_0_conv1": (2, 8)}, images[::2], images[1::2])
        >>> harms["blocks_0_conv1"][2] > harms["blocks_0_conv1"][8]
        True
    """
    graph = graph_model.module
    blocks = split(graph, assign_blocks(graph))
    device = next(graph.parameters()).device
    alive, rounds_by = (
        [named_inputs(graph, piece.to(device)) for piece in images.split(BATCH)] for images in (inputs, others)
    )
    outputs = [graph(*piece.values()) for piece in alive]
    names = {str(node.target): node.name for node in graph.graph.nodes if node.name in widths}
    harms: dict[str, dict[int, float]] = {}
    weights: Rounded = {}
    with progress.stage("measure widths", len(widths)) as task:
        for index, block in enumerate(blocks):
            rest = compose(graph, blocks[index + 1 :])
            for node in block.module.graph.nodes:
                if node.op != "call_module" or (name := names.get(str(node.target))) is None:
                    continue
                layer = module_of(block.module, node)
                assert isinstance(layer, LAYERS)
                moments = _moments(block, node, layer, rounds_by)
                weights[name] = {bits: _rounded(layer, moments, bits) for bits in widths[name]}
                harms[name] = {}
                for bits, weight in weights[name].items():
                    change = Change(graph_model.task)
                    with _weight(layer, weight()):
                        for before, output in zip(alive, outputs, strict=True):
                            change.add(output, rest({**before, **block(before)}))
                    harms[name][bits] = share_of_noise(change.cost().sqnr)
                task.advance()
            alive, rounds_by = (
                [rest.alive(before, block(before)) for before in pieces] for pieces in (alive, rounds_by)
            )
    return harms, weights


@torch.no_grad()
def measure_together(graph_model: GraphModel, weights: Mapping[str, RoundedWeight], inputs: Tensor) -> Measured:
    """Return what layers do to the network's output when all of them have rounded weights.

    Args:
        graph_model: the float network.
        weights: by the layers' nodes.
        inputs: as the network takes them, (N, C, H, W).
    """
    change = Change(graph_model.task)
    pieces = inputs.to(next(graph_model.module.parameters()).device).split(BATCH)
    wanted = [graph_model.module(piece) for piece in pieces]
    with rounded_network(graph_model, weights) as network:
        for piece, output in zip(pieces, wanted, strict=True):
            change.add(output, network(piece))
    cost = change.cost()
    return Measured(share_of_noise(cost.sqnr), cost.loss)


@contextmanager
def rounded_network(graph_model: GraphModel, weights: Mapping[str, RoundedWeight]) -> Iterator[fx.GraphModule]:
    """Give layers of a float network rounded weights as long as the context lasts."""
    graph = graph_model.module
    with ExitStack() as stack:
        for node in graph.graph.nodes:
            if node.name in weights:
                layer = module_of(graph, node)
                assert isinstance(layer, LAYERS)
                stack.enter_context(_weight(layer, weights[node.name]()))
        yield graph


@contextmanager
def _weight(layer: Layer, weight: Tensor) -> Iterator[None]:
    own = layer.weight
    layer.weight = nn.Parameter(weight.to(own), requires_grad=False)
    try:
        yield
    finally:
        layer.weight = own


def _moments(block: Block, node: fx.Node, layer: Layer, alive: Pieces) -> list[Tensor]:
    """Sums of products of what a layer multiplies with its weights, of parts of these, (groups, inputs, inputs) each."""
    totals: list[Tensor] = []
    size, source = _part(matrix_of(layer).shape[-1]), sole_input(node).name
    for before in alive:
        found: dict[str, Tensor] = {}
        watch(block.module, [before[name] for name in block.inputs], {source: partial(found.__setitem__, source)})
        patches = patches_of(layer, found[source]).permute(1, 2, 0, 3).flatten(2)
        patches = patches[..., :: max(1, patches.shape[-1] * len(alive) // PATCHES)]
        products = [(part @ part.mT).double() for part in patches.split(size, 1)]
        totals = [a + b for a, b in zip(totals, products, strict=True)] if totals else products
    return totals


def _part(inputs: int) -> int:
    """How many inputs are rounded together: all, or equal parts of them where they are very many, as behind a flatten."""
    return math.ceil(inputs / math.ceil(inputs / TOGETHER))


def _rounded(layer: Layer, moments: Sequence[Tensor], bits: int) -> RoundedWeight:
    axis = weight_axis(layer)
    spec = QuantSpec(bits, signed=True, symmetric=True, axis=axis)
    scale, _ = qparams(*weight_range(layer.weight, spec), spec)
    matrix = matrix_of(layer)
    of_rows = scale.repeat(len(matrix)) if isinstance(layer, nn.ConvTranspose2d) else scale
    of_rows, parts = of_rows.reshape(matrix.shape[:2]), matrix.split(_part(matrix.shape[-1]), -1)
    codes = torch.cat([feedback_rounding(*pair, of_rows, spec) for pair in zip(parts, moments, strict=True)], -1)
    return RoundedWeight(weight_of(layer, codes).to(torch.int8), scale, axis)


def share_of_noise(decibels: float) -> float:
    """Return the squared error as a share of the square, from a signal-to-noise ratio."""
    return min(WORST, float(10 ** (-decibels / 10)))
