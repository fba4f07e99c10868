"""What an inspection found out, as data."""

from dataclasses import dataclass, field
from typing import Any

from ptq.allocation.results import Tradeoffs
from ptq.analysis.sensitivity import Sensitivity
from ptq.config.settings import Settings
from ptq.reporting.facts import ImageFacts

__all__ = ["Inspection"]


@dataclass(frozen=True)
class Inspection:
    """What was found out about a network and how it is quantized.

    Args:
        settings: of the run, or what was asked for.
        name: of the network.
        images: those that gave the ranges.
        before: with nearest rounding and ranges as calibrated.
        after: as reconstruction left it; None where there was none.
        tradeoffs: what widths of layers cost; None where that was not asked for.
    """

    settings: Settings
    name: str
    images: ImageFacts
    before: Sensitivity = field(repr=False)
    after: Sensitivity | None = field(repr=False)
    tradeoffs: Tradeoffs | None = field(repr=False, default=None)

    @property
    def latest(self) -> Sensitivity:
        """The network as it would be used."""
        return self.before if self.after is None else self.after

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "model": self.name,
            "settings": self.settings.to_json(),
            "images": self.images.to_json(),
            "before": self.before.to_json(),
            "after": None if self.after is None else self.after.to_json(),
            **({} if self.tradeoffs is None else {"tradeoffs": self.tradeoffs.to_json()}),
        }
