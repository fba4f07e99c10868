"""The options of distillation, and what goes on from it. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated

import typer

from ptq.cli.completion import complete_model

__all__ = ["Epochs", "From", "Student", "StudentWeights", "Teacher"]

Teacher = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        metavar="M",
        help="Who knows: a torchvision classifier (resnet50), timm:NAME, FILE.py:factory, or a float FILE.onnx. "
        "--weights, --size, --mean and the others here are its own.",
        autocompletion=complete_model,
        rich_help_panel="Model",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student",
        metavar="M",
        help="Who learns: a model of any kind with as many classes. It takes images of the teacher's size, "
        "and as its teacher does where its file does not say how.",
        autocompletion=complete_model,
        rich_help_panel="Model",
    ),
]
StudentWeights = Annotated[
    Path | None,
    typer.Option(
        "--student-weights",
        metavar="FILE",
        help="A state dict that the student begins with; random weights when not given.",
        rich_help_panel="Model",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", min=1, metavar="N", help="Times that every image is looked at; 200 when not given."),
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN_DIR",
        help="Of ptq distill: quantize the student with its weights, on the images that it learned from.",
        rich_help_panel="Model",
    ),
]
