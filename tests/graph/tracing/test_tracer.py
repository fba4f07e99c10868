"""Tracing what plain torch.fx gives up on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ptq
from ptq.graph.tracing.tracer import trace
from tests.helpers.networks import NETWORKS, build, images


class PadToMultiple(nn.Module):
    """Pads by an amount computed from the input's size, and asserts about it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        assert x.dim() == 4 and x.ndim == len(x.size()) and height == width
        if height % 3:
            x = F.pad(x, (0, -width % 3, 0, -height % 3))
        result: Tensor = self.conv(x.to(x.dtype))
        return result


class Optional(nn.Module):
    """Arguments beside the images, all with defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None, gain: float = 2.0, flat: bool = True) -> Tensor:
        x = self.conv(x) * gain
        if mask is not None:
            x = x * mask
        return x.flatten(1) if flat else x


class Unpacking(nn.Module):
    """Iterates over tensors of tensors."""

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = x.unbind(1)
        first, *others = torch.stack([red + blue, green])
        return torch.cat([first, *others], 1)


class Check(nn.Module):
    """Control flow that depends on values: nobody can trace this."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), Check())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_the_model_does(name: str) -> None:
    model, x = build(name), images(2)
    assert torch.equal(trace(model, x.clone())(x.clone()), model(x.clone()))


@pytest.mark.parametrize("model", [PadToMultiple(), Optional(), Unpacking()])
def test_shapes_are_numbers_and_optional_arguments_have_their_defaults(model: nn.Module) -> None:
    x = images(2)
    assert torch.equal(trace(model.eval(), x).forward(x), model(x))


def test_every_node_knows_its_example_and_where_it_was_called() -> None:
    x = images(2)
    graph = trace(build("resnet"), x)
    for node in graph.graph.nodes:
        if node.op != "output":
            assert isinstance(node.meta["example"], Tensor)
    nodes = {node.name: node for node in graph.graph.nodes}
    assert nodes["stem_0"].meta["example"].shape == (2, 8, 16, 16)
    assert nodes["blocks_1_conv1"].meta["example"].shape == (2, 16, 4, 4)
    assert nodes["add"].meta["module_path"] == "blocks.0"


def test_parameters_are_shared_with_the_model() -> None:
    model = build("resnet")
    graph = trace(model, images(2))
    assert {id(p) for p in graph.parameters()} == {id(p) for p in model.parameters()}


def test_what_cannot_be_traced_is_named() -> None:
    with pytest.raises(ptq.ModelError, match=r"body\.1 \(Check\).*\(2, 3, 16, 16\)"):
        trace(Gated(), images(2))
    with pytest.raises(ptq.ModelError, match=r"the model itself \(Check\)"):
        trace(Check(), images(2))


class _Asking(nn.Module):
    """Asks what it gets, and calls what torch chooses among several signatures for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or isinstance(x, tuple | list):
            raise TypeError
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.pow(x, 2.0),
        lambda x: torch.pow(2.0, x),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: torch.float_power(x, 2).float(),
        lambda x: x * torch.isin(x, 1.0),
    ],
)
def test_functions_of_numbers_and_tensors_take_no_proxy_for_a_tensor(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(trace(_Asking(function), x)(x), function(x))
