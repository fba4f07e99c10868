"""Hard sigmoids, hard swishes and GELUs in the ways that people and exporters write them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.graph.preparation import prepare


class Written(nn.Module):
    """An activation between two convolutions."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1), function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(3 * self.first(x))).mean((2, 3))
        return result


def kinds(function: Callable[[Tensor], Tensor]) -> list[str]:
    """The classes of modules in the prepared network, which `prepare` has compared with the original."""
    torch.manual_seed(0)
    prepared = prepare(Written(function).eval(), (3, 8, 8)).module
    return [type(prepared.get_submodule(str(n.target))).__name__ for n in prepared.graph.nodes if n.op == "call_module"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: F.relu6(x + 3.0) * x * 0.16666667163372,
        lambda x: x * (F.relu6(3 + x) / 6),
        lambda x: torch.clamp(x + 3, 0, 6).mul(x).div(6.0),
        lambda x: F.hardtanh(x + 3, 0.0, 6.0) / 6,
        lambda x: (x + 1) * F.relu6(x + 3) / 6,
    ],
)
def test_hard_sigmoids(function: Callable[[Tensor], Tensor]) -> None:
    found = kinds(function)
    assert "Hardsigmoid" in found and "ReLU6" not in found


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: 0.5 * (x * (torch.erf(x * 0.7071067690849304) + 1)),
        lambda x: x * (0.5 * (1 + torch.erf(x / 1.4142135381698608))),
        lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    ],
)
def test_gelus(function: Callable[[Tensor], Tensor]) -> None:
    assert "GELU" in kinds(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * F.relu6(x + 2) / 6,
        lambda x: x * F.relu6(x + 3) / 5,
        lambda x: F.relu6(x + 3) * x + F.relu6(x + 3) / 6,
        lambda x: (lambda y: x * y / 6 + y)(F.relu6(x + 3)),
        lambda x: (lambda y: y * y / 6)(F.relu6(x + 3)),
        lambda x: x * 0.5 * (1 + torch.erf(x)),
        lambda x: 0.25 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: (lambda y: x * y * 0.5 + y)(1 + torch.erf(x / math.sqrt(2))),
    ],
)
def test_what_only_looks_like_one_stays_what_it_computes(function: Callable[[Tensor], Tensor]) -> None:
    assert "GELU" not in kinds(function)
