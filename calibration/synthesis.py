"""Images from networks alone: the optimization loop around the objectives of `ptq.calibration.synthesis_config`."""

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ptq.calibration.batches import Batches
from ptq.calibration.bn_statistics import batch_norms, matching_loss
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.objectives import (
    augment,
    low_pass,
    mix,
    random_box,
    sparse_variation,
    standard_loss,
    total_variation,
)
from ptq.calibration.parameterization import Parameterization, make_parameterization
from ptq.calibration.synthesis_config import SynthesisConfig, synthesis_preset
from ptq.calibration.teachers import Teacher, batch_count, labeled, make_teacher, scaled, shares
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, ModelError
from ptq.models.model import Model
from ptq.progress import SILENT, Progress, Task

__all__ = ["gaussian_noise", "synthesize"]


def synthesize(
    teachers: Sequence[Model],
    config: SynthesisConfig | None = None,
    *,
    preprocess: Preprocess | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = SILENT,
    folder: Path | str | None = None,
) -> CalibrationSet:
    """Recover the images whose BatchNorm statistics and labels the teachers agree on.

    The first teacher says which classes there are; one with another number of them joins by its
    statistics alone. The models are copied, never touched.

    Args:
        teachers: at least one, each with BatchNorm; usually the network to be quantized is the first.
        config: the "default" `synthesis_preset` for images of this size when not given.
        preprocess: of the network that the images are for, which decides their size; the first
            teacher's when not given.
        device: where to run; the result is on the CPU.
        progress: told of every optimization step, with its loss.
        folder: keeps finished batches until all are done, so that the same call continues after an
            interruption, and gives what it would have given without one.

    Returns:
        `config.images` images, uint8 (N, 3, H, W), their labels, and in `provenance` all that made
        them.

    Raises:
        PtqError: for a teacher without BatchNorm, or when the optimization diverges.

    Example:
        >>> images = synthesize([load_model("resnet18")], SynthesisConfig(images=8, batch=8))
        >>> images.contact_sheet("images.png")
    """
    if not teachers:
        raise InputError("synthesis needs at least one teacher.")
    for model in teachers:
        batch_norms(model.module, model.name)  # before anything expensive
    preprocess = preprocess or teachers[0].preprocess
    config = config or synthesis_preset("default", preprocess)
    target = torch.device(device)
    provenance = _provenance(teachers, config, preprocess, target)
    generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same on every device
    batches = Batches(folder, provenance)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        labels = _balanced_labels(config.images, teachers[0].num_classes, generator)
        knowing = labeled(teachers)
        groups = shares(knowing, config.feature_mixing)
        chunks = labels.tensor_split(batch_count(config.images, config.batch, len(groups)))
        task = stack.enter_context(progress.stage("synthesize", len(chunks) * config.iterations))
        zoo: list[Teacher] = []
        for index, chunk in enumerate(chunks):
            if batches.has(index):
                task.advance(config.iterations)
                continue
            zoo = zoo or [
                make_teacher(model, knows, config, generator, target, stack)
                for model, knows in zip(teachers, knowing, strict=True)
            ]
            # Every batch by itself: whichever are there already, the others come out the same.
            generator.manual_seed(config.seed * 1_000_003 + index)
            targets = F.one_hot(chunk, teachers[0].num_classes).float().to(target)
            group = [zoo[member] for member in groups[index % len(groups)]]
            made = _optimize(group, targets, preprocess, config, generator, task)
            batches.add(index, *made)
    images, losses = batches.join(len(chunks))
    return CalibrationSet(images, labels, provenance | {"losses": losses})


def gaussian_noise(model: Model, images: int = 256, seed: int = 0) -> CalibrationSet:
    """Standard noise in the network's own normalization: the baseline that synthesis has to beat.

    Clipped to [0, 1] RGB and rounded to 8 bits, like every set of images; labels are unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((images, 3, *model.preprocess.size), generator=generator)
    noise = CalibrationSet.from_pixels(model.preprocess.denormalize(values))
    facts = {"source": "gaussian noise", "seed": seed, "teachers": [{"name": model.name}]}
    return CalibrationSet(noise.images, noise.labels, facts)


def _optimize(
    group: list[Teacher],
    targets: Tensor,
    preprocess: Preprocess,
    config: SynthesisConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[Tensor, float]:
    """One group's batch from noise to uint8 images (n, 3, H, W), and its last loss."""
    at_half = round(config.half * config.iterations)
    stages = [(s, n) for s, n in ((0.5, at_half), (1.0, config.iterations - at_half)) if n]
    size = scaled(preprocess.size, stages[0][0])
    parameterization = make_parameterization(len(targets), size, config, preprocess, generator, targets.device)
    step, loss = 0, math.nan
    for scale, steps in stages:
        parameterization = parameterization.at(scaled(preprocess.size, scale))
        optimizer = torch.optim.Adam(parameterization.groups(config.lr), betas=config.betas)
        parameters = [p for some in optimizer.param_groups for p in some["params"]]
        pace = _pace(optimizer, config, steps)
        for _ in range(steps):
            looking = group if config.feature_mixing == "sum" else [group[step % len(group)]]
            step += 1
            objective = _objective(parameterization, targets, looking, scale, config, generator)
            gradients = torch.autograd.grad(objective, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            parameterization.commit()
            loss = float(objective.detach())
            if not math.isfinite(loss):
                raise ModelError(f"synthesis diverged: the loss is {loss}. Check the teachers' weights, or lower lr.")
            pace.step(loss) if config.schedule == "plateau" else pace.step()
            task.advance(1, loss=loss)
    full = parameterization.at(scaled(preprocess.size, 1.0)).images().detach()
    if config.low_pass:
        full = low_pass(full, config.low_pass)
    return full.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous(), loss


def _pace(optimizer: torch.optim.Optimizer, config: SynthesisConfig, steps: int) -> Any:
    """The schedule of the learning rate."""
    if config.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100, min_lr=1e-4)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def _objective(
    parameterization: Parameterization,
    targets: Tensor,
    teachers: list[Teacher],
    scale: float,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    """The mean loss of some teachers on a fresh augmentation and box, and the prior."""
    images = parameterization.images()
    x = augment(images, config.jitter, generator, config.flip)
    mixes = config.data_mixing and len(x) > 1
    if mixes and float(torch.rand((), generator=generator)) < config.mixed:
        box = random_box((x.shape[-2], x.shape[-1]), generator)
        shift = int(torch.randint(1, len(x), (), generator=generator))
        targets = torch.lerp(targets, targets.roll(shift, 0), box.share(x))
        x = mix(x, x.roll(shift, 0), box)
    variation = sparse_variation if config.sparse else total_variation
    loss = config.tv * variation(images) if config.tv else images.new_zeros(())
    for teacher in teachers:
        inputs, logits = teacher.look(x, scale)
        term = config.bn * matching_loss(teacher.moments, config.first_bn, config.matching)
        if config.standard:
            term = term + config.standard * standard_loss(inputs)
        if config.label and teacher.labeled:
            term = term + config.label * F.cross_entropy(logits, targets)
        loss = loss + term / len(teachers)
    return loss


def _provenance(
    teachers: Sequence[Model], config: SynthesisConfig, preprocess: Preprocess, device: torch.device
) -> dict[str, Any]:
    return {
        "source": config.recipe,
        "teachers": [{"name": m.name, "weights": m.weights_source, "sha256": m.sha256} for m in teachers],
        "preprocess": asdict(preprocess),
        "settings": asdict(config),
        "device": device.type,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }


def _balanced_labels(count: int, classes: int, generator: torch.Generator) -> Tensor:
    """Class indices (count,), each class as often as any other, in random order."""
    rounds = [torch.randperm(classes, generator=generator) for _ in range(math.ceil(count / classes))]
    return torch.cat(rounds)[:count]
