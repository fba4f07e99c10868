"""Operators that make few numbers of many: sums, means, maxima along dimensions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ptq.models.onnx_import.layout import permute
from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Variable

__all__ = ["REDUCTIONS"]

Reduce = Callable[[Op, Variable, list[int], bool], Variable]


def _reduction(reduce: Reduce) -> Converter:
    def convert(op: Op) -> Variable:
        x, axes = op.x, op.numbers("axes", 1)
        keep = bool(op.attribute("keepdims", 1))
        if not axes and op.attribute("noop_with_empty_axes", 0):
            return x
        dims = sorted(axis % x.dim for axis in axes) if axes else list(range(x.dim))
        # Behind a change of order, as of images with their channels last, it goes over the tensor itself.
        source, order = op.builder.permutations.get(x.node, (x, tuple(range(x.dim))))
        left = [order[at] for at in range(x.dim) if at not in dims]
        mapped = sorted(order[at] for at in dims)
        if keep:
            return permute(op.builder, reduce(op, source, mapped, True), order)
        return reduce(op, source, mapped, False) if left == sorted(left) else reduce(op, x, dims, False)

    return convert


def _plain(function: Callable[..., Any]) -> Reduce:
    return lambda op, x, dims, keep: op.call(function, x, dims, keep)


def _product(op: Op, x: Variable, dims: Sequence[int], keep: bool) -> Variable:
    for dim in reversed(dims):
        x = op.call(torch.prod, x, dim, keep)
    return x


def _norm(order: int) -> Reduce:
    return lambda op, x, dims, keep: op.call(torch.linalg.vector_norm, x, order, dims, keep)


def _sum_of(function: Callable[..., Any]) -> Reduce:
    return lambda op, x, dims, keep: op.call(torch.sum, op.call(function, x), dims, keep)


def _log_sum(op: Op, x: Variable, dims: Sequence[int], keep: bool) -> Variable:
    return op.call(torch.log, op.call(torch.sum, x, dims, keep))


def _arg(function: Callable[..., Any]) -> Converter:
    def convert(op: Op) -> Variable:
        if op.attribute("select_last_index", 0):
            raise op.refusal("takes the last of equal maxima")
        return op.call(function, op.x, op.attribute("axis", 0), bool(op.attribute("keepdims", 1)))

    return convert


def _top_k(op: Op) -> list[Variable]:
    count = op.numbers("k", 1)
    assert count is not None
    largest = bool(op.attribute("largest", 1))
    return op.builder.items(op.call(torch.topk, op.x, count[0], op.attribute("axis", -1), largest))


def _cumulative_sum(op: Op) -> Variable:
    axis = op.numbers("axis", 1)
    if axis is None or op.attribute("exclusive", 0) or op.attribute("reverse", 0):
        raise op.refusal("goes backwards, or leaves numbers out")
    return op.call(torch.cumsum, op.x, axis[0])


REDUCTIONS: Mapping[str, Converter] = {
    "ReduceMean": _reduction(_plain(torch.mean)),
    "ReduceSum": _reduction(_plain(torch.sum)),
    "ReduceMax": _reduction(_plain(torch.amax)),
    "ReduceMin": _reduction(_plain(torch.amin)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(_norm(1)),
    "ReduceL2": _reduction(_norm(2)),
    "ReduceSumSquare": _reduction(_sum_of(torch.square)),
    "ReduceLogSum": _reduction(_log_sum),
    "ReduceLogSumExp": _reduction(_plain(torch.logsumexp)),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "TopK": _top_k,
    "CumSum": _cumulative_sum,
}
