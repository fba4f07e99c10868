"""The CPU's kernels: fused_cpu.cpp, compiled for this processor when it is first needed, once for each.

Eager torch makes a pass over memory for every operation, and fake-quantizing an activation then takes longer than the
convolution behind it. Needs a C++ compiler (``c++``, or what CXX names); without one the reference is used.
"""

import ctypes
import hashlib
import os
import platform
import subprocess
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ptq.errors import PtqError
from ptq.reconstruction.kernels.layout import aligned, dense
from ptq.utils.files import atomic

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

SOURCE = Path(__file__).with_name("fused_cpu.cpp")
# No contraction to fused multiply-adds: they would round elsewhere than the reference does.
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-shared",
    "-fPIC",
)
TYPES = {torch.float32: 0, torch.bfloat16: 1}


def available() -> bool:
    """Whether this machine has the kernels, or can make them: two seconds, once for each processor."""
    return _library() is not None


def quantize_forward(x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor) -> Tensor:
    """As `reference.quantize_forward`, for float32 and bfloat16."""
    x = dense(x)
    keep, out = aligned(keep, x), torch.empty_like(x)
    _call("quantize_forward", TYPES[x.dtype], x, keep, scale, grid, out, x.numel())
    return out


def quantize_backward(
    grad: Tensor, x: Tensor, keep: Tensor | None, scale: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """As `reference.quantize_backward`."""
    x = dense(x)
    grad, keep = aligned(grad.to(x.dtype), x), aligned(keep, x)
    grad_x, grad_scale = torch.empty_like(x), torch.empty_like(scale)
    _call("quantize_backward", TYPES[x.dtype], grad, x, keep, scale, grid, grad_x, grad_scale, x.numel())
    return grad_x, grad_scale


def blend(x: Tensor, y: Tensor, keep: Tensor) -> Tensor:
    """As `reference.blend`."""
    x = dense(x)
    y, keep, out = aligned(y.to(x.dtype), x), aligned(keep, x), torch.empty_like(x)
    _call("blend", TYPES[x.dtype], x, y, keep, out, x.numel())
    return out


def error_forward(output: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """As `reference.error_forward`."""
    output = dense(output)
    target, weight = aligned(target, output), aligned(_float(weight), output)
    error = output.new_empty((), dtype=torch.float32)
    _call("error_forward", TYPES[output.dtype], output, TYPES[target.dtype], target, weight, error, output.numel())
    return error


def error_backward(output: Tensor, target: Tensor, weight: Tensor | None, grad: Tensor) -> Tensor:
    """As `reference.error_backward`."""
    output = dense(output)
    target, weight = aligned(target, output), aligned(_float(weight), output)
    out = torch.empty_like(output)
    _call("error_backward", TYPES[output.dtype], output, TYPES[target.dtype], target, weight, grad, out, output.numel())
    return out


def round_forward(base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int) -> Tensor:
    """As `reference.round_forward`, in float32."""
    base, scale, channels = _channels(base, scale)
    alpha, out = aligned(alpha, base), torch.empty_like(base)
    _call("round_forward", base, alpha, scale, sharpness, qmin, qmax, out, channels, base.numel() // channels)
    return out


def round_backward(
    grad: Tensor, base: Tensor, alpha: Tensor, scale: Tensor, sharpness: Tensor, qmin: int, qmax: int
) -> Tensor:
    """As `reference.round_backward`."""
    base, scale, channels = _channels(base, scale)
    grad, alpha = aligned(grad.float(), base), aligned(alpha, base)
    out = torch.empty_like(base)
    inner = base.numel() // channels
    _call("round_backward", grad, base, alpha, scale, sharpness, qmin, qmax, out, channels, inner)
    return out


def _channels(base: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, int]:
    """A weight, its scales, and how many there are: equal parts of the weight's memory have one each."""
    base = dense(base)
    count = scale.numel()
    if count > 1 and (count != base.shape[0] or scale.shape[0] != count):
        scale = torch.empty_like(base).copy_(scale.expand_as(base))  # one for every element, in their order
        count = base.numel()
    return base, scale, count


def _float(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.float()


POINTER, SIZE = c_void_p, c_long
SIGNATURES = {
    "quantize_forward": (c_int, *[POINTER] * 5, SIZE, c_int),
    "quantize_backward": (c_int, *[POINTER] * 7, SIZE, c_int),
    "blend": (c_int, *[POINTER] * 4, SIZE, c_int),
    "error_forward": (c_int, POINTER, c_int, *[POINTER] * 3, SIZE, c_int),
    "error_backward": (c_int, POINTER, c_int, *[POINTER] * 4, SIZE, c_int),
    "round_forward": (*[POINTER] * 4, c_float, c_float, POINTER, SIZE, SIZE, c_int),
    "round_backward": (*[POINTER] * 5, c_float, c_float, POINTER, SIZE, SIZE, c_int),
}


def _call(name: str, *arguments: Tensor | int | None) -> None:
    """Call a kernel with tensors' addresses, on torch's number of threads."""
    plain = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    getattr(_library(), name)(*plain, torch.get_num_threads())


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be made."""
    command = (os.environ.get("CXX", "c++"), *FLAGS)
    made_by = (SOURCE.read_text(), command, platform.machine(), _processor())
    name = f"kernels-{hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]}.so"
    path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "ptq", name)
    try:
        if not path.exists():
            with atomic(path) as temporary:
                subprocess.run([*command, SOURCE, "-o", temporary], check=True, capture_output=True, timeout=120)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError, PtqError):
        return None
    for function, types in SIGNATURES.items():
        getattr(library, function).argtypes = types
        getattr(library, function).restype = None
    return library


def _processor() -> str:
    """What instructions this processor has, as far as it can be read: a home may be shared by several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(line for line in lines if line.startswith(("flags", "Features", "model name")))
