"""WorkStore batches of a synthesis on disk, so that an interruption costs one batch at most."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ptq.utils.digest import digest
from ptq.utils.tensor_files import read_header, read_tensors, save_tensors

__all__ = ["Batches", "discard_batches"]


class Batches:
    """The batches made so far: in memory, and in a folder if there is one.

    Args:
        folder: None keeps nothing on disk. Otherwise it is made with the first batch; `discard_batches`
            removes it.
        made_by: JSON-able facts. A batch on disk that something else made, or that is damaged, is not taken.

    Example:
        >>> batches = Batches("runs/images.part", {"seed": 0})
        >>> batches.add(0, torch.zeros(4, 3, 8, 8, dtype=torch.uint8), loss=0.5)
        >>> images, losses = batches.join(1)
    """

    def __init__(self, folder: Path | str | None, made_by: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.made_by = json.loads(json.dumps(made_by))  # as it reads back: tuples as lists
        self.done: dict[int, tuple[Tensor, float]] = {}

    def has(self, index: int) -> bool:
        """Whether batch `index` need not be made again."""
        if index not in self.done and self.folder is not None:
            try:
                header = read_header(self._path(index))
                kept = read_tensors(self._path(index))
                if header == {"made_by": self.made_by, "seal": digest(kept)}:
                    self.done[index] = (kept["images"], float(kept["loss"]))
            except (OSError, SafetensorError, KeyError, ValueError):
                pass  # absent, or not ours: it is made anew
        return index in self.done

    def add(self, index: int, images: Tensor, loss: float) -> None:
        """Keep a finished batch.

        Raises:
            PtqError: when the disk is full.
        """
        self.done[index] = (images, loss)
        if self.folder is not None:
            kept = {"images": images, "loss": torch.tensor(loss, dtype=torch.float64)}
            save_tensors(self._path(index), kept, {"made_by": self.made_by, "seal": digest(kept)})

    def join(self, count: int) -> tuple[Tensor, list[float]]:
        """All images in order, and the loss of each batch."""
        parts = [self.done[index] for index in range(count)]
        return torch.cat([images for images, _ in parts]), [loss for _, loss in parts]

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"batch-{index:04d}.safetensors"


def discard_batches(folder: Path) -> None:
    """Remove the batches in a folder, and the folder if nothing else is in it."""
    if folder.is_dir():
        for path in folder.glob("batch-*.safetensors"):
            path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
