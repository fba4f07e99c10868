"""What a run found out, as one typed object: every page and message is made from it, and report.json is it as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from ptq.allocation.results import Allocation
from ptq.analysis.distributions import LayerDistribution
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.export.results import Validation
from ptq.pruning.results import PruneResult
from ptq.reconstruction.results import BlockResult, FinetuneResult
from ptq.utils.environment import Machine

__all__ = ["VERSION", "CachePeak", "ImageFacts", "ImageQuality", "ModelFacts", "Preprocessing", "Report", "Teacher"]

VERSION = 1
"""Of the keys of report.json and what they mean."""


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
class CachePeak:
    """The most activations that reconstruction kept, in bytes: in memory and on disk."""

    memory: int
    disk: int


@dataclass(frozen=True)
class Report:
    """Everything that a run found out.

    Args:
        model: the network.
        validation: what was measured of the file, and the checks on it. In report.json its fields stand beside the
            others, and the checks are called "gates".
        seconds: stage -> how long it took.
        peak_rss_bytes: the largest resident memory of the process.
        peak_activations_bytes: the most activations that reconstruction kept.
        blocks: what reconstruction did to each, in order of computation.
        bits: layer -> bits of its weights.
        activation_bits: quantizer -> bits of its activations.
        notes: what people must know, a sentence each.
        worst_layers: the numbers of those that lose most by themselves.
        images: the calibration images.
        settings: what was asked for.
        command: the line of shell that asks for it.
        seed: of everything random.
        versions: library -> version.
        machine: what it ran on.
        pruning: which channels were removed before quantization, and what that cost; None where none were.
        finetuning: what fine-tuning the whole network brought; None where there was none.
        allocation: the bits that were chosen for a budget; None where none was given.
        version: of report.json's keys.
    """

    model: ModelFacts
    validation: Validation
    seconds: dict[str, float]
    peak_rss_bytes: int
    peak_activations_bytes: CachePeak
    blocks: tuple[BlockResult, ...]
    bits: dict[str, int]
    activation_bits: dict[str, int]
    notes: tuple[str, ...]
    worst_layers: tuple[LayerDistribution, ...]
    images: ImageFacts
    settings: Settings
    command: str
    seed: int
    versions: dict[str, str]
    machine: Machine
    pruning: PruneResult | None = None
    finetuning: FinetuneResult | None = None
    allocation: Allocation | None = None
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the content of report.json."""
        data = {**asdict(self), "images": self.images.to_json()}
        del data["validation"]
        return {"version": self.version, "model": data["model"], **self.validation.to_json(), **data}

    @staticmethod
    def from_json(data: Any) -> "Report":
        """Return the report that `to_json` gave.

        Raises:
            InputError: when something is missing, or of another type or version.
        """
        if not isinstance(data, dict):
            raise InputError("it is no JSON object")
        if data.get("version") != VERSION:
            raise InputError(f"it is of another version than {VERSION}")
        measured = {**data, "checks": data.get("gates")}
        try:
            parts = {**data, "validation": measured, "images": _with_provenance(data.get("images"))}
            return msgspec.convert(parts, Report)
        except msgspec.ValidationError as error:
            raise InputError(str(error).replace("$.validation", "$")) from error


def _with_provenance(images: Any) -> Any:
    if not isinstance(images, Mapping):
        return images
    return {**images, "provenance": {k: v for k, v in images.items() if k not in ("count", "names")}}
