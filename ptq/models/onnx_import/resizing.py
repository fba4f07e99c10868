"""Resize, once Upsample: along each dimension a matrix, which onnxruntime computes; torch's own functions where they have the same."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor
from torch.nn import functional as F

from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Variable, known

__all__ = ["RESIZING"]

ATTRIBUTES = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "antialias", "exclude_outside")
# What torch has, by the mode of the node: arguments of F.interpolate.
IN_TORCH: Mapping[str, tuple[dict[str, Any], ...]] = {
    "nearest": ({"mode": "nearest"}, {"mode": "nearest-exact"}),
    "linear": (
        {"mode": "bilinear", "align_corners": False},
        {"mode": "bilinear", "align_corners": True},
        {"mode": "bilinear", "align_corners": False, "antialias": True},
    ),
    "cubic": ({"mode": "bicubic", "align_corners": False}, {"mode": "bicubic", "align_corners": True}),
}
SAME = 1e-5
FIRST = 11  # version whose Resize takes sizes, and says which pixel lies where; before, there are scales alone


def _resize(op: Op) -> Variable:
    x = op.x
    if x.dim != 4:
        raise op.refusal(f"resizes a tensor of {x.dim} dimensions")
    for name, plain in (("keep_aspect_ratio_policy", "stretch"), ("extrapolation_value", 0.0)):
        if op.attribute(name, plain) != plain:
            raise op.refusal(f"has {name}")
    scales, sizes = _factors(op, x)
    if all(scale == 1 for scale in scales):
        return x
    matrices = [_matrix(op, x.shape[2 + at], scales[at], sizes[at]) for at in (0, 1)]
    size = tuple(len(matrix) for matrix in matrices)
    for options in IN_TORCH.get(op.attribute("mode", "nearest"), ()):
        if all(_same(matrix, options) for matrix in matrices):
            return op.call(F.interpolate, x, size=size, **options)
    if op.attribute("mode", "nearest") == "nearest":
        for at, matrix in enumerate(matrices, 2):
            x = op.call(torch.index_select, x, at, known(matrix.argmax(1)))
        return x
    # (H', H) (N, C, H, W) (W, W')
    x = op.call(torch.matmul, x, known(matrices[1].T.contiguous()))
    return op.call(torch.matmul, known(matrices[0]), x)


def _factors(op: Op, x: Variable) -> tuple[list[float], list[int | None]]:
    """Scales of height and width, and their sizes where these are given."""
    axes = [axis % 4 for axis in op.attribute("axes", [0, 1, 2, 3])]
    if op.version < FIRST:
        given = [None, op.given(1) or known(np.array(op.attribute("scales", []), np.float32))]
    else:
        given = [op.given(3), op.given(2)]
    found: dict[int, tuple[float, int | None]] = {}
    for value, is_size in zip(given, (True, False), strict=True):
        array = None if value is None else value.arrays[0] if hasattr(value, "arrays") else None
        if array is not None and array.size:
            for axis, number in zip(axes, array.reshape(-1), strict=True):
                found[axis] = (float(number) / x.shape[axis], int(number)) if is_size else (float(number), None)
            break
    else:
        raise op.refusal("has a size that the network computes")
    if any(abs(found.get(axis, (1.0, None))[0] - 1) > 1e-6 for axis in (0, 1)):
        raise op.refusal("resizes channels or images of a batch")
    pairs = [found.get(axis, (1.0, None)) for axis in (2, 3)]
    return [scale for scale, _ in pairs], [size for _, size in pairs]


def _matrix(op: Op, count: int, scale: float, size: int | None) -> Tensor:
    """What Resize does along one dimension, (after, before): what onnxruntime makes of a unit matrix."""
    if scale == 1:
        return torch.eye(count)
    attributes = {name: op.attribute(name) for name in ATTRIBUTES if op.attribute(name) is not None}
    version = op.version if op.version < FIRST else max(op.version, 13)  # whose Resize can leave inputs out
    kind, names = op.node.op_type, ["x", "", "", "sizes"] if size is not None else ["x", "", "scales"]
    if op.version < FIRST:
        names = ["x", "scales"] if op.given(1) is not None else ["x"]
        attributes |= {} if op.given(1) is not None else {"scales": [1, 1, 1, scale]}
    node = helper.make_node(kind, names, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, count, count])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    factors = (
        helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 1, scale])
        if size is None
        else helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, count, size])
    )
    graph = helper.make_graph([node], "resize", [x], [y], [factors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (resized,) = session.run(None, {"x": np.eye(count, dtype=np.float32)[None, None]})
    return torch.from_numpy(resized)[0, 0].T.contiguous()


def _same(matrix: Tensor, options: Mapping[str, Any]) -> bool:
    after, before = matrix.shape
    unit = torch.eye(before).reshape(1, before, before, 1)  # channels stay, the height is resized
    made = F.interpolate(unit, size=(after, 1), **options)
    return torch.allclose(made[0, :, :, 0].T, matrix, atol=SAME)


RESIZING: Mapping[str, Converter] = {"Resize": _resize, "Upsample": _resize}
