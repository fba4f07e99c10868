"""How good a set of calibration images is, as far as numbers tell before anything is quantized with it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ptq.calibration.bn_statistics import statistics_distance
from ptq.calibration.dataset import CalibrationSet
from ptq.data.image_ops import resize
from ptq.errors import InputError
from ptq.models.model import Model

__all__ = ["Quality", "assess", "with_quality"]


@dataclass(frozen=True)
class Quality:
    """Figures of one set of images.

    Attributes:
        statistics: name of a teacher -> how far the images are from its training data, by `statistics_distance`:
            0.03 to 0.07 for 256 real CIFAR images, 0.5 to 0.7 for noise.
        label_accuracy: the share of images that the held-out classifier classifies as they are labeled, in [0, 1];
            None where there is no such classifier or no label.
        diversity: Vendi score (Friedman and Dieng, TMLR 2023), the effective number of different images:
            1 when all look the same to the network, their number when no two are alike.
        verifier: name of the held-out classifier.
    """

    statistics: dict[str, float]
    label_accuracy: float | None
    diversity: float
    verifier: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able data."""
        return asdict(self)


@torch.no_grad()
def assess(images: CalibrationSet, teachers: Sequence[Model], verifier: Model | None = None) -> Quality:
    """Measure a set of images.

    Args:
        images: of any source.
        teachers: at least one, each with BatchNorm; usually those that made the images.
        verifier: a held-out classifier, which took no part in making the images and knows the same classes. It judges
            labels and diversity. Without one the first teacher judges diversity.

    Raises:
        InputError: when the held-out classifier has other classes than the first teacher.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> assess(CalibrationSet.from_pixels(images), [model]).label_accuracy is None
        True
    """
    if verifier is not None and (verifier.num_classes is None or verifier.num_classes != teachers[0].num_classes):
        raise InputError(
            f"{verifier.name} knows {verifier.num_classes or 'no'} classes and {teachers[0].name} "
            f"{teachers[0].num_classes or 'none'}: a held-out classifier must know the same."
        )
    distances = {m.name: statistics_distance(m.module, _inputs(images, m)) for m in teachers}
    judge = verifier or teachers[0]
    predicted, features = _predict(judge, _inputs(images, judge))
    known = images.labels >= 0
    accuracy = None
    if verifier is not None and predicted is not None and bool(known.any()):
        accuracy = float((predicted == images.labels)[known].float().mean())
    return Quality(distances, accuracy, vendi_score(features), verifier.name if verifier is not None else None)


def with_quality(images: CalibrationSet, teachers: Sequence[Model], verifier: Model | None = None) -> CalibrationSet:
    """Return the same images with their `Quality` in the provenance, under "quality"."""
    return replace(images, provenance=images.provenance | {"quality": assess(images, teachers, verifier).to_json()})


def vendi_score(features: Tensor) -> float:
    """Return the effective number of different images: exp of the entropy of the eigenvalues of their cosine similarities.

    Args:
        features: (N, F), of one network.

    Example:
        >>> vendi_score(torch.eye(4)), vendi_score(torch.ones(4, 2))
        (4.0, 1.0)
    """
    unit = nn.functional.normalize(features.double(), dim=1)
    values = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp_min(0)
    values = values / values.sum()
    return round(float(torch.special.entr(values).sum().exp()), 3)


def _inputs(images: CalibrationSet, model: Model) -> Tensor:
    return model.preprocess.normalize(resize(images.floats(), model.preprocess.size))


def _predict(model: Model, inputs: Tensor, batch: int = 64) -> tuple[Tensor | None, Tensor]:
    """Classes (N,), None without any, and what the last layer with weights reads, (N, F); of feature maps the mean."""
    latest: list[Tensor] = []

    def remember(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        latest[:] = [
            given[0].flatten(2).mean(2) if model.num_classes is None and given[0].dim() > 2 else given[0].flatten(1)
        ]

    layers = [m for m in model.module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(remember) for m in layers]
    classes, features = [], []
    try:
        for part in inputs.split(batch):
            scores = model.task.scores(model.module(part))
            classes += [] if scores is None else [scores.argmax(1)]
            features += latest
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(classes) if classes else None, torch.cat(features)
