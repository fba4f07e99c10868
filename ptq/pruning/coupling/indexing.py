"""Where in the arguments of an operation channels are counted: slices, and the sides of a padding."""

import operator
from collections.abc import Sequence

from torch import fx

from ptq.graph.fx_helpers import argument

__all__ = ["pad_sides", "slice_position", "slice_range", "with_item"]


def slice_position(index: object, dimensions: int, axis: int) -> int | None:
    """Return which item of an index ``x[index]`` speaks of dimension `axis`, of `dimensions`; None where none does.

    Example:
        >>> slice_position((..., slice(1, 3)), 4, 3), slice_position((slice(None), None, 0), 4, 1)
        (1, 2)
    """
    items = index if isinstance(index, tuple | list) else (index,)
    taken = sum(item is not None and item is not Ellipsis for item in items)
    at = 0
    for position, item in enumerate(items):
        if item is None:
            continue
        width = dimensions - taken if item is Ellipsis else 1
        if at <= axis < at + width:
            return None if item is Ellipsis else position
        at += width
    return None


def slice_range(node: fx.Node, shape: Sequence[int], axis: int) -> range | None:
    """Return which entries along dimension `axis` a getitem or narrow takes.

    Args:
        node: a call of either.
        shape: of the tensor that it reads.

    Returns:
        None where they have no order that removing some of them keeps: single ones, a list, every second one.
    """
    size = shape[axis]
    if node.target is operator.getitem:
        position = slice_position(node.args[1], len(shape), axis)
        if position is None:
            return range(size)
        items = node.args[1] if isinstance(node.args[1], tuple | list) else (node.args[1],)
        item = items[position]
        if not isinstance(item, slice) or item.step not in (None, 1):
            return None
        if any(not isinstance(end, int | None) for end in (item.start, item.stop)):
            return None
        return range(size)[item]
    dim, start, length = (argument(node, at, name) for at, name in ((1, "dim"), (2, "start"), (3, "length")))
    if dim % len(shape) != axis:
        return range(size)
    return range(start % size, start % size + length) if isinstance(start, int) else None


def with_item(index: object, position: int, item: slice) -> object:
    """Return an index with another item at a position.

    Example:
        >>> with_item((slice(None), slice(1, 4)), 1, slice(0, 2))
        (slice(None, None, None), slice(0, 2, None))
    """
    if not isinstance(index, tuple | list):
        return item
    return (*index[:position], item, *index[position + 1 :])


def pad_sides(sides: Sequence[int], dimensions: int, axis: int) -> tuple[int, int]:
    """Return how many entries `F.pad` puts before and behind those of dimension `axis`.

    Example:
        >>> pad_sides((1, 1, 2, 2, 3, 4), 4, 1), pad_sides((1, 1), 4, 1)
        ((3, 4), (0, 0))
    """
    at = 2 * (dimensions - 1 - axis)
    return (sides[at], sides[at + 1]) if len(sides) > at + 1 else (0, 0)
