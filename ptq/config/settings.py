"""Everything a run depends on, as data that the command line and Python share."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ptq.config.choices import check_bits
from ptq.errors import InputError
from ptq.utils.units import byte_count

__all__ = ["FLOAT", "PRESETS", "Settings", "layer_texts", "option_text"]

FLOAT = "float"  # in place of bits: the layer is left in float
PRESETS = ("fast", "default", "best")
_UNDECISIVE = (
    "out",
    "data",
    "memory_limit",
    "format",
)  # of what is made of the quantized model, and within what memory


@dataclass(frozen=True)
class Settings:
    """One run of the pipeline.

    Args:
        model: a name that `load_model` knows, or a name for a module of the caller's.
        bits: of the weights, 2..8.
        act_bits: of the activations, 2..8; integer kernels compute in 8.
        preset: "fast", "default" or "best": how much time to spend.
        method: a key of `ptq.reconstruction.loop.METHODS`.
        teachers: further models to synthesize images from, each MODEL or MODEL=FILE with its weights.
        verifier: another model, which judges whether the images show what their labels say.
        images: a key of `ptq.calibration.SYNTHESIS_METHODS` ("mixmix"), "noise", a folder or .npz of images, or an
            earlier images.safetensors.
        mixed_copies: of every calibration image, with another in a random box, to reconstruct with.
        data: labeled images to measure accuracy with; None leaves accuracy out.
        weights: a state dict in place of the published weights.
        out: the run directory.
        seed: of everything random.
        device: "cpu", "cuda", ...; None takes a GPU where there is one.
        threads: of the CPU; None takes all cores.
        memory_limit: of the activations that reconstruction keeps in memory, "1GiB"; what is more lies on
            disk. None takes half of what is free.
        size, resize, mean, std: override what the model's provider says about its input.
        format: of the file's weights: "packed", below 5 bits in 4 or 2, or "int8"; None packs where onnxruntime
            is as fast with it.
        reduce_range: weights of at most 7 bits, first and last layer included. On x86 CPUs without VNNI
            onnxruntime's fast kernels saturate with 8-bit weights; with 7 they are exact.
        overrides: layer name pattern -> weight bits, None for float.

    Raises:
        InputError: for bits outside 2..8, an unknown preset or a memory limit that is no size.
    """

    model: str
    bits: int
    act_bits: int = 8
    preset: str = "default"
    method: str = "qdrop"
    teachers: tuple[str, ...] = ()
    verifier: str | None = None
    images: str = "mixmix"
    mixed_copies: int = 0
    data: str | None = None
    weights: str | None = None
    out: str = "runs/ptq"
    seed: int = 0
    device: str | None = None
    threads: int | None = None
    memory_limit: str | None = None
    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    format: str | None = None
    reduce_range: bool = False
    overrides: Mapping[str, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bits(self.bits, "weights (--bits)")
        check_bits(self.act_bits, "activations (--act-bits)")
        for pattern, bits in self.overrides.items():
            if bits is not None:
                check_bits(bits, f"the weights of {pattern} (--layer)")
        if self.preset not in PRESETS:
            raise InputError(f"unknown preset {self.preset!r}; choose one of {', '.join(PRESETS)}.")
        self.memory_bytes()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data."""
        return asdict(self)

    def decisive(self) -> dict[str, Any]:
        """Return those that decide the quantized model, as JSON-able data: two runs that agree in them give the same."""
        return {name: value for name, value in asdict(self).items() if name not in _UNDECISIVE}

    def memory_bytes(self) -> int | None:
        """Return the memory limit in bytes."""
        return None if self.memory_limit is None else byte_count(self.memory_limit)

    def command(self) -> str:
        """Return the command line that repeats the run; options at their default are left out.

        Example:
            >>> Settings("resnet18", bits=4, out="runs/a").command()
            'ptq quantize --model resnet18 --bits 4 --out runs/a'
        """
        words = ["ptq", "quantize"]
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "overrides" or (value == item.default and item.name != "out"):
                continue
            words.append(f"--{item.name.replace('_', '-')}")
            if value is not True:
                words.append(option_text(item.name, value))
        for text in layer_texts(self.overrides):
            words += ["--layer", text]
        return shlex.join(map(str, words))


def option_text(name: str, value: Any) -> Any:
    """Return a setting as its option takes it: tuples as text, all else as it is.

    Example:
        >>> option_text("size", (224, 320)), option_text("bits", 4)
        ('224x320', 4)
    """
    if not isinstance(value, tuple):
        return value
    return ("x" if name == "size" else ",").join(map(str, value))


def layer_texts(overrides: Mapping[str, int | None]) -> list[str]:
    """Return per-layer bits as `--layer` takes them.

    Example:
        >>> layer_texts({"layer4.*": 8, "fc": None})
        ['layer4.*=8', 'fc=float']
    """
    return [f"{pattern}={FLOAT if bits is None else bits}" for pattern, bits in overrides.items()]
