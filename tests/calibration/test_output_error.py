"""What is said of the network's output is what happens to it."""

import pytest
import torch
from torch import Tensor, nn

from ptq.calibration.activation_ranges import CLEAR, calibrate
from ptq.calibration.output_error import OutputError, least_output_error, output_errors, output_sqnr
from ptq.graph.preparation import prepare
from ptq.quantization.affine import fake_quant, qparams
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.spec import QuantSpec
from tests.helpers.networks import NETWORKS, SHAPE, build, images

Ends = tuple[Tensor, Tensor]


class Weighted(nn.Module):
    """Two channels behind an identity that is quantized; the output looks at the second only."""

    def __init__(self, weights: tuple[float, float]) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 2, 1, bias=False)
        self.last = nn.Conv2d(2, 1, 1, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(2)[:, :, None, None])
            self.last.weight.copy_(torch.tensor(weights)[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x)).flatten(1)
        return y


def lost(net: nn.Module, x: Tensor, name: str = "first") -> tuple[Ends, QuantSpec, OutputError]:
    graph = prepare(net.eval(), tuple(x.shape[1:])).module  # type: ignore[arg-type]
    with torch.no_grad():
        y = net.first(x) if isinstance(net, Weighted) else x
    ends = y.min(), y.max()
    return ends, QuantSpec(4), output_errors(graph, x, {name: ends}, sample=1 << 16)[name]


def test_of_a_linear_network_it_is_the_change_of_the_output() -> None:
    """Clipping adds up with its sign; the projections are met in the mean over images."""
    net = Weighted((0.5, -1.5))
    x = torch.randn(128, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    (low, high), spec, error = lost(net, x)
    for share in (0.3, 0.6, 1.0):
        scale, zero_point = qparams(low * share, high * share, spec)
        with torch.no_grad():
            change = net.last(fake_quant(x, scale, zero_point, spec.qmin, spec.qmax) - x).flatten(1)
        assert error.of(low * share, high * share, spec) == pytest.approx(float(change.square().sum(1).mean()), rel=0.3)


def test_channels_that_nobody_reads_do_not_set_the_range() -> None:
    x = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([100.0, 1.0])[:, None, None]
    _, spec, error = lost(Weighted((0.0, 1.0)), x)
    low, high = least_output_error(error, spec)
    assert -12 < low < 0 < high < 12
    _, _, error = lost(Weighted((1.0, 1.0)), x)
    assert least_output_error(error, spec)[1] > 50


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_decides_which_ranges_it_has(name: str) -> None:
    """Those of its output where they are clearly better, those of each tensor otherwise."""
    graph_model, x = prepare(build(name), SHAPE), images(32)
    made, decibels = {}, {}
    for observer in ("auto", "mse", "output"):
        quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4, 4)), x, observer=observer)
        made[observer] = [q.scale.item() for q in quantized_model.quantizers().values()]
        decibels[observer] = output_sqnr(graph_model.module, quantized_model.quantizers(), [x])
    assert made["auto"] == made["output" if decibels["output"] >= decibels["mse"] + CLEAR else "mse"]


def test_channels_of_other_magnitudes_get_ranges_of_the_output() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    with torch.no_grad():  # one channel is a hundred times as large, and hardly read
        first.weight[0] *= 100
        second.weight[:, 0] *= 1e-4
    graph_model = prepare(net.eval(), SHAPE)
    made = {}
    for observer in ("auto", "mse", "output"):
        quantized_model = calibrate(
            insert_quantizers(graph_model, make_plan(graph_model, 4, 4)), images(32), observer=observer
        )
        made[observer] = [q.scale.item() for q in quantized_model.quantizers().values()]
    assert made["auto"] == made["output"] != made["mse"]


def test_what_has_no_gradient_is_left_to_the_error_of_the_tensor() -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
            self.head = nn.Conv2d(4, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(torch.relu(self.conv(x)))
            z: Tensor = (y + self.other(x).argmax(1, keepdim=True)).mean((2, 3))
            return z

    torch.manual_seed(0)
    graph_model = prepare(Picked().eval(), SHAPE)
    made = [
        calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4, 4)), images(8), observer=observer)
        for observer in ("output", "mse")
    ]
    assert all(q.calibrated for q in made[0].quantizers().values())
    ours, plain = (m.quantizers() for m in made)
    blind = [n for n in ours if n == "other"]
    assert all(torch.equal(ours[n].scale, plain[n].scale) for n in blind)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_behind_in_the_float_network(name: str) -> None:
    """No gradients, no hooks, and the same numbers."""
    graph_model = prepare(build(name), SHAPE)
    x = images(8)
    with torch.no_grad():
        before = graph_model.module(x)
    calibrate(insert_quantizers(graph_model, make_plan(graph_model, 4, 4)), x)
    assert all(p.grad is None for p in graph_model.module.parameters())
    with torch.no_grad():
        assert torch.equal(graph_model.module(x), before)


def test_parameters_made_for_inference_only() -> None:
    """No gradient can pass them, and none is asked for."""
    with torch.inference_mode():
        net = build("resnet")
    graph_model = prepare(net, SHAPE)
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), images(4))
    assert all(q.calibrated for q in quantized_model.quantizers().values())
