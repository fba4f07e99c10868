"""Which order of numbers in memory a network computes fastest in."""

import functools

import torch
from torch import Tensor, nn

__all__ = ["use_fastest_layout"]


@torch.no_grad()
def use_fastest_layout(module: nn.Module, example: Tensor) -> None:
    """Have a network compute with the channels of a pixel side by side, in place, where it runs so: convolutions are faster.

    `x.view(len(x), -1)` behind a convolution does not; such a network gets its input in the order that PyTorch has by default, whatever it is given.

    Args:
        module: as its user wrote it.
        example: an input of it, (N, C, H, W), on its device.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        >>> use_fastest_layout(network, torch.rand(1, 3, 8, 8))
        >>> network(torch.rand(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
        True
    """
    layout = torch.channels_last
    try:
        module.to(memory_format=layout)
        module(example.contiguous(memory_format=layout))
    except RuntimeError:  # a parameter of five dimensions cannot be so, either
        layout = torch.contiguous_format
        module.to(memory_format=layout)
    module.register_forward_pre_hook(functools.partial(_lay_out, layout))


def _lay_out(layout: torch.memory_format, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous(memory_format=layout) if x.dim() == 4 else x.contiguous() for x in args)
