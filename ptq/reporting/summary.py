"""Everything a run found out, put together as its report."""

from dataclasses import asdict
from typing import Any

from ptq.allocation.results import Allocation, Alternative
from ptq.analysis.distributions import LayerDistribution
from ptq.calibration import CalibrationSet
from ptq.config.bit_budget import bit_budget
from ptq.config.flat_options import command, flag
from ptq.config.settings import Settings
from ptq.data.class_names import label_names
from ptq.export.packing import CONTAINERS, supported
from ptq.export.results import Validation
from ptq.models.model import Model
from ptq.pruning.results import PruneResult
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.kernels import fused_cpu
from ptq.reconstruction.results import BlockResult, FinetuneResult
from ptq.reporting.bits import alternative_lines
from ptq.reporting.facts import ImageFacts, ModelFacts, Preprocessing
from ptq.reporting.report import CachePeak, Report
from ptq.utils.environment import Stopwatch, library_versions, peak_memory_bytes, this_machine
from ptq.utils.units import file_size_text, number_text, percent_text

__all__ = ["run_facts", "summarize"]


def run_facts(
    settings: Settings,
    model: Model,
    images: CalibrationSet,
    measured: Validation,
    watch: Stopwatch,
    namer: Model | None = None,
) -> dict[str, Any]:
    """Return the fields of `RunFacts`, which every kind of run knows.

    Args:
        settings: of the run.
        model: the network of the file.
        images: that decided it.
        measured: of the file.
        watch: of the run.
        namer: knows the names of the images' classes; the network itself when None.
    """
    namer = namer or model
    names = label_names(images.labels.tolist(), namer.classes, namer.sha256, images.provenance)
    return {
        "model": ModelFacts(model.name, model.weights_source, model.sha256, Preprocessing(**asdict(model.preprocess))),
        "validation": measured,
        "images": ImageFacts.from_json({"count": len(images), "names": names, **images.provenance}),
        "seconds": watch.seconds,
        "settings": settings,
        "versions": library_versions(),
        "machine": this_machine(),
    }


def summarize(
    settings: Settings,
    model: Model,
    quantized_model: QuantizedModel,
    images: CalibrationSet,
    pruning: PruneResult | None,
    blocks: list[BlockResult],
    tuned: FinetuneResult | None,
    measured: Validation,
    layers: list[LayerDistribution],
    watch: Stopwatch,
    before: str = "",
    allocation: Allocation | None = None,
    alternative: Alternative | None = None,
) -> Report:
    """Return the report of a run.

    Args:
        pruning: what was removed before quantization; None where nothing was.
        layers: those that lose most.
        before: what an interrupted run had done when this process began, in words.
        allocation: the bits that were chosen for a budget.
        alternative: what a file of the same size could hold.
    """
    return Report(
        **run_facts(settings, model, images, measured, watch),
        peak_rss_bytes=peak_memory_bytes(),
        peak_activations_bytes=CachePeak(
            memory=max((block.memory for block in blocks), default=0),
            disk=max((block.disk for block in blocks), default=0),
        ),
        blocks=tuple(blocks),
        pruning=pruning,
        finetuning=tuned,
        allocation=allocation,
        alternative=alternative,
        bits={name: spec.bits for name, spec in quantized_model.plan.weights.items()},
        activation_bits={name: spec.bits for name, spec in quantized_model.plan.activations.items()},
        notes=(
            *quantized_model.plan.notes,
            *_budget(settings, measured, allocation),
            *alternative_lines(alternative, quantized_model.task.unit),
            *_container(settings),
            *_compiler(blocks),
            *_saturation(quantized_model, measured),
            *_interruption(before),
        ),
        worst_layers=tuple(layers),
        command=command(settings),
        seed=settings.execution.seed,
    )


def _budget(settings: Settings, measured: Validation, allocation: Allocation | None) -> list[str]:
    """What was asked for, what the tuned file has, and whether a goal was missed."""
    budget = bit_budget(settings.quantization)
    if budget is None:
        return []
    name, value = budget
    asked = f"asked for {flag(f'quantization.{name}')} {value}"
    missed = allocation is not None and allocation.missed
    tail = ", which misses that: nothing that was tuned does better" if missed else ""
    if name == "max_size":
        return [f"{asked}: the file has {file_size_text(measured.size_bytes['onnx'])}"]
    on = f"on {measured.validated_on:,} images"
    if name == "min_agreement":
        on += "" if settings.evaluation.data else " made of those that nothing was tuned with"
        return [f"{asked}: the tuned file has {percent_text(measured.agreement['onnx'])} {on}{tail}"]
    drop = measured.top1["float"] - measured.top1["onnx"]
    return [f"{asked}: the tuned file loses {number_text(drop)} points {on}{tail}"]


def _container(settings: Settings) -> list[str]:
    """Why low-bit weights take a byte each, where nobody asked for that."""
    if settings.quantization.bits > CONTAINERS[-1].bits or settings.output.format is not None or supported():
        return []
    return ["weights lie in int8: the onnxruntime at hand does not run packed ones in integers"]


def _compiler(blocks: list[BlockResult]) -> list[str]:
    """Why reconstruction took longer than it has to."""
    if fused_cpu.available() or all(block.kept == "skipped" for block in blocks):
        return []
    return ["no C++ compiler was found (c++, or what CXX names): with one, reconstruction is faster on a CPU"]


def _saturation(quantized_model: QuantizedModel, measured: Validation) -> list[str]:
    """What somebody who deploys the file must know and cannot see in it."""
    if measured.precise and any(spec.bits == 8 for spec in quantized_model.plan.weights.values()):
        return [
            "this CPU has no VNNI: onnxruntime sums 8-bit weights wrongly here unless a session sets "
            "session.x64quantprecision to 1, as this validation did; --reduce-range avoids it and is faster"
        ]
    return []


def _interruption(before: str) -> list[str]:
    """What the times of a run that was continued do not tell."""
    if not before:
        return []
    return [f"continued after an interruption: the seconds of stages leave out what was done ({before})"]
