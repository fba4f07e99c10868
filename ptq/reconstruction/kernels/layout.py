"""How tensors lie in memory: kernels see vectors, and all of a call have to be in the same order."""

from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["aligned", "dense"]

LAYOUTS = (torch.contiguous_format, torch.channels_last)
T = TypeVar("T", Tensor, Tensor | None)


def dense(x: Tensor) -> Tensor:
    """`x`, copied where its memory has gaps or an order that no layout has."""
    return x if any(x.is_contiguous(memory_format=f) for f in _layouts(x)) else x.contiguous()


def aligned(t: T, like: Tensor) -> T:
    """`t` in the order in which `like`, which is dense, lies in memory; None stays None."""
    if t is None or any(_both(t, like, layout) for layout in _layouts(like)):
        return t
    return torch.empty_like(like, dtype=t.dtype).copy_(t)


def _both(t: Tensor, like: Tensor, layout: torch.memory_format) -> bool:
    return t.is_contiguous(memory_format=layout) and like.is_contiguous(memory_format=layout)


def _layouts(x: Tensor) -> tuple[torch.memory_format, ...]:
    return LAYOUTS if x.dim() == 4 else LAYOUTS[:1]
