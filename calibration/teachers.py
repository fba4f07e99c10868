"""The networks that images are recovered from, made ready to be looked through many times."""

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq.calibration.bn_statistics import Moments, observe
from ptq.calibration.objectives import view
from ptq.calibration.swing_convolutions import swing
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.preprocess import Preprocess
from ptq.models.model import Model
from ptq.utils.autocast import fast_autocast, spare

__all__ = ["Teacher", "batch_count", "labeled", "make_teacher", "scaled", "shares"]


@dataclass(frozen=True)
class Teacher:
    """A frozen copy of a network on the device, hooked.

    Attributes:
        module: in eval mode.
        moments: of its latest forward pass.
        preprocess: how it sees images.
        labeled: speaks of the same classes as the first teacher.
        shrinks: runs on images of half its size.
    """

    module: nn.Module
    moments: list[Moments]
    preprocess: Preprocess
    labeled: bool
    shrinks: bool

    def look(self, images: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """What the network is shown of images in RGB [0, 1], normalized, and its float32 logits."""
        inputs = view(images, self.preprocess, scale if self.shrinks else 1.0)
        self.moments.clear()
        with fast_autocast(images.device):
            logits = self.module(inputs)
        return inputs, logits.float()


def make_teacher(
    model: Model,
    knowing: bool,
    config: SynthesisConfig,
    generator: torch.Generator,
    device: torch.device,
    stack: ExitStack,
) -> Teacher:
    """Make a teacher of a model, hooked for as long as the stack lives; the model stays as it is.

    `generator` decides how strided convolutions swing, where they do.
    """
    module = copy.deepcopy(model.module).eval().requires_grad_(False).to(device)
    module = module.to(memory_format=torch.channels_last)
    spare(module, device)
    shrinks = _runs_at(module, scaled(model.preprocess.size, 0.5), device)
    if config.swing:
        stack.enter_context(swing(module, generator))
    moments = stack.enter_context(observe(module, model.name, config.per_image))
    return Teacher(module, moments, model.preprocess, knowing, shrinks)


def labeled(teachers: Sequence[Model]) -> list[bool]:
    """Of each teacher, whether it knows the classes of the first, as far as their number tells."""
    return [teacher.num_classes == teachers[0].num_classes for teacher in teachers]


def shares(knowing: Sequence[bool], feature_mixing: str) -> list[list[int]]:
    """Which teachers make a batch together: groups of indices, which the batches go round.

    Images carry the habits of the networks they come from. For small images two halves with other habits do more for
    the network that is quantized than one set in which all habits are the same (`benchmarks.datafree`).

    Args:
        knowing: of each teacher, whether it knows the classes of the first.
        feature_mixing: as in `SynthesisConfig`.

    Example:
        >>> shares([True, True, True], "halves")
        [[0], [1, 2]]
        >>> shares([True, False], "halves")  # the second alone could not show what the labels say
        [[0], [0, 1]]
    """
    everyone = list(range(len(knowing)))
    if feature_mixing != "halves" or len(everyone) == 1:
        return [everyone]
    return [[0], everyone[1:] if any(knowing[1:]) else everyone]


def batch_count(images: int, batch: int, groups: int) -> int:
    """How many batches of at most `batch` images: as many from every group of teachers.

    Example:
        >>> batch_count(images=300, batch=128, groups=2)
        4
    """
    return min(images, groups * math.ceil(images / (batch * groups)))


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) times `scale`, whole pixels, at least one."""
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


@torch.no_grad()
def _runs_at(module: nn.Module, size: tuple[int, int], device: torch.device) -> bool:
    try:
        module(torch.zeros(1, 3, *size, device=device))
    except (RuntimeError, AssertionError, ValueError):  # a classifier tied to one resolution
        return False
    return True
