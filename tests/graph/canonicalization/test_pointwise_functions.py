"""Activations are known by their numbers, however they are written; what differs a little stays as it is."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.graph.canonicalization.test_written_activations import kinds

Function = Callable[[Tensor], Tensor]
WRITTEN: dict[str, list[Function]] = {
    "GELU": [
        lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * (x * (torch.erf(x * 0.7071067690849304) + 1)),
        lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
        lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x.pow(3)))),
        lambda x: x / 2 * (1 + torch.erf(x / torch.sqrt(torch.tensor(2.0)))),
    ],
    "Mish": [lambda x: x * torch.tanh(torch.log(1 + torch.exp(x)))],
    "Softplus": [lambda x: torch.log1p(x.exp())],
    "Sigmoid": [lambda x: 1 / (1 + torch.exp(-x)), lambda x: (torch.tanh(x / 2) + 1) * 0.5],
    "ReLU": [
        lambda x: (x + x.abs()) / 2,
        lambda x: torch.maximum(x, 0 * x),
        lambda x: torch.where(x > 0, x, torch.zeros(())),
    ],
    "ReLU6": [lambda x: F.relu(x).clamp(-1, 6)],
    "LeakyReLU": [
        lambda x: torch.where(x >= 0, x, x * 0.2),
        lambda x: torch.max(x, 0.2 * x),
        lambda x: 0.6 * x + 0.4 * x.abs(),
    ],
}


@pytest.mark.parametrize(("name", "at"), [(name, at) for name, ways in WRITTEN.items() for at in range(len(ways))])
def test_written_activations_become_modules(name: str, at: int) -> None:
    assert [kind for kind in kinds(WRITTEN[name][at]) if kind not in ("Conv2d", "AdaptiveAvgPool2d")] == [name]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5 * (1 + torch.erf(x)),
        lambda x: 0.25 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: (lambda y: x * y * 0.5 + y)(1 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.045 * x**3))),
        lambda x: torch.where(x > 0.1, x, 0.2 * x),
        lambda x: torch.log(2 + torch.exp(x)),
        lambda x: x * torch.tanh(torch.log(1 + torch.exp(x.mean(1, keepdim=True)))),
    ],
)
def test_what_gives_other_numbers_stays(function: Function) -> None:
    assert {*kinds(function)} <= {"Conv2d", "AdaptiveAvgPool2d", "Softplus"}


def test_a_part_that_others_read_stays() -> None:
    def function(x: Tensor) -> Tensor:
        part = 1 + torch.erf(x / math.sqrt(2))
        return 0.5 * x * part + part.mean((2, 3), keepdim=True)

    assert "GELU" not in kinds(function)


def test_parameters_of_a_known_activation_are_kept() -> None:
    assert nn.GELU("tanh").approximate == "tanh" and "GELU" in kinds(lambda x: F.gelu(x, approximate="tanh"))
