"""Dense outputs become pictures, and nothing else does."""

from pathlib import Path

import torch

from ptq.export.pictures import COUNT, WIDEST, Pictures
from ptq.reporting.html.gallery import pictures
from ptq.tasks.task import Task
from ptq.utils.tensor_files import read_tensors

TASK = Task({"mask": "dense", "depth": "generic", "boxes": "generic"})


def outputs(size: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "mask": torch.randn(6, 5, size, size, generator=generator),
        "depth": torch.randn(6, 1, size, size, generator=generator),
        "boxes": torch.randn(6, 100, 4, generator=generator),
    }


def test_classes_and_images_are_pictures(tmp_path: Path) -> None:
    drawn, given = Pictures(TASK), outputs()
    drawn.add(torch.rand(6, 3, 16, 16), {"float": given, "onnx": given})
    drawn.add(torch.rand(6, 3, 16, 16), {"float": outputs(), "onnx": outputs()})  # there are enough
    drawn.save(tmp_path / "pictures")
    tensors = read_tensors(tmp_path / "pictures")
    assert set(tensors) == {"images", *(f"{name}/{of}" for name in ("mask", "depth") for of in ("float", "onnx"))}
    assert torch.equal(tensors["mask/onnx"].long(), given["mask"][:COUNT].argmax(1))
    assert tensors["depth/float"].shape == (COUNT, 1, 16, 16)
    tiles = pictures(tmp_path / "pictures")
    assert [tile.label for tile in tiles[:3]] == ["depth", "float", "onnx"] and len(tiles) == 2 * COUNT * 3


def test_large_ones_are_made_small() -> None:
    drawn, given = Pictures(TASK), outputs(600)
    drawn.add(torch.rand(6, 3, 600, 600), {"float": given, "onnx": given})
    assert max(max(tensor.shape[-2:]) for tensor in drawn.tensors.values()) <= WIDEST


def test_without_pictures_an_earlier_file_goes(tmp_path: Path) -> None:
    (tmp_path / "pictures").touch()
    drawn = Pictures(Task({"output": "classify"}, 3))
    drawn.add(torch.rand(2, 3, 8, 8), {"float": torch.rand(2, 3), "onnx": torch.rand(2, 3)})
    drawn.save(tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists() and pictures(tmp_path / "pictures") == []
