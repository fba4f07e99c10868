"""What decides the result of a run, by names that a user knows."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from ptq.config.flat_options import named_values
from ptq.config.settings import Settings
from ptq.models.model import Model
from ptq.utils.environment import library_versions

__all__ = ["decided_by"]


def decided_by(
    settings: Settings, model: Model, teachers: Sequence[Model], structure: nn.Module, device: torch.device
) -> dict[str, Any]:
    """Return what two runs on one machine must agree in to give the same quantized model, as JSON-able data.

    Args:
        settings: those that play a part, device and threads as they turned out.
        model: its weights, and what its images go through.
        teachers: as `settings.calibration.teachers` has them; their weights.
        structure: the network whose structure counts, which a module or a file brings along: prepared, or the student.
        device: where the run computes.
    """
    preprocess = {f"preprocess {k}": value for k, value in asdict(model.preprocess).items()}
    named = zip(settings.calibration.teachers, teachers, strict=True)
    text = re.sub(r"\b0x[0-9a-f]+", "", str(structure))  # addresses differ from run to run
    versions = library_versions()
    return {
        **named_values(settings.decisive()),
        "device": str(device),
        "threads": torch.get_num_threads(),
        **preprocess,
        "sha256 of the model's weights": _short(model.sha256),
        "sha256 of the model's structure": _short(hashlib.sha256(text.encode()).hexdigest()),
        **{f"sha256 of the weights of {ref}": _short(teacher.sha256) for ref, teacher in named},
        **{f"version of {name}": versions.get(name) for name in ("ptq", "torch")},
    }


def _short(sha256: str) -> str:
    return sha256[:16]
