"""Views of images for two networks that see the same ones: no label is needed, so an image may be changed a lot."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ptq.data.image_ops import mix, random_box

__all__ = ["mixed_views", "pasted", "random_crops", "random_views"]

PASTED = 0.5  # of the batches have images pasted into images
SHIFT = 8  # images move by up to an eighth of their sides
STRETCH = 4 / 3  # largest ratio of the sides of a crop to those of the image


def random_views(inputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return images flipped at random and shifted together, with what lies behind their edges mirrored; same shapes.

    Those of several inputs are moved alike, each by its share of its sides. What is no image stays.

    Args:
        inputs: of a network, one for each of its inputs, (N, ...).
        generator: decides.

    Example:
        >>> [view.shape for view in random_views([images], torch.Generator().manual_seed(0))]
        [torch.Size([8, 3, 16, 16])]
    """
    flipped = torch.rand(len(inputs[0]), generator=generator) < 0.5
    shares: list[float] = []
    views = []
    for x in inputs:
        if x.dim() != 4:
            views.append(x)
            continue
        x = torch.where(flipped[:, None, None, None].to(x.device), x.flip(3), x)
        height, width = x.shape[2:]
        up, left = height // SHIFT, width // SHIFT
        if not shares:
            steps = [(int(torch.randint(2 * side + 1, (), generator=generator)), 2 * side) for side in (up, left)]
            shares = [step / side if side else 0.0 for step, side in steps]
        top, start = round(shares[0] * 2 * up), round(shares[1] * 2 * left)
        x = F.pad(x, (left, left, up, up), "reflect")
        views.append(x[:, :, top : top + height, start : start + width])
    return views


def random_crops(x: Tensor, least: float, generator: torch.Generator) -> Tensor:
    """Return a random part of each image at the size of the image, half of the times mirrored (Inception's crops).

    Args:
        x: (N, C, H, W).
        least: smallest share of an image that is shown, above 0; with 1 all of it is.
        generator: decides.

    Example:
        >>> random_crops(images, 0.5, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 16, 16])
    """
    area, stretch, down, right, mirror = torch.rand(5, len(x), generator=generator)
    side = (least + (1 - least) * area).sqrt()
    ratio = (STRETCH ** (stretch - 0.5)).clamp(side, 1 / side)
    height, width = side * ratio, side / ratio
    corners = torch.zeros(len(x), 2, 3)
    corners[:, 0, 0] = torch.where(mirror < 0.5, -width, width)
    corners[:, 0, 2] = (1 - width) * (2 * right - 1)
    corners[:, 1, 1] = height
    corners[:, 1, 2] = (1 - height) * (2 * down - 1)
    grid = F.affine_grid(corners, [len(x), *x.shape[1:]], align_corners=False)
    return F.grid_sample(x, grid.to(x), padding_mode="border", align_corners=False)


def pasted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images in which another one of them, resized, covers a random box (the data mixing of MixMix).

    Args:
        x: (N, C, H, W).
        generator: decides.

    Example:
        >>> pasted(images, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 16, 16])
    """
    partners = x.roll(1 + int(torch.randint(max(1, len(x) - 1), (), generator=generator)), 0)
    return mix(x, partners, random_box((x.shape[2], x.shape[3]), generator))


def mixed_views(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return images flipped and shifted, and half of the times with others of them pasted into them, (N, C, H, W).

    Example:
        >>> mixed_views(images, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 16, 16])
    """
    (x,) = random_views([x], generator)
    return pasted(x, generator) if float(torch.rand((), generator=generator)) < PASTED else x
