"""Options: the settings that have a short name of their own, from the shell and from Python."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ptq.config.choices import suggestion
from ptq.config.nested import FLOAT, build, checked, flatten, leaf_values
from ptq.config.recipe_file import toml_text
from ptq.config.settings import ModelSettings, Settings
from ptq.errors import InputError

__all__ = [
    "OPTIONS",
    "command",
    "flag",
    "make_settings",
    "named_values",
    "option_of",
    "pattern_texts",
    "setting_values",
]

OPTIONS = {
    "model": "model.name",
    "prune": "pruning.macs",
    "keep": "pruning.parameters",
    "prune_to": "pruning.latency",
    "bits": "quantization.bits",
    "act_bits": "quantization.act_bits",
    "reduce_range": "quantization.reduce_range",
    "keep_branches": "quantization.keep_branches",
    "place": "quantization.place",
    "max_size": "quantization.max_size",
    "min_agreement": "quantization.min_agreement",
    "max_drop": "quantization.max_drop",
    "preset": "execution.preset",
    "method": "reconstruction.method",
    "finetune": "reconstruction.finetune",
    "images": "calibration.images",
    "teachers": "calibration.teachers",
    "verifier": "calibration.verifier",
    "mixed_copies": "calibration.mixed_copies",
    "data": "evaluation.data",
    "metric": "evaluation.metric",
    "weights": "model.weights",
    "out": "output.folder",
    "seed": "execution.seed",
    "device": "execution.device",
    "threads": "execution.threads",
    "memory_limit": "execution.memory_limit",
    "size": "model.size",
    "resize": "model.resize",
    "mean": "model.mean",
    "std": "model.std",
    "channels": "model.channels",
    "range": "model.range",
    "task": "model.task",
    "format": "output.format",
    "layers": "quantization.layers",
    "tensors": "quantization.tensors",
}
"""The setting behind every option."""

_NAMES = {setting: option for option, setting in OPTIONS.items()}


def make_settings(model: str, bits: int = 8, *, settings: Mapping[str, Any] | None = None, **options: Any) -> Settings:
    """Make the settings of a run from options, as the command line has them.

    Args:
        model: its name, such as "resnet50".
        bits: of the weights, 2..8.
        settings: any other settings, by dotted name or nested.
        options: act_bits, preset, out, ...: the keys of `OPTIONS`. They come before `settings`.

    Raises:
        InputError: for an option or a setting that there is not, or a value that it cannot have.

    Example:
        >>> made = make_settings("resnet18", 4, preset="fast", settings={"reconstruction.iterations": 2000})
        >>> made.execution.preset, made.reconstruction.iterations
        ('fast', 2000)
    """
    given = {"model": model, "bits": bits, **options}
    return build(Settings, checked(Settings, flatten(Settings, settings or {})) | setting_values(given))


def setting_values(options: Mapping[str, Any], flags: bool = False) -> dict[str, Any]:
    """Return options as checked values by dotted name.

    Args:
        options: some of the keys of `OPTIONS`.
        flags: messages call them as the shell does, "--act-bits" and not "act_bits".

    Raises:
        InputError: for an option that there is not, or a value that it cannot have.
    """
    for name in options:
        if name not in OPTIONS:
            raise InputError(f"there is no option {name!r}{suggestion(name, OPTIONS)}")
    named = flag if flags else option_of
    return checked(Settings, {OPTIONS[name]: value for name, value in options.items()}, named)


def option_of(setting: str) -> str:
    """Return the option of a setting, or its dotted name where it has none.

    Example:
        >>> option_of("execution.seed"), option_of("reconstruction.batch")
        ('seed', 'reconstruction.batch')
    """
    return _NAMES.get(setting, setting)


def flag(setting: str) -> str:
    """Return the option of a setting as it is typed.

    Example:
        >>> flag("quantization.act_bits"), flag("quantization.layers")
        ('--act-bits', '--layer')
    """
    name = option_of(setting)
    once = {"layers": "layer", "tensors": "tensor"}.get(name, name)  # one pattern each time
    return f"--{once.replace('_', '-')}"


def pattern_texts(bits: Mapping[str, int | None]) -> list[str]:
    """Return bits by name pattern as `--layer` and `--tensor` take them.

    Example:
        >>> pattern_texts({"layer4.*": 8, "fc": None})
        ['layer4.*=8', 'fc=float']
    """
    return [f"{pattern}={FLOAT if count is None else count}" for pattern, count in bits.items()]


def named_values(settings: Settings) -> dict[str, Any]:
    """Return all settings by the names that a user knows: options, and dotted names where there is none.

    Example:
        >>> named_values(make_settings("resnet18", 4))["bits"]
        4
    """
    return {option_of(name): value for name, value in leaf_values(settings).items()}


def command(settings: Settings) -> str:
    """Return the `ptq quantize` that repeats a run; what is at its default is left out, and what is of `ptq distill` alone.

    Example:
        >>> command(make_settings("resnet18", 4, out="runs/a", settings={"reconstruction.batch": 16}))
        'ptq quantize --model resnet18 --bits 4 --set reconstruction.batch=16 --out runs/a'
    """
    return shlex.join(["ptq", "quantize", *_words(settings)])


def _words(settings: Settings) -> Iterator[str]:
    default = leaf_values(Settings(ModelSettings("")))
    always = ("model", "bits", "out")
    for setting, value in leaf_values(settings).items():
        option = option_of(setting)
        if setting.startswith("distillation.") or (value == default[setting] and option not in always):
            continue
        if option not in OPTIONS:
            yield from ("--set", f"{setting}={toml_text(value)}")
        elif isinstance(value, Mapping):
            for text in pattern_texts(value):
                yield from (flag(setting), text)
        elif value is True:
            yield flag(setting)
        else:
            yield from (flag(setting), _text(option, value))


def _text(option: str, value: Any) -> str:
    return ("x" if option == "size" else ",").join(map(str, value)) if isinstance(value, tuple) else str(value)
