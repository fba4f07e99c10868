"""Images as they stand in a page: small pictures inside it, each with its label. No torch here."""

import base64
import colorsys
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from ptq.utils.sampling import spread

__all__ = ["Tile", "pictures", "tiles"]

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


def pictures(path: Path) -> list[Tile]:
    """Return dense outputs as pictures: of every output and image the image, what float gives, what the file gives.

    Args:
        path: as `ptq.export.pictures.Pictures` wrote it; none where it cannot be read.
    """
    try:
        with safe_open(path, "np") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return []
    found = []
    for output in (name.removesuffix("/float") for name in stored if name.endswith("/float")):
        for index, image in enumerate(stored["images"]):
            found.append(_tile(_picture(image), output if output != "output" else ""))
            found += [_tile(_picture(stored[f"{output}/{of}"][index]), of) for of in ("float", "onnx")]
    return found


def _picture(values: NDArray[np.uint8]) -> Image.Image:
    """A color image (3, H, W), a gray one (1, H, W), or classes of pixels (H, W), each in a color of its own."""
    if values.ndim == 2:
        return Image.fromarray(_PALETTE[values])
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))


# Hues a golden section apart: of neighbors in number no two look alike.
_PALETTE = np.array(
    [[round(255 * v) for v in colorsys.hsv_to_rgb(i * 0.618 % 1, 0.65, 0.95)] if i else (0, 0, 0) for i in range(256)],
    np.uint8,
)


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
