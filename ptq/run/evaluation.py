"""What a run is judged by: labeled images, the user's own metric, and the batches that go through every network."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ptq.calibration.dataset import CalibrationSet
from ptq.config.settings import EvaluationSettings
from ptq.data.datasets import EvalSet, load_eval
from ptq.errors import InputError
from ptq.models.model import Model
from ptq.tasks.outputs import SOLE, named
from ptq.tasks.user_metric import UserMetric, load_metric
from ptq.utils.ranks import only_first

__all__ = ["PICTURES", "ValidationBatches", "data_of", "labeled_images", "load_evaluation", "own_metric"]

PICTURES = "outputs.safetensors"  # of a run directory: dense outputs, as report.html shows them


def load_evaluation(settings: EvaluationSettings, model: Model) -> EvalSet | None:
    """Load the labeled images to measure accuracy with; None where the settings name none.

    Data need to be where the first rank is, and nowhere else: the others have None, too.
    """
    data = settings.data
    return None if data is None else only_first(lambda: labeled_images(data, model))


def labeled_images(data: str, model: Model) -> EvalSet:
    """Open labeled images for a network.

    Raises:
        InputError: for a network that gives no class scores, or data that cannot be read or are for another one.
    """
    if model.num_classes is None:
        raise InputError(f"--data has labels of classes, and no output of {model.name} is class scores: leave it out")
    return load_eval(data, model.preprocess, model.num_classes)


def own_metric(settings: EvaluationSettings, model: Model) -> UserMetric | None:
    """Load the metric of the user's own, and try it on the float network: what is wrong with it shows now.

    Only the first rank has it.

    Raises:
        InputError: when there is no such function, or it fails.
    """
    function = settings.metric
    return None if function is None else only_first(lambda: _tried(function, model))


def _tried(function: str, model: Model) -> UserMetric:
    metric = load_metric(function)
    outputs = list(model.task.kinds)

    def predict(images: Tensor) -> Any:
        found = named(model.module(model.preprocess.normalize(images)))
        return found[SOLE] if outputs == [SOLE] else found

    metric.measure(predict)
    return metric


@dataclass(frozen=True)
class ValidationBatches:
    """Images to validate on: labeled ones where there are any, else the calibration images.

    Args:
        evaluation: labeled images.
        images: the calibration set; its labels are the synthesizer's wish, and count for nothing here.
        size: images per batch.
    """

    evaluation: EvalSet | None
    images: CalibrationSet
    size: int = 50

    def __len__(self) -> int:
        count = len(self.images if self.evaluation is None else self.evaluation)
        return -(-count // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self.evaluation is not None:
            yield from self.evaluation.batches(self.size)
        else:
            for start in range(0, len(self.images), self.size):
                yield self.images.floats(slice(start, start + self.size)), None


def data_of(settings: EvaluationSettings) -> str | None:
    """What accuracy was measured on, if that is still where it was."""
    data = settings.data
    if data is None or Path(data).exists():
        return data
    warnings.warn(f"{data} is not there any more: no accuracy without --data", stacklevel=3)
    return None
