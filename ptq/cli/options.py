"""The options of the command line; `ptq.cli.values` and `ptq.cli.parsing` read them, `ptq.config` checks them. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from ptq.cli.completion import complete_model, complete_models
from ptq.config import choices

__all__ = [
    "ActBits",
    "Assignments",
    "Bits",
    "Channels",
    "Config",
    "Data",
    "Device",
    "DryRun",
    "DumpConfig",
    "FineTune",
    "Format",
    "Images",
    "ImagesAtHand",
    "KeepBranches",
    "Layers",
    "MemoryLimit",
    "Method",
    "Metric",
    "MixedCopies",
    "Model",
    "Out",
    "Place",
    "Preset",
    "Range",
    "ReduceRange",
    "Resize",
    "Restart",
    "Runtimes",
    "Seed",
    "Size",
    "SynthesisMethod",
    "Task",
    "Teachers",
    "Tensors",
    "Threads",
    "Triple",
    "Verifier",
    "Weights",
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help="A torchvision classifier (resnet50), timm:NAME, efficientnet_lite0|1|2 (weights "
        "come with the extra 'zoo'), FILE.py:factory, or a float FILE.onnx.",
        autocompletion=complete_model,
        rich_help_panel="Model",
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        min=choices.MIN_BITS,
        max=choices.MAX_BITS,
        help="Bits of the weights. Activations stay at 8 unless --act-bits says otherwise: "
        "8 bits is what integer kernels compute in, fewer save no time.",
    ),
]
ActBits = Annotated[
    str,
    typer.Option(
        metavar="2..8|auto",
        help="Bits of the activations that layers read. auto is for machines that compute in 4 bits: 4 where that harms little, 8 elsewhere.",
    ),
]
ReduceRange = Annotated[
    bool,
    typer.Option(
        "--reduce-range",
        help="At most 7 bits for any weight: exact and fast on x86 CPUs without VNNI, where "
        "onnxruntime's kernels saturate with 8.",
    ),
]
KeepBranches = Annotated[
    bool,
    typer.Option(
        "--keep-branches",
        help="Leave convolutions of one tensor that are added (RepVGG, MobileOne) as they are. Without this they become "
        "one, which is exact and faster.",
    ),
]
Place = Annotated[
    choices.Place,
    typer.Option(
        "--place",
        help="auto measures which operators are slower in integers on this machine, and leaves them in float; their weights "
        "are as small as the others. integers leaves none there: for another machine, or exact integer arithmetic.",
    ),
]
Method = Annotated[choices.Method, typer.Option(help="How the rounding of the weights is found.")]
FineTune = Annotated[
    int | None,
    typer.Option(
        "--finetune",
        metavar="N",
        help="Iterations in which the whole quantized network learns the float network's predictions, after its blocks, as 400.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A state dict, .safetensors or .pth, in place of the published weights.",
        rich_help_panel="Model",
    ),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="N|HxW", help="Input size in pixels, in place of the model's own.", rich_help_panel="Model"),
]
Resize = Annotated[
    int | None,
    typer.Option(metavar="N", help="Shorter side before the center crop, in pixels.", rich_help_panel="Model"),
]
Triple = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Per channel, in units of [0, 1], or one for all.", rich_help_panel="Model"),
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="RGB|BGR|L|...",
        help="What the network's channels are, one to four letters of R, G, B, L (gray) and A (opaque).",
        rich_help_panel="Model",
    ),
]
Range = Annotated[
    int | None,
    typer.Option(
        "--range",
        metavar="1|255",
        help="Of the pixels that --mean and --std are for. With 255 and without these the network takes bytes as they are.",
        rich_help_panel="Model",
    ),
]
Task = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="|".join(("auto", *get_args(choices.OutputKind))),
        help="What the outputs are, where their shapes do not tell: scores of classes, scores for every pixel, embeddings, "
        "any numbers, whole numbers. 'boxes=generic' speaks of one output.",
        rich_help_panel="Model",
    ),
]
Images = Annotated[
    str,
    typer.Option(
        metavar="mixmix|universal|FILE|...",
        help="What to calibrate with: images synthesized from the model (mixmix, or for comparison "
        "zeroq, deepinversion, genie, synq), those that come with ptq and serve any network (universal), "
        "Gaussian noise, a folder or .npz of images, or the images.safetensors of ptq synthesize or of an earlier run.",
        rich_help_panel="Images",
    ),
]
ImagesAtHand = Annotated[
    str,
    typer.Option(
        "--images",
        metavar="universal|FILE|DIR|noise",
        help="What gives the ranges: the images that come with ptq (universal), images.safetensors of a run or of "
        "ptq synthesize, a folder or .npz of images. Nothing is synthesized here.",
        rich_help_panel="Images",
    ),
]
Teachers = Annotated[
    str,
    typer.Option(
        metavar="M1,M2=FILE",
        help="Further models to synthesize the images from, besides the model itself; =FILE gives one its weights.",
        autocompletion=complete_models,
        rich_help_panel="Images",
    ),
]
Verifier = Annotated[
    str | None,
    typer.Option(
        metavar="M[=FILE]",
        help="A model that takes no part in making the images and judges whether they show what their labels say.",
        autocompletion=complete_model,
        rich_help_panel="Images",
    ),
]
MixedCopies = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Copies of every calibration image with another one in a random box, to reconstruct with besides.",
        rich_help_panel="Images",
    ),
]
SynthesisMethod = Annotated[
    choices.SynthesisMethod, typer.Option("--method", help="How to synthesize.", rich_help_panel="Images")
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE.npz",
        help="Labeled images to measure accuracy with, never to calibrate: a folder per class, "
        "named by class index or WNID, or an .npz of uint8 'images' (N,3,H,W) and 'labels'.",
        rich_help_panel="Evaluation",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="FILE.py:function",
        help="A function that is given predict(images) and returns named numbers: a metric of your own, of the float "
        "network, the simulation and the file.",
        rich_help_panel="Evaluation",
    ),
]
Preset = Annotated[choices.Preset, typer.Option(help="How much time to spend.")]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed gives the same result.")]
Device = Annotated[str | None, typer.Option(metavar="D", help="cpu or cuda[:N]; a GPU when there is one.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads; all cores when not given.")]
Format = Annotated[
    choices.Format | None,
    typer.Option(
        "--format",
        help="Of the weights in the file: packed takes 4 bits for 3 and 4, and 2 for 2. Packed where this "
        "onnxruntime is as fast with it when not given.",
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of the activations kept in memory, as 1GiB, 800MB or 512M; what is more lies in files in "
        "the run directory. Half of what is free when not given.",
    ),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; runs/<model>-... otherwise.")]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart", help="Begin anew where an unfinished run is in the run directory, instead of continuing it."
    ),
]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="PATTERN=BITS",
        help="Weight bits of the layers whose names match, as 'layer4.*=8'; 'fc=float' leaves one in float. "
        "Can be given several times; the last that matches holds.",
    ),
]
Tensors = Annotated[
    list[str] | None,
    typer.Option(
        "--tensor",
        metavar="PATTERN=BITS",
        help="Bits of the activations whose names match, as 'layer1.*=8'. Can be given several times; the last that "
        "matches holds.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A recipe (TOML) that says what the command line does not; every run directory has its own.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of a recipe, as reconstruction.iterations=2000; the value is TOML. Can be given several times.",
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime", metavar="|".join(get_args(choices.Runtime)), help="Run the file in this runtime, too; an extra."
    ),
]
DumpConfig = Annotated[
    bool, typer.Option("--dump-config", help="Print the recipe of this command, and do nothing else.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show the plan, and from a few steps of every stage what the run will take; write nothing."
    ),
]
