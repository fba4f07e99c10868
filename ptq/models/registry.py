"""Who provides which networks: the function behind every kind of name."""

from collections.abc import Callable, Mapping
from typing import Any

from ptq.data.preprocess import Preprocess
from ptq.models.bundled import bundled_entry
from ptq.models.entry import ModelEntry
from ptq.models.names import check_name, provider_of
from ptq.models.onnx_file import onnx_file_entry
from ptq.models.python_file import python_file_entry
from ptq.models.timm import timm_entry
from ptq.models.torchvision import torchvision_entry

__all__ = ["FILES", "PUBLISHED", "find_entry"]

FILES = {"python_file": python_file_entry, "onnx_file": onnx_file_entry}
"""Networks of your own, which may leave open what images they take."""

PUBLISHED: dict[str, Callable[[str, Mapping[str, Any]], ModelEntry]] = {
    "timm": timm_entry,
    "bundled": bundled_entry,
    "torchvision": torchvision_entry,
}
"""By what `provider_of` calls them: the whole name of a network and overrides of `Preprocess` fields -> its entry."""


def find_entry(name: str, overrides: Mapping[str, Any], like: Preprocess | None = None) -> ModelEntry:
    """Return what a name stands for.

    Args:
        name: "resnet50", "timm:NAME", "efficientnet_lite0", "FILE.py:factory", "FILE.onnx".
        overrides: values of `Preprocess` fields, in place of what the provider says.
        like: says what neither does.

    Raises:
        InputError: for an unknown name, with the nearest ones; for a file that cannot be imported.
        MachineError: where the package that provides it is not installed.

    Example:
        >>> find_entry("resnet18", {"size": 112}).preprocess.resize
        128
    """
    check_name(name)
    provider = provider_of(name)
    return FILES[provider](name, overrides, like) if provider in FILES else PUBLISHED[provider](name, overrides)
