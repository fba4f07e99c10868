"""Where images come from: synthesized, noise, a folder, an earlier run; and what to validate on."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq.calibration import (
    SYNTHESIS_METHODS,
    CalibrationSet,
    SynthesisConfig,
    gaussian_noise,
    has_batch_norm,
    synthesis_preset,
    synthesize,
    with_quality,
)
from ptq.config.settings import Settings
from ptq.data.datasets import EvalSet, load_eval, load_images
from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model, as_model, load_model
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.plan import make_plan
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.files import sweep
from ptq.utils.work_store import WorkStore

__all__ = [
    "ValidationBatches",
    "calibration_images",
    "data_of",
    "insert_planned_quantizers",
    "load_evaluation",
    "load_network",
    "load_teacher",
    "load_teachers",
    "own_network",
    "run_images",
    "synthesized",
    "zoo_of",
]


def run_images(
    model: Model,
    teachers: Sequence[Model],
    settings: Settings,
    device: torch.device,
    finished: WorkStore,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Return the calibration images of a run; images.safetensors and images.png are then in its directory.

    Args:
        finished: vouches for images that need not be made again.

    The others are those of `calibration_images`.
    """
    folder = Path(settings.out)
    path, batches = folder / "images.safetensors", folder / "images.part"
    for left in (folder, batches):  # where a kill may have left unfinished files
        sweep(left)
    if not finished.vouches(path):
        finished.forget()  # which was made from other images
        images = calibration_images(model, teachers, settings, device, progress)
        images.save(path)
        images.contact_sheet(folder / "images.png")
        finished.vouch(path)
    WorkStore(batches).discard()
    return CalibrationSet.load(path)


def calibration_images(
    model: Model, teachers: Sequence[Model], settings: Settings, device: torch.device, progress: Progress = SILENT
) -> CalibrationSet:
    """Return calibration images from wherever ``settings.images`` says, with their quality figures.

    Where they are synthesized, finished batches wait in the run directory: the same call continues after
    an interruption.

    Args:
        model: the network to be quantized.
        teachers: the further ones, as `load_teachers` gives them.
        settings: the source, the verifier, the budget, the run directory.
        device: where to synthesize.
        progress: told of every step.

    Raises:
        InputError: when a file is of another size or cannot be read.
    """
    verifier = load_teacher(settings.verifier) if settings.verifier else None
    parts = Path(settings.out) / "images.part"
    images = _images(model, teachers, settings, device, progress, parts)
    knowing = [m for m in (model, *teachers) if has_batch_norm(m.module)]
    return with_quality(images, knowing, verifier) if knowing else images


def _images(
    model: Model, teachers: Sequence[Model], settings: Settings, device: torch.device, progress: Progress, parts: Path
) -> CalibrationSet:
    source = settings.images
    if source in SYNTHESIS_METHODS:
        config = synthesis_preset(settings.preset, model.preprocess, source, seed=settings.seed)
        return synthesized(model, teachers, config, device, progress, parts)
    count = synthesis_preset(settings.preset, model.preprocess).count
    if source == "noise":
        return gaussian_noise(model, count, settings.seed)
    if source.endswith(".safetensors"):
        images = CalibrationSet.load(Path(source))
        if tuple(images.images.shape[-2:]) != model.preprocess.size:
            raise InputError(
                f"the images in {source} are {tuple(images.images.shape[-2:])} pixels, "
                f"the model takes {model.preprocess.size}."
            )
        return images
    return CalibrationSet.from_pixels(load_images(source, model.preprocess, limit=count), source=source)


def synthesized(
    model: Model,
    teachers: Sequence[Model],
    config: SynthesisConfig,
    device: torch.device,
    progress: Progress = SILENT,
    folder: Path | None = None,
) -> CalibrationSet:
    """Return images of the size of `model`, from it and the teachers.

    A model without BatchNorm leaves it to the teachers.
    """
    return synthesize(
        zoo_of(model, teachers), config, preprocess=model.preprocess, device=device, progress=progress, folder=folder
    )


def zoo_of(model: Model, teachers: Sequence[Model]) -> list[Model]:
    """All networks that images for `model` are made from: itself first, if it has BatchNorm."""
    return [model, *teachers] if has_batch_norm(model.module) or not teachers else list(teachers)


def load_network(settings: Settings) -> Model:
    """Load the model to be quantized, with the weights and the preprocessing that the settings give it."""
    return load_model(
        settings.model,
        Path(settings.weights) if settings.weights else None,
        size=settings.size,
        resize=settings.resize,
        mean=settings.mean,
        std=settings.std,
    )


def load_teachers(settings: Settings) -> list[Model]:
    """Load the models to synthesize from besides the one to be quantized."""
    return [load_teacher(ref) for ref in settings.teachers]


def load_evaluation(settings: Settings, model: Model) -> EvalSet | None:
    """Load the labeled images to measure accuracy with; None where the settings name none."""
    if settings.data is None:
        return None
    return load_eval(settings.data, model.preprocess, model.num_classes)


def insert_planned_quantizers(graph_model: GraphModel, settings: Settings) -> QuantizedModel:
    """Return the quantized model that the settings plan; its quantizers have no ranges yet."""
    plan = make_plan(
        graph_model, settings.bits, settings.act_bits, reduce_range=settings.reduce_range, layers=settings.overrides
    )
    return insert_quantizers(graph_model, plan)


def load_teacher(ref: str) -> Model:
    """Load "MODEL" with its published weights, or "MODEL=FILE" with those of a file."""
    name, separator, weights = ref.partition("=")
    return load_model(name, Path(weights) if separator else None)


@dataclass(frozen=True)
class ValidationBatches:
    """Images to validate on: labeled ones where there are any, else the calibration images.

    Args:
        evaluation: labeled images.
        images: the calibration set; its labels are the synthesizer's wish, and count for nothing here.
        size: images per batch.
    """

    evaluation: EvalSet | None
    images: CalibrationSet
    size: int = 50

    def __len__(self) -> int:
        count = len(self.images if self.evaluation is None else self.evaluation)
        return -(-count // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self.evaluation is not None:
            yield from self.evaluation.batches(self.size)
        else:
            for start in range(0, len(self.images), self.size):
                yield self.images.floats(slice(start, start + self.size)), None


def data_of(settings: Settings) -> str | None:
    """What accuracy was measured on, if that is still where it was."""
    data = settings.data
    if data is None or Path(data).exists():
        return data
    warnings.warn(f"{data} is not there any more: no accuracy without --data", stacklevel=3)
    return None


def own_network(model: nn.Module | Model, preprocess: Preprocess | None, options: Mapping[str, Any]) -> Model:
    """A network from Python with what it takes to feed it.

    Args:
        model: a module, or one with all that.
        preprocess: of a module; ImageNet's is assumed, with a warning, where nothing is said.
        options: settings, of which size, resize, mean and std say that, too.

    Raises:
        InputError: for what is said twice, or cannot be of a network that is there already.
    """
    said = {k: v for k in ("size", "resize", "mean", "std") if (v := options.get(k)) is not None}
    if options.get("weights") is not None:
        raise InputError("weights= is for a model given by name: this network has its own already")
    if isinstance(model, Model):
        if said or preprocess is not None:
            raise InputError(f"{', '.join(said or ['preprocess'])}: a Model says this by itself; give one of the two")
        return model
    if preprocess is not None:
        return as_model(model, **asdict(preprocess.override(**said)))
    if not {"size", "mean", "std"} <= said.keys():
        height, width = IMAGENET.size
        warnings.warn(
            f"nothing says what images the network takes; assuming ImageNet's ({height}x{width}) where size, mean and "
            "std are not given. If that is wrong, give those, or preprocess=ptq.Preprocess(...)",
            stacklevel=3,
        )
    return as_model(model, **said)
