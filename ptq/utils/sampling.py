"""Which of many are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["evenly", "every_so_many", "spread"]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices below `count`, evenly spread: of images of several teachers, some of each.

    Example:
        >>> spread(10, 4)
        [0, 2, 5, 7]
    """
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]


def every_so_many(count: int, every: int) -> Tensor:
    """Return a mask, bool (count,), that is true for every so many-th: what others are judged by. Of fewer it is the last.

    Example:
        >>> every_so_many(6, 3).tolist()
        [False, False, True, False, False, True]
    """
    import torch  # pages pick images without it

    every = min(every, count)
    return torch.arange(count) % every == every - 1


def evenly(values: Tensor, most: int) -> Tensor:
    """Return at most `most` of the rows of a tensor, evenly spread, the first and the last among them.

    Example:
        >>> evenly(torch.arange(10), 4)
        tensor([0, 3, 6, 9])
    """
    import torch

    return values[torch.linspace(0, len(values) - 1, min(most, len(values))).round().long()]
