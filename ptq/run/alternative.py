"""What a file of the same size could hold if every layer had bits of its own: measured where that takes little of a run's time."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ptq.allocation.allocate import OF_ALL, RESERVE, allocate, find_choices
from ptq.allocation.harms import BATCH, measure_together
from ptq.allocation.results import Alternative
from ptq.allocation.rounding import feedback_rounding
from ptq.allocation.widths import change_widths
from ptq.config.bit_budget import bit_budget
from ptq.config.choices import MAX_BITS, REDUCED_BITS
from ptq.config.settings import Settings
from ptq.export.packing import supported
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantSpec
from ptq.run.allocation import fixed_layers
from ptq.tasks.outputs import named
from ptq.utils.sampling import evenly

__all__ = ["find_alternative"]

SHARE = 0.1  # of the time that the run has taken
WIDTHS = 3  # of a layer, as a rule
SHORTEST = 4.0  # seconds: with few images, most of the time goes into the file and the solver
LEAST, MOST = 8, 32  # images


def find_alternative(
    settings: Settings, quantized_model: QuantizedModel, inputs: Tensor, metadata: Mapping[str, str], seconds: float
) -> Alternative | None:
    """Compare the bits that all layers of a run have with the best that a file of the same size can hold.

    Args:
        settings: of the run.
        quantized_model: with its float network; it stays as it is.
        inputs: images as the network takes them, (N, C, H, W), normalized; some are used.
        metadata: of the file.
        seconds: that the run has taken; a tenth of it is what this may take.

    Returns:
        The comparison; None where bits have a budget, where weights take a byte each, or where it would take too long.
    """
    given = settings.quantization
    packed = settings.output.format != "int8" and any(given.bits <= container.bits for container in supported())
    if not packed or bit_budget(given) is not None or SHARE * seconds < SHORTEST:
        return None
    count = min(_affordable(quantized_model, inputs, SHARE * seconds), len(inputs) // OF_ALL)
    if count < LEAST:
        return None
    float_model = quantized_model.require_float_model()
    fixed = fixed_layers(given, float_model)
    most = REDUCED_BITS if given.reduce_range else MAX_BITS
    bits = {name: spec.bits for name, spec in quantized_model.plan.weights.items()}
    wide = change_widths(quantized_model, {name: most for name in bits if name not in fixed})
    choices = find_choices(
        wide, inputs, fixed=fixed, also=bits, metadata=metadata, format=settings.output.format, count=count
    )
    same = measure_together(float_model, choices.rounded(bits), evenly(inputs, choices.tradeoffs.images))
    size = choices.tradeoffs.size(bits)
    found = allocate(wide, inputs, choices, size + RESERVE, points=False)
    return Alternative(size, same.harm, same.loss, found.measured, found.loss, found.bits, choices.tradeoffs.images)


@torch.no_grad()
def _affordable(quantized_model: QuantizedModel, inputs: Tensor, seconds: float) -> int:
    """How many images widths can be measured on in so many seconds, `MOST` at most."""
    network = quantized_model.require_float_model().module
    few = inputs[:BATCH].to(next(network.parameters()).device)
    network(few[:1])
    started = time.perf_counter()
    for value in named(network(few)).values():
        float(value.sum())  # a GPU computes when it is asked
    passes = 2 * len(quantized_model.layers())  # three or four widths of every layer, and half of the network for each
    each = passes * (time.perf_counter() - started) / len(few)
    return int(min(MOST, (seconds - WIDTHS * _rounding(quantized_model)) / each))


def _rounding(quantized_model: QuantizedModel) -> float:
    """Seconds that it takes to round all layers once, told from one of middle size."""
    weights = [layer.weight_quantizer.float_weight.flatten(1) for layer in quantized_model.layers().values()]
    weight = sorted(weights, key=lambda matrix: matrix.shape[1])[len(weights) // 2]
    rows, columns = weight.shape
    spec = QuantSpec(4, signed=True, symmetric=True)
    started = time.perf_counter()
    feedback_rounding(weight[None], torch.eye(columns).to(weight)[None], weight.new_ones(1, rows), spec)
    taken = time.perf_counter() - started
    ratios = [matrix.shape[1] / columns for matrix in weights]
    return taken * sum(max(ratio, ratio**2) for ratio in ratios)
