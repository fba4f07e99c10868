"""Tensors on disk with a header of facts: a safetensors file that is the same, byte for byte, each time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptq.utils.files import atomic

__all__ = ["read_header", "read_tensors", "save_tensors"]

# One entry holds everything: safetensors writes several in an order that changes from run to run.
_ENTRY = "ptq"


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able header atomically.

    Raises:
        MachineError: when the directory cannot be written or the disk is full.

    Example:
        >>> save_tensors("a.safetensors", {"x": torch.zeros(3)}, {"format": "example-1"})
        >>> read_header("a.safetensors")
        {'format': 'example-1'}
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        try:
            save_file(plain, temporary, {_ENTRY: json.dumps(dict(header))})
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error


def read_header(path: Path | str) -> dict[str, Any]:
    """Return the header of a file; empty where it was not written by `save_tensors`.

    Raises:
        OSError, SafetensorError, ValueError: for a file that is missing or damaged.
    """
    with safe_open(path, "pt") as file:
        entry = (file.metadata() or {}).get(_ENTRY)
    try:
        header = json.loads(entry) if entry else {}
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    return header if isinstance(header, dict) else {}


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        OSError, SafetensorError: for a file that is missing or damaged.
    """
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
