"""The loop that a student, a pruned network and a quantized one share."""

import pytest
import torch
from torch import Tensor, nn

from ptq.distillation.learning import learn


def descend(start: int = 0, iterations: int = 8) -> tuple[nn.Linear, list[float]]:
    torch.manual_seed(0)
    student, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    rates: list[float] = []

    def views() -> list[Tensor]:
        rates.append(optimizer.param_groups[0]["lr"])
        return [torch.ones(3, 4)]

    def loss(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
        assert not theirs["output"].requires_grad
        return (ours["output"] - theirs["output"]).square().mean()

    losses = list(learn(student, teacher, views, loss, optimizer, iterations, start=start, autocast=False))
    assert len(losses) == iterations - start
    assert not any(value.requires_grad for value in losses)
    return student, rates


def test_the_learning_rate_falls_along_a_cosine() -> None:
    _, rates = descend()
    assert rates[0] == 0.1
    assert rates[4] == pytest.approx(0.05)
    assert rates == sorted(rates, reverse=True) and rates[-1] > 0


def test_what_was_done_before_is_not_done_again() -> None:
    _, rates = descend()
    assert descend(start=5)[1] == rates[5:]


def test_an_iteration_takes_one_step_down_the_gradient() -> None:
    torch.manual_seed(0)
    before, teacher = nn.Linear(4, 2), nn.Linear(4, 2)
    x = torch.ones(3, 4)
    (before(x) - teacher(x).detach()).square().mean().backward()
    assert before.weight.grad is not None
    after, _ = descend(iterations=1)
    torch.testing.assert_close(after.weight, before.weight - 0.1 * before.weight.grad)
