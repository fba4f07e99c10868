"""The stages of a run, each a function of what came before it: images, channels, codes and ranges, tuning, the file and its report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq.allocation.results import Alternative
from ptq.analysis.histograms import worst_layers
from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.dataset import CalibrationSet
from ptq.config.bit_budget import bit_budget
from ptq.config.recipe_file import write_recipe
from ptq.config.settings import Settings
from ptq.data.datasets import EvalSet
from ptq.errors import InputError
from ptq.export import export_qdq, validate
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import Progress
from ptq.pruning.results import PruneResult
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.quantization.storage import save_quantized
from ptq.reporting.advice import remedy
from ptq.reporting.html.page import refresh
from ptq.reporting.report import Report
from ptq.reporting.report_files import write_report
from ptq.reporting.summary import summarize
from ptq.run.activation_bits import plan_activations
from ptq.run.allocation import Goal, find_widths
from ptq.run.alternative import find_alternative
from ptq.run.evaluation import PICTURES, ValidationBatches
from ptq.run.inputs import IMAGES, calibration_images, image_source, keep_images, reconstruct_config
from ptq.run.placing import place_network, placed_settings
from ptq.run.planning import plan_by_images
from ptq.run.pruning import PRUNED, keep_pruned, prune_network
from ptq.run.tuning import Tuned, Tuning, tune_to_goal, tune_to_size
from ptq.tasks.user_metric import UserMetric
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.environment import Stopwatch
from ptq.utils.ranks import by_first, done_by_first, only_first, same_state
from ptq.utils.work_store import WorkStore

__all__ = ["Original", "Work", "compare_mixed", "finish", "make_images", "prune_channels", "quantize_network", "tune"]


@dataclass(frozen=True)
class Work:
    """What all stages of a run share.

    Args:
        settings: what to do.
        model: the network, as it came.
        device: to compute on.
        folder: the run directory.
        store: what is finished in there.
        widths: what runs with other budgets for bits have measured in there.
        about: what the run's files say of what they were made from.
        watch: of the stages.
        progress: told of every long one.
    """

    settings: Settings
    model: Model
    device: torch.device
    folder: Path
    store: WorkStore
    widths: WorkStore
    about: Mapping[str, Any]
    watch: Stopwatch
    progress: Progress

    @property
    def prunes(self) -> bool:
        """Whether channels are removed."""
        return bool(self.about["pruned"])

    @property
    def stores(self) -> tuple[WorkStore, ...]:
        """Where to keep what other budgets for bits can use, too."""
        return (self.store, self.widths) if bit_budget(self.settings.quantization) else (self.store,)

    def inputs(self, images: CalibrationSet) -> Tensor:
        """Return images as the network takes them; four bytes where they have one, so nobody keeps them."""
        return self.model.preprocess.normalize(images.floats())

    def metadata(self, images: CalibrationSet) -> Mapping[str, str]:
        """Return what the file says of itself."""
        settings = self.settings
        source = str(images.provenance.get("source", settings.calibration.images))
        return {"model": settings.model.name, "seed": str(settings.execution.seed), "images": source}


@dataclass(frozen=True)
class Original:
    """The float network that a file is compared with.

    Args:
        graph_model: before pruning; None where nothing was pruned.
        file: as ONNX.
        pruning: what was removed; None where nothing was.
    """

    graph_model: GraphModel | None
    file: Path
    pruning: PruneResult | None


def make_images(work: Work, teachers: Sequence[Model], verifier: Model | None) -> CalibrationSet:
    """Make the calibration images, or take those that are finished."""
    with work.watch("synthesize"):
        settings, model = work.settings, work.model
        source = image_source(settings.calibration, settings.execution, model.preprocess)
        make = partial(
            calibration_images, model, source, teachers, verifier, device=work.device, progress=work.progress
        )
        _take_over(work.folder / IMAGES, work.widths, work.store)
        return keep_images(work.folder, work.store, make)


def prune_channels(work: Work, graph_model: GraphModel, images: CalibrationSet) -> tuple[GraphModel, PruneResult]:
    """Remove channels and repair what is left, or take the network that is finished."""
    with work.watch("prune"):
        _take_over(work.folder / PRUNED, work.widths, work.store)
        shrink = partial(
            prune_network,
            graph_model,
            work.inputs(images),
            work.settings,
            work.device,
            folder=work.folder,
            progress=work.progress,
        )
        return keep_pruned(work.folder, work.store, graph_model, work.about, shrink)


def quantize_network(
    work: Work, graph_model: GraphModel, plan: QuantPlan, images: CalibrationSet, many: CalibrationSet, float_file: Path
) -> QuantizedModel:
    """Choose what computes in integers, and with how many bits, and find the ranges.

    Args:
        work: of the run.
        graph_model: the float network, on the device.
        plan: by the settings alone.
        images: to choose by.
        many: to find ranges with; copies that are mixed among them.
        float_file: the network before it was pruned, as ONNX.
    """
    settings, store = work.settings.quantization, work.store
    with work.watch("calibrate"):
        plan = by_first(lambda: plan_by_images(graph_model, settings, work.inputs(images), store))
    with work.watch("place"):
        known = None if work.prunes else float_file
        place = partial(place_network, graph_model, plan, work.settings, work.stores)
        plan = by_first(partial(place, float_path=known, progress=work.progress))
    with work.watch("calibrate"):
        ranges = partial(
            calibrate,
            inputs=work.inputs(many),
            preprocess=work.model.preprocess,
            seed=work.settings.execution.seed,
            progress=work.progress,
        )
        if settings.act_bits == "auto":
            choose = partial(plan_activations, graph_model, plan, settings, work.inputs(images), ranges, store)
            plan = by_first(partial(choose, progress=work.progress))
            del choose  # and the images that it holds
        quantized_model = insert_quantizers(graph_model, plan)
        by_first(partial(_find_ranges, quantized_model, ranges, store))
        same_state(quantized_model.module)
    return quantized_model


def tune(
    work: Work,
    quantized_model: QuantizedModel,
    images: CalibrationSet,
    many: CalibrationSet,
    apart: CalibrationSet | None,
    evaluation: EvalSet | None,
) -> Tuned:
    """Tune roundings and scales; where there is a budget for bits, choose them first.

    Args:
        work: of the run.
        quantized_model: calibrated.
        images: to tune with.
        many: to reconstruct with; copies that are mixed among them.
        apart: that nothing is tuned with, to judge by; None where nobody asks for them.
        evaluation: labeled images, to judge by what predictions are asked for; else `apart`.
    """
    settings, model = work.settings, work.model
    config = reconstruct_config(settings.reconstruction, settings.execution, model.preprocess.size)
    cache = partial(ActivationCache, settings.execution.memory_bytes(), work.folder, work.device)
    judging = partial(work.inputs, apart) if apart else None
    tuning = Tuning(
        partial(work.inputs, many), partial(work.inputs, images), judging, config, cache, work.watch, work.progress
    )
    if bit_budget(settings.quantization) is None:
        return tuning(quantized_model, work.store)
    with work.watch("allocate bits"):
        metadata, widths = work.metadata(images), work.widths
        measure = partial(find_widths, settings, quantized_model, tuning.inputs(), widths, metadata, work.progress)
        only_first(measure)
        choices = measure()  # now there for all ranks
        for file in (IMAGES, *([PRUNED] if work.prunes else [])):
            by_first(partial(widths.vouch, work.folder / file))
    try:
        if max_bytes := settings.quantization.max_bytes():
            return tune_to_size(tuning, quantized_model, choices, max_bytes, work.store)
        goal = Goal(settings, model, quantized_model, evaluation or apart or images)
        return tune_to_goal(tuning, quantized_model, choices, goal, work.store)
    except InputError:  # for a budget that cannot be met; what was done serves another one, and is kept for it
        by_first(work.store.discard)
        raise


def compare_mixed(work: Work, quantized_model: QuantizedModel, images: CalibrationSet) -> Alternative | None:
    """Find what mixed bits would hold in as many bytes, where the bits are uniform and there is time for it."""
    with work.watch("compare with mixed bits"):
        seconds = sum(work.watch.seconds.values())
        return only_first(
            lambda: find_alternative(
                work.settings, quantized_model, work.inputs(images), work.metadata(images), seconds
            )
        )


def finish(
    work: Work,
    tuned: Tuned,
    original: Original,
    images: CalibrationSet,
    batches: ValidationBatches,
    metric: UserMetric | None,
    alternative: Alternative | None,
) -> Report:
    """Write the file, measure it, and say what was found.

    Raises:
        ValidationError: for a file that fails a check. All files are there then, too.
    """
    settings, folder, quantized_model = work.settings, work.folder, tuned.quantized_model
    save_quantized(quantized_model, folder / "quantized.safetensors", work.about)
    with work.watch("export"):
        export_qdq(quantized_model, folder / "model.onnx", work.metadata(images), format=settings.output.format)
    with work.watch("look at the worst layers"):
        layers = worst_layers(quantized_model, work.model.preprocess.normalize(images.floats(slice(4))))
    with work.watch("validate"):
        measured = validate(
            folder / "model.onnx",
            quantized_model,
            work.model.preprocess,
            batches,
            original=None if original.graph_model is None else original.graph_model.module,
            threads=settings.execution.threads,
            float_path=original.file,
            remedy=remedy(settings, layers),
            metric=metric,
            pictures=folder / PICTURES,
            progress=work.progress,
        )
    report = summarize(
        settings,
        work.model,
        quantized_model,
        images,
        original.pruning,
        tuned.blocks,
        tuned.finetuning,
        measured,
        layers,
        work.watch,
        work.store.words(),
        tuned.allocation,
        alternative,
    )
    write_report(report, folder)
    write_recipe(placed_settings(settings, quantized_model.plan), folder)
    for name in ("inspect.md", "inspect.json", *(() if work.prunes else (PRUNED,))):
        (folder / name).unlink(missing_ok=True)  # of a network that was here before
    refresh(folder)
    work.store.discard()
    measured.raise_for_failure()
    return report


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
