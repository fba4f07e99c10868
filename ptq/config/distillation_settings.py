"""Which network learns from others, and how, as a part of the settings."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from ptq.config.choices import Optimizer
from ptq.config.ranges import Positive, Rate, Share, Weight

__all__ = ["DistillationSettings"]


@dataclass(frozen=True)
class DistillationSettings:
    """Which network learns from that of ``settings.model`` and from the teachers of its images; of `ptq distill` alone.

    Args:
        student: a name that `ptq.load_model` knows. It takes images of the teacher's size.
        student_weights: file of a state dict to begin with; without it weights are random.
        disagreement: weight of the term that rewards, in rounds after the first, images which the student does not predict as its teachers do.

    The others are fields of `ptq.DistillConfig`, which says what they are; None is its default.
    """

    student: str | None = None
    student_weights: str | None = None
    epochs: Positive | None = None
    batch: Annotated[int, Meta(ge=2)] | None = None
    optimizer: Optimizer | None = None
    lr: Rate | None = None
    weight_decay: Weight | None = None
    temperature: Rate | None = None
    hints: Weight | None = None
    crop: Annotated[float, Meta(gt=0, le=1)] | None = None
    mixing: Share | None = None
    rounds: Positive | None = None
    compile: bool | None = None
    disagreement: Weight | None = None
