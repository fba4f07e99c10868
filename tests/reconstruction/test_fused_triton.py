"""Triton's kernels against the reference: on a GPU where there is one, and in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, by an environment variable: this file runs once more
in a process of its own.
"""

import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from ptq.reconstruction.kernels import reference
from ptq.reconstruction.kernels.functions import implementation
from tests.helpers import CHECKOUT

pytest.importorskip("triton", reason="Triton is not installed")
import triton
from triton.backends.compiler import GPUTarget

from ptq.reconstruction.kernels import fused_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
on_device = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU here")
SHAPES = [(1,), (fused_triton.BLOCK,), (2, 3, 7, 11), (3, 5, 1, 1), (5, 1031), (0, 4)]
LAYOUTS = ["contiguous", "channels_last", "transposed", "strided", "repeated"]
BOUNDS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The interpreter cuts off what bfloat16 does not hold; processors round it.
ULP = 2**-7 if INTERPRETED else 0.0


def random(seed: int, *shape: int, spread: float = 2.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    return values.to(DEVICE)


def a_mask(like: Tensor) -> Tensor:
    return (random(3, *like.shape) > 0).to(torch.uint8)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another order, with gaps, or one row for all."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        return torch.stack([x, x + 1], -1)[..., 0]
    return x[:1].expand(x.shape) if layout == "repeated" and len(x) else x


def close(mine: Tensor, expected: Tensor, rtol: float = 0.0, atol: float = 0.0) -> None:
    rtol = max(rtol, ULP if mine.dtype == torch.bfloat16 else 0.0)
    torch.testing.assert_close(mine, expected, rtol=rtol, atol=atol)


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("bounds", BOUNDS.values(), ids=BOUNDS)
def test_activations_are_quantized_as_by_the_reference(
    dtype: torch.dtype, shape: tuple[int, ...], masked: bool, bounds: tuple[float, float]
) -> None:
    x, grad = random(0, *shape, spread=4.0).to(dtype), random(1, *shape).to(dtype)
    scale = torch.tensor(0.23, device=DEVICE)
    grid = torch.tensor([*bounds, -5.0, 10.0], device=DEVICE)
    keep = a_mask(x) if masked else None
    close(fused_triton.quantize_forward(x, keep, scale, grid), reference.quantize_forward(x, keep, scale, grid))
    grad_x, grad_scale = fused_triton.quantize_backward(grad, x, keep, scale, grid)
    expected = reference.quantize_backward(grad, x, keep, scale, grid)
    close(grad_x, expected[0])
    close(grad_scale, expected[1], rtol=1e-5, atol=1e-3)
    again = fused_triton.quantize_backward(grad, x, keep, scale, grid)
    assert torch.equal(again[1], grad_scale)


@on_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_any_layout_will_do(layout: str, other: str) -> None:
    shape = (3, 5, 7, 4)
    x = laid_out(random(0, *shape, spread=4.0), layout)
    grad, keep = laid_out(random(1, *shape), other), laid_out(a_mask(x), other)
    scale = torch.tensor(0.23, device=DEVICE)
    grid = torch.tensor([0.0, 6.0, 0.0, 15.0], device=DEVICE)
    y = fused_triton.quantize_forward(x, keep, scale, grid)
    assert y.stride() == torch.empty_like(x).stride()
    close(y, reference.quantize_forward(x, keep, scale, grid))
    grad_x, grad_scale = fused_triton.quantize_backward(grad, x, keep, scale, grid)
    expected = reference.quantize_backward(grad, x, keep, scale, grid)
    close(grad_x, expected[0])
    close(grad_scale, expected[1], rtol=1e-5, atol=1e-3)


@on_device
@pytest.mark.parametrize("sizes", [(6, 1, 1, 1), (1, 4, 1, 1), (4, 1, 1), (), (6, 4, 3, 5)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sharpness", [1.0, 9.0])
def test_weights_are_rounded_as_by_the_reference(sizes: tuple[int, ...], layout: str, sharpness: float) -> None:
    shape = (6, 4, 3, 5)
    base = laid_out(random(0, *shape, spread=5.0).floor().clamp(-9, 8), layout)
    alpha, grad, scale = random(1, *shape), random(2, *shape), random(3, *sizes).abs() + 0.1
    rest = scale, torch.tensor(sharpness, device=DEVICE), -8, 7
    weight = fused_triton.round_forward(base, alpha, *rest)
    close(weight, reference.round_forward(base, alpha, *rest), rtol=1e-5, atol=1e-6)
    mine = fused_triton.round_backward(grad, base, alpha, *rest)
    close(mine, reference.round_backward(grad, base, alpha, *rest), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_they_are_what_runs() -> None:
    assert implementation(torch.empty(99, device="cuda")) is fused_triton
    assert implementation(torch.empty(99, device="cuda", dtype=torch.float64)) is reference


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="there is nothing to compile in the interpreter")
@pytest.mark.parametrize("type_", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("keep", ["*u8", "constexpr"], ids=["masked", "whole"])
def test_every_kernel_compiles_for_a_gpu_that_is_not_there(type_: str, keep: str) -> None:
    x, number, fixed = f"*{type_}", "*fp32", {"BLOCK": fused_triton.BLOCK}
    integers = ["i32", "i32", "fp32", "fp32"]
    kernels = {
        "_quantize_forward": [x, keep, number, number, x],
        "_quantize_backward": [x, x, keep, number, number, x, number],
        "_round_forward": [*[x] * 2, *[number] * 2, x, *integers],
        "_round_backward": [*[x] * 3, *[number] * 2, x, *integers],
    }
    for name, arguments in kernels.items():
        kernel = getattr(fused_triton, name)
        signature = dict(zip(kernel.arg_names, [*arguments, "i32", "constexpr"], strict=True))
        constants = fixed | ({"keep": None} if signature.get("keep") == "constexpr" else {})
        compiled = triton.compile(
            triton.compiler.ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", 80, 32),
            options={"enable_fp_fusion": False},
        )
        assert "fma" not in compiled.asm["ptx"]  # numbers would be rounded elsewhere


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_all_of_it_in_the_interpreter() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=CHECKOUT,
        env={**clean, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
