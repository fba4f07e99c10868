"""What was measured of widths, on disk: costs as JSON, and the weights that they were measured with."""

from ptq.allocation.allocate import Choices
from ptq.allocation.harms import Rounded, RoundedWeight
from ptq.allocation.results import Tradeoffs
from ptq.utils.work_store import WorkStore

__all__ = ["read_choices", "write_choices"]

NAME = "choices"


def write_choices(store: WorkStore, choices: Choices) -> None:
    """Keep choices for other budgets.

    Raises:
        MachineError: when the disk is full.
    """
    tensors = {}
    for layer, widths in choices.weights.items():
        for bits, weight in widths.items():
            tensors[f"{layer}:{bits}:codes"] = weight.codes.cpu().contiguous()
            tensors[f"{layer}:{bits}:scale"] = weight.scale.cpu().contiguous()
    axes = {layer: next(iter(widths.values())).axis for layer, widths in choices.weights.items()}
    store.write(NAME, tensors, {"tradeoffs": choices.tradeoffs.to_json(), "axes": axes})


def read_choices(store: WorkStore) -> Choices | None:
    """Return the choices that were kept; None where there are none.

    Example:
        >>> store = WorkStore("runs/mine/widths")
        >>> write_choices(store, ptq.find_choices(quantized_model, images, count=4))
        >>> [width.bits for width in read_choices(store).tradeoffs.layers[-2].widths]
        [2, 4]
    """
    kept = store.read(NAME)
    if kept is None:
        return None
    tensors, facts = kept
    tradeoffs = Tradeoffs.from_json(facts["tradeoffs"])
    weights: Rounded = {}
    for layer in tradeoffs.layers:
        weights[layer.name] = {}
        for bits in (width.bits for width in layer.widths):
            codes, scale = (tensors[f"{layer.name}:{bits}:{part}"] for part in ("codes", "scale"))
            weights[layer.name][bits] = RoundedWeight(codes, scale, facts["axes"][layer.name])
    return Choices(tradeoffs, weights)
