"""What was given on the command line, checked and made `Settings`: nothing here imports torch."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typer

from ptq.cli.values import read_option
from ptq.config.bit_budget import BUDGETS, check_budget, run_suffix
from ptq.config.choices import UNIVERSAL, Method, SynthesisMethod, check_choice, kinds_by_output
from ptq.config.flat_options import OPTIONS, flag, setting_values
from ptq.config.nested import build
from ptq.config.recipe_file import assignment, recipe_values
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.models.names import check_name

__all__ = [
    "existing",
    "given_options",
    "image_source",
    "known_method",
    "known_task",
    "made_for_any",
    "metric_ref",
    "model_ref",
    "out_folder",
    "settings_from",
    "weighted_ref",
]


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the options of a run that were typed, as the command line's parser has them."""
    sources = {name: context.get_parameter_source(name) for name in context.params.keys() & OPTIONS.keys()}
    return {name: context.params[name] for name, source in sources.items() if source and source.name != "DEFAULT"}


def settings_from(
    given: Mapping[str, Any],
    *,
    config: Path | None = None,
    assignments: Sequence[str] | None = None,
    required: Sequence[str] = ("model", "bits"),
    suffix: str = "",
    more: Mapping[str, Any] | None = None,
    called: Mapping[str, str] | None = None,
    unused: Sequence[str] = ("distillation",),
) -> Settings:
    """Return the settings of a command: its options come first, then `--set`, then the recipe, then defaults.

    Args:
        given: options by name; text is read as the command line has it.
        config: a recipe.
        assignments: NAME=VALUE; of two with one name the later counts.
        required: options without which there is no run.
        suffix: of the run directory's name, where none is given; bits and budget when empty.
        more: settings by dotted name that come before those of the recipe.
        called: setting -> how the command calls its option, where that is not what `ptq quantize` calls it.
        unused: parts of the settings that this command does nothing with; a recipe may have them, for other commands.

    Raises:
        InputError: for the first value that cannot be, and for `--set` of what has no use here.

    Example:
        >>> settings_from({"model": "resnet18", "bits": 4, "size": "224"}).model.size
        (224, 224)
    """
    called = called or {}
    values = {} if config is None else recipe_values(config)
    values |= more or {}
    for text in assignments or ():
        for name, value in assignment(text).items():
            if name.partition(".")[0] in unused:
                raise InputError(f"--set: {name} is for another command, and would change nothing here: take it out")
            values[name] = value
    values |= setting_values({name: read_option(name, value) for name, value in given.items()}, flags=True)
    budgets = [name for name in BUDGETS if values.get(OPTIONS[name]) is not None]
    for name in required:
        if OPTIONS[name] not in values and not (name == "bits" and budgets):
            raise InputError(
                f"{called.get(OPTIONS[name], f'--{name}')} is missing: give it, or --config FILE with a recipe that says it"
            )
    for setting, check in _REFERENCES.items():
        if values.get(setting) is not None:
            values[setting] = check(called.get(setting, flag(setting)), values[setting])
    settings = build(Settings, values)
    check_budget(settings)
    folder = out_folder(values.get("output.folder"), settings.model.name, suffix or run_suffix(settings))
    return build(Settings, values | {"output.folder": str(folder)})


def made_for_any(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `ptq synthesize` with a model: where it is missing, the first of the teachers is it.

    Raises:
        InputError: when there are no teachers, or the first has two files of weights.

    Example:
        >>> made_for_any({"teachers": "resnet18=r.pth,vgg11_bn,mobilenet_v2"})
        {'out': 'runs/universal', 'teachers': 'vgg11_bn,mobilenet_v2', 'model': 'resnet18', 'weights': 'r.pth'}
    """
    if given.get("model"):
        return dict(given)
    first, _, others = (given.get("teachers") or "").partition(",")
    name, _, weights = first.partition("=")
    if not name:
        raise InputError("give --model for images for one network, or --teachers M1,M2 for images for any")
    if weights and given.get("weights"):
        raise InputError(f"--weights: {name} has its weights in --teachers; give one of the two")
    own = {"weights": weights} if weights else {}
    return {"out": "runs/universal", **given, "teachers": others, "model": name, **own}


def existing(option: str, path: Path | str) -> str:
    """Return a path as text.

    Raises:
        InputError: when nothing is there.
    """
    if not os.path.exists(path):  # Path.exists raises for long names
        raise InputError(f"{option}: there is nothing at {path}")
    return str(path)


def model_ref(option: str, text: str) -> str:
    """Return a model's name that some library knows, or whose file exists.

    Raises:
        InputError: otherwise.
    """
    text = text.strip()
    file = text.rpartition(":")[0] if ".py:" in text else text if text.endswith((".py", ".onnx")) else ""
    if not text:
        raise InputError(f"{option}: name a model, such as resnet50 or timm:resnet18")
    if file and not os.path.isfile(file):
        raise InputError(f"{option}: there is no file {file}; a model of your own is FILE.py:factory or FILE.onnx")
    module, _, name = text.partition(":")
    path = f"{module.replace('.', os.sep)}.py"
    if not file and name and os.path.isfile(path):  # as Python's own tools name it
        raise InputError(f"{option}: {text!r} is no model; write {path}:{name}")
    check_name(text)
    return text


def weighted_ref(option: str, text: str) -> str:
    """Return a model's name, or one and a file with its weights, "M=FILE".

    Raises:
        InputError: when there is no such model or file.
    """
    model, separator, weights = text.partition("=")
    model = model_ref(option, model)
    return f"{model}={existing(option, weights)}" if separator else model


def image_source(option: str, text: str) -> str:
    """Return a way to synthesize, what comes with ptq, noise, or a path that exists.

    Raises:
        InputError: for anything else.
    """
    words = (*get_args(SynthesisMethod), UNIVERSAL, "noise")
    if text not in words and not os.path.exists(text):
        raise InputError(f"{option}: {text!r} is none of {', '.join(words)}, and there is no such file or folder")
    return text


def known_method(option: str, text: str) -> str:
    """Return a method of reconstruction that there is.

    Raises:
        InputError: for any other.
    """
    check_choice(text, get_args(Method), f"method ({option})")
    return text


def metric_ref(option: str, text: str) -> str:
    """Return FILE.py:function, if there is such a file.

    Raises:
        InputError: otherwise.
    """
    file, _, name = text.rpartition(":")
    if not file.endswith(".py") or not name or not os.path.isfile(file):
        raise InputError(f"{option}: there is no file {file or text}; a metric of your own is FILE.py:function")
    return text


def known_task(option: str, text: str) -> str:
    """Return what outputs are, if there are such kinds.

    Raises:
        InputError: for a kind that there is not.
    """
    try:
        kinds_by_output(text)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error
    return text


def out_folder(path: str | None, model: str, suffix: str) -> Path:
    """Return where a run goes: `path`, or runs/<model>-<suffix> with the model's name made fit for it.

    Raises:
        InputError: when that is a file.

    Example:
        >>> out_folder(None, "nets/mine.py:small", "w4a8").as_posix()
        'runs/small-w4a8'
    """
    name = model.rpartition(":")[2] if ".py:" in model else model
    folder = Path(path or f"runs/{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{suffix}")
    if os.path.exists(folder) and not folder.is_dir():
        raise InputError(f"--out: {folder} is a file; give a folder")
    return folder


_REFERENCES: Mapping[str, Callable[[str, Any], Any]] = {
    "model.name": model_ref,
    "reconstruction.method": known_method,
    "model.weights": existing,
    "model.task": known_task,
    "calibration.images": image_source,
    "calibration.teachers": lambda option, refs: tuple(weighted_ref(option, ref) for ref in refs),
    "calibration.verifier": weighted_ref,
    "distillation.student": model_ref,
    "distillation.student_weights": existing,
    "evaluation.data": existing,
    "evaluation.metric": metric_ref,
}
"""What checks that something is there."""
