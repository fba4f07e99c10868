"""Operators that work number by number: arithmetic, activations, comparisons, casts."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ptq.models.onnx_import.layout import pointwise
from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Constant, Value, Variable, known

__all__ = ["ELEMENTWISE"]

BOUNDLESS = 1e37  # a bound of Clip beyond it is none


def _function(function: Callable[..., Any]) -> Converter:
    return lambda op: op.call(function, op.x)


def _activation(make: Callable[..., nn.Module], **attributes: float) -> Converter:
    """A module whose arguments are attributes of the node, in this order, with these defaults."""
    return lambda op: op.layer(make(*(op.attribute(name, default) for name, default in attributes.items())))


def _operand(value: Value, other: Value) -> Any:
    """A single number as a number, which every pass of ptq knows; else the value."""
    array = value.array if isinstance(value, Constant) else None
    if array is None or array.size != 1 or not isinstance(other, Variable) or array.ndim > other.dim:
        return value
    return array.item()


def _binary(function: Callable[..., Any]) -> Converter:
    def convert(op: Op) -> Variable:
        first, second = op.inputs
        assert first is not None and second is not None
        return op.call(function, _operand(first, second), _operand(second, first))

    return convert


def _variadic(function: Callable[..., Any]) -> Converter:
    """Operators of any number of inputs, taken two by two."""

    def convert(op: Op) -> Value:
        result, *others = op.inputs
        assert result is not None
        for other in others:
            assert other is not None
            result = op.call(function, result, other)
        return result

    return convert


def _mean(op: Op) -> Variable:
    total = _variadic(operator.add)(op)
    return op.call(operator.truediv, total, len(op.inputs))


def _divide(op: Op) -> Variable:
    if op.x.examples[0].is_floating_point():
        return _binary(operator.truediv)(op)  # type: ignore[return-value]
    return op.call(torch.div, op.inputs[0], op.inputs[1], rounding_mode="trunc")


def _mod(op: Op) -> Variable:
    return op.call(torch.fmod if op.attribute("fmod", 0) else torch.remainder, op.inputs[0], op.inputs[1])


def _clip(op: Op) -> Variable:
    bounds = [op.attribute("min"), op.attribute("max")]
    for index in (1, 2):
        if op.given(index) is not None:
            array = op.constant(index)
            if array is None:
                raise op.refusal("has a bound that the network computes")
            bounds[index - 1] = array.item()
    low, high = (None if bound is None or abs(bound) > BOUNDLESS else bound for bound in bounds)
    if low == 0 and high in (6, None):
        return op.layer(nn.ReLU6() if high == 6 else nn.ReLU())
    if low is None or high is None:
        return op.call(torch.clamp, op.x, low, high)
    return op.layer(nn.Hardtanh(low, high)) if low < high else op.call(torch.clamp, op.x, low, high)


def _prelu(op: Op) -> Variable:
    x, slope = op.x, op.weight(1)
    if slope is not None and (slope.numel() == 1 or _per_channel(slope, x)):
        layer = nn.PReLU(slope.numel())
        layer.weight = nn.Parameter(slope.reshape(-1), requires_grad=False)
        return op.layer(layer)
    negative = op.call(torch.lt, x, 0)
    return op.call(torch.where, negative, op.call(torch.mul, x, op.inputs[1]), x)


def _per_channel(slope: Tensor, x: Variable) -> bool:
    shape = (1,) * (x.dim - slope.dim()) + tuple(slope.shape)
    return x.dim > 1 and all(size == (x.shape[1] if at == 1 else 1) for at, size in enumerate(shape))


def _hard_sigmoid(op: Op) -> Variable:
    """clip(alpha x + beta, 0, 1), as torch's hard sigmoid of an affine map."""
    scale, shift = 6 * op.attribute("alpha", 0.2), 6 * op.attribute("beta", 0.5) - 3
    x = op.x
    if abs(scale - 1) > 1e-6:
        x = op.call(operator.mul, x, scale)
    if abs(shift) > 1e-6:
        x = op.call(operator.add, x, shift)
    return op.layer(nn.Hardsigmoid(), x)


def _gelu(op: Op) -> Variable:
    return op.layer(nn.GELU(op.attribute("approximate", "none")))


def _swish(op: Op) -> Variable:
    alpha = op.attribute("alpha", 1.0)
    if alpha == 1:
        return op.layer(nn.SiLU())
    return op.call(operator.mul, op.x, op.layer(nn.Sigmoid(), op.call(operator.mul, op.x, alpha)))


def _softmax(make: Callable[[int], nn.Module]) -> Converter:
    def convert(op: Op) -> Variable:
        x = op.x
        axis = op.attribute("axis", -1 if op.version >= 13 else 1) % x.dim
        if op.version >= 13 or axis == x.dim - 1:
            return op.layer(make(axis))
        # Before version 13 it went over all dimensions from the axis on.
        flat = op.call(torch.flatten, x, axis)
        return op.call(torch.unflatten, op.layer(make(-1), flat), axis, x.shape[axis:])

    return convert


def _where(op: Op) -> Variable:
    return op.call(torch.where, *op.inputs)


def _pow(op: Op) -> Variable:
    base, exponent = op.inputs
    assert base is not None and exponent is not None
    return op.call(torch.pow, _operand(base, exponent), _operand(exponent, base))


def _cast(op: Op) -> Variable:
    return _to(op, ir.DataType(op.attribute("to")))


def _cast_like(op: Op) -> Value:
    value, other = op.inputs
    assert value is not None and other is not None
    like = torch.from_numpy(np.empty(0, other.arrays[0].dtype)) if isinstance(other, Constant) else other.examples[0]
    if isinstance(value, Variable):
        return _converted(op, like.dtype)
    first, second = (array.astype(torch.empty(0, dtype=like.dtype).numpy().dtype) for array in value.arrays)
    return Constant((first, second))


def _to(op: Op, kind: ir.DataType) -> Variable:
    try:
        wanted = torch.from_numpy(np.empty(0, kind.numpy())).dtype
    except TypeError as error:
        raise op.refusal(f"casts to {kind.name}") from error
    wanted = torch.float32 if wanted.is_floating_point else wanted
    return _converted(op, wanted)


def _converted(op: Op, kind: torch.dtype) -> Variable:
    return op.x if op.x.examples[0].dtype == kind else op.builder.method("to", op.x, kind)


def _identity(op: Op) -> Value:
    value = op.inputs[0]
    assert value is not None
    return value


def _dropout(op: Op) -> tuple[Value, ...]:
    ones = np.ones(1, bool)
    return _identity(op), known(ones)


POINTWISE: Mapping[str, Converter] = {
    "Add": _binary(operator.add),
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Div": _divide,
    "Pow": _pow,
    "Mod": _mod,
    "Sum": _variadic(operator.add),
    "Max": _variadic(torch.maximum),
    "Min": _variadic(torch.minimum),
    "Mean": _mean,
    "Neg": _function(torch.neg),
    "Abs": _function(torch.abs),
    "Sign": _function(torch.sign),
    "Ceil": _function(torch.ceil),
    "Floor": _function(torch.floor),
    "Round": _function(torch.round),
    "Sqrt": _function(torch.sqrt),
    "Reciprocal": _function(torch.reciprocal),
    "Exp": _function(torch.exp),
    "Log": _function(torch.log),
    "Erf": _function(torch.erf),
    "Sin": _function(torch.sin),
    "Cos": _function(torch.cos),
    "Tan": _function(torch.tan),
    "Atan": _function(torch.atan),
    "Equal": _binary(torch.eq),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "And": _binary(torch.logical_and),
    "Or": _binary(torch.logical_or),
    "Xor": _binary(torch.logical_xor),
    "Not": _function(torch.logical_not),
    "IsNaN": _function(torch.isnan),
    "Where": _where,
    "Relu": _activation(nn.ReLU),
    "LeakyRelu": _activation(nn.LeakyReLU, alpha=0.01),
    "PRelu": _prelu,
    "Elu": _activation(nn.ELU, alpha=1.0),
    "Celu": _activation(nn.CELU, alpha=1.0),
    "Selu": _activation(nn.SELU),
    "ThresholdedRelu": lambda op: op.layer(nn.Threshold(op.attribute("alpha", 1.0), 0.0)),
    "Sigmoid": _activation(nn.Sigmoid),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation(nn.Hardswish),
    "Tanh": _activation(nn.Tanh),
    "Softplus": _activation(nn.Softplus),
    "Softsign": _activation(nn.Softsign),
    "Mish": _activation(nn.Mish),
    "Swish": _swish,
    "Gelu": _gelu,
    "Clip": _clip,
    "Cast": _cast,
}

ELEMENTWISE: Mapping[str, Converter] = {
    **{name: pointwise(convert) for name, convert in POINTWISE.items()},
    "CastLike": _cast_like,
    "Softmax": _softmax(nn.Softmax),
    "LogSoftmax": _softmax(nn.LogSoftmax),
    "Identity": _identity,
    "Dropout": _dropout,
}
