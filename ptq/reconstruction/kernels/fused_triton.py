"""The reference's formulas as Triton kernels: on a GPU each is one pass over memory and one launch.

Importing this module needs Triton, which comes with torch for CUDA; where it is missing, `ptq.reconstruction.kernels.functions`
does without. Gradients of a scale are summed in a fixed order: the same numbers give the same bits.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

from ptq.reconstruction.kernels import reference
from ptq.reconstruction.kernels.layout import aligned
from ptq.reconstruction.kernels.reference import blend, error_backward, error_forward

__all__ = [
    "available",
    "blend",
    "error_backward",
    "error_forward",
    "quantize_backward",
    "quantize_forward",
    "round_backward",
    "round_forward",
]

BLOCK = 1024  # elements of one program
STRETCH, GAMMA = tl.constexpr(reference.ZETA - reference.GAMMA), tl.constexpr(reference.GAMMA)
# Added and taken away again it rounds a float32 below 2^22 half to even: no bits are left behind the point.
MAGIC = tl.constexpr(1.5 * 2**23)


def available(device: torch.device) -> bool:
    """Whether Triton compiles for this device, found out by compiling: a second or two."""
    x, scale = torch.linspace(-1, 8, 64, device=device), torch.tensor(0.5, device=device)
    grid = torch.tensor([0.0, 6.0, 0.0, 15.0], device=device)
    try:
        y = quantize_forward(x, None, scale, grid)
    except Exception:  # whatever an old device or a missing compiler makes of it
        return False
    return torch.allclose(y, reference.quantize_forward(x, None, scale, grid))


def quantize_forward(x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor) -> Tensor:
    """As `reference.quantize_forward`."""
    out = torch.empty_like(x)
    _launch(_quantize_forward, out, aligned(x, out), aligned(keep, out), scale, grid, out)
    return out


def quantize_backward(
    grad: Tensor, x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """As `reference.quantize_backward`."""
    out = torch.empty_like(x)
    sums = torch.empty(_programs(out), dtype=torch.float32, device=x.device)
    tensors = aligned(grad, out), aligned(x, out), aligned(keep, out)
    _launch(_quantize_backward, out, *tensors, scale, grid, out, sums)
    return out, sums.sum()


def round_forward(base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int) -> Tensor:
    """As `reference.round_forward`."""
    out = torch.empty_like(base)
    scales, channels, inner = _channels(scale, out)
    tensors = aligned(base, out), aligned(alpha, out), scales, sharpness
    _launch(_round_forward, out, *tensors, out, channels, inner, float(qmin), float(qmax))
    return out


def round_backward(
    grad: Tensor, base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int
) -> Tensor:
    """As `reference.round_backward`."""
    out = torch.empty_like(base)
    scales, channels, inner = _channels(scale, out)
    tensors = aligned(grad, out), aligned(base, out), aligned(alpha, out), scales, sharpness
    _launch(_round_backward, out, *tensors, out, channels, inner, float(qmin), float(qmax))
    return out


def _channels(scale: Tensor, like: Tensor) -> tuple[Tensor, int, int]:
    """The scales in a row, their number, and how many elements of memory lie from one to the next."""
    if scale.numel() == 1:
        return scale, 1, 1
    if scale.numel() == max(scale.shape):
        axis = scale.shape.index(scale.numel()) - scale.dim()
        return scale.contiguous(), scale.numel(), like.stride(axis)
    return torch.empty_like(like, dtype=scale.dtype).copy_(scale), like.numel(), 1


def _programs(t: Tensor) -> int:
    return max(1, -(-t.numel() // BLOCK))


def _launch(kernel: Any, out: Tensor, *arguments: object) -> None:
    with torch.cuda.device_of(out):
        # Not fused into multiply-adds, numbers are rounded where the reference rounds them.
        kernel[(_programs(out),)](*arguments, out.numel(), BLOCK=BLOCK, enable_fp_fusion=False)


def _jit(function: Callable[..., Any]) -> Any:
    """`triton.jit` with the types it does not have."""
    return triton.jit(function)


@_jit
def _codes(x: tl.tensor, scale: tl.tensor, grid: tl.tensor) -> tl.tensor:
    """The clamped input, the same over the scale, and its codes less the zero point; NaN stays NaN."""
    c = _clamped(x, tl.load(grid), tl.load(grid + 1))
    scaled = c * tl.div_rn(1.0, scale)
    codes = (scaled + MAGIC) - MAGIC
    return c, scaled, _clamped(codes, tl.load(grid + 2), tl.load(grid + 3))


@_jit
def _clamped(x: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    return tl.where(x < low, low, tl.where(x > high, high, x))


@_jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-x))


@_jit
def _block(count: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Where a program's elements are, and which of these there are."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offsets, offsets < count


@_jit
def _quantize_forward(
    x: tl.tensor,
    keep: tl.tensor,
    scale: tl.tensor,
    grid: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    offsets, inside = _block(count, BLOCK)
    width = tl.load(scale)
    c, _, codes = _codes(tl.load(x + offsets, inside, other=0.0).to(tl.float32), width, grid)
    y = codes * width
    if keep is not None:
        y = tl.where(tl.load(keep + offsets, inside, other=0) != 0, y, c)
    tl.store(out + offsets, y.to(out.dtype.element_ty), inside)


@_jit
def _quantize_backward(
    grad: tl.tensor,
    x: tl.tensor,
    keep: tl.tensor,
    scale: tl.tensor,
    grid: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    offsets, inside = _block(count, BLOCK)
    g = tl.load(grad + offsets, inside, other=0.0).to(tl.float32)
    value = tl.load(x + offsets, inside, other=0.0).to(tl.float32)
    c, scaled, codes = _codes(value, tl.load(scale), grid)
    through = g
    if keep is not None:
        through = tl.where(tl.load(keep + offsets, inside, other=0) != 0, g, 0.0)
    in_range = (scaled > tl.load(grid + 2) - 0.5) & (scaled < tl.load(grid + 3) + 0.5)
    passed = tl.where(in_range, through, 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(through * codes - passed * scaled))
    grad_x = tl.where(value == c, g - through + passed, 0.0)
    tl.store(out + offsets, grad_x.to(out.dtype.element_ty), inside)


@_jit
def _round_forward(
    base: tl.tensor,
    alpha: tl.tensor,
    scale: tl.tensor,
    sharpness: tl.tensor,
    out: tl.tensor,
    channels: tl.tensor,
    inner: tl.tensor,
    qmin: tl.tensor,
    qmax: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    offsets, inside = _block(count, BLOCK)
    width = tl.load(scale + offsets // inner % channels, inside, other=0.0).to(tl.float32)
    b = tl.load(base + offsets, inside, other=0.0).to(tl.float32)
    a = tl.load(alpha + offsets, inside, other=0.0).to(tl.float32)
    h = _clamped(_sigmoid(tl.load(sharpness) * a) * STRETCH + GAMMA, 0.0, 1.0)
    weight = _clamped(b + h, qmin, qmax) * width
    tl.store(out + offsets, weight.to(out.dtype.element_ty), inside)


@_jit
def _round_backward(
    grad: tl.tensor,
    base: tl.tensor,
    alpha: tl.tensor,
    scale: tl.tensor,
    sharpness: tl.tensor,
    out: tl.tensor,
    channels: tl.tensor,
    inner: tl.tensor,
    qmin: tl.tensor,
    qmax: tl.tensor,
    count: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    offsets, inside = _block(count, BLOCK)
    width = tl.load(scale + offsets // inner % channels, inside, other=0.0).to(tl.float32)
    g = tl.load(grad + offsets, inside, other=0.0).to(tl.float32)
    b = tl.load(base + offsets, inside, other=0.0).to(tl.float32)
    a = tl.load(alpha + offsets, inside, other=0.0).to(tl.float32)
    sharp = tl.load(sharpness)
    sigmoid = _sigmoid(sharp * a)
    h = sigmoid * STRETCH + GAMMA
    codes = b + _clamped(h, 0.0, 1.0)
    moves = (codes > qmin) & (codes < qmax) & (h > 0.0) & (h < 1.0)
    slope = STRETCH * sharp * sigmoid * (1.0 - sigmoid)
    grad_alpha = tl.where(moves, g * width * slope, 0.0)
    tl.store(out + offsets, grad_alpha.to(out.dtype.element_ty), inside)
