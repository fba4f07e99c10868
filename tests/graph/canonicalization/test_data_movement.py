"""What moves numbers, moves that undo one another, and the activations that come before."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import foldable, is_tensor, module_of, op_name, sole_input
from ptq.graph.preparation import prepare
from tests.helpers.networks import SHAPE

MOVERS: dict[str, Callable[[Tensor], Tensor]] = {
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "shuffles": lambda x: F.channel_shuffle(F.pixel_shuffle(x, 2), 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "reflection": lambda x: nn.ReflectionPad2d(1)(x),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "turned": lambda x: x.flip(3).permute(0, 1, 3, 2).roll(1, 2),
    "some channels": lambda x: x[:, [3, 0, 5]],
    "half": lambda x: x[:, 2:],
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "tensor methods": lambda x: x.movedim(1, 3).swapaxes(1, 2).movedim(3, 1),
}


class Moved(nn.Module):
    """An activation behind a mover behind a convolution."""

    def __init__(self, mover: Callable[[Tensor], Tensor], activation: nn.Module, shared: bool) -> None:
        super().__init__()
        self.conv, self.mover, self.activation, self.shared = nn.Conv2d(3, 8, 3), mover, activation, shared

    def forward(self, x: Tensor) -> Tensor:
        y = self.mover(self.conv(x))
        z: Tensor = self.activation(y).flatten(1)
        return torch.cat([z, y.flatten(1)], 1) if self.shared else z


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("shared", [False, True])
def test_a_relu_stands_before_what_moves_its_input_unless_others_read_that(name: str, shared: bool) -> None:
    torch.manual_seed(0)
    model = Moved(MOVERS[name], nn.ReLU6(), shared).eval()
    graph = prepare(model, SHAPE).module
    x = torch.randn(2, *SHAPE)
    assert torch.equal(graph(x), model(x))
    (activation,) = (node for node in graph.graph.nodes if foldable(graph, node))
    assert isinstance(module_of(graph, sole_input(activation)), nn.Conv2d) is not shared
    movers = [node for node in graph.graph.nodes if moves_data(graph, node) and is_tensor(node)]
    assert movers and all(not isinstance(module_of(graph, node), nn.Conv2d) for node in movers)


def test_reshapes_that_bring_back_a_shape_go() -> None:
    class Rows(nn.Module):
        """Of LeViT: a BatchNorm over the tokens of all images, and a hard swish."""

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.head = nn.Linear(256, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x.flatten(2))
            y = self.norm(y.flatten(0, 1)).reshape_as(y)
            result: Tensor = self.head(F.hardswish(y)).mean(1)
            return result

    model, x = Rows().eval(), torch.randn(3, *SHAPE)
    graph = prepare(model, SHAPE).module
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)
    movers = [node for node in graph.graph.nodes if moves_data(graph, node)]
    assert [node.target for node in movers] == ["flatten"]


PICKS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "a token": (lambda x: x[:, 0], True),
    "some tokens": (lambda x: x[:, 1:3].flatten(1), True),
    "a token by its name": (lambda x: x.select(1, 2), True),
    "a part of every token": (lambda x: x[..., :4].mean(1), False),
    "numbers of a token": (lambda x: x[:, 0, :4], False),
    "a token and the rest": (lambda x: x[:, 0] + x[:, 1:].mean(1), False),
}


class Picked(nn.Module):
    """A LayerNorm over tokens, and what is picked of it."""

    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.norm, self.pick = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), pick

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(self.norm(self.stem(x).flatten(2).transpose(1, 2)))


class Written(nn.LayerNorm):
    """A LayerNorm as timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.mark.parametrize("norm", [nn.LayerNorm, Written])
@pytest.mark.parametrize("name", PICKS)
def test_a_normalization_reads_what_is_picked_of_it(name: str, norm: type[nn.LayerNorm]) -> None:
    pick, moves = PICKS[name]
    model = Picked(pick).eval()
    model.norm = norm(8)
    nn.init.normal_(model.norm.bias)
    graph, x = prepare(model, SHAPE).module, torch.randn(5, *SHAPE)
    torch.testing.assert_close(graph(x), model(x))
    (node,) = (
        n
        for n in graph.graph.nodes
        if isinstance(module_of(graph, n), nn.LayerNorm) or (n.op == "call_function" and op_name(n) == "layer_norm")
    )
    source = node.args[0]
    assert isinstance(source, fx.Node)
    assert (op_name(source) in ("getitem", "select")) == moves
