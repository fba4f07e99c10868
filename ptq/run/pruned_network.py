"""Pruning alone: a float network made smaller, as an ONNX file and as safetensors."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptq.calibration.dataset import CalibrationSet
from ptq.config.recipe_file import write_recipe
from ptq.config.settings import Settings
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.reporting.html.page import refresh
from ptq.reporting.pruning_report import PruneFacts, write_pruning
from ptq.reporting.summary import run_facts
from ptq.run.evaluation import ValidationBatches, load_evaluation, own_metric
from ptq.run.float_file import write_float_file
from ptq.run.inputs import calibration_images, image_source, keep_images, load_network, load_teachers_and_verifier
from ptq.run.planning import prepare_network
from ptq.run.pruning import check_pruning, keep_pruned, prune_network
from ptq.run.run_directory import about_run, open_run, refuse_quantized
from ptq.utils.device import use_device
from ptq.utils.environment import Stopwatch
from ptq.utils.ranks import by_first

__all__ = ["PrunedRun", "prune_model"]


@dataclass(frozen=True)
class PrunedRun:
    """What `prune_model` made.

    Args:
        graph_model: the pruned float network.
        facts: what is known of it.
        images: that decided it.
        folder: the run directory.
    """

    graph_model: GraphModel
    facts: PruneFacts
    images: CalibrationSet
    folder: Path


def prune_model(
    settings: Settings,
    progress: Progress = SILENT,
    model: Model | None = None,
    *,
    restart: bool = False,
    say: Callable[[str], object] | None = None,
) -> PrunedRun:
    """Prune a network and write it as a float ONNX file, pruned.onnx, and as pruned.safetensors, with a report.

    What was interrupted continues where it stopped.

    Args:
        settings: what to do; bits count where a latency is measured in int8.
        progress: told of every long stage.
        model: the network, where it is not to be loaded by ``settings.model``.
        restart: discard unfinished work in the run directory, in place of continuing it.
        say: told what unfinished work in the run directory has done already.

    Raises:
        PtqError: whatever a user can act on.
    """
    watch, device = Stopwatch(), use_device(settings.execution.device, settings.execution.threads)
    by_name = model is None
    with watch("load"):
        model = model or load_network(settings.model)
        teachers, verifier = load_teachers_and_verifier(settings.calibration, model)
        evaluation, metric = load_evaluation(settings.evaluation, model), own_metric(settings.evaluation, model)
        graph_model = prepare_network(model, settings.quantization)
        check_pruning(graph_model, settings, writes="float", progress=progress)
        refuse_quantized(Path(settings.output.folder))
        folder, store, _ = open_run(settings, model, teachers, graph_model, device, restart, say)
    with watch("images"):
        source = image_source(settings.calibration, settings.execution, model.preprocess)
        synthesize = partial(calibration_images, model, source, teachers, verifier, device=device, progress=progress)
        images = keep_images(folder, store, synthesize)
    with watch("prune"):
        inputs = model.preprocess.normalize(images.floats())
        make = partial(
            prune_network, graph_model, inputs, settings, device, folder=folder, writes="float", progress=progress
        )
        pruned, result = keep_pruned(folder, store, graph_model, about_run(settings, model, by_name), make)

    def finish() -> PruneFacts:
        measured = write_float_file(
            pruned,
            folder / "pruned.onnx",
            model,
            ValidationBatches(evaluation, images),
            watch,
            reference=graph_model.module,
            threads=settings.execution.threads,
            metric=metric,
            progress=progress,
        )
        facts = PruneFacts(**run_facts(settings, model, images, measured, watch), pruning=result)
        write_pruning(facts, folder)
        write_recipe(settings, folder, "prune")
        refresh(folder)
        store.discard()
        measured.raise_for_failure()
        return facts

    return PrunedRun(pruned, by_first(finish), images, folder)
