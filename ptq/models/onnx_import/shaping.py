"""Operators that rearrange, select and repeat numbers."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ptq.models.onnx_import.layout import common_order, in_order, permute
from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.reshaping import reshape
from ptq.models.onnx_import.values import Constant, Variable, known
from ptq.models.onnx_import.windows import both_sides

__all__ = ["SHAPING"]


def _shape(op: Op) -> Constant:
    start, end = op.attribute("start", 0), op.attribute("end")
    first, second = (np.array(shape[start:end], np.int64) for shape in op.x.shapes)
    return Constant((first, second))


def _size(op: Op) -> Constant:
    first, second = (np.array(math.prod(shape), np.int64) for shape in op.x.shapes)
    return Constant((first, second))


def _reshape(op: Op) -> Variable:
    x, shapes = op.x, op.inputs[1]
    if not isinstance(shapes, Constant):
        raise op.refusal("has a shape that the network computes")
    keep = not op.attribute("allowzero", 0)
    targets = [
        [sizes[at] if n == 0 and keep else int(n) for at, n in enumerate(shape)]
        for sizes, shape in zip(x.shapes, shapes.arrays, strict=True)
    ]
    return reshape(op, x, (targets[0], targets[1]))


def _flatten(op: Op) -> Variable:
    x, axis = op.x, op.attribute("axis", 1)
    if axis == 1:
        return op.call(torch.flatten, x, 1)
    first, second = ((math.prod(shape[:axis]), math.prod(shape[axis:])) for shape in x.shapes)
    return reshape(op, x, (first, second))


def _transpose(op: Op) -> Variable:
    x = op.x
    order = op.attribute("perm", list(reversed(range(x.dim))))
    return permute(op.builder, x, order)


def _squeeze(op: Op) -> Variable:
    x, axes = op.x, op.numbers("axes", 1)
    if axes is None:
        axes = [at for at, (small, large) in enumerate(zip(*x.shapes, strict=True)) if small == large == 1]
    for at in sorted((axis % x.dim for axis in axes), reverse=True):
        x = op.call(torch.squeeze, x, at)
    return x


def _unsqueeze(op: Op) -> Variable:
    x, axes = op.x, op.numbers("axes", 1) or []
    rank = x.dim + len(axes)
    for at in sorted(axis % rank for axis in axes):
        x = op.call(torch.unsqueeze, x, at)
    return x


def _expand(op: Op) -> Variable:
    x, shapes = op.x, op.inputs[1]
    if not isinstance(shapes, Constant):
        raise op.refusal("has a shape that the network computes")
    found = [torch.broadcast_shapes(s, tuple(map(int, t))) for s, t in zip(x.shapes, shapes.arrays, strict=True)]
    small, large = found
    offset = len(small) - x.dim
    sizes = [-1 if at >= offset and n == x.shape[at - offset] else n for at, n in enumerate(small)]
    if any(n != -1 and n != large[at] for at, n in enumerate(sizes)):
        raise op.refusal("repeats something for every image")
    return x if set(sizes) == {-1} else op.builder.method("expand", x, *sizes)


def _concat(op: Op) -> Variable:
    parts = [op.variable(index) for index in range(len(op.inputs))]
    axis = op.attribute("axis") % parts[0].dim
    batch = op.builder.batches[0]
    if axis and any(part.shapes[0][0] != part.shapes[1][0] for part in parts):
        # Written for one image, a file takes a class token as it is.
        parts = [
            op.builder.repeated(part) if part.shapes[0][0] == part.shapes[1][0] == batch else part for part in parts
        ]
    order = common_order(op.builder, parts)
    if order is None:
        return op.call(torch.cat, parts, axis)
    return permute(op.builder, op.call(torch.cat, in_order(op.builder, parts), order[axis]), order)


def _split(op: Op) -> list[Variable]:
    x, axis, sizes = op.x, op.attribute("axis", 0), op.numbers("split", 1)
    if sizes is None:
        count = op.attribute("num_outputs", len(op.node.outputs))
        whole = x.shape[axis]
        each = -(-whole // count)
        sizes = [min(each, whole - each * at) for at in range(count)]
    return op.builder.items(op.call(torch.split, x, sizes, axis))


def _slice(op: Op) -> Variable:
    x, starts, ends = op.x, op.numbers("starts", 1), op.numbers("ends", 2)
    assert starts is not None and ends is not None
    axes = op.numbers("axes", 3)
    axes = list(range(len(starts))) if axes is None else axes
    steps = op.numbers("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _cut(op, x, axis % x.dim, start, end, step)
    return x


def _cut(op: Op, x: Variable, axis: int, start: int, end: int, step: int) -> Variable:
    size = x.shape[axis]
    first, last, _ = slice(start, end, step).indices(size)
    if step < 0 and end < -size:
        last = -1  # as far as there is something
    taken = range(first, last, step)
    if len(taken) == size and step == 1:
        return x
    if x.shapes[0][axis] != x.shapes[1][axis]:
        raise op.refusal("takes some images of a batch")
    if step == 1:
        return op.call(torch.narrow, x, axis, first, len(taken))
    if step > 0:
        places: tuple[Any, ...] = (*[slice(None)] * axis, slice(first, last, step))
        return op.call(operator.getitem, x, places)
    if len(taken) == size:
        return op.call(torch.flip, x, (axis,))
    return op.call(torch.index_select, x, axis, known(np.array(taken)))


def _gather(op: Op) -> Variable:
    x, where = op.x, op.constant(1)
    axis = op.attribute("axis", 0) % x.dim
    if where is None or isinstance(op.inputs[0], Constant):
        raise op.refusal("takes numbers from where the network says")
    if where.ndim == 0:
        return op.call(torch.select, x, axis, int(where))
    y = op.call(torch.index_select, x, axis, known(where.reshape(-1).astype(np.int64) % x.shape[axis]))
    return y if where.ndim == 1 else op.call(torch.unflatten, y, axis, where.shape)


def _gather_elements(op: Op) -> Variable:
    return op.call(torch.gather, op.x, op.attribute("axis", 0), op.inputs[1])


def _tile(op: Op) -> Variable:
    repeats = op.numbers("repeats", 1)
    assert repeats is not None
    return op.call(torch.tile, op.x, repeats)


def _depth_to_space(op: Op) -> Variable:
    x, block = op.x, op.attribute("blocksize")
    if op.attribute("mode", "DCR") == "CRD":
        return op.layer(nn.PixelShuffle(block))
    _, channels, height, width = x.shape
    split = op.call(torch.unflatten, x, 1, (block, block, channels // block**2))
    turned = op.call(torch.permute, split, (0, 3, 4, 1, 5, 2))
    return op.call(torch.reshape, turned, (-1, channels // block**2, height * block, width * block))


def _space_to_depth(op: Op) -> Variable:
    x, block = op.x, op.attribute("blocksize")
    _, channels, height, width = x.shape
    split = op.call(torch.reshape, x, (-1, channels, height // block, block, width // block, block))
    turned = op.call(torch.permute, split, (0, 3, 5, 1, 2, 4))
    return op.call(torch.reshape, turned, (-1, channels * block**2, height // block, width // block))


def _pad(op: Op) -> Variable:
    x, pads, value = op.x, op.numbers("pads", 1), op.constant(2)
    assert pads is not None
    number = op.attribute("value", 0.0) if value is None or not value.size else float(value.item())
    before, after = both_sides(pads)
    axes = op.numbers("axes", 3)
    sides = {(axis % x.dim): (before[at], after[at]) for at, axis in enumerate(axes or range(x.dim))}
    kept = [sides.get(at, (0, 0)) for at in range(x.dim)]
    while kept and kept[0] == (0, 0):
        kept = kept[1:]
    if not kept:
        return x
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[
        op.attribute("mode", "constant")
    ]
    if mode != "constant":
        kept = [(0, 0)] * (x.dim - 2 - len(kept)) + kept  # torch wants all but the first two
    flat = [n for pair in reversed(kept) for n in pair]
    if mode == "constant":
        return op.call(F.pad, x, flat, **({"value": number} if number else {}))
    return op.call(F.pad, x, flat, mode)


SHAPING: Mapping[str, Converter] = {
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Pad": _pad,
}
