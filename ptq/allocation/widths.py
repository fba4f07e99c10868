"""Which widths a layer's weights can have, and a network with the widths that were chosen."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from ptq.calibration.activation_ranges import set_weight_range
from ptq.export.packing import CONTAINERS
from ptq.export.sizes import FileSizes
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan

__all__ = ["change_widths", "possible_widths"]


def possible_widths(plan: QuantPlan, sizes: FileSizes, fixed: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """Return the bits that the weights of each layer can have, ascending.

    A container takes the same bytes however many of its bits are used: of every container only the largest width is worth
    anything. So is of a layer that no container makes smaller.

    Args:
        plan: its bits are the most that a layer gets.
        sizes: of the file.
        fixed: layers that keep the plan's bits.

    Example:
        >>> from ptq.export.sizes import file_sizes
        >>> possible_widths(quantized_model.plan, file_sizes(quantized_model))["blocks_2_conv1"]
        (2, 4)
    """
    found = {}
    for name, spec in plan.weights.items():
        smaller = () if name in fixed else sizes.saved.get(name, {})
        found[name] = tuple(sorted({spec.bits, *(bits for bits in smaller if bits < spec.bits)}))
    return found


def saved_bytes(sizes: FileSizes, layer: str, bits: int) -> int:
    """Return the bytes that a layer saves with so many bits; they lie in the smallest container that holds them."""
    saved = sizes.saved.get(layer, {})
    return next((saved[c.bits] for c in CONTAINERS if bits <= c.bits and c.bits in saved), 0)


def change_widths(quantized_model: QuantizedModel, bits: Mapping[str, int]) -> QuantizedModel:
    """Return a quantized model whose weights have other widths; the ranges of activations stay.

    Args:
        quantized_model: calibrated, with its float network; it stays as it is.
        bits: layer -> bits of its weights.

    Raises:
        InputError: for a quantized model without ranges or without its float network.

    Example:
        >>> changed = change_widths(quantized_model, {"blocks_0_conv1": 2})
        >>> changed.plan.weights["blocks_0_conv1"].bits, changed.calibrated
        (2, True)
    """
    quantized_model.require_calibrated()
    specs = {name: replace(spec, bits=bits.get(name, spec.bits)) for name, spec in quantized_model.plan.weights.items()}
    known = quantized_model.plan
    plan = replace(known, weights=specs, notes=(*known.notes, *_note(bits)))
    changed = insert_quantizers(quantized_model.require_float_model(), plan)
    quantizers = quantized_model.quantizers()
    for name, quantizer in changed.quantizers().items():
        quantizer.load_state_dict(quantizers[name].state_dict())
    device = next(iter(quantized_model.module.state_dict().values())).device
    changed.module.to(device)
    for layer in changed.layers().values():
        set_weight_range(layer)
    return changed


def _note(bits: Mapping[str, int]) -> tuple[str, ...]:
    """What a reader of the report must know; nothing where nothing has changed."""
    counts = sorted(Counter(bits.values()).items())
    each = (f"{width} bits in {number} layer{'s' * (number > 1)}" for width, number in counts)
    return (f"weights by layer, which replaces the bits above: {', '.join(each)}",) if bits else ()
