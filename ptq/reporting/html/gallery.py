"""Calibration images as they stand in a page: small pictures inside it, each with its label. No torch here."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open

from ptq.utils.sampling import spread

__all__ = ["Tile", "tiles"]

WIDEST = 208  # pixels: twice what a tile takes on a screen
SMALL = 64  # below it pixels are shown as such, without loss


@dataclass(frozen=True)
class Tile:
    """One picture.

    Args:
        source: a data URL.
        label: name or number of its class; empty where unknown.
        pixelated: whether it is shown larger than it is.
    """

    source: str
    label: str
    pixelated: bool


def tiles(path: Path, names: Mapping[str, str], most: int = 32) -> list[Tile]:
    """Return some images of an images.safetensors, evenly spread; none where it cannot be read.

    Args:
        path: as `ptq.calibration.CalibrationSet.save` wrote it.
        names: of classes, by index.
        most: how many.

    Example:
        >>> len(tiles(Path("runs/w4a8/images.safetensors"), {"281": "tabby"}))
        4
    """
    try:
        with safe_open(path, "np") as file:
            stored = file.get_slice("images")
            picked = spread(stored.get_shape()[0], most)
            images = [stored[index : index + 1][0] for index in picked]
            labels = file.get_tensor("labels")[picked].tolist()
    except (OSError, SafetensorError):
        return []  # a report can do without
    return [
        _tile(Image.fromarray(image.transpose(1, 2, 0)), _label(label, names))
        for image, label in zip(images, labels, strict=True)
    ]


def _label(label: int, names: Mapping[str, str]) -> str:
    return "" if label < 0 else names.get(str(label), f"class {label}")


def _tile(image: Image.Image, label: str) -> Tile:
    pixelated = max(image.size) <= SMALL
    image.thumbnail((WIDEST, WIDEST))
    stream = io.BytesIO()
    if pixelated:
        image.save(stream, format="PNG", optimize=True)
    else:
        image.save(stream, format="JPEG", quality=84)
    kind = "png" if pixelated else "jpeg"
    content = base64.b64encode(stream.getvalue()).decode()
    return Tile(f"data:image/{kind};base64,{content}", label, pixelated)
