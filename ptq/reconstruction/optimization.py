"""Fitting one unit, a block or a layer: learned roundings and learned scales of activations.

AdaRound's regularizer decides roundings only where it outweighs the loss for long: after a few hundred
iterations half of them still stand between two codes, and choosing the nearer one loses most of what was
learned. Here the rounding function itself becomes a jump from 0 to 1, by the end for every weight, and the loss has
the last word on each. There is no weight of a regularizer to choose for a network.
"""

import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq.distillation.learning import descend
from ptq.graph.blocks import Block
from ptq.graph.passes import device_of, rows_at
from ptq.progress import Task
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.drop_mask import DropMask
from ptq.reconstruction.kernels import blend, mean_error
from ptq.reconstruction.results import Curve
from ptq.reconstruction.soft_modules import FixedLayer, FloatLayer, SoftBlock, SoftLayer, soften
from ptq.utils import shares
from ptq.utils.autocast import fast_autocast
from ptq.utils.metrics import relative_worth
from ptq.utils.schedules import cosine

__all__ = ["Pair", "averaged", "optimize"]

POINTS = 50  # of a curve: a mean each, because reading every loss would make a GPU wait
TINY = 1e-20
FIRST = 8  # images that are looked at before anything is learned
NEGLIGIBLE = 0.01  # of the loss of nearest rounding


@dataclass(frozen=True)
class Pair:
    """What one unit is fitted to, by name, each (N, ...): its inputs, the float outputs, the errors' weights.

    They may be in bfloat16, and on another device than the unit.
    """

    x_quantized: Mapping[str, Tensor]
    x_float: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    weight: Mapping[str, Tensor] | None = None


def optimize(unit: Block, pair: Pair, config: ReconstructConfig, task: Task) -> tuple[Curve, ...]:
    """Fit one unit to its float outputs, in place; afterwards its roundings are decided.

    Args:
        unit: a part of a calibrated quantized model.
        pair: what it reads and should give.
        config: of the method; `seed` decides images and masks.
        task: told of every iteration, and up to 50 times of the loss relative to nearest rounding.

    Returns:
        A curve of at most 50 points for each descent: one, or two where scales follow roundings.
    """
    curves = []
    for roundings, scales in ((True, True),) if config.joint else ((True, False), (False, True)):
        device = device_of(unit.module, next(iter(pair.target.values())))
        drop = config.drop if scales else 0.0
        mask = DropMask(1 - drop, config.seed, device, share=shares.share(config.batch)) if drop else None
        block = soften(unit.module, mask, SoftLayer if roundings else FixedLayer, scales)
        if block.layers or block.scales:
            factors = _loss_factors(unit, pair, device)
            losses = _descend(unit, block, pair, config, factors, mask, device)
            curves.append(averaged(losses, config.iterations, task))
            block.commit()
        else:
            task.advance(config.iterations)
    return tuple(curves)


def _descend(
    unit: Block,
    block: SoftBlock,
    pair: Pair,
    config: ReconstructConfig,
    factors: Mapping[str, float],
    mask: DropMask | None,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the error of every iteration; `block` is what `unit` is while it is fitted."""
    images = len(next(iter(pair.target.values())))
    ridge = _ridge(unit, block, pair, config, factors, device)
    groups: list[dict[str, Any]] = [
        {"params": [m.alpha for m in block.layers], "lr": config.lr_rounding},
        {"params": [m.gain for m in block.scales], "lr": config.lr_scale},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    # All at once and where they are needed, so that no iteration waits for them.
    drawn = torch.randint(images, (config.iterations, config.batch), generator=generator)
    drawn = drawn.to(next(iter(pair.target.values())).device)
    own = shares.share(config.batch)  # of every batch, where there are several ranks
    for iteration in range(config.iterations):
        share = iteration / config.iterations
        # Roundings keep their pace to the end, where they are decided; scales come to rest.
        if block.scales:
            optimizer.param_groups[-1]["lr"] = config.lr_scale * cosine(share)
        sharpness = config.sharpness ** max(0.0, (share - config.warmup) / (1 - config.warmup))
        for layer in block.layers:
            layer.sharpness.fill_(sharpness)
        index = drawn[iteration, own.rows]
        with fast_autocast(device):
            inputs = [rows_at(pair.x_quantized[name], index, device) for name in unit.inputs]
            if mask is not None:
                floats = [rows_at(pair.x_float[name], index, device) for name in unit.inputs]
                inputs = [blend(f, x, mask(x)) for f, x in zip(floats, inputs, strict=True)]
            errors = _errors(unit.named(block(*inputs)), pair, index)
            error = functools.reduce(operator.add, (factors[name] * error for name, error in errors.items()))
            loss = error + ridge * block.departure() if ridge else error
        yield descend(optimizer, loss, error.detach(), own.weight)


def averaged(losses: Iterator[Tensor], iterations: int, task: Task) -> Curve:
    """Go through all iterations, tell of each, and return means of the loss over pieces of them, at most `POINTS`."""
    curve: list[float] = []
    recent: list[Tensor] = []
    for number, loss in enumerate(losses, 1):
        recent.append(loss)
        if len(recent) == -(-iterations // POINTS) or number == iterations:
            mean = float(torch.stack(recent).mean())
            curve.append(round(mean, 5))
            recent.clear()
            task.advance(loss=mean)
        else:
            task.advance()
    return tuple(curve)


def _errors(outputs: Mapping[str, Tensor], pair: Pair, index: Tensor) -> dict[str, Tensor]:
    """The mean squared error of every output for some images."""
    found = {}
    for name, target in pair.target.items():
        device = outputs[name].device
        weight = None if pair.weight is None else rows_at(pair.weight[name], index, device)
        found[name] = mean_error(outputs[name], rows_at(target, index, device), weight)
    return found


def _ridge(
    unit: Block,
    block: SoftBlock,
    pair: Pair,
    config: ReconstructConfig,
    factors: Mapping[str, float],
    device: torch.device,
) -> float:
    """What the departure of the roundings from the float weights counts in the loss; 0 where it would count next to nothing.

    A block with many weights for the numbers that they are fitted to learns to make good for what no weight is to
    blame for, the noise that its inputs and activations bring, as it is on these images. MobileNetV2's last blocks, with
    up to 20 weights for a number, come to 17 dB on 64 images that way, and to 7 dB on others. As in ridge regression
    (Hoerl & Kennard, 1970) that noise decides: it is the error that is left with weights in float.
    """
    weights = sum(layer.alpha.numel() for layer in block.layers)
    numbers = sum(target.numel() for target in pair.target.values())
    if config.ridge * weights < NEGLIGIBLE * numbers:
        return 0.0
    errors = _first_errors(unit, soften(unit.module, None, FloatLayer, config.joint), pair, device)
    return config.ridge / numbers * sum(factors[name] * float(error) for name, error in errors.items())


@torch.no_grad()
def _first_errors(unit: Block, module: nn.Module, pair: Pair, device: torch.device) -> dict[str, Tensor]:
    """The mean squared error of every output on the first images, if `module` computes the unit."""
    index = torch.arange(min(FIRST, len(next(iter(pair.target.values())))))
    inputs = [rows_at(pair.x_quantized[name], index, device).float() for name in unit.inputs]
    return _errors(unit.named(module(*inputs)), pair, index)


@torch.no_grad()
def _loss_factors(unit: Block, pair: Pair, device: torch.device) -> dict[str, float]:
    """What the mean squared error of every output counts, so that the loss of nearest rounding is 1 on the first images.

    Weights of errors say what each number of an output is worth to the network, and all numbers of all outputs add up.
    Without them an output counts by its noise relative to its signal: that is what `output_sqnr` keeps or discards
    results by. An output is not measured by the noise of nearest rounding in itself: one that is nearly right
    would then weigh as much as the one that has all of the noise.
    """
    targets = {name: target[:FIRST] for name, target in pair.target.items()}
    if pair.weight is None:
        worth = relative_worth([float(y.float().square().mean()) for y in targets.values()])
    else:
        largest = max(y.numel() for y in targets.values())
        worth = [y.numel() / largest for y in targets.values()]
    errors = _first_errors(unit, unit.module, pair, device).values()
    total = sum(w * float(error) for w, error in zip(worth, errors, strict=True))
    return {name: w / max(total, TINY) for name, w in zip(targets, worth, strict=True)}
