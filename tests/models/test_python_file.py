"""Networks of your own in a Python file."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

import ptq
from ptq.data.preprocess import Preprocess
from ptq.models.model import load_model
from tests.models.conftest import TINY


def test_factory(tiny: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = load_model(tiny)
    assert (model.name, model.num_classes, model.preprocess.size) == ("tiny", 5, (16, 16))
    assert model.preprocess.interpolation == "bicubic"
    torch.save({"state_dict": model.module.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    torch.manual_seed(1)
    assert load_model(tiny).sha256 != model.sha256
    again = load_model(tiny, tmp_path / "w.pth")
    assert (again.sha256, again.weights_source) == (model.sha256, "w.pth")


def test_factory_that_does_not_say_what_images_it_takes(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(TINY.replace("PREPROCESS", "OTHER"))
    name = f"{tmp_path / 'bare.py'}:tiny"
    with pytest.warns(UserWarning, match="--mean --std"):
        model = load_model(name, size=32)
    assert (model.preprocess.resize, model.preprocess.std) == (32, (0.229, 0.224, 0.225))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(name, size=32, mean=[0.5], std=[0.5])


def test_what_a_factory_does_not_say_is_as_in_the_network_that_it_goes_with(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(TINY.replace("PREPROCESS", "OTHER"))
    like = Preprocess.of((32, 24), mean=0.5, std=0.25, channels="BGR")
    with pytest.warns(UserWarning, match="goes with: size, mean, std. If that is wrong, write") as said:
        found = load_model(f"{tmp_path / 'bare.py'}:tiny", like=like).preprocess
    assert (found.size, found.mean, found.std, found.channels) == (like.size, like.mean, like.std, like.channels)
    assert "--" not in str(said[0].message)
    assert load_model(tiny, like=like).preprocess.size == (16, 16)


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        ("nothing", ptq.InputError, "tiny, number, fails"),
        ("", ptq.InputError, "tiny, number, fails"),
        ("number", ptq.ModelError, "int"),
        ("fails", ptq.ModelError, "KeyError: 'lost'"),
    ],
)
def test_bad_factories(tiny: str, function: str, kind: type[ptq.PtqError], says: str) -> None:
    name = tiny.removesuffix(":tiny") + (f":{function}" if function else "")
    with pytest.raises(kind, match=says):
        load_model(name)


@pytest.mark.parametrize("text", ["import nonexistent_package", "def x(:", "raise SystemExit(3)"])
def test_files_that_do_not_import(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.py").write_text(text)
    with pytest.raises(ptq.InputError, match=r"net\.py"):
        load_model(f"{tmp_path / 'net.py'}:tiny")
    assert str(tmp_path) not in sys.path
