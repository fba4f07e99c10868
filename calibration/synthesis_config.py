"""How images are synthesized, as data: MixMix and, in the same terms, the methods it is compared with.

mixmix         Li et al., ICCV 2021: several teachers, mixed images, pixels as such
zeroq          Cai et al., CVPR 2020: every image matches the statistics by itself; no labels, no prior
deepinversion  Yin et al., CVPR 2020: the batch matches; labels, total variation, jitter
genie          Jeon et al., CVPR 2023: a generator and latents per batch, strides that swing; no labels
synq           Kim et al., ICLR 2025: GENIE's images, low-passed

Weights and rates are the published ones where there are any. MixMix's were not available to us. Those here are ours,
found by ablation (`python -m benchmarks.datafree`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ptq.calibration.objectives import BatchNormStatistics, ImageMoments, Label, SparseVariation, Term, TotalVariation
from ptq.config.choices import check_choice
from ptq.data.preprocess import Preprocess
from ptq.errors import InputError

__all__ = ["PRESETS", "SYNTHESIS_METHODS", "SynthesisConfig", "is_small", "synthesis_preset"]


@dataclass(frozen=True)
class SynthesisConfig:
    """How many images are synthesized, towards what, and at what expense.

    The defaults are MixMix for images of about 32 pixels; `synthesis_preset` has others for larger ones.

    Attributes:
        method: a key of `SYNTHESIS_METHODS`, for the record.
        count: how many images in all.
        batch: images that are optimized together and share the batch statistics; at least 2.
        iterations: Adam steps per batch.
        half_resolution: share of the steps that are made at half resolution, which costs a quarter; in [0, 1].
        terms: of the objective, each with its weight; see `ptq.calibration.objectives`.
        parameterization: what is optimized: the pixels themselves, a pyramid of levels that add up to them, or latents
            and a generator of them (GENIE).
        focus: whether the finest levels of a pyramid show only in patches (`ptq.data.image_ops.focus_map`).
        initial_noise: what pixels start from: "pink" has large shapes, "white" has none.
        lr: Adam's step size; of pixels in units of [0, 1] RGB.
        betas: Adam's.
        schedule: of the step size, within each resolution: to zero as a cosine, or lower on a plateau.
        per_image: whether each image's own statistics are compared, in place of the batch's (ZeroQ).
        jitter: largest shift as a share of the side, in [0, 1).
        flip: whether to mirror every other time.
        swing: whether to shift the input of every strided convolution by up to a pixel at random (GENIE).
        low_pass: cut-off of a Gaussian low-pass of the result, in cycles per pixel; 0 for none (SynQ).
        data_mixing: share of the steps in which every image's partner is pasted into a random box, in [0, 1]. In the
            other steps the images have to match by themselves.
        feature_mixing: how several teachers share the work. "halves": the first makes half of the batches, the
            others the other half and take turns at its steps. "turns": all take turns at the steps of every
            batch. "sum": all look at every step.
        seed: of everything random; same seed, same machine, same images.

    Raises:
        InputError: for values out of range.

    Example:
        >>> SynthesisConfig(count=8, batch=8, terms=(BatchNormStatistics(), TotalVariation(weight=3.0))).lr
        0.05
    """

    method: str = "mixmix"
    count: int = 256
    batch: int = 128
    iterations: int = 150
    half_resolution: float = 0.5
    terms: tuple[Term, ...] = (TotalVariation(3.0), BatchNormStatistics(), Label(0.03))
    parameterization: Literal["pixels", "pyramid", "generator"] = "pixels"
    focus: bool = False
    initial_noise: Literal["pink", "white"] = "pink"
    lr: float = 0.05
    betas: tuple[float, float] = (0.5, 0.9)
    schedule: Literal["cosine", "plateau"] = "cosine"
    per_image: bool = False
    jitter: float = 0.0625
    flip: bool = True
    swing: bool = False
    low_pass: float = 0.0
    data_mixing: float = 0.3
    feature_mixing: Literal["halves", "turns", "sum"] = "halves"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            if choices and getattr(self, name) not in choices:
                raise InputError(f"synthesis: {name} must be one of {', '.join(choices)}.")
        for name, least in (("count", 1), ("batch", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise InputError(f"synthesis: {name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("half_resolution", "data_mixing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"synthesis: {name} is {getattr(self, name)}; it must be in [0, 1].")
        if not (0 <= self.jitter < 1 and self.lr > 0 and self.low_pass >= 0):
            raise InputError("synthesis: jitter must be in [0, 1), lr above 0 and low_pass at least 0.")
        if not self.terms or not all(isinstance(term, Term) for term in self.terms):
            raise InputError("synthesis: terms must be objects of subclasses of Term, at least one.")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able data; each term says what it is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "terms": [term.to_json() for term in self.terms]}


def _mixmix(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return config


def _zeroq(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    # lr 0.5 in units of the normalization's deviation, about 0.225 of RGB's range.
    return replace(
        _bare(config),
        method="zeroq",
        terms=(BatchNormStatistics(first=1.0, rule="squares"), ImageMoments()),
        lr=0.11,
        betas=(0.9, 0.999),
        schedule="plateau",
        per_image=True,
    )


def _deepinversion(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    # Published with other weights for CIFAR than for ImageNet. Its total variation is un-squared, of normalized
    # images; these weights have the same pull on the differences that images end with.
    weights = (TotalVariation(8.0), BatchNormStatistics(10.0, first=1.0, rule="norms"))
    if not small:
        weights = (TotalVariation(88.0), BatchNormStatistics(0.01, first=10.0, rule="norms"))
    return replace(
        _bare(config),
        method="deepinversion",
        terms=(*weights, Label(1.0)),
        lr=0.05,
        betas=(0.5, 0.9),
        jitter=2 / 32 if small else 30 / 224,
        flip=True,
        half_resolution=0.0 if small else 2 / 3,
    )


def _genie(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return replace(
        _bare(config),
        method="genie",
        terms=(BatchNormStatistics(first=1.0, rule="mean squares"), ImageMoments()),
        parameterization="generator",
        lr=0.1,
        betas=(0.9, 0.999),
        swing=True,
    )


def _synq(config: SynthesisConfig, small: bool) -> SynthesisConfig:
    return replace(_genie(config, small), method="synq", low_pass=80 / 224)


def _bare(config: SynthesisConfig) -> SynthesisConfig:
    """The budget of `config`, without what MixMix adds to plain pixels."""
    return replace(
        config,
        half_resolution=0.0,
        parameterization="pixels",
        focus=False,
        initial_noise="white",
        jitter=0.0,
        flip=False,
        data_mixing=0.0,
    )


SYNTHESIS_METHODS: dict[str, Callable[[SynthesisConfig, bool], SynthesisConfig]] = {
    "mixmix": _mixmix,
    "zeroq": _zeroq,
    "deepinversion": _deepinversion,
    "genie": _genie,
    "synq": _synq,
}
"""Each takes the configuration of a preset and whether it is for images of at most 64 pixels a side. It keeps the budget
(count, batch, iterations, seed) and sets the rest."""

SMALL = 64  # pixels a side
_SMALL = SynthesisConfig()
_LARGE = SynthesisConfig(
    batch=32,
    half_resolution=0.75,
    terms=(SparseVariation(1.0), BatchNormStatistics(), Label(0.03)),
    parameterization="pyramid",
    focus=True,
    lr=0.01,
    feature_mixing="turns",
)

# Images up to 64 pixels a side are cheap. Larger ones are few and mostly made at half resolution. Their neighboring
# pixels are closer, so they take more smoothing. Steps on pixels hardly reach their large shapes: EfficientNet-Lite0's
# first BatchNorm saw 0.46 of the variance it knows on pixels, and 0.95 on a pyramid.
# Without a focus, texture is everywhere. In the input of the fourth block the direction from flat to textured had 0.38
# of the energy that it has in photographs without a focus, and 0.9 with one. Accuracy did not change.
# Several teachers: half of the images from the first alone brings ResNet-20 at W3A3 from 84.6 to 85.2 %, and
# EfficientNet-Lite0 at W4A4 from 81.7 to 78.9 % (benchmarks/results/datafree.md).
PRESETS: dict[str, tuple[SynthesisConfig, SynthesisConfig]] = {
    "fast": (
        replace(_SMALL, count=128, iterations=100),
        replace(_LARGE, count=32, iterations=100, half_resolution=0.8),
    ),
    "default": (replace(_SMALL, count=256, iterations=150), replace(_LARGE, count=64, iterations=200)),
    "best": (replace(_SMALL, count=1024, iterations=400), replace(_LARGE, count=256, iterations=500)),
}
"""For small (up to 64 pixels) and for large inputs."""


def is_small(preprocess: Preprocess) -> bool:
    """Return whether images are as small as those of CIFAR or Tiny ImageNet, which are cheap to make."""
    return max(preprocess.size) <= SMALL


def synthesis_preset(
    name: str,
    preprocess: Preprocess,
    method: str = "mixmix",
    weights: Mapping[str, float] | None = None,
    **changes: object,
) -> SynthesisConfig:
    """Return the settings called "fast", "default" or "best" for a network with this input.

    Args:
        name: a key of `PRESETS`.
        preprocess: says how large the images are.
        method: a key of `SYNTHESIS_METHODS`.
        weights: class name of a term of the method -> another weight.
        changes: fields of `SynthesisConfig` to set otherwise, after the method.

    Raises:
        InputError: when preset, method, a term or a field is unknown.

    Example:
        >>> from ptq.data.preprocess import IMAGENET
        >>> synthesis_preset("fast", IMAGENET).count
        32
        >>> synthesis_preset("fast", IMAGENET, "genie").parameterization
        'generator'
        >>> synthesis_preset("fast", IMAGENET, weights={"Label": 0.1}).terms[-1]
        Label(weight=0.1)
    """
    check_choice(name, PRESETS, "preset")
    check_choice(method, SYNTHESIS_METHODS, "synthesis method")
    unknown = changes.keys() - {field.name for field in fields(SynthesisConfig)}
    if unknown:
        raise InputError(f"synthesis has no setting {', '.join(sorted(unknown))}.")
    small = is_small(preprocess)
    config = SYNTHESIS_METHODS[method](PRESETS[name][0 if small else 1], small)
    config = replace(config, terms=_reweighted(config.terms, weights or {}))
    return replace(config, **changes)  # type: ignore[arg-type]


def _reweighted(terms: tuple[Term, ...], weights: Mapping[str, float]) -> tuple[Term, ...]:
    names = [type(term).__name__ for term in terms]
    if unknown := sorted(weights.keys() - set(names)):
        raise InputError(f"the objective has no term {', '.join(unknown)}; it has {', '.join(names)}.")
    return tuple(replace(term, weight=weights.get(name, term.weight)) for name, term in zip(names, terms, strict=True))
