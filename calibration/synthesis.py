"""Images from networks alone: the optimisation loop around the MixMix objective.

Every hyperparameter here is ours, found by ablation (the paper's were not available to us), for
few steps on a CPU.
"""

import copy
import math
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from ptq.calibration.bn_stats import Moments, batch_norms, matching_loss, observe
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.mixmix import (
    augment,
    label_loss,
    mix,
    pink_noise,
    random_box,
    resize,
    total_variation,
    view,
)
from ptq.errors import PtqError
from ptq.models import Model, Preprocess
from ptq.progress import SILENT, Progress, Task

__all__ = ["PRESETS", "SynthesisConfig", "gaussian_noise", "synthesis_preset", "synthesize"]


@dataclass(frozen=True)
class SynthesisConfig:
    """How many images, at what expense, and the weights of the objective's terms.

    The defaults suit images of about 32 pixels; `synthesis_preset` has others for larger ones.

    Attributes:
        images: how many in all.
        batch: optimised together, and sharing the batch statistics that are matched; at least 2.
        iterations: Adam steps per batch.
        half: the share of those at half resolution, which costs a quarter; in [0, 1].
        lr: Adam's step in units of [0, 1] RGB, following a cosine to zero in each resolution.
        betas: Adam's.
        bn: weight of the BatchNorm statistics.
        first_bn: of the first BatchNorm, which sees the colours, relative to the others.
        label: weight of the cross-entropy.
        tv: weight of the total variation.
        l2: weight of the mean square distance from mid-grey.
        jitter: largest shift as a share of the side.
        data_mixing: paste every image's partner into a random box, in
        mixed: this share of the steps. In the others the images have to match by themselves.
        seed: of everything random; same seed, same machine, same images.

    Raises:
        PtqError: for values out of range.
    """

    images: int = 256
    batch: int = 128
    iterations: int = 150
    half: float = 0.0
    lr: float = 0.05
    betas: tuple[float, float] = (0.5, 0.9)
    bn: float = 1.0
    first_bn: float = 10.0
    label: float = 0.03
    tv: float = 3.0
    l2: float = 0.0
    jitter: float = 0.0625
    data_mixing: bool = True
    mixed: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("batch", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise PtqError(
                    f"synthesis: {name} is {getattr(self, name)}; it must be at least {least}."
                )
        if not (0 <= self.half <= 1 and 0 <= self.jitter < 1 and self.lr > 0):
            raise PtqError("synthesis: half must be in [0, 1], jitter in [0, 1) and lr above 0.")


_SMALL = SynthesisConfig()
_LARGE = SynthesisConfig(batch=32, half=0.75, lr=0.02, tv=40.0)

# Images up to 64 pixels a side are cheap. Larger ones are few and mostly made at half resolution;
# their neighbouring pixels are closer, so they take more smoothing and smaller steps.
PRESETS: dict[str, tuple[SynthesisConfig, SynthesisConfig]] = {
    "fast": (
        replace(_SMALL, images=128, iterations=100),
        replace(_LARGE, images=32, iterations=100, half=0.8),
    ),
    "default": (
        replace(_SMALL, images=256, iterations=150),
        replace(_LARGE, images=64, iterations=200),
    ),
    "best": (
        replace(_SMALL, images=1024, iterations=400),
        replace(_LARGE, images=256, iterations=500),
    ),
}
"""For small (up to 64 pixels) and for large inputs."""


def synthesis_preset(name: str, preprocess: Preprocess) -> SynthesisConfig:
    """The settings called "fast", "default" or "best" for a network with this input.

    Example:
        >>> synthesis_preset("fast", model.preprocess).images
        32
    """
    if name not in PRESETS:
        raise PtqError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    small, large = PRESETS[name]
    return small if max(preprocess.size) <= 64 else large


@dataclass(frozen=True)
class _Teacher:
    module: nn.Module  # a frozen copy on the device
    moments: list[Moments]  # of its latest forward pass
    preprocess: Preprocess
    labelled: bool  # speaks of the same classes as the first teacher
    shrinks: bool  # runs on images of half its size


def synthesize(
    teachers: Sequence[Model],
    config: SynthesisConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Recover the images whose BatchNorm statistics and labels the teachers agree on.

    The teachers take turns, one per step, so a zoo costs no more than a single model. Images have
    the first one's size. A teacher with another number of classes joins by its statistics alone.
    The models are copied, never touched.

    Args:
        teachers: at least one, each with BatchNorm; the first is the one to be quantized.
        config: the "default" `synthesis_preset` for the first teacher when not given.
        device: where to run; the result is on the CPU.
        progress: told of every optimisation step, with its loss.

    Returns:
        `config.images` images, uint8 (N, 3, H, W), their labels, and in `provenance` all that made
        them.

    Raises:
        PtqError: for a teacher without BatchNorm, or when the optimisation diverges.

    Example:
        >>> images = synthesize([load_model("resnet18")], SynthesisConfig(images=8, batch=8))
        >>> images.contact_sheet("images.png")
    """
    if not teachers:
        raise PtqError("synthesis needs at least one teacher.")
    for model in teachers:
        batch_norms(model.module, model.name)  # before anything expensive
    config = config or synthesis_preset("default", teachers[0].preprocess)
    target = torch.device(device)
    generator = torch.Generator().manual_seed(config.seed)  # on the CPU: the same on every device
    pixels, losses = [], []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        labels = _balanced_labels(config.images, teachers[0].num_classes, generator)
        chunks = labels.tensor_split(math.ceil(config.images / config.batch))
        zoo = [
            _enrol(model, model.num_classes == teachers[0].num_classes, target, stack)
            for model in teachers
        ]
        task = stack.enter_context(progress.stage("synthesize", len(chunks) * config.iterations))
        for chunk in chunks:
            images, loss = _optimise(zoo, chunk.to(target), config, generator, task)
            pixels.append(images)
            losses.append(loss)
    provenance = {
        "source": "mixmix",
        "teachers": [{"name": m.name, "weights": m.weights, "sha256": m.sha256} for m in teachers],
        "settings": asdict(config),
        "losses": losses,
        "device": target.type,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
    }
    return CalibrationSet(torch.cat(pixels), labels, provenance)


def gaussian_noise(model: Model, images: int = 256, seed: int = 0) -> CalibrationSet:
    """Standard noise in the network's own normalisation: the baseline that synthesis has to beat.

    Clipped to [0, 1] RGB and rounded to 8 bits, like every set of images; labels are unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 3, *model.preprocess.size)
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std)
    )
    noise = CalibrationSet.from_pixels(mean + std * torch.randn(shape, generator=generator))
    facts = {"source": "gaussian noise", "seed": seed, "teachers": [{"name": model.name}]}
    return CalibrationSet(noise.images, noise.labels, facts)


def _optimise(
    zoo: list[_Teacher],
    labels: Tensor,
    config: SynthesisConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[Tensor, float]:
    """One batch from noise to uint8 images (n, 3, H, W), and its last loss."""
    preprocess = zoo[0].preprocess
    at_half = round(config.half * config.iterations)
    images, loss, step = None, math.nan, 0
    for scale, steps in ((0.5, at_half), (1.0, config.iterations - at_half)):
        if steps == 0:
            continue
        size = _scaled(preprocess, scale)
        if images is None:
            images = pink_noise(len(labels), size, generator)
        images = resize(images.detach().to(labels.device), size).clamp_(0, 1)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=config.lr, betas=config.betas)
        for k in range(steps):
            optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * k / steps)) / 2
            teacher = zoo[step % len(zoo)]
            objective = _objective(images, labels, teacher, scale, config, generator)
            (images.grad,) = torch.autograd.grad(objective, images)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            loss, step = float(objective.detach()), step + 1
            if not math.isfinite(loss):
                raise PtqError(
                    f"synthesis diverged at step {step} of {config.iterations}: the loss is "
                    f"{loss}. "
                    "Check the teachers' weights, or lower lr."
                )
            task.advance(1, loss=loss)
    assert images is not None  # iterations >= 1
    full = resize(images.detach(), _scaled(preprocess, 1.0))
    return full.clamp(0, 1).mul(255).round().to(torch.uint8).cpu().contiguous(), loss


def _objective(
    images: Tensor,
    labels: Tensor,
    teacher: _Teacher,
    scale: float,
    config: SynthesisConfig,
    generator: torch.Generator,
) -> Tensor:
    """The MixMix loss of one teacher on a fresh augmentation and box."""
    x, partners, share = augment(images, config.jitter, generator), labels, 0.0
    mixes = config.data_mixing and len(labels) > 1
    if mixes and float(torch.rand((), generator=generator)) < config.mixed:
        box = random_box((x.shape[-2], x.shape[-1]), generator)
        shift = int(torch.randint(1, len(labels), (), generator=generator))
        share, partners = box.share(x), labels.roll(shift)
        x = mix(x, x.roll(shift, 0), box)
    teacher.moments.clear()
    with _autocast(images.device):
        logits = teacher.module(view(x, teacher.preprocess, scale if teacher.shrinks else 1.0))
    loss = config.bn * matching_loss(teacher.moments, config.first_bn)
    loss = loss + config.tv * total_variation(images) + config.l2 * (images - 0.5).square().mean()
    if teacher.labelled:
        loss = loss + config.label * label_loss(logits.float(), labels, partners, share)
    return loss


def _enrol(model: Model, labelled: bool, device: torch.device, stack: ExitStack) -> _Teacher:
    """A frozen copy of a teacher on the device, hooked for as long as the stack lives."""
    module = copy.deepcopy(model.module).eval().requires_grad_(False)
    module = module.to(device)
    module = module.to(memory_format=torch.channels_last)
    shrinks = _runs_at(module, _scaled(model.preprocess, 0.5), device)
    moments = stack.enter_context(observe(module, model.name))
    return _Teacher(module, moments, model.preprocess, labelled, shrinks)


@torch.no_grad()
def _runs_at(module: nn.Module, size: tuple[int, int], device: torch.device) -> bool:
    try:
        module(torch.zeros(1, 3, *size, device=device))
    except (RuntimeError, AssertionError, ValueError):  # a classifier tied to one resolution
        return False
    return True


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the processor has it; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = device.type == "cpu" and any(getattr(torch.cpu, p, bool)() for p in probes)
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()


def _balanced_labels(count: int, classes: int, generator: torch.Generator) -> Tensor:
    """Class indices (count,), each class as often as any other, in random order."""
    rounds = [
        torch.randperm(classes, generator=generator) for _ in range(math.ceil(count / classes))
    ]
    return torch.cat(rounds)[:count]


def _scaled(preprocess: Preprocess, scale: float) -> tuple[int, int]:
    height, width = (max(1, round(side * scale)) for side in preprocess.size)
    return height, width
