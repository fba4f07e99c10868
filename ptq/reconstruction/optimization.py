"""Fitting one unit, a block or a layer: learned roundings and learned scales of activations.

AdaRound's regularizer decides roundings only where it outweighs the loss for long: after a few hundred
iterations half of them still stand between two codes, and choosing the nearer one loses most of what was
learned. Here the rounding function itself becomes a jump from 0 to 1, by the end for every weight, and the loss has
the last word on each. There is no weight of a regularizer to choose for a network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ptq.progress import Task
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.kernels import blend, mean_error
from ptq.reconstruction.results import Curve
from ptq.reconstruction.soft_modules import DropMask, FixedLayer, SoftBlock, SoftLayer, soften
from ptq.utils.autocast import fast_autocast

__all__ = ["Pair", "averaged", "optimize"]

POINTS = 50  # of a curve: a mean each, because reading every loss would make a GPU wait
TINY = 1e-20


@dataclass(frozen=True)
class Pair:
    """What one unit is fitted to, each (N, ...): its inputs, the float output, the errors' weights.

    They may be in bfloat16, and on another device than the unit.
    """

    x_quantized: Tensor
    x_float: Tensor
    target: Tensor
    weight: Tensor | None = None


def optimize(unit: fx.GraphModule, pair: Pair, config: ReconstructConfig, task: Task) -> tuple[Curve, ...]:
    """Fit one unit to its float output, in place; afterwards its roundings are decided.

    Args:
        unit: a part of a calibrated quantized model with one input and one output.
        pair: what it reads and should give.
        config: of the method; `seed` decides images and masks.
        task: told of every iteration, and up to 50 times of the loss relative to nearest rounding.

    Returns:
        A curve of at most 50 points for each descent: one, or two where scales follow roundings.
    """
    curves = []
    for roundings, scales in ((True, True),) if config.joint else ((True, False), (False, True)):
        device = next(iter(unit.state_dict().values()), pair.target).device
        drop = config.drop if scales else 0.0
        mask = DropMask(1 - drop, config.seed, device) if drop else None
        block = soften(unit, mask, SoftLayer if roundings else FixedLayer, scales)
        if block.layers or block.scales:
            factor = _loss_factor(unit, pair, device)
            curves.append(averaged(_descend(block, pair, config, factor, mask, device), config.iterations, task))
            block.commit()
        else:
            task.advance(config.iterations)
    return tuple(curves)


def _descend(
    block: SoftBlock, pair: Pair, config: ReconstructConfig, factor: float, mask: DropMask | None, device: torch.device
) -> Iterator[Tensor]:
    """Yield the loss of every iteration."""
    groups: list[dict[str, Any]] = [
        {"params": [m.alpha for m in block.layers], "lr": config.lr_rounding},
        {"params": [m.gain for m in block.scales], "lr": config.lr_scale},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    for iteration in range(config.iterations):
        share = iteration / config.iterations
        # Roundings keep their pace to the end, where they are decided; scales come to rest.
        if block.scales:
            cosine = (1 + math.cos(math.pi * share)) / 2
            optimizer.param_groups[-1]["lr"] = config.lr_scale * cosine
        sharpness = config.sharpness ** max(0.0, (share - config.warmup) / (1 - config.warmup))
        for layer in block.layers:
            layer.sharpness.fill_(sharpness)
        index = torch.randint(len(pair.target), (config.batch,), generator=generator)
        with fast_autocast(device):
            x = _rows(pair.x_quantized, index, device)
            if mask is not None:
                x = blend(_rows(pair.x_float, index, device), x, mask(x))
            loss = factor * _loss(block(x), pair, index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield loss.detach()


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


def _rows(values: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Some rows on the device, in the memory layout they have."""
    index = index.to(values.device)
    if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
        # Whole rows of memory; index_select itself would bring images into another layout.
        rows = values.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    else:
        rows = values.index_select(0, index)
    return rows.to(device)


def _loss(output: Tensor, pair: Pair, index: Tensor) -> Tensor:
    """The mean squared error of the output for some images."""
    target = _rows(pair.target, index, output.device)
    weight = None if pair.weight is None else _rows(pair.weight, index, output.device)
    return mean_error(output, target, weight)


@torch.no_grad()
def _loss_factor(unit: fx.GraphModule, pair: Pair, device: torch.device, images: int = 8) -> float:
    """The factor that makes the loss of nearest rounding 1 on the first images."""
    index = torch.arange(min(images, len(pair.target)))
    output = unit(_rows(pair.x_quantized, index, device).float())
    return 1 / max(float(_loss(output, pair, index)), TINY)
