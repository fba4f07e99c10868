"""The options that say what the result may cost: bits and channels follow from them. Nothing here imports torch."""

from typing import Annotated

import typer

__all__ = ["Keep", "MaxDrop", "MaxSize", "MinAgreement", "Prune", "PruneTo"]

MaxSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Of the file, as 3MB: the best network that fits, with bits of its own for every layer. --bits is the most that one gets then, "
        "8 when not given; layers that --layer names keep theirs.",
        rich_help_panel="Budget",
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        metavar="PERCENT",
        help="Of the predictions that are float's: the smallest file that has it when it is tuned, on the images of --data, or on mixed copies of a quarter of "
        "the calibration images, with which nothing is tuned.",
        rich_help_panel="Budget",
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS",
        help="Of top-1 on the images of --data below float's: the smallest file that loses no more when it is tuned.",
        rich_help_panel="Budget",
    ),
]
Prune = Annotated[
    str | None,
    typer.Option(
        "--prune",
        metavar="FACTOR",
        help="Remove channels until there are so many times fewer multiply-accumulates, as 1.5x, and repair what is left.",
        rich_help_panel="Pruning",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="PERCENT",
        help="Remove channels until this share of the parameters is left, as 60%.",
        rich_help_panel="Pruning",
    ),
]
PruneTo = Annotated[
    str | None,
    typer.Option(
        "--prune-to",
        metavar="TIME",
        help="Remove channels until one image takes so long in onnxruntime, as 3ms: measured on this machine, on the network "
        "that the command writes.",
        rich_help_panel="Pruning",
    ),
]
