"""CalibrationSet: the images a network is calibrated with, and where they came from."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptq.errors import PtqError
from ptq.files import atomic
from ptq.models import Preprocess

__all__ = ["CalibrationSet"]

_FORMAT = "ptq.calibration.1"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class CalibrationSet:
    """Images for calibration, as 8-bit pixels so that a file holds exactly what was used.

    Attributes:
        images: uint8 (N, 3, H, W), RGB.
        labels: int64 (N,), class index under the first teacher, -1 where unknown.
        provenance: JSON-able facts: source, teachers and their hashes, settings, seed, losses,
        versions.

    Raises:
        PtqError: when shapes or types are others.

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
            raise PtqError(
                f"calibration images are {self.images.dtype} {shape}; they must be uint8 (N, 3, H, "
                f"W), RGB."
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1]:
            raise PtqError(
                f"calibration labels are {self.labels.dtype} {tuple(self.labels.shape)}; "
                f"they must be int64 ({shape[0]},), with -1 where a label is not known."
            )

    def __len__(self) -> int:
        return len(self.images)

    def floats(self, index: slice | Tensor = slice(None)) -> Tensor:
        """Some of the images as float32 in [0, 1], for `Preprocess.normalize`."""
        return self.images[index].float() / 255

    @classmethod
    def from_pixels(
        cls, images: Tensor, labels: Tensor | None = None, source: str = "tensor"
    ) -> "CalibrationSet":
        """Wrap images in memory, (N, 3, H, W): uint8, or floats in [0, 1] to be rounded to it."""
        if images.is_floating_point():
            images = images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
        if labels is None:
            labels = torch.full((len(images),), -1)
        return cls(images.cpu().contiguous(), labels.cpu().long(), {"source": source})

    @classmethod
    def from_directory(
        cls, directory: Path | str, preprocess: Preprocess, limit: int = 1024, seed: int = 0
    ) -> "CalibrationSet":
        """Real images below a directory, resized and cropped as the network takes them.

        Args:
            directory: searched recursively for images.
            preprocess: resize of the shorter side, centre crop and interpolation.
            limit: how many at most; a random choice by `seed` when there are more.

        Raises:
            PtqError: when there are no images, or one cannot be read.
        """
        root = Path(directory)
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise PtqError(
                f"no images ({', '.join(sorted(_SUFFIXES))}) under {root}. Give --images a "
                f"directory of them, "
                "a file that ptq synthesize wrote, or 'mixmix' to need none."
            )
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))
        chosen = [paths[i] for i in sorted(order[:limit].tolist())]
        pixels = torch.stack([_read(path, preprocess) for path in chosen])
        return cls(
            pixels, torch.full((len(pixels),), -1), {"source": "images", "count": len(paths)}
        )

    def save(self, path: Path | str) -> None:
        """Write a safetensors file with the provenance as JSON in its metadata."""
        metadata = {"format": _FORMAT, "provenance": json.dumps(self.provenance)}
        tensors = {"images": self.images.contiguous(), "labels": self.labels.contiguous()}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata)

    @classmethod
    def load(cls, path: Path | str) -> "CalibrationSet":
        """Read what `save` wrote.

        Raises:
            PtqError: when the file is missing, cut short, or something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise PtqError(
                        f"{path} is a safetensors file but no calibration set (format "
                        f"{metadata.get('format')!r}). "
                        "Give a file that ptq synthesize wrote, or a directory of images."
                    )
                tensors = {key: file.get_tensor(key) for key in ("images", "labels")}
            return cls(**tensors, provenance=json.loads(metadata["provenance"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise PtqError(
                f"cannot read calibration images from {path}: {error}. The file is missing, cut "
                f"short or of another "
                "kind; write it anew with ptq synthesize."
            ) from error

    def contact_sheet(self, path: Path | str, count: int = 64, gap: int = 2) -> None:
        """Draw the first `count` images as one PNG grid, small ones enlarged."""
        images = self.images[:count].permute(0, 2, 3, 1).numpy()
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


def _read(path: Path, preprocess: Preprocess) -> Tensor:
    """One image file as uint8 (3, H, W): shorter side to `resize`, centre crop to `size`."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PtqError(
            f"cannot read the image {path}: {error}. Remove it, or repair it."
        ) from error
    height, width = preprocess.size
    scale = max(preprocess.resize / min(image.size), height / image.height, width / image.width)
    resized = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(resized, _FILTERS.get(preprocess.interpolation, Image.Resampling.BILINEAR))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
