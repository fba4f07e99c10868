"""Networks of your own, as "FILE.py:factory"."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError, ModelError
from ptq.models.entry import ModelEntry, warn_of_assumed
from ptq.models.inputs import Inputs, image_channels
from ptq.utils.python_files import import_file

__all__ = ["python_file_entry"]


def python_file_entry(name: str, overrides: Mapping[str, Any], like: Preprocess | None = None) -> ModelEntry:
    """Return the entry of what a function in a file returns; the file is run.

    Args:
        name: "FILE.py:factory"; a factory takes no arguments and returns an nn.Module.
        overrides: values of `Preprocess` fields, in place of those in the file's PREPROCESS.
        like: says what neither the file nor the overrides do.

    Raises:
        InputError: for a file that is not there, cannot be imported, or has no such function or a wrong PREPROCESS.
    """
    path_text, _, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"no file {path}: a model of your own is FILE.py:factory")
    code = import_file(path)
    factory = getattr(code, function, None) if function else None
    if not callable(factory):
        own = [n for n, value in vars(code).items() if _is_own(value, code) and n[0] != "_"]
        wrong = f"has no function {function!r}" if function else "alone names no function"
        raise InputError(f"{path} {wrong}: write {path}:NAME; it has {', '.join(own) or 'none'}")
    inputs = _inputs(code, path)
    known = {**({"channels": image_channels(inputs)} if inputs else {}), **_declared(code, path), **overrides}
    said = {"mean", "std"} if "range" in known else set()
    absent = [key for key in ("size", "mean", "std") if key not in known and key not in said]
    if absent:
        example = f"PREPROCESS = dict(size={IMAGENET.size[0]}, mean={IMAGENET.mean}, std={IMAGENET.std})"
        warn_of_assumed(path, absent, like, f"write into it {example}")
    try:
        preprocess = Preprocess.of(**(like or IMAGENET).complete(known))
    except (TypeError, ValueError) as error:
        raise InputError(f"PREPROCESS in {path}: {error}; write numbers") from error

    def build(num_classes: int | None) -> nn.Module:
        try:
            module = factory()
        except Exception as error:  # someone else's code may raise anything
            raise ModelError(f"{name}() failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"{name}() returned a {type(module).__name__}: it must return an nn.Module")
        return module

    def pretrained(num_classes: int | None) -> tuple[nn.Module, str]:
        return build(num_classes), f"as {path.name}:{function} returns them"

    return ModelEntry(function, preprocess, build, pretrained, classes=getattr(code, "CLASSES", ()), inputs=inputs)


def _is_own(value: object, code: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == code.__name__


def _declared(code: ModuleType, path: Path) -> dict[str, Any]:
    declared = getattr(code, "PREPROCESS", {})
    allowed = {"size", "resize", "interpolation", "mean", "std", "channels", "range"}
    if not isinstance(declared, Mapping) or not set(declared) <= allowed:
        raise InputError(f"PREPROCESS in {path} must be a dict with keys among {', '.join(sorted(allowed))}")
    return dict(declared)


def _inputs(code: ModuleType, path: Path) -> Inputs:
    """What the file says about the inputs of a network that has several; empty where it says nothing."""
    inputs = getattr(code, "INPUTS", {})
    if not isinstance(inputs, Mapping) or not all(isinstance(name, str) for name in inputs):
        raise InputError(f"INPUTS in {path} must be a dict: names of inputs -> channels, as 'RGB', or a constant")
    return inputs
