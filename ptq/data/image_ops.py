"""Pure functions of batches of images, (N, 3, H, W) in RGB [0, 1].

They pass gradients on. What is random is drawn from a generator that the caller gives.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ptq.data.preprocess import Preprocess

__all__ = [
    "Box",
    "augment",
    "focus_map",
    "low_pass",
    "mix",
    "pink_noise",
    "random_box",
    "resize",
    "scaled_size",
    "view",
]


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int

    def share(self, images: Tensor) -> float:
        """Return the box's share of the area of `images`, in [0, 1]: the weight of the pasted image's label."""
        return self.height * self.width / (images.shape[-2] * images.shape[-1])


def random_box(size: tuple[int, int], generator: torch.Generator, area: tuple[float, float] = (0.1, 0.5)) -> Box:
    """Draw a box anywhere in an image.

    Args:
        size: of the image, (height, width) in pixels.
        generator: decides.
        area: smallest and largest share of the image; shares between them are equally likely.

    Example:
        >>> box = random_box((32, 32), torch.Generator().manual_seed(0))
        >>> 0.1 <= box.share(torch.zeros(1, 3, 32, 32)) <= 0.5
        True
    """
    uniform, y, x = torch.rand(3, generator=generator).tolist()
    side = (area[0] + (area[1] - area[0]) * uniform) ** 0.5
    height, width = (max(1, round(side * length)) for length in size)
    top, left = int(y * (size[0] - height + 1)), int(x * (size[1] - width + 1))
    return Box(top, left, height, width)


def mix(images: Tensor, partners: Tensor, box: Box) -> Tensor:
    """Paste the whole partner of each image, resized, into the box.

    This is the data mixing of MixMix (Li et al., ICCV 2021). The labels are exact: the partner's has the box's share.

    Args:
        images: (N, 3, H, W).
        partners: (N, 3, h, w).
        box: the same for all images.

    Returns:
        (N, 3, H, W).

    Example:
        >>> mix(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8), Box(0, 0, 4, 4)).mean()
        tensor(0.2500)
    """
    bottom, right = box.top + box.height, box.left + box.width
    mixed = images.clone()
    mixed[:, :, box.top : bottom, box.left : right] = resize(partners, (box.height, box.width))
    return mixed


def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Remove fine detail: a frequency f is multiplied by exp(-f^2 / 2 cutoff^2).

    Args:
        images: (N, 3, H, W).
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
    """Shift a batch around, and mirror it every other time; all images alike.

    Args:
        images: (N, 3, H, W).
        jitter: largest shift as a share of the side, in [0, 1).
        generator: decides.
        flip: whether to mirror at all.
    """
    mirror, *moves = torch.rand(3, generator=generator).tolist()
    limits = [round(jitter * side) for side in images.shape[-2:]]
    shifts = [int(move * (2 * limit + 1)) - limit for move, limit in zip(moves, limits, strict=True)]
    images = torch.roll(images, shifts, (-2, -1)) if any(shifts) else images
    return images.flip(-1) if flip and mirror < 0.5 else images


def pink_noise(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw noise with large shapes, (count, 3, *size), to start an optimization from.

    Every octave has equal power, and nine tenths of it is brightness, as in photographs. White noise has no large
    shapes. A short optimization adds few, so images that start from white noise look alike.

    Example:
        >>> pink_noise(4, (16, 16), torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3, 16, 16])
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
    """Draw where images show detail, (count, 1, *size) in [0, 1]: in patches, and in some images more than in others.

    Photographs have sharp objects before plain backgrounds. BatchNorm statistics are averages over all positions, so
    a medium texture everywhere would match them as well.
    """
    total, octave = torch.zeros(count, 1, *size), max(1, min(size) // 7)
    while octave < 2 * min(size):
        coarse = (math.ceil(size[0] / octave) + 1, math.ceil(size[1] / octave) + 1)
        total += resize(torch.randn((count, 1, *coarse), generator=generator), size)
        octave *= 2
    total = total / total.std() + torch.randn((count, 1, 1, 1), generator=generator)
    return torch.sigmoid(3 * total)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) to (N, C, *size), bilinear, and antialiased where it shrinks."""
    before = (images.shape[-2], images.shape[-1])
    if before == size:
        return images
    shrinks = size[0] < before[0] or size[1] < before[1]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=shrinks)


def view(images: Tensor, preprocess: Preprocess, scale: float = 1.0) -> Tensor:
    """Return what a network sees of images: resized to `scale` of its own input size, normalized its own way."""
    return preprocess.normalize(resize(images, scaled_size(preprocess.size, scale)))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width) times `scale` in whole pixels, at least one each.

    Example:
        >>> scaled_size((33, 1), 0.5)
        (16, 1)
    """
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width
