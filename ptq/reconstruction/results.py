"""What reconstruction did, as data; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BlockResult", "Curve", "FinetuneResult"]

Curve = tuple[float, ...]  # means of the loss over equal pieces of a descent, 1 at its beginning


@dataclass(frozen=True)
class BlockResult:
    """What reconstruction did to one block.

    Args:
        name: of the block's last layer.
        layers: node names of its layers.
        sqnr_nearest: dB of the block's output with nearest rounding, on the calibration images.
        sqnr: dB with what was kept.
        kept: "learned", "nearest" (learning did not help) or "skipped" (not tuned: it has 8 bits and is good enough, or the
            method does not learn). A bias may have been corrected in the latter two.
        seconds: spent.
        memory: most bytes of activations that were kept in memory up to this block.
        disk: the same on disk.
        losses: a curve for each descent, one after the other: means of the loss over equal pieces of its
            iterations, at most 50, where 1 is the loss at its beginning; none where nothing was learned.
        weighted: whether errors counted by what they cost the network, in `losses` and in both ratios.
    """

    name: str
    layers: tuple[str, ...]
    sqnr_nearest: float
    sqnr: float
    kept: str
    seconds: float
    memory: int
    disk: int
    losses: tuple[Curve, ...] = ()
    weighted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-able data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "BlockResult":
        """Rebuild a result from `to_json`'s data."""
        losses = tuple(tuple(curve) for curve in data.get("losses", ()))
        return BlockResult(**{**data, "layers": tuple(data["layers"]), "losses": losses})


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning did to the whole network.

    Args:
        iterations: that it took.
        images: that took no part in it, and tell what it brought.
        before, after: mean divergence of the predictions on them from the float network's, in nats; of outputs that
            are no predictions of classes, the squared error over their variance.
        kept: whether it helped. If not, the network is as it was.
        seconds: spent.
        losses: means of the loss over equal pieces of the iterations, at most 50.
    """

    iterations: int
    images: int
    before: float
    after: float
    kept: bool
    seconds: float
    losses: Curve = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON-able data."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "FinetuneResult":
        """Rebuild a result from `to_json`'s data."""
        return FinetuneResult(**{**data, "losses": tuple(data["losses"])})
