"""Reconstruction methods, each a configuration of the one loop in `ptq.reconstruction.loop`.

AdaRound (Nagel et al., ICML 2020)   one layer at a time, weights first, then scales of activations
BRECQ    (Li et al., ICLR 2021)      one block at a time, weights first, then scales of activations;
                                     errors weighted by squared output gradients
QDrop    (Wei et al., ICLR 2022)     one block at a time, weights and scales together, half of the
                                     activations left in float at random; of BRECQ's weights where they are needed
"""

from dataclasses import dataclass, replace
from typing import Literal

from ptq.config.choices import check_choice

__all__ = ["ITERATIONS", "METHODS", "ReconstructConfig", "method_preset"]


@dataclass(frozen=True)
class ReconstructConfig:
    """How blocks are reconstructed.

    Args:
        unit: what is optimized at once.
        joint: learn roundings and scales of activations together; otherwise roundings first, then scales.
        drop: share of the activations left in float at random, of block inputs and inside (QDrop).
        fisher: weight errors by squared gradients of the network's loss (BRECQ): "on", "off", or "auto", only in blocks
            whose noise lies where it costs the network little.
        iterations: per unit and phase; 0 keeps nearest rounding everywhere.
        batch: images per iteration.
        lr_rounding: Adam learning rate of the rounding variables.
        lr_scale: Adam learning rate of the scales of activations, relative to each scale; falls as a cosine.
        warmup: share of the iterations before roundings begin to be decided.
        ridge: what the way from a weight to its rounding counts beside the error of one number of the output; 0 for nothing.
        sharpness: of the roundings at the end; it grows geometrically from 1.
        tune_below: a block where all has 8 bits is tuned if nearest rounding leaves its output fewer dB than this; 0 tunes none
            but the hopeless.
        correct_bias: where nearest rounding stays, let a bias take the mean error out.
        finetune: iterations of the whole network behind all units; 0 for none.
        lr_finetune: Adam learning rate of what that learns: scales relative to each, biases in standard deviations of the
            channel; falls as a cosine.
        seed: same seed, same machine: same result, bit for bit.
    """

    unit: Literal["layer", "block"] = "block"
    joint: bool = True
    drop: float = 0.5
    fisher: Literal["auto", "on", "off"] = "auto"
    iterations: int = 1000
    batch: int = 32
    lr_rounding: float = 0.1
    lr_scale: float = 1e-3
    warmup: float = 0.2
    ridge: float = 0.3
    sharpness: float = 100.0
    tune_below: float = 25.0
    correct_bias: bool = True
    finetune: int = 0
    lr_finetune: float = 1e-3
    seed: int = 0


METHODS: dict[str, ReconstructConfig] = {
    "qdrop": ReconstructConfig(),
    "brecq": ReconstructConfig(joint=False, drop=0.0, fisher="on", ridge=0.0),
    "adaround": ReconstructConfig(unit="layer", joint=False, drop=0.0, fisher="off", ridge=0.0),
    "nearest": ReconstructConfig(iterations=0),
}


# Iterations, and pixels per iteration: 32 images of 32x32, or 8 of 224x224, hold about as much to
# learn from, and the time of an iteration stays within bounds on a CPU.
ITERATIONS = {"fast": 60, "default": 400, "best": 4000}
SMALL, LARGE = 32, 8
LR_LARGE = 3e-4  # of fine-tuning with few images at a time: larger steps fit these, and not the others


def method_preset(method: str, preset: str, size: tuple[int, int] = (224, 224)) -> ReconstructConfig:
    """Return a method with a preset's budget.

    Args:
        method: a key of `METHODS`.
        preset: "fast", "default" or "best".
        size: (height, width) of the network's input.

    Raises:
        InputError: when method or preset is unknown.

    Example:
        >>> method_preset("qdrop", "default", (32, 32)).batch
        32
    """
    check_choice(method, METHODS, "method")
    check_choice(preset, ITERATIONS, "preset")
    config = METHODS[method]
    if not config.iterations:
        return config
    batch = SMALL if max(size) <= 64 else LARGE
    tune_below = 0.0 if preset == "fast" else config.tune_below
    lr_finetune = config.lr_finetune if batch == SMALL else LR_LARGE
    return replace(config, iterations=ITERATIONS[preset], batch=batch, tune_below=tune_below, lr_finetune=lr_finetune)
