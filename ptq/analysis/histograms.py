"""What the worst layers of a quantized model hold, and where their grids lie: small histograms for a report."""

import math
from functools import partial

import torch
from torch import Tensor, fx

from ptq.analysis.accumulators import Noise
from ptq.analysis.distributions import Histogram, LayerDistribution
from ptq.graph.fx_helpers import LAYERS, module_of, sole_input, watch
from ptq.quantization.affine import per_channel
from ptq.quantization.layers import Layer, QuantLayer
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer, WeightQuantizer

__all__ = ["worst_layers"]

BINS = 96


@torch.no_grad()
def worst_layers(quantized_model: QuantizedModel, inputs: Tensor, *, count: int = 6) -> list[LayerDistribution]:
    """Return the layers that lose most by themselves, the worst first.

    One pass of the float network: every layer is computed in float and quantized on what it reads there.

    Args:
        quantized_model: calibrated, with the weights of its float network; both on one device.
        inputs: a few images as the network takes them, (N, C, H, W); all go through at once.
        count: how many layers.

    Raises:
        InputError: when the quantized model has not been calibrated, or was loaded without its float network.

    Example:
        >>> worst, *others = worst_layers(quantized_model, images[:4], count=3)
        >>> all(worst.sqnr <= layer.sqnr for layer in others)
        True
    """
    quantized_model.require_calibrated()
    graph, layers = quantized_model.require_float_model().module, quantized_model.layers()
    consumers: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        if node.name in layers and isinstance(module_of(graph, node), LAYERS):
            consumers.setdefault(sole_input(node).name, []).append(node)
    found: list[LayerDistribution] = []

    def look(nodes: list[fx.Node], x: Tensor) -> None:
        for node in nodes:
            op = module_of(graph, node)
            assert isinstance(op, LAYERS)
            found.append(_measured(node.name, op, layers[node.name], x))

    device = next(iter(graph.state_dict().values()), inputs).device
    watch(graph, inputs.to(device), {name: partial(look, nodes) for name, nodes in consumers.items()})
    return sorted(found, key=lambda layer: layer.sqnr)[:count]


def _measured(name: str, op: Layer, layer: QuantLayer, x: Tensor) -> LayerDistribution:
    quantizer, noise = layer.input_quantizer, Noise()
    noise.add(op(x), layer(x if quantizer is None else quantizer(x)))
    return LayerDistribution(
        name=name,
        sqnr=noise.db(),
        bits=layer.weight_quantizer.spec.bits,
        input_bits=None if quantizer is None else quantizer.spec.bits,
        weight=_of_weight(op.weight, layer.weight_quantizer),
        input=None if quantizer is None else _of_input(x, quantizer),
    )


def _of_weight(weight: Tensor, quantizer: WeightQuantizer) -> Histogram:
    steps = weight / per_channel(quantizer.scale, weight, quantizer.spec.axis)
    return _histogram(steps, 1.0, float(quantizer.spec.qmin), float(quantizer.spec.qmax))


def _of_input(x: Tensor, quantizer: Quantizer) -> Histogram:
    spec, step, zero = quantizer.spec, float(quantizer.scale), float(quantizer.zero_point)
    return _histogram(x, step, (spec.qmin - zero) * step, (spec.qmax - zero) * step)


def _histogram(values: Tensor, step: float, grid_low: float, grid_high: float) -> Histogram:
    """Count numbers in bins that cover all of them and the whole grid; what is not finite does not count."""
    values = values.float().flatten()
    values = values[values.isfinite()]
    low, high = grid_low - step / 2, grid_high + step / 2
    beyond = (values < low) | (values > high)
    if len(values):
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    counts = torch.histc(values, BINS, low, high).long().tolist()
    return Histogram(
        low=_short(low),
        high=_short(high),
        counts=tuple(counts),
        step=_short(step),
        grid_low=_short(grid_low),
        grid_high=_short(grid_high),
        clipped=float(beyond.float().mean()) if len(values) else 0.0,
    )


def _short(number: float) -> float:
    """As many digits as anybody can see in a plot."""
    return float(f"{number:.5g}") if math.isfinite(number) else number
