"""What every kind of run knows: its network, its images, what was measured of its file, and what it ran on.

Each kind adds what it alone does, and is written as JSON and read again here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import msgspec

from ptq.config.distilled_run import FACTS as DISTILLED
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.export.results import Validation
from ptq.utils.environment import Machine
from ptq.utils.files import atomic

__all__ = [
    "KINDS",
    "ImageFacts",
    "ImageQuality",
    "ModelFacts",
    "Preprocessing",
    "RunFacts",
    "Teacher",
    "read_facts",
    "write_facts",
]

KINDS = {"report.json": "ptq quantize", "pruned.json": "ptq prune", DISTILLED: "ptq distill"}
"""The files of facts that run directories have, one in each -> the command that writes it."""
Facts = TypeVar("Facts", bound="RunFacts")


@dataclass(frozen=True)
class Preprocessing:
    """What the network's images go through.

    Args:
        size: (height, width) in pixels that the network takes.
        resize: shorter side in pixels before the center crop.
        interpolation: "bilinear" or "bicubic".
        mean, std: per channel, in units of [0, 1].
        channels: what they are, a letter each.
    """

    size: tuple[int, int]
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "RGB"


@dataclass(frozen=True)
class ModelFacts:
    """The network that was quantized.

    Args:
        name: short.
        weights: where they came from, in words.
        sha256: over the tensors of its state dict.
        preprocess: what its images go through.
    """

    name: str
    weights: str
    sha256: str
    preprocess: Preprocessing


@dataclass(frozen=True)
class Teacher:
    """A network that images were synthesized from."""

    name: str


@dataclass(frozen=True)
class ImageQuality:
    """How good the calibration images are: `ptq.calibration.Quality`, and who judged the labels.

    Args:
        statistics: teacher -> distance from its BatchNorm statistics.
        label_accuracy: share of the images, 0..1, in which the verifier sees the label.
        diversity: effective number of different images.
        verifier: name of the network that judged the labels.
    """

    statistics: dict[str, float]
    label_accuracy: float | None
    diversity: float
    verifier: str | None = None


@dataclass(frozen=True)
class ImageFacts:
    """The calibration images.

    Args:
        count: how many.
        source: "mixmix", "noise", a folder, ...
        names: index of a class -> its name, for the labels that occur.
        teachers: what they were synthesized from.
        quality: None where nothing could judge it.
        provenance: all that images.safetensors says about them.
    """

    count: int
    source: str = "unknown"
    names: dict[str, str] = field(default_factory=dict)
    teachers: tuple[Teacher, ...] = ()
    quality: ImageQuality | None = None
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        return {"count": self.count, "names": self.names, **self.provenance}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "ImageFacts":
        """Return the facts that `to_json` gave.

        Raises:
            InputError: when something in there is of another type.

        Example:
            >>> ImageFacts.from_json({"count": 64, "source": "noise"}).source
            'noise'
        """
        try:
            return msgspec.convert(_with_provenance(data), ImageFacts)
        except msgspec.ValidationError as error:
            raise InputError(f"what is said about the calibration images makes no sense: {error}.") from error


@dataclass(frozen=True)
class RunFacts:
    """What every run finds out. In its JSON the fields of the validation stand beside the others, and the checks are called "gates".

    Attributes:
        file: in the run directory, one of `KINDS`.
        model: the network.
        validation: what was measured of the file, and the checks on it.
        images: the calibration images.
        seconds: stage -> how long it took.
        settings: what was asked for.
        versions: library -> version.
        machine: what it ran on.
    """

    file: ClassVar[str]
    model: ModelFacts
    validation: Validation
    images: ImageFacts
    seconds: dict[str, float]
    settings: Settings
    versions: dict[str, str]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON-able data."""
        data = {**asdict(self), "images": self.images.to_json()}
        del data["validation"]
        return {"model": data["model"], **self.validation.to_json(), **data}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Return the facts that `to_json` gave.

        Raises:
            InputError: when something is missing, or of another type.
        """
        if not isinstance(data, dict):
            raise InputError("it is no JSON object")
        measured = {**data, "checks": data.get("gates")}
        parts = {**data, "validation": measured, "images": _with_provenance(data.get("images"))}
        try:
            return msgspec.convert(parts, cls)
        except msgspec.ValidationError as error:
            raise InputError(str(error).replace("$.validation", "$")) from error


def _with_provenance(images: Any) -> Any:
    if not isinstance(images, Mapping):
        return images
    return {**images, "provenance": {k: v for k, v in images.items() if k not in ("count", "names")}}


def write_facts(facts: RunFacts, folder: Path) -> None:
    """Write the facts of a run into its directory, atomically, and remove those of a run of another kind.

    Args:
        facts: of the run.
        folder: the run directory.
    """
    with atomic(folder / facts.file) as path:
        path.write_text(_rows_of_numbers(json.dumps(facts.to_json(), indent=2)) + "\n")
    for other in KINDS:
        if other != facts.file:
            (folder / other).unlink(missing_ok=True)


def read_facts(kind: type[Facts], folder: Path) -> Facts:
    """Return the facts of a run directory.

    Args:
        kind: what they are.
        folder: the run directory.

    Raises:
        InputError: where there are none, or ones that are damaged or of another version.
    """
    try:
        return kind.from_json(json.loads((folder / kind.file).read_text()))
    except (OSError, ValueError, RecursionError, InputError) as error:
        reason = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(
            f"{folder} has no readable {kind.file}{reason}: give the directory of a finished {KINDS[kind.file]}, or run that again."
        ) from error


def _rows_of_numbers(text: str) -> str:
    """Put arrays of numbers on one line each: curves and histograms have hundreds.

    Text cannot be hit, because a line break in it is written as two characters.
    """
    return re.sub(r"\[\n\s*([-+.\w]+(?:,\n\s*[-+.\w]+)*)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
