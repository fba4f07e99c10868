"""What all tests share: one thread, small hypothesis runs, a network that was really trained, no verdict on speed."""

from dataclasses import dataclass

import hypothesis
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.export import checks
from tests.helpers.networks import ResNet

torch.set_num_threads(1)
hypothesis.settings.register_profile("small", max_examples=25, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("small")


@dataclass(frozen=True)
class Digits:
    """A trained network and the images it was not trained on.

    Args:
        model: `networks.ResNet`, eval mode, takes normalized (N, 3, 16, 16), gives (N, 10).
        images: held out, uint8 (450, 3, 16, 16) RGB.
        labels: int64 (450,).
        train_images: what it was trained on, uint8 (1347, 3, 16, 16).
        mean, std: normalization, per channel, in units of [0, 1].
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    train_images: Tensor
    mean: tuple[float, float, float] = (0.3, 0.3, 0.3)
    std: tuple[float, float, float] = (0.35, 0.35, 0.35)

    def inputs(self, images: Tensor) -> Tensor:
        """Return uint8 images as the network takes them."""
        return (images.float() / 255 - self.mean[0]) / self.std[0]


@pytest.fixture(scope="session", autouse=True)
def _speed_is_not_judged_beside_other_tests() -> None:
    """Whole runs of tiny networks may not fail because another test took the processor; benchmarks judge speed."""
    checks.LAUNCH = 1000.0


@pytest.fixture(scope="session")
def digits() -> Digits:
    """A small ResNet trained on scikit-learn's handwritten digits: 98 % right within seconds.

    The digits are 8x8 gray; they are doubled to 16x16 and repeated to three channels. For tests of
    the whole pipeline: accuracy means something here, and the BatchNorms hold real statistics.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    gray = torch.from_numpy(raw.images).float().unsqueeze(1) * (255 / 16)
    pixels = F.interpolate(gray, scale_factor=2, mode="bilinear").round().clamp(0, 255)
    pixels = pixels.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(raw.target).long()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pixels), generator=generator)
    test, train = order[:450], order[450:]
    torch.manual_seed(0)
    made = Digits(ResNet(), pixels[test], labels[test], pixels[train])
    x, y = made.inputs(pixels[train]), labels[train]
    epochs, batch = 8, 64
    optimizer = torch.optim.AdamW(made.model.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs * (len(x) // batch))
    made.model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=generator).split(batch)[: len(x) // batch]:
            optimizer.zero_grad()
            F.cross_entropy(made.model(x[index]), y[index]).backward()
            optimizer.step()
            schedule.step()
    made.model.eval().requires_grad_(False)
    return made
