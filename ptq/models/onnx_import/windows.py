"""Windows that move over an image: what lies beyond its border, and pools."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Variable, known

__all__ = ["POOLS", "both_sides", "crop", "padded", "padding_of"]

MAX_POOLS: tuple[Any, ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
GLOBAL_AVERAGES: tuple[Any, ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
GLOBAL_MAXIMA: tuple[Any, ...] = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)

Sides = tuple[list[int], list[int]]  # before and after, for each dimension


def both_sides(pads: Sequence[int]) -> Sides:
    """Take ONNX's list apart: all that comes before, then all that comes after."""
    half = len(pads) // 2
    return list(pads[:half]), list(pads[half:])


def padding_of(
    op: Op, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Sides:
    """Return how much is put around an image, be it stated or "same"."""
    mode = op.attribute("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return both_sides(op.attribute("pads", [0] * 2 * len(kernel)))
    totals = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def padded(op: Op, x: Variable, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Variable:
    """Record constants around the last dimensions; negative numbers cut off."""
    sides = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return op.call(F.pad, x, sides, **({"value": value} if value else {}))


def crop(op: Op, x: Variable, before: Sequence[int], after: Sequence[int]) -> Variable:
    """Record what cuts the last dimensions; negative numbers put zeros there."""
    x = padded(op, x, [max(-b, 0) for b in before], [max(-a, 0) for a in after]) if min(*before, *after) < 0 else x
    first = x.dim - len(before)
    for dim, (start, end) in enumerate(zip(before, after, strict=True), first):
        start, end = max(start, 0), max(end, 0)
        if start or end:
            x = op.call(torch.narrow, x, dim, start, x.shape[dim] - start - end)
    return x


def _window(op: Op) -> tuple[list[int], list[int], list[int], Sides]:
    kernel = op.attribute("kernel_shape")
    strides, dilations = op.attribute("strides", [1] * len(kernel)), op.attribute("dilations", [1] * len(kernel))
    return kernel, strides, dilations, padding_of(op, op.x.shape[2:], kernel, strides, dilations)


def _max_pool(op: Op) -> Variable:
    if any(output.uses() for output in op.node.outputs[1:]):
        raise op.refusal("gives the places of its maxima, too")
    kernel, strides, dilations, (before, after) = _window(op)
    x, kind = op.x, MAX_POOLS[len(kernel) - 1]
    ceil = bool(op.attribute("ceil_mode", 0))
    if before == after:
        return op.layer(kind(kernel, strides, before, dilations, ceil_mode=ceil))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = zip(x.shape[2:], before, after, reach, strides, strict=True)
    count = [((n + b + a - r + (s - 1) * ceil) // s) + 1 for n, b, a, r, s in sizes]
    # Where windows only reach further at the end, rounding up gives the same.
    plain = kind(kernel, strides, before, dilations, ceil_mode=True)
    if all(b <= k // 2 for b, k in zip(before, kernel, strict=True)):
        rounded = plain(torch.empty(x.shape, device="meta")).shape[2:]
        if list(rounded) == count:
            return op.layer(plain)
    # With as much on both sides there are windows too many, which are left out.
    most = [max(pair) for pair in zip(before, after, strict=True)]
    if set(strides) == {1} and not ceil and all(m <= k // 2 for m, k in zip(most, kernel, strict=True)):
        y = op.layer(kind(kernel, strides, most, dilations))
        return crop(op, y, *([m - side for m, side in zip(most, sides, strict=True)] for sides in (before, after)))
    lowest = float(torch.finfo(torch.float32).min)
    return op.layer(kind(kernel, strides, 0, dilations, ceil_mode=ceil), padded(op, x, before, after, lowest))


def _average_pool(op: Op) -> Variable:
    kernel, strides, dilations, (before, after) = _window(op)
    if set(dilations) != {1}:
        raise op.refusal("has dilations")
    x, kind, counted = op.x, AVERAGE_POOLS[len(kernel) - 1], bool(op.attribute("count_include_pad", 0))
    ceil = bool(op.attribute("ceil_mode", 0))
    if before == after and all(b <= k // 2 for b, k in zip(before, kernel, strict=True)):
        return op.layer(kind(kernel, strides, before, ceil, counted))
    y = op.layer(kind(kernel, strides, 0, ceil), padded(op, x, before, after))
    if counted:
        return y
    # The zeros around it do not count: each window's sum is divided by its pixels alone.
    ones = torch.ones(1, 1, *x.shape[2:])
    sides = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    share = kind(kernel, strides, 0, ceil)(F.pad(ones, sides))
    return op.call(torch.mul, y, known(1 / share))


def _global(kinds: Sequence[Any]) -> Converter:
    return lambda op: op.layer(kinds[op.x.dim - 3](1))


POOLS: Mapping[str, Converter] = {
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(GLOBAL_AVERAGES),
    "GlobalMaxPool": _global(GLOBAL_MAXIMA),
}
