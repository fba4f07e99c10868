"""Strided convolutions that look at another grid of pixels every time (GENIE, Jeon et al., CVPR 2023).

A convolution of stride 2 skips three of four positions, always the same ones: gradients through it paint a
checkerboard into an image, which no network sees and every later layer of another network does. Shifting
its input by up to one pixel at random spreads them evenly.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["swing"]


@contextmanager
def swing(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Shift the inputs of strided convolutions by -1, 0 or 1 pixel each way, within this context.

    Borders are reflected. `generator` is on the CPU and decides the shifts.

    Example:
        >>> with swing(net, torch.Generator().manual_seed(0)):
        ...     logits = net(images)  # a little different every time
    """

    def shift(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        height, width = x.shape[-2:]
        if min(height, width) < 2:  # nothing to reflect
            return inputs
        down, right = torch.randint(3, (2,), generator=generator).tolist()
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return (padded[..., down : down + height, right : right + width], *inputs[1:])

    strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    hooks = [m.register_forward_pre_hook(shift) for m in strided]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
