"""What every width of every layer costs, and what was chosen: data without torch, which reports and the command line read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from ptq.errors import InputError

__all__ = ["Allocation", "Alternative", "Attempt", "LayerWidths", "Point", "Tradeoffs", "Width"]


@dataclass(frozen=True)
class Width:
    """A width that the weights of a layer can have.

    Args:
        bits: of a weight.
        size: bytes that the weights take in the file.
        harm: what the network's output suffers when this layer alone has the width: the squared error as a share of the
            squared output. Such shares add up nearly, where divergences of sure predictions do not.
    """

    bits: int
    size: int
    harm: float


@dataclass(frozen=True)
class LayerWidths:
    """The widths of a layer, by bits ascending.

    Args:
        name: of its node.
        widths: at least one.
    """

    name: str
    widths: tuple[Width, ...]

    def of(self, bits: int) -> Width:
        """Return the width of so many bits."""
        return next(width for width in self.widths if width.bits == bits)


@dataclass(frozen=True)
class Tradeoffs:
    """All choices that a network leaves, and what each costs.

    Args:
        layers: in order of computation.
        rest: bytes of the file besides their weights.
        images: how many the harms were measured on.

    Example:
        >>> width = Width(bits=4, size=500, harm=0.1)
        >>> found = Tradeoffs((LayerWidths("conv1", (width,)),), rest=200, images=32)
        >>> found.size({"conv1": 4}), found.harm({"conv1": 4})
        (700, 0.1)
    """

    layers: tuple[LayerWidths, ...]
    rest: int
    images: int

    def size(self, bits: Mapping[str, int]) -> int:
        """Return the bytes of the file when layers have these bits."""
        return self.rest + sum(layer.of(bits[layer.name]).size for layer in self.layers)

    def harm(self, bits: Mapping[str, int]) -> float:
        """Return the sum of the harms when layers have these bits."""
        return sum(layer.of(bits[layer.name]).harm for layer in self.layers)

    def least(self) -> int:
        """Return the bytes of the smallest file."""
        return self.rest + sum(min(width.size for width in layer.widths) for layer in self.layers)

    def most(self) -> int:
        """Return the bytes of the file in which every layer has its largest width."""
        return self.rest + sum(layer.widths[-1].size for layer in self.layers)

    def scaled(self, bits: Mapping[str, int], factor: float) -> "Tradeoffs":
        """Return the same with the harms of these choices times a factor."""
        layers = tuple(
            replace(
                layer,
                widths=tuple(
                    replace(width, harm=width.harm * factor) if width.bits == bits[layer.name] else width
                    for width in layer.widths
                ),
            )
            for layer in self.layers
        )
        return replace(self, layers=layers)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Any) -> "Tradeoffs":
        """Return the figures that `to_json` gave.

        Raises:
            InputError: for anything else.
        """
        try:
            return msgspec.convert(data, Tradeoffs)
        except msgspec.ValidationError as error:
            raise InputError(f"these are no costs of widths: {error}") from error


@dataclass(frozen=True)
class Point:
    """A file on the frontier: no smaller one is predicted to do less harm.

    Args:
        size: of the file in bytes.
        harm: predicted; see `Width`.
        bits: layer -> bits of its weights.
    """

    size: int
    harm: float
    bits: dict[str, int]


@dataclass(frozen=True)
class Attempt:
    """A choice that was tuned, to see whether it does what is asked for.

    Args:
        size: bytes of the file, predicted.
        before, after: what the network does before and after it was tuned, in the unit of what is asked for; more is better.
        enough: whether that is what is asked for.
    """

    size: int
    before: float
    after: float
    enough: bool


@dataclass(frozen=True)
class Allocation:
    """The widths that were chosen, before anything is tuned.

    Args:
        bits: layer -> bits of its weights.
        size: bytes of the file, predicted.
        predicted: harm as the sum over layers, in the solver's last round.
        measured: harm of all layers together, rounded in closed form.
        loss: of the same, in the unit of the network's task.
        frontier: from the smallest file to the largest.
        rounds: how often all layers were measured together.
        attempts: what was tuned to find it, in that order; nothing where a size was asked for.
    """

    bits: dict[str, int]
    size: int
    predicted: float
    measured: float
    loss: float
    frontier: tuple[Point, ...]
    rounds: int
    attempts: tuple[Attempt, ...] = ()

    @property
    def missed(self) -> bool:
        """Whether nothing that was tuned does what is asked for."""
        return bool(self.attempts) and not any(attempt.enough for attempt in self.attempts)


@dataclass(frozen=True)
class Alternative:
    """The bits that all layers have beside the best that a file of the same size can hold; both before tuning.

    Args:
        size: bytes of both files, nearly.
        harm: of the bits that all layers have: squared error of the output as a share of the squared output.
        loss: the same in the unit of the network's task.
        mixed_harm, mixed_loss: with bits of its own for every layer.
        bits: layer -> those bits.
        images: how many it was measured on.
    """

    size: int
    harm: float
    loss: float
    mixed_harm: float
    mixed_loss: float
    bits: dict[str, int]
    images: int

    @property
    def better(self) -> bool:
        """Whether bits of its own for every layer do less harm by a tenth at least."""
        return self.mixed_harm < 0.9 * self.harm
