"""The order of dimensions: what a file computes with channels last is computed with channels first.

A change of order is moved behind what works number by number, until another takes it back. So layers, the constants
behind them and averages over pixels meet in the form that ptq knows.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ptq.models.onnx_import.builder import GraphBuilder
from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Constant, Value, Variable

__all__ = ["common_order", "in_order", "permute", "pointwise"]


def permute(builder: GraphBuilder, x: Variable, order: Sequence[int]) -> Variable:
    """Record another order of dimensions; of several in a row one remains, or none."""
    source, before = builder.permutations.get(x.node, (x, tuple(range(x.dim))))
    order = tuple(before[at] for at in order)
    if order == tuple(range(x.dim)):
        return source
    y = builder.call(torch.permute, source, order)
    builder.permutations[y.node] = (source, order)
    return y


def common_order(builder: GraphBuilder, values: Sequence[Value | None]) -> tuple[int, ...] | None:
    """Return the order that all tensors were brought into; None where they were not, or not into the same."""
    orders = {builder.permutations.get(v.node, (v, None))[1] for v in values if isinstance(v, Variable)}
    return orders.pop() if len(orders) == 1 else None


def in_order(builder: GraphBuilder, values: Sequence[Variable]) -> list[Variable]:
    """Return tensors as they were before their order was changed."""
    return [builder.permutations[value.node][0] for value in values]


def pointwise(convert: Converter) -> Converter:
    """Return a converter that works on tensors as they were before their order was changed, and changes it behind."""

    def moved(op: Op) -> Value | Sequence[Value]:
        order = common_order(op.builder, op.inputs)
        if order is None:
            return convert(op)
        back = tuple(int(at) for at in np.argsort(order))
        op.inputs = [
            op.builder.permutations[value.node][0] if isinstance(value, Variable) else _turned(value, back)
            for value in op.inputs
        ]
        result = convert(op)
        return permute(op.builder, result, order) if isinstance(result, Variable) else result

    return moved


def _turned(constant: Constant | None, order: tuple[int, ...]) -> Constant | None:
    if constant is None or constant.arrays[0].size == 1 or constant.arrays[0].ndim > len(order):
        return constant
    whole = [array.reshape((1,) * (len(order) - array.ndim) + array.shape) for array in constant.arrays]
    first = whole[0].transpose(order)
    return Constant((first, first if constant.arrays[0] is constant.arrays[1] else whole[1].transpose(order)))
