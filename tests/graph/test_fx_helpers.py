"""Small questions and edits on nodes."""

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ptq.graph.fx_helpers import add_module, argument, module_of, op_name, watch


class Calls(nn.Module):
    """One module called twice, a function with arguments by position and by name, a method, an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.act(x))
        x = F.leaky_relu(x, 0.2) + F.leaky_relu(x, negative_slope=0.3)
        return x.flatten(1)


def nodes(graph: fx.GraphModule) -> dict[str, fx.Node]:
    return {node.name: node for node in graph.graph.nodes}


def test_names_and_arguments_are_found_in_every_spelling() -> None:
    graph = fx.symbolic_trace(Calls())
    names = [op_name(node) for node in graph.graph.nodes if node.op.startswith("call_f") or node.op == "call_method"]
    assert names == ["leaky_relu", "leaky_relu", operator.add.__name__, "flatten"]
    found = nodes(graph)
    assert argument(found["leaky_relu"], 1, "negative_slope", 0.01) == 0.2
    assert argument(found["leaky_relu_1"], 1, "negative_slope", 0.01) == 0.3
    assert argument(found["flatten"], 2, "end_dim", -1) == -1


def test_a_new_module_replaces_that_of_one_call_alone() -> None:
    graph = fx.symbolic_trace(Calls())
    first, second = nodes(graph)["act"], nodes(graph)["act_1"]
    add_module(graph, second, nn.ReLU6(), first)
    assert isinstance(module_of(graph, first), nn.ReLU) and isinstance(module_of(graph, second), nn.ReLU6)
    assert first.target != second.target
    add_module(graph, second, nn.Tanh(), first)
    assert isinstance(module_of(graph, second), nn.Tanh)
    assert not any(isinstance(module, nn.ReLU6) for module in graph.modules())


def test_watchers_see_what_nodes_give() -> None:
    graph, x = fx.symbolic_trace(Calls()), torch.randn(2, 3, 4)
    seen: list[Tensor] = []
    watch(graph, x, {"act": seen.append, "flatten": seen.append})
    assert torch.equal(seen[0], x.relu()) and torch.equal(seen[1], graph(x))
