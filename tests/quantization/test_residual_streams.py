"""Sums that linear layers add to stay in float; those that convolutions add to do not."""

import torch
from torch import Tensor, nn

import ptq
from ptq.quantization.residual_streams import residual_streams


class Transformer(nn.Module):
    """Patches, a class token, positions, and two blocks of a linear layer with layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.norms, self.linears = (
            nn.ModuleList(make() for _ in range(2)) for make in (lambda: nn.LayerNorm(8), lambda: nn.Linear(8, 8))
        )
        self.gamma = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for norm, linear in zip(self.norms, self.linears, strict=True):
            x = x + self.gamma * linear(norm(x))
        y: Tensor = self.head(x.mean(1))
        return y


class Bottleneck(nn.Module):
    """A sum of convolutions, and a linear layer behind the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.conv2(self.conv1(x).relu())).relu()
        y: Tensor = self.head(self.pool(x).flatten(1))
        return y


def test_what_runs_through_a_transformer_stays_in_float() -> None:
    graph_model = ptq.prepare(Transformer().eval(), (3, 16, 16))
    quantized = set(ptq.make_plan(graph_model, 8).activations)
    streams = {node.name for node in residual_streams(graph_model.module)}
    assert sum(name.startswith("cat") for name in streams) == 1
    assert quantized.isdisjoint(streams)
    assert sum(name.startswith("layer_norm") or name.startswith("norms") for name in quantized) == 2
    assert not any(name.startswith("linears") for name in quantized)  # only the stream reads them


def test_sums_of_convolutions_are_integers() -> None:
    graph_model = ptq.prepare(Bottleneck().eval(), (3, 16, 16))
    assert not residual_streams(graph_model.module)
    (total,) = (node for node in graph_model.module.graph.nodes if node.name == "add")
    assert {user.name for user in total.users} <= set(ptq.make_plan(graph_model, 8).activations)
