"""Images and labels that cannot be used."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from tests.helpers.bad_input.case import Case, quantize
from tests.helpers.bad_input.damage import Attack, cut, cut_safetensors, picture, state

__all__ = ["DATA"]


def _npz(at: Path, **arrays: np.ndarray) -> None:
    np.savez(at / "d.npz", **arrays)  # type: ignore[arg-type]


def _data(what: str, says: str, make: Callable[[Path], object], file: str = "d") -> Case:
    return Case(what, quantize("--data", file), says, make)


def _cut_picture(at: Path) -> None:
    picture(at / "d/0/a.jpg", (200, 200))
    cut(at / "d/0/a.jpg", 0.4)


PIXELS = np.zeros((2, 3, 8, 8), np.uint8)
LABELS = np.arange(2)
DATA = (
    _data("an empty folder", "no folders of images", lambda at: (at / "d").mkdir()),
    _data("empty folders of classes", "no images in the folders of d", lambda at: (at / "d/0").mkdir(parents=True)),
    _data(
        "a text that is called .png",
        "is not an image that can be read",
        lambda at: picture(at / "d/0/a.png").write_text("hello"),
    ),
    _data("an image cut short", "remove it", _cut_picture),
    _data(
        "folders with names of their own",
        "neither class indices nor ImageNet WNIDs: cats",
        lambda at: picture(at / "d/cats/a.png"),
    ),
    _data(
        "more classes than the network has",
        "but the model knows the classes 0 to 2",
        lambda at: picture(at / "d/7/a.png"),
    ),
    Case(
        "labels for a network of no classes",
        quantize("--data", "d.npz", model="net.py:features"),
        "is class scores",
        lambda at: _npz(at, images=PIXELS, labels=LABELS),
    ),
    _data("one image for a folder", "not a readable .npz", lambda at: picture(at / "d.png"), "d.png"),
    _data("an empty file", "not a readable .npz", lambda at: (at / "d.npz").touch(), "d.npz"),
    _data("a text for data", "not a readable .npz", lambda at: (at / "d.npz").write_text("hello"), "d.npz"),
    _data("arrays without images", "has no array 'images'", lambda at: _npz(at, labels=LABELS), "d.npz"),
    _data("arrays without labels", "has no array 'labels'", lambda at: _npz(at, images=PIXELS), "d.npz"),
    _data(
        "images as floats",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS / 255, labels=LABELS),
        "d.npz",
    ),
    _data(
        "images of two channels",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS[:, :2], labels=LABELS),
        "d.npz",
    ),
    _data(
        "no images at all",
        "it must be uint8 (N,3,H,W)",
        lambda at: _npz(at, images=PIXELS[:0], labels=LABELS[:0]),
        "d.npz",
    ),
    _data(
        "labels as floats",
        "it must be integers (2,), one per image",
        lambda at: _npz(at, images=PIXELS, labels=LABELS / 2),
        "d.npz",
    ),
    _data(
        "fewer labels than images",
        "it must be integers (2,), one per image",
        lambda at: _npz(at, images=PIXELS, labels=LABELS[:1]),
        "d.npz",
    ),
    _data(
        "labels beyond the classes",
        "but the model knows the classes 0 to 2",
        lambda at: _npz(at, images=PIXELS, labels=LABELS + 2),
        "d.npz",
    ),
    _data(
        "negative labels",
        "but the model knows the classes 0 to 2",
        lambda at: _npz(at, images=PIXELS, labels=LABELS - 1),
        "d.npz",
    ),
    _data(
        "arrays of objects that would run code",
        "not a readable .npz",
        lambda at: _npz(at, images=np.array([Attack()], object), labels=LABELS),
        "d.npz",
    ),
    _data("one array alone", "expected an .npz with `images`", lambda at: np.save(at / "d.npy", PIXELS), "d.npy"),
    Case(
        "a folder without images to calibrate with",
        quantize(images="d"),
        "no images in d",
        lambda at: (at / "d").mkdir(),
    ),
    Case(
        "weights for images to calibrate with",
        quantize(images="w.safetensors"),
        "no calibration set",
        lambda at: save_file(state(at), at / "w.safetensors"),
    ),
    Case(
        "images cut short to calibrate with",
        quantize(images="w.safetensors"),
        "cannot read calibration images",
        cut_safetensors,
    ),
)
