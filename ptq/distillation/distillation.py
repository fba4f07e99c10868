"""Distillation: a network of any kind learns what its teachers say of views of images, without a label.

Hinton et al. (2015). Images are few, so no view is shown twice: each is cropped and flipped in its own way, and half of the batches have
other images pasted into them (MixMix). The teachers say what they make of that very view (Beyer et al., CVPR 2022; SRe2L, Yin et al.,
NeurIPS 2023), so that their word is exact however far it is from the image. In the beginning hints lead the way (`ptq.distillation.hints`).
"""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ptq.distillation.beginning import config_for
from ptq.distillation.config import DistillConfig
from ptq.distillation.learner import KEY, Learner
from ptq.distillation.results import DistillResult, Epoch
from ptq.distillation.teaching import check_images, check_student, outputs_alike, recognized
from ptq.errors import InputError, ModelError
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.utils import ranks
from ptq.utils.work_store import WorkStore

__all__ = ["distill"]

LOOKS = 10  # times that a student is judged on the way
KEEP_EVERY = 30.0  # seconds of work that an interruption may cost
SURE = 90.0  # percent of its own images that a teacher should recognize


def distill(
    teacher: Model | Sequence[Model],
    student: Model,
    images: Tensor,
    config: DistillConfig | None = None,
    *,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
    more_images: Callable[[Model, int], Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    store: WorkStore | None = None,
    progress: Progress = SILENT,
) -> tuple[Model, DistillResult]:
    """Teach a network what others say of images, and return it. All weights, biases and BatchNorms learn.

    Where there are several ranks, each learns from a share of every batch; BatchNorms see that share alone.

    Teachers with the outputs of the first say together what is right; the others are not asked.

    Args:
        teacher: one, or several; stays as it is.
        student: of any architecture, with random weights or with trained ones; stays as it is.
        images: uint8, (N, 3, H, W), at the size that the student takes; `CalibrationSet.images`.
        config: how long, and how.
        labels: what the images were made to show, (N,), -1 for nothing: a teacher that does not see it gets a warning.
        device: where to learn.
        more_images: given the student as it is, in eval mode on the device, and the number of a round, 2.., returns as many images more; for
            several `config.rounds`.
        evaluate: given the student in eval mode, on the device, some ten times; returns an accuracy in percent.
        store: keeps what was learned, so that the same call continues after an interruption, and ends in the same student.
        progress: told of every epoch.

    Returns:
        The student that learned, in eval mode on the CPU, and how it went.

    Raises:
        InputError: for no teacher, a student with other outputs than its teacher, images of another size or type, fewer than two, labels of
            another number, and rounds without `more_images`.
        ModelError: when the loss is not finite any more.

    Example:
        >>> given = {"size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        >>> small = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> seen = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
        >>> learned, result = ptq.distill(ptq.as_model(net, **given), ptq.as_model(small, **given), seen, ptq.DistillConfig(epochs=4))
        >>> result.last.number, learned.num_classes
        (4, 10)
    """
    config, store, device = config or DistillConfig(), store or WorkStore(), torch.device(device)
    teachers = [teacher] if isinstance(teacher, Model) else list(teacher)
    if not teachers:
        raise InputError("a student needs a teacher: give at least one.")
    check_student(student, teachers[0])
    check_images(student, images)
    if labels is not None and labels.shape != (len(images),):
        raise InputError(
            f"labels are of shape {tuple(labels.shape)}, and there are {len(images)} images: give one for each."
        )
    asked = [one for one in teachers if one is teachers[0] or outputs_alike(one, teachers[0])]
    seen = {} if labels is None else _recognized(asked, images, labels)
    if config.rounds > 1 and more_images is None:
        raise InputError(f"{config.rounds} rounds need images that are made in between: give more_images.")
    learner = Learner(asked, student, images, config_for(student, config), device)
    done, epochs, before = learner.restore(store)
    started = kept = time.perf_counter()
    with progress.stage("distill", config.epochs) as task:
        if done:
            task.advance(done)
        for number, loss in learner.epochs(done, partial(_grown, store, more_images, learner)):
            if not math.isfinite(loss):
                raise ModelError(
                    f"{student.name} learns no more: its loss is {loss} in epoch {number}; take a smaller distillation.lr"
                )
            told = ranks.is_first() and number in _looks(config.epochs)
            agreement = learner.agreement() if told else None
            accuracy = evaluate(learner.module.eval()) if told and evaluate is not None else None
            epochs.append(Epoch(number, loss, agreement, accuracy))
            task.advance(loss=loss)
            now = time.perf_counter()
            if ranks.is_first() and (now - kept > KEEP_EVERY or number == config.epochs):
                learner.save(store, epochs, before + now - started)
                kept = now
    seconds = before + time.perf_counter() - started
    names = tuple(one.name for one in asked)
    return learner.taught(), DistillResult(tuple(epochs), len(learner.images), names, seen, seconds)


def _grown(store: WorkStore, more_images: Callable[[Model, int], Tensor] | None, learner: Learner, last: int) -> Tensor:
    """The images of all rounds up to one; those that are missing are made against the student as it is."""
    assert more_images is not None
    parts, first = [learner.images], learner.images[: learner.schedule.count]
    for number in range(len(learner.images) // len(first) + 1, last + 1):
        key = f"{KEY}-images-{number}"
        kept = ranks.by_first(partial(store.read, key))
        if kept is None:
            made = more_images(learner.at_work(), number)
            if made.dtype != first.dtype or made.shape != first.shape:
                raise InputError(
                    f"round {number} needs {len(first)} more images, {str(first.dtype).removeprefix('torch.')} of shape {tuple(first.shape[1:])}: "
                    f"more_images gives {str(made.dtype).removeprefix('torch.')} of shape {tuple(made.shape)}."
                )
            if ranks.is_first():
                store.write(key, {"images": made.contiguous()}, {})
        else:
            made = kept[0]["images"]
        parts.append(made)
    return torch.cat(parts)


def _recognized(teachers: Sequence[Model], images: Tensor, labels: Tensor) -> dict[str, float]:
    """The share of the images that each teacher recognizes, in percent, with a warning where that is little."""
    found = {one.name: share for one in teachers if (share := recognized(one, images, labels)) is not None}
    for name, share in found.items():
        if share < SURE:
            warnings.warn(
                f"{name} recognizes {share:.0f} % of the images as what they were made to show: it teaches little with "
                "them. More iterations for them may help (calibration.synthesis.iterations), or images of another source",
                stacklevel=3,
            )
    return found


def _looks(epochs: int) -> set[int]:
    """The numbers of the epochs after which a student is judged."""
    return {math.ceil(epochs * look / LOOKS) for look in range(1, LOOKS + 1)}
