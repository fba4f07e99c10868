"""The kinds of outputs: how far two of a kind are apart, and on what share of it they agree.

classify    (N, C): scores of classes; who has the largest counts
dense       (N, C, H, W): scores of classes for every pixel
embed       (N, F): a direction; angles count
generic     any numbers: the squared error counts, as a share of their variance
discrete    whole numbers (class indices, masks): the share counts that is another; no gradients
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["KINDS", "TINY", "Kind", "Tally"]

# A network is sure where it finds no other class half as probable; classes nearly tied change places for nothing, and
# all are tied in a network that was not trained.
SURE = math.log(2)
TINY = 1e-12


@dataclass(frozen=True)
class Tally:
    """How much of something is the same, in parts that add up.

    Args:
        same: of `total`.
        total: predictions, images, or the sum of squares around the mean.
        count: predictions or images.

    Example:
        >>> (Tally(1, 2, 2) + Tally(2, 2, 2)).percent
        75.0
    """

    same: float = 0.0
    total: float = 0.0
    count: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.same + other.same, self.total + other.total, self.count + other.count)

    @property
    def percent(self) -> float:
        """The same in percent, 0..100."""
        if self.total <= 0:
            return 100.0 if self.same >= self.total else 0.0
        return 100 * max(0.0, self.same / self.total)


@dataclass(frozen=True)
class Kind:
    """What counts in an output.

    Args:
        loss: of an output and the wanted one, a differentiable scalar; 0 where they say the same.
        surprise: of an output, a scalar whose gradient says how much each number matters; summed over images.
        tally: of an output and a reference, on how much of it they agree; with True only where the reference is sure.
        agreement: what the percentage of the tally is called.
        unit: of the loss.
        tolerance: the loss up to which the last layer of a head, by itself, may have 8 bits.
        decides: whether it names classes, so that a network may be sure or not.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    surprise: Callable[[Tensor, torch.Generator], Tensor]
    tally: Callable[[Tensor, Tensor, bool], Tally]
    agreement: str
    unit: str
    tolerance: float
    decides: bool = False


def _pixels(output: Tensor) -> Tensor:
    """Scores (N, C, H, W) as rows, (N * H * W, C)."""
    return output.movedim(1, -1).flatten(0, -2)


def _divergence(given: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(given.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")


def _own_class(scores: Tensor, generator: torch.Generator) -> Tensor:
    return F.cross_entropy(scores, scores.argmax(1), reduction="sum")


def _same_class(given: Tensor, reference: Tensor, sure: bool) -> Tally:
    same = given.argmax(1) == reference.argmax(1)
    if sure:
        first, second = reference.topk(2, 1).values.unbind(1)
        same = same[first - second >= SURE]
    return Tally(float(same.sum()), same.numel(), same.numel())


def _angle(given: Tensor, wanted: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(given, wanted).mean()


def _same_direction(given: Tensor, reference: Tensor, sure: bool) -> Tally:
    cosine = F.cosine_similarity(given.double(), reference.double())
    return Tally(float(cosine.sum()), len(cosine), len(cosine))


def _error(given: Tensor, wanted: Tensor) -> Tensor:
    return (given - wanted).square().mean() / wanted.var(correction=0).clamp(min=TINY)


def _projection(output: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers with random signs, as means of normal distributions of one scale.

    Its squared gradients are on average the diagonal of the Gauss-Newton matrix.
    """
    signs = torch.randint(2, output.shape, generator=generator).to(output) * 2 - 1
    scale = output.detach().std() * math.sqrt(output[0].numel())
    return (output * signs).sum() / scale.clamp(min=TINY)


def _explained(given: Tensor, reference: Tensor, sure: bool) -> Tally:
    given, reference = given.double(), reference.double()
    total = float((reference - reference.mean()).square().sum())
    return Tally(total - float((given - reference).square().sum()), total, len(reference))


def _others(given: Tensor, wanted: Tensor) -> Tensor:
    return (given != wanted).float().mean()


def _nothing(output: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros((), device=output.device)


def _same_numbers(given: Tensor, reference: Tensor, sure: bool) -> Tally:
    return Tally(float((given == reference).sum()), reference.numel(), len(reference))


KINDS = {
    "classify": Kind(_divergence, _own_class, _same_class, "same prediction as float", "nats", 0.01, True),
    "dense": Kind(
        lambda given, wanted: _divergence(_pixels(given), _pixels(wanted)),
        lambda output, generator: _own_class(_pixels(output), generator),
        lambda given, reference, sure: _same_class(_pixels(given), _pixels(reference), sure),
        "same prediction as float, of pixels",
        "nats",
        0.01,
        True,
    ),
    "embed": Kind(_angle, _projection, _same_direction, "cosine similarity with float", "of the cosine", 0.001),
    "generic": Kind(_error, _projection, _explained, "variance explained of float", "of the variance", 0.001),
    # Some are always another, and nobody knows how nearly tied they were.
    "discrete": Kind(_others, _nothing, _same_numbers, "same numbers as float", "of the numbers", 1.0),
}
"""By the name that `--task` knows."""
