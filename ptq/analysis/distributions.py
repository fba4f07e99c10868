"""Histograms of a layer's numbers and the grids they are put on, as data; nothing here needs torch."""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Histogram", "LayerDistribution"]


@dataclass(frozen=True)
class Histogram:
    """How often which numbers occur, and the grid they are put on.

    Args:
        low, high: outer edges of the bins, which are equally wide.
        counts: of the numbers in each bin.
        step: from one level of the grid to the next, in the unit of `low`.
        grid_low, grid_high: the lowest and the highest level.
        clipped: share of the numbers, 0..1, that lie more than half a step beyond those.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    step: float
    grid_low: float
    grid_high: float
    clipped: float


@dataclass(frozen=True)
class LayerDistribution:
    """The float numbers of one layer.

    Args:
        name: of its node.
        sqnr: dB of the layer's output when nothing but its weight and its input is quantized.
        bits: of the weight's codes.
        input_bits: of the codes that it reads; None where it reads float.
        weight: each number in steps of its output channel, so that one grid holds for all channels.
        input: what it reads in the float network; None where that stays in float.
    """

    name: str
    sqnr: float
    bits: int
    input_bits: int | None
    weight: Histogram
    input: Histogram | None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return asdict(self)
