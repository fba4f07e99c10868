"""Small networks in which several tensors are alive for longer than a block may be; random weights, lively BatchNorms.

`BRANCHING` maps a name to a factory; every network takes (N, 3, 16, 16) and is in eval mode, as those of
`tests.helpers.networks` are. `two_heads` makes what ends in several outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.graph.preparation import GraphModel, prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers.networks import SHAPE, BasicBlock, images, with_statistics

__all__ = ["BRANCHING", "branching", "quantized_branching", "two_heads"]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DoubleConv(nn.Module):
    """Two convolutions: the building block of a U-Net."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = conv(inputs, outputs), conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


class UNet(nn.Module):
    """Down to a side of 2 and up again, with what was there on the way down; the mean of a dense output."""

    def __init__(self) -> None:
        super().__init__()
        sides = (8, 12, 16)
        self.down = nn.ModuleList(DoubleConv(i, o) for i, o in zip((3, *sides), sides, strict=False))
        self.middle = DoubleConv(16, 16)
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((16, 16), (16, 12), (12, 8)))
        self.merge = nn.ModuleList(DoubleConv(2 * i, i) for i in reversed(sides))
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            kept.append(x := block(x))
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        y: Tensor = self.head(x)
        return y.mean((2, 3))


class Pyramid(nn.Module):
    """Three sizes of features, added up from the smallest to the largest, and one head that reads all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.stages = nn.ModuleList(nn.Sequential(conv(8, 8, 2), conv(8, 8)) for _ in range(3))
        self.lateral = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1) for _ in range(3))
        self.tower = nn.Sequential(conv(8, 8), conv(8, 8))
        self.head = nn.Conv2d(8, 10, 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """One tensor for each size."""
        x, found = self.stem(x), []
        for stage in self.stages:
            found.append(x := stage(x))
        levels = [lateral(y) for lateral, y in zip(self.lateral, found, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], scale_factor=2.0)
        return [smooth(y) for smooth, y in zip(self.smooth, levels, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        heads = [self.head(self.tower(y)).mean((2, 3)) for y in self.features(x)]
        return torch.stack(heads).mean(0)


class Exchange(nn.Module):
    """Residual blocks at two sizes side by side, and then each gets what the other has."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.small = nn.Sequential(BasicBlock(12, 12), BasicBlock(12, 12))
        self.down, self.up = nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 8, 1)

    def forward(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        large, small = self.large(large), self.small(small)
        return F.relu(large + F.interpolate(self.up(small), scale_factor=2.0)), F.relu(small + self.down(large))


class SideBySide(nn.Module):
    """As HRNet: two sizes from the beginning to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.small = conv(3, 8, 2), conv(8, 12, 2)
        self.exchanges = nn.ModuleList([Exchange(), Exchange()])
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        large = self.stem(x)
        small = self.small(large)
        for exchange in self.exchanges:
            large, small = exchange(large, small)
        logits: Tensor = self.head(torch.cat([large.mean((2, 3)), small.mean((2, 3))], 1))
        return logits


class Windows(nn.Module):
    """As TNT and CaiT: pixels of windows, four rows for an image, beside one token each; a class token at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.tokens = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(3, 16, 8, 8)
        self.inner = nn.ModuleList(nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)]) for _ in range(3))
        self.joint = nn.ModuleList(nn.Linear(24, 16) for _ in range(3))
        self.outer = nn.ModuleList(nn.ModuleList([nn.Linear(16, 20), nn.Linear(20, 16)]) for _ in range(3))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.last, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        pixels = self.pixels(x).reshape(n, 6, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n * 4, 4, 6)
        tokens = self.tokens(x).flatten(2).transpose(1, 2)
        for inner, joint, outer in zip(self.inner, self.joint, self.outer, strict=True):
            assert isinstance(inner, nn.ModuleList) and isinstance(outer, nn.ModuleList)
            pixels = pixels + inner[1](F.relu(inner[0](pixels)))
            tokens = tokens + joint(pixels.reshape(n, 4, 24))
            tokens = tokens + outer[1](F.relu(outer[0](tokens)))
        tokens = torch.cat([self.token.expand(n, -1, -1), tokens], 1)
        logits: Tensor = self.head(F.relu(self.last(tokens)).mean(1))
        return logits


BRANCHING: dict[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "pyramid": Pyramid,
    "side_by_side": SideBySide,
    "windows": Windows,
}


def branching(name: str) -> nn.Module:
    """Return the network of that name; same name, same weights."""
    torch.manual_seed(0)
    return with_statistics(BRANCHING[name]())


class TwoHeads(Pyramid):
    """Scores, and the features of two sizes that they come from."""

    def forward(self, x: Tensor) -> Any:
        levels = self.features(x)
        heads = [self.head(self.tower(y)).mean((2, 3)) for y in levels]
        return {"scores": torch.stack(heads).mean(0), "levels": [levels[0], levels[2]]}


def two_heads() -> GraphModel:
    """Return a pyramid that gives {"scores": (N, 10), "levels": [two tensors]}."""
    torch.manual_seed(0)
    return prepare(with_statistics(TwoHeads()), SHAPE)


def quantized_branching(name: str, weight_bits: int = 3, act_bits: int = 4) -> QuantizedModel:
    """Return a calibrated quantized model of a network; "two heads" is one, too."""
    graph_model = two_heads() if name == "two heads" else prepare(branching(name), SHAPE)
    plan = make_plan(graph_model, weight_bits, act_bits)
    return calibrate(insert_quantizers(graph_model, plan), images(16), observer="minmax")
