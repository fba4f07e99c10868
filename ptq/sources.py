"""Where images come from: synthesized, noise, a folder, an earlier run; and what to validate on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ptq.calibration import CalibrationSet, gaussian_noise, synthesis_preset, synthesize
from ptq.data import EvalSet, load_images
from ptq.errors import PtqError
from ptq.models import Model
from ptq.progress import SILENT, Progress
from ptq.settings import Settings

__all__ = ["ValidationBatches", "calibration_images", "synthesized"]


def calibration_images(
    teachers: Sequence[Model],
    settings: Settings,
    device: torch.device,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Return calibration images from wherever ``settings.images`` says.

    Args:
        teachers: the network to be quantized, then further ones to synthesize from.

    Raises:
        PtqError: when a file is of another size or cannot be read.
    """
    model = teachers[0]
    source, preset = settings.images, synthesis_preset(settings.preset, model.preprocess)
    if source == "mixmix":
        return synthesized(teachers, settings.preset, settings.seed, device, progress)
    if source == "noise":
        return gaussian_noise(model, preset.images, settings.seed)
    if source.endswith(".safetensors"):
        images = CalibrationSet.load(Path(source))
        if tuple(images.images.shape[-2:]) != model.preprocess.size:
            raise PtqError(
                f"the images in {source} are {tuple(images.images.shape[-2:])} pixels, "
                f"the model takes {model.preprocess.size}."
            )
        return images
    return CalibrationSet.from_pixels(
        load_images(source, model.preprocess, limit=preset.images), source=source
    )


def synthesized(
    teachers: Sequence[Model],
    preset: str,
    seed: int,
    device: torch.device,
    progress: Progress = SILENT,
) -> CalibrationSet:
    """Return images synthesized with a preset's settings, for the input size of the first teacher."""
    config = replace(synthesis_preset(preset, teachers[0].preprocess), seed=seed)
    return synthesize(teachers, config, device=str(device), progress=progress)


@dataclass(frozen=True)
class ValidationBatches:
    """Images to validate on: labelled ones where there are any, else the calibration images.

    Args:
        evaluation: labelled images.
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
