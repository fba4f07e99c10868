"""What 8 bits cost in the last layers of heads."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.last_layers import measure_last_layers, too_costly
from ptq.graph.preparation import prepare
from ptq.quantization.plan import make_plan
from tests.helpers.branching_networks import conv
from tests.helpers.networks import SHAPE, build, images, with_statistics


class Heads(nn.Module):
    """Two even heads, and one whose boxes are hundreds of times as large as its scores."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 8, 2), conv(8, 12))
        self.even, self.mixed, self.line = nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        return {"even": self.even(y), "mixed": self.mixed(y).flatten(2), "line": self.line(y.mean((2, 3)))}


def heads() -> nn.Module:
    torch.manual_seed(0)
    network = Heads()
    with torch.no_grad():
        for parameter in network.mixed.parameters():
            parameter[:3] *= 300
    return with_statistics(network)


def test_boxes_beside_scores_in_one_tensor_cost_too_much() -> None:
    graph_model = prepare(heads(), SHAPE, task="line=generic")
    errors = measure_last_layers(graph_model, make_plan(graph_model, 4), images(16))
    assert {layer: list(each) for layer, each in errors.items()} == {
        "even": ["even"],
        "mixed": ["mixed"],
        "line": ["line"],
    }
    assert errors["mixed"]["mixed"] > 0.1 > 0.001 > errors["even"]["even"] > 0
    assert list(too_costly(errors, graph_model.task)) == ["mixed"]


def test_fewer_bits_cost_more_and_a_layer_in_float_costs_nothing() -> None:
    graph_model = prepare(heads(), SHAPE, task="line=generic")
    eight, six = (
        measure_last_layers(graph_model, make_plan(graph_model, 4, layers={"even": bits, "mixed": None}), images(16))
        for bits in (8, 5)
    )
    assert list(eight) == ["even", "line"]
    assert six["even"]["even"] > eight["even"]["even"]
    assert six["line"] == eight["line"]


class Decoded(nn.Module):
    """Boxes whose sides are powers."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.body, self.box, self.power = conv(3, 8, 2), nn.Conv2d(8, 4, 1), power

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.box(self.body(x)) * self.power)


def test_arithmetic_behind_the_layer_counts() -> None:
    errors = []
    for power in (0.1, 8.0):
        torch.manual_seed(0)
        graph_model = prepare(with_statistics(Decoded(power)), SHAPE)
        (found,) = measure_last_layers(graph_model, make_plan(graph_model, 8), images(16)).values()
        errors.append(found["output"])
    assert errors[1] > errors[0]


@pytest.mark.parametrize("name", ["resnet", "squeeze_excite"])
def test_a_classifier_has_nothing_to_decide(name: str) -> None:
    graph_model = prepare(build(name), SHAPE)
    assert measure_last_layers(graph_model, make_plan(graph_model, 4), images(4)) == {}
