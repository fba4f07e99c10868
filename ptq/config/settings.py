"""Everything a run depends on, as data: one frozen dataclass, with a part for every stage.

A field of None leaves the choice to the preset, to the model, or to the machine.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from ptq.config.choices import DEFAULT_METHOD, Format, Place, Preset
from ptq.config.distillation_settings import DistillationSettings
from ptq.config.nested import build, checked, flatten, leaf_values
from ptq.config.pruning_settings import PruningSettings
from ptq.config.ranges import (
    ActBits,
    Below1,
    Bits,
    Count,
    Device,
    Percent,
    Positive,
    Rate,
    Seed,
    Share,
    Side,
    Threads,
    Weight,
)
from ptq.utils.units import byte_count

__all__ = [
    "CalibrationSettings",
    "EvaluationSettings",
    "ExecutionSettings",
    "ModelSettings",
    "OutputSettings",
    "QuantizationSettings",
    "ReconstructionSettings",
    "Settings",
    "SynthesisSettings",
    "chosen",
]


@dataclass(frozen=True)
class ModelSettings:
    """Which network, and what images it takes.

    Args:
        name: a name that `ptq.load_model` knows, or a name for a module of the caller's.
        weights: file of a state dict, in place of the published weights.
        size: (height, width) in pixels of its input, in place of the model's own.
        resize: shorter side in pixels before the center crop.
        mean, std: of the normalization, per channel, in units of [0, 1]; one number stands for all.
        channels: what they are, a letter each, as "BGR" or "L" (gray); see `ptq.Preprocess`.
        range: 255 where mean and std are of values in 0..255; without these, the network takes such values.
        task: what the network is for: "auto", a kind of output, or kinds of single ones as "boxes=generic".
    """

    name: str
    weights: str | None = None
    size: tuple[Side, Side] | None = None
    resize: Side | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: str | None = None
    range: Literal[1, 255] | None = None
    task: str = "auto"


@dataclass(frozen=True)
class QuantizationSettings:
    """How many bits everything has, or what they may cost: then every layer gets bits of its own.

    Args:
        bits: of the weights, 2..8; with a budget the most that a layer gets.
        act_bits: of the activations, 2..8; integer kernels compute in 8. "auto", for machines that compute in 4: 4 where that harms little, else 8.
        act_harm: how much those of 4 bits may err the output then, all together: the squared error as a share of the squared output.
        reduce_range: weights of at most 7 bits, first and last layer included. On x86 CPUs without VNNI
            onnxruntime's fast kernels saturate with 8-bit weights; with 7 they are exact.
        keep_branches: leave convolutions of one tensor that are added (RepVGG) as they are; else they become one, with what
            is added to them where all weights have 8 bits.
        layers: name pattern of layers -> bits of their weights, None for float.
        tensors: name pattern of activations -> their bits, 2..8.
        place: "auto" leaves in float what is slower in integers on this machine, by measurement; "integers" puts all in
            integers that can be. Weights are as small either way.
        in_float: names of nodes that compute in float; None leaves it to `place`. A finished run's recipe has those of the run.
        max_size: a budget: bytes of the file, "3MB". It gets the best network that fits.
        min_agreement: a budget: share of the predictions, in percent, that are float's. It gets the smallest file, judged on images that no
            weight was tuned with: labeled ones, or mixed copies of a quarter of the calibration images.
        max_drop: a budget: points by which top-1 may be below float's on the labeled images. It gets the smallest file.

    Of the three budgets there is one at most.
    """

    bits: Bits = 8
    act_bits: ActBits = 8
    act_harm: Share = 0.01
    reduce_range: bool = False
    keep_branches: bool = False
    place: Place = "auto"
    in_float: tuple[str, ...] | None = None
    max_size: str | None = None
    min_agreement: Percent | None = None
    max_drop: Weight | None = None
    layers: Mapping[str, Bits | None] = field(default_factory=dict)
    tensors: Mapping[str, Bits] = field(default_factory=dict)

    def max_bytes(self) -> int | None:
        """Return the largest size of the file in bytes."""
        return None if self.max_size is None else byte_count(self.max_size, "--max-size")


@dataclass(frozen=True)
class SynthesisSettings:
    """How images are synthesized; None is the method's and the preset's.

    Args:
        weights: class name of a term of the objective -> its weight, as ``{"TotalVariation": 3.0}``.

    The others are fields of `ptq.SynthesisConfig`, which says what they are.
    """

    batch: Annotated[int, Meta(ge=2)] | None = None
    iterations: Positive | None = None
    half_resolution: Share | None = None
    parameterization: Literal["pixels", "pyramid", "generator"] | None = None
    focus: bool | None = None
    initial_noise: Literal["pink", "white"] | None = None
    lr: Rate | None = None
    betas: tuple[Below1, Below1] | None = None
    schedule: Literal["cosine", "plateau"] | None = None
    per_image: bool | None = None
    jitter: Below1 | None = None
    flip: bool | None = None
    swing: bool | None = None
    low_pass: Weight | None = None
    data_mixing: Share | None = None
    feature_mixing: Literal["halves", "turns", "sum"] | None = None
    weights: Mapping[str, Weight] | None = None


@dataclass(frozen=True)
class CalibrationSettings:
    """Which images the network is calibrated with.

    Args:
        images: a synthesis method ("mixmix"), "universal", "noise", a folder or .npz of images, or an earlier
            images.safetensors.
        count: how many images; None is the preset's. All of an images.safetensors are taken.
        teachers: further models to synthesize images from, each MODEL or MODEL=FILE with its weights.
        verifier: another model, which judges whether the images show what their labels say.
        mixed_copies: of every image, with another in a random box, to reconstruct with.
        synthesis: details of the synthesis.
    """

    images: str = "mixmix"
    count: Positive | None = None
    teachers: tuple[str, ...] = ()
    verifier: str | None = None
    mixed_copies: Count = 0
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)


@dataclass(frozen=True)
class ReconstructionSettings:
    """How weights are rounded; None is the method's and the preset's.

    Args:
        method: a key of `ptq.reconstruction.config.METHODS`, to which Python may add.

    The others are fields of `ptq.ReconstructConfig`, which says what they are.
    """

    method: str = DEFAULT_METHOD
    unit: Literal["layer", "block"] | None = None
    joint: bool | None = None
    drop: Share | None = None
    fisher: Literal["auto", "on", "off"] | None = None
    iterations: Count | None = None
    batch: Positive | None = None
    lr_rounding: Rate | None = None
    lr_scale: Weight | None = None
    warmup: Share | None = None
    ridge: Weight | None = None
    sharpness: Annotated[float, Meta(ge=1)] | None = None
    tune_below: float | None = None
    correct_bias: bool | None = None
    finetune: Count | None = None
    lr_finetune: Rate | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What accuracy is measured with.

    Args:
        data: labeled images, a folder or .npz; None leaves accuracy out.
        metric: a function of the caller's, FILE.py:function, which is given predict(images) and returns named numbers.
    """

    data: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class OutputSettings:
    """What is written.

    Args:
        folder: the run directory.
        format: of the file's weights: "packed", below 5 bits in 4 or 2, or "int8"; None packs where onnxruntime is as
            fast with it.
    """

    folder: str = "runs/ptq"
    format: Format | None = None


@dataclass(frozen=True)
class ExecutionSettings:
    """With what effort, and on what.

    Args:
        preset: how much time to spend, on synthesis and on reconstruction.
        seed: of everything random, 0..2^32 - 1.
        device: "cpu", "cuda", "cuda:1", ...; None takes a GPU where there is one.
        threads: of the CPU; None takes all cores.
        memory_limit: of the activations that reconstruction keeps in memory, "1GiB"; what is more lies on disk.
            None takes half of what is free.
    """

    preset: Preset = "default"
    seed: Seed = 0
    device: Device | None = None
    threads: Threads | None = None
    memory_limit: str | None = None

    def memory_bytes(self) -> int | None:
        """Return the memory limit in bytes."""
        return None if self.memory_limit is None else byte_count(self.memory_limit)


@dataclass(frozen=True)
class Settings:
    """One run of the pipeline; a stage gets its part.

    `ptq.make_settings` makes one from options as the command line has them.

    Raises:
        InputError: for a value that its field cannot have.

    Example:
        >>> settings = Settings(ModelSettings("resnet18"), QuantizationSettings(bits=4))
        >>> settings.execution.preset, settings.reconstruction.iterations
        ('default', None)
    """

    model: ModelSettings
    quantization: QuantizationSettings = field(default_factory=QuantizationSettings)
    pruning: PruningSettings = field(default_factory=PruningSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    reconstruction: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    execution: ExecutionSettings = field(default_factory=ExecutionSettings)

    def __post_init__(self) -> None:
        checked(type(self), leaf_values(self))
        self.execution.memory_bytes()
        self.quantization.max_bytes()

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Settings":
        """Return the settings that `to_json` gave.

        Raises:
            InputError: for a field that there is not, or a value that its field cannot have.

        Example:
            >>> Settings.from_json({"model": {"name": "resnet18"}}).quantization.bits
            8
        """
        return build(cls, checked(cls, flatten(cls, data)))

    def decisive(self) -> "Settings":
        """Return the settings without those that do not decide the quantized model.

        Two runs that agree in what is left make the same one.
        """
        execution = replace(self.execution, memory_limit=None)
        judged = self.quantization.min_agreement is not None or self.quantization.max_drop is not None
        evaluation = EvaluationSettings(data=self.evaluation.data if judged else None)
        return replace(self, evaluation=evaluation, output=OutputSettings(), execution=execution)


_CHOICES = (
    "method",
    "macs",
    "parameters",
    "latency",
    "latency_of",
    "student",
    "student_weights",
    "disagreement",
)  # not fields of a configuration


def chosen(
    settings: PruningSettings | SynthesisSettings | ReconstructionSettings | DistillationSettings,
) -> dict[str, Any]:
    """Return the fields of a stage's configuration that are not left to its defaults, to method and preset.

    Example:
        >>> chosen(ReconstructionSettings(iterations=2000))
        {'iterations': 2000}
    """
    values = {item.name: getattr(settings, item.name) for item in fields(settings) if item.name not in _CHOICES}
    return {name: value for name, value in values.items() if value is not None}
