"""Prove an exported file in onnxruntime: accuracy, agreement with the simulation, latency, size.

Nothing is believed because it was exported: every figure comes from running the file, with onnxruntime's
optimizations on (integer kernels) and off (every operator by itself), and a difference that should not
be there fails a gate.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptq.errors import PtqError
from ptq.export import runtime
from ptq.export.checks import QuantizedFile
from ptq.export.onnx_qdq import export_float
from ptq.export.oracle import Oracle
from ptq.figures import exactness_lines
from ptq.metrics import agreement, top1
from ptq.placement import Student
from ptq.preprocess import Preprocess
from ptq.progress import SILENT, Progress

__all__ = ["Validation", "validate"]

Batch = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Validation:
    """What was measured. Shares are percentages of the images; None where it could not be measured.

    Attributes:
        validated_on: how many images.
        top1: of "float", "simulated", "onnx" and "onnx_unoptimized"; empty without labels.
        agreement: of "simulated", "onnx" and "onnx_unoptimized" with float, as far as they were given.
        disagreement: images on which simulation and file name another class; None without simulation.
        exact: how the file compares with exact integer arithmetic (`ptq.export.oracle`): "images" compared, on how many
            any output is "differing", and the "largest" difference as a share of the largest output; None where
            that was not asked for.
        latency_ms: of "float" and "onnx", median at batch 1, and the "threads" it was measured with.
        size_bytes: of "float" and "onnx".
        format: of the file's weights, "packed" or "int8"; "" where the file does not say.
        precise: whether onnxruntime was asked for exact sums because its default ones saturate here.
        float_layers: layers that onnxruntime ran in float.
        failed: one sentence per gate that failed; empty is good.
    """

    validated_on: int
    top1: dict[str, float]
    agreement: dict[str, float]
    disagreement: float | None
    exact: dict[str, float] | None
    latency_ms: dict[str, float]
    size_bytes: dict[str, int]
    format: str
    precise: bool
    float_layers: tuple[str, ...]
    failed: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return asdict(self)

    def raise_for_failure(self) -> None:
        """Raise when a gate failed.

        Raises:
            PtqError: with one line per gate.
        """
        if self.failed:
            raise PtqError("the exported file failed validation:\n- " + "\n- ".join(self.failed))


def validate(
    path: Path | str,
    student: Student | None,
    preprocess: Preprocess,
    batches: Iterable[Batch],
    *,
    reference: nn.Module | None = None,
    threads: int | None = None,
    runs: int = 30,
    tolerance: float = 1.0,
    float_path: Path | str | None = None,
    exact: bool = False,
    progress: Progress = SILENT,
) -> Validation:
    """Run an exported file and compare it with the simulation and with float.

    Args:
        path: the ONNX file.
        student: what the file was exported from; without it there is no "simulated".
        preprocess: its `normalize` stands before the network.
        batches: of images, float32 (n, 3, H, W) RGB in [0, 1], and labels (n,) or None.
        reference: the float network; the student's where it is not given.
        threads: of onnxruntime, for accuracy and latency; all processors where it is not given.
        runs: of each network for the latency, in turns; at least 30 for a median worth reporting.
        tolerance: points of top-1 (without labels, of agreement) by which optimized, unoptimized and
            simulated may differ before a gate fails. One image out of few is always allowed.
        float_path: keep the float ONNX file, that latency and size are compared with, here.
        exact: compare the file with exact integer arithmetic, too, on up to 64 images; slow.

    Returns:
        The figures; `failed` names the gates that failed, and `raise_for_failure` raises for them.

    Raises:
        PtqError: when there are no images, or the file cannot be run at all.

    Example:
        >>> data = load_eval("val", model.preprocess).batches(50)
        >>> validate("model.onnx", student, model.preprocess, data).failed
        ()
    """
    threads = os.cpu_count() or 1 if threads is None else threads
    if reference is None and student is not None:
        reference = student.prepared.module
    file = QuantizedFile(path)
    networks = _networks(path, threads, student, reference)
    judge = _Exactness(Oracle(path)) if exact else None
    logits, labels, image = _run_all(networks, batches, preprocess, progress, judge)
    count = len(labels)
    known = bool((labels >= 0).all())
    scores = {name: top1(y, labels) for name, y in logits.items()} if known else {}
    agreements = {
        name: agreement(y, logits["float"])
        for name, y in logits.items()
        if name != "float" and "float" in logits
    }
    disagreement = None
    if "simulated" in logits:
        disagreement = 100.0 - agreement(logits["simulated"], logits["onnx"])
    float_layers = tuple(runtime.float_layers(path))
    failed = [
        *_structure(file, student, float_layers),
        *_differences(logits, scores, max(tolerance, 100.0 / count)),
        *(judge.failed() if judge else ()),
    ]
    latency, size = _cost(path, reference, image, threads, runs, float_path)
    return Validation(
        validated_on=count,
        top1=scores,
        agreement=agreements,
        disagreement=disagreement,
        exact=judge.figures() if judge else None,
        latency_ms=latency,
        size_bytes=size,
        format=file.metadata.get("ptq.format", ""),
        precise=not runtime.exact_by_default(),
        float_layers=float_layers,
        failed=tuple(failed),
    )


Network = Callable[[Tensor], Tensor]


class _Exactness:
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


def _networks(
    path: Path | str, threads: int, student: Student | None, reference: nn.Module | None
) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    if reference is not None:
        networks["float"] = reference.eval()
    if student is not None:
        networks["simulated"] = student
    networks["onnx"] = _from_session(runtime.session(path, threads=threads))
    networks["onnx_unoptimized"] = _from_session(
        runtime.session(path, threads=threads, optimize=False)
    )
    return networks


def _from_session(opened: Any) -> Network:
    return lambda x: torch.from_numpy(runtime.run(opened, x.numpy()))


@torch.no_grad()
def _run_all(
    networks: dict[str, Network],
    batches: Iterable[Batch],
    preprocess: Preprocess,
    progress: Progress,
    judge: _Exactness | None,
) -> tuple[dict[str, Tensor], Tensor, NDArray[np.float32]]:
    """Return the logits of every network, the labels (-1 unknown) and one normalised image."""
    logits: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: list[Tensor] = []
    image: NDArray[np.float32] | None = None
    total = len(batches) if isinstance(batches, Sized) else 0
    with progress.stage("validate", total) as task:
        for images, truth in batches:
            x = preprocess.normalize(images)
            for name, network in networks.items():
                logits[name].append(network(x).float())
            if judge is not None:
                judge.look(x, logits["onnx"][-1])
            labels.append(torch.full((len(x),), -1) if truth is None else truth)
            image = x[:1].numpy() if image is None else image
            task.advance()
    if image is None:
        raise PtqError("there are no images to validate with.")
    return {name: torch.cat(parts) for name, parts in logits.items()}, torch.cat(labels), image


def _structure(
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


def _differences(
    logits: dict[str, Tensor], scores: dict[str, float], tolerance: float
) -> list[str]:
    """The gates on results: what computes the same network must score the same."""
    failed = []
    for other in ("onnx_unoptimized", "simulated"):
        if other not in logits:
            continue
        apart = (
            abs(scores["onnx"] - scores[other])
            if scores
            else 100.0 - agreement(logits["onnx"], logits[other])
        )
        if apart > tolerance:
            measure = "top-1" if scores else "predictions"
            failed.append(
                f"{measure} of the optimized file and of {other.replace('_', ' ')} differ by "
                f"{apart:.2f} points (at most {tolerance:.2f})."
            )
    return failed


def _cost(
    path: Path | str,
    reference: nn.Module | None,
    image: NDArray[np.float32],
    threads: int,
    runs: int,
    float_path: Path | str | None,
) -> tuple[dict[str, float], dict[str, int]]:
    """Latency at batch 1 and size of the file, and of the float network's."""
    with tempfile.TemporaryDirectory() as folder:
        files = {"onnx": Path(path)}
        if reference is not None:
            example = torch.from_numpy(image).repeat(2, 1, 1, 1)
            target = Path(folder) / "float.onnx" if float_path is None else Path(float_path)
            files = {"float": export_float(reference, target, example), **files}
        opened = {name: runtime.session(one, threads=threads) for name, one in files.items()}
        latency = {**runtime.latencies(opened, image, runs), "threads": threads}
        return latency, {name: one.stat().st_size for name, one in files.items()}


def _some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )
