"""Mixed copies: the originals first, every copy half itself, and the same from the same seed."""

import pytest
import torch

from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.errors import InputError


def flat(count: int = 5) -> CalibrationSet:
    """Image i is of the value 10 i and has the label i."""
    values = 10 * torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 12)
    return CalibrationSet.from_pixels(values.contiguous(), torch.arange(count))


def test_copies_are_two_images_and_mostly_the_first() -> None:
    made = mixed_copies(flat(), times=3)
    assert len(made) == 20 and torch.equal(made.images[:5], flat().images)
    assert made.labels.tolist() == [0, 1, 2, 3, 4] * 4
    for image, label in zip(made.images[5:], made.labels[5:].tolist(), strict=True):
        values, counts = image[0].unique(return_counts=True)
        assert len(values) == 2 and 10 * label in values.tolist()
        share = int(counts[values.tolist().index(10 * label)]) / image[0].numel()
        assert 0.4 < share < 0.95
    assert made.provenance["mixed_copies"] == {"times": 3, "seed": 0}


def test_the_seed_decides() -> None:
    assert torch.equal(mixed_copies(flat(), 1, seed=3).images, mixed_copies(flat(), 1, seed=3).images)
    assert not torch.equal(mixed_copies(flat(), 1, 3).images, mixed_copies(flat(), 1, 4).images)


def test_nothing_to_mix_changes_nothing() -> None:
    images = flat()
    assert mixed_copies(images, 0) is images
    assert mixed_copies(flat(1), 3).images.shape[0] == 1
    with pytest.raises(InputError, match="-1"):
        mixed_copies(images, -1)
