"""Layers: convolutions, matrix products, normalizations."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Variable
from ptq.models.onnx_import.windows import both_sides, crop, padded, padding_of

__all__ = ["LAYERS"]

CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS: Mapping[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _filled(layer: Any, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    if weight is not None:
        layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    assert isinstance(layer, nn.Module)
    return layer


def _convolution(op: Op) -> Variable:
    x, kernel = op.x, op.variable(1).shape[2:]
    strides, dilations = op.attribute("strides", [1] * len(kernel)), op.attribute("dilations", [1] * len(kernel))
    before, after = padding_of(op, x.shape[2:], kernel, strides, dilations)
    if before != after:
        x, before = padded(op, x, before, after), [0] * len(kernel)
    weight, bias, groups = op.weight(1), op.weight(2), op.attribute("group", 1)
    if weight is None or (bias is None and op.given(2) is not None):
        function = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
        return op.call(function, x, op.inputs[1], op.given(2), strides, before, dilations, groups)
    kind = CONVOLUTIONS[len(kernel) - 1]
    channels = (weight.shape[1] * groups, weight.shape[0])
    layer = kind(*channels, kernel, strides, before, dilations, groups, bias is not None, device="meta")
    return op.layer(_filled(layer, weight, bias), x)


def _transposed_convolution(op: Op) -> Variable:
    x, weight, bias, groups = op.x, op.weight(1), op.weight(2), op.attribute("group", 1)
    if weight is None or (bias is None and op.given(2) is not None):
        raise op.refusal("has a weight that the network computes")
    sizes, kernel = x.shape[2:], weight.shape[2:]
    count = len(kernel)
    strides, dilations = op.attribute("strides", [1] * count), op.attribute("dilations", [1] * count)
    extra = op.attribute("output_padding", [0] * count)
    whole = [s * (n - 1) + (k - 1) * d + 1 for s, n, k, d in zip(strides, sizes, kernel, dilations, strict=True)]
    wanted = op.attribute("output_shape")
    mode = op.attribute("auto_pad", "NOTSET")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [s * n for s, n in zip(strides, sizes, strict=True)]
    if wanted is None:
        before, after = both_sides(op.attribute("pads", [0] * 2 * count))
        after = [a - e for a, e in zip(after, extra, strict=True)]
    else:
        missing = [w - n for w, n in zip(whole, wanted[-count:], strict=True)]  # what is cut off
        before = [m // 2 if mode == "SAME_UPPER" else m - m // 2 for m in missing]
        after = [m - b for m, b in zip(missing, before, strict=True)]
    # torch cuts as much off on both sides, and adds at the end less than a stride.
    ends = [b - a for b, a in zip(before, after, strict=True)]
    largest = [max(s, d) for s, d in zip(strides, dilations, strict=True)]
    even = all(0 <= e < m and b >= 0 for e, m, b in zip(ends, largest, before, strict=True))
    channels = (weight.shape[0], weight.shape[1] * groups)
    padding = (before, ends) if even else ([0] * count, [0] * count)
    layer = TRANSPOSED[count - 1](
        *channels, kernel, strides, *padding, groups, bias is not None, dilations, device="meta"
    )
    y = op.layer(_filled(layer, weight, bias), x)
    return y if even else crop(op, y, before, after)


def _linear(op: Op, x: Variable, weight: Tensor, bias: Tensor | None) -> Variable:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return op.layer(_filled(layer, weight.contiguous(), bias), x)


def _gemm(op: Op) -> Variable:
    x, weight, bias = op.x, op.weight(1), op.weight(2)
    alpha, beta = op.attribute("alpha", 1.0), op.attribute("beta", 1.0)
    x = op.call(torch.transpose, x, 0, 1) if op.attribute("transA", 0) else x
    turned = op.attribute("transB", 0)
    if weight is None:
        other = op.call(torch.transpose, op.inputs[1], 0, 1) if turned else op.inputs[1]
        y = op.call(torch.matmul, x, other)
        y = op.call(torch.mul, y, alpha) if alpha != 1 else y
    else:
        matrix = alpha * (weight if turned else weight.T)
        outputs = matrix.shape[0]
        if bias is not None and bias.shape in ((outputs,), (1, outputs), (1,), (), (1, 1)):
            return _linear(op, x, matrix, (beta * bias).reshape(-1).expand(outputs).clone())
        y = _linear(op, x, matrix, None)
    if op.given(2) is None:
        return y
    return op.call(torch.add, y, op.inputs[2], **({} if beta == 1 else {"alpha": beta}))


def _matmul(op: Op) -> Variable:
    weight = op.weight(1)
    if weight is not None and weight.dim() == 2:
        return _linear(op, op.x, weight.T, None)
    return op.call(torch.matmul, op.inputs[0], op.inputs[1])


def _batch_norm(op: Op) -> Variable:
    if op.attribute("training_mode", 0) or any(output.uses() for output in op.node.outputs[1:]):
        raise op.refusal("computes with the statistics of the batch: export the network in eval mode")
    held = [op.weight(index) for index in range(1, 5)]
    x = op.x
    if any(value is None for value in held) or x.dim not in BATCH_NORMS:
        raise op.refusal("has no constant statistics")
    gain, shift, mean, variance = held
    assert mean is not None and variance is not None
    norm = BATCH_NORMS[x.dim](len(mean), op.attribute("epsilon", 1e-5))
    norm.running_mean, norm.running_var = mean, variance
    return op.layer(_filled(norm, gain, shift), x)


def _instance_norm(op: Op) -> Variable:
    channels = op.x.shape[1]
    norm = nn.GroupNorm(channels, channels, op.attribute("epsilon", 1e-5))
    return op.layer(_filled(norm, op.weight(1), op.weight(2)))


def _group_norm(op: Op) -> Variable:
    groups, channels = op.attribute("num_groups"), op.x.shape[1]
    held = [op.weight(index) for index in (1, 2)]
    # Before version 21 there was one number for each group.
    gain, shift = (v if v is None or len(v) == channels else v.repeat_interleave(channels // groups) for v in held)
    return op.layer(_filled(nn.GroupNorm(groups, channels, op.attribute("epsilon", 1e-5)), gain, shift))


def _layer_norm(op: Op) -> Variable:
    x, gain = op.x, op.weight(1)
    if gain is None or any(output.uses() for output in op.node.outputs[1:]):
        raise op.refusal("has a weight that the network computes, or gives its statistics")
    shape = x.shape[op.attribute("axis", -1) % x.dim :]
    shift = op.weight(2)
    norm = nn.LayerNorm(shape, op.attribute("epsilon", 1e-5), bias=shift is not None)
    return op.layer(_filled(norm, gain.expand(shape).clone(), None if shift is None else shift.expand(shape).clone()))


def _local_response_norm(op: Op) -> Variable:
    facts = [op.attribute("size"), op.attribute("alpha", 1e-4), op.attribute("beta", 0.75), op.attribute("bias", 1.0)]
    return op.call(F.local_response_norm, op.x, *facts)


def _lp_norm(op: Op) -> Variable:
    return op.call(F.normalize, op.x, float(op.attribute("p", 2)), op.attribute("axis", -1))


def _einsum(op: Op) -> Variable:
    return op.call(torch.einsum, op.attribute("equation"), *op.inputs)


LAYERS: Mapping[str, Converter] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "LRN": _local_response_norm,
    "LpNormalization": _lp_norm,
}
