"""What images an ONNX file takes, as its input says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ptq.errors import InputError, ModelError
from ptq.models.onnx_import.values import Array

__all__ = ["Images", "images_of"]

CHANNELS = (1, 2, 3, 4)  # that images may have


@dataclass(frozen=True)
class Images:
    """The images that a file takes.

    Args:
        name: of the input.
        kind: of its numbers, as numpy calls it: float32, or whole ones of 0..255.
        batch: how many at once; None where that is free.
        channels: of each.
        size: (height, width); None where it is free.
        channels_last: whether the file takes (N, H, W, C).
    """

    name: str
    kind: str
    batch: int | None
    channels: int
    size: tuple[int | None, int | None]
    channels_last: bool

    def known_size(self, otherwise: tuple[int, int] | None = None) -> tuple[int, int]:
        """Return (height, width).

        Args:
            otherwise: of what the file leaves free.

        Raises:
            InputError: where the file leaves one of them free.
        """
        height, width = (mine or other for mine, other in zip(self.size, otherwise or (None, None), strict=True))
        if height is None or width is None:
            free = " and ".join(n for n, size in (("height", height), ("width", width)) if size is None)
            raise InputError(
                f"the file takes images of any {free}: say which with --size, as in --size 224 or --size 48x192"
            )
        return height, width

    def random(self, count: int, size: tuple[int, int]) -> Tensor:
        """Return seeded random images, float32 (N, C, H, W): normalized ones, or bytes where the file takes these."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.channels, *size)
        if self.kind == "float32":
            return torch.randn(shape, generator=generator)
        return torch.randint(0, 256 if self.kind == "uint8" else 128, shape, generator=generator).float()

    def fed(self, pixels: Tensor) -> Iterator[Array]:
        """Yield images (N, C, H, W) as the file takes them, as many at once as it does."""
        given = pixels.permute(0, 2, 3, 1) if self.channels_last else pixels
        for part in given.split(self.batch or 1):
            yield np.ascontiguousarray(part.numpy().astype(self.kind))


def images_of(graph: ir.Graph) -> Images:
    """Return what images the input of a graph takes.

    Raises:
        ModelError: for several inputs, one that takes no images, and one that does not say what it takes.
    """
    names = [value.name or "" for value in graph.inputs]
    if len(names) != 1:
        raise ModelError(f"the file has {len(names)} inputs ({', '.join(names) or 'none'}): it must take images alone")
    source, kind = graph.inputs[0], graph.inputs[0].dtype
    if not isinstance(source.type, ir.TensorType) or source.shape is None:
        raise ModelError(
            f"the file's input {names[0]} does not say its type and its shape: export it again with both, as "
            "(N, 3, 224, 224), or set them with onnx.helper.make_tensor_value_info"
        )
    sizes = [size if isinstance(size, int) and size > 0 else None for size in source.shape]
    if len(sizes) != 4 or kind is None or not (kind is ir.DataType.FLOAT or kind.is_integer()):
        raise ModelError(
            f"the file's input {names[0]} is {source.type} of {len(sizes)} dimensions: images have 4, (N, C, H, W) or "
            "(N, H, W, C), and are float"
        )
    batch, *rest = sizes
    channels_last = rest[0] not in CHANNELS and rest[2] in CHANNELS
    channels, height, width = (rest[2], rest[0], rest[1]) if channels_last else rest
    if channels is not None and channels not in CHANNELS:
        raise ModelError(f"the file's input {names[0]} is of shape {tuple(sizes)}: images have one to four channels")
    return Images(names[0], str(kind.numpy()), batch, channels or 3, (height, width), channels_last)
