"""What is asked of distillation: how long, in which steps, and which views. No torch."""

from dataclasses import dataclass, replace
from typing import get_args

from ptq.config.choices import Optimizer, check_choice
from ptq.errors import InputError

__all__ = ["DistillConfig"]

LARGEST = 1e30  # that steps of float32 can still be multiplied by
LR = {"adamw": 0.004, "sgd": 0.05}
DECAY = {"adamw": 0.05, "sgd": 0.0005}
GENTLE = 0.25  # of these: what is trained already is lost in large steps, and what nothing normalizes runs away in them
HINTS = 100.0


@dataclass(frozen=True)
class DistillConfig:
    """How a student learns from its teachers. The learning rate falls to 0 along a cosine.

    Args:
        epochs: times that every image is looked at, 1..
        batch: images in an iteration, 2..
        optimizer: "adamw", or "sgd" with a Nesterov momentum of 0.9.
        lr: learning rate at the beginning, above 0; None is 0.004 for "adamw" and 0.05 for "sgd", and a quarter of it for a student that begins with
            trained weights, and for one without BatchNorm; a sixteenth for both.
        weight_decay: of the weights, 0..; None is 0.05 for "adamw" and 0.0005 for "sgd". Biases and BatchNorms have none.
        temperature: that scores are divided by, above 0; high ones show what a teacher thinks of the other classes (Hinton et al., 2015).
        hints: weight in the beginning of the difference between maps inside the student and inside its first teacher (FitNets), where that of predictions
            is 1; it falls to 0 within the first half of the epochs. 0..; 0 compares predictions alone; None is 100, or 0 for a student that begins with trained
            weights.
        crop: smallest share of an image that a view shows, above 0, 1 at most.
        mixing: share of the batches whose images have others pasted into them (MixMix; CutMix, Yun et al., ICCV 2019), 0..1.
        rounds: the epochs in as many parts, 1..epochs; before each but the first the images grow by as many, made against the student as it is.
        compile: with torch.compile: what takes many minutes takes fewer, but for one or two in the beginning. It needs a C++ compiler.
        seed: of the order of images, and of their views.

    Raises:
        InputError: for a value that is not in its range.

    Example:
        >>> config = DistillConfig(epochs=10, optimizer="sgd").for_student(trained=False, normalized=True)
        >>> config.lr, config.hints
        (0.05, 100.0)
    """

    epochs: int = 200
    batch: int = 64
    optimizer: Optimizer = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
    temperature: float = 4.0
    hints: float | None = None
    crop: float = 0.5
    mixing: float = 0.5
    rounds: int = 1
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self.optimizer, get_args(Optimizer), "optimizer")
        for name, least in (("epochs", 1), ("batch", 2), ("rounds", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}.")
        for name, most in (("lr", LARGEST), ("temperature", LARGEST), ("crop", 1.0)):
            if (value := getattr(self, name)) is not None and not 0 < value <= most:
                raise InputError(f"{name} must be above 0 and at most {most:g}, not {value}.")
        for name, most in (("weight_decay", LARGEST), ("hints", LARGEST), ("mixing", 1.0)):
            if (value := getattr(self, name)) is not None and not 0 <= value <= most:
                raise InputError(f"{name} must be between 0 and {most:g}, not {value}.")
        if self.rounds > self.epochs:
            raise InputError(f"rounds are parts of the {self.epochs} epochs: there cannot be {self.rounds}.")

    def for_student(self, trained: bool, normalized: bool) -> "DistillConfig":
        """Return the configuration with what is left to the student.

        Args:
            trained: it begins with trained weights.
            normalized: it has BatchNorm.
        """
        lr = LR[self.optimizer] * GENTLE ** (trained + (not normalized)) if self.lr is None else self.lr
        decay = DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay
        hints = (0.0 if trained else HINTS) if self.hints is None else self.hints
        return replace(self, lr=lr, weight_decay=decay, hints=hints)
