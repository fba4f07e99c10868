"""Labels and pixels of what `ptq.data.datasets` reads, from files made here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import ptq
from ptq.data import datasets
from ptq.data.datasets import imagenet_wnids, load_eval, load_images
from ptq.data.preprocess import Preprocess

SMALL = Preprocess((16, 16), 20, "bilinear", (0.5,) * 3, (0.5,) * 3)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def test_there_are_1000_different_wnids() -> None:
    wnids = imagenet_wnids()
    assert len(set(wnids)) == 1000
    assert wnids[:2] == ("n01440764", "n01443537")
    assert wnids[999] == "n15075141"


def test_wnids_have_their_index_even_where_most_are_absent(tmp_path: Path) -> None:
    for index in (3, 500, 999):
        save(tmp_path / imagenet_wnids()[index] / "a.png", picture(30, 30))
    assert load_eval(tmp_path, SMALL).labels.tolist() == [3, 500, 999]


def test_folders_of_numbers_are_class_indices(tmp_path: Path) -> None:
    for name in ("10", "2", ".cache"):
        save(tmp_path / name / "a.png", picture(30, 30))
    (tmp_path / "2" / "notes.txt").write_text("not an image")
    assert sorted(load_eval(tmp_path, SMALL).labels.tolist()) == [2, 10]


def test_batches_are_rgb_in_0_1_and_labeled(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / str(index) / "a.png", Image.new("RGB", (30, 40), (255, 0, 51)))
    batches = list(load_eval(tmp_path, SMALL).batches(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    images, labels = batches[0]
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.allclose(images[0, :, 8, 8], torch.tensor([1.0, 0.0, 0.2]))
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(100, 60), (33, 90), (20, 20), (16, 16), (7, 11)])
def test_pixels_are_torchvisions(tmp_path: Path, shape: tuple[int, int], interpolation: str) -> None:
    image = picture(*shape)
    save(tmp_path / "0" / "a.png", image)
    preprocess = Preprocess((16, 16), 20, interpolation, (0.5,) * 3, (0.5,) * 3)
    mode = v2.InterpolationMode(interpolation)
    expected = v2.Compose([v2.Resize(20, mode), v2.CenterCrop(16), v2.PILToTensor()])(image)
    assert torch.equal(load_eval(tmp_path, preprocess).read(0), expected)


def test_an_oblong_crop_stays_inside_the_image(tmp_path: Path) -> None:
    save(tmp_path / "0" / "a.png", Image.new("RGB", (30, 30), (255, 255, 255)))
    oblong = Preprocess((16, 40), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)
    image = load_eval(tmp_path, oblong).read(0)
    assert image.shape == (3, 16, 40)
    assert bool((image == 255).all())


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_every_color_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    save(tmp_path / "0" / f"a.{suffix}", Image.new("RGB", (30, 30), (255, 255, 255)).convert(mode))
    image = load_eval(tmp_path, SMALL).read(0)
    assert image.shape == (3, 16, 16)
    assert int(image.min()) > 250


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    gray = Image.fromarray(np.full((30, 30), 0x8000, dtype=np.uint16))
    save(tmp_path / "0" / "a.png", gray)
    assert bool((load_eval(tmp_path, SMALL).read(0) == 128).all())


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40))
    image.paste((255, 255, 255), (0, 0, 40, 20))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "0").mkdir()
    image.save(tmp_path / "0" / "a.jpg", exif=exif, quality=95)
    pixels = load_eval(tmp_path, SMALL).read(0)
    assert int(pixels[:, 2].max()) < 20
    assert int(pixels[:, 13].min()) > 235


def test_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(6, dtype=np.uint8))
    data = load_eval(tmp_path / "a.npz", SMALL, num_classes=6)
    batch, labels = next(data.batches(6))
    assert len(data) == 6
    assert torch.equal((batch * 255).round().byte(), torch.from_numpy(images))
    assert labels.tolist() == list(range(6))
    assert load_eval(tmp_path / "a.npz", SMALL.override(size=8)).read(2).shape == (3, 8, 8)


def test_load_images_spreads_over_the_folder(tmp_path: Path) -> None:
    for index in range(10):
        save(tmp_path / str(index) / "a.png", Image.new("RGB", (20, 20), (index, 0, 0)))
    images = load_images(tmp_path, SMALL, limit=5)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    assert len(load_images(tmp_path, SMALL)) == 10


def broken(path: Path) -> Path:
    whole = save(path, picture(60, 60)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def test_bad_folders_are_refused_with_a_reason(tmp_path: Path) -> None:
    def refused(says: str, folder: Path) -> None:
        with pytest.raises(ptq.InputError, match=says):
            load_eval(folder, SMALL, num_classes=10)

    refused("none", tmp_path / "none")
    refused(str(tmp_path), tmp_path)
    (tmp_path / "a" / "0").mkdir(parents=True)
    refused(".jpg", tmp_path / "a")
    save(tmp_path / "b" / "cats" / "a.png", picture(9, 9))
    refused("cats", tmp_path / "b")
    save(tmp_path / "c" / "10" / "a.png", picture(9, 9))
    refused("0 to 9", tmp_path / "c")
    (tmp_path / "d" / "1").mkdir(parents=True)
    (tmp_path / "d" / "1" / "a.jpg").write_text("not an image")
    refused(r"a\.jpg", tmp_path / "d")
    with pytest.raises(ptq.InputError):
        load_images(tmp_path / "a", SMALL)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    file = broken(tmp_path / "0" / "a.png")
    with pytest.raises(ptq.InputError, match=r"a\.png"):
        list(load_eval(tmp_path, SMALL).batches())
    with pytest.raises(ptq.InputError, match=r"a\.png"):
        load_images(file.parent, SMALL)


GOOD = np.zeros((4, 3, 16, 16), dtype=np.uint8)
INTEGERS = np.zeros(4, dtype=int)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": GOOD}, "'images'"),
        ({"images": GOOD.transpose(0, 2, 3, 1), "labels": INTEGERS}, r"uint8 \(4, 16, 16, 3\)"),
        ({"images": GOOD.astype(np.float32), "labels": INTEGERS}, "float32"),
        ({"images": GOOD[:0], "labels": INTEGERS[:0]}, r"\(0, 3, 16, 16\)"),
        ({"images": GOOD}, "'labels'"),
        ({"images": GOOD, "labels": INTEGERS[:3]}, r"int64 \(3,\)"),
        ({"images": GOOD, "labels": INTEGERS - 1}, "labels -1 to -1"),
        ({"images": GOOD, "labels": np.array([{}] * 4)}, r"a\.npz"),
    ],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ptq.InputError, match=says):
        load_eval(tmp_path / "a.npz", SMALL, num_classes=10)


@pytest.mark.parametrize("damage", ["cut", "empty", "one array"])
def test_files_that_are_no_archive_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        if damage == "one array":
            np.save(file, GOOD)
        elif damage == "cut":
            file.write(b"PK\x03\x04 and so on")
    with pytest.raises(ptq.InputError, match=r"a\.npz"):
        load_eval(path, SMALL)


def test_a_strip_of_one_pixel_takes_no_more_memory_than_what_is_seen(tmp_path: Path) -> None:
    """Resized as a whole it would have billions of pixels."""
    gray = np.repeat(np.arange(60_000) * 255 // 60_000, 3).astype(np.uint8).reshape(60_000, 1, 3)
    Image.fromarray(gray).save(tmp_path / "strip.png")
    seen = load_images(tmp_path, Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3))
    assert seen.shape == (1, 3, 224, 224)
    assert int(seen.min()) >= 126 and int(seen.max()) <= 128  # from the middle


def test_what_is_seen_of_a_large_image_is_that_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    wanted = Preprocess((16, 20), 20, "bilinear", (0.5,) * 3, (0.5,) * 3)
    whole = datasets._fit(Image.fromarray(pixels), wanted)
    monkeypatch.setattr(datasets, "LARGEST", 1)
    assert torch.equal(datasets._fit(Image.fromarray(pixels), wanted), whole)


@pytest.mark.parametrize("shape", [(), (1,), (4,)], ids=["gray", "one channel", "RGBA"])
def test_arrays_of_other_channels_become_colors(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, *shape, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=pixels, labels=np.arange(6))
    wanted = np.broadcast_to(pixels.reshape(6, -1, 16, 16)[:, :3], (6, 3, 16, 16))
    assert np.array_equal(load_images(tmp_path / "some.npz", SMALL), wanted)
    ((images, _),) = load_eval(tmp_path / "some.npz", SMALL, 6).batches(6)
    assert np.allclose(images * 255, wanted)
