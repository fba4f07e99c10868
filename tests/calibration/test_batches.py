"""WorkStore batches: found again, and only by who made them."""

from pathlib import Path

import torch

from ptq.calibration.batches import Batches, discard_batches

FACTS = {"seed": 0, "betas": (0.5, 0.9)}


def images(value: int) -> torch.Tensor:
    return torch.full((2, 3, 4, 4), value, dtype=torch.uint8)


def test_batches_are_found_again_in_order(tmp_path: Path) -> None:
    first = Batches(tmp_path / "parts", FACTS)
    first.add(1, images(1), 0.5)
    first.add(0, images(0), 0.25)
    again = Batches(tmp_path / "parts", FACTS)
    assert again.has(0) and again.has(1) and not again.has(2)
    joined, losses = again.join(2)
    assert joined[:, 0, 0, 0].tolist() == [0, 0, 1, 1] and losses == [0.25, 0.5]


def test_batches_of_other_settings_or_damaged_ones_are_made_anew(tmp_path: Path) -> None:
    Batches(tmp_path, FACTS).add(0, images(0), 0.5)
    assert not Batches(tmp_path, {**FACTS, "seed": 1}).has(0)
    path = tmp_path / "batch-0000.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    assert not Batches(tmp_path, FACTS).has(0)


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    batches = Batches(None, FACTS)
    batches.add(0, images(3), 0.5)
    assert batches.has(0) and not list(tmp_path.iterdir())


def test_discarding_spares_files_of_others(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    Batches(parts, FACTS).add(0, images(0), 0.5)
    (parts / "mine.txt").touch()
    discard_batches(parts)
    assert [p.name for p in parts.iterdir()] == ["mine.txt"]
    (parts / "mine.txt").unlink()
    discard_batches(parts)
    discard_batches(parts)  # nothing there: nothing to do
    assert not parts.exists()


def test_a_batch_with_a_flipped_bit_is_made_anew(tmp_path: Path) -> None:
    Batches(tmp_path, FACTS).add(0, images(0), 0.5)
    path = tmp_path / "batch-0000.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not Batches(tmp_path, FACTS).has(0)
