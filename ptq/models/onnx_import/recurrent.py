"""Recurrent layers, as in networks that read lines of text. They compute in float."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ptq.models.onnx_import.layout import permute
from ptq.models.onnx_import.op import Converter, Op
from ptq.models.onnx_import.values import Constant, Variable

__all__ = ["RECURRENT"]

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
PLAIN = {"layout": 0, "clip": None, "input_forget": 0}
# ONNX's gates in torch's order, and the activations that torch has.
LSTM = ([0, 2, 3, 1], ["Sigmoid", "Tanh", "Tanh"])  # input, output, forget, cell
GRU = ([1, 0, 2], ["Sigmoid", "Tanh"])  # update, reset, new


def _layer(kind: Any, gates: Sequence[int], activations: Sequence[str]) -> Converter:
    def convert(op: Op) -> list[Variable]:
        x, weights = op.x, [op.weight(index) for index in (1, 2)]
        direction = op.attribute("direction", "forward")
        count = DIRECTIONS[direction]
        _refuse_unusual(op, kind, list(activations) * count)
        if x.dim != 3 or any(weight is None for weight in weights):
            raise op.refusal("has weights that the network computes")
        w, r = (weight for weight in weights if weight is not None)
        biases, size = op.weight(3), r.shape[2]
        layer = kind(x.shape[2], size, bias=biases is not None, batch_first=True, bidirectional=count == 2)
        for at, suffix in enumerate(("", "_reverse")[:count]):
            parts = {"weight_ih_l0": w[at], "weight_hh_l0": r[at]}
            if biases is not None:
                parts |= dict(zip(("bias_ih_l0", "bias_hh_l0"), biases[at].chunk(2), strict=True))
            for name, value in parts.items():
                blocks = value.chunk(len(gates))
                setattr(layer, f"{name}{suffix}", nn.Parameter(torch.cat([blocks[gate] for gate in gates])))
        rows = permute(op.builder, x, (1, 0, 2))  # images first, then what follows each other
        rows = op.call(torch.flip, rows, (1,)) if direction == "reverse" else rows
        y, *_ = op.builder.items(op.layer(layer, rows))
        y = op.call(torch.flip, y, (1,)) if direction == "reverse" else y
        apart = op.call(torch.unflatten, y, 2, (count, size))
        return [permute(op.builder, apart, (1, 2, 0, 3))]  # as ONNX has it: what follows, directions, images, numbers

    return convert


def _refuse_unusual(op: Op, kind: Any, activations: list[str]) -> None:
    """Torch has no other arithmetic, and what is read at the end can be read from all that comes before."""
    for name, plain in PLAIN.items():
        if op.attribute(name, plain) != plain:
            raise op.refusal(f"has {name}")
    if op.attribute("activations", activations) != activations:
        raise op.refusal("has other activation functions than torch")
    if kind is nn.GRU and not op.attribute("linear_before_reset", 0):
        raise op.refusal("multiplies before its product, unlike torch: export it with linear_before_reset")
    if any(not _zero(op, index) for index in (5, 6, 7)):
        raise op.refusal("begins with a state of its own")
    if any(output.uses() or output.is_graph_output() for output in op.node.outputs[1:]):
        raise op.refusal("gives its last state: export the network so that it reads the last of all outputs")


def _zero(op: Op, index: int) -> bool:
    value = op.given(index)
    return value is None or (isinstance(value, Constant) and not value.arrays[0].any())


RECURRENT: Mapping[str, Converter] = {"LSTM": _layer(nn.LSTM, *LSTM), "GRU": _layer(nn.GRU, *GRU)}
