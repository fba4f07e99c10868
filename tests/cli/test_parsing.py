"""What is given on the command line, as settings."""

from pathlib import Path

from ptq.cli import parsing


def test_options_that_are_understood(tmp_path: Path) -> None:
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
