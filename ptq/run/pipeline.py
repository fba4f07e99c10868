"""The whole road from a trained network to a validated ONNX file. Read `run` first.

Where there are several ranks, they share the images, the blocks and fine-tuning. All else the first does.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.config.bit_budget import check_budget, run_suffix
from ptq.config.flat_options import make_settings
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.export import export_float
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reporting.report import Report
from ptq.run.allocation import held_apart
from ptq.run.evaluation import ValidationBatches, load_evaluation, own_metric
from ptq.run.inputs import (
    calibration_images,
    image_source,
    keep_images,
    load_network,
    load_teachers_and_verifier,
    own_network,
)
from ptq.run.planning import plan_by_settings, prepare_network, warn_of_float_weights
from ptq.run.pruning import check_pruning
from ptq.run.run_directory import about_run, open_run
from ptq.run.stages import Original, Work, compare_mixed, finish, make_images, prune_channels, quantize_network, tune
from ptq.utils.device import use_device
from ptq.utils.environment import Stopwatch
from ptq.utils.files import run_folder
from ptq.utils.ranks import by_first, done_by_first
from ptq.utils.work_store import WorkStore

__all__ = ["Run", "quantize", "run", "synthesize_images"]


@dataclass(frozen=True)
class Run:
    """What a run made.

    Args:
        quantized_model: the simulated integer network.
        images: what it was calibrated with.
        report: what it found out; report.json is it as JSON.
        folder: the run directory.
    """

    quantized_model: QuantizedModel
    images: CalibrationSet
    report: Report
    folder: Path


def run(
    settings: Settings,
    progress: Progress = SILENT,
    model: Model | None = None,
    *,
    restart: bool = False,
    say: Callable[[str], object] | None = None,
) -> Run:
    """Quantize a network and write the run directory.

    A run that was killed continues where it stopped, and ends bit for bit where it would have ended.

    Args:
        settings: what to do.
        progress: told of every long stage.
        model: the network, where it is not to be loaded by ``settings.model``.
        restart: discard an unfinished run in the run directory, in place of continuing it.
        say: told what an unfinished run in the run directory has done already.

    Raises:
        PtqError: whatever a user can act on, an unfinished run of other settings among it.
    """
    with tempfile.TemporaryDirectory(prefix="ptq-") as scratch:
        return _run(settings, progress, model, restart, say, Path(scratch) / "float.onnx")


def _run(
    settings: Settings,
    progress: Progress,
    model: Model | None,
    restart: bool,
    say: Callable[[str], object] | None,
    float_file: Path,
) -> Run:
    check_budget(settings)
    watch, device = Stopwatch(), use_device(settings.execution.device, settings.execution.threads)
    by_name = model is None
    with watch("load"):
        model = model or load_network(settings.model)
        teachers, verifier = load_teachers_and_verifier(settings.calibration, model)
        evaluation, metric = load_evaluation(settings.evaluation, model), own_metric(settings.evaluation, model)
        graph_model = prepare_network(model, settings.quantization)
        plan = plan_by_settings(graph_model, settings.quantization)
        check_pruning(graph_model, settings, progress=progress)
        folder, store, widths = open_run(settings, model, teachers, graph_model, device, restart, say)
        warn_of_float_weights(graph_model, plan)
        # What cannot be written as ONNX is refused now, and not after all the work; validation measures this file, too.
        _export(graph_model, float_file)
    about = about_run(settings, model, by_name)
    work = Work(settings, model, device, folder, store, widths, about, watch, progress)
    images = make_images(work, teachers, verifier)
    del teachers, verifier  # they are not needed any more, and may be large
    tuned_with, apart = held_apart(images, settings)
    original = Original(None, float_file, None)
    if work.prunes:
        whole = graph_model
        graph_model, pruning = prune_channels(work, whole, tuned_with)
        original = Original(whole, float_file, pruning)
    many = mixed_copies(tuned_with, settings.calibration.mixed_copies, settings.execution.seed)
    graph_model.module.to(device)
    quantized_model = quantize_network(work, graph_model, plan, tuned_with, many, float_file)
    tuned = tune(work, quantized_model, tuned_with, many, apart, evaluation)
    alternative = compare_mixed(work, tuned.quantized_model, tuned_with)
    tuned.quantized_model.to(torch.device("cpu"))
    batches = ValidationBatches(evaluation, apart or images)
    report = by_first(lambda: finish(work, tuned, original, images, batches, metric, alternative))
    return Run(tuned.quantized_model, images, report, folder)


def quantize(
    model: str | nn.Module | Model,
    bits: int = 8,
    *,
    progress: Progress = SILENT,
    preprocess: Preprocess | None = None,
    restart: bool = False,
    **options: Any,
) -> Run:
    """Quantize a network: the whole pipeline, from Python. The same call continues after a kill.

    Args:
        model: a name ("resnet50"), your own trained module, or a `Model`. It comes out untouched.
        bits: of the weights, 2..8; with a budget (max_size, min_agreement or max_drop) the most that a layer gets.
        progress: told of every long stage.
        preprocess: of your own module: size, mean and standard deviation; ImageNet's at 224 are assumed, with a
            warning, when not given.
        restart: discard an unfinished run in the run directory, in place of continuing it.
        options: act_bits, preset, data, out, seed, ...: those of the command line, with ``layers={"fc": None}`` for
            `--layer fc=float`, and ``settings={"reconstruction.iterations": 2000}`` for `--set`.

    Returns:
        The quantized model, the images, the report and the run directory.

    Raises:
        PtqError: whatever a user can act on.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> few = {"calibration.count": 4}
        >>> made = quantize(model, bits=4, images="noise", method="nearest", out="runs/mine", settings=few)
        >>> made.report.bits["stem_0"], (made.folder / "model.onnx").is_file()
        (8, True)
    """
    if isinstance(model, str):
        return run(make_settings(model, bits, **options), progress, restart=restart)
    model = own_network(model, preprocess, options)
    settings = make_settings(model.name, bits, **options)
    if "out" not in options:
        settings = replace(
            settings, output=replace(settings.output, folder=f"runs/{model.name}-{run_suffix(settings)}")
        )
    return run(settings, progress, model, restart=restart)


def synthesize_images(settings: Settings, progress: Progress = SILENT) -> CalibrationSet:
    """Write images.safetensors and images.png into the run directory, and nothing else."""
    folder = by_first(partial(run_folder, settings.output.folder))
    device = use_device(settings.execution.device, settings.execution.threads)
    model = load_network(settings.model)
    teachers, verifier = load_teachers_and_verifier(settings.calibration, model)
    source = image_source(settings.calibration, settings.execution, model.preprocess)
    make = partial(calibration_images, model, source, teachers, verifier, device=device, progress=progress)
    return keep_images(folder, WorkStore(), make)


@done_by_first
def _export(graph_model: GraphModel, path: Path) -> None:
    export_float(graph_model.module, path, graph_model.example(2))
