"""What must hold of an exported file: of what it says, of what it computes, and of what onnxruntime made of it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ptq.export.check import Check
from ptq.export.file_checks import QuantizedFile
from ptq.export.integer_reference import IntegerReference
from ptq.export.openvino import RUNTIMES
from ptq.export.results import Exact
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.metrics import agreement, sqnr_db

__all__ = ["Exactness", "deviation", "differences", "structure"]


EQUAL = 100.0  # dB; equal but for the rounding of float32 in the last layer
_OTHERS = {
    "onnx_unoptimized": "as without onnxruntime's optimizations",
    "simulated": "as the simulation",
    **{name: f"in {name}" for name in RUNTIMES},
}
"""What is compared with the optimized file, and in words."""
_NAMES = {"onnx_unoptimized": "the unoptimized one", "simulated": "the simulation"}


class Exactness:
    """Compares what onnxruntime gives with exact integer arithmetic."""

    IMAGES = 64
    NOISE = 1e-5  # of float operators, whose sums are in another order

    def __init__(self, integer_reference: IntegerReference) -> None:
        self.integer_reference = integer_reference
        self.images, self.differing, self.largest = 0, 0, 0.0

    def look(self, x: Tensor, given: Tensor) -> None:
        """Compare the outputs for some of the images `x`, as far as there were too few."""
        x = x[: max(0, self.IMAGES - self.images)]
        if len(x):
            expected, given = torch.from_numpy(self.integer_reference(x.numpy())), given[: len(x)]
            apart = (expected - given).abs()
            self.images += len(x)
            self.differing += int(apart.flatten(1).amax(1).gt(0).sum())
            self.largest = max(self.largest, float(apart.max() / expected.abs().max()))

    def figures(self) -> Exact:
        """What was found so far."""
        return Exact(self.images, self.differing, self.largest)

    def check(self) -> Check:
        """Whether both give the same, but for the noise of float operators."""
        apart = f"outputs differ on {self.differing} of {self.images} images, by up to {100 * self.largest:.2g} %"
        failure = "" if self.largest <= self.NOISE else f"onnxruntime's and exact integer arithmetic's {apart}."
        return Check("exact integer arithmetic gives the same numbers", apart, failure)


def structure(file: QuantizedFile, quantized_model: QuantizedModel | None, float_layers: Sequence[str]) -> list[Check]:
    """The checks on what the file says and on what onnxruntime made of it."""
    total, allowed = len(file.layers()), set(file.unquantized())
    biases, axes = file.wrong_bias_scales(), file.wrong_axes()
    checks = [
        Check(
            "biases lie on the grid scale_x · scale_w",
            _in(total, len(biases)),
            f"the bias scale is not scale_x * scale_w in {_some(biases)}; export again." if biases else "",
        ),
        Check(
            "weight scales lie along the output channels",
            _in(total, len(axes)),
            f"the scales of the weight lie along the wrong axis in {_some(axes)}; export again." if axes else "",
        ),
    ]
    if quantized_model is not None:
        planned, quantized = len(quantized_model.plan.weights), total - len(allowed)
        missing = planned - quantized
        unread = sum(layer.input_quantizer is None for layer in quantized_model.layers().values())
        checks.append(
            Check(
                "the file quantizes the layers that the plan says",
                f"{quantized} in the file, {planned} planned",
                f"{missing} layers that the plan quantizes are float in the file." if missing > unread else "",
            )
        )
    # What onnxruntime fuses with a layer is written behind its name.
    slow = [n for n in float_layers if not any(n == a or n.startswith(f"{a}/") for a in allowed)]
    checks.append(
        Check(
            "onnxruntime runs every quantized layer in integers",
            f"{len(slow)} of {total - len(allowed)} quantized layers run in float",
            f"onnxruntime runs {_some(slow)} in float although quantized in the file." if slow else "",
        )
    )
    return checks


def differences(logits: dict[str, Tensor], scores: dict[str, float], tolerance: float) -> list[Check]:
    """The checks on results: what computes the same network must score the same.

    A score is top-1 or, without labels, how often a network predicts what the float one does. Without either,
    predictions are compared with each other.
    """
    measure = "top-1"
    if not scores and "float" in logits:
        measure = "agreement with float"
        scores = {name: agreement(y, logits["float"]) for name, y in logits.items()}
    checks = []
    for other in (name for name in _OTHERS if name in logits):
        if scores:
            apart = abs(scores["onnx"] - scores[other])
            measured = f"{measure} {scores['onnx']:.2f} and {scores[other]:.2f} %"
        else:
            measure, apart = "predictions", 100.0 - agreement(logits["onnx"], logits[other])
            measured = f"other predictions for {apart:.2f} % of the images"
        failure = (
            f"{measure} of the optimized file and of {_NAMES.get(other, other)} differ by "
            f"{apart:.2f} points (at most {tolerance:.2f})."
        )
        checks.append(
            Check(
                f"the file is as good {_OTHERS[other]}",
                f"{measured}; at most {tolerance:.2f} points apart",
                failure if apart > tolerance else "",
            )
        )
    return checks


def deviation(logits: dict[str, Tensor]) -> list[Check]:
    """The check on numbers, for a file without float operators: the simulation computes the same integers."""
    if "simulated" not in logits:
        return []
    apart = sqnr_db(logits["simulated"], logits["onnx"])
    failure = (
        f"outputs of the file and of the simulation differ, by noise {apart:.0f} dB below them, where both compute the "
        f"same integers (at least {EQUAL:.0f} dB); the file was changed, or onnxruntime has a kernel that ptq does not know."
    )
    measured = "no difference" if math.isinf(apart) else f"noise {apart:.0f} dB below them"
    return [
        Check(
            "the file gives the same numbers as the simulation",
            f"{measured}; at least {EQUAL:.0f} dB",
            failure if not apart >= EQUAL else "",
        )
    ]


def _in(total: int, wrong: int) -> str:
    return f"not in {wrong} of {total} layers" if wrong else f"in all {total} layers"


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
