"""Images for any network: they keep what they show, and their labels where the network knows them."""

import json
import warnings
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import nn

from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.universal import fit_to_network, universal_set
from ptq.errors import MachineError
from ptq.models.model import Model, as_model

LARGEST = 8_000_000  # bytes of what comes with ptq


def network(size: tuple[int, int], classes: int = 10, channels: str = "RGB") -> Model:
    """A network of no use, with this input and as many classes."""
    layers = nn.Conv2d(len(channels), classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return as_model(nn.Sequential(*layers), size=size, channels=channels)


def stripes(side: int, classes: int | None = 10) -> CalibrationSet:
    """Images of which the left half is black and the right half white, with labels."""
    images = torch.zeros(4, 3, side, side, dtype=torch.uint8)
    images[..., side // 2 :] = 255
    return CalibrationSet(images, torch.arange(4), {"classes": classes})


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (48, 48), (12, 40), (40, 12), (7, 9)])
def test_the_whole_image_fills_the_input_and_its_middle_stays_in_the_middle(size: tuple[int, int]) -> None:
    fitted = fit_to_network(stripes(32), network(size)).images
    assert fitted.shape == (4, 3, *size)
    wide = size[1]
    assert (fitted[..., : wide // 2 - 2] == 0).all() and (fitted[..., wide // 2 + 3 :] == 255).all()
    assert abs(float(fitted.float().mean()) - 127.5) < 255 * 0.6 / wide  # no half is larger


def test_what_fits_is_left_as_it_is() -> None:
    made = stripes(16)
    fitted = fit_to_network(made, network((16, 16)))
    assert fitted.images is made.images and fitted.provenance == made.provenance


def test_labels_stay_where_the_classes_agree() -> None:
    def labels(made: CalibrationSet, classes: int) -> list[int]:
        return fit_to_network(made, network((16, 16), classes)).labels.tolist()

    known, unknown = [0, 1, 2, 3], [-1] * 4
    assert labels(stripes(16, classes=10), 10) == known
    assert labels(stripes(16, classes=1000), 10) == unknown
    assert labels(stripes(16, classes=None), 10) == unknown
    own = CalibrationSet(stripes(16).images, torch.arange(4))  # nothing says how many classes there are
    assert labels(own, 10) == known and labels(own, 3) == unknown
    embedding = as_model(nn.Sequential(nn.Conv2d(3, 8, 3)), size=16)  # has no classes
    assert fit_to_network(own, embedding).labels.tolist() == unknown


def test_images_that_are_much_too_small_are_used_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="8x8"):
        assert fit_to_network(stripes(8), network((32, 32)), "a set").images.shape[-1] == 32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_to_network(stripes(16), network((32, 32)))


def test_what_comes_with_ptq_is_small_and_says_how_it_was_made() -> None:
    folder = resources.files("ptq.data")
    made = universal_set()
    assert 128 <= len(made) <= 256 and made.images.shape[1:] == (3, 224, 224)
    assert len(folder.joinpath("universal.safetensors").read_bytes()) < LARGEST
    assert made.provenance == json.loads(folder.joinpath("universal.json").read_text())
    assert made.provenance["classes"] == 1000 and len(made.provenance["teachers"]) == 4
    assert {"command", "versions", "quality"} <= made.provenance.keys()
    parts = made.provenance["parts"]
    assert sum(part["images"] for part in parts) == len(made) and all("seed" in part["settings"] for part in parts)
    for teacher in made.provenance["teachers"]:  # so that it can be measured what others are worth for it
        assert any(teacher["name"] not in part["teachers"] for part in parts)
    assert len(set(made.labels.tolist())) > 0.9 * len(made)


def test_an_installation_without_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ptq.calibration.universal.resources.files", lambda _: tmp_path)
    with pytest.raises(MachineError):
        universal_set()
