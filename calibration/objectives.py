"""The objective of synthesis: a sum of terms, each a small object with a weight.

A term looks at one batch in one step of the optimization, and says by one number what is wrong with it. *Feature
mixing* (MixMix, Li et al., ICCV 2021, arXiv 2011.09899) is a term: the BatchNorm statistics of several teachers. So are
labels and image priors. The optimization knows none of them by name: another term is another subclass of `Term`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ptq.calibration.bn_statistics import MATCHING, Moments, matching_loss
from ptq.errors import InputError

__all__ = [
    "Batch",
    "BatchNormStatistics",
    "ImageMoments",
    "Label",
    "Observation",
    "SparseVariation",
    "Term",
    "TotalVariation",
    "total_loss",
]

EDGE = 1e-3  # of [0, 1]: differences below it are squared, so that flat areas have a gradient


@dataclass(frozen=True)
class Observation:
    """What one teacher computes of a batch.

    Attributes:
        inputs: (N, 3, h, w), the images as this teacher takes them: its size, normalized.
        moments: at the inputs of its BatchNorm layers, in order of execution.
        logits: (N, classes), float32; None of a teacher without classes.
        labeled: whether its classes are those of the batch's labels.
    """

    inputs: Tensor
    moments: Sequence[Moments]
    logits: Tensor | None
    labeled: bool


@dataclass(frozen=True)
class Batch:
    """A batch of images in one step of the optimization, as terms see it.

    Attributes:
        images: (N, 3, H, W), RGB in [0, 1], as they would be kept; differentiable.
        mixed: (N, 3, H, W), as they are shown to teachers: shifted, mirrored, with partners pasted into them.
        labels: (N, classes), the share of each class in `mixed`; each row sums to 1. (N, 0) where there are none.
        observe: shows `mixed` to the teachers of this step.
    """

    images: Tensor
    mixed: Tensor
    labels: Tensor
    observe: Callable[[], Sequence[Observation]]

    @cached_property
    def observations(self) -> Sequence[Observation]:
        """What the teachers of this step see; they run when the first term asks."""
        return self.observe()

    def mean_over_teachers(self, measure: Callable[[Observation], Tensor]) -> Tensor:
        """Return the mean of a scalar measured on each teacher's observation."""
        share = 1 / len(self.observations)
        return torch.stack([share * measure(seen) for seen in self.observations]).sum()


@dataclass(frozen=True)
class Term(ABC):
    """One term of the objective. A subclass says in `loss` what it wants; zero is perfect.

    Args:
        weight: factor of the loss in the objective.

    Example:
        >>> class Gray(Term):
        ...     def loss(self, batch):
        ...         return batch.images.std(1).mean()
        >>> config = ptq.SynthesisConfig(terms=(BatchNormStatistics(), Gray(weight=0.1)))
    """

    weight: float = 1.0

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return a scalar that gradients can be taken of."""

    def to_json(self) -> dict[str, Any]:
        """Return what the term is, as JSON-able data: images say what they were made for."""
        return {"term": type(self).__name__, **asdict(self)}


def total_loss(terms: Sequence[Term], batch: Batch) -> Tensor:
    """Return the weighted sum of all terms, a scalar."""
    loss = batch.images.new_zeros(())
    for term in terms:
        loss = loss + term.weight * term.loss(batch)
    return loss


@dataclass(frozen=True)
class BatchNormStatistics(Term):
    """The statistics at BatchNorm inputs are those of the teachers' training data (feature mixing).

    What one network alone would accept, the others reject.

    Args:
        first: weight of the first BatchNorm, which sees the colors, relative to the others.
        rule: how statistics are compared, a key of `ptq.calibration.bn_statistics.MATCHING`.

    Raises:
        InputError: for an unknown rule.
    """

    first: float = 10.0
    rule: str = "relative"

    def __post_init__(self) -> None:
        if self.rule not in MATCHING:
            raise InputError(
                f"there is no rule {self.rule!r} to match statistics; choose one of {', '.join(MATCHING)}."
            )

    def loss(self, batch: Batch) -> Tensor:
        return batch.mean_over_teachers(lambda seen: matching_loss(seen.moments, self.first, self.rule))


@dataclass(frozen=True)
class Label(Term):
    """The teachers see in the images what their labels say: cross-entropy.

    Teachers of other classes say nothing, nor does anybody where the first teacher has no classes.
    """

    def loss(self, batch: Batch) -> Tensor:
        def measure(seen: Observation) -> Tensor:
            if not seen.labeled or seen.logits is None:
                return batch.images.new_zeros(())
            return F.cross_entropy(seen.logits, batch.labels)

        return batch.mean_over_teachers(measure)


@dataclass(frozen=True)
class ImageMoments(Term):
    """Each image by itself has the normalization's mean and deviation per channel (ZeroQ, GENIE)."""

    def loss(self, batch: Batch) -> Tensor:
        return batch.mean_over_teachers(lambda seen: standard_loss(seen.inputs))


@dataclass(frozen=True)
class TotalVariation(Term):
    """Neighboring pixels are alike; see `total_variation`."""

    def loss(self, batch: Batch) -> Tensor:
        return total_variation(batch.images)


@dataclass(frozen=True)
class SparseVariation(Term):
    """Images are flat areas with edges; see `sparse_variation`."""

    def loss(self, batch: Batch) -> Tensor:
        return sparse_variation(batch.images)


def standard_loss(inputs: Tensor) -> Tensor:
    """Return how far the channels of each normalized image, (N, 3, H, W), are from mean 0 and deviation 1."""
    mean, std = inputs.mean((2, 3)), inputs.std((2, 3), correction=0)
    return mean.square().sum(1).mean() + (std - 1).square().sum(1).mean()


def total_variation(images: Tensor) -> Tensor:
    """Return the mean squared difference of neighbors in four directions; zero for a flat image.

    Example:
        >>> total_variation(torch.full((1, 3, 8, 8), 0.5))
        tensor(0.)
    """
    return torch.stack([d.square().mean() for d in _differences(images)]).mean()


def sparse_variation(images: Tensor) -> Tensor:
    """Return the mean length of the color difference of neighbors in four directions; zero for a flat image.

    The length is not squared (Rudin, Osher and Fatemi, 1992), so an edge costs the same sharp or blurred. Images
    become flat areas with edges, as photographs are. The square would make them evenly smooth.
    """
    lengths = [(d.square().sum(1) + EDGE**2).sqrt().mean() - EDGE for d in _differences(images)]
    return torch.stack(lengths).mean()


def _differences(x: Tensor) -> tuple[Tensor, ...]:
    return (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
