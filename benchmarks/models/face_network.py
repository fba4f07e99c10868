"""A network for faces after MobileFaceNet (Chen et al., 2018), as those of MiniFASNet are: a PReLU per channel behind every layer but the projections.

Example:
    ptq quantize --model benchmarks/models/face_network.py:mobilefacenet --weights FILE --bits 8
"""

from torch import Tensor, nn

__all__ = ["PREPROCESS", "mobilefacenet"]

PREPROCESS = {"size": 112, "mean": 0.5, "std": 0.5}
BLOCKS = (
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)  # expansion, channels, times, stride


def layer(
    inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1, *, linear: bool = False
) -> nn.Sequential:
    """A convolution, its BatchNorm, and a PReLU unless it is linear."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *(() if linear else (nn.PReLU(outputs),)))


class Bottleneck(nn.Module):
    """Wide in the middle, where it is depthwise; added to what it reads where the shapes are the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.layers = nn.Sequential(
            layer(inputs, wide), layer(wide, wide, 3, stride, wide), layer(wide, outputs, linear=True)
        )
        self.adds = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


def mobilefacenet() -> nn.Sequential:
    """From (3, 112, 112) to 128 numbers: 1.0 M parameters."""
    parts: list[nn.Module] = [layer(3, 64, 3, 2), layer(64, 64, 3, 1, 64)]
    channels = 64
    for expansion, outputs, times, stride in BLOCKS:
        for index in range(times):
            parts.append(Bottleneck(channels, outputs, expansion, stride if index == 0 else 1))
            channels = outputs
    pooled = nn.Sequential(nn.Conv2d(512, 512, 7, groups=512, bias=False), nn.BatchNorm2d(512), nn.Flatten())
    return nn.Sequential(*parts, layer(channels, 512), pooled, nn.Linear(512, 128, bias=False), nn.BatchNorm1d(128))
