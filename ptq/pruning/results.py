"""What pruning found out, as data. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LatencySearch", "PruneResult", "PrunedLayer", "RepairStep"]


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
class RepairStep:
    """How near a pruned network is to the original after a step, on images that no step has learned from, and views of them.

    Args:
        name: "removal", and then each step that was asked for: "closed form", "blocks", "features"; "outputs" where features did not suffice.
        loss: between the outputs of both (`Task.loss`): for classes the Kullback-Leibler divergence, in nats.
        agreement: on what share of the outputs both agree (`Task.agreement`), in percent.
        decibels: signal to noise ratio of the outputs, in dB.
        kept: whether the loss fell, or by features what they lack; else the step was taken back, and the numbers are those of before.
        seconds: that it took.
    """

    name: str
    loss: float
    agreement: float
    decibels: float
    kept: bool
    seconds: float


@dataclass(frozen=True)
class LatencySearch:
    """How a latency was met: networks of several sizes, measured in onnxruntime at batch 1.

    Args:
        limit: milliseconds that were asked for.
        of: what the networks computed in, "int8" or "float".
        threads: of onnxruntime.
        factor: how many times fewer multiply-accumulates meet it.
        tried: (factor, milliseconds), ascending.
    """

    limit: float
    of: str
    threads: int
    factor: float
    tried: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PruneResult:
    """What was removed, and what each step of repair brought.

    Args:
        layers: all of them, in the order of computation.
        macs: multiply-accumulates of the layers for one image, (before, after).
        parameters: weights and biases of the layers, (before, after).
        steps: in order; the first is removal alone.
        images: how many images were learned from, and how many the steps are judged by.
        fixed: name of a layer none of whose outputs could be removed -> the reason.
        removed: the coupled channels that are gone, as `ptq.pruning.find_channels` numbers those of the original.
        search: how a latency was met; None where the budget was none.
    """

    layers: tuple[PrunedLayer, ...]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    steps: tuple[RepairStep, ...]
    images: tuple[int, int]
    fixed: Mapping[str, str]
    removed: tuple[int, ...]
    search: LatencySearch | None = None
