"""Small networks as plain data: steps that each read earlier tensors and append new ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["CLASSES", "Shape", "Spec", "Step", "images", "shapes_of"]

CLASSES = 5
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Step:
    """One operation.

    Args:
        kind: what is computed.
        reads: indices of tensors; the network's input is 0, every step appends what it gives.
        facts: what `kind` needs besides.
    """

    kind: str
    reads: tuple[int, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """A network as data.

    Args:
        shape: (C, H, W) of the input.
        steps: in order of computation.
        head: how the last tensor becomes (N, CLASSES): "pool", "mean", "flatten", "hidden" or "conv".
        seed: of the weights.
        gain: of the weights, over what keeps variances.
    """

    shape: Shape
    steps: tuple[Step, ...]
    head: str
    seed: int
    gain: float = 1.0


def images(spec: Spec, count: int, seed: int = 1) -> Tensor:
    """Return seeded numbers as normalized images (count, *spec.shape)."""
    return torch.randn(count, *spec.shape, generator=torch.Generator().manual_seed(seed))


def shapes_of(step: Step, shapes: list[Shape]) -> list[Shape]:
    """The shapes of what a step gives, one for each tensor that it appends."""
    facts = step.facts
    channels, height, width = shapes[step.reads[0]]
    outputs = facts.get("channels", channels)
    match step.kind:
        case "conv" | "functional" | "again":
            reach = facts["dilation"] * (facts["kernel"] - 1) + 1
            sides = ((s + 2 * facts["padding"] - reach) // facts["stride"] + 1 for s in (height, width))
            return [(outputs, next(sides), next(sides))]
        case "transposed":
            stride, less = (facts["stride"], facts["kernel"] - 2 * facts["padding"] + facts["stride"] - 1)
            return [(outputs, (height - 1) * stride + less, (width - 1) * stride + less)]
        case "cat":
            return [(sum(shapes[i][0] for i in step.reads), height, width)]
        case "chunk":
            return [(channels // 2, height, width)] * 2
        case "max" | "average":
            more = 2 * facts["padding"] - 2
            return [(channels, (height + more) // facts["stride"] + 1, (width + more) // facts["stride"] + 1)]
        case "global" | "mean":
            return [(channels, 1, 1)]
        case "same" | "last":
            return [(outputs, height, width)]
        case "cut":
            return [
                (
                    (channels - 1, height, width),
                    (-(-channels // 2), height, width),
                    (channels, height, width - 1),
                    (1, height, width),
                )[facts["spelling"]]
            ]
        case "add" | "multiply":
            other = shapes[step.reads[1]]
            return [(channels, max(height, other[1]), max(width, other[2]))]
        case "upsample":
            return [(channels, 2 * height, 2 * width)]
        case "pixel_shuffle":
            return [(channels // 4, 2 * height, 2 * width)]
        case "pad":
            left, right, top, bottom = facts["sides"]
            return [(channels, height + top + bottom, width + left + right)]
        case _:
            return [(channels, height, width)]
