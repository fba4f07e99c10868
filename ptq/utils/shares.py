"""What each rank does of something that has rows: of activations, which all have in the end, and of mini-batches, whose gradients add up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ptq.utils.ranks import rank, size, together

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Share", "add_up", "all_shares", "exchange", "share"]

CHUNK = 1 << 26  # bytes sent at a time


@dataclass(frozen=True)
class Share:
    """What one rank does of something that has rows.

    Args:
        rows: from the first to the last.
        count: how many rows there are in all.
        weight: what a mean over these rows counts in the mean over all; the weights of all ranks add up to 1.
    """

    rows: slice
    count: int
    weight: float


def share(count: int, step: int = 1) -> Share:
    """Return which of `count` rows this rank computes: whole steps, but at the end. Where there are too few steps, every rank computes all.

    Example:
        >>> share(32)
        Share(rows=slice(0, 32, None), count=32, weight=1.0)
    """
    return all_shares(count, step, size())[rank()]


def exchange(rows: Tensor, step: int = 1) -> None:
    """Fill the rows that other ranks have computed, as `share` says, with theirs.

    Args:
        rows: (N, ...), dense in memory with the rows outermost; the same shape on every rank.
        step: as `share` was given.
    """
    shares = all_shares(len(rows), step, size())
    if size() == 1 or shares[0] == shares[1]:
        return
    import torch
    from torch import distributed

    for source, each in enumerate(shares):
        part = rows[each.rows]
        if part.dim() == 4:
            part = part.permute(0, 2, 3, 1)  # as activations lie in memory
        for piece in part.view(-1).view(torch.uint8).split(CHUNK):
            together(partial(distributed.broadcast, piece, source))


def add_up(tensors: Sequence[Tensor]) -> None:
    """Put the sum over all ranks in the place of each tensor; all of one type, on one device."""
    if size() == 1 or not tensors:
        return
    import torch
    from torch import distributed

    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])  # one message
    together(lambda: distributed.all_reduce(flat))
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view(tensor.shape))


def all_shares(count: int, step: int, ranks: int) -> list[Share]:
    """Return what each of so many ranks computes of `count` rows, as `share` says it of one."""
    steps = -(-count // step)
    if steps < ranks:
        return [Share(slice(0, count), count, 1 / ranks)] * ranks
    ends = [min(count, number * steps // ranks * step) for number in range(ranks + 1)]
    return [Share(slice(low, high), count, (high - low) / count) for low, high in itertools.pairwise(ends)]
