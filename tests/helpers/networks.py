"""Small networks that between them do what real ones do; random weights, lively BatchNorms.

`NETWORKS` maps a name to a factory without arguments; every network takes (N, 3, 16, 16) and is in
eval mode. `quantized_network` places and calibrates quantizers on one of them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration.activation_ranges import calibrate
from ptq.graph.preparation import prepare
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel

__all__ = ["NETWORKS", "SHAPE", "BasicBlock", "ResNet", "build", "images", "quantized_network", "with_statistics"]

SHAPE = (3, 16, 16)


class BasicBlock(nn.Module):
    """Residual block as in torchvision: in-place ReLU, in-place addition, optional downsampling."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        result: Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    """Stem, three residual blocks, global average pool, linear layer."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(
            BasicBlock(width, width), BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width)
        )
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise, project, with ReLU6."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = 3 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(inplace=True),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Inverted residuals, pooled with F.adaptive_avg_pool2d, dropout before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
            InvertedResidual(8, 8, 1),
            InvertedResidual(8, 12, 2),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits


class SqueezeExcite(nn.Module):
    """SiLU, a squeeze-excite gate, a mean over height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn(self.conv(x)))
        gate = x.mean((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(gate))))
        logits: Tensor = self.head(x.mean([2, 3]))
        return logits


class HardGates(nn.Module):
    """As MobileNetV3: hard swish, a hard sigmoid as gate; and a leaky ReLU, a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True))
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.mix = nn.Sequential(nn.Conv2d(8, 12, 3, 1, 1), nn.LeakyReLU(0.1, inplace=True))
        self.hidden = nn.Linear(12, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        x = x + self.project(F.hardsigmoid(self.excite(gate)) * x)
        x = F.adaptive_avg_pool2d(self.mix(x), 1).flatten(1)
        logits: Tensor = self.head(F.hardswish(self.hidden(x)))
        return logits


class Shared(nn.Module):
    """One convolution and one ReLU, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for _ in range(3):
            x = self.relu(self.bn(self.conv(x)))
        logits: Tensor = self.fc(x.view(x.size(0), -1))
        return logits


class Functional(nn.Module):
    """Nothing but parameters and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.shift = nn.Parameter(torch.randn(8) / 5)
        self.grouped = nn.Parameter(torch.randn(8, 4, 3, 3) / 6)
        self.matrix = nn.Parameter(torch.randn(10, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.kernel, self.shift, padding=1), inplace=True)
        y = F.conv2d(x, self.grouped, None, 2, 1, groups=2)
        y = y.add_(F.max_pool2d(x, 2)).clamp(0, 6)
        z = torch.cat([y, F.avg_pool2d(x, 2)], 1)
        z = F.adaptive_avg_pool2d(z, 1)
        return F.linear(torch.reshape(z, (z.shape[0], -1)), self.matrix)


class DenseNet(nn.Module):
    """BatchNorm and ReLU before each convolution, features concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(12), nn.BatchNorm2d(16)])
        self.convs = nn.ModuleList([nn.Conv2d(8, 4, 3, 1, 1), nn.Conv2d(12, 4, 3, 1, 1)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.relu(self.norms[2](x))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
        return logits


class ShuffleNet(nn.Module):
    """Halves of the channels go two ways and are shuffled together again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = self.head(x.view(batch, channels, height, width))
        return x.mean((2, 3))


class Upsampling(nn.Module):
    """Nearest neighbors, a grouped transposed convolution with BatchNorm, and a linear layer with BatchNorm1d."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)
        self.nearest = nn.Upsample(scale_factor=2)
        self.side = nn.Conv2d(8, 12, 1)
        self.up = nn.ConvTranspose2d(8, 12, 3, 2, 1, output_padding=1, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(12, 16)
        self.norm1d = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(self.norm(self.up(x)) + self.side(self.nearest(x)))
        x = self.norm1d(self.hidden(F.interpolate(x, scale_factor=0.5).mean((-2, -1))))
        logits: Tensor = self.head(self.relu(x))
        return logits


def with_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give the BatchNorms statistics as after training, and return `model` in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.3, 1.5),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "squeeze_excite": SqueezeExcite,
    "hard_gates": HardGates,
    "shared": Shared,
    "functional": Functional,
    "densenet": DenseNet,
    "shufflenet": ShuffleNet,
    "upsampling": Upsampling,
}


def build(name: str) -> nn.Module:
    """Return the network of that name; same name, same weights."""
    torch.manual_seed(0)
    return with_statistics(NETWORKS[name]())


def images(count: int, seed: int = 1) -> Tensor:
    """Return seeded numbers as normalized images (count, 3, 16, 16)."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def quantized_network(
    name: str, weight_bits: int = 4, act_bits: int = 4, *, reduce_range: bool = False
) -> QuantizedModel:
    """Return a calibrated quantized model of a network; ranges are the quickest to find, not the best."""
    graph_model = prepare(build(name), SHAPE)
    plan = make_plan(graph_model, weight_bits, act_bits, reduce_range=reduce_range)
    return calibrate(insert_quantizers(graph_model, plan), images(16), observer="minmax")
