"""The gates: what must hold of an exported file, each a question with sentences for an answer; none is good."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ptq.export.checks import QuantizedFile
from ptq.export.oracle import Oracle
from ptq.export.second_runtime import RUNTIMES
from ptq.figures import exactness_lines
from ptq.metrics import agreement, sqnr_db
from ptq.placement import Student

__all__ = ["Exactness", "deviation", "differences", "structure"]


EQUAL = 100.0  # dB; equal but for the rounding of float32 in the last layer


class Exactness:
    """Compares what onnxruntime gives with exact integer arithmetic."""

    IMAGES = 64
    NOISE = 1e-5  # of float operators, whose sums are in another order

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.images, self.differing, self.largest = 0, 0, 0.0

    def look(self, x: Tensor, given: Tensor) -> None:
        """Compare the outputs for some of the images `x`, as far as there were too few."""
        x = x[: max(0, self.IMAGES - self.images)]
        if len(x):
            expected, given = torch.from_numpy(self.oracle(x.numpy())), given[: len(x)]
            apart = (expected - given).abs()
            self.images += len(x)
            self.differing += int(apart.flatten(1).amax(1).gt(0).sum())
            self.largest = max(self.largest, float(apart.max() / expected.abs().max()))

    def figures(self) -> dict[str, float]:
        return {"images": self.images, "differing": self.differing, "largest": self.largest}

    def failed(self) -> list[str]:
        if self.largest <= self.NOISE:
            return []
        return [f"onnxruntime {line}." for line in exactness_lines(self.figures())]


def structure(
    file: QuantizedFile, student: Student | None, float_layers: Sequence[str]
) -> list[str]:
    """The gates on what the file says and on what onnxruntime made of it."""
    failed = []
    if wrong := file.wrong_bias_scales():
        failed.append(f"the bias scale is not scale_x * scale_w in {_some(wrong)}; export again.")
    if wrong := file.wrong_axes():
        failed.append(
            f"the scales of the weight lie along the wrong axis in {_some(wrong)}; export again."
        )
    allowed = set(file.unquantized())
    if student is not None:
        missing = len(student.plan.weights) - (len(file.layers()) - len(allowed))
        unread = sum(layer.input_quantizer is None for layer in student.layers().values())
        if missing > unread:
            failed.append(f"{missing} layers that the plan quantizes are float in the file.")
    if slow := [name for name in float_layers if name not in allowed]:
        failed.append(f"onnxruntime runs {_some(slow)} in float although quantized in the file.")
    return failed


def differences(logits: dict[str, Tensor], scores: dict[str, float], tolerance: float) -> list[str]:
    """The gates on results: what computes the same network must score the same.

    A score is top-1 or, without labels, how often a network predicts what the float one does. Without either,
    predictions are compared with each other.
    """
    measure = "top-1"
    if not scores and "float" in logits:
        measure = "agreement with float"
        scores = {name: agreement(y, logits["float"]) for name, y in logits.items()}
    failed = []
    for other in ("onnx_unoptimized", "simulated", *RUNTIMES):
        if other not in logits:
            continue
        if scores:
            apart = abs(scores["onnx"] - scores[other])
        else:
            measure, apart = "predictions", 100.0 - agreement(logits["onnx"], logits[other])
        if apart > tolerance:
            failed.append(
                f"{measure} of the optimized file and of {other.replace('_', ' ')} differ by "
                f"{apart:.2f} points (at most {tolerance:.2f})."
            )
    return failed


def deviation(logits: dict[str, Tensor]) -> list[str]:
    """The gate on numbers, for a file without float operators: the simulation computes the same integers."""
    if "simulated" not in logits:
        return []
    apart = sqnr_db(logits["simulated"], logits["onnx"])
    if apart >= EQUAL:
        return []
    return [
        f"outputs of the file and of the simulation differ, by noise {apart:.0f} dB below them, where both compute the "
        f"same integers (at least {EQUAL:.0f} dB); the file was changed, or onnxruntime has a kernel that ptq does not know."
    ]


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )
