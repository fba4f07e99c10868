"""Distillation alone: a network of the user's choice learns from others, and ends as weights and as a float ONNX file."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.disagreement import against
from ptq.calibration.synthesis import synthesize
from ptq.calibration.synthesis_config import is_small
from ptq.config.distillation_settings import DistillationSettings
from ptq.config.recipe_file import write_recipe
from ptq.config.settings import Settings, chosen
from ptq.data.datasets import EvalSet
from ptq.distillation.config import DistillConfig
from ptq.distillation.distillation import distill
from ptq.distillation.results import DistillResult
from ptq.distillation.teaching import check_student
from ptq.errors import InputError
from ptq.models.inputs import with_own_inputs
from ptq.models.model import Model, load_model
from ptq.progress import SILENT, Progress
from ptq.reporting.distillation_report import DistillFacts, write_distillation
from ptq.reporting.html.page import refresh
from ptq.reporting.summary import run_facts
from ptq.run.evaluation import ValidationBatches, load_evaluation
from ptq.run.fingerprint import decided_by
from ptq.run.float_file import write_float_file
from ptq.run.inputs import (
    ImageSource,
    calibration_images,
    image_source,
    keep_images,
    load_network,
    load_teachers_and_verifier,
    synthesis_teachers,
)
from ptq.run.planning import prepare_network
from ptq.run.run_directory import refuse_quantized, unfinished
from ptq.utils.device import use_device
from ptq.utils.environment import Stopwatch
from ptq.utils.files import run_folder
from ptq.utils.ranks import by_first, done_by_first
from ptq.utils.tensor_files import save_tensors
from ptq.utils.work_store import WorkStore

__all__ = ["DistilledRun", "distill_config", "distill_model", "load_student"]

MORE = 8  # times as many images as the preset makes for quantization: a network from scratch needs more than ranges do
ENOUGH = 50  # iterations of MixMix for small images: more take time away from learning (docs/measured/distillation.md)
ALL = 2**31  # of images at hand


@dataclass(frozen=True)
class DistilledRun:
    """What `distill_model` made.

    Args:
        student: the network that learned.
        facts: what is known of it.
        images: that it learned from.
        folder: the run directory.
    """

    student: Model
    facts: DistillFacts
    images: CalibrationSet
    folder: Path


def distill_config(settings: DistillationSettings, seed: int = 0) -> DistillConfig:
    """Return how a student learns: as `DistillConfig` says, but for what is set."""
    return DistillConfig(seed=seed, **chosen(settings))


def load_student(settings: DistillationSettings, teacher: Model, seed: int = 0) -> Model:
    """Load the student, for images of its teacher's size, and with its mean, standard deviation and channels where it has none of its own.

    Args:
        settings: its name and its weights.
        teacher: says how large images are, and how many classes there are.
        seed: of random weights.

    Raises:
        InputError: where no student is named, and for one with other classes.
        ModelError: for one that does not take images of that size, and for weights that do not fit.
    """
    if settings.student is None:
        raise InputError("which network shall learn? Give --student")
    weights = None if settings.student_weights is None else Path(settings.student_weights)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return load_model(
            settings.student,
            weights,
            pretrained=False,
            size=teacher.preprocess.size,
            resize=teacher.preprocess.resize,
            num_classes=teacher.num_classes,
            like=teacher.preprocess,
        )


def distill_model(
    settings: Settings,
    progress: Progress = SILENT,
    *,
    restart: bool = False,
    say: Callable[[str], object] | None = None,
) -> DistilledRun:
    """Teach a network what others say of images, and write weights.safetensors, student.onnx and a report.

    What was interrupted continues where it stopped.

    Args:
        settings: `model` is the teacher, `calibration.teachers` are more of them, `distillation` has the student.
        progress: told of every long stage.
        restart: discard unfinished work in the run directory, in place of continuing it.
        say: told what unfinished work in the run directory has done already.

    Raises:
        PtqError: whatever a user can act on.
    """
    watch, device = Stopwatch(), use_device(settings.execution.device, settings.execution.threads)
    seed, config = settings.execution.seed, distill_config(settings.distillation, settings.execution.seed)
    with watch("load"):
        teacher = load_network(settings.model)
        student = load_student(settings.distillation, teacher, seed)
        check_student(student, teacher)
        teachers, verifier = load_teachers_and_verifier(settings.calibration, teacher)
        evaluation = load_evaluation(settings.evaluation, student)
        prepare_network(student, settings.quantization)  # what cannot be written as ONNX is refused now
        source = _source(settings, teacher)
        refuse_quantized(Path(settings.output.folder))
        folder, store = _open(settings, teacher, teachers, student, device, restart, say)
    with watch("images"):
        make = partial(calibration_images, teacher, source, teachers, verifier, device=device, progress=progress)
        images = keep_images(folder, store, make)
    every = [teacher, *teachers]
    with watch("distill"):
        judge = None if evaluation is None else partial(_accuracy, evaluation, student, device)
        learned, result = distill(
            every,
            student,
            images.images,
            config,
            labels=images.labels,
            device=device,
            more_images=None
            if config.rounds == 1
            else partial(_more_images, settings, source, every, device, progress),
            evaluate=judge,
            store=store,
            progress=progress,
        )

    def finish() -> DistillFacts:
        facts = _written(settings, every, learned, result, images, evaluation, folder, watch, progress)
        store.discard()
        facts.validation.raise_for_failure()
        return facts

    return DistilledRun(learned, by_first(finish), images, folder)


def _written(
    settings: Settings,
    teachers: Sequence[Model],
    learned: Model,
    result: DistillResult,
    images: CalibrationSet,
    evaluation: EvalSet | None,
    folder: Path,
    watch: Stopwatch,
    progress: Progress,
) -> DistillFacts:
    """Write all files of the run; return what is known of the student."""
    graph_model = prepare_network(learned, settings.quantization)
    about = {
        "student": settings.distillation.student,
        "preprocess": asdict(learned.preprocess),
        "sha256": learned.sha256,
    }
    own = with_own_inputs(learned.module)
    state = {name: value.contiguous().clone() for name, value in own.state_dict().items()}
    with watch("export"):
        save_tensors(folder / "weights.safetensors", state, about)
    measured = write_float_file(
        graph_model,
        folder / "student.onnx",
        learned,
        ValidationBatches(evaluation, images),
        watch,
        reference=graph_model.module,
        threads=settings.execution.threads,
        progress=progress,
    )
    with watch("validate"):
        top1 = {}
        for one in teachers if evaluation is not None else ():
            if one.name in result.teachers and (judged := load_evaluation(settings.evaluation, one)) is not None:
                top1[one.name] = _accuracy(judged, one, torch.device("cpu"), one.module)
    known = run_facts(settings, learned, images, measured, watch, namer=teachers[0])
    facts = DistillFacts(**known, distillation=result, teacher_top1=top1)
    write_distillation(facts, folder)
    write_recipe(settings, folder)
    refresh(folder)
    return facts


@done_by_first
def _open(
    settings: Settings,
    teacher: Model,
    teachers: Sequence[Model],
    student: Model,
    device: torch.device,
    restart: bool,
    say: Callable[[str], object] | None,
) -> tuple[Path, WorkStore]:
    """Make the run directory, and return it with what is finished in there."""
    folder = run_folder(settings.output.folder)
    decides: dict[str, Any] = {
        **decided_by(settings, teacher, teachers, student.module, device),
        "data": settings.evaluation.data,  # the accuracies on the way are kept
        "sha256 of the student's weights": student.sha256[:16],
    }
    return folder, unfinished(folder, decides, restart, say)


def _source(settings: Settings, teacher: Model) -> ImageSource:
    """Where images come from. Where nothing says how many, many are made, small ones quickly, and all that are there are taken.

    Raises:
        InputError: for rounds, where images are not synthesized.
    """
    source = image_source(settings.calibration, settings.execution, teacher.preprocess)
    count, rounds = source.config.count, settings.distillation.rounds or 1
    if rounds > 1 and not source.synthesized:
        raise InputError(
            f"distillation.rounds: {source.name} gives no images against a student; synthesize them (--images mixmix)"
        )
    if settings.calibration.count is None:
        count = MORE * count if source.synthesized or source.name == "noise" else ALL
    iterations = source.config.iterations
    if source.name == "mixmix" and settings.calibration.synthesis.iterations is None and is_small(teacher.preprocess):
        iterations = min(iterations, ENOUGH)
    return replace(source, config=replace(source.config, count=math.ceil(count / rounds), iterations=iterations))


def _more_images(
    settings: Settings,
    source: ImageSource,
    teachers: Sequence[Model],
    device: torch.device,
    progress: Progress,
    student: Model,
    number: int,
) -> Tensor:
    """Images of a round, made against the student as it is."""
    config = against(
        source.config, student, settings.distillation.disagreement, seed=source.config.seed + 7919 * (number - 1)
    )
    used = synthesis_teachers(teachers[0], teachers[1:])
    return synthesize(used, config, preprocess=teachers[0].preprocess, device=device, progress=progress).images


@torch.no_grad()
def _accuracy(evaluation: EvalSet, model: Model, device: torch.device, module: nn.Module) -> float:
    """Top-1 in percent of a module that takes what a model takes."""
    right = 0
    for images, labels in evaluation.batches():
        output = module(model.preprocess.normalize(images.to(device)))
        scores = model.task.scores(output)
        assert scores is not None
        right += int((scores.argmax(1).cpu() == labels).sum())
    return 100 * right / len(evaluation)
