"""Kinds of nodes: what moves data, whose range a tensor shares, who reads it, and where the network ends."""

import pytest
from torch import Tensor, fx, nn

from ptq.graph.canonicalization.data_movement import moves_data
from ptq.graph.fx_helpers import foldable
from ptq.graph.preparation import prepare
from ptq.quantization.integer_ops import computes_in_integers, consumers, is_network_output, range_source, tail
from tests.helpers.networks import SHAPE


class Branches(nn.Module):
    """A convolution, read through a pool by another and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.silu, self.pool = nn.ReLU(), nn.SiLU(), nn.MaxPool2d(2)
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.relu(self.first(x)))
        total: Tensor = self.silu(pooled + self.tanh(self.second(pooled)))
        return total.flatten(1)


@pytest.fixture
def graph() -> fx.GraphModule:
    return prepare(Branches(), SHAPE).module


def named(graph: fx.GraphModule, name: str) -> fx.Node:
    found: fx.Node = next(node for node in graph.graph.nodes if node.name == name)
    return found


def test_clamps_of_relu_fold_pools_move_and_others_do_neither(graph: fx.GraphModule) -> None:
    kinds = {n.name: (foldable(graph, n), moves_data(graph, n)) for n in graph.graph.nodes}
    assert kinds["relu"] == (True, False)
    assert kinds["pool"] == kinds["flatten"] == (False, True)
    assert {kinds[name] for name in ("first", "second", "add", "x")} == {(False, False)}


def test_a_range_comes_from_what_is_moved_and_goes_to_who_computes_with_it(graph: fx.GraphModule) -> None:
    relu, pool, first = (named(graph, name) for name in ("relu", "pool", "first"))
    assert range_source(graph, pool) is relu and range_source(graph, relu) is relu
    assert tail(graph, first) is relu and tail(graph, pool) is pool
    assert {node.name for node in consumers(graph, relu)} == {"add", "second"}


def test_what_only_the_output_reads_ends_the_network(graph: fx.GraphModule) -> None:
    (last,) = named(graph, "output").all_input_nodes
    before = range_source(graph, last)
    assert last is not before and is_network_output(graph, before)
    assert not any(is_network_output(graph, named(graph, name)) for name in ("add", "first", "x"))


def test_additions_compute_in_integers_and_layers_are_not_asked(graph: fx.GraphModule) -> None:
    assert computes_in_integers(graph, named(graph, "add"))
    assert not computes_in_integers(graph, named(graph, "relu"))
