"""Features: what the last layers read before it is pooled, and parts of networks that give it."""

from functools import partial

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.features import feature_nodes, giving
from ptq.graph.fx_helpers import watch
from ptq.graph.preparation import GraphModel, prepare
from tests.helpers.branching_networks import BRANCHING, branching
from tests.helpers.networks import NETWORKS, SHAPE, build, images


def features_of(graph_model: GraphModel) -> list[fx.Node]:
    return feature_nodes(graph_model.module, graph_model.task)


@pytest.mark.parametrize("name", [*NETWORKS, *BRANCHING])
def test_features_are_what_the_network_computes_on_its_way(name: str) -> None:
    graph_model = prepare(build(name) if name in NETWORKS else branching(name), SHAPE)
    nodes = features_of(graph_model)
    assert bool(nodes) == (set(graph_model.task.kinds.values()) == {"classify"})
    seen: dict[str, Tensor] = {}
    watch(graph_model.module, images(2), {node.name: partial(seen.__setitem__, node.name) for node in nodes})
    given = giving(graph_model.module, nodes)(images(2))
    assert given.keys() == seen.keys()
    assert all(torch.equal(given[name], value) for name, value in seen.items())


class Pooled(nn.Module):
    """Tells by an average, in a way of its own, or of one place."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.fc, self.way = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4), way

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        match self.way:
            case "mean":
                x = x.mean((2, 3))
            case "steps":
                x = F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), 0.2, self.training)
            case "place":
                x = x[:, :, 0, 0]
        scores: Tensor = self.fc(x)
        return scores


@pytest.mark.parametrize(("way", "pooled"), [("mean", True), ("steps", True), ("place", False)])
def test_features_are_those_before_pooling_but_not_what_is_never_looked_at(way: str, pooled: bool) -> None:
    graph_model = prepare(Pooled(way), SHAPE)
    (value,) = giving(graph_model.module, features_of(graph_model))(images(2)).values()
    assert (value.dim() == 4 and value.shape[-1] > 1) == pooled


@pytest.mark.parametrize(
    "network",
    [nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())],
    ids=["one layer", "no classes"],
)
def test_there_are_none_before_any_layer_and_without_classes(network: nn.Module) -> None:
    assert features_of(prepare(network, (3, 16, 16))) == []
