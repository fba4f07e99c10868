"""Data mixing of finished images: more images to reconstruct with, without synthesizing more."""

from dataclasses import replace

import torch

from ptq.calibration.dataset import CalibrationSet
from ptq.data.image_ops import mix, random_box
from ptq.errors import InputError

__all__ = ["mixed_copies"]


def mixed_copies(images: CalibrationSet, times: int, seed: int = 0) -> CalibrationSet:
    """Append copies of the images in which another one, resized, covers a random box.

    Args:
        images: of any source.
        times: copies of each image, every one with its own partner and box; 0 returns the images as they are.
        seed: of partners and boxes.

    Returns:
        The N images, then `times` N copies. A copy keeps its image's label: at least half of its area shows that one.

    Raises:
        InputError: when `times` is negative.

    Example:
        >>> len(mixed_copies(CalibrationSet.from_pixels(torch.rand(8, 3, 32, 32)), times=2))
        24
    """
    if times < 0:
        raise InputError(f"{times} mixed copies are not possible; give 0 or more.")
    if times == 0 or len(images) < 2:
        return images
    generator = torch.Generator().manual_seed(seed)
    size = (images.images.shape[-2], images.images.shape[-1])
    parts = [images.images]
    for _ in range(times):
        for index in range(len(images)):
            away = int(torch.randint(1, len(images), (), generator=generator))
            pair = images.floats(torch.tensor([index, (index + away) % len(images)]))
            mixed = mix(pair[:1], pair[1:], random_box(size, generator))
            parts.append(mixed.mul(255).round().to(torch.uint8))
    facts = images.provenance | {"mixed_copies": {"times": times, "seed": seed}}
    return replace(images, images=torch.cat(parts), labels=images.labels.repeat(1 + times), provenance=facts)
