"""The networks that images are synthesized from, made ready to look at many batches."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ptq.calibration.bn_statistics import Moments, record_moments
from ptq.calibration.objectives import Observation
from ptq.calibration.synthesis_config import SynthesisConfig
from ptq.data.image_ops import scaled_size, view
from ptq.data.preprocess import Preprocess
from ptq.models.model import Model
from ptq.tasks.task import Task
from ptq.utils.autocast import fast_autocast, keep_in_float32
from ptq.utils.memory_layout import use_fastest_layout

__all__ = ["Teacher", "batch_count", "knows_classes", "make_teacher", "swing", "teacher_groups"]


@dataclass(frozen=True)
class Teacher:
    """A frozen copy of a network on the device, hooked.

    Attributes:
        module: in eval mode.
        moments: of its latest forward pass.
        preprocess: how it sees images.
        task: says which of its outputs are class scores.
        labeled: whether its classes are those of the first teacher.
        shrinks: whether it runs on images of half its size.
    """

    module: nn.Module
    moments: list[Moments]
    preprocess: Preprocess
    task: Task
    labeled: bool
    shrinks: bool

    def observe(self, images: Tensor, scale: float) -> Observation:
        """Return what the network computes of images in RGB [0, 1], at `scale` of its input size where it can."""
        inputs = view(images, self.preprocess, scale if self.shrinks else 1.0)
        self.moments.clear()
        with fast_autocast(images.device):
            output = self.module(inputs)
        logits = self.task.scores(output)
        return Observation(inputs, tuple(self.moments), None if logits is None else logits.float(), self.labeled)


def make_teacher(
    model: Model,
    labeled: bool,
    config: SynthesisConfig,
    generator: torch.Generator,
    device: torch.device,
    stack: ExitStack,
) -> Teacher:
    """Make a teacher of a model, which stays as it is.

    Args:
        model: with BatchNorm.
        labeled: whether its classes are those of the first teacher.
        config: says how it looks at images.
        generator: decides how strided convolutions swing, where they do.
        device: where to run.
        stack: the hooks live as long as it does.
    """
    module = copy.deepcopy(model.module).eval().requires_grad_(False).to(device)
    use_fastest_layout(module, torch.zeros(1, *model.preprocess.input_shape, device=device))
    keep_in_float32(module, device)
    shrinks = _runs_at(module, (model.preprocess.count, *scaled_size(model.preprocess.size, 0.5)), device)
    if config.swing:
        stack.enter_context(swing(module, generator))
    moments = stack.enter_context(record_moments(module, model.name, config.per_image))
    return Teacher(module, moments, model.preprocess, model.task, labeled, shrinks)


def knows_classes(teachers: Sequence[Model]) -> list[bool]:
    """Return of each teacher whether it knows the classes of the first, as far as their number tells.

    Where the first has no classes, nobody does.
    """
    classes = teachers[0].num_classes
    return [classes is not None and teacher.num_classes == classes for teacher in teachers]


def teacher_groups(labeled: Sequence[bool], feature_mixing: str) -> list[list[int]]:
    """Return which teachers make a batch together: groups of indices, which take the batches in turns.

    Images carry the habits of the networks they come from. For small images, two halves with different habits do more
    for the network that is quantized than one set in which all habits are the same (`benchmarks.datafree`).

    Args:
        labeled: of each teacher, whether it knows the classes of the first.
        feature_mixing: as in `SynthesisConfig`.

    Example:
        >>> teacher_groups([True, True, True], "halves")
        [[0], [1, 2]]
        >>> teacher_groups([True, False], "halves")  # the second alone could not show what the labels say
        [[0], [0, 1]]
        >>> teacher_groups([False, False], "halves")  # there are no labels
        [[0], [1]]
    """
    everyone = list(range(len(labeled)))
    if feature_mixing != "halves" or len(everyone) == 1:
        return [everyone]
    return [[0], everyone[1:] if any(labeled[1:]) or not any(labeled) else everyone]


def batch_count(images: int, batch: int, groups: int) -> int:
    """Return how many batches of at most `batch` images it takes, as many from every group of teachers.

    Example:
        >>> batch_count(images=300, batch=128, groups=2)
        4
    """
    return min(images, groups * math.ceil(images / (batch * groups)))


@contextmanager
def swing(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Shift the inputs of strided convolutions by -1, 0 or 1 pixel each way, within this context.

    A convolution of stride 2 skips three of four positions, always the same ones. Gradients through it paint a
    checkerboard into an image. Shifting its input at random spreads them evenly (swing convolution: GENIE, Jeon et
    al., CVPR 2023). Borders are reflected.

    Args:
        module: hooked within the context.
        generator: on the CPU; decides the shifts.

    Example:
        >>> with swing(net, torch.Generator().manual_seed(0)):
        ...     logits = net(images)  # a little different every time
    """

    def shift(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        height, width = x.shape[-2:]
        if min(height, width) < 2:  # nothing to reflect
            return inputs
        down, right = torch.randint(3, (2,), generator=generator).tolist()
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return (padded[..., down : down + height, right : right + width], *inputs[1:])

    strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    hooks = [m.register_forward_pre_hook(shift) for m in strided]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _runs_at(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> bool:
    try:
        module(torch.zeros(1, *shape, device=device))
    except (RuntimeError, AssertionError, ValueError):  # a classifier tied to one resolution
        return False
    return True
