"""Prove an exported file in onnxruntime: accuracy, agreement with the simulation, latency, size.

Nothing is believed because it was exported: every figure comes from running the file, with onnxruntime's
optimizations on (integer kernels) and off (every operator by itself), and a difference that should not
be there fails a check.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ptq.config.choices import Runtime, check_choice
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, PtqError
from ptq.export import ort
from ptq.export.benchmark import measure_costs
from ptq.export.checks import Evidence, run_checks
from ptq.export.comparison import Comparisons
from ptq.export.integer_reference import ExactComparison
from ptq.export.multiplications import float_share
from ptq.export.onnx_files import QuantizedFile
from ptq.export.openvino import open_openvino
from ptq.export.pictures import Pictures
from ptq.export.results import OWN_METRIC, Check, OutputFigures, Validation
from ptq.export.stepwise import IMAGES, compare_stepwise
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.outputs import SOLE, Output, named
from ptq.tasks.task import Task, find_task
from ptq.tasks.user_metric import UserMetric

__all__ = ["validate"]

Batch = tuple[Tensor, Tensor | None]
Network = Callable[[Tensor], list[Tensor]]
"""Its outputs for normalized images, in order."""


def validate(
    path: Path | str,
    quantized_model: QuantizedModel | None,
    preprocess: Preprocess,
    batches: Iterable[Batch],
    *,
    reference: nn.Module | None = None,
    original: nn.Module | None = None,
    threads: int | None = None,
    runs: int = 30,
    tolerance: float = 1.0,
    float_path: Path | str | None = None,
    exact: bool = False,
    baseline: bool = True,
    runtimes: Sequence[str] = (),
    remedy: str = Evidence.remedy,
    task: Task | str = "auto",
    metric: UserMetric | None = None,
    pictures: Path | None = None,
    progress: Progress = SILENT,
) -> Validation:
    """Run an exported file and compare it with the simulation and with float.

    Args:
        path: the ONNX file.
        quantized_model: what the file was exported from; without it there is no "simulated".
        preprocess: its `normalize` stands before the network.
        batches: of images, float32 (n, 3, H, W) RGB in [0, 1], and labels (n,) or None.
        reference: the float network; the quantized model's where it is not given.
        original: the float network before channels were removed: it is "float" then, and the smaller one "pruned".
        threads: of onnxruntime, for accuracy and latency; all processors where it is not given.
        runs: of each network for the latency, in turns; at least 30 for a median worth reporting.
        tolerance: points of top-1 (without labels, of agreement with float) by which optimized, unoptimized and
            simulated may differ before a check fails. One image out of few is always allowed.
        float_path: the float ONNX file that latency and size are compared with; written where it is not there yet.
        exact: compare the file with exact integer arithmetic, too, on up to 64 images; slow.
        baseline: compare latency with onnxruntime's quantize_static, too, where there is a float network.
        runtimes: others that shall run the file: "openvino".
        remedy: what to do where predictions are not those of float, in sentences; for the message.
        task: what the network is for, as `ptq.find_task` takes it; the quantized model says it by itself.
        metric: of the user's own, measured of float, simulation and file. Where it fails for one of them, a check fails.
        pictures: file to write dense outputs of float and file to, as pictures, where there are any.
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
    floats = {} if reference is None else {"float": reference}
    if reference is not None and original is not None:
        floats = {"float": original, "pruned": reference}
    networks = _networks(path, threads, quantized_model, floats, runtimes)
    comparison = ExactComparison(path) if exact else None
    known = quantized_model.task if quantized_model is not None else task
    outputs, few, drawn = _run_all(path, networks, batches, preprocess, progress, comparison, known)
    if pictures is not None:
        drawn.save(pictures)
    others = [name for name in outputs.names if name != "float" and "float" in outputs.names]
    disagreement = None
    if "simulated" in outputs.names:
        disagreement = 100.0 - outputs.agreement("simulated", "onnx")
    optimized = ort.optimized(path)
    float_layers = tuple(ort.float_layers(optimized))
    float_operators = tuple(ort.float_operators(optimized))
    costs = measure_costs(
        path,
        floats,
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
        outputs=outputs,
        tolerance=max(tolerance, 100.0 / outputs.images),
        exact=comparison.result() if comparison else None,
        stepwise=stepwise,
        latency_ms=costs.latency_ms,
        remedy=remedy,
    )
    metrics, own = ({}, ()) if metric is None else _metrics(metric, networks, preprocess, outputs.task)
    return Validation(
        validated_on=outputs.images,
        top1=outputs.top1,
        agreement={name: outputs.agreement(name, "float") for name in others},
        disagreement=disagreement,
        exact=evidence.exact,
        latency_ms=costs.latency_ms,
        size_bytes=costs.size_bytes,
        format=file.metadata.get("ptq.format", ""),
        precise=not ort.exact_by_default(),
        float_layers=float_layers,
        float_operators=float_operators,
        float_share=float_share(path),
        unmeasured=costs.unmeasured,
        checks=(*run_checks(evidence), *own),
        outputs=tuple(
            OutputFigures(
                output,
                kind,
                outputs.task.kind(output).agreement,
                {name: outputs.by_output(name, "float")[output] for name in others},
            )
            for output, kind in outputs.task.kinds.items()
        ),
        metrics=metrics,
    )


def _networks(
    path: Path | str,
    threads: int,
    quantized_model: QuantizedModel | None,
    floats: Mapping[str, nn.Module],
    runtimes: Sequence[str],
) -> dict[str, Network]:
    networks = {name: _from_module(module.eval()) for name, module in floats.items()}
    if quantized_model is not None:
        networks["simulated"] = _from_module(quantized_model.integer_forward)
    networks["onnx"] = _from_session(ort.session(path, threads=threads))
    networks["onnx_unoptimized"] = _from_session(ort.session(path, threads=threads, optimize=False))
    if "openvino" in runtimes:
        compiled = open_openvino(path, threads)
        networks["openvino"] = lambda x: [torch.from_numpy(y) for y in compiled(x.numpy())]
    return networks


def _from_module(network: Callable[[Tensor], Any]) -> Network:
    return lambda x: [y.float() if y.is_floating_point() else y for y in named(network(x)).values()]


def _from_session(opened: Any) -> Network:
    return lambda x: [torch.from_numpy(y) for y in ort.run_all(opened, x.numpy())]


_CALLED = {
    "float": "float network",
    "pruned": "pruned network",
    "simulated": "simulated integer network",
    "onnx": "file in onnxruntime",
}


@torch.no_grad()
def _run_all(
    path: Path | str,
    networks: dict[str, Network],
    batches: Iterable[Batch],
    preprocess: Preprocess,
    progress: Progress,
    exact: ExactComparison | None,
    task: Task | str,
) -> tuple[Comparisons, Tensor, Pictures]:
    """Return how the outputs of all networks compare, a few normalized images, and pictures of dense outputs."""
    found: Comparisons | None = None
    few: Tensor | None = None
    pictures = Pictures(Task({}))
    total = len(batches) if isinstance(batches, Sized) else 0
    with progress.stage("validate", total) as stage:
        for images, labels in batches:
            x = preprocess.normalize(images)
            outputs = {name: network(x) for name, network in networks.items()}
            if len({tuple(y.shape for y in ys) for ys in outputs.values()}) > 1:
                shapes = ", ".join(
                    f"{name} {' '.join(str(tuple(y.shape)) for y in ys)}" for name, ys in outputs.items()
                )
                raise InputError(f"{path} is another network's file: outputs are of {shapes}.")
            if found is None or few is None:
                few = x[:IMAGES]
                if isinstance(task, str):
                    task = find_task(_by_name(outputs["onnx"], ort.output_names(path)), tuple(x.shape[1:]), task)
                found, pictures = Comparisons(task), Pictures(task)
            by_name = {name: _by_name(ys, found.task.kinds) for name, ys in outputs.items()}
            found.add(by_name, labels)
            pictures.add(images, by_name)
            if exact is not None:
                exact.add(x, by_name["onnx"])
            stage.advance()
    if found is None or few is None:
        raise InputError("there are no images to validate with.")
    return found, few, pictures


def _metrics(
    metric: UserMetric, networks: Mapping[str, Network], preprocess: Preprocess, task: Task
) -> tuple[dict[str, dict[str, float]], tuple[Check, ...]]:
    """What the user's metric says of the networks, by name of the figure, and whether it works for all of them."""
    names = list(task.kinds)

    def predicting(network: Network) -> Callable[[Tensor], Output]:
        def predict(images: Tensor) -> Output:
            found = network(preprocess.normalize(images))
            return found[0] if names == [SOLE] else _by_name(found, names)

        return predict

    found: dict[str, dict[str, float]] = {}
    for name in ("float", "pruned", "simulated", "onnx"):
        if name not in networks:
            continue
        try:
            found[name] = metric.measure(predicting(networks[name]))
            if different := found[name].keys() ^ next(iter(found.values())).keys():
                raise InputError(
                    f"the metric {metric.reference} returned {', '.join(sorted(different))} for some networks only"
                )
        except PtqError as error:  # the float network it could measure before the run
            failure = (
                f"{error}, of the {_CALLED[name]}. The report has everything else; measure again with ptq validate."
            )
            return {}, (Check(OWN_METRIC, f"not of the {_CALLED[name]}", failure),)
    figures = {
        figure: {name: values[figure] for name, values in found.items()} for figure in next(iter(found.values()))
    }
    return figures, (Check(OWN_METRIC, f"of {len(found)} networks"),)


def _by_name(outputs: list[Tensor], names: Iterable[str]) -> Output:
    return dict(zip(names, outputs, strict=True))
