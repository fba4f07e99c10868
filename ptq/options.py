"""The options of the command line, and their checks: none of them imports torch."""

import math
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ptq.errors import PtqError

__all__ = [
    "DataOption",
    "DeviceOption",
    "FormatOption",
    "ImagesOption",
    "MemoryLimitOption",
    "Method",
    "MixedCopiesOption",
    "ModelOption",
    "OutOption",
    "Preset",
    "PresetOption",
    "Recipe",
    "RecipeOption",
    "ResizeOption",
    "RestartOption",
    "SeedOption",
    "SizeOption",
    "TeachersOption",
    "ThreadsOption",
    "TripleOption",
    "VerifierOption",
    "WeightsOption",
    "device_name",
    "existing",
    "image_source",
    "input_size",
    "model_ref",
    "out_folder",
    "per_channel",
    "teacher_refs",
    "weighted_ref",
]


class Preset(StrEnum):
    """How much time to spend."""

    fast = "fast"
    default = "default"
    best = "best"


class Format(StrEnum):
    """How weights lie in the file; see `ptq.export.packing`."""

    packed = "packed"
    int8 = "int8"


class Runtime(StrEnum):
    """The keys of `ptq.export.second_runtime.RUNTIMES`."""

    openvino = "openvino"


class Recipe(StrEnum):
    """How images are synthesized; see `ptq.calibration.recipes`."""

    mixmix = "mixmix"
    zeroq = "zeroq"
    deepinversion = "deepinversion"
    genie = "genie"
    synq = "synq"


class Method(StrEnum):
    """How weights are rounded."""

    qdrop = "qdrop"
    brecq = "brecq"
    adaround = "adaround"
    nearest = "nearest"


def existing(option: str, path: Path | None) -> str | None:
    """The path as text, None where none was given.

    Raises:
        PtqError: when nothing is there.
    """
    if path is not None and not os.path.exists(path):  # Path.exists raises for long names
        raise PtqError(f"{option}: there is nothing at {path}")
    return None if path is None else str(path)


def model_ref(option: str, text: str) -> str:
    """A model reference whose file, if it names one, exists.

    Raises:
        PtqError: otherwise.
    """
    text = text.strip()
    file = text.rpartition(":")[0] if ".py:" in text else text if text.endswith(".py") else ""
    if not text:
        raise PtqError(f"{option}: name a model, such as resnet50 or timm:resnet18")
    if file and not os.path.isfile(file):
        raise PtqError(f"{option}: there is no file {file}; a model of your own is FILE.py:factory")
    return text


def teacher_refs(text: str) -> tuple[str, ...]:
    """Model references from "M1,M2=FILE"."""
    return tuple(weighted_ref("--teachers", part) for part in text.split(",")) if text else ()


def weighted_ref(option: str, text: str) -> str:
    """A model reference, or one and a file with its weights, "M=FILE".

    Raises:
        PtqError: when there is no such file.
    """
    model, separator, weights = text.partition("=")
    model = model_ref(option, model)
    return f"{model}={existing(option, Path(weights))}" if separator else model


def image_source(text: str) -> str:
    """A way to synthesize, noise, or a path that exists."""
    if text not in (*Recipe, "noise") and not os.path.exists(text):
        raise PtqError(
            f"--images: {text!r} is none of {', '.join(Recipe)} and noise, and there is no such file or "
            "folder"
        )
    return text


def input_size(text: str | None) -> tuple[int, int] | None:
    """(height, width) from "224" or "224x320".

    Example:
        >>> input_size("224x320")
        (224, 320)
    """
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,4}([x,][1-9]\d{0,4})?", text):
        raise PtqError(f"--size: {text!r} is no size; give 224, or height and width as 224x320")
    numbers = [int(part) for part in re.split("[x,]", text)]
    return numbers[0], numbers[-1]


def per_channel(option: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers from "0.485,0.456,0.406", or from one for all channels."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise PtqError(f"{option}: {text!r}; give three numbers in [0, 1], as 0.485,0.456,0.406")
    return values[0], values[len(values) // 2], values[-1]


def device_name(text: str | None) -> str | None:
    """cpu, cuda, cuda:N, mps, xpu; whether the machine has it is found out later."""
    if text is not None and not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise PtqError(f"--device: {text!r}; give cpu, cuda or cuda:N")
    return text


def out_folder(path: Path | None, model: str, suffix: str) -> Path:
    """Where a run goes: `path`, or runs/<model>-<suffix> with the model's name made fit for it.

    Raises:
        PtqError: when that is a file.

    Example:
        >>> out_folder(None, "nets/mine.py:small", "w4a8").as_posix()
        'runs/small-w4a8'
    """
    name = model.rpartition(":")[2] if ".py:" in model else model
    path = path or Path("runs", f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{suffix}")
    if os.path.exists(path) and not path.is_dir():
        raise PtqError(f"--out: {path} is a file; give a folder")
    return path


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="M",
        help="A torchvision classifier (resnet50), timm:NAME, efficientnet_lite0|1|2 (weights "
        "come with the extra 'zoo'), or FILE.py:factory.",
        rich_help_panel="Model",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A state dict, .safetensors or .pth, in place of the published weights.",
        rich_help_panel="Model",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Input size in pixels, in place of the model's own.",
        rich_help_panel="Model",
    ),
]
ResizeOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Shorter side before the centre crop, in pixels.",
        rich_help_panel="Model",
    ),
]
TripleOption = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Per channel, in units of [0, 1].",
        rich_help_panel="Model",
    ),
]
ImagesOption = Annotated[
    str,
    typer.Option(
        metavar="mixmix|...|noise|FILE|DIR",
        help="What to calibrate with: images synthesized from the model (mixmix, or for comparison "
        "zeroq, deepinversion, genie, synq), Gaussian noise, a folder or .npz of images, or the "
        "images.safetensors of an earlier run.",
        rich_help_panel="Images",
    ),
]
TeachersOption = Annotated[
    str,
    typer.Option(
        metavar="M1,M2=FILE",
        help="Further models to synthesize the images from, besides the model itself; =FILE gives one "
        "its weights.",
        rich_help_panel="Images",
    ),
]
VerifierOption = Annotated[
    str | None,
    typer.Option(
        metavar="M[=FILE]",
        help="A model that takes no part in making the images and judges whether they show what their "
        "labels say.",
        rich_help_panel="Images",
    ),
]
MixedCopiesOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Copies of every calibration image with another one in a random box, to reconstruct with "
        "besides.",
        rich_help_panel="Images",
    ),
]
RecipeOption = Annotated[
    Recipe,
    typer.Option("--recipe", help="How to synthesize.", rich_help_panel="Images"),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE.npz",
        help="Labelled images to measure accuracy with, never to calibrate: a folder per class, "
        "named by class index or WNID, or an .npz of uint8 'images' (N,3,H,W) and 'labels'.",
        rich_help_panel="Evaluation",
    ),
]
PresetOption = Annotated[Preset, typer.Option(help="How much time to spend.")]
SeedOption = Annotated[
    int,
    typer.Option(min=0, max=2**32 - 1, metavar="N", help="The same seed gives the same result."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="D", help="cpu or cuda[:N]; a GPU when there is one."),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=1024, metavar="N", help="CPU threads; all cores when not given."),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="Of the weights in the file: packed takes 4 bits for 3 and 4, and 2 for 2. Packed where this "
        "onnxruntime is as fast with it when not given.",
    ),
]
MemoryLimitOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of the activations kept in memory, as 1GiB, 800MB or 512M; what is more lies in files in "
        "the run directory. Half of what is free when not given.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where to write; runs/<model>-... otherwise."),
]
RestartOption = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Begin anew where an unfinished run is in the run directory, instead of continuing it.",
    ),
]
