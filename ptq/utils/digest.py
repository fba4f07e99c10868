"""Fingerprints of tensors and files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["digest", "file_digest", "state_digest"]


def state_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state dict; see `digest`."""
    return digest(module.state_dict())


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of tensors, as 64 hexadecimal digits.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2, 1)})
        False
    """
    made = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        made.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        made.update(value.view(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
