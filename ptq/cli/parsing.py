"""What was given on the command line, checked and made `Settings`: nothing here imports torch."""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

from ptq.cli.options import Recipe
from ptq.config.settings import FLOAT, Settings
from ptq.errors import InputError
from ptq.models.names import check_name

__all__ = [
    "device_name",
    "existing",
    "image_source",
    "input_size",
    "layer_bits",
    "model_ref",
    "out_folder",
    "per_channel",
    "settings_from",
    "teacher_refs",
    "weighted_ref",
]


def settings_from(given: Mapping[str, Any], suffix: str) -> Settings:
    """Return the settings that a command's options say.

    Args:
        given: option -> value, as the command line's parser has it. What is no field of `Settings` is left out.
        suffix: of the run directory's name, where none is given.

    Raises:
        InputError: for the first one that cannot be.

    Example:
        >>> settings_from({"model": "resnet18", "bits": 4, "size": "224"}, "w4a8").size
        (224, 224)
    """
    known = {field.name for field in fields(Settings)}
    values = {
        name: _CHECKS[name](value) if name in _CHECKS else _plain(value)
        for name, value in given.items()
        if name in known
    }
    if "out" in given:
        values["out"] = str(out_folder(given["out"], values["model"], suffix))
    if "layer" in given:
        values["overrides"] = layer_bits(given["layer"] or ())
    return Settings(**values)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def existing(option: str, path: Path | None) -> str | None:
    """The path as text, None where none was given.

    Raises:
        InputError: when nothing is there.
    """
    if path is not None and not os.path.exists(path):  # Path.exists raises for long names
        raise InputError(f"{option}: there is nothing at {path}")
    return None if path is None else str(path)


def model_ref(option: str, text: str) -> str:
    """A model's name that some library knows, or whose file exists.

    Raises:
        InputError: otherwise.
    """
    text = text.strip()
    file = text.rpartition(":")[0] if ".py:" in text else text if text.endswith(".py") else ""
    if not text:
        raise InputError(f"{option}: name a model, such as resnet50 or timm:resnet18")
    if file and not os.path.isfile(file):
        raise InputError(f"{option}: there is no file {file}; a model of your own is FILE.py:factory")
    module, _, name = text.partition(":")
    path = f"{module.replace('.', os.sep)}.py"
    if not file and name and os.path.isfile(path):  # as Python's own tools name it
        raise InputError(f"{option}: {text!r} is no model; write {path}:{name}")
    check_name(text)
    return text


def teacher_refs(text: str) -> tuple[str, ...]:
    """Names of models from "M1,M2=FILE"."""
    return tuple(weighted_ref("--teachers", part) for part in text.split(",")) if text else ()


def weighted_ref(option: str, text: str) -> str:
    """A model's name, or one and a file with its weights, "M=FILE".

    Raises:
        InputError: when there is no such file.
    """
    model, separator, weights = text.partition("=")
    model = model_ref(option, model)
    return f"{model}={existing(option, Path(weights))}" if separator else model


def image_source(text: str) -> str:
    """A way to synthesize, noise, or a path that exists."""
    if text not in (*Recipe, "noise") and not os.path.exists(text):
        raise InputError(
            f"--images: {text!r} is none of {', '.join(Recipe)} and noise, and there is no such file or folder"
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
        raise InputError(f"--size: {text!r} is no size; give 224, or height and width as 224x320")
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
        raise InputError(f"{option}: {text!r}; give three numbers in [0, 1], as 0.485,0.456,0.406")
    return values[0], values[len(values) // 2], values[-1]


def device_name(text: str | None) -> str | None:
    """cpu, cuda, cuda:N, mps, xpu; whether the machine has it is found out later."""
    if text is not None and not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d+)?", text):
        raise InputError(f"--device: {text!r}; give cpu, cuda or cuda:N")
    return text


def out_folder(path: Path | None, model: str, suffix: str) -> Path:
    """Where a run goes: `path`, or runs/<model>-<suffix> with the model's name made fit for it.

    Raises:
        InputError: when that is a file.

    Example:
        >>> out_folder(None, "nets/mine.py:small", "w4a8").as_posix()
        'runs/small-w4a8'
    """
    name = model.rpartition(":")[2] if ".py:" in model else model
    path = path or Path("runs", f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{suffix}")
    if os.path.exists(path) and not path.is_dir():
        raise InputError(f"--out: {path} is a file; give a folder")
    return path


def layer_bits(texts: Iterable[str]) -> dict[str, int | None]:
    """Weight bits by layer name pattern, None for float, from "PATTERN=BITS" or "PATTERN=float".

    Raises:
        InputError: for anything else.

    Example:
        >>> layer_bits(["layer4.*=8", "fc=float"])
        {'layer4.*': 8, 'fc': None}
    """
    found: dict[str, int | None] = {}
    for text in texts:
        pattern, _, bits = text.rpartition("=")
        if not pattern or not re.fullmatch(rf"[2-8]|{FLOAT}", bits):
            raise InputError(
                f"--layer: {text!r}; give a layer's name or pattern and 2 to 8 bits or float, as 'layer4.*=8'"
            )
        found[pattern] = None if bits == FLOAT else int(bits)
    return found


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "model": lambda text: model_ref("--model", text),
    "teachers": teacher_refs,
    "verifier": lambda text: text and weighted_ref("--verifier", text),
    "images": image_source,
    "data": lambda path: existing("--data", path),
    "weights": lambda path: existing("--weights", path),
    "device": device_name,
    "size": input_size,
    "mean": lambda text: per_channel("--mean", text),
    "std": lambda text: per_channel("--std", text),
}
