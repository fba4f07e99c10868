"""The reference's formulas compiled by torch's Inductor: on a CPU each is one pass over memory.

Eager torch makes a pass for every operation, and fake-quantizing an activation then takes longer than the
convolution behind it. Needs a C++ compiler at run time; without one the reference runs as it is.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ptq.kernels import reference
from ptq.kernels.reference import round_backward, round_forward

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

LEAST = 1 << 16  # elements; below this a call costs as much as the work


@cache
def available() -> bool:
    """Whether this machine can compile, found out by compiling: up to half a minute once per machine."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    x, keep = torch.linspace(-1, 8, 64), torch.ones(64, dtype=torch.uint8)
    scale, grid = torch.tensor(0.5), torch.tensor([0.0, 6.0, 0.0, 15.0])
    try:
        y: Tensor = _run(reference.quantize_forward, x, keep, scale, grid)
    except Exception:  # whatever a missing or broken compiler makes of it
        return False
    return torch.allclose(y, reference.quantize_forward(x, keep, scale, grid))


def quantize_forward(x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor) -> Tensor:
    """As `reference.quantize_forward`."""
    flat, mask = _flat(x, x), None if keep is None else _flat(keep, x)
    out: Tensor = _run(reference.quantize_forward, flat, mask, scale, grid)
    return _like(out, x)


def quantize_backward(
    grad: Tensor, x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """As `reference.quantize_backward`."""
    mask = None if keep is None else _flat(keep, x)
    grad_x, grad_scale = _run(
        reference.quantize_backward, _flat(grad, x), _flat(x, x), mask, scale, grid
    )
    return _like(grad_x, x), grad_scale


def blend(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """As `reference.blend`."""
    return _like(_run(reference.blend, _flat(x, x), _flat(y, x), _flat(keep, x)), x)


def error_forward(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """As `reference.error_forward`."""
    parts = (None if t is None else _flat(t, output) for t in (output, target, weight))
    error: Tensor = _run(reference.error_forward, *parts)
    return error


def error_backward(output: Tensor, target: Tensor, weight: Tensor | None, grad: Tensor) -> Tensor:
    """As `reference.error_backward`."""
    parts = (None if t is None else _flat(t, output) for t in (output, target, weight))
    return _like(_run(reference.error_backward, *parts, grad), output)


def _run(function: Callable[..., Any], *tensors: Tensor | None) -> Any:
    # Bare tensors and no modes: for views, parameters and autocast torch would compile the same again and again,
    # and refuse after the eighth time.
    bare = [None if t is None else t.data for t in tensors]
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return _compiled(function)(*bare)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # One thread compiles: a pool of processes would be started for two small files.
    return torch.compile(function, dynamic=True, fullgraph=True, options={"compile_threads": 1})


def _flat(t: Tensor, x: Tensor) -> Tensor:
    """`t` as a vector in the order in which `x` lies in memory: one compiled kernel serves every layout."""
    if x.is_contiguous():
        return t.reshape(-1)
    if x.is_contiguous(memory_format=torch.channels_last):
        return t.permute(0, 2, 3, 1).reshape(-1)
    return t.reshape(-1)


def _like(flat: Tensor, x: Tensor) -> Tensor:
    """A vector in the order of `x` back in the shape of `x`."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        n, c, h, w = x.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(x.shape)
