"""What is quantized and how, as plain data: nothing here computes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ptq.config.choices import check_bits
from ptq.errors import InputError

__all__ = ["Grid", "QuantPlan", "QuantSpec"]


Grid = Literal["free", "hardsigmoid", "hardswish", "images", "sigmoid", "zero_to_one"]


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor becomes integers.

    Args:
        bits: width of a code, 2..8.
        signed: codes span [-2^(b-1), 2^(b-1) - 1] when true, else [0, 2^b - 1].
        symmetric: the zero point is 0.
        axis: dimension with a scale of its own for every index; None for one scale per tensor.
        grid: what fixes scale and zero point (`ptq.quantization.activation_grids`): nothing ("free"), the gate that
            reads the tensor, the range [0, 1) of what a sigmoid writes, or what pixels an image can have ("images").
            All but "free" stay as calibration sets them.

    Raises:
        InputError: for a bit width outside 2..8, or an unknown grid.

    Example:
        >>> QuantSpec(4).qmax, QuantSpec(4, signed=True).qmin
        (15, -8)
    """

    bits: int
    signed: bool = False
    symmetric: bool = False
    axis: int | None = None
    grid: Grid = "free"

    def __post_init__(self) -> None:
        check_bits(self.bits, "a quantized tensor")
        if self.grid not in get_args(Grid):
            raise InputError(f"no grid {self.grid!r}; choose one of {', '.join(get_args(Grid))}.")

    @property
    def qmin(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class QuantPlan:
    """Which nodes of a prepared graph are quantized, keyed by node name.

    Args:
        weights: layer node -> how its weight is quantized. A layer that is missing stays in float.
        activations: node -> how its output is quantized. A node that is missing stays in float.
        in_float: nodes that have integer kernels and compute in float nevertheless, since that is faster. Their weights
            are quantized all the same.
        notes: what a reader of the report must know about the settings.
    """

    weights: Mapping[str, QuantSpec]
    activations: Mapping[str, QuantSpec]
    notes: tuple[str, ...] = field(default=())
    in_float: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "QuantPlan":
        """Rebuild a plan from `to_json`'s data."""
        return QuantPlan(
            weights={name: QuantSpec(**spec) for name, spec in data["weights"].items()},
            activations={name: QuantSpec(**spec) for name, spec in data["activations"].items()},
            notes=tuple(data["notes"]),
            in_float=tuple(data["in_float"]),
        )
