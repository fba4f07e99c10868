"""Names of models: those that the libraries themselves list, and no slow import to refuse another."""

import subprocess
import sys
from pathlib import Path

import pytest

import ptq
from ptq.models.names import check_name, timm_names, torchvision_names
from tests.helpers import CHECKOUT


def test_the_names_are_those_of_torchvision() -> None:
    from torchvision import models

    assert list(torchvision_names()) == sorted(models.list_models(module=models))


def test_every_name_of_timm_is_found_and_names_of_old_besides() -> None:
    timm = pytest.importorskip("timm")
    assert set(timm.list_models()) <= set(timm_names())
    assert all(timm.is_model(name) for name in timm_names())


@pytest.mark.parametrize(
    "known",
    ["resnet50", "ResNet50", "efficientnet_lite0", "timm:resnet18", "timm:resnet18.a1_in1k", "mine.py:net", "mine.py"],
)
def test_what_exists_or_may_exist_is_accepted(known: str) -> None:
    check_name(known)


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [
        ("resnet5O", "resnet50"),
        ("timm:resnet1b", "timm:resnet"),
        ("tf_efficientnet_lite0", "timm:tf_efficientnet_lite0"),
        ("nothing like it", "FILE.py:factory"),
        ("", "FILE.py:factory"),
    ],
)
def test_what_nobody_has_is_refused_with_the_nearest(unknown: str, nearest: str) -> None:
    with pytest.raises(ptq.InputError, match=nearest):
        check_name(unknown)


@pytest.mark.parametrize("name", ["resnet5O", "timm:resnet1b", "net"])
def test_the_command_line_refuses_a_name_without_torch(tmp_path: Path, name: str) -> None:
    for library in ("torch", "torchvision", "timm"):
        (tmp_path / library / "models").mkdir(parents=True)
        (tmp_path / library / "__init__.py").write_text("raise SystemExit('it was imported')")
        (tmp_path / library / "models" / "a.py").write_text("@register_model()\ndef resnet50():\n")
    done = subprocess.run(
        [sys.executable, "-m", "ptq", "quantize", "--model", name, "--bits", "4"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{CHECKOUT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "no model" in done.stderr, done.stderr
