"""Preparing: same output at every batch size, the model untouched, and what cannot be prepared is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ptq
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import prepare
from tests.helpers.networks import NETWORKS, SHAPE, build, images


@pytest.mark.parametrize("name", NETWORKS)
def test_preparing_keeps_the_output_at_every_batch_size(name: str) -> None:
    model, graph_model = build(name), prepare(build(name), SHAPE)
    assert graph_model.input_shape == SHAPE
    assert graph_model.example(5).shape == (5, *SHAPE)
    for count in (1, 2, 7):
        x = images(count)
        torch.testing.assert_close(graph_model.module(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_comes_out_untouched(name: str) -> None:
    model, seen = build(name), []
    model.train()
    next(model.children(), model).eval()  # modes may be mixed
    hook = model.register_forward_hook(lambda *_: seen.append(1))
    kept = copy.deepcopy(model.state_dict())
    identities = [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]
    modes = [(n, m.training, type(m), getattr(m, "inplace", None)) for n, m in model.named_modules()]
    graph_model = prepare(model, SHAPE)
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    assert identities == [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]
    assert modes == [(n, m.training, type(m), getattr(m, "inplace", None)) for n, m in model.named_modules()]
    assert list(model._forward_hooks) == [hook.id]
    assert not any(m._forward_hooks for m in model.modules() if m is not model)
    # And later changes of one do not reach the other.
    seen.clear()
    before = graph_model.module(images(2))
    for value in model.state_dict().values():
        value.fill_(1)
    assert torch.equal(graph_model.module(images(2)), before)
    assert not seen


def test_shared_modules_become_separate_ones() -> None:
    graph = prepare(build("shared"), SHAPE).module
    layers = [m for n in graph.graph.nodes if isinstance(m := module_of(graph, n), LAYERS)]
    assert len(layers) == 5
    assert len({id(m) for m in layers}) == len({id(m.weight) for m in layers}) == 5


class Constant(nn.Module):
    """Weights computed from weights, and a table that does not depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.gain = nn.Parameter(torch.rand(4, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gain * (self.weight - self.weight.mean((1, 2, 3), keepdim=True))
        return F.conv2d(x, weight, padding="same").flatten(1)


def test_what_does_not_depend_on_the_input_is_computed_once() -> None:
    model, x = Constant(), images(2)
    graph = prepare(model, SHAPE).module
    torch.testing.assert_close(graph(x), model(x))
    assert [n.op for n in graph.graph.nodes].count("call_module") == 1
    assert len(list(graph.graph.nodes)) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    model = build("resnet")
    model.get_parameter("blocks.1.conv2.weight").data[0, 0, 0, 0] = value
    with pytest.raises(ptq.ModelError, match=r"blocks\.1\.conv2\.weight"):
        prepare(model, SHAPE)


class Wrapped(nn.Module):
    """A network whose output is something other than one tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 4, 3), kind

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return {"pair": (y, y), "dict": {"out": y}, "single": [y]}[self.kind]


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y if float(y.mean()) > 0 else -y


def test_an_untraceable_model_is_refused_with_advice() -> None:
    with pytest.raises(ptq.ModelError, match="Untraceable"):
        prepare(Untraceable(), SHAPE)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class ClassToken(nn.Module):
    """A learned token beside the image's own, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, 4, 4, 4), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).permute(0, 2, 1)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1).mean(1)


def test_tokens_follow_the_batch() -> None:
    model = ClassToken()
    graph_model = prepare(model, SHAPE)
    for count in (1, 5):
        torch.testing.assert_close(graph_model.module(images(count)), model(images(count)))


class BatchBound(nn.Module):
    """Counts the images of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mean((2, 3))
        return torch.cat([torch.arange(len(y))[:, None], y], 1)


def test_models_that_need_more_than_one_batch_of_images_are_refused() -> None:
    for model in (TwoInputs(), BatchBound()):
        with pytest.raises(ptq.ModelError):
            prepare(model, SHAPE)


def test_the_wrong_size_is_refused_with_the_shape() -> None:
    with pytest.raises(ptq.ModelError, match=r"\(2, 3, 24, 24\)"):
        prepare(build("shared"), (3, 24, 24))


class Aliasing(nn.Module):
    """Reads a tensor of which a part was changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        y[:, :2].mul_(3)
        return y.flatten(1)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    with pytest.raises(ptq.ModelError):
        prepare(Aliasing(), SHAPE)
