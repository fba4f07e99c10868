"""CalibrationSet: what is saved comes back, and what is not one is refused in words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ptq.calibration.dataset import CalibrationSet
from ptq.errors import InputError
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors


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


def test_compressed_images_come_back_nearly_and_all_else_as_it_was(tmp_path: Path) -> None:
    ramp = torch.arange(64, dtype=torch.uint8).mul(3).expand(3, 64, 64)
    data = CalibrationSet(torch.stack([ramp, 255 - ramp]), torch.tensor([7, -1]), {"source": "mixmix"})
    data.save(tmp_path / "small.safetensors", quality=90)
    back = CalibrationSet.load(tmp_path / "small.safetensors")
    assert (back.images.float() - data.images.float()).abs().max() <= 4
    assert torch.equal(back.labels, data.labels) and back.provenance == data.provenance
    assert (tmp_path / "small.safetensors").stat().st_size < data.images.numel() / 10
    with pytest.raises(InputError):
        data.save(tmp_path / "small.safetensors", quality=0)


def test_damaged_compressed_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.safetensors"
    some(2, side=16).save(path, quality=50)
    stored = read_tensors(path)
    header = read_header(path)
    for change in ({"webp": stored["webp"].flip(0)}, {"ends": stored["ends"] - 40}, {"ends": stored["ends"][:0]}):
        save_tensors(path, stored | change, header)
        with pytest.raises(InputError):
            CalibrationSet.load(path)


def test_few_of_many_are_spread_over_them() -> None:
    few = some(6).few(3)
    assert few.labels.tolist() == [0, 2, 4] and torch.equal(few.images, some(6).images[::2])
    assert len(some(6).few(100)) == 6 and few.provenance == some().provenance


def test_some_are_held_apart_and_the_rest_stays() -> None:
    rest, apart = some(6).hold_apart(3)
    assert (rest.labels.tolist(), apart.labels.tolist()) == ([0, 1, 3, 4], [2, 5])
    assert torch.equal(apart.images, some(6).images[[2, 5]])
    assert [len(part) for part in some(3).hold_apart(8)] == [2, 1]


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
