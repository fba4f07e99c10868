"""Hard sigmoids and swishes in the ways that people and exporters write them."""

import operator
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
        lambda x: x * F.relu6(x + 2) / 6,
        lambda x: x * F.relu6(x + 3) / 5,
        lambda x: F.relu6(x + 3) * x + F.relu6(x + 3) / 6,
        lambda x: (lambda y: x * y / 6 + y)(F.relu6(x + 3)),
        lambda x: (lambda y: y * y / 6)(F.relu6(x + 3)),
        lambda x: (lambda y: x * torch.sigmoid(y) + y)(1.702 * x),
    ],
)
def test_what_only_looks_like_one_stays_what_it_computes(function: Callable[[Tensor], Tensor]) -> None:
    assert "GELU" not in kinds(function)


@pytest.mark.parametrize("factor", [1.702, 0.5])
def test_layers_take_over_the_factor_of_a_swish(factor: float) -> None:
    model = Written(lambda x: x * torch.sigmoid(factor * x)).eval()
    graph = prepare(model, (3, 8, 8)).module
    arithmetic = [n for n in graph.graph.nodes if n.op == "call_function" and n.target is operator.mul]
    assert [len(n.all_input_nodes) for n in arithmetic] == [2]
