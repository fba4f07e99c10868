"""Bits of every layer for a budget: measured layer by layer, solved, measured as a whole, corrected."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptq.allocation.harms import Measured, Rounded, RoundedWeight, measure_harms, measure_together
from ptq.allocation.results import Allocation, LayerWidths, Tradeoffs, Width
from ptq.allocation.solver import fill, frontier, solve, too_small
from ptq.allocation.widths import possible_widths, saved_bytes
from ptq.errors import InputError
from ptq.export.sizes import FileSizes, file_sizes
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.sampling import evenly

__all__ = ["OF_ALL", "RESERVE", "Choices", "allocate", "find_choices"]

IMAGES = 32
OF_ALL = 4  # of so many images harms are measured on one
ROUNDS = 4  # of solving and measuring
NEAR = 0.1  # by which prediction and measurement may differ
RESERVE = 64  # bytes of a file: lengths and numbers that protobuf and the metadata write with more digits or fewer


@dataclass(frozen=True)
class Choices:
    """What a network can choose from: costs as data, and the rounded weights that they were measured with.

    Args:
        tradeoffs: bytes and harm of every width.
        weights: layer -> bits -> weight.
    """

    tradeoffs: Tradeoffs
    weights: Rounded

    def rounded(self, bits: Mapping[str, int]) -> dict[str, RoundedWeight]:
        """Return the weights of layers as these bits round them."""
        return {name: self.weights[name][count] for name, count in bits.items()}


def find_choices(
    quantized_model: QuantizedModel,
    inputs: Tensor,
    *,
    fixed: Collection[str] = (),
    also: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,
    count: int = IMAGES,
    progress: Progress = SILENT,
) -> Choices:
    """Measure what each width of each layer costs: bytes of the file, and harm to the network's output.

    Args:
        quantized_model: calibrated; its plan has the most bits that each layer gets. It stays as it is.
        inputs: images as the network takes them, (N, C, H, W), normalized.
        fixed: layers that keep the plan's bits.
        also: layer -> bits to measure besides those that are worth anything.
        metadata, format: as `export_qdq` will get them.
        count: how many of the inputs to measure on at most, a quarter of them, spread evenly; the others say how to round.
        progress: told of every layer.

    Raises:
        InputError: for a quantized model without ranges or float weights, and for no images.

    Example:
        >>> found = find_choices(quantized_model, images)
        >>> [width.bits for width in found.tradeoffs.layers[-2].widths]
        [2, 4]
    """
    quantized_model.require_calibrated()
    if not len(inputs) or count < 1:
        raise InputError("what widths cost is measured on at least one image.")
    sizes = file_sizes(quantized_model, metadata, format=format)
    widths = {
        name: tuple(sorted({*bits, *([also[name]] if also and name in also else [])}))
        for name, bits in possible_widths(quantized_model.plan, sizes, fixed).items()
    }
    float_model = quantized_model.require_float_model()
    measured, others = _apart(inputs, count)
    harms, weights = measure_harms(float_model, widths, measured, others, progress=progress)
    return Choices(_tradeoffs(quantized_model, sizes, harms, len(measured)), weights)


def allocate(
    quantized_model: QuantizedModel, inputs: Tensor, choices: Choices, max_bytes: int, *, points: bool = True
) -> Allocation:
    """Choose the bits of every layer so that the file has at most so many bytes and the network suffers least.

    The whole choice is measured. Where that is not what the sum of the layers' harms predicts, the harms of the layers
    chosen are corrected and it is solved again, a few times at most. The choice that measured best is returned.

    Args:
        quantized_model: as `find_choices` got it.
        inputs: as there.
        choices: what that found.
        max_bytes: of the file.
        points: whether the frontier is wanted, too.

    Raises:
        InputError: for a budget that cannot be met; it says what can.

    Example:
        >>> choices = find_choices(quantized_model, images)
        >>> found = allocate(quantized_model, images, choices, 32_000)
        >>> found.size <= 32_000, found.bits["stem_0"], min(found.bits.values()) < 8
        (True, 8, True)
        >>> changed = ptq.change_widths(quantized_model, found.bits)
    """
    if max_bytes < (least := choices.tradeoffs.least() + RESERVE):
        raise too_small(max_bytes, least)
    shown, believed = evenly(inputs, choices.tradeoffs.images), choices.tradeoffs
    best: Allocation | None = None
    tried: list[dict[str, int]] = []
    for _ in range(ROUNDS):
        bits = fill(choices.tradeoffs, solve(believed, max_bytes - RESERVE), max_bytes - RESERVE)
        if bits in tried:
            break
        tried.append(bits)
        found = _together(quantized_model, shown, choices, bits)
        predicted = choices.tradeoffs.harm(bits)
        if best is None or found.harm < best.measured:
            size = choices.tradeoffs.size(bits)
            best = Allocation(bits, size, predicted, found.harm, found.loss, (), 0)
        believed_sum = believed.harm(bits)
        if abs(found.harm - believed_sum) <= NEAR * found.harm or not believed_sum:
            break
        believed = believed.scaled(bits, found.harm / believed_sum)
    assert best is not None
    return replace(best, rounds=len(tried), frontier=frontier(choices.tradeoffs) if points else ())


def _apart(inputs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Images to measure on, as `allocate` takes them again, and those that say how to round; a single one is both."""
    chosen = evenly(torch.arange(len(inputs)), min(count, max(1, len(inputs) // OF_ALL)))
    others = torch.ones(len(inputs), dtype=torch.bool).index_fill(0, chosen, False)
    return inputs[chosen], inputs[others] if others.any() else inputs


def _together(quantized_model: QuantizedModel, inputs: Tensor, choices: Choices, bits: Mapping[str, int]) -> Measured:
    return measure_together(quantized_model.require_float_model(), choices.rounded(bits), inputs)


def _tradeoffs(
    quantized_model: QuantizedModel, sizes: FileSizes, harms: Mapping[str, Mapping[int, float]], images: int
) -> Tradeoffs:
    numbers = {name: layer.weight_quantizer.codes.numel() for name, layer in quantized_model.layers().items()}
    layers = tuple(
        LayerWidths(
            name,
            tuple(Width(bits, numbers[name] - saved_bytes(sizes, name, bits), harm) for bits, harm in of_width.items()),
        )
        for name, of_width in harms.items()
    )
    return Tradeoffs(layers, sizes.int8 - sum(numbers[layer.name] for layer in layers), images)
