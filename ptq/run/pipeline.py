"""The whole road from a trained network to a validated ONNX file. Read `run` first.

Where there are several ranks, they share the images, the blocks and fine-tuning. All else the first does.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq.analysis.histograms import worst_layers
from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.config.bit_budget import bit_budget, check_budget, run_suffix
from ptq.config.flat_options import make_settings
from ptq.config.recipe_file import write_recipe
from ptq.config.settings import Settings
from ptq.data.preprocess import Preprocess
from ptq.export import export_float, export_qdq, validate
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.storage import save_quantized
from ptq.reporting.advice import remedy
from ptq.reporting.html.page import refresh
from ptq.reporting.report import Report
from ptq.reporting.report_files import write_report
from ptq.reporting.summary import summarize
from ptq.run.activation_bits import plan_activations
from ptq.run.allocation import Goal, find_widths, held_apart
from ptq.run.alternative import find_alternative
from ptq.run.evaluation import PICTURES, ValidationBatches, load_evaluation, own_metric
from ptq.run.inputs import (
    calibration_images,
    image_source,
    keep_images,
    load_network,
    load_teachers,
    load_verifier,
    own_network,
    reconstruct_config,
)
from ptq.run.placing import place_network, placed_settings
from ptq.run.planning import plan_by_images, plan_by_settings, prepare_network, warn_of_float_weights
from ptq.run.pruning import PRUNED, check_pruning, keep_pruned, prune_network
from ptq.run.run_directory import about_run, open_run
from ptq.run.tuning import Tuning, tune_to_goal, tune_to_size
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.device import use_device
from ptq.utils.environment import Stopwatch
from ptq.utils.files import run_folder
from ptq.utils.ranks import by_first, done_by_first, only_first, same_state
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
    seed = settings.execution.seed
    watch, device = Stopwatch(), use_device(settings.execution.device, settings.execution.threads)
    by_name = model is None
    with watch("load"):
        model = model or load_network(settings.model)
        teachers, verifier = load_teachers(settings.calibration), load_verifier(settings.calibration)
        evaluation, metric = load_evaluation(settings.evaluation, model), own_metric(settings.evaluation, model)
        graph_model = prepare_network(model, settings.quantization)
        plan = plan_by_settings(graph_model, settings.quantization)
        check_pruning(graph_model, settings, progress=progress)
        folder, store, widths = open_run(settings, model, teachers, graph_model, device, restart, say)
        warn_of_float_weights(graph_model, plan)
        # What cannot be written as ONNX is refused now, and not after all the work; validation measures this file, too.
        _export(graph_model, float_file)
    with watch("synthesize"):
        source = image_source(settings.calibration, settings.execution, model.preprocess)
        make = partial(calibration_images, model, source, teachers, verifier, device=device, progress=progress)
        _take_over(folder / "images.safetensors", widths, store)
        images = keep_images(folder, store, make)
    del teachers, verifier, make  # they are not needed any more, and may be large
    tuned_with, apart = held_apart(images, settings)
    about, original, pruning = about_run(settings, model, by_name), None, None
    if about["pruned"]:
        with watch("prune"):
            _take_over(folder / PRUNED, widths, store)
            inputs = _inputs(model, tuned_with)
            shrink = partial(prune_network, graph_model, inputs, settings, device, folder=folder, progress=progress)
            original, (graph_model, pruning) = graph_model, keep_pruned(folder, store, graph_model, about, shrink)
            del shrink, inputs
    many = mixed_copies(tuned_with, settings.calibration.mixed_copies, seed)
    graph_model.module.to(device)
    with watch("calibrate"):
        quantization = settings.quantization
        plan = by_first(lambda: plan_by_images(graph_model, quantization, _inputs(model, tuned_with), store))
    with watch("place"):
        stores = (store, widths) if bit_budget(settings.quantization) else (store,)
        known = None if about["pruned"] else float_file
        place = partial(place_network, graph_model, plan, settings, stores, float_path=known, progress=progress)
        plan = by_first(place)
    with watch("calibrate"):
        inputs = _inputs(model, many)
        ranges = partial(calibrate, inputs=inputs, preprocess=model.preprocess, seed=seed, progress=progress)
        if settings.quantization.act_bits == "auto":
            few = _inputs(model, tuned_with)
            choose = partial(plan_activations, graph_model, plan, settings.quantization, few, ranges, store)
            plan = by_first(partial(choose, progress=progress))
            del few, choose
        quantized_model = insert_quantizers(graph_model, plan)
        by_first(partial(_find_ranges, quantized_model, ranges, store))
        same_state(quantized_model.module)
        del inputs, ranges
    metadata, budget = _metadata(settings, images), bit_budget(settings.quantization)
    config = reconstruct_config(settings.reconstruction, settings.execution, model.preprocess.size)
    cache = partial(ActivationCache, settings.execution.memory_bytes(), folder, device)
    with_mixed, alone = partial(_inputs, model, many), partial(_inputs, model, tuned_with)
    tuning = Tuning(with_mixed, alone, config, cache, watch, progress)
    if budget is None:
        tuned = tuning(quantized_model, store)
    else:
        with watch("allocate bits"):
            measure = partial(find_widths, settings, quantized_model, alone(), widths, metadata, progress)
            only_first(measure)
            choices = measure()  # now there for all ranks
            for file in ("images.safetensors", *([PRUNED] if about["pruned"] else [])):
                by_first(partial(widths.vouch, folder / file))
        if max_bytes := settings.quantization.max_bytes():
            tuned = tune_to_size(tuning, quantized_model, choices, max_bytes, store)
        else:
            goal = Goal(settings, model, quantized_model, evaluation or apart or images)
            tuned = tune_to_goal(tuning, quantized_model, choices, goal, store)
    quantized_model = tuned.quantized_model
    with watch("compare with mixed bits"):
        seconds = sum(watch.seconds.values())
        compare = partial(find_alternative, settings, quantized_model, tuning.inputs(), metadata, seconds)
        alternative = only_first(compare)
    quantized_model.to(torch.device("cpu"))

    def finish() -> Report:
        save_quantized(quantized_model, folder / "quantized.safetensors", about)
        with watch("export"):
            export_qdq(quantized_model, folder / "model.onnx", metadata, format=settings.output.format)
        with watch("look at the worst layers"):
            layers = worst_layers(quantized_model, model.preprocess.normalize(images.floats(slice(4))))
        with watch("validate"):
            measured = validate(
                folder / "model.onnx",
                quantized_model,
                model.preprocess,
                ValidationBatches(evaluation, apart or images),
                original=None if original is None else original.module,
                threads=settings.execution.threads,
                float_path=float_file,
                remedy=remedy(settings, layers),
                metric=metric,
                pictures=folder / PICTURES,
                progress=progress,
            )
        report = summarize(
            settings,
            model,
            quantized_model,
            images,
            pruning,
            tuned.blocks,
            tuned.finetuning,
            measured,
            layers,
            watch,
            store.words(),
            tuned.allocation,
            alternative,
        )
        write_report(report, folder)
        write_recipe(placed_settings(settings, quantized_model.plan), folder)
        for name in ("inspect.md", "inspect.json", *(() if about["pruned"] else (PRUNED,))):
            (folder / name).unlink(missing_ok=True)  # of a network that was here before
        refresh(folder)
        store.discard()
        measured.raise_for_failure()
        return report

    return Run(quantized_model, images, by_first(finish), folder)


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
    teachers, verifier = load_teachers(settings.calibration), load_verifier(settings.calibration)
    source = image_source(settings.calibration, settings.execution, model.preprocess)
    make = partial(calibration_images, model, source, teachers, verifier, device=device, progress=progress)
    return keep_images(folder, WorkStore(), make)


@done_by_first
def _export(graph_model: GraphModel, path: Path) -> None:
    export_float(graph_model.module, path, graph_model.example(2))


@done_by_first
def _take_over(path: Path, widths: WorkStore, store: WorkStore) -> None:
    """Take what was made for another budget as finished."""
    if widths.vouches(path):
        store.vouch(path)


def _find_ranges(quantized_model: QuantizedModel, ranges: Callable[[QuantizedModel], object], store: WorkStore) -> None:
    """Calibrate, or take what was found before."""
    if store.restore("ranges", quantized_model.module) is None:
        ranges(quantized_model)
        store.save("ranges", quantized_model.module)


def _inputs(model: Model, images: CalibrationSet) -> Tensor:
    """Images as the network takes them; four bytes where they have one, so nobody keeps them."""
    return model.preprocess.normalize(images.floats())


def _metadata(settings: Settings, images: CalibrationSet) -> Mapping[str, str]:
    source = str(images.provenance.get("source", settings.calibration.images))
    return {"model": settings.model.name, "seed": str(settings.execution.seed), "images": source}
