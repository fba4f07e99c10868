"""Small networks that are no classifiers of RGB images; random weights, lively BatchNorms.

`OTHER` maps a name to a factory of a `Model`: dense outputs, embeddings, images, several heads, several inputs, gray.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.models.model import Model, as_model
from tests.helpers.branching_networks import Pyramid, UNet, conv
from tests.helpers.networks import ResNet, with_statistics

__all__ = ["OTHER", "other_model", "pixels"]


class Segmentation(UNet):
    """Scores of ten classes for every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            kept.append(x := block(x))
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        y: Tensor = self.head(x)
        return y


class Detector(Pyramid):
    """Boxes and scores at three sizes, put together; the tower is called once for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.box = nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Any:
        levels = self.features(x)
        boxes = torch.cat([self.box(self.tower(y)).flatten(2) for y in levels], 2).transpose(1, 2)
        scores = torch.cat([self.head(self.tower(y)).flatten(2) for y in levels], 2).transpose(1, 2)
        return {"boxes": torch.cat([boxes[..., :2].sigmoid() * 16, boxes[..., 2:].exp()], 2), "scores": scores}


class TwoHeads(nn.Module):
    """A class, and a dictionary of two more outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.box = ResNet(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.net.avgpool(self.net.blocks(self.net.pool(self.net.stem(x)))).flatten(1)
        box = self.box(x)
        return self.net.fc(x), {"box": box, "age": box[:, 0]}


class Embedding(nn.Module):
    """A direction."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2)), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.fc(self.body(x).mean((2, 3))))


class Autoencoder(nn.Module):
    """An image from an image."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 8, 2), conv(8, 12, 2))
        self.up, self.last = nn.ConvTranspose2d(12, 8, 4, 4), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.last(F.relu(self.up(self.encoder(x)))))


class Stereo(nn.Module):
    """Two color images, one of depth, and two numbers that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.of_depth = nn.Sequential(conv(3, 8), conv(8, 8, 2)), conv(1, 8, 2)
        self.head, self.box = nn.Conv2d(16, 5, 1), nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor, depth: Tensor, scale: Tensor, gain: float) -> Any:
        y = torch.cat([self.body(left) - self.body(right), self.of_depth(depth)], 1)
        return {"left": self.head(y), "box": self.box(y.mean((2, 3))) * scale * gain}


class Gray(ResNet):
    """For images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[0] = nn.Conv2d(1, 8, 3, 1, 1, bias=False)


STEREO = {"left": "RGB", "right": "RGB", "depth": "L", "scale": torch.tensor([2.0]), "gain": 3.0}

OTHER: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "segmentation": lambda: (Segmentation(), {}),
    "detector": lambda: (Detector(), {"task": "boxes=generic"}),
    "two heads": lambda: (TwoHeads(), {"task": "output_1_box=generic"}),
    "embedding": lambda: (Embedding(), {}),
    "autoencoder": lambda: (Autoencoder(), {"mean": 0.0, "std": 1.0}),
    "stereo": lambda: (Stereo(), {"inputs": STEREO}),
    "gray": lambda: (Gray(), {"channels": "L", "range": 255}),
    "BGR": lambda: (ResNet(), {"channels": "BGR", "mean": (104, 117, 123), "std": 64}),
}


def other_model(name: str) -> Model:
    """Return the network of that name with what it takes to feed it; same name, same weights."""
    torch.manual_seed(0)
    network, options = OTHER[name]()
    options = {"mean": 0.5, "std": 0.25, **options}
    if options.get("range"):
        del options["mean"], options["std"]
    model = as_model(network, size=16, name=name.replace(" ", "_"), **options)
    with_statistics(model.module)
    return model


def pixels(count: int, seed: int = 0) -> Tensor:
    """Return images, float32 (count, 3, 16, 16) in [0, 1]."""
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
