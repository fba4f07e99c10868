"""Parts of networks as people write them, each a module that keeps the shape (N, C, H, W) of what it reads."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, weight_norm
from torchvision.ops import FrozenBatchNorm2d

from tests.helpers.written_networks import Frozen

__all__ = ["PARTS"]


class Part(nn.Module):
    """A function of an input and a square matrix, a vector and a convolution of the module's own."""

    def __init__(self, channels: int, function: Callable[["Part", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(torch.randn(channels, channels) / channels**0.5)
        self.vector = nn.Parameter(torch.rand(channels) + 0.5)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1d = nn.Conv1d(channels, channels, 3, padding=1)
        self.linear = nn.Linear(channels, channels)
        self.depthwise, self.norm = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def part(function: Callable[[Part, Tensor], Tensor]) -> Callable[[int], nn.Module]:
    return lambda channels: Part(channels, function)


def behind_a_convolution(make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    return lambda channels: nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), make(channels))


def reparametrized(change: Callable[[nn.Conv2d], object]) -> Callable[[int], nn.Module]:
    def make(channels: int) -> nn.Module:
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        change(conv)
        return conv

    return make


def attended(m: Part, tokens: Tensor) -> Tensor:
    values: Tensor = m.linear(tokens)
    return (tokens @ tokens.mT / 8).softmax(-1) @ values


def matrix(m: Part) -> Tensor:
    return m.matrix[:, :, None, None]


PARTS: Mapping[str, Callable[[int], nn.Module]] = {
    # float operators between integer ones
    "square": part(lambda m, x: x * x),
    "power": part(lambda m, x: x.clamp(min=1e-2).pow(1.5)),
    "GeM": part(lambda m, x: x + x.clamp(min=1e-6).pow(3).mean((2, 3), keepdim=True).pow(1 / 3)),
    "softmax": part(lambda m, x: x * x.softmax(1)),
    "sort": part(lambda m, x: x.sort(1).values),
    "GELU": part(lambda m, x: F.gelu(m.conv(x)) + x),
    "log of sums": part(lambda m, x: torch.log(torch.exp(x.clamp(max=4)) + 1)),
    "deviation": part(lambda m, x: x - x.mean((2, 3), keepdim=True)),
    "mean deviation": part(lambda m, x: x + (x - x.mean((2, 3), keepdim=True)).mean((2, 3), keepdim=True)),
    # spellings
    "expand": part(lambda m, x: F.relu(x) * torch.sigmoid(m.conv(x).mean(3).mean(2))[..., None, None].expand_as(x)),
    "amax": part(lambda m, x: F.relu(x) - m.conv(x).amax((2, 3), keepdim=True)),
    "clamps": part(
        lambda m, x: m.conv(x) * torch.clamp(m.depthwise(x) / 6 + 0.5, 0, 1) + F.relu(-m.conv(x)).clamp(max=6)
    ),
    "PReLU": part(lambda m, x: F.prelu(m.conv(x), m.vector)),
    # layers as functions
    "F.conv2d": part(lambda m, x: F.conv2d(x, matrix(m), m.vector)),
    "F.conv_transpose2d": part(lambda m, x: F.conv_transpose2d(x, matrix(m), m.vector)),
    "x @ W": part(lambda m, x: (x.movedim(1, -1) @ m.matrix + m.vector).movedim(-1, 1)),
    "einsum": part(lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.matrix)),
    "F.batch_norm": part(lambda m, x: F.batch_norm(m.conv(x), m.vector - 1, m.vector, m.vector, None)),
    "Conv1d": part(lambda m, x: m.conv1d(x.flatten(2)).view_as(x)),
    "tokens": part(lambda m, x: F.relu(m.linear(x.flatten(2).transpose(1, 2))).transpose(1, 2).reshape(x.shape)),
    # what reads channels beside something else, or reads what lies beside them
    "attention": part(lambda m, x: x + attended(m, x.flatten(2).mT).mT.reshape(x.shape)),
    "unpooling": part(lambda m, x: F.max_unpool2d(*F.max_pool2d(m.conv(x), 1, return_indices=True), (1, 1))),
    "beside channels": part(lambda m, x: x * m.linear(F.interpolate(x, (2, x.shape[1]))).mean((2, 3), True).sigmoid()),
    "tied": part(lambda m, x: F.conv_transpose2d(F.relu(m.conv(x)), m.conv.weight, padding=1)),
    # branches that add up
    "branches": part(lambda m, x: m.conv(x) + F.conv2d(x, matrix(m), m.vector) + x),
    "depthwise branches": part(lambda m, x: x + m.vector.view(-1, 1, 1) * (m.depthwise(x) - m.norm(x))),
    # constants, norms and reparametrizations behind a layer
    "layer scale": part(lambda m, x: x + m.vector.view(-1, 1, 1) * m.conv(x)),
    "arithmetic": part(lambda m, x: (1 - m.vector.view(1, -1, 1, 1)) + m.conv(x) / 2 - 0.25),
    "scaled sum": part(lambda m, x: (F.relu(m.conv(x)) - m.depthwise(x)) * m.vector.view(-1, 1, 1) / 3 + 0.5),
    "learned affine": part(lambda m, x: m.conv(torch.tanh(m.conv(x)) * 2) + F.relu(m.norm(0.5 * x)) * 0.1),
    "frozen": behind_a_convolution(FrozenBatchNorm2d),
    "by hand": behind_a_convolution(Frozen),
    "synchronized": behind_a_convolution(nn.SyncBatchNorm),
    "weight norm": reparametrized(weight_norm),
    "spectral norm": reparametrized(parametrizations.spectral_norm),
    "pruned": reparametrized(lambda conv: prune.random_unstructured(conv, "weight", 0.5)),
    # windows
    "ceil": part(lambda m, x: x + F.interpolate(F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), x.shape[2:])),
    "divisor": part(lambda m, x: F.avg_pool2d(x, 3, 1, 1, divisor_override=4)),
}
