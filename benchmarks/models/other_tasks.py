"""Networks that are no classifiers: segmentation, detection up to box decoding, keypoints, features, images, heads, inputs.

`OTHER_TASKS` maps a name to a factory of the module, the side of its images, and what else `as_model` takes.
"""

import itertools
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection, segmentation
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

__all__ = ["OTHER_TASKS"]

CLASSES = 7
UNTRAINED: dict[str, Any] = {"weights": None, "weights_backbone": None}


class BackboneAndHead(nn.Module):
    """A detector without anchors and box decoding."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        for module in head.modules():  # torchvision's begin at next to nothing
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Any:
        return self.head(list(self.backbone(x).values()))


def ssdlite() -> nn.Module:
    model = detection.ssdlite320_mobilenet_v3_large(num_classes=CLASSES, **UNTRAINED)
    return BackboneAndHead(model.backbone, model.head)


def retinanet() -> nn.Module:
    model = detection.retinanet_resnet50_fpn(num_classes=CLASSES, **UNTRAINED)
    return BackboneAndHead(model.backbone, model.head)


def fasterrcnn_rpn() -> nn.Module:
    model = detection.fasterrcnn_mobilenet_v3_large_fpn(num_classes=CLASSES, **UNTRAINED)
    return BackboneAndHead(model.backbone, model.rpn.head)


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def keypoint_head() -> nn.Module:
    """Keypoint R-CNN's head, narrower, on features of one region."""
    return nn.Sequential(
        conv(3, 32, 2), conv(32, 64, 2), KeypointRCNNHeads(64, (64, 64, 64)), KeypointRCNNPredictor(64, 17)
    )


class UNet(nn.Module):
    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.first = nn.Sequential(conv(3, channels[0]), conv(channels[0], channels[0]))
        self.down = nn.ModuleList(nn.Sequential(conv(a, b), conv(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(nn.Sequential(conv(2 * a, a), conv(a, a)) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(channels[0], CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.first(x)]
        for down in self.down:
            kept.append(down(F.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        scores: Tensor = self.head(x)
        return scores


def autoencoder() -> nn.Module:
    up = [nn.ConvTranspose2d(48, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), conv(32, 48), *up, nn.Conv2d(16, 3, 3, 1, 1), nn.Sigmoid())


class SuperResolution(nn.Module):
    """Three times as large, as ESPCN with residual blocks; no BatchNorm."""

    def __init__(self, width: int = 32, factor: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, 1, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1))
            for _ in range(3)
        )
        self.last, self.shuffle = nn.Conv2d(width, 3 * factor**2, 3, 1, 1), nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        y: Tensor = self.shuffle(self.last(x + first))
        return y


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


WIDTH = 64


class Features(nn.Module):
    """A small residual network up to its pool, and a head."""

    def __init__(self, head: nn.Module, channels: int = 3) -> None:
        super().__init__()
        layers = (conv(channels, 16, 2), conv(16, 32, 2), Residual(32), conv(32, WIDTH, 2), Residual(WIDTH))
        self.body, self.head = nn.Sequential(*layers), head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


def heatmaps() -> nn.Module:
    """As "Simple Baselines for Human Pose Estimation" (Xiao et al., ECCV 2018), narrower."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    return Features(nn.Sequential(*layers, nn.Conv2d(WIDTH, 17, 1)))


class Direction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 128)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fc(x.mean((2, 3))))


class ClassAndBox(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.box = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.mean((2, 3))
        return self.fc(x), self.box(x).sigmoid()


class Several(nn.Module):
    """A class, a mask, and boxes with their scores in a dictionary of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mask, self.box = nn.Linear(WIDTH, CLASSES), nn.Conv2d(WIDTH, CLASSES, 1), nn.Conv2d(WIDTH, 5, 1)

    def forward(self, x: Tensor) -> Any:
        box = self.box(x)
        return {
            "class": self.fc(x.mean((2, 3))),
            "mask": F.interpolate(self.mask(x), scale_factor=8.0, mode="bilinear"),
            "boxes": {"sides": box[:, :4].exp().flatten(2), "scores": box[:, 4:].sigmoid().flatten(2)},
        }


class Pair(nn.Module):
    """What moved between two images, and how deep it is."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = nn.Sequential(conv(3, 24, 2), conv(24, 48, 2)), conv(1, 48, 4)
        self.body, self.head = nn.Sequential(conv(96, 64), conv(64, 64)), nn.Conv2d(64, 2, 3, 1, 1)

    def forward(self, left: Tensor, right: Tensor, depth: Tensor) -> Tensor:
        moved = self.image(left) - self.image(right)
        flow: Tensor = self.head(self.body(torch.cat([moved, self.depth(depth)], 1)))
        return flow


def scores() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, CLASSES))


OTHER_TASKS: dict[str, tuple[Callable[[], nn.Module], int, dict[str, Any]]] = {
    "fcn_resnet50": (lambda: segmentation.fcn_resnet50(num_classes=CLASSES, **UNTRAINED), 64, {}),
    "deeplabv3_mobilenet_v3_large": (
        lambda: segmentation.deeplabv3_mobilenet_v3_large(num_classes=CLASSES, **UNTRAINED),
        64,
        {},
    ),
    "lraspp_mobilenet_v3_large": (
        lambda: segmentation.lraspp_mobilenet_v3_large(num_classes=CLASSES, **UNTRAINED),
        64,
        {},
    ),
    "ssdlite320_mobilenet_v3_large, heads": (ssdlite, 64, {}),
    "retinanet_resnet50_fpn, heads": (retinanet, 64, {}),
    "fasterrcnn_mobilenet_v3_large_fpn, RPN": (fasterrcnn_rpn, 64, {}),
    "keypoint R-CNN's head": (keypoint_head, 56, {}),
    "timm:resnet18, features_only": (lambda: timm.create_model("resnet18", features_only=True), 64, {}),
    "timm:mobilenetv3_small_100, features_only": (
        lambda: timm.create_model("mobilenetv3_small_100", features_only=True),
        64,
        {},
    ),
    "U-Net": (UNet, 64, {}),
    "autoencoder": (autoencoder, 64, {}),
    "super-resolution": (SuperResolution, 48, {}),
    "heatmaps": (heatmaps, 64, {}),
    "embedding": (lambda: Features(Direction()), 64, {}),
    "two heads": (lambda: Features(ClassAndBox()), 64, {"task": "output_1=generic"}),
    "dictionary of heads": (lambda: Features(Several()), 64, {}),
    "two images and depth": (Pair, 64, {"inputs": {"left": "RGB", "right": "RGB", "depth": "L"}}),
    "gray": (lambda: Features(scores(), 1), 64, {"channels": "L"}),
}
