"""Images of a run, small and inside a page."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ptq.calibration import CalibrationSet
from ptq.gallery import WIDEST, tiles


def stored(path: Path, count: int, size: int) -> torch.Tensor:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    CalibrationSet.from_pixels(images, torch.arange(count) - 1).save(path)
    return images


def decoded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


@pytest.mark.parametrize(("count", "most"), [(1, 1), (3, 8), (8, 3)])
def test_the_first_images_with_their_labels(count: int, most: int, tmp_path: Path) -> None:
    images = stored(tmp_path / "images", count, 16)
    found = tiles(tmp_path / "images", {"1": "tabby"}, most)
    assert [tile.label for tile in found] == ["", "class 0", "tabby", *map("class {}".format, range(2, 9))][: min(count, most)]  # fmt: skip
    for tile, image in zip(found, images, strict=False):
        assert tile.pixelated  # small ones are kept as they are
        assert np.array_equal(np.asarray(decoded(tile.source)), image.permute(1, 2, 0).numpy())


def test_large_images_are_made_small(tmp_path: Path) -> None:
    stored(tmp_path / "images", 1, 300)
    (tile,) = tiles(tmp_path / "images", {})
    assert not tile.pixelated and decoded(tile.source).size == (WIDEST, WIDEST)
