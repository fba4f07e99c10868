"""Another shape for the same numbers, in which the number of images stays free.

Files that were written for one image say 1 for it, or what it is multiplied with. So it has to be found out which
dimension of the new shape grows with the batch.
"""

import math
from collections.abc import Sequence

import torch

from ptq.models.onnx_import.op import Op
from ptq.models.onnx_import.values import Variable

__all__ = ["reshape"]

Shape = tuple[int, ...]


def reshape(op: Op, x: Variable, targets: tuple[Sequence[int], Sequence[int]]) -> Variable:
    """Record another shape for the same numbers.

    Args:
        op: for what.
        x: any tensor.
        targets: shape for the batch and for the larger one; one number may be -1.

    Raises:
        ModelError: where the shape does not fit, or the images of a batch do not stay together.
    """
    sizes, larger = x.shapes
    first = _resolved(sizes, targets[0])
    if math.prod(first) != math.prod(sizes):
        raise op.refusal(f"makes {tuple(targets[0])} of {sizes}, which does not fit: check --size")
    grows = _grown(sizes, larger)
    if not grows:
        return op.call(torch.reshape, x, first)
    if len(grows) > 1:
        raise op.refusal("mixes the images of a batch")
    outer = math.prod(sizes[: grows[0]]) * op.builder.outside.get(x.node, 1)
    changed = _grown(first, _resolved(larger, targets[1]))
    told = list(targets[0]) != list(targets[1]) and len(changed) == 1
    at = changed[0] if told else _place(op, first, outer, sizes[grows[0] + 1 :], changed)
    if at is None:
        raise op.refusal("mixes the images of a batch")
    y = _around(op, x, grows[0], first, at) if at else op.call(torch.reshape, x, (-1, *first[1:]))
    op.builder.outside[y.node] = outer // math.prod(first[:at])
    return y


def _resolved(sizes: Shape, target: Sequence[int]) -> Shape:
    """A shape without -1; empty where it does not fit."""
    try:
        return tuple(torch.empty(sizes, device="meta").reshape(tuple(target)).shape)
    except RuntimeError:
        return ()


def _grown(small: Shape, large: Shape) -> list[int]:
    """The dimensions that grow with the batch."""
    return [at for at, (one, other) in enumerate(zip(small, large, strict=False)) if one != other]


def _place(op: Op, shape: Shape, outer: int, rest: Shape, changed: list[int]) -> int | None:
    """The dimension of a new shape that grows with the batch; None where there is none.

    Args:
        op: for what.
        shape: the new one.
        outer: how many numbers there are of what lies outside the images.
        rest: the shape before, behind the images.
        changed: the dimensions that would grow, taken by the word: that is believed where it may be.
    """
    before = [math.prod(shape[:at]) for at in range(len(shape))]
    inside = [at for at, n in enumerate(before) if outer % n == 0 and shape[at] % (outer // n) == 0]
    alone = [at for at in inside if before[at] == outer and shape[at] == op.builder.batches[0]]
    # Heads are split off what is inside, and the batch stays with them. Where nothing is split, rows become one.
    merged = [at for at in inside if math.prod(shape[at + 1 :]) == math.prod(rest) and len(shape) - at - 1 <= len(rest)]
    believed = [at for at in inside if changed == [at]]
    return next(iter((*alone, *merged, *believed, *reversed(inside))), None)


def _around(op: Op, x: Variable, grows: int, shape: Shape, at: int) -> Variable:
    """Record a shape in which not the first dimension grows: what is outside the images and what is inside, each by itself.

    A plain reshape with -1 there would say the same. But ptq takes it that images come first.
    """
    if (outside := op.builder.outside.get(x.node, 1)) > 1:
        x = op.call(torch.unflatten, x, grows, (outside, -1))
        grows += 1
    x = op.call(torch.flatten, x, 0, grows - 1) if grows else op.call(torch.unsqueeze, x, 0)
    x = op.call(torch.unsqueeze, x, -1) if x.dim == 2 else op.call(torch.flatten, x, 2)
    outer, inner = x.shape[0], x.shape[2]  # (outer, images, inner)
    before, behind = shape[:at], shape[at + 1 :]
    x = op.call(torch.unflatten, x, 2, (inner // math.prod(behind), *behind))
    x = op.call(torch.flatten, x, 1, 2)
    x = op.call(torch.unflatten, x, 0, (*before, outer // math.prod(before)))
    return op.call(torch.flatten, x, at, at + 1)
