"""CalibrationSet: what is saved comes back, and what is not one is refused in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ptq.calibration.dataset import CalibrationSet
from ptq.errors import InputError


def some(n: int = 5, side: int = 8) -> CalibrationSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
    return CalibrationSet(images, torch.arange(n), {"source": "mixmix", "losses": [0.5, 0.25]})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    some().save(path)
    back = CalibrationSet.load(path)
    assert torch.equal(back.images, some().images) and torch.equal(back.labels, some().labels)
    assert back.provenance == some().provenance
    assert [p.name for p in tmp_path.iterdir()] == ["images.safetensors"]


def test_floats_are_the_pixels_over_255() -> None:
    data = some()
    assert data.floats().dtype == torch.float32
    assert torch.equal(data.floats() * 255, data.images.float())
    assert torch.equal(data.floats(torch.tensor([3, 1])), data.floats()[[3, 1]])
    assert torch.equal(CalibrationSet.from_pixels(data.floats()).images, data.images)


def test_pixels_out_of_range_are_clipped_and_labels_unknown() -> None:
    made = CalibrationSet.from_pixels(torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1))
    assert made.images.flatten().tolist() == [0, 128, 255]
    assert made.labels.tolist() == [-1] and len(made) == 1


def test_foreign_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    some().save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError):
        CalibrationSet.load(path)
    path.write_bytes(b"")
    with pytest.raises(InputError):
        CalibrationSet.load(path)
    with pytest.raises(InputError):
        CalibrationSet.load(tmp_path / "absent.safetensors")
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError):
        CalibrationSet.load(path)


@pytest.mark.parametrize(
    ("images", "labels", "word"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "RGB"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels"),
        (torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "images"),
    ],
)
def test_wrong_shapes_and_types_are_refused(images: torch.Tensor, labels: torch.Tensor, word: str) -> None:
    with pytest.raises(InputError, match=word):
        CalibrationSet(images, labels)


def test_the_contact_sheet_shows_every_pixel(tmp_path: Path) -> None:
    data = some(5, side=8)
    data.contact_sheet(tmp_path / "sheet.png", count=4, gap=2)
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (96 + 2) + 2, 2 * (96 + 2) + 2, 3)
    assert (sheet[2:98:12, 2:98:12] == data.images[0].permute(1, 2, 0).numpy()).all()
    assert (sheet[100:196:12, 100:196:12] == data.images[3].permute(1, 2, 0).numpy()).all()
