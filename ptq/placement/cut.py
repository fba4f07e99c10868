"""The cheapest way to divide a network between integers and float: a minimum cut.

Every group of operators has a cost in integers and one in float, and a tensor that passes from one side to the other is
converted once: to codes where a group in integers reads what float wrote, back where a group in float reads codes. All
costs are at least 0, and a chain is cheaper on one side. So the sum is least at a minimum cut of a graph (Greig, Porteous
and Seheult 1989): the source's side computes in integers. An edge is cut when it leads from integers to float.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["Cost", "Tensor", "cheapest", "total"]

NANO = 1000  # capacities are whole numbers


@dataclass(frozen=True)
class Cost:
    """Microseconds in integers and in float; of a tensor, to turn it into codes and back."""

    integers: float
    floats: float


@dataclass(frozen=True)
class Tensor:
    """Who writes and reads a tensor that may be in codes.

    Args:
        writer: index of a group; None where it is written in float whatever groups do.
        readers: indices of groups.
        read_in_float: whether something reads it that has no integer kernel.
    """

    writer: int | None
    readers: tuple[int, ...]
    read_in_float: bool = False


def total(
    groups: Sequence[Cost | None], tensors: Sequence[tuple[Tensor, Cost]], in_float: set[int] | frozenset[int]
) -> float:
    """Return the microseconds of a network with some groups in float.

    Args:
        groups: their costs; None for one that stays in integers whatever it costs.
        tensors: with what their conversions cost.
        in_float: indices of groups.

    Example:
        >>> total([Cost(5, 9)], [(Tensor(None, (0,)), Cost(2, 1))], set()), total([Cost(5, 9)], [], {0})
        (7.0, 9.0)
    """
    found = sum(
        (cost.floats if index in in_float else cost.integers) for index, cost in enumerate(groups) if cost is not None
    )
    for tensor, cost in tensors:
        written = tensor.writer is not None and tensor.writer not in in_float
        codes = written or any(reader not in in_float for reader in tensor.readers)
        real = tensor.read_in_float or any(reader in in_float for reader in tensor.readers)
        found += cost.integers * (codes and not written) + cost.floats * (codes and real)
    return float(found)


def cheapest(groups: Sequence[Cost | None], tensors: Sequence[tuple[Tensor, Cost]]) -> frozenset[int]:
    """Return the indices of the groups that compute in float where a network is fastest.

    Args:
        groups: their costs; None for one that stays in integers.
        tensors: with what their conversions cost.

    Example:
        >>> chain = [(Tensor(None, (0,)), Cost(2, 2)), (Tensor(0, (1,)), Cost(2, 2)), (Tensor(1, (2,)), Cost(2, 2))]
        >>> sorted(cheapest([Cost(1, 9), Cost(6, 4), Cost(1, 9)], chain))  # two conversions cost more than they bring
        []
        >>> sorted(cheapest([Cost(1, 9), Cost(9, 4), Cost(1, 9)], chain))
        [1]
    """
    if not groups:
        return frozenset()
    source, sink, first = 0, 1, 2
    edges: dict[tuple[int, int], float] = {}

    def cut(start: int, end: int, cost: float) -> None:
        edges[start, end] = edges.get((start, end), 0.0) + cost

    never = 1.0 + sum(c.integers + c.floats for c in [*filter(None, groups), *(cost for _, cost in tensors)])
    for index, cost in enumerate(groups):
        if cost is None:
            cut(source, first + index, never)
        else:
            cut(source, first + index, cost.floats)  # paid where the group is on the other side
            cut(first + index, sink, cost.integers)
    for number, (tensor, cost) in enumerate(tensors):
        codes = first + len(groups) + 2 * number  # in integers: the tensor is in codes somewhere
        real = codes + 1  # in float: it is a real number somewhere
        writer = sink if tensor.writer is None else first + tensor.writer
        cut(codes, writer, cost.integers)
        cut(codes, real, cost.floats)
        if tensor.writer is not None:
            cut(writer, codes, never)
        for reader in tensor.readers:
            cut(first + reader, codes, never)
            cut(real, first + reader, never)
        if tensor.read_in_float:
            cut(real, sink, never)
    size = first + len(groups) + 2 * len(tensors)
    ends = np.array(list(edges)).T
    capacities = np.array([round(NANO * cost) for cost in edges.values()], np.int32)
    graph = csr_array((capacities, (ends[0], ends[1])), shape=(size, size))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    ours = set(breadth_first_order(left, source, return_predecessors=False).tolist())
    return frozenset(index for index in range(len(groups)) if first + index not in ours)
