"""Which layers stay in float32 where there is bfloat16, and that they really do."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from ptq.utils import autocast
from ptq.utils.autocast import fast_autocast, fast_bfloat16, in_float32, keep_in_float32, wants_float32

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def depthwise(kernel: int, stride: int) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8)


@pytest.mark.parametrize(
    ("kernel", "stride", "without", "with_"),
    [(3, 1, False, False), (3, 2, True, True), (5, 2, True, True), (5, 1, False, True)],
)
def test_depthwise_convolutions_want_float32_where_the_table_says_so(
    kernel: int, stride: int, without: bool, with_: bool
) -> None:
    op = depthwise(kernel, stride)
    assert wants_float32(op, CPU, weights=False) == without
    assert wants_float32(op, CPU, weights=True) == with_
    assert not wants_float32(op, GPU, weights=True)


@pytest.mark.parametrize(
    "op",
    [
        nn.Conv2d(8, 8, 3, 2),
        nn.Conv2d(8, 8, 5, 2, groups=4),
        nn.Conv2d(1, 8, 5, 2),
        nn.ConvTranspose2d(8, 8, 5, 2, groups=8),
        nn.Linear(8, 8),
        nn.ReLU(),
    ],
    ids=str,
)
def test_no_other_layer_wants_float32(op: nn.Module) -> None:
    assert not wants_float32(op, CPU, weights=True)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2)])
def test_spared_layers_compute_in_float32_within_autocast(kernel: int, stride: int) -> None:
    op, x = depthwise(kernel, stride), torch.randn(2, 8, 9, 9)
    expected = op(x)
    keep_in_float32(op, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        y, half = op(x), op(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, op(x.bfloat16().float()).bfloat16())


def test_within_a_network_the_other_layers_are_not_spared() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 3), depthwise(3, 2), depthwise(3, 1))
    x = torch.randn(2, 8, 9, 9)
    keys, expected = network.state_dict().keys(), network(x)
    keep_in_float32(network, CPU)
    assert network.state_dict().keys() == keys
    assert torch.equal(network(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        first, last = network[0](x), network[2](x)
        assert network[1](first).dtype == first.dtype == last.dtype == torch.bfloat16


def test_gradients_pass_through_spared_layers() -> None:
    op, x = depthwise(3, 2), torch.randn(2, 8, 9, 9, requires_grad=True)
    (expected,) = torch.autograd.grad(op(x).sum(), x)
    keep_in_float32(op, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        y = op(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, expected)


def test_autocast_is_on_where_the_device_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (True, False):
        monkeypatch.setattr(autocast, "fast_bfloat16", lambda device, fast=fast: fast)
        with fast_autocast(CPU):
            assert torch.is_autocast_enabled("cpu") == fast
    assert isinstance(fast_autocast(CPU), nullcontext)


def test_devices_are_asked_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not fast_bfloat16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fast_bfloat16(CPU)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)  # as in another version of torch
    assert not fast_bfloat16(CPU)
    assert not fast_bfloat16(torch.device("meta"))


def test_in_float32_gives_the_type_it_was_given() -> None:
    def third(t: Tensor) -> Tensor:
        assert t.dtype == torch.float32
        return t / 3

    x = torch.randn(4).bfloat16()
    assert torch.equal(in_float32(third, x), (x.float() / 3).bfloat16())
    assert torch.equal(in_float32(third, x.float()), x.float() / 3)
