"""Observers: pure functions from a sample of numbers to the range over which they are quantized.

For activations the whole range, percentiles, or the clipped range of least squared error: at low bits, clipping a few
large values costs less than keeping them. `ptq.calibration.output_error` has one that looks at the network's output.
Weights have a search of their own.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ptq.quantization.affine import fake_quant, qparams
from ptq.quantization.spec import QuantSpec

__all__ = ["OBSERVERS", "Observer", "least", "minmax", "mse", "percentile", "reach", "weight_range"]

Observer = Callable[[Tensor, QuantSpec], tuple[Tensor, Tensor]]

COLUMNS = 2048  # weights per channel that the search looks at; enough to place a range


def minmax(values: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest of `values`, each a scalar.

    Example:
        >>> minmax(torch.tensor([-1.0, 0.0, 3.0]), ptq.QuantSpec(8))
        (tensor(-1.), tensor(3.))
    """
    return values.min(), values.max()


def reach(values: Tensor, spec: QuantSpec, steps: int = 64) -> tuple[Tensor, Tensor]:
    """Return a range that reaches all of `values`, widened by up to two steps to where its codes hit them best.

    For values that are known: if they are whole steps apart and 0 is one of them, every code is one of them.

    Args:
        values: any shape; all that there can be.
        spec: per tensor.
        steps: candidates.

    Example:
        >>> pixels = (torch.arange(256) - 127) / 128
        >>> reach(pixels, ptq.QuantSpec(8))
        (tensor(-0.9922), tensor(1.))
    """
    low, high = values.min().clamp(max=0.0), values.max().clamp(min=0.0)
    wider = (1 + torch.linspace(0.0, 2.0, steps + 1) / (spec.qmax - spec.qmin)).tolist()
    tops = [low + (high - low) * factor for factor in wider]
    return low, min(tops, key=lambda top: _mean_square_error(values, low, top, spec))


def percentile(values: Tensor, spec: QuantSpec, share: float = 0.9999) -> tuple[Tensor, Tensor]:
    """Return the range that holds the middle `share` of `values`, two scalars."""
    ordered = values.flatten().sort().values
    cut = round((1 - share) / 2 * (ordered.numel() - 1))
    return ordered[cut], ordered[ordered.numel() - 1 - cut]


def mse(values: Tensor, spec: QuantSpec, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Return the range whose fake-quantization has the least mean square error, two scalars.

    Args:
        values: a sample of the tensor, any shape; a few ten thousand numbers are enough.
        spec: per tensor.
        steps: candidates per search.
    """
    values = values.flatten().float()
    low, high = values.min().clamp(max=0.0), values.max().clamp(min=0.0)
    return least(partial(_mean_square_error, values, spec=spec), low, high, spec, steps)


def least(
    error: Callable[[Tensor, Tensor], float], low: Tensor, high: Tensor, spec: QuantSpec, steps: int = 60
) -> tuple[Tensor, Tensor]:
    """Return the range within `low` <= 0 <= `high` whose `error` is least, two scalars.

    Both ends are shrunk together first, then each by itself.

    Args:
        error: of a range, given by its two ends.
        low, high: what there is to cover, each ().
        spec: its bits say how far a range can usefully shrink.
        steps: candidates per search.

    Example:
        >>> least(lambda low, high: float((high - 2) ** 2), torch.tensor(0.0), torch.tensor(4.0), ptq.QuantSpec(4))[1]
        tensor(2.0023)
    """
    least_share = 0.02 if spec.bits < 8 else 0.2
    shrinks = torch.logspace(0.0, math.log10(least_share), steps).tolist()
    best = min(shrinks, key=lambda s: error(low * s, high * s))
    finer = torch.linspace(best * shrinks[1], best, steps // 6).tolist()
    best = min([best, *finer], key=lambda s: error(low * s, high * s))
    low, high = low * best, high * best
    if low < 0 < high:
        around = [1.0, *torch.linspace(0.6, 1.4, steps // 2).tolist()]
        low = low * min(around, key=lambda s: error(low * s, high))
        high = high * min(around, key=lambda s: error(low, high * s))
    return low, high


def _mean_square_error(values: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> float:
    scale, zero_point = qparams(low, high, spec)
    return float(F.mse_loss(fake_quant(values, scale, zero_point, spec.qmin, spec.qmax), values))


def weight_range(weight: Tensor, spec: QuantSpec, power: float = 2.4, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Return per-channel ranges (C,), (C,) of least mean |error|^power for a weight.

    Args:
        weight: with output channels along ``spec.axis``.
        spec: signed, symmetric.
        power: 2.4, as in BRECQ (Li et al., ICLR 2021), weighs large errors a little more than the mean square.
        steps: candidates of the search.
    """
    rows = weight.detach().movedim(spec.axis or 0, 0).flatten(1)
    # The code -2^(b-1) has no positive counterpart, so the range is set by the positive side.
    peak = rows.abs().amax(1)
    rows = rows[:, :: max(1, rows.shape[1] // COLUMNS)]
    best_error = torch.full_like(peak, torch.inf)
    best = peak.clone()
    low, steps = (0.3, steps) if spec.bits < 8 else (0.8, steps // 4)
    for shrink in torch.linspace(1.0, low, steps).tolist():
        high = peak * shrink
        scale = qparams(-high, high, spec)[0].unsqueeze(1)
        wrong = fake_quant(rows, scale, scale.new_zeros(()), spec.qmin, spec.qmax) - rows
        error = wrong.abs_().pow_(power).mean(1)
        better = error < best_error
        best = torch.where(better, high, best)
        best_error = torch.where(better, error, best_error)
    return -best, best


OBSERVERS: dict[str, Observer] = {"minmax": minmax, "percentile": percentile, "mse": mse}
