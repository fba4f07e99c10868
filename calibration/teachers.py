"""The networks that images are recovered from, made ready to be looked through many times."""

import copy
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq.calibration.bn_stats import Moments, observe
from ptq.calibration.mixmix import view
from ptq.calibration.recipes import SynthesisConfig
from ptq.calibration.swing import swing
from ptq.models import Model
from ptq.precision import fast_autocast, spare
from ptq.preprocess import Preprocess

__all__ = ["Teacher", "enrol", "scaled"]


@dataclass(frozen=True)
class Teacher:
    """A frozen copy of a network on the device, hooked.

    Attributes:
        module: in eval mode.
        moments: of its latest forward pass.
        preprocess: how it sees images.
        labelled: speaks of the same classes as the first teacher.
        shrinks: runs on images of half its size.
    """

    module: nn.Module
    moments: list[Moments]
    preprocess: Preprocess
    labelled: bool
    shrinks: bool

    def look(self, images: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """What the network is shown of images in RGB [0, 1], normalised, and its float32 logits."""
        inputs = view(images, self.preprocess, scale if self.shrinks else 1.0)
        self.moments.clear()
        with fast_autocast(images.device):
            logits = self.module(inputs)
        return inputs, logits.float()


def enrol(
    model: Model,
    labelled: bool,
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
    return Teacher(module, moments, model.preprocess, labelled, shrinks)


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
