"""Terms of the objective: each is zero for what it wants, and the objective is their weighted sum."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ptq.calibration.bn_statistics import Moments
from ptq.calibration.objectives import (
    Batch,
    BatchNormStatistics,
    ImageMoments,
    Label,
    Observation,
    SparseVariation,
    Term,
    TotalVariation,
    sparse_variation,
    standard_loss,
    total_loss,
    total_variation,
)
from ptq.errors import InputError


def observation(labeled: bool = True, off: float = 0.0) -> Observation:
    """A teacher that sees two classes right, and whose one BatchNorm sees a mean that is `off`."""
    moments = Moments(torch.full((3,), off), torch.ones(3), torch.zeros(3), torch.ones(3), 0.0)
    return Observation(torch.randn(2, 3, 8, 8), (moments,), 20 * torch.eye(2), labeled)


def batch(*observations: Observation, labels: Tensor | None = None) -> Batch:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    return Batch(images, images, torch.eye(2) if labels is None else labels, lambda: observations)


@dataclass(frozen=True)
class Brightness(Term):
    """Images are black."""

    def loss(self, batch: Batch) -> Tensor:
        return batch.images.mean()


def test_the_objective_is_the_weighted_sum_of_its_terms() -> None:
    seen = batch(observation(off=0.5))
    terms = (BatchNormStatistics(2.0), Label(0.1), TotalVariation(3.0), Brightness(-1.0))
    expected = sum(term.weight * float(term.loss(seen).detach()) for term in terms)
    total = total_loss(terms, seen)
    assert float(total.detach()) == pytest.approx(expected)
    assert torch.autograd.grad(total, seen.images)[0].abs().sum() > 0


def test_teachers_count_alike_and_run_once_and_only_when_a_term_asks() -> None:
    looks: list[Sequence[Observation]] = []

    def observe() -> Sequence[Observation]:
        looks.append((observation(off=1.0), observation(off=3.0)))
        return looks[-1]

    images = torch.rand(2, 3, 8, 8)
    seen = Batch(images, images, torch.eye(2), observe)
    total_loss((TotalVariation(), SparseVariation()), seen)
    assert not looks
    assert float(BatchNormStatistics().loss(seen)) == pytest.approx(2)
    ImageMoments().loss(seen)
    assert len(looks) == 1


def test_labels_are_for_teachers_who_know_them() -> None:
    wrong = torch.eye(2).flip(0)
    assert float(Label().loss(batch(observation()))) == pytest.approx(0, abs=1e-6)
    assert float(Label().loss(batch(observation(), labels=wrong))) == pytest.approx(20, rel=1e-3)
    assert float(Label().loss(batch(observation(labeled=False), labels=wrong))) == 0
    assert float(Label().loss(batch(observation(), observation(labeled=False), labels=wrong))) == pytest.approx(10)


def test_statistics_are_compared_by_a_rule_that_there_is() -> None:
    assert float(BatchNormStatistics(rule="norms").loss(batch(observation()))) == 0
    with pytest.raises(InputError):
        BatchNormStatistics(rule="magic")


@pytest.mark.parametrize("variation", [total_variation, sparse_variation])
def test_variation_is_zero_for_flat_images_and_grows_with_noise(variation: Callable[[Tensor], Tensor]) -> None:
    flat = torch.full((2, 3, 8, 8), 0.3)
    noise = torch.randn(2, 3, 8, 8)
    assert float(variation(flat)) == pytest.approx(0, abs=1e-7)
    assert float(variation(flat + noise)) > float(variation(flat + 0.1 * noise)) > 0


def test_sparse_variation_does_not_mind_how_sharp_an_edge_is() -> None:
    step = torch.zeros(1, 3, 4, 16)
    step[..., 8:] = 1
    ramp = torch.linspace(-0.5, 1.5, 16).clamp(0, 1).expand(1, 3, 4, 16)
    sharp, blurred = float(sparse_variation(step)), float(sparse_variation(ramp))
    assert sharp == pytest.approx(blurred, rel=0.1)
    assert float(total_variation(step)) > 3 * float(total_variation(ramp))


def test_standard_loss_is_zero_for_standardized_images_only() -> None:
    x = torch.randn(4, 3, 16, 16)
    standard = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
    assert float(standard_loss(standard)) < 1e-9
    assert float(standard_loss(standard + 1)) == pytest.approx(3, rel=1e-4)
    assert float(standard_loss(2 * standard)) == pytest.approx(3, rel=1e-4)
