"""The options of the command line; `ptq.cli.parsing` checks what is given. Nothing here imports torch."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ptq.cli.completion import complete_model, complete_models
from ptq.cli.messages import reported
from ptq.config.recipe_file import option_values

__all__ = [
    "ConfigOption",
    "DataOption",
    "DeviceOption",
    "DryRunOption",
    "DumpConfigOption",
    "FormatOption",
    "ImagesOption",
    "LayerOption",
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
    """The keys of `ptq.export.openvino.RUNTIMES`."""

    openvino = "openvino"


class Recipe(StrEnum):
    """How images are synthesized; see `ptq.calibration.synthesis_config`."""

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


def _take_recipe(context: typer.Context, path: Path | None) -> Path | None:
    """Let a recipe's values stand in for options that are not given."""
    if path is not None:
        with reported():
            context.default_map = {**(context.default_map or {}), **option_values(path)}
    return path


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="M",
        help="A torchvision classifier (resnet50), timm:NAME, efficientnet_lite0|1|2 (weights "
        "come with the extra 'zoo'), or FILE.py:factory.",
        autocompletion=complete_model,
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
    typer.Option(metavar="N|HxW", help="Input size in pixels, in place of the model's own.", rich_help_panel="Model"),
]
ResizeOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Shorter side before the center crop, in pixels.", rich_help_panel="Model"),
]
TripleOption = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Per channel, in units of [0, 1].", rich_help_panel="Model")
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
        help="Further models to synthesize the images from, besides the model itself; =FILE gives one its weights.",
        autocompletion=complete_models,
        rich_help_panel="Images",
    ),
]
VerifierOption = Annotated[
    str | None,
    typer.Option(
        metavar="M[=FILE]",
        help="A model that takes no part in making the images and judges whether they show what their labels say.",
        autocompletion=complete_model,
        rich_help_panel="Images",
    ),
]
MixedCopiesOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Copies of every calibration image with another one in a random box, to reconstruct with besides.",
        rich_help_panel="Images",
    ),
]
RecipeOption = Annotated[Recipe, typer.Option("--recipe", help="How to synthesize.", rich_help_panel="Images")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE.npz",
        help="Labeled images to measure accuracy with, never to calibrate: a folder per class, "
        "named by class index or WNID, or an .npz of uint8 'images' (N,3,H,W) and 'labels'.",
        rich_help_panel="Evaluation",
    ),
]
PresetOption = Annotated[Preset, typer.Option(help="How much time to spend.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="The same seed gives the same result.")
]
DeviceOption = Annotated[str | None, typer.Option(metavar="D", help="cpu or cuda[:N]; a GPU when there is one.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, metavar="N", help="CPU threads; all cores when not given.")
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
OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; runs/<model>-... otherwise.")]
RestartOption = Annotated[
    bool,
    typer.Option(
        "--restart", help="Begin anew where an unfinished run is in the run directory, instead of continuing it."
    ),
]
LayerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="PATTERN=BITS",
        help="Weight bits of the layers whose names match, as 'layer4.*=8'; 'fc=float' leaves one in float. "
        "Can be given several times; the last that matches holds.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_take_recipe,
        help="A recipe (TOML) that says what the command line does not; every run directory has its own.",
    ),
]
DumpConfigOption = Annotated[
    bool, typer.Option("--dump-config", help="Print the recipe of this command, and do nothing else.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show the plan, and from a few steps of every stage what the run will take; write nothing."
    ),
]
