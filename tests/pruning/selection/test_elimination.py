"""Channels that go one by one: what least squares leaves is what elimination says, in whatever steps they go."""

import pytest
import torch
from torch import Tensor

from ptq.graph.preparation import prepare
from ptq.pruning.coupling.channels import find_channels
from ptq.pruning.coupling.groups import find_groups
from ptq.pruning.selection import elimination
from ptq.pruning.selection.changes import exchanges, growth
from ptq.pruning.selection.elimination import OutputErrors, Predictions, eliminate
from ptq.pruning.selection.reading import Reading, readings
from tests.helpers.networks import SHAPE, build, images

GONE = torch.tensor([False, True, False, True, True, False, False, False])


def one_group() -> tuple[list[Reading], list[Tensor]]:
    """What two layers read of a residual stream, and its exchanges."""
    graph_model, x = prepare(build("resnet"), SHAPE), images(40)
    channels = find_channels(graph_model)
    found = next(
        several for _, several in readings(graph_model, channels, find_groups(channels), x) if len(several) > 1
    )
    return found, exchanges(graph_model, found, x)


def left_without(reading: Reading, gone: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares for those that are gone from the others, as sums say: what is left of their covariance, and the factors."""
    damping = max(elimination.DAMPING, 8 / reading.n) * reading.covariance.diagonal().mean()
    covariance = reading.covariance + damping * torch.eye(8)
    factors = torch.linalg.solve(covariance[~gone][:, ~gone], covariance[~gone][:, gone]).T
    return covariance[gone][:, gone] - factors @ covariance[~gone][:, gone], factors


@pytest.mark.parametrize("at_once", [True, False])
def test_errors_of_outputs_are_those_of_least_squares(at_once: bool) -> None:
    found, _ = one_group()
    loss = OutputErrors(found)
    wanted = sum(float((left_without(r, GONE)[0] * r.weight_products[GONE][:, GONE]).sum()) for r in found)
    assert remove(loss, GONE, at_once) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("at_once", [True, False])
def test_changes_of_predictions_are_those_of_least_squares(at_once: bool) -> None:
    found, changed = one_group()
    loss = Predictions([(found, changed)])
    moved = torch.zeros(40)
    for reading, exchange in zip(found, changed, strict=True):
        factors = left_without(reading, GONE)[1].float()
        among = exchange[GONE]
        moved += torch.diagonal(among[:, GONE]).sum(1) - torch.einsum("cj,cjr->r", factors, among[:, ~GONE])
    remove(loss, GONE, at_once)
    assert torch.allclose(loss.moved.float(), moved, rtol=1e-3, atol=1e-5 * float(moved.abs().max()))
    assert loss.total >= float(growth(moved)) * (1 - 1e-3)


def test_scores_add_up_to_the_loss_and_rise_in_the_order_of_removal() -> None:
    found, changed = one_group()
    scores = eliminate(8, Predictions([(found, changed)]))
    loss, order = Predictions([(found, changed)]), scores.argsort(stable=True)
    left, total = torch.arange(8), 0.0
    for channel in order[:-1].tolist():
        total = max(total, loss.remove(left == channel))
        left = left[left != channel]
    assert bool((scores >= 0).all())
    assert float(scores[order[:-1]].sum()) <= total * 1.001 + 1e-9
    assert float(scores.sum()) >= total


def test_two_channels_that_stand_in_for_each_other_do_not_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elimination, "SHARE", 2)
    taken: list[int] = []

    class Twins:
        left = 8

        def after(self) -> Tensor:
            return torch.arange(self.left).double()

        def alike(self, few: Tensor) -> Tensor:
            return (few.unsqueeze(0) // 2 == few.unsqueeze(1) // 2).double()

        def remove(self, gone: Tensor) -> float:
            taken.append(int(gone.sum()))
            self.left -= taken[-1]
            return float(8 - self.left)

    eliminate(8, Twins())
    assert taken == [2, 2, 1, 1, 1, 1]  # of 4 the best two pairs, then one of each


def remove(loss: OutputErrors | Predictions, gone: Tensor, at_once: bool) -> float:
    """Let channels go, at once or one after the other."""
    loss.after()
    if at_once:
        return loss.remove(gone)
    left, total = torch.arange(len(gone)), 0.0
    for channel in gone.nonzero().flatten().tolist():
        loss.after()
        total = loss.remove(left == channel)
        left = left[left != channel]
    return total
