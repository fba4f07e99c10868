"""BatchNorm disappears into the layer before it, and the output stays."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.folding.affine_folding import fold_affine_maps, gain_and_shift
from ptq.graph.fx_helpers import module_of, op_name
from ptq.graph.preparation import prepare
from ptq.graph.tracing.tracer import trace
from tests.helpers.networks import SHAPE, images, with_statistics

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def conv(layer: nn.Conv2d | nn.ConvTranspose2d, **norm: bool) -> nn.Module:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels, **norm), nn.ReLU())


class Rows(nn.Module):
    """A BatchNorm over the tokens of all images, as LeViT has it behind its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(256, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.flatten(2))
        rows: Tensor = self.norm(y.flatten(0, 1)).view(-1, 3, 6)
        return rows.mean(1)


CASES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: conv(nn.Conv2d(3, 6, 3)),
    "conv_without_bias": lambda: conv(nn.Conv2d(3, 6, 3, bias=False)),
    "depthwise": lambda: conv(nn.Conv2d(3, 6, 3, groups=3)),
    "transposed": lambda: conv(nn.ConvTranspose2d(3, 6, 3, 2)),
    "transposed_groups": lambda: conv(nn.ConvTranspose2d(3, 6, 3, 2, groups=3, bias=False)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 6), nn.BatchNorm1d(6)),
    "rows": Rows,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("half_dead", [False, True])
def test_folding_keeps_the_output_and_leaves_no_batchnorm(case: str, half_dead: bool) -> None:
    torch.manual_seed(0)
    model, x = with_statistics(CASES[case]()), images(4)
    if half_dead:  # a channel that was constant in training
        for module in model.modules():
            if isinstance(module, BatchNorm):
                assert module.running_var is not None
                module.running_var[0] = 1e-12
    expected = model(x)
    graph = trace(model, x).requires_grad_(False)
    fold_affine_maps(graph)
    graph.recompile()
    assert not any(
        isinstance(graph.get_submodule(str(node.target)), BatchNorm)
        for node in graph.graph.nodes
        if node.op == "call_module"
    )
    torch.testing.assert_close(graph(x), expected, rtol=1e-4, atol=1e-4)


class Branching(nn.Module):
    """A convolution read by a BatchNorm and by others: it must not be scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = self.norm(y) + y
        return result


@pytest.mark.parametrize("model", [Branching(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))])
def test_without_a_layer_to_fold_into_it_becomes_a_marked_depthwise_convolution(model: nn.Module) -> None:
    model, x = with_statistics(model), images(4)
    expected = model(x)
    graph = trace(model, x)
    fold_affine_maps(graph)
    graph.recompile()
    torch.testing.assert_close(graph(x), expected)
    (node,) = [node for node in graph.graph.nodes if node.meta.get("from_batchnorm")]
    layer = graph.get_submodule(str(node.target))
    assert isinstance(layer, nn.Conv2d)
    assert layer.groups == layer.in_channels == layer.out_channels
    assert not any("running" in name for name in graph.state_dict())


@pytest.mark.parametrize("affine", [True, False])
def test_affine_form_is_the_batchnorm(affine: bool) -> None:
    norm = nn.BatchNorm1d(5, affine=affine).eval()
    norm.running_mean = torch.randn(5)
    norm.running_var = torch.rand(5) + 0.1
    gain, shift = gain_and_shift(norm)
    x = torch.randn(7, 5)
    torch.testing.assert_close((x * gain + shift).float(), norm(x))


def test_batchnorm_without_statistics_stays() -> None:
    model, x = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), images(4))
    graph = trace(model.eval(), x)
    fold_affine_maps(graph)
    assert any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())


class Written(nn.Module):
    """Two convolutions, a linear layer, a vector and a BatchNorm, and what a function makes of them."""

    def __init__(self, function: Callable[["Written", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.plain, self.padded = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.Linear(4, 5)
        self.flat, self.vector = nn.BatchNorm1d(4), nn.Parameter(torch.rand(4) + 0.5)

    def column(self) -> Tensor:
        return self.vector.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


FOLDED: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "before a ReLU": lambda m, x: torch.relu(m.one(x)) * m.column(),
    "before pools": lambda m, x: F.max_pool2d(F.avg_pool2d(m.one(x), 2), 2) * m.column() - 2,
    "before a pad": lambda m, x: F.pad(m.one(x), (1, 2, 0, 1)) / 3,
    "both terms": lambda m, x: (torch.relu(m.one(x)) - m.two(x)) * m.column() + 1,
    "all pieces": lambda m, x: torch.cat([m.one(x), torch.relu(m.two(x))], 1) * (torch.arange(8.0) + 1).view(-1, 1, 1),
    "a gated tensor": lambda m, x: 0.1 * (m.one(x) * torch.sigmoid(m.two(x))),
    "behind a flatten": lambda m, x: m.one(x).flatten(1) * 0.5 + 1,
    "subtracted from a number": lambda m, x: 1 - m.one(x),
    "input of a layer": lambda m, x: m.one(2 * x),
    "input without padding": lambda m, x: m.plain(torch.sigmoid(m.one(x)) * m.column() - 0.5),
    "two readers": lambda m, x: (lambda y: m.plain(y) + m.plain(torch.relu(y)))(m.column() * torch.tanh(m.one(x))),
    "transposed reader": lambda m, x: m.up(torch.tanh(m.one(x)) / 3),
    "behind global pool": lambda m, x: m.head((m.column() * torch.tanh(m.one(x)) + 1).mean((2, 3))),
    "norm before a linear layer": lambda m, x: m.head(m.flat(torch.tanh(m.one(x)).mean((2, 3)))),
    "last dimension": lambda m, x: m.head(torch.tanh(m.one(x)).permute(0, 2, 3, 1) * m.vector + 1),
    "normalized images": lambda m, x: F.conv2d((x - 0.5) / 0.25, m.two.weight),
    "nothing": lambda m, x: torch.tanh(x) * m.flat.weight[:1] + m.flat.bias[:1],
}


def maps(graph: fx.GraphModule) -> int:
    """How many products and sums with constants, and BatchNorms, there are."""
    norms = [n for n in graph.graph.nodes if isinstance(module_of(graph, n), BatchNorm) or n.meta.get("from_batchnorm")]
    arithmetic = [n for n in graph.graph.nodes if op_name(n) in ("add", "sub", "mul", "truediv")]
    return len(norms) + sum(any(not isinstance(a, fx.Node) or a.op == "get_attr" for a in n.args) for n in arithmetic)


@pytest.mark.parametrize("name", FOLDED)
def test_maps_go_into_the_layers_around_them(name: str) -> None:
    model, x = Written(FOLDED[name]).eval(), images(3)
    if name != "nothing":
        with_statistics(model)
    graph = prepare(model, SHAPE).module
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)
    assert maps(graph) == 0


KEPT: dict[str, Callable[[Written, Tensor], Tensor]] = {
    "negative behind a ReLU": lambda m, x: torch.relu(m.one(x)) * -2,
    "shift behind a ReLU": lambda m, x: torch.relu(m.one(x)) + m.column(),
    "shift behind a pad": lambda m, x: F.pad(m.one(x), (1, 1, 1, 1)) + 1,
    "shift before padding": lambda m, x: m.padded(torch.tanh(m.one(x)) + 1),
    "read by others": lambda m, x: (lambda y: y * 2 + torch.tanh(y))(m.one(x)),
    "one term is no layer": lambda m, x: (m.one(x) + torch.tanh(m.two(x))) * 2,
    "pixels of their own": lambda m, x: m.one(x) * torch.linspace(1, 2, 16),
}


@pytest.mark.parametrize("name", KEPT)
def test_where_a_fold_would_be_inexact_the_map_stays(name: str) -> None:
    model, x = with_statistics(Written(KEPT[name])), images(3)
    graph = prepare(model, SHAPE).module
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)
    assert maps(graph) == 1


class Windows(nn.Module):
    """A scale before an image is cut into windows that a linear layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.rand(3) + 0.5), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1) * self.scale
        windows = x.reshape(-1, 2, 8, 2, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, 3)
        y: Tensor = self.linear(windows).reshape(len(x), -1)
        return y


def test_a_scale_passes_what_cuts_an_image_into_windows() -> None:
    model = Windows().eval()
    graph = prepare(model, SHAPE).module
    assert not any(node.target is operator.mul for node in graph.graph.nodes)
    torch.testing.assert_close(graph(images(3)), model(images(3)), rtol=1e-4, atol=1e-4)
