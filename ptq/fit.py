"""Fitting one unit, a block or a layer: learned rounding and learned activation steps.

AdaRound's regulariser decides roundings only where it outweighs the loss for long: after a few hundred
iterations half of them still stand between two codes, and choosing the nearer one loses most of what was
learned. Here the rounding function itself becomes a step, by the end for every weight, and the loss has
the last word on each. There is no weight of a regulariser to choose for a network.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ptq.methods import ReconstructConfig
from ptq.ops import module_of
from ptq.progress import Task
from ptq.quantizer import AdaRoundQuantizer, DropMask, Quantizer, QuantLayer, WeightQuantizer

__all__ = ["Pair", "learns", "optimise"]

NEAREST_ENOUGH = 8  # bits at which nearest rounding leaves nothing to learn


@dataclass(frozen=True)
class Pair:
    """What one unit is fitted to, each (N, ...): its inputs, the float output, the errors' weights."""

    x_quantized: Tensor
    x_float: Tensor
    target: Tensor
    weight: Tensor | None


def learns(module: nn.Module | None) -> bool:
    """Whether there is anything to gain over nearest rounding: below 8 bits."""
    if isinstance(module, QuantLayer):
        return module.weight_quantizer.spec.bits < NEAREST_ENOUGH
    return isinstance(module, Quantizer) and module.spec.bits < NEAREST_ENOUGH


def optimise(unit: fx.GraphModule, pair: Pair, config: ReconstructConfig, task: Task) -> None:
    """Fit one unit to its float output, in place; afterwards its roundings are decided.

    Args:
        unit: a part of a calibrated student with one input and one output.
        pair: what it reads and should give.
        config: of the method; `seed` decides images and masks.
        task: told of every iteration, with the loss relative to nearest rounding.
    """
    modules = [m for n in unit.graph.nodes if (m := module_of(unit, n)) is not None]
    layers = [m for m in modules if isinstance(m, QuantLayer) and learns(m)]
    steps = [m for m in modules if isinstance(m, Quantizer)]
    for phase in ("both",) if config.joint else ("weights", "steps"):
        _phase(
            unit,
            pair,
            config,
            task,
            layers if phase != "steps" else [],
            steps if phase != "weights" else [],
            steps,
        )


def _phase(
    unit: fx.GraphModule,
    pair: Pair,
    config: ReconstructConfig,
    task: Task,
    layers: list[QuantLayer],
    steps: list[Quantizer],
    quantizers: list[Quantizer],
) -> None:
    """Learn the roundings of `layers` and the scales of `steps`; other quantizers let float through."""
    if not layers and not steps:
        task.advance(config.iterations)
        return
    device = pair.target.device
    reference = _mean_error(unit, pair)
    mask = DropMask(1 - config.drop, config.seed, device) if config.drop else None
    in_float = None if config.joint else DropMask(0.0, config.seed, device)
    nearest = [layer.weight_quantizer for layer in layers]
    rounding = [_learn_rounding(layer) for layer in layers]
    for quantizer in quantizers:
        quantizer.scale.requires_grad_(quantizer in steps)
        quantizer.drop = mask if quantizer in steps else in_float
    unit.train()
    _descend(unit, pair, config, task, rounding, steps, mask, reference)
    unit.eval()
    for quantizer in quantizers:
        quantizer.drop = None
        quantizer.scale.requires_grad_(False)
    for layer, before, learned in zip(layers, nearest, rounding, strict=True):
        layer.op.weight.data.copy_(learned.hardened())
        layer.weight_quantizer = before


def _learn_rounding(layer: QuantLayer) -> AdaRoundQuantizer:
    assert isinstance(layer.weight_quantizer, WeightQuantizer)
    learned = AdaRoundQuantizer(layer.weight_quantizer, layer.op.weight)
    layer.weight_quantizer = learned
    return learned


def _descend(
    unit: fx.GraphModule,
    pair: Pair,
    config: ReconstructConfig,
    task: Task,
    rounding: list[AdaRoundQuantizer],
    steps: list[Quantizer],
    mask: DropMask | None,
    reference: float,
) -> None:
    groups: list[dict[str, Any]] = [
        {"params": [r.alpha], "lr": config.lr_rounding} for r in rounding
    ]
    groups += [{"params": [q.scale], "lr": config.lr_step * float(q.scale.detach())} for q in steps]
    optimizer = torch.optim.Adam(groups)
    # Roundings keep their pace to the end, where they are decided; steps settle.
    constant, cosine = lambda _: 1.0, lambda i: (1 + math.cos(math.pi * i / config.iterations)) / 2
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [constant] * len(rounding) + [cosine] * len(steps)
    )
    generator = torch.Generator().manual_seed(config.seed)
    for iteration in range(config.iterations):
        index = torch.randint(len(pair.target), (config.batch,), generator=generator)
        index = index.to(pair.target.device)
        share = (iteration / config.iterations - config.warmup) / (1 - config.warmup)
        for learned in rounding:
            learned.sharpness = config.sharpness ** max(0.0, share)
        x = pair.x_quantized.index_select(0, index)
        if mask is not None:
            x = torch.lerp(pair.x_float.index_select(0, index), x, mask(x))
        loss = _error(unit(x), pair, index) / reference
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay.step()
        task.advance(loss=float(loss.detach()))


def _error(output: Tensor, pair: Pair, index: Tensor) -> Tensor:
    error = (output - pair.target.index_select(0, index)).square()
    return (error if pair.weight is None else error * pair.weight.index_select(0, index)).mean()


@torch.no_grad()
def _mean_error(unit: fx.GraphModule, pair: Pair, images: int = 64) -> float:
    """The error of nearest rounding: the unit in which the loss is counted."""
    index = torch.arange(min(images, len(pair.target)), device=pair.target.device)
    return max(float(_error(unit(pair.x_quantized[index]), pair, index)), 1e-20)
