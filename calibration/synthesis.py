"""Images from networks alone: the optimization loop around the objective of `ptq.calibration.objectives`."""

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

from ptq.calibration.bn_statistics import batch_norms
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.objectives import Batch, total_loss
from ptq.calibration.parameterization import make_parameterization
from ptq.calibration.synthesis_config import SynthesisConfig, synthesis_preset
from ptq.calibration.teachers import Teacher, batch_count, knows_classes, make_teacher, teacher_groups
from ptq.data.image_ops import augment, low_pass, mix, random_box, scaled_size
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError, ModelError
from ptq.models.model import Model
from ptq.progress import SILENT, Progress, Task
from ptq.utils.ranks import by_first, dealt, portion
from ptq.utils.work_store import WorkStore

__all__ = ["gaussian_noise", "synthesize"]

READ = 20  # steps after which losses are looked at: reading each would make a GPU wait


def synthesize(
    teachers: Sequence[Model],
    config: SynthesisConfig | None = None,
    *,
    preprocess: Preprocess | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = SILENT,
    folder: Path | str | None = None,
) -> CalibrationSet:
    """Synthesize images whose BatchNorm statistics and labels the teachers agree on.

    The first teacher says which classes there are. One with another number of classes joins by its statistics alone.
    Where the first has none, as a segmentation network, all do, and images have no labels.
    The models are copied, never touched.
    Where there are several ranks, each makes a part of the batches, and all have all images.

    Args:
        teachers: at least one, each with BatchNorm; usually the network to be quantized is the first.
        config: the "default" `synthesis_preset` for images of this size when not given.
        preprocess: of the network that the images are for, which decides their size; the first teacher's when not
            given.
        device: where to run; the result is on the CPU.
        progress: told of every optimization step, with its loss.
        folder: for finished batches, and nothing else. The same call continues after an interruption, and gives what
            it would have given without one. `WorkStore(folder).discard()` removes them in the end.

    Returns:
        `config.count` images, uint8 (N, 3, H, W), their labels, and in `provenance` all that made them.

    Raises:
        InputError: for no teacher.
        ModelError: for a teacher without BatchNorm, or when the optimization diverges.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> len(synthesize([model], SynthesisConfig(count=4, batch=4, iterations=2)))
        4
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
    finished = WorkStore(folder, provenance)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        classes = teachers[0].num_classes
        labels = _balanced_labels(config.count, classes, generator)
        labeled = knows_classes(teachers)
        groups = teacher_groups(labeled, config.feature_mixing)
        chunks = labels.tensor_split(batch_count(config.count, config.batch, len(groups)))
        numbers = range(len(chunks))
        made = by_first(lambda: {n: kept for n in numbers if (kept := _kept(finished, n))})
        missing = [n for n in numbers if n not in made]
        total = (len(made) + len(portion(missing))) * config.iterations
        task = stack.enter_context(progress.stage("synthesize", total))
        if made:
            task.advance(len(made) * config.iterations)
        ready = [
            make_teacher(model, knows, config, generator, target, stack)
            for model, knows in (zip(teachers, labeled, strict=True) if portion(missing) else ())
        ]

        def synthesized(number: int) -> tuple[Tensor, float]:
            # Every batch by itself: whichever are there already, and whoever makes it, it comes out the same.
            generator.manual_seed(config.seed * 1_000_003 + number)
            targets = _shares(chunks[number], classes).to(target)
            group = [ready[member] for member in groups[number % len(groups)]]
            images, loss = _optimize(group, targets, preprocess, config, generator, task)
            finished.write(_name(number), {"images": images}, {"loss": loss})
            return images, loss

        made |= zip(missing, dealt(synthesized, missing), strict=True)
    images, losses = zip(*(made[n] for n in numbers), strict=True)
    return CalibrationSet(torch.cat(images), labels, provenance | {"losses": list(losses)})


def _name(number: int) -> str:
    return f"batch-{number:04d}"


def _kept(finished: WorkStore, number: int) -> tuple[Tensor, float] | None:
    """The images and the loss of a finished batch."""
    kept = finished.read(_name(number))
    return None if kept is None else (kept[0]["images"], kept[1]["loss"])


def gaussian_noise(model: Model, count: int = 256, seed: int = 0) -> CalibrationSet:
    """Draw standard noise in the network's own normalization: the baseline that synthesis has to beat.

    It is clipped to [0, 1] RGB and rounded to 8 bits, as every set of images is. Its labels are unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((count, 3, *model.preprocess.size), generator=generator)
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
    """One group's batch, from noise to uint8 images (n, 3, H, W), and its last loss."""
    at_half = round(config.half_resolution * config.iterations)
    stages = [(s, n) for s, n in ((0.5, at_half), (1.0, config.iterations - at_half)) if n]
    size = scaled_size(preprocess.size, stages[0][0])
    parameterization = make_parameterization(len(targets), size, config, preprocess, generator, targets.device)
    step, losses = 0, list[Tensor]()
    for scale, steps in stages:
        parameterization = parameterization.at(scaled_size(preprocess.size, scale))
        optimizer = torch.optim.Adam(parameterization.groups(config.lr), betas=config.betas)
        parameters = [p for some in optimizer.param_groups for p in some["params"]]
        scheduler = _scheduler(optimizer, config, steps)
        for _ in range(steps):
            looking = group if config.feature_mixing == "sum" else [group[step % len(group)]]
            step += 1
            batch = _show(parameterization.images(), targets, looking, scale, config, generator)
            objective = total_loss(config.terms, batch)
            gradients = torch.autograd.grad(objective, parameters)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            parameterization.commit()
            losses.append(objective.detach())
            scheduler.step(losses[-1]) if config.schedule == "plateau" else scheduler.step()
            if step % READ and step < config.iterations:
                task.advance()
            else:
                task.advance(loss=_last(losses))
    full = parameterization.at(scaled_size(preprocess.size, 1.0)).images().detach()
    if config.low_pass:
        full = low_pass(full, config.low_pass)
    return full.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous(), _last(losses)


def _last(losses: list[Tensor]) -> float:
    """The last loss; the others are forgotten.

    Raises:
        ModelError: where one is no number.
    """
    values = torch.stack(losses).tolist()
    del losses[:-1]
    for value in values:
        if not math.isfinite(value):
            raise ModelError(f"synthesis diverged: the loss is {value}. Check the teachers' weights, or lower lr.")
    return float(values[-1])


def _scheduler(optimizer: torch.optim.Optimizer, config: SynthesisConfig, steps: int) -> Any:
    """The schedule of the step size."""
    if config.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=100, min_lr=1e-4)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def _show(
    images: Tensor,
    targets: Tensor,
    teachers: list[Teacher],
    scale: float,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Batch:
    """The images as some teachers are shown them: with a fresh augmentation, and a box of their partners."""
    shown = augment(images, config.jitter, generator, config.flip)
    mixes = config.data_mixing > 0 and len(shown) > 1
    if mixes and float(torch.rand((), generator=generator)) < config.data_mixing:
        box = random_box((shown.shape[-2], shown.shape[-1]), generator)
        shift = int(torch.randint(1, len(shown), (), generator=generator))
        targets = torch.lerp(targets, targets.roll(shift, 0), box.share(shown))
        shown = mix(shown, shown.roll(shift, 0), box)
    return Batch(images, shown, targets, lambda: [teacher.observe(shown, scale) for teacher in teachers])


def _provenance(
    teachers: Sequence[Model], config: SynthesisConfig, preprocess: Preprocess, device: torch.device
) -> dict[str, Any]:
    return {
        "source": config.method,
        "teachers": [{"name": m.name, "weights": m.weights_source, "sha256": m.sha256} for m in teachers],
        "classes": teachers[0].num_classes,
        "preprocess": asdict(preprocess),
        "settings": config.to_json(),
        "device": device.type,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }


def _balanced_labels(count: int, classes: int | None, generator: torch.Generator) -> Tensor:
    """Class indices (count,), each class as often as any other, in random order; -1 where there are no classes."""
    if classes is None:
        return torch.full((count,), -1)
    rounds = [torch.randperm(classes, generator=generator) for _ in range(math.ceil(count / classes))]
    return torch.cat(rounds)[:count]


def _shares(labels: Tensor, classes: int | None) -> Tensor:
    """The share of each class in images of one label each, (n, classes); (n, 0) where there are no classes."""
    return torch.zeros(len(labels), 0) if classes is None else F.one_hot(labels, classes).float()
