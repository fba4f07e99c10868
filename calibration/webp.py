"""Images as WebP: a tenth of the bytes, for sets that are handed on.

WebP and not JPEG: at the same distance from the BatchNorm statistics it takes half the bytes or fewer
(`python -m benchmarks.universal_set DATA --formats`).
"""

import io
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ptq.errors import InputError

__all__ = ["decode", "encode"]


def encode(images: Tensor, quality: int) -> tuple[Tensor, Tensor]:
    """Compress images, one file each.

    Args:
        images: uint8 (N, 3, H, W), RGB.
        quality: 1..100 as libwebp has it; the larger, the nearer to the pixels.

    Returns:
        The files behind each other, uint8 (bytes,), and where each ends, int64 (N,).

    Raises:
        InputError: for a quality out of range.

    Example:
        >>> files, ends = encode(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), quality=90)
        >>> decode(files, ends).shape
        torch.Size([2, 3, 16, 16])
    """
    if not 1 <= quality <= 100:
        raise InputError(f"the quality of compressed images is {quality}; give 1 to 100")
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "WEBP", quality=quality, method=6)
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    ends = np.cumsum([len(file) for file in files])
    return torch.from_numpy(np.concatenate(files)), torch.from_numpy(ends.astype(np.int64))


def decode(files: Tensor, ends: Tensor) -> Tensor:
    """Return the images that `encode` compressed, uint8 (N, 3, H, W).

    Raises:
        ValueError: when the bytes are no images, or images of several sizes.
    """
    content = files.numpy().tobytes()
    images = []
    for start, end in pairwise([0, *ends.tolist()]):
        with Image.open(io.BytesIO(content[start:end])) as image:
            images.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
    if len({image.shape for image in images}) != 1:
        raise ValueError("its images have no size, or several sizes")
    return torch.stack(images).contiguous()
