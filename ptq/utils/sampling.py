"""Which of many are looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["evenly", "spread"]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the indices below `count`, evenly spread: of images of several teachers, some of each.

    Example:
        >>> spread(10, 4)
        [0, 2, 5, 7]
    """
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]


def evenly(values: Tensor, most: int) -> Tensor:
    """Return at most `most` of the rows of a tensor, evenly spread, the first and the last among them.

    Example:
        >>> evenly(torch.arange(10), 4)
        tensor([0, 3, 6, 9])
    """
    import torch  # pages pick images without it

    return values[torch.linspace(0, len(values) - 1, min(most, len(values))).round().long()]
