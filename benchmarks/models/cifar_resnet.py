"""The CIFAR ResNets of He et al. (2015, arXiv 1512.03385, section 4.2), with parameter-free
shortcuts.

A 3x3 convolution, three stages of n basic blocks at 16, 32 and 64 channels, global average pooling
and one
linear layer: 6n + 2 weighted layers. Where a stage halves the resolution and doubles the channels,
the shortcut is the paper's option A: every second pixel, padded with zero channels, which slices
and pads only and so traces under torch.fx and exports to ONNX.

The weights are not here: pass them with ``--weights``. They were trained on 32x32 images in the
ImageNet normalization, which `PREPROCESS` says to whoever loads this file as
``cifar_resnet.py:resnet20``.

Example:
    ptq quantize --model benchmarks/models/cifar_resnet.py:resnet20 --weights resnet20.pth --bits 4
    --act-bits 4
"""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PREPROCESS", "CifarResNet", "resnet20", "resnet32", "resnet44", "resnet56"]

PREPROCESS = {
    "size": 32,
    "resize": 32,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
}
"""What the network takes: sides in pixels, mean and standard deviation of RGB in [0, 1]."""


class OptionA(nn.Module):
    """Every second pixel in both directions, and channels of zeros on either side."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.before = extra_channels // 2
        self.after = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + extra_channels, H / 2, W / 2)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, and the shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else OptionA(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """Three stages of `blocks` basic blocks each, for 3x32x32 images."""

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images to logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def resnet20() -> CifarResNet:
    """0.27 M parameters."""
    return CifarResNet(3)


def resnet32() -> CifarResNet:
    """0.46 M parameters."""
    return CifarResNet(5)


def resnet44() -> CifarResNet:
    """0.66 M parameters."""
    return CifarResNet(7)


def resnet56() -> CifarResNet:
    """0.85 M parameters."""
    return CifarResNet(9)
