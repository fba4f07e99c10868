"""CalibrationSet: the images a network is calibrated with, and where they came from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ptq.calibration.webp import decode, encode
from ptq.errors import InputError, reason
from ptq.utils.files import atomic
from ptq.utils.sampling import every_so_many, spread
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["CalibrationSet"]

_FORMAT = "ptq-calibration-2"


@dataclass(frozen=True)
class CalibrationSet:
    """Images for calibration. They are 8-bit pixels, so a file that is not compressed holds exactly what was used.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        labels: int64 (N,), class index under the first teacher, -1 where unknown.
        provenance: JSON-able facts: source, teachers and their hashes, settings, seed, losses, versions.

    Raises:
        InputError: when shapes or types are others.

    Example:
        >>> images = CalibrationSet.from_pixels(torch.rand(8, 3, 32, 32))
        >>> images.save("images.safetensors")
        >>> CalibrationSet.load("images.safetensors").floats().shape
        torch.Size([8, 3, 32, 32])
    """

    images: Tensor
    labels: Tensor
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
            raise InputError(
                f"calibration images are {self.images.dtype} {shape}; they must be uint8 (N, 3, H, W), RGB."
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]:
            raise InputError(
                f"calibration labels are {self.labels.dtype} {tuple(self.labels.shape)}; "
                f"they must be int64 ({shape[0]},), with -1 where a label is not known."
            )

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Return images as float32 in [0, 1], for `Preprocess.normalize`; all of them without an index."""
        return self.images[index].float() / 255

    def few(self, count: int) -> "CalibrationSet":
        """Return at most `count` of the images, evenly spread, so that every batch and every class has its part."""
        return self.pick(spread(len(self), count))

    def pick(self, index: Sequence[int] | slice | Tensor) -> "CalibrationSet":
        """Return some of the images with their labels: those of these indices, or where a mask, bool (N,), is true."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def hold_apart(self, every: int) -> tuple["CalibrationSet", "CalibrationSet"]:
        """Return all images but every so many-th, and these; of fewer images the last one."""
        apart = every_so_many(len(self), every)
        return self.pick(~apart), self.pick(apart)

    @classmethod
    def from_pixels(cls, images: Tensor, labels: Tensor | None = None, source: str = "tensor") -> "CalibrationSet":
        """Wrap images in memory, (N, 3, H, W): uint8, or floats in [0, 1] to be rounded to it."""
        if images.is_floating_point():
            images = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
        if labels is None:
            labels = torch.full((len(images),), -1)
        return cls(images.cpu().contiguous(), labels.cpu().long(), {"source": source})

    def save(self, path: Path | str, quality: int | None = None) -> None:
        """Write a safetensors file with the provenance in its header.

        Args:
            path: of the file.
            quality: 1..100, compresses the images as WebP, to hand them on; None keeps every pixel.
        """
        if quality is None:
            tensors = {"images": self.images}
        else:
            tensors = dict(zip(("webp", "ends"), encode(self.images, quality), strict=True))
        save_tensors(path, tensors | {"labels": self.labels}, {"format": _FORMAT, "provenance": self.provenance})

    @classmethod
    def load(cls, path: Path | str) -> "CalibrationSet":
        """Read what `save` wrote.

        Raises:
            InputError: when the file is missing, cut short, or something else.
        """
        try:
            header, tensors = read_header(path), read_tensors(path)
            if header.get("format") != _FORMAT:
                raise InputError(
                    f"{path} is a safetensors file but no calibration set (format {header.get('format')!r}). "
                    "Give a file that ptq synthesize wrote, or a directory of images."
                )
            compressed = "webp" in tensors
            images = decode(tensors["webp"], tensors["ends"]) if compressed else tensors["images"]
            return cls(images, tensors["labels"], dict(header["provenance"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot read calibration images from {path}: {reason(error)}. "
                "The file is missing, cut short or of another kind; write it anew with ptq synthesize."
            ) from error

    def contact_sheet(self, path: Path | str, count: int = 64, gap: int = 2) -> None:
        """Draw at most `count` images, evenly spread over the set, as one PNG grid, small ones enlarged."""
        images = self.few(count).images.permute(0, 2, 3, 1).numpy()
        n, height, width, _ = images.shape
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
        zoom = max(1, 96 // max(height, width))
        cell_h, cell_w = height * zoom + gap, width * zoom + gap
        sheet = np.full((rows * cell_h + gap, columns * cell_w + gap, 3), 255, np.uint8)
        for index, image in enumerate(images):
            top, left = gap + index // columns * cell_h, gap + index % columns * cell_w
            tile = image.repeat(zoom, 0).repeat(zoom, 1)
            sheet[top : top + height * zoom, left : left + width * zoom] = tile
        with atomic(path) as temporary:
            Image.fromarray(sheet).save(temporary, format="PNG")
