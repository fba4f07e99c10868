"""What quantization takes from the run directory of `ptq distill`: the student, its weights, and the images."""

import json
from pathlib import Path
from typing import Any

from ptq.errors import InputError

__all__ = ["FACTS", "settings_of_student"]

FACTS = "distilled.json"  # of a run directory: what came of distillation


def settings_of_student(folder: Path) -> dict[str, Any]:
    """Return the settings that a finished run of `ptq distill` leaves to `ptq quantize`, by dotted name.

    Raises:
        InputError: where there is no such run, or a file of it is missing.
    """
    files = {"model.weights": folder / "weights.safetensors", "calibration.images": folder / "images.safetensors"}
    try:
        facts = json.loads((folder / FACTS).read_text())
        seen, student = facts["model"]["preprocess"], str(facts["settings"]["distillation"]["student"])
        height, width = seen["size"]
        own: dict[str, Any] = {"model.name": student, "model.size": (int(height), int(width))}
        own |= {f"model.{name}": tuple(map(float, seen[name])) for name in ("mean", "std")}
        own["model.channels"] = str(seen["channels"])
        if student.endswith(".onnx"):
            # Such a file takes no other weights: the file of the run is taken.
            del files["model.weights"]
            files["model.name"] = folder / "student.onnx"
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"--from: {folder} has no readable {FACTS}: give the directory of a finished ptq distill."
        ) from error
    for file in files.values():
        if not file.is_file():
            raise InputError(f"--from: {file} is missing: run ptq distill again.")
    return own | {name: str(file) for name, file in files.items()}
