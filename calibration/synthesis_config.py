"""How images are synthesized, as data: MixMix and, in the same terms, the methods it is compared with.

mixmix         Li et al., ICCV 2021: several teachers, mixed images, pixels as such
zeroq          Cai et al., CVPR 2020: every image matches the statistics by itself; no labels, no prior
deepinversion  Yin et al., CVPR 2020: the batch matches; labels, total variation, jitter
genie          Jeon et al., CVPR 2023: a generator and latents per batch, strides that swing; no labels
synq           Kim et al., ICLR 2025: GENIE's images, low-passed

Published weights and rates where they were published; MixMix's were not available to us, those here are
ours, found by ablation (`python -m benchmarks.datafree`).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

from ptq.errors import InputError
from ptq.models.model import Preprocess

__all__ = ["PRESETS", "RECIPES", "SynthesisConfig", "synthesis_preset"]


@dataclass(frozen=True)
class SynthesisConfig:
    """How many images, at what expense, and the terms of the objective with their weights.

    The defaults are MixMix for images of about 32 pixels; `synthesis_preset` has others for larger ones.

    Attributes:
        recipe: a key of `RECIPES`, for the record.
        images: how many in all.
        batch: optimized together, and sharing the batch statistics that are matched; at least 2.
        iterations: Adam steps per batch.
        half: the share of those at half resolution, which costs a quarter; in [0, 1].
        parameterization: what is optimized: the pixels themselves, a pyramid of levels that add up to them, or latents
            and a generator of them (GENIE).
        focus: let the finest levels of a pyramid show only in patches (`ptq.calibration.objectives.focus_map`).
        start: noise that pixels start from: "pink" has large shapes too, "white" has none.
        lr: Adam's step, of pixels in units of [0, 1] RGB.
        betas: Adam's.
        schedule: of the step within each resolution: to zero as a cosine, or lower on a plateau.
        matching: a key of `ptq.calibration.bn_statistics.MATCHING`: how statistics are compared.
        per_image: compare each image's own statistics rather than the batch's (ZeroQ).
        bn: weight of the BatchNorm statistics.
        first_bn: of the first BatchNorm, which sees the colors, relative to the others.
        label: weight of the cross-entropy.
        tv: weight of the total variation.
        sparse: the total variation is of lengths of differences rather than of their squares.
        standard: weight of every image's own mean and deviation being the normalization's.
        jitter: largest shift as a share of the side.
        flip: mirror every other time.
        swing: shift the input of every strided convolution by up to a pixel at random (GENIE).
        low_pass: cut-off of a Gaussian low-pass of the result, in cycles per pixel; 0 for none (SynQ).
        data_mixing: paste every image's partner into a random box.
        mixed: in this share of the steps. In the others the images have to match by themselves.
        feature_mixing: how several teachers share the work. "halves": the first makes half of the batches, the
            others the other half and take turns at its steps. "turns": all take turns at the steps of every
            batch. "sum": all look at every step.
        seed: of everything random; same seed, same machine, same images.

    Raises:
        InputError: for values out of range.
    """

    recipe: str = "mixmix"
    images: int = 256
    batch: int = 128
    iterations: int = 150
    half: float = 0.5
    parameterization: Literal["pixels", "pyramid", "generator"] = "pixels"
    focus: bool = False
    start: Literal["pink", "white"] = "pink"
    lr: float = 0.05
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: Literal["cosine", "plateau"] = "cosine"
    matching: str = "relative"
    per_image: bool = False
    bn: float = 1.0
    first_bn: float = 10.0
    label: float = 0.03
    tv: float = 3.0
    sparse: bool = False
    standard: float = 0.0
    jitter: float = 0.0625
    flip: bool = True
    swing: bool = False
    low_pass: float = 0.0
    data_mixing: bool = True
    mixed: float = 0.3
    feature_mixing: Literal["halves", "turns", "sum"] = "halves"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            if choices and getattr(self, name) not in choices:
                raise InputError(f"synthesis: {name} must be one of {', '.join(choices)}.")
        for name, least in (("images", 1), ("batch", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise InputError(f"synthesis: {name} is {getattr(self, name)}; it must be at least {least}.")
        if not (0 <= self.half <= 1 and 0 <= self.jitter < 1 and self.lr > 0):
            raise InputError("synthesis: half must be in [0, 1], jitter in [0, 1) and lr above 0.")
        if not (0 <= self.mixed <= 1 and self.low_pass >= 0):
            raise InputError("synthesis: mixed must be in [0, 1] and low_pass at least 0.")


def _mixmix(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return config


def _zeroq(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    # lr 0.5 in units of the normalization's deviation, about 0.225 of RGB's range.
    return replace(
        _bare(config),
        recipe="zeroq",
        lr=0.11,
        betas=(0.9, 0.999),
        schedule="plateau",
        matching="squares",
        per_image=True,
        standard=1.0,
    )


def _deepinversion(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    # Published with other weights for CIFAR than for ImageNet. Its total variation is un-squared, of normalized
    # images; these weights have the same pull on the differences that images end with.
    return replace(
        _bare(config),
        recipe="deepinversion",
        lr=0.05,
        betas=(0.5, 0.9),
        matching="norms",
        bn=10.0 if small else 0.01,
        first_bn=1.0 if small else 10.0,
        label=1.0,
        tv=8.0 if small else 88.0,
        jitter=2 / 32 if small else 30 / 224,
        flip=True,
        half=0.0 if small else 2 / 3,
    )


def _genie(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return replace(
        _bare(config),
        recipe="genie",
        parameterization="generator",
        lr=0.1,
        betas=(0.9, 0.999),
        matching="mean squares",
        standard=1.0,
        swing=True,
    )


def _synq(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return replace(_genie(config, small), recipe="synq", low_pass=80 / 224)


def _bare(config: SynthesisConfig) -> SynthesisConfig:
    """The budget of `config`, and an objective of BatchNorm statistics only."""
    return replace(
        config,
        parameterization="pixels",
        focus=False,
        start="white",
        half=0.0,
        bn=1.0,
        first_bn=1.0,
        label=0.0,
        tv=0.0,
        sparse=False,
        jitter=0.0,
        flip=False,
        data_mixing=False,
    )


RECIPES: dict[str, Callable[[SynthesisConfig, bool], SynthesisConfig]] = {
    "mixmix": _mixmix,
    "zeroq": _zeroq,
    "deepinversion": _deepinversion,
    "genie": _genie,
    "synq": _synq,
}
"""Each takes a budget (images, batch, iterations, resolution, seed), and whether it is for images of at most 64
pixels a side, and sets the objective."""

SMALL = 64  # pixels a side
_SMALL = SynthesisConfig()
_LARGE = SynthesisConfig(
    batch=32, half=0.75, parameterization="pyramid", focus=True, lr=0.01, tv=1.0, sparse=True, feature_mixing="turns"
)

# Images up to 64 pixels a side are cheap. Larger ones are few and mostly made at half resolution; their
# neighboring pixels are closer, so they take more smoothing. Their large shapes are too large for steps on
# pixels: EfficientNet-Lite0's first BatchNorm saw 0.46 of the variance it knows, on a pyramid 0.95.
# Without a focus texture is everywhere: in the input of its fourth block the direction from flat to textured had 0.38 of
# the energy that it has in photographs, with one 0.9; accuracy did not mind, and the images look like photographs.
# Several teachers: half of the images from the first alone brings ResNet-20 at W3A3 from 84.6 to 85.2 %, and
# EfficientNet-Lite0 at W4A4 from 81.7 to 78.9 % (benchmarks/results/datafree.md).
PRESETS: dict[str, tuple[SynthesisConfig, SynthesisConfig]] = {
    "fast": (replace(_SMALL, images=128, iterations=100), replace(_LARGE, images=32, iterations=100, half=0.8)),
    "default": (replace(_SMALL, images=256, iterations=150), replace(_LARGE, images=64, iterations=200)),
    "best": (replace(_SMALL, images=1024, iterations=400), replace(_LARGE, images=256, iterations=500)),
}
"""For small (up to 64 pixels) and for large inputs."""


def synthesis_preset(name: str, preprocess: Preprocess, recipe: str = "mixmix", **changes: object) -> SynthesisConfig:
    """The settings called "fast", "default" or "best" for a network with this input.

    Args:
        name: a key of `PRESETS`.
        preprocess: says how large the images are.
        recipe: a key of `RECIPES`.
        changes: fields to set otherwise, last.

    Raises:
        InputError: when preset or recipe is unknown.

    Example:
        >>> synthesis_preset("fast", model.preprocess).images
        32
        >>> synthesis_preset("fast", model.preprocess, "genie").parameterization
        'generator'
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    if recipe not in RECIPES:
        raise InputError(f"there is no recipe {recipe!r}; choose one of {', '.join(RECIPES)}.")
    unknown = changes.keys() - {field.name for field in fields(SynthesisConfig)}
    if unknown:
        raise InputError(f"synthesis has no setting {', '.join(sorted(unknown))}.")
    small = max(preprocess.size) <= SMALL
    config = RECIPES[recipe](PRESETS[name][0 if small else 1], small)
    return replace(config, **changes)  # type: ignore[arg-type]
