"""What stands between an RGB image and a network: size, crop, channels, mean and standard deviation."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq.errors import InputError

__all__ = ["IMAGENET", "INTERPOLATIONS", "Preprocess", "numbers", "pair"]

INTERPOLATIONS = ("bilinear", "bicubic")
# What a channel is made of: shares of red, green and blue, and what is added. Gray is that of Pillow (ITU-R 601-2).
LETTERS = {
    "R": ((1.0, 0.0, 0.0), 0.0),
    "G": ((0.0, 1.0, 0.0), 0.0),
    "B": ((0.0, 0.0, 1.0), 0.0),
    "L": ((0.299, 0.587, 0.114), 0.0),
    "A": ((0.0, 0.0, 0.0), 1.0),
}
BYTES = 255


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its images.

    Attributes:
        size: (height, width) in pixels that the network sees.
        resize: shorter side of an image before the center crop to `size`, in pixels.
        interpolation: "bilinear" or "bicubic", for that resize.
        mean: of every channel, subtracted from values in [0, 1]; one number stands for all.
        std: divided by after that. Where both are given for values in 0..255 (a mean of 127 and a standard deviation
            of 64), they are divided by 255.
        channels: what the network's channels are, one to four, a letter each: R, G, B, L (gray), A (opaque). "BGR",
            "L", "RGBA". With commas between them for a network of several images, "RGB,L". Every second one gets its
            image mirrored, so that no two inputs are equal.

    Raises:
        InputError: for sizes below 1, a standard deviation that is not positive, a mean on another scale than the
            standard deviation, unknown channels, or another number of means than there are channels.

    Example:
        >>> Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3).resize
        256
    """

    size: tuple[int, int]
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "RGB"

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
        if not re.fullmatch(r"[RGBLA]{1,4}(,[RGBLA]{1,4})*", self.channels):
            raise InputError(
                f"the channels are {self.channels!r}: give one to four letters of R, G, B, L (gray) and A (opaque), as BGR"
            )
        for name in ("mean", "std"):
            values: tuple[float, ...] = getattr(self, name)
            values = values * self.count if len(values) == 1 else values
            if len(values) != self.count or not all(math.isfinite(value) for value in values):
                raise InputError(f"{name} is {values}: give one number, or one for each channel of {self.channels}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise InputError(f"std is {self.std}: each must be above 0")
        if max(*self.mean, *self.std) > 2:
            if min(self.std) < 1 or 0 < max(self.mean) <= 2:
                raise InputError(
                    f"mean {self.mean} and std {self.std}: give both for values in 0..255, or both in 0..1"
                )
            for name, values in (("mean", self.mean), ("std", self.std)):
                object.__setattr__(self, name, tuple(value / BYTES for value in values))

    @property
    def inputs(self) -> list[str]:
        """The channels of every image that the network takes."""
        return self.channels.split(",")

    @property
    def count(self) -> int:
        """How many channels there are in all."""
        return sum(map(len, self.inputs))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what `normalize` gives for an image."""
        return (self.count, *self.size)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn float RGB images in [0, 1], (N, 3, H, W), into what the network takes, (N, C, H, W).

        The channels of several inputs lie behind each other.

        Example:
            >>> Preprocess((2, 2), 2, "bilinear", (0.5,) * 3, (0.25,) * 3).normalize(torch.ones(1, 3, 2, 2)).max()
            tensor(2.)
        """
        mean, std = self._per_channel(images, self.mean, self.std)
        return (self._arranged(images) - mean) / std

    def levels(self) -> Tensor:
        """Return all that the network can get from 8-bit images: (C, 256), a row for each channel.

        Example:
            >>> Preprocess((2, 2), 2, "bilinear", (0.5,) * 3, (0.25,) * 3).levels().aminmax()
            torch.return_types.aminmax(
            min=tensor(-2.),
            max=tensor(2.))
        """
        pixels = (torch.arange(256) / BYTES).expand(self.count, 1, 256)
        mean, std = self._per_channel(pixels, self.mean, self.std)
        return ((pixels - mean) / std).squeeze(1)

    def denormalize(self, values: Tensor) -> Tensor:
        """Undo the normalization of red, green and blue, (N, 3, H, W): to RGB, in [0, 1] where they came from images.

        A color that the network has no channel for is taken for gray.
        """
        letters = self.channels.replace(",", "")
        places = [max(letters.find(color), letters.find("L") * (color not in letters), 0) for color in "RGB"]
        mean, std = self._per_channel(values, *([of[i] for i in places] for of in (self.mean, self.std)))
        return mean + std * values

    def _arranged(self, images: Tensor) -> Tensor:
        """The channels of all inputs, not normalized yet."""
        if self.channels == "RGB":
            return images
        parts = []
        for number, letters in enumerate(self.inputs):
            seen = images.flip(3) if number % 2 else images
            for letter in letters:
                shares, constant = LETTERS[letter]
                colors = [share * seen[:, i : i + 1] for i, share in enumerate(shares) if share]
                parts.append(sum(colors, torch.full_like(seen[:, :1], constant)))
        return torch.cat(parts, 1)

    @staticmethod
    def _per_channel(like: Tensor, *values: Sequence[float]) -> list[Tensor]:
        return [torch.tensor(v, dtype=like.dtype, device=like.device).view(-1, 1, 1) for v in values]

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Preprocess":
        """Rebuild it from its fields as JSON holds them, with lists for tuples."""
        return Preprocess(
            pair(data["size"]),
            int(data["resize"]),
            str(data["interpolation"]),
            numbers(data["mean"]),
            numbers(data["std"]),
            str(data["channels"]),
        )

    @staticmethod
    def of(
        size: int | Sequence[int],
        *,
        resize: int | None = None,
        interpolation: str = "bilinear",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: str = "RGB",
        range: int | None = None,
    ) -> "Preprocess":
        """Make one of what is said; ImageNet's mean and standard deviation stand for what is not.

        Args:
            size: (height, width), or one number for both.
            resize: shorter side before the center crop; `size` when not given.
            interpolation: "bilinear" or "bicubic".
            mean, std: per channel, or one number for all.
            channels: as above.
            range: 255 for a mean and a standard deviation of values in 0..255, of which 0 and 1 stand for what is not
                said: the network takes bytes. 1 for those of values in [0, 1].

        Example:
            >>> Preprocess.of(28, channels="L", range=255).normalize(torch.ones(1, 3, 28, 28)).max().round()
            tensor(255.)
        """
        high_wide = pair(size)
        scale = _scale(range)
        if range is not None:
            mean, std = (0.0 if mean is None else mean), (1.0 if std is None else std)
        letters = channels.replace(",", "")
        means = [_IMAGENET_MEAN.get(x, 0.0) for x in letters] if mean is None else [v / scale for v in numbers(mean)]
        stds = [_IMAGENET_STD.get(x, 1.0) for x in letters] if std is None else [v / scale for v in numbers(std)]
        return Preprocess(
            high_wide, min(high_wide) if resize is None else resize, interpolation, tuple(means), tuple(stds), channels
        )

    def complete(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is said of another network's images; its size, channels, mean and std are as here where it is not.

        Mean and std are of these channels alone, and of values in [0, 1].

        Args:
            said: arguments of `Preprocess.of`.

        Example:
            >>> sorted(IMAGENET.complete({"channels": "L", "size": 28}).items())
            [('channels', 'L'), ('size', 28)]
        """
        alike = said.get("channels", self.channels) == self.channels and "range" not in said
        mine = {"mean": self.mean, "std": self.std} if alike else {}
        return {"size": self.size, "channels": self.channels, **mine, **said}

    def override(
        self,
        *,
        size: int | Sequence[int] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: str | None = None,
        range: int | None = None,
    ) -> "Preprocess":
        """The same with some values replaced.

        A new size keeps the share that the crop takes. New channels keep the mean and the standard deviation that each
        color has, as far as it was there.

        Example:
            >>> base = Preprocess((224, 224), 256, "bilinear", (0.5,) * 3, (0.5,) * 3)
            >>> base.override(size=112).resize
            128
        """
        new_size = self.size if size is None else pair(size)
        if resize is None:
            resize = round(self.resize * min(new_size) / min(self.size))
        told = Preprocess.of(
            new_size, resize=resize, mean=mean, std=std, channels=channels or self.channels, range=range
        )
        kept = self._of_letters(told.channels)
        return Preprocess(
            new_size,
            resize,
            interpolation or self.interpolation,
            told.mean if kept is None or mean is not None or range is not None else kept[0],
            told.std if kept is None or std is not None or range is not None else kept[1],
            told.channels,
        )

    def _of_letters(self, channels: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of other channels, as far as they are known here."""
        known = self.channels.replace(",", "")
        if channels == self.channels:
            return self.mean, self.std
        letters = channels.replace(",", "")
        if not set(letters) <= set(known):
            return None
        return tuple(self.mean[known.find(x)] for x in letters), tuple(self.std[known.find(x)] for x in letters)


_IMAGENET_MEAN = {"R": 0.485, "G": 0.456, "B": 0.406, "L": 0.449}
_IMAGENET_STD = {"R": 0.229, "G": 0.224, "B": 0.225, "L": 0.226}

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


def numbers(values: float | Sequence[float]) -> tuple[float, ...]:
    """Return one number or several as a tuple.

    Example:
        >>> numbers(0.5), numbers([1, 2])
        ((0.5,), (1.0, 2.0))
    """
    return tuple(float(v) for v in ((values,) if isinstance(values, int | float) else values))


def _scale(range: int | None) -> int:
    if range not in (None, 1, BYTES):
        raise InputError(f"the range of pixels is {range}: give 1 or {BYTES}")
    return range or 1
