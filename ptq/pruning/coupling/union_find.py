"""Numbers that are joined into sets (union-find)."""

import torch
from torch import Tensor

__all__ = ["UnionFind"]


class UnionFind:
    """Numbers from 0, each in a set of its own until sets are joined.

    Example:
        >>> sets = UnionFind()
        >>> sets.join_rows(sets.new(4).reshape(2, 2))
        >>> sets.numbered()
        tensor([0, 0, 1, 1])
    """

    def __init__(self) -> None:
        self._parent: list[int] = []

    def new(self, count: int) -> Tensor:
        """Return `count` new numbers, int64."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return torch.arange(first, first + count)

    def join_rows(self, rows: Tensor) -> None:
        """Join all numbers of each row, (rows, columns)."""
        for row in rows.tolist():
            for other in set(row):
                self._parent[self._root(other)] = self._root(row[0])

    def numbered(self) -> Tensor:
        """Return the set of every number, int64, with sets counted from 0 in the order of their first numbers."""
        roots = [self._root(i) for i in range(len(self._parent))]
        number = {root: i for i, root in enumerate(dict.fromkeys(roots))}
        return torch.tensor([number[root] for root in roots], dtype=torch.int64)

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i
