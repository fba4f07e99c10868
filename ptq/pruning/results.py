"""What pruning found out, as data. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PruneResult", "PrunedLayer"]


@dataclass(frozen=True)
class PrunedLayer:
    """How many channels a layer reads and writes, before and after.

    Args:
        name: of its node.
        inputs, outputs: (before, after).
    """

    name: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]


@dataclass(frozen=True)
class PruneResult:
    """What was removed, and what it left.

    Args:
        layers: all of them, in the order of computation.
        macs: multiply-accumulates of the layers for one image, (before, after).
        parameters: weights and biases of the layers, (before, after).
        pruned_db: signal to noise ratio of the outputs on the images after removal alone, in dB.
        repaired_db: the same after repair; None without repair.
        fixed: name of a layer none of whose outputs could be removed -> the reason.
        removed: the coupled channels that are gone, as `ptq.pruning.find_channels` numbers those of the original.
    """

    layers: tuple[PrunedLayer, ...]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    pruned_db: float
    repaired_db: float | None
    fixed: Mapping[str, str]
    removed: tuple[int, ...]
