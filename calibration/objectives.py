"""The MixMix objective (Li et al., ICCV 2021, arXiv 2011.09899) as pure functions of a batch of
images.

Images live in RGB [0, 1]. *Feature mixing* matches the BatchNorm statistics of several networks,
each of
which sees the images through its own resize and normalization: what one network alone would
accept, the others reject. *Data mixing* pastes a second image, whole, into a random box of the
first; the box's share of the area is exactly the second label's share, which pins down where in
the image each label has to show. An *image prior* keeps neighboring pixels alike, and flips and
shifts keep the result from depending on the pixel grid.

The paper's weights were not available to us; those in `ptq.calibration.synthesis` are ours, found
by ablation.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ptq.models.model import Preprocess

__all__ = [
    "Box",
    "augment",
    "focus_map",
    "low_pass",
    "mix",
    "pink_noise",
    "random_box",
    "resize",
    "sparse_variation",
    "standard_loss",
    "total_variation",
    "view",
]

EDGE = 1e-3  # of [0, 1]: differences below it are squared, so that flat areas have a gradient


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int

    def share(self, images: Tensor) -> float:
        """The box's part of the area, in [0, 1]: the exact weight of the pasted image's label."""
        return self.height * self.width / (images.shape[-2] * images.shape[-1])


def random_box(size: tuple[int, int], generator: torch.Generator, area: tuple[float, float] = (0.1, 0.5)) -> Box:
    """A box anywhere in an image of `size` (H, W), its share of the area uniform in `area`."""
    uniform, y, x = torch.rand(3, generator=generator).tolist()
    side = (area[0] + (area[1] - area[0]) * uniform) ** 0.5
    height, width = (max(1, round(side * length)) for length in size)
    top, left = int(y * (size[0] - height + 1)), int(x * (size[1] - width + 1))
    return Box(top, left, height, width)


def mix(images: Tensor, partners: Tensor, box: Box) -> Tensor:
    """Each image with its partner, resized whole, in the box: (N, 3, H, W)."""
    bottom, right = box.top + box.height, box.left + box.width
    mixed = images.clone()
    mixed[:, :, box.top : bottom, box.left : right] = resize(partners, (box.height, box.width))
    return mixed


def standard_loss(inputs: Tensor) -> Tensor:
    """How far each normalized image's own channels are from mean 0 and deviation 1 (ZeroQ, GENIE)."""
    mean, std = inputs.mean((2, 3)), inputs.std((2, 3), correction=0)
    return mean.square().sum(1).mean() + (std - 1).square().sum(1).mean()


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbors in four directions; zero for a flat image."""
    return torch.stack([d.square().mean() for d in _differences(images)]).mean()


def sparse_variation(images: Tensor) -> Tensor:
    """Mean length of the color difference of neighbors in four directions; zero for a flat image.

    Not squared (Rudin, Osher and Fatemi, 1992): an edge costs the same sharp or blurred, so images become flat
    areas with edges, as photographs are, where the square makes them evenly smooth.
    """
    lengths = [(d.square().sum(1) + EDGE**2).sqrt().mean() - EDGE for d in _differences(images)]
    return torch.stack(lengths).mean()


def _differences(x: Tensor) -> tuple[Tensor, ...]:
    return (
        x[..., :, 1:] - x[..., :, :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )


def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Images (N, 3, H, W) without their fine detail: a frequency f weighs exp(-f^2 / 2 cutoff^2).

    Args:
        cutoff: in cycles per pixel; 0.5 is the finest that pixels can show. SynQ (Kim et al., ICLR 2025)
            takes 80 cycles per 224 pixels.

    Example:
        >>> low_pass(torch.rand(1, 3, 8, 8), 0.3).shape
        torch.Size([1, 3, 8, 8])
    """
    height, width = images.shape[-2:]
    down = torch.fft.fftfreq(height, device=images.device).view(-1, 1)
    across = torch.fft.rfftfreq(width, device=images.device)
    weights = torch.exp(-(down.square() + across.square()) / (2 * cutoff**2))
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * weights, s=(height, width))
    return filtered


def augment(images: Tensor, jitter: float, generator: torch.Generator, flip: bool = True) -> Tensor:
    """The batch shifted around by up to `jitter` of its sides, and mirrored every other time."""
    mirror, *moves = torch.rand(3, generator=generator).tolist()
    limits = [round(jitter * side) for side in images.shape[-2:]]
    shifts = [int(move * (2 * limit + 1)) - limit for move, limit in zip(moves, limits, strict=True)]
    images = torch.roll(images, shifts, (-2, -1)) if any(shifts) else images
    return images.flip(-1) if flip and mirror < 0.5 else images


def pink_noise(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Noise to start from, (count, 3, *size) in RGB [0, 1]: gray more than colored, large shapes too.

    Equal power in every octave and nine tenths of it in the brightness, as photographs have. White
    noise has no large shapes, a short optimization finds few, and its images come out alike.
    """
    total, octave = torch.zeros(count, 3, *size), 1
    while octave < min(size):
        coarse = (math.ceil(size[0] / octave), math.ceil(size[1] / octave))
        gray = torch.randn((count, 1, *coarse), generator=generator)
        colors = torch.randn((count, 3, *coarse), generator=generator)
        total += resize(0.9**0.5 * gray + 0.1**0.5 * colors, size)
        octave *= 2
    return (0.45 + 0.22 * total / total.std()).clamp_(0, 1)


def focus_map(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Where images show detail, (count, 1, *size) in [0, 1]: in patches, and in some images more than in others.

    Photographs have sharp objects before blurred or plain grounds. BatchNorm statistics, which are of all places
    together, are matched as well by a middling texture everywhere.
    """
    total, octave = torch.zeros(count, 1, *size), max(1, min(size) // 7)
    while octave < 2 * min(size):
        coarse = (math.ceil(size[0] / octave) + 1, math.ceil(size[1] / octave) + 1)
        total += resize(torch.randn((count, 1, *coarse), generator=generator), size)
        octave *= 2
    total = total / total.std() + torch.randn((count, 1, 1, 1), generator=generator)
    return torch.sigmoid(3 * total)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 3, H, W) to (N, 3, *size), bilinear, and antialiased when it shrinks."""
    before = (images.shape[-2], images.shape[-1])
    if before == size:
        return images
    shrinks = size[0] < before[0] or size[1] < before[1]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=shrinks)


def view(images: Tensor, preprocess: Preprocess, scale: float = 1.0) -> Tensor:
    """What a network sees: resized to `scale` of its own input size, normalized its own way."""
    height, width = (max(1, round(side * scale)) for side in preprocess.size)
    return preprocess.normalize(resize(images, (height, width)))
