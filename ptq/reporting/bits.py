"""Bits that were chosen for a budget, in words and tables: what was chosen, and what files of other sizes could hold."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ptq.allocation.results import Allocation, Alternative, Attempt, Point
from ptq.config.bit_budget import bit_budget
from ptq.config.settings import QuantizationSettings
from ptq.reporting.tables import Table
from ptq.utils.units import file_size_text, percent_text, short_text

__all__ = ["activations_text", "allocation_lines", "alternative_lines", "frontier_table", "weights_text"]


def weights_text(settings: QuantizationSettings) -> str:
    """Return how many bits weights have, as a heading says it.

    Example:
        >>> weights_text(QuantizationSettings(bits=4)), weights_text(QuantizationSettings(max_size="3MB"))
        ('weights 4 bits', 'weights up to 8 bits, layer by layer')
    """
    if bit_budget(settings) is None:
        return f"weights {settings.bits} bits"
    return f"weights up to {settings.bits} bits, layer by layer"


def activations_text(settings: QuantizationSettings) -> str:
    """Return how many bits activations have, as a heading says it.

    Example:
        >>> activations_text(QuantizationSettings()), activations_text(QuantizationSettings(act_bits="auto"))
        ('activations 8 bits', 'activations 4 or 8 bits')
    """
    return f"activations {'4 or 8' if settings.act_bits == 'auto' else settings.act_bits} bits"


def allocation_lines(found: Allocation, written: int | None) -> list[str]:
    """Return what was chosen, and what was predicted and measured of it.

    Args:
        found: the choice.
        written: bytes of the file as it was written.
    """
    size = f"a file of {file_size_text(found.size)} was predicted"
    times = f"{found.rounds} time{'s' * (found.rounds > 1)}"
    return [
        _counted(found.bits),
        size if written is None else f"{size}, one of {file_size_text(written)} was written",
        f"before tuning the output errs by {_share(found.measured)}; {_share(found.predicted)} is the sum over layers, each alone "
        f"(all layers were measured together {times})",
        *(_attempt(attempt) for attempt in found.attempts),
    ]


def alternative_lines(found: Alternative | None, unit: str) -> list[str]:
    """Return what bits of its own for every layer would do in a file of the same size; nothing where it was not measured.

    Args:
        found: the comparison.
        unit: of the loss.
    """
    if found is None:
        return []
    now = f"{_share(found.harm)} as they are ({short_text(found.loss)} {unit})"
    if not found.better:
        return [
            f"bits of their own for layers would gain nothing in a file of this size: the output errs by {now}, before tuning"
        ]
    mixed = f"{_share(found.mixed_harm)} with bits of its own for every layer ({short_text(found.mixed_loss)} {unit})"
    return [
        f"in a file of the same size, before tuning, the output errs by {mixed}, by {now}; on {found.images} images"
    ]


def _attempt(attempt: Attempt) -> str:
    """What tuning brought, in the unit of what was asked for: percent of predictions."""
    figures = f"{percent_text(attempt.before)} before, {percent_text(attempt.after)} after"
    return f"tuned with {file_size_text(attempt.size)}: {figures}, {'enough' if attempt.enough else 'not enough'}"


def frontier_table(points: Sequence[Point]) -> Table:
    """Return what files of several sizes can hold, from the smallest."""
    rows = [(file_size_text(point.size), _share(point.harm), _counted(point.bits)) for point in points]
    return Table("What files of other sizes can hold, before tuning", ("size", "error of the output", "weights"), rows)


def _counted(bits: Mapping[str, int]) -> str:
    counts = sorted(Counter(bits.values()).items())
    return ", ".join(f"{width} bits in {number} layer{'s' * (number > 1)}" for width, number in counts)


def _share(harm: float) -> str:
    return f"{short_text(100 * harm)} %"
