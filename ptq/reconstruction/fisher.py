"""What an error of each number that a block gives costs the network's output (BRECQ, Li et al., ICLR 2021, eq. 10)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ptq.graph.blocks import Chain
from ptq.graph.passes import BATCH, cached, in_parts
from ptq.tasks.task import Task
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.metrics import relative_worth

__all__ = ["fisher_weights", "share_that_counts"]


def fisher_weights(
    rest: Chain, target: Mapping[str, Tensor], alive: Mapping[str, Tensor], cache: ActivationCache, task: Task
) -> dict[str, Tensor]:
    """Return squared gradients of the network's loss with respect to a block's outputs, mean 1 for every image.

    The loss is that of the network's own outputs (`Task.surprise`).
    What the network is sure of has gradients next to 0: if images were not put on one scale, a few would decide
    everything (ResNet-20 W2A4: 79 % for 85 %). The mean is over all outputs: what an output is worth beside the others stays.

    Args:
        rest: of the float network behind the block.
        target: the block's outputs, cached.
        alive: what else `rest` reads, cached.
        cache: keeps the weights, in float32.
        task: what the network is for.
    """

    def parts(rows: slice) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        read = {name: values[rows] for name, values in rest.alive(alive, target).items()}
        for number, part in enumerate(in_parts(read, rest)):
            with torch.enable_grad():
                leaves = [part[name].requires_grad_() for name in target]
                output = rest(part)
                for _ in range(0 if number else rows.start // BATCH):
                    task.surprise(output, generator)  # draws what it does for the images of the ranks before
                loss = task.surprise(output, generator)
                if loss.requires_grad:
                    grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
                else:  # the network gives whole numbers alone: all errors count the same
                    grads = tuple(map(torch.ones_like, leaves))
            squares = [grad.square().reshape(len(grad), -1) for grad in grads]  # also of one number for an image
            mean = (
                squares[0].mean(1, keepdim=True) if len(squares) == 1 else torch.cat(squares, 1).mean(1, keepdim=True)
            )
            weights = [square / mean.clamp(min=1e-30) for square in squares]
            yield {name: w.view_as(g) for name, w, g in zip(target, weights, grads, strict=True)}

    return cached(parts, len(next(iter(target.values()))), cache, torch.float32)


def share_that_counts(
    target: Mapping[str, Tensor], given: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> float:
    """Return what the noise of a block costs the network, as a multiple of what it would if it lay anywhere.

    Around 1 where noise and worth have nothing to do with one another. Far below 1 where most of the noise is errors that
    nothing depends on, as of a few very large values whose range is cut off on purpose: a plain sum of squares would be
    a sum of these. Of several outputs, each counts relative to its signal.

    Args:
        target, given: the outputs of a block as they should be and as they are, by name.
        weights: what errors cost, shaped like them (`fisher_weights`).

    Example:
        >>> wanted, given = {"y": torch.tensor([[1.0, 5.0]])}, {"y": torch.tensor([[1.0, 3.0]])}
        >>> round(share_that_counts(wanted, given, {"y": torch.tensor([[1.9, 0.1]])}), 6)
        0.1
    """
    worth = relative_worth([float(y.float().square().mean()) for y in target.values()])
    plain = weighted = 0.0
    for (name, y), share in zip(target.items(), worth, strict=True):
        errors, weight = (given[name].float() - y.float()).square(), weights[name]
        plain += share * float(errors.mean())
        weighted += share * float((errors * weight).mean() / weight.mean().clamp(min=1e-30))
    return weighted / plain if plain else 1.0
