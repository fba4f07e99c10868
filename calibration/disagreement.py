"""A term of synthesis for images that a student has something to learn from."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ptq.calibration.objectives import Batch, Term
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.image_ops import view
from ptq.models.model import Model
from ptq.utils.digest import state_digest

__all__ = ["Disagreement", "against"]

WEIGHT = 0.1
TEMPERATURE = 3.0  # as in DeepInversion: what is certain has no gradient


@dataclass(frozen=True, kw_only=True)
class Disagreement(Term):
    """A student does not predict what the teachers do (adaptive DeepInversion, Yin et al., CVPR 2020).

    The loss is 1 where both say the same, and 0 where nothing that one holds for possible is possible to the other: one minus the
    Jensen-Shannon divergence in bits. Teachers without class scores say nothing.

    Args:
        student: in eval mode, on the device of the images.
        weight: factor of the loss in the objective.
    """

    student: Model

    def loss(self, batch: Batch) -> Tensor:
        said = [seen.logits for seen in batch.observations if seen.labeled and seen.logits is not None]
        student = self.student
        ours = student.task.scores(student.module(view(batch.mixed, student.preprocess))) if said else None
        if ours is None:
            return batch.images.new_zeros(())
        return 1 - torch.stack([divergence(theirs, ours.float()) for theirs in said]).mean()

    def to_json(self) -> dict[str, Any]:
        return {"term": type(self).__name__, "weight": self.weight, "student": state_digest(self.student.module)}


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean Jensen-Shannon divergence of predictions, softened, in bits: 0..1.

    Args:
        one, other: scores, (N, classes).

    Example:
        >>> a, b = torch.tensor([[9e9, 0.0]]), torch.tensor([[0.0, 9e9]])
        >>> float(divergence(a, a)), float(divergence(a, b))
        (0.0, 1.0)
    """
    logs = [(scores / TEMPERATURE).log_softmax(1) for scores in (one, other)]
    middle = torch.stack(logs).logsumexp(0) - math.log(2)
    parts = [torch.special.xlogy(p, p).sum(1) - (p * middle).sum(1) for p in (log.exp() for log in logs)]
    return torch.stack(parts).mean() / math.log(2)


def against(config: SynthesisConfig, student: Model, weight: float | None = None, *, seed: int) -> SynthesisConfig:
    """Return a config for images that the student does not predict as its teachers do.

    Args:
        config: of images in general.
        student: as it is now, in eval mode.
        weight: of `Disagreement` among the other terms; 0.1 when None.
        seed: other images than those of the config have another.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> against(ptq.SynthesisConfig(count=8), model, seed=1).terms[-1].weight
        0.1
    """
    return replace(
        config,
        terms=(*config.terms, Disagreement(weight=WEIGHT if weight is None else weight, student=student)),
        seed=seed,
    )
