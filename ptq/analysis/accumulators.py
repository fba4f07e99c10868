"""What is summed up about tensors that come in pieces: noise, moved outputs, ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ptq.quantization.affine import per_channel
from ptq.quantization.spec import QuantSpec
from ptq.tasks.outputs import Output, named
from ptq.tasks.task import Task
from ptq.utils.metrics import decibels, joint_decibels

__all__ = ["Change", "Cost", "Extent", "Noise", "Noises", "TensorRange"]


@dataclass(frozen=True)
class Cost:
    """How far the network's output moved.

    Args:
        loss: how far outputs are from the float network's, as its task counts that (`Task.loss`); the mean over images.
            Of class scores it is the Kullback-Leibler divergence of the softmax, in nats.
        sqnr: of the outputs, in dB.
    """

    loss: float
    sqnr: float


@dataclass(frozen=True)
class TensorRange:
    """The numbers a tensor holds, and those its quantizer can give.

    Args:
        bits: of a code.
        low, high: the smallest and the largest number there was.
        grid_low, grid_high: the ends of the grid; of the widest channel where each has its own.
        clipped: share of the numbers, 0..1, that lie beyond and are moved to an end.
    """

    bits: int
    low: float
    high: float
    grid_low: float
    grid_high: float
    clipped: float


class Noise:
    """Signal and noise of a tensor against its approximation.

    Example:
        >>> noise = Noise()
        >>> noise.add(torch.tensor([10.0]), torch.tensor([9.0]))
        >>> noise.db()
        20.0
    """

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Take in a piece and its approximation, of one shape."""
        self.signal += float(reference.double().square().sum())
        self.noise += float((reference.double() - approximation.double()).square().sum())

    def db(self) -> float:
        """Return the signal-to-quantization-noise ratio in dB."""
        return decibels(self.signal, self.noise)


class Noises:
    """Signal and noise of several tensors, by name, against their approximations; each counts relative to its signal."""

    def __init__(self) -> None:
        self.of: dict[str, Noise] = {}

    def add(self, references: Mapping[str, Tensor], approximations: Mapping[str, Tensor]) -> None:
        """Take in a piece of every tensor and its approximation."""
        for name, reference in references.items():
            self.of.setdefault(name, Noise()).add(reference, approximations[name])

    def db(self) -> float:
        """Return the signal-to-quantization-noise ratio in dB."""
        return joint_decibels([n.signal for n in self.of.values()], [n.noise for n in self.of.values()])


class Change:
    """How far outputs moved from the float network's.

    Args:
        task: what the network is for.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.noises = task, Noises()
        self.loss, self.images = 0.0, 0

    def add(self, reference: Output, output: Output) -> None:
        """Take in the outputs for some images, in float and now."""
        wanted, given = (_doubles(one) for one in (reference, output))
        self.noises.add(wanted, given)
        images = len(next(iter(wanted.values())))
        # Rounding alone can bring a divergence below 0.
        self.loss += max(0.0, float(self.task.loss(given, wanted))) * images
        self.images += images

    def cost(self) -> Cost:
        """Return the figures over all images."""
        return Cost(self.loss / self.images, self.noises.db())


def _doubles(output: Output) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in named(output).items()}


class Extent:
    """The numbers that come to a grid.

    Args:
        spec: its codes.
        scale, zero_point: of the grid, () or (C,).
    """

    def __init__(self, spec: QuantSpec, scale: Tensor, zero_point: Tensor) -> None:
        self.spec, self.scale, self.zero_point = spec, scale, zero_point
        self.low, self.high, self.clipped, self.count = math.inf, -math.inf, 0, 0

    def add(self, x: Tensor) -> None:
        """Take in some of the numbers, of any shape with the spec's axis."""
        codes = (x / per_channel(self.scale, x, self.spec.axis)).round() + self.zero_point
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.clipped += int(((codes < self.spec.qmin) | (codes > self.spec.qmax)).sum())
        self.count += x.numel()

    def result(self) -> TensorRange:
        """Return the figures over all numbers."""
        low, high = ((end - self.zero_point) * self.scale for end in (self.spec.qmin, self.spec.qmax))
        return TensorRange(
            self.spec.bits, self.low, self.high, float(low.min()), float(high.max()), self.clipped / self.count
        )
