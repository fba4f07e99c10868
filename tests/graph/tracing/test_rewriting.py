"""Rewrites of what hides from tracing: same output, plain modules, the original untouched."""

import math
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import ptq
from ptq.graph.tracing.rewriting import rewritten_copy, same_padding
from tests.helpers.networks import images, with_statistics


class BatchNormAct(nn.BatchNorm2d):
    """A BatchNorm that carries its activation, as timm has it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(super().forward(x))
        return y


class SameConv(nn.Conv2d):
    """TensorFlow's padding, computed from the input."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, 1, self.groups)


class StandardizedConv(nn.Conv2d):
    """Weight standardization: nothing that a plain convolution does."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


def network(*modules: nn.Module) -> nn.Module:
    return with_statistics(nn.Sequential(*modules))


def snapshot(model: nn.Module) -> tuple[list[tuple[str, type]], dict[str, Tensor], list[bool]]:
    return (
        [(name, type(module)) for name, module in model.named_modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [p.requires_grad for p in model.parameters()],
    )


CASES: dict[str, Callable[[], nn.Module]] = {
    "batchnorm_act": lambda: network(nn.Conv2d(3, 4, 3), BatchNormAct(4)),
    "same_even": lambda: network(SameConv(3, 4, 3)),
    "same_uneven": lambda: network(SameConv(3, 4, 3, 2), SameConv(4, 4, 5, 2, groups=2)),
    "same_string": lambda: network(nn.Conv2d(3, 4, 4, padding="same", dilation=2)),
    "valid_string": lambda: network(nn.Conv2d(3, 4, 3, 2, padding="valid")),
    "weight_norm": lambda: network(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
    "standardized": lambda: network(StandardizedConv(3, 4, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_same_output_and_the_original_untouched(case: str) -> None:
    model = CASES[case]()
    before, x = snapshot(model), images(2)
    copied = rewritten_copy(model, x)
    torch.testing.assert_close(copied(x.clone()), model(x.clone()))
    after = snapshot(model)
    assert before[0] == after[0]
    assert before[2] == after[2]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    for parameter in copied.parameters():
        parameter.data.fill_(9)
    assert all(torch.equal(before[1][name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("case", [c for c in CASES if c != "standardized"])
def test_only_plain_modules_are_left(case: str) -> None:
    copied = rewritten_copy(CASES[case](), images(2))
    plain = (nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ZeroPad2d)
    for module in copied.modules():
        assert type(module) in plain
        assert not (isinstance(module, nn.Conv2d) and isinstance(module.padding, str))


def test_even_same_padding_costs_no_padding_operation() -> None:
    copied = rewritten_copy(CASES["same_even"](), images(2))
    assert not any(isinstance(module, nn.ZeroPad2d) for module in copied.modules())


def test_a_convolution_that_does_something_else_stays() -> None:
    copied = rewritten_copy(CASES["standardized"](), images(2))
    assert any(isinstance(module, StandardizedConv) for module in copied.modules())


def test_hooks_stay_on_the_original() -> None:
    model, seen = network(nn.Conv2d(3, 4, 3), nn.ReLU()), []
    list(model.children())[1].register_forward_hook(lambda *_: seen.append(1))
    copied = rewritten_copy(model, images(1))
    seen.clear()
    copied(images(1))
    assert not seen
    model(images(1))
    assert seen


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3), st.integers(1, 2))
def test_same_padding_gives_the_size_over_the_stride(size: int, kernel: int, stride: int, dilation: int) -> None:
    before, after = same_padding(size, kernel, stride, dilation)
    assert 0 <= after - before <= 1
    out = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    # More than needed cannot be taken away again.
    assert out == math.ceil(size / stride)


def test_a_model_that_does_not_run_is_refused() -> None:
    with pytest.raises(ptq.ModelError, match=r"\(2, 3, 16, 16\)"):
        rewritten_copy(nn.Conv2d(5, 4, 3), images(2))


def test_what_cannot_be_copied_is_shared() -> None:
    model = nn.Conv2d(3, 4, 3)
    model.extra, model.lock, model.code = (i for i in range(3)), threading.Lock(), math  # type: ignore[assignment]
    copied = rewritten_copy(model, images(1))
    assert copied.lock is model.lock and copied is not model
    assert isinstance(copied, nn.Conv2d) and copied.weight.data_ptr() != model.weight.data_ptr()


@pytest.mark.parametrize("size", [1, 2, 9])
def test_same_padding_before_an_activation_in_place(size: int) -> None:
    """Also where the kernel is larger than the image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 4, padding="same", dilation=2), nn.ReLU(inplace=True)).eval()
    x = torch.randn(2, 3, size, size)
    copied = rewritten_copy(model, x)
    paddings = [m.padding for m in copied.modules() if isinstance(m, nn.Conv2d)]
    assert not any(isinstance(padding, str) for padding in paddings)
    assert torch.allclose(copied(x), model(x), atol=1e-6)
