"""Prove an exported file in onnxruntime: accuracy, agreement with the simulation, latency, size.

Nothing is believed because it was exported: every figure comes from running the file, with onnxruntime's
optimizations on (integer kernels) and off (every operator by itself), and a difference that should not
be there fails a check.
"""

import os
from collections.abc import Callable, Iterable, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ptq.config.choices import Runtime, check_choice
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError
from ptq.export import ort
from ptq.export.benchmark import measure_costs
from ptq.export.checks import Evidence, run_checks
from ptq.export.integer_reference import ExactComparison
from ptq.export.onnx_files import QuantizedFile
from ptq.export.openvino import open_openvino
from ptq.export.results import Validation
from ptq.export.stepwise import IMAGES, compare_stepwise
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.metrics import agreement, top1

__all__ = ["validate"]

Batch = tuple[Tensor, Tensor | None]
Network = Callable[[Tensor], Tensor]


def validate(
    path: Path | str,
    quantized_model: QuantizedModel | None,
    preprocess: Preprocess,
    batches: Iterable[Batch],
    *,
    reference: nn.Module | None = None,
    threads: int | None = None,
    runs: int = 30,
    tolerance: float = 1.0,
    float_path: Path | str | None = None,
    exact: bool = False,
    baseline: bool = True,
    runtimes: Sequence[str] = (),
    remedy: str = Evidence.remedy,
    progress: Progress = SILENT,
) -> Validation:
    """Run an exported file and compare it with the simulation and with float.

    Args:
        path: the ONNX file.
        quantized_model: what the file was exported from; without it there is no "simulated".
        preprocess: its `normalize` stands before the network.
        batches: of images, float32 (n, 3, H, W) RGB in [0, 1], and labels (n,) or None.
        reference: the float network; the quantized model's where it is not given.
        threads: of onnxruntime, for accuracy and latency; all processors where it is not given.
        runs: of each network for the latency, in turns; at least 30 for a median worth reporting.
        tolerance: points of top-1 (without labels, of agreement with float) by which optimized, unoptimized and
            simulated may differ before a check fails. One image out of few is always allowed.
        float_path: the float ONNX file that latency and size are compared with; written where it is not there yet.
        exact: compare the file with exact integer arithmetic, too, on up to 64 images; slow.
        baseline: compare latency with onnxruntime's quantize_static, too, where there is a float network.
        runtimes: others that shall run the file: "openvino".
        remedy: what to do where predictions are not those of float, in sentences; for the message.
        progress: told of every batch.

    Returns:
        The figures; `failed` names the checks that failed, and `raise_for_failure` raises for them.

    Raises:
        InputError: when there is no file or no image, or the file is another network's.
        ExportError: when the file cannot be run at all.
        MachineError: where one of `runtimes` is not installed.

    Example:
        >>> path = ptq.export_qdq(quantized_model, "model.onnx")
        >>> preprocess = ptq.Preprocess((16, 16), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)
        >>> batches = [(torch.rand(8, 3, 16, 16), None)]
        >>> found = validate(path, quantized_model, preprocess, batches, runs=3, baseline=False)
        >>> found.validated_on, found.disagreement
        (8, 0.0)
    """
    threads = os.cpu_count() or 1 if threads is None else threads
    if reference is None and quantized_model is not None and quantized_model.float_model is not None:
        reference = quantized_model.float_model.module
    file = QuantizedFile(path)
    for runtime in runtimes:
        check_choice(runtime, get_args(Runtime), "runtime")
    networks = _networks(path, threads, quantized_model, reference, runtimes)
    comparison = ExactComparison(path) if exact else None
    logits, labels, few = _run_all(networks, batches, preprocess, progress, comparison)
    if len({y.shape for y in logits.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(y.shape)}" for name, y in logits.items())
        raise InputError(f"{path} is another network's file: outputs are of {shapes}.")
    count = len(labels)
    known = bool((labels >= 0).all())
    scores = {name: top1(y, labels) for name, y in logits.items()} if known else {}
    agreements = {
        name: agreement(y, logits["float"]) for name, y in logits.items() if name != "float" and "float" in logits
    }
    disagreement = None
    if "simulated" in logits:
        disagreement = 100.0 - agreement(logits["simulated"], logits["onnx"])
    optimized = ort.optimized(path)
    float_layers = tuple(ort.float_layers(optimized))
    float_operators = tuple(ort.float_operators(optimized))
    costs = measure_costs(
        path,
        reference,
        few[:1].numpy(),
        threads=threads,
        runs=runs,
        float_path=float_path,
        baseline=baseline,
        runtimes=runtimes,
    )
    stepwise = None
    if quantized_model is not None:
        stepwise = partial(compare_stepwise, path, quantized_model, few, threads=threads)
    evidence = Evidence(
        file,
        quantized_model,
        float_layers=float_layers,
        float_operators=float_operators,
        logits=logits,
        top1=scores,
        tolerance=max(tolerance, 100.0 / count),
        exact=comparison.result() if comparison else None,
        stepwise=stepwise,
        latency_ms=costs.latency_ms,
        remedy=remedy,
    )
    return Validation(
        validated_on=count,
        top1=scores,
        agreement=agreements,
        disagreement=disagreement,
        exact=evidence.exact,
        latency_ms=costs.latency_ms,
        size_bytes=costs.size_bytes,
        format=file.metadata.get("ptq.format", ""),
        precise=not ort.exact_by_default(),
        float_layers=float_layers,
        float_operators=float_operators,
        unmeasured=costs.unmeasured,
        checks=run_checks(evidence),
    )


def _networks(
    path: Path | str,
    threads: int,
    quantized_model: QuantizedModel | None,
    reference: nn.Module | None,
    runtimes: Sequence[str],
) -> dict[str, Network]:
    networks: dict[str, Network] = {}
    if reference is not None:
        networks["float"] = reference.eval()
    if quantized_model is not None:
        networks["simulated"] = quantized_model.integer_forward
    networks["onnx"] = _from_session(ort.session(path, threads=threads))
    networks["onnx_unoptimized"] = _from_session(ort.session(path, threads=threads, optimize=False))
    if "openvino" in runtimes:
        compiled = open_openvino(path, threads)
        networks["openvino"] = lambda x: torch.from_numpy(compiled(x.numpy()))
    return networks


def _from_session(opened: Any) -> Network:
    return lambda x: torch.from_numpy(ort.run(opened, x.numpy()))


@torch.no_grad()
def _run_all(
    networks: dict[str, Network],
    batches: Iterable[Batch],
    preprocess: Preprocess,
    progress: Progress,
    comparison: ExactComparison | None,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return the logits of every network, the labels (-1 unknown) and a few normalized images."""
    logits: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: list[Tensor] = []
    few: Tensor | None = None
    total = len(batches) if isinstance(batches, Sized) else 0
    with progress.stage("validate", total) as task:
        for images, truth in batches:
            x = preprocess.normalize(images)
            for name, network in networks.items():
                logits[name].append(network(x).float())
            if comparison is not None:
                comparison.add(x, logits["onnx"][-1])
            labels.append(torch.full((len(x),), -1) if truth is None else truth)
            few = x[:IMAGES] if few is None else few
            task.advance()
    if few is None:
        raise InputError("there are no images to validate with.")
    return {name: torch.cat(parts) for name, parts in logits.items()}, torch.cat(labels), few
