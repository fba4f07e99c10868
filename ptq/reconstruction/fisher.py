"""What an error of each number that a block gives costs the network's output (BRECQ, Li et al., ICLR 2021, eq. 10)."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from ptq.graph.blocks import Chain
from ptq.reconstruction.activation_cache import ActivationCache
from ptq.reconstruction.passes import in_parts

__all__ = ["fisher_weights"]


def fisher_weights(
    rest: Chain, target: Mapping[str, Tensor], alive: Mapping[str, Tensor], cache: ActivationCache
) -> dict[str, Tensor]:
    """Return squared gradients of the network's loss with respect to a block's outputs, mean 1 for every image.

    What the network is sure of has gradients next to 0: if images were not put on one scale, a few would decide
    everything (ResNet-20 W2A4: 79 % for 85 %). The mean is over all outputs: what an output is worth beside the others stays.

    Args:
        rest: of the float network behind the block.
        target: the block's outputs, cached.
        alive: what else `rest` reads, cached.
        cache: keeps the weights, in float32.
    """

    def parts() -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for part in in_parts(rest.alive(alive, target), rest):
            with torch.enable_grad():
                leaves = [part[name].requires_grad_() for name in target]
                loss = _loss(rest(part), generator)
                grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
            squares = [grad.square().flatten(1) for grad in grads]
            mean = (
                squares[0].mean(1, keepdim=True) if len(squares) == 1 else torch.cat(squares, 1).mean(1, keepdim=True)
            )
            weights = [square / mean.clamp(min=1e-30) for square in squares]
            yield {name: w.view_as(g) for name, w, g in zip(target, weights, grads, strict=True)}

    return cache.gather_named(parts(), len(next(iter(target.values()))), torch.float32)


def _loss(output: Any, generator: torch.Generator) -> Tensor:
    """What has the gradients that Fisher information is made of, over all outputs.

    Of one prediction of classes, the cross-entropy with itself. Other outputs count as the means of normal distributions,
    each of its own scale: squared gradients of their numbers, with random signs, are on average the diagonal of the
    Gauss-Newton matrix.
    """
    outputs = [y for y in pytree.tree_leaves(output) if isinstance(y, Tensor) and y.requires_grad]
    if len(outputs) == 1 and outputs[0].dim() == 2:
        (logits,) = outputs
        return F.cross_entropy(logits, logits.argmax(1), reduction="sum")
    losses = []
    for y in outputs:
        signs = torch.randint(2, y.shape, generator=generator).to(y) * 2 - 1
        losses.append((y * signs).sum() / (y.detach().std() * y[0].numel() ** 0.5).clamp(min=1e-12))
    return torch.stack(losses).sum()
