"""Operations that compute the same are written in one way."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import is_tensor, module_of, watch
from ptq.graph.preparation import prepare
from tests.helpers.networks import NETWORKS, SHAPE, build, images


@pytest.mark.parametrize("name", NETWORKS)
def test_the_canonical_form(name: str) -> None:
    graph = prepare(build(name), SHAPE).module
    nodes = list(graph.graph.nodes)
    assert sum(node.op == "placeholder" for node in nodes) == 1
    targets = [node.target for node in nodes if node.op == "call_module"]
    assert len(targets) == len(set(targets))
    parameters = [id(p) for p in graph.parameters()]
    assert len(parameters) == len(set(parameters))
    for node in nodes:
        module = module_of(graph, node)
        assert not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout | nn.Identity)
        assert not getattr(module, "inplace", False)
        if isinstance(module, nn.AdaptiveAvgPool2d):
            assert module.output_size in (1, (1, 1))
        if node.op != "call_module":
            assert node.target not in (operator.iadd, F.relu, F.conv2d, F.linear, "mean", "add_")
    assert not any("running" in key for key in graph.state_dict())
    assert not any(p.requires_grad for p in graph.parameters())
    assert not any(module.training for module in graph.modules())


def test_functions_become_modules_under_the_module_that_called_them() -> None:
    graph = prepare(build("squeeze_excite"), SHAPE).module
    kinds = [type(m) for n in graph.graph.nodes if (m := module_of(graph, n)) is not None]
    assert kinds.count(nn.ReLU) == 1
    assert kinds.count(nn.AdaptiveAvgPool2d) == 2
    graph = prepare(build("functional"), SHAPE).module
    kinds = [type(m) for n in graph.graph.nodes if (m := module_of(graph, n)) is not None]
    assert (kinds.count(nn.Conv2d), kinds.count(nn.Linear)) == (2, 1)
    assert (kinds.count(nn.ReLU), kinds.count(nn.ReLU6)) == (1, 1)


class Pools(nn.Module):
    """The ways to write a global average pool, and adaptive pools of a larger grid."""

    def forward(self, x: Tensor) -> Tensor:
        ways = [
            x.mean((2, 3)),
            torch.mean(x, dim=[-1, -2], keepdim=True),
            F.avg_pool2d(x, 16),
            F.avg_pool2d(x, (16, 16)),
            nn.AdaptiveAvgPool2d(1)(x),
            F.adaptive_avg_pool2d(x, 4),
            F.adaptive_avg_pool2d(x, (16, 16)),
        ]
        return torch.cat([way.flatten(1) for way in ways], 1)


def test_average_pools_are_written_in_one_way() -> None:
    graph_model, x = prepare(Pools(), SHAPE), images(3)
    torch.testing.assert_close(graph_model.module(x), Pools()(x))
    kinds = [type(m) for n in graph_model.module.graph.nodes if (m := module_of(graph_model.module, n)) is not None]
    assert (kinds.count(nn.AdaptiveAvgPool2d), kinds.count(nn.AvgPool2d)) == (5, 1)


class Clamps(nn.Module):
    """The ways to clamp, of which some are ReLU and ReLU6."""

    def forward(self, x: Tensor) -> Tensor:
        x = 4 * x
        ways = [
            x.clamp(0),
            x.clamp(min=0),
            torch.clip(x, 0),
            x.clamp_min(0),
            x.clamp(0, 6),
            F.hardtanh(x, 0.0, 6.0),
            nn.Hardtanh(0, 6)(x),
            torch.relu(x),
            F.relu6(x),
            # And these are not:
            x.clamp(-1, 1),
            x.clamp(max=6),
            x.clamp(0, 5),
            x.clamp_min(-1),
            F.hardtanh(x),
        ]
        return torch.cat(ways, 1)


def test_clamps_that_are_relus_are_written_as_such_and_others_stay() -> None:
    graph_model, x = prepare(Clamps(), SHAPE), images(3)
    torch.testing.assert_close(graph_model.module(x), Clamps()(x))
    graph = graph_model.module
    kinds = [type(m) for n in graph.graph.nodes if (m := module_of(graph, n)) is not None]
    assert (kinds.count(nn.ReLU), kinds.count(nn.ReLU6)) == (5, 4)


class InPlace(nn.Module):
    """Tensors that are read again after they were changed in place, in every spelling."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
        self.head, self.change = nn.Linear(8, 4), change

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(x)
        self.change(x)
        logits: Tensor = self.head((x + y).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    "change",
    [
        nn.ReLU(inplace=True),
        nn.ELU(inplace=True),
        nn.Hardswish(inplace=True),
        lambda x: x.relu_(),
        lambda x: x.tanh_(),
        lambda x: torch.relu_(x),
        lambda x: F.elu(x, 1.0, True),
        lambda x: F.elu_(x),
        lambda x: F.leaky_relu(x, inplace=True),
        lambda x: operator.iadd(x, x),  # type: ignore[no-untyped-call]
        lambda x: operator.isub(x, 1),  # type: ignore[no-untyped-call]
        lambda x: operator.imul(x, x),  # type: ignore[no-untyped-call]
        lambda x: operator.itruediv(x, 2),  # type: ignore[no-untyped-call]
        lambda x: x.detach().mul_(2),
    ],
)
def test_what_is_changed_in_place_is_read_as_changed(change: Callable[[Tensor], object]) -> None:
    torch.manual_seed(0)
    model, x = InPlace(change).eval(), images(2)
    graph_model = prepare(model, SHAPE)
    assert torch.allclose(graph_model.module(x), model(x), atol=1e-5)
    kept: list[tuple[Tensor, Tensor]] = []
    watched = {
        node.name: lambda y: kept.append((y, y.clone())) for node in graph_model.module.graph.nodes if is_tensor(node)
    }
    watch(graph_model.module, x, watched)
    assert all(torch.equal(now, then) for now, then in kept)


def test_a_model_that_writes_into_its_input_is_prepared() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 4))
    x = images(2)
    expected = model.eval()(x.clone())
    kept = x.clone()
    assert torch.allclose(prepare(model, SHAPE).module(x), expected, atol=1e-5)
    assert torch.equal(x, kept)


def test_what_changes_nothing_goes() -> None:
    class Neutral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            both = sum(branch(x) for branch in (self.left, self.right)) + 0
            out: Tensor = both * 1.0 + 1
            return out

    graph_model = prepare(Neutral().eval(), (3, 8, 8), keep_branches="all")
    calls = [n for n in graph_model.module.graph.nodes if n.op == "call_function"]
    assert [n.target for n in calls] == [operator.add]
