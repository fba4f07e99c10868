"""What stands between an RGB image and a network: size, crop, mean and standard deviation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq.errors import InputError

__all__ = ["IMAGENET", "INTERPOLATIONS", "Preprocess", "pair", "triple"]

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its images.

    Attributes:
        size: (height, width) in pixels that the network sees.
        resize: shorter side of an image before the center crop to `size`, in pixels.
        interpolation: "bilinear" or "bicubic", for that resize.
        mean: of red, green and blue, subtracted from values in [0, 1].
        std: divided by after that. Where both are given for values in 0..255 (a mean of 127 and a standard deviation
            of 64), they are divided by 255.

    Raises:
        InputError: for sizes below 1, a standard deviation that is not positive, a mean on another scale than the
            standard deviation.

    Example:
        >>> Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3).resize
        256
    """

    size: tuple[int, int]
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise InputError(f"the input size is {self.size}: give one or two numbers of at least 1")
        if self.resize < min(self.size):
            raise InputError(
                f"images resized to {self.resize} cannot be cropped to "
                f"{self.size[0]}x{self.size[1]}: give a --resize of at least {min(self.size)}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f"no interpolation {self.interpolation!r}: choose {' or '.join(INTERPOLATIONS)}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise InputError(f"{name} is {values}: give three numbers, for red, green and blue")
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}: each must be above 0")
        if max(*self.mean, *self.std) > 2:
            if min(self.std) < 1 or 0 < max(self.mean) <= 2:
                raise InputError(
                    f"mean {self.mean} and std {self.std}: give both for values in 0..255, or both in 0..1"
                )
            for name, values in (("mean", self.mean), ("std", self.std)):
                object.__setattr__(self, name, triple([value / 255 for value in values]))

    def normalize(self, images: Tensor) -> Tensor:
        """Turn float RGB images in [0, 1], (N, 3, H, W), into what the network takes.

        Example:
            >>> Preprocess((2, 2), 2, "bilinear", (0.5,) * 3, (0.25,) * 3).normalize(torch.ones(1, 3, 2, 2)).max()
            tensor(2.)
        """
        mean, std = self._per_channel(images)
        return (images - mean) / std

    def levels(self) -> Tensor:
        """Return all that the network can get from 8-bit images: (3, 256), a row for each channel.

        Example:
            >>> Preprocess((2, 2), 2, "bilinear", (0.5,) * 3, (0.25,) * 3).levels().aminmax()
            torch.return_types.aminmax(
            min=tensor(-2.),
            max=tensor(2.))
        """
        pixels = torch.arange(256) / 255
        return self.normalize(pixels.expand(3, 1, 256)).squeeze(1)

    def denormalize(self, inputs: Tensor) -> Tensor:
        """Undo `normalize`: from what the network takes to RGB, in [0, 1] where it came from images."""
        mean, std = self._per_channel(inputs)
        return mean + std * inputs

    def _per_channel(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, dtype=like.dtype, device=like.device).view(3, 1, 1) for v in (self.mean, self.std))
        return mean, std

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Preprocess":
        """Rebuild it from its fields as JSON holds them, with lists for tuples."""
        return Preprocess(
            pair(data["size"]),
            int(data["resize"]),
            str(data["interpolation"]),
            triple(data["mean"]),
            triple(data["std"]),
        )

    def override(
        self,
        *,
        size: int | Sequence[int] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> "Preprocess":
        """The same with some values replaced; a new size keeps the share that the crop takes.

        Example:
            >>> base = Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3)
            >>> base.override(size=112).resize
            128
        """
        new_size = self.size if size is None else pair(size)
        if resize is None:
            resize = round(self.resize * min(new_size) / min(self.size))
        return Preprocess(
            new_size,
            resize,
            interpolation or self.interpolation,
            self.mean if mean is None else triple(mean),
            self.std if std is None else triple(std),
        )


# What most networks are trained with; assumed where nobody says otherwise.
IMAGENET = Preprocess((224, 224), 256, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) from one number or two.

    Raises:
        InputError: for more of them.

    Example:
        >>> pair(224), pair([48, 192])
        ((224, 224), (48, 192))
    """
    values = (size,) if isinstance(size, int) else tuple(size)
    if len(values) not in (1, 2):
        raise InputError(f"the input size is {values}: give one or two numbers")
    return int(values[0]), int(values[-1])


def triple(values: float | Sequence[float]) -> tuple[float, float, float]:
    """Return three channel values from three, or from one for all of them.

    Raises:
        InputError: for another number of them.

    Example:
        >>> triple(0.5)
        (0.5, 0.5, 0.5)
    """
    numbers = (values,) * 3 if isinstance(values, int | float) else tuple(values)
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise InputError(f"{tuple(values)}: give three numbers, for red, green and blue")  # type: ignore[arg-type]
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
