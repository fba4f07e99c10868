"""Where images come from: synthesized, those that come with ptq, noise, a folder, an earlier run."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ptq.calibration.bn_statistics import has_batch_norm
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.quality import with_quality
from ptq.calibration.synthesis import gaussian_noise, synthesize
from ptq.calibration.synthesis_config import SYNTHESIS_METHODS, SynthesisConfig, synthesis_preset
from ptq.calibration.universal import fit_to_network, universal_set
from ptq.config.choices import UNIVERSAL
from ptq.config.settings import CalibrationSettings, ExecutionSettings, ModelSettings, ReconstructionSettings, chosen
from ptq.data.datasets import load_images
from ptq.data.preprocess import IMAGENET, Preprocess
from ptq.errors import InputError
from ptq.models.model import Model, as_model, load_model
from ptq.progress import SILENT, Progress
from ptq.reconstruction.config import ReconstructConfig, method_preset
from ptq.utils.files import sweep
from ptq.utils.ranks import by_first, require_same
from ptq.utils.work_store import WorkStore

__all__ = [
    "BATCHES",
    "IMAGES",
    "ImageSource",
    "calibration_images",
    "image_source",
    "keep_images",
    "load_network",
    "load_teacher",
    "load_teachers_and_verifier",
    "own_network",
    "reconstruct_config",
    "synthesis_teachers",
]

IMAGES = "images.safetensors"  # of a run directory
BATCHES = "images.part"  # folder of a run directory where finished batches wait until all images are there


@dataclass(frozen=True)
class ImageSource:
    """Where calibration images come from, as data.

    Args:
        name: a key of `SYNTHESIS_METHODS`, "universal", "noise", a folder or .npz of images, or an earlier
            images.safetensors.
        config: how many images, and the seed; for a synthesis method also how they are synthesized.
    """

    name: str
    config: SynthesisConfig

    @property
    def synthesized(self) -> bool:
        """Whether the images are synthesized, which takes long."""
        return self.name in SYNTHESIS_METHODS


def image_source(settings: CalibrationSettings, execution: ExecutionSettings, preprocess: Preprocess) -> ImageSource:
    """Return the source that the settings name: as method and preset say, but for what is set.

    Args:
        settings: the source, the number of images, details of the synthesis.
        execution: the preset and the seed.
        preprocess: says how large the network's input is.
    """
    method = settings.images if settings.images in SYNTHESIS_METHODS else "mixmix"
    changes = {"seed": execution.seed, **chosen(settings.synthesis)}
    if settings.count is not None:
        changes["count"] = settings.count
    return ImageSource(settings.images, synthesis_preset(execution.preset, preprocess, method, **changes))


def calibration_images(
    model: Model,
    source: ImageSource,
    teachers: Sequence[Model] = (),
    verifier: Model | None = None,
    *,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Return the calibration images that a source gives for a network, with their quality figures.

    Args:
        model: the network to be quantized.
        source: where the images come from.
        teachers: further networks to synthesize from.
        verifier: a held-out classifier, which judges whether the images show what their labels say.
        device: where to synthesize.
        folder: for batches that are finished, so that the same call continues after an interruption; None keeps none.
        progress: told of every step.

    Raises:
        InputError: when a file cannot be read.
        ModelError: when neither the model nor a teacher has BatchNorm to synthesize from.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> len(calibration_images(model, ImageSource("noise", SynthesisConfig(count=8))))
        8
    """
    if source.synthesized:
        used, size = synthesis_teachers(model, teachers), model.preprocess
        images = synthesize(used, source.config, preprocess=size, device=device, progress=progress, folder=folder)
    else:
        images = by_first(lambda: _at_hand(source, model))
    measured = [m for m in (model, *teachers) if has_batch_norm(m.module)]
    return by_first(lambda: with_quality(images, measured, verifier)) if measured else images


def _at_hand(source: ImageSource, model: Model) -> CalibrationSet:
    """The images of a source that synthesizes none."""
    name, config = source.name, source.config
    if name == "noise":
        return gaussian_noise(model, config.count, config.seed)
    if name.endswith(".safetensors"):
        return fit_to_network(CalibrationSet.load(name), model, name)
    if name == UNIVERSAL:
        return fit_to_network(universal_set().few(config.count), model, "the universal set")
    return CalibrationSet.from_pixels(load_images(name, model.preprocess, limit=config.count), source=name)


def synthesis_teachers(model: Model, teachers: Sequence[Model]) -> list[Model]:
    """Return all networks that images for `model` are synthesized from: itself first, if it has BatchNorm."""
    return [model, *teachers] if has_batch_norm(model.module) or not teachers else list(teachers)


def keep_images(folder: Path, store: WorkStore, make: Callable[..., CalibrationSet]) -> CalibrationSet:
    """Return images.safetensors of a run directory; make it and images.png where there is no finished one.

    Args:
        folder: the run directory.
        store: vouches for images that need not be made again.
        make: makes the images. It takes a `folder` for finished batches, which is removed in the end.
    """
    path = folder / IMAGES

    def finished() -> bool:
        sweep(folder)
        if there := store.vouches(path):
            return there
        store.forget()  # all of it was made from other images
        return False

    def keep(images: CalibrationSet) -> None:
        images.save(path)
        images.contact_sheet(folder / "images.png")
        store.vouch(path)

    def kept() -> CalibrationSet:
        WorkStore(folder / BATCHES).discard()
        return CalibrationSet.load(path)

    if not by_first(finished):
        made = make(folder=folder / BATCHES)
        by_first(lambda: keep(made))
    return by_first(kept)


def load_network(settings: ModelSettings) -> Model:
    """Load the model to be quantized, with the weights and the preprocessing that the settings give it."""
    return _same_for_all(
        load_model(
            settings.name,
            Path(settings.weights) if settings.weights else None,
            size=settings.size,
            resize=settings.resize,
            mean=settings.mean,
            std=settings.std,
            channels=settings.channels,
            range=settings.range,
            task=settings.task,
        )
    )


def load_teachers_and_verifier(settings: CalibrationSettings, model: Model) -> tuple[list[Model], Model | None]:
    """Load the models to synthesize from besides `model`, and the held-out classifier that judges the images, if there is one.

    `model` says what images they take where they don't.
    """
    teachers = [load_teacher(ref, model.preprocess) for ref in settings.teachers]
    return teachers, load_teacher(settings.verifier, model.preprocess) if settings.verifier else None


def reconstruct_config(
    settings: ReconstructionSettings, execution: ExecutionSettings, size: tuple[int, int]
) -> ReconstructConfig:
    """Return how blocks are reconstructed: as method and preset say, but for what is set.

    Args:
        settings: the method, and what is set.
        execution: the preset and the seed.
        size: (height, width) of the network's input.
    """
    preset = method_preset(settings.method, execution.preset, size)
    return replace(preset, seed=execution.seed, **chosen(settings))


def load_teacher(ref: str, like: Preprocess | None = None) -> Model:
    """Load "MODEL" with its published weights, or "MODEL=FILE" with those of a file; `like` as `load_model` takes it."""
    name, separator, weights = ref.partition("=")
    return _same_for_all(load_model(name, Path(weights) if separator else None, like=like))


def _same_for_all(model: Model) -> Model:
    require_same(f"the weights of {model.name}", model.sha256)
    return model


def own_network(model: nn.Module | Model, preprocess: Preprocess | None, options: Mapping[str, Any]) -> Model:
    """A network from Python with what it takes to feed it.

    Args:
        model: a module, or one with all that.
        preprocess: of a module; ImageNet's is assumed, with a warning, where nothing is said.
        options: settings, of which size, resize, mean, std, channels, range and task say that, too.

    Raises:
        InputError: for what is said twice, or cannot be of a network that is there already.
    """
    names = ("size", "resize", "mean", "std", "channels", "range", "task")
    said = {name: value for name in names if (value := options.get(name)) is not None}
    if options.get("weights") is not None:
        raise InputError("weights= is for a model given by name: this network has its own already")
    if isinstance(model, Model):
        if said or preprocess is not None:
            raise InputError(f"{', '.join(said or ['preprocess'])}: a Model says this by itself; give one of the two")
        return model
    if preprocess is not None:
        task = said.pop("task", "auto")
        return as_model(model, **asdict(preprocess.override(**said)), task=task)
    if not {"size", "mean", "std"} <= said.keys() | ({"mean", "std"} if "range" in said else set()):
        height, width = IMAGENET.size
        warnings.warn(
            f"nothing says what images the network takes; assuming ImageNet's ({height}x{width}) where size, mean and "
            "std are not given. If that is wrong, give those, or preprocess=ptq.Preprocess(...)",
            stacklevel=3,
        )
    return as_model(model, **said)
