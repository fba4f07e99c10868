"""What distillation found out, as data. No torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["DistillResult", "Epoch"]


@dataclass(frozen=True)
class Epoch:
    """How far a student was after an epoch.

    Args:
        number: 1..
        loss: mean over the views of the epoch: of classes the Kullback-Leibler divergence at the temperature, times its square.
        agreement: with the teachers on the images as they are, in percent (`Task.agreement`); None where nobody looked.
        accuracy: what `evaluate` of `ptq.distill` returned; None where nobody looked.
    """

    number: int
    loss: float
    agreement: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class DistillResult:
    """What a student learned.

    Args:
        epochs: all of them, in order.
        images: how many there were.
        teachers: names of those that were asked.
        recognized: name of a teacher -> share of the images that it sees as they are labeled, in percent; empty without labels.
        seconds: of learning, interruptions left out.
    """

    epochs: tuple[Epoch, ...]
    images: int
    teachers: tuple[str, ...]
    recognized: Mapping[str, float]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-able data."""
        return asdict(self)

    @property
    def last(self) -> Epoch:
        """The last epoch."""
        return self.epochs[-1]
