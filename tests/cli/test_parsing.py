"""What is given on the command line, as settings."""

from pathlib import Path

import pytest

from ptq.cli import parsing
from ptq.errors import PtqError


def test_options_that_are_understood(tmp_path: Path) -> None:
    assert parsing.input_size("224") == (224, 224)
    assert parsing.input_size("224x320") == (224, 320)
    assert parsing.per_channel("0.5") == (0.5,)
    assert parsing.per_channel("0.1,0.2,0.3") == (0.1, 0.2, 0.3)
    assert parsing.device_name("cuda:1") == "cuda:1"
    weights = tmp_path / "w.pth"
    weights.touch()
    assert parsing.weighted_ref("--verifier", f"resnet18={weights}") == f"resnet18={weights}"
    assert parsing.image_source("--images", str(tmp_path)) == str(tmp_path)
    assert parsing.image_source("--images", "genie") == "genie"
    given = {"model": " vgg11", "bits": 4, "teachers": "resnet18, timm:resnet10t", "layers": ["fc=float"]}
    settings = parsing.settings_from(given)
    assert settings.model.name == "vgg11" and settings.quantization.layers == {"fc": None}
    assert settings.calibration.teachers == ("resnet18", "timm:resnet10t")
    assert parsing.out_folder(None, "timm:a.b", "w4a8") == Path("runs/timm-a.b-w4a8")


def test_bits_of_single_layers() -> None:
    assert parsing.bits_by_pattern(["a.*=8", "b=c=float"]) == {"a.*": 8, "b=c": None}


@pytest.mark.parametrize("text", ["", "a", "a=", "=4", "a=9", "a=1", "a=four", "a=4.0"])
def test_bits_that_no_layer_can_have(text: str) -> None:
    with pytest.raises(PtqError, match="layer4"):
        parsing.bits_by_pattern([text])
