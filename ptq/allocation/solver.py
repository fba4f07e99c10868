"""The best widths for a budget: an integer program, solved exactly.

One binary variable per layer and width, one width for every layer, and all bytes within the budget: the knapsack problem with
multiple choices. The least sum of harms is found by branch and cut (HiGHS, in scipy).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ptq.allocation.results import LayerWidths, Point, Tradeoffs, Width
from ptq.errors import InputError
from ptq.utils.native_output import native_output_hidden
from ptq.utils.units import file_size_text

__all__ = ["fill", "frontier", "solve", "too_small"]

POINTS = 12  # of a frontier
FINE = 1e4  # what the best sum of harms counts: the solver stops within 1e-6 of it


def too_small(budget: int, least: int) -> InputError:
    """Return the error for a file of fewer bytes than the smallest takes."""
    return InputError(
        f"no file of {file_size_text(budget)} can be made: the smallest takes {file_size_text(least, up=True)}."
    )


def solve(tradeoffs: Tradeoffs, budget: int) -> dict[str, int]:
    """Return the bits of every layer of which the harms' sum is least within a budget.

    Args:
        tradeoffs: what every width costs.
        budget: bytes of the file, not exceeded.

    Raises:
        InputError: for a budget that no choice meets; it says what can be met.

    Example:
        >>> from ptq.allocation.results import LayerWidths, Tradeoffs, Width
        >>> layers = [LayerWidths(name, (Width(4, 50, harm), Width(8, 100, 0.0))) for name, harm in (("a", 1.0), ("b", 3.0))]
        >>> solve(Tradeoffs(tuple(layers), rest=10, images=32), 160)
        {'a': 4, 'b': 8}
    """
    if budget < (least := tradeoffs.least()):
        raise too_small(budget, least)
    useful = [_useful(layer) for layer in tradeoffs.layers]
    allowed = budget - tradeoffs.rest
    bits = {layer.name: widths[-1].bits for layer, widths in zip(tradeoffs.layers, useful, strict=True)}
    if tradeoffs.size(bits) <= budget:
        return bits
    chosen = _solved(useful, allowed, 1.0)
    best = sum(width.harm for width in chosen)
    if 0 < best < FINE:  # again, so that nothing is lost within the solver's tolerance
        chosen = _solved(useful, allowed, FINE / best)
    return {layer.name: width.bits for layer, width in zip(tradeoffs.layers, chosen, strict=True)}


def fill(tradeoffs: Tradeoffs, bits: Mapping[str, int], budget: int) -> dict[str, int]:
    """Return the bits with layers widened as long as one fits, that which takes most harm away first.

    Args:
        tradeoffs: what every width costs.
        bits: layer -> bits, within the budget.
        budget: bytes of the file, not exceeded.

    Example:
        >>> from ptq.allocation.results import LayerWidths, Tradeoffs, Width
        >>> layers = [LayerWidths(name, (Width(4, 50, harm), Width(8, 100, 0.0))) for name, harm in (("a", 1.0), ("b", 3.0))]
        >>> fill(Tradeoffs(tuple(layers), rest=10, images=32), {"a": 4, "b": 4}, 165)
        {'a': 4, 'b': 8}
    """
    found, left = dict(bits), budget - tradeoffs.size(bits)
    while True:
        steps = [
            (now.harm - width.harm, width.size - now.size, layer.name, width.bits)
            for layer in tradeoffs.layers
            for now in [layer.of(found[layer.name])]
            for width in layer.widths
            if width.harm < now.harm and width.size - now.size <= left
        ]
        if not steps:
            return found
        _, more, name, count = max(steps)
        found[name], left = count, left - more


def frontier(tradeoffs: Tradeoffs, points: int = POINTS) -> tuple[Point, ...]:
    """Return the best choices for budgets from the smallest file to the largest, without repetitions."""
    budgets = np.linspace(tradeoffs.least(), tradeoffs.most(), points).round().astype(int)
    found = {}
    for budget in budgets.tolist():
        bits = solve(tradeoffs, budget)
        found[tradeoffs.size(bits)] = Point(tradeoffs.size(bits), tradeoffs.harm(bits), bits)
    return tuple(found[size] for size in sorted(found))


def _useful(layer: LayerWidths) -> list[Width]:
    """The widths by bytes ascending, without those that cost as much as a less harmful one; of equals the wider."""
    found: list[Width] = []
    for width in sorted(layer.widths, key=lambda w: (w.size, w.harm, -w.bits)):
        if not found or width.harm < found[-1].harm:
            found.append(width)
    return found


def _solved(layers: Sequence[Sequence[Width]], budget: int, scale: float) -> list[Width]:
    every = [(index, width) for index, widths in enumerate(layers) for width in widths]
    owner = np.array([index for index, _ in every])
    harms = np.array([width.harm for _, width in every]) * scale
    sizes = np.array([width.size for _, width in every], dtype=float) / budget
    ones = np.ones(len(every))
    one_each = LinearConstraint(
        csr_array((ones, (owner, np.arange(len(every)))), shape=(len(layers), len(every))), 1, 1
    )
    slack = 0
    while True:
        within = LinearConstraint(sizes, ub=1 - slack / budget)
        options = {"mip_rel_gap": 0.0}
        with native_output_hidden():
            found = milp(harms, integrality=ones, bounds=Bounds(0, 1), constraints=[one_each, within], options=options)
        if found.x is None:
            raise RuntimeError(f"the integer program was not solved: {found.message}")
        chosen = [every[i][1] for i in np.flatnonzero(found.x > 0.5)]
        excess = sum(width.size for width in chosen) - budget
        if excess <= 0:
            return chosen
        slack += excess  # what exceeds a budget by a millionth counts as within it
