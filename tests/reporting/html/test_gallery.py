"""Images of a run, small and inside a page."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from ptq.calibration import CalibrationSet
from ptq.reporting.html.gallery import WIDEST, tiles
from ptq.utils.sampling import spread


def stored(path: Path, count: int, size: int) -> torch.Tensor:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    CalibrationSet.from_pixels(images, torch.arange(count) - 1).save(path)
    return images


def decoded(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


@pytest.mark.parametrize(("count", "most"), [(1, 1), (3, 8), (8, 3)])
def test_images_evenly_spread_with_their_labels(count: int, most: int, tmp_path: Path) -> None:
    images = stored(tmp_path / "images", count, 16)
    found = tiles(tmp_path / "images", {"1": "tabby"}, most)
    labels = ["", "class 0", "tabby", *map("class {}".format, range(2, 9))]
    picked = spread(count, most)
    assert [tile.label for tile in found] == [labels[index] for index in picked]
    for tile, image in zip(found, images[picked], strict=True):
        assert tile.pixelated  # small ones are kept as they are
        assert np.array_equal(np.asarray(decoded(tile.source)), image.permute(1, 2, 0).numpy())


@given(st.integers(1, 500), st.integers(1, 100))
def test_spread_begins_at_the_first_and_leaves_even_gaps(count: int, most: int) -> None:
    picked = spread(count, most)
    assert picked[0] == 0 and len(picked) == min(count, most)
    gaps = [after - before for before, after in zip(picked, [*picked[1:], count], strict=True)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def test_large_images_are_made_small(tmp_path: Path) -> None:
    stored(tmp_path / "images", 1, 300)
    (tile,) = tiles(tmp_path / "images", {})
    assert not tile.pixelated and decoded(tile.source).size == (WIDEST, WIDEST)
