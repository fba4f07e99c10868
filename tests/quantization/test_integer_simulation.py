"""Integer arithmetic in torch: onnxruntime's results, bit for bit, and the rules that give them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.export import export_qdq, ort
from ptq.graph.fx_helpers import module_of
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.integer_kernels import Pending
from ptq.quantization.integer_simulation import _Integers, code_bounds, folded_activation
from ptq.quantization.layers import QuantLayer
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantSpec
from ptq.utils.metrics import sqnr_db
from tests.helpers import networks


def in_onnxruntime(quantized_model: QuantizedModel, x: Tensor, folder: Path) -> Tensor:
    path = export_qdq(quantized_model, folder / "model.onnx")
    return torch.from_numpy(ort.run(ort.session(path), x.numpy()))


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("bits", [(8, 8), (2, 4)])
def test_simulation_and_onnxruntime_give_the_same_numbers(name: str, bits: tuple[int, int], tmp_path: Path) -> None:
    quantized_model, x = networks.quantized_network(name, *bits), networks.images(64, seed=3)
    expected = in_onnxruntime(quantized_model, x, tmp_path)
    # A code that fell to the other side would show as thousandths; what a last layer in float leaves
    # is the rounding of float32.
    torch.testing.assert_close(
        quantized_model.integer_forward(x), expected, rtol=0, atol=1e-6 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_integers_and_reals_simulate_the_same_network(name: str) -> None:
    quantized_model, x = networks.quantized_network(name, 4, 8), networks.images(16, seed=4)
    with torch.no_grad():
        reals = quantized_model.module(x)
    error = (quantized_model.integer_forward(x) - reals).square().mean() / reals.square().mean()
    assert error < 2e-3  # some codes may have fallen to the other side of a tie


class SeparableAttention(nn.Module):
    """As in MobileViTv2 (Mehta and Rastegari, 2022): a softmax of codes, and a ReLU of a piece of a split tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.joined, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 17, 1), nn.Linear(8, 10)
        nn.init.normal_(self.joined.weight)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.joined(F.max_pool2d(self.conv(x), 7)).flatten(2).split([1, 8, 8], 1)
        context = (key * query.softmax(-1)).sum(-1, keepdim=True)
        logits: Tensor = self.fc((torch.relu(value) * context).mean(-1))
        return logits


@pytest.mark.parametrize("bits", [(8, 8), (4, 4)])
def test_a_softmax_of_codes_and_two_roundings_in_a_row(bits: tuple[int, int], tmp_path: Path) -> None:
    """The kernel of the one rounds down 1 / scale; the other is one rounding where onnxruntime may make it one."""
    torch.manual_seed(0)
    graph_model = prepare(SeparableAttention().eval(), networks.SHAPE)
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, *bits))
    calibrate(quantized_model, networks.images(16))
    x = networks.images(64, seed=3)
    assert sqnr_db(quantized_model.integer_forward(x), in_onnxruntime(quantized_model, x, tmp_path)) > 100


class Joined(nn.Module):
    """A convolution of either channel of an image, and what is made of both."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.join = join
        self.first, self.second, self.last = (nn.Conv2d(n, 4, 1, bias=False) for n in (1, 1, 4))
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.join(self.first(x[:, :1]), self.second(x[:, 1:])))
        return y


CANCELING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "product": torch.mul,
    "average": lambda a, b: F.avg_pool2d(a, 2) + F.avg_pool2d(b, 2),
    "global average": lambda a, b: F.adaptive_avg_pool2d(a, 1) + b,
    "global average of little": lambda a, b: F.hardsigmoid(F.adaptive_avg_pool2d(1e-9 * a, 1)) * b,
}


@pytest.mark.parametrize("name", CANCELING)
def test_kernels_compute_what_canceled_out_on_the_calibration_images(name: str, tmp_path: Path) -> None:
    """A result far smaller than its terms: its scale must be none that the kernel of onnxruntime cannot write."""
    torch.manual_seed(0)
    graph_model = prepare(Joined(CANCELING[name]).eval(), (2, 8, 8))
    chessboard = (-1.0) ** torch.arange(72).reshape(8, 9)[:, :8]
    nothing = torch.zeros(8, 8)
    pairs = [(chessboard, -chessboard)] if name == "sum" else [(chessboard, nothing), (nothing, chessboard)]
    x = torch.stack([torch.stack(pair) for pair in pairs])
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x, observer="minmax")
    x = torch.rand(6, 2, 8, 8)
    expected = in_onnxruntime(quantized_model, x, tmp_path)
    simulated = quantized_model.integer_forward(x)
    torch.testing.assert_close(simulated, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_sums_beyond_float32_are_exact(tmp_path: Path) -> None:
    """3,000 products of up to 255 * 127 pass 2^24, where float32 holds even numbers only."""
    torch.manual_seed(0)
    last = nn.Linear(3000, 4)
    nn.init.uniform_(last.weight, 0.5, 1.0)
    wide = nn.Sequential(nn.Conv2d(3, 3000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    graph_model = prepare(wide.eval(), (3, 4, 4))
    quantized_model = insert_quantizers(graph_model, make_plan(graph_model, 8))
    x = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    calibrate(quantized_model, x)
    assert torch.equal(quantized_model.integer_forward(x), in_onnxruntime(quantized_model, x, tmp_path))


@pytest.mark.parametrize("name", ["convolution", "linear"])
def test_a_bias_too_large_for_its_grid_is_no_overflow(name: str, tmp_path: Path) -> None:
    """As what is left of a dead channel has, when its bias takes the error of a shortcut out."""
    torch.manual_seed(0)
    last = nn.Conv2d(8, 4, 1) if name == "convolution" else nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 4))
    graph_model = prepare(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), last).eval(), (3, 4, 4))
    x = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    quantized_model = calibrate(insert_quantizers(graph_model, make_plan(graph_model, 8)), x)
    bias = list(quantized_model.layers().values())[-1].op.bias
    assert bias is not None
    bias.data[:] = torch.tensor([1e6, -1e6, 1e9, 0.0])
    assert torch.equal(quantized_model.integer_forward(x), in_onnxruntime(quantized_model, x, tmp_path))


CLAMPS = [None, nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1.0, 2.0), nn.Hardtanh(-0.3, math.inf), nn.Hardtanh(-math.inf, 0.0)]


@given(st.integers(2, 8), st.floats(0, 10), st.floats(0.1, 10), st.sampled_from(CLAMPS))
def test_clamping_codes_is_rounding_what_was_clamped(
    bits: int, below: float, above: float, activation: nn.Module | None
) -> None:
    quantizer = Quantizer(QuantSpec(bits)).set_range(torch.tensor(-below), torch.tensor(above))
    x = torch.linspace(-12, 12, 4001)
    codes = (x / quantizer.scale).round() + quantizer.zero_point
    low, high = code_bounds(quantizer, activation)
    clamped = x if activation is None else activation(x)
    expected = quantizer(clamped)
    assert torch.equal((codes.clamp(low, high) - quantizer.zero_point) * quantizer.scale, expected)


def test_only_an_activation_with_no_other_reader_is_folded() -> None:
    net = nn.Sequential(nn.ReLU(), Quantizer(QuantSpec(8)))
    tracer = fx.Tracer()
    tracer.is_leaf_module = lambda *_: True  # type: ignore[method-assign]
    graph = fx.GraphModule(net, tracer.trace(net))
    _, relu, quantizer, output = graph.graph.nodes
    assert folded_activation(graph, quantizer) is relu
    output.args = ((relu, quantizer),)
    assert folded_activation(graph, quantizer) is None


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_quantized_layer_computes_in_integers(name: str) -> None:
    """Also one that reads a piece of a tensor that was split."""
    quantized_model = networks.quantized_network(name)
    computed = []

    class Recording(_Integers):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if isinstance(module_of(quantized_model.module, n), QuantLayer):
                computed.append(isinstance(result, Pending))
            return result

    with torch.no_grad():
        Recording(quantized_model.module).run(networks.images(2))
    assert len(computed) >= len(quantized_model.plan.weights) and all(computed)


def test_a_convolution_may_come_last(tmp_path: Path) -> None:
    """Its kernel writes codes only: they are the output, as real numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()
    ).eval()
    graph_model = prepare(model, (3, 16, 16))
    plan = make_plan(graph_model, 4, 4)
    assert plan.activations["_3"].bits == 8 and "8 bits, since" in plan.notes[-1]
    quantized_model = calibrate(insert_quantizers(graph_model, plan), networks.images(16))
    x = networks.images(9, seed=2)
    path = export_qdq(quantized_model, tmp_path / "model.onnx")
    graph = ort.optimized(path)
    assert ort.float_layers(graph) == ort.float_operators(graph) == []
    assert torch.equal(quantized_model.integer_forward(x), torch.from_numpy(ort.run(ort.session(path), x.numpy())))
