"""Half precision where the processor has it, and where it is faster.

oneDNN has no fast bfloat16 kernels for some depthwise convolutions on CPUs. Forward and backward of 8 images,
one thread of an AVX512-BF16 machine, in ms, float32 against bfloat16, channels last:

    3x3, stride 1, 144 channels, 56x56     18.8    4.1
    3x3, stride 2,  96 channels, 112x112   22.3   45.9
    5x5, stride 2, 144 channels, 56x56      9.5   79.3
    5x5, stride 1, 480 channels, 14x14      5.5   15.5    (without the gradient of the weight: 1.4, 0.6)
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

__all__ = ["fast_autocast", "fast_bfloat16", "keep_in_float32", "wants_float32"]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; elsewhere it is emulated, slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, p, bool)() for p in probes)


def fast_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return autocast to bfloat16 where the device has it, and a context that does nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16) if fast_bfloat16(device) else nullcontext()


def wants_float32(op: nn.Module, device: torch.device, weights: bool) -> bool:
    """Whether a layer is faster in float32 on a device that has bfloat16.

    Args:
        op: any module.
        device: where it runs.
        weights: whether the gradient of its weight is needed, too.

    Example:
        >>> wants_float32(nn.Conv2d(8, 8, 3, stride=2, groups=8), torch.device("cpu"), weights=False)
        True
    """
    if device.type != "cpu" or not isinstance(op, nn.Conv2d) or op.groups < op.in_channels:
        return False
    return op.groups > 1 and (max(op.stride) > 1 or (weights and max(op.kernel_size) > 3))


def keep_in_float32(module: nn.Module, device: torch.device, weights: bool = False) -> None:
    """Take the layers of a module that are faster in float32 out of autocast, in place.

    Args:
        module: any module.
        device: where it runs.
        weights: whether gradients of weights are needed, too.
    """
    for op in module.modules():
        if wants_float32(op, device, weights):
            op.forward = functools.partial(in_float32, op.forward)


def in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute in float32 whatever autocast says, and return the type of `x`."""
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float()).to(x.dtype)
