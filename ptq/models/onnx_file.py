"""Networks in ONNX files, as "FILE.onnx"."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from ptq.data.preprocess import IMAGENET, Preprocess, pair
from ptq.errors import InputError, PtqError
from ptq.models.entry import ModelEntry, warn_of_assumed
from ptq.models.onnx_import.conversion import convert
from ptq.models.onnx_import.reading import read_float
from ptq.models.onnx_import.self_check import check_import
from ptq.models.onnx_import.signature import images_of
from ptq.models.weights import check_finite

__all__ = ["onnx_file_entry"]

LETTERS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # what channels are taken for, by their number
BYTES = 255


def onnx_file_entry(name: str, overrides: Mapping[str, Any], like: Preprocess | None = None) -> ModelEntry:
    """Return the entry of a float network in an ONNX file.

    Args:
        name: of the file.
        overrides: values of `Preprocess` fields; the size has to be one of them where the file leaves it free.
        like: says what neither the file nor the overrides do.

    Raises:
        InputError: for a file that is not there or no ONNX, and where the size of the images is not known.
        ModelError: for a network that takes no images, is quantized already, or has operators that ptq does not know.
    """
    path = Path(name)
    with _naming(path):
        model = read_float(path)
        images = images_of(model.graph)
        size = pair(overrides["size"]) if "size" in overrides else images.known_size(like.size if like else None)
    known = {
        "channels": like.channels if like and like.count == images.channels else LETTERS[images.channels],
        **({"range": BYTES} if images.kind != "float32" else {}),
        **overrides,
    }
    absent = [key for key in ("mean", "std") if key not in known and "range" not in known]
    if absent:
        warn_of_assumed(path, absent, like)
    preprocess = Preprocess.of(**(like or IMAGENET).complete({**known, "size": size}))
    if preprocess.count != images.channels:
        raise InputError(
            f"{path} takes images of {images.channels} channels, and {preprocess.channels} are {preprocess.count}"
        )

    def build(num_classes: int | None) -> fx.GraphModule:
        with _naming(path):
            return convert(model, images, size)

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        network = build(num_classes)
        check_finite(network, path.name)
        with _naming(path):
            check_import(model, network, images, size)
        return network, path.name

    def refuse(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
        raise InputError(f"{path} has its weights in it: leave --weights out")

    return ModelEntry(path.stem, preprocess, build, pretrained, refuse)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin what is said of a file with its name."""
    try:
        yield
    except PtqError as error:
        raise type(error)(f"{path}: {error}") from error
