"""Least squares from sums over samples: which matrix and bias give the targets, near to the matrix that there is.

Every layer has moments of two sets of samples: one to fit, and one that says how strong the ridge must be. Where inputs are many more than
samples, as behind a flatten, the samples themselves are less, and give the same matrix.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Moments", "Samples", "fit", "moments", "samples"]

# Of the ridge, relative to the mean square of every input; from as good as none to as good as no change.
RIDGES = (1e-7, 1e-5, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
TINY = 1e-9  # an input that is always the same has no mean square of its own


@dataclass(frozen=True)
class Moments:
    """Sums over samples of inputs x (D,) and targets y (O,), for each of several groups (G,); in float64.

    Args:
        n: samples.
        x, y: sums, (G, D) and (G, O).
        xx, xy: sums of products, (G, D, D) and (G, D, O).
        yy: sums of squares, (G,).
    """

    n: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.n + other.n,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    @cached_property
    def centered(self) -> tuple[Tensor, Tensor]:
        """xx and xy of x and y less their means."""
        return self.xx - _outer(self.x, self.x) / self.n, self.xy - _outer(self.x, self.y) / self.n

    def solve(self, matrix: Tensor, ridge: float | None) -> tuple[Tensor, Tensor]:
        """Return the matrix and bias of least squared error, with a ridge towards `matrix`, or with this matrix."""
        if ridge is not None:
            xx, xy = self.centered
            held = torch.diag_embed(_held(xx.diagonal(dim1=-2, dim2=-1)))
            change = _solved(xx + ridge * held, xy - xx @ matrix.mT)
            if change is not None:
                matrix = matrix + change.mT
        return matrix, (self.y - (matrix @ self.x.unsqueeze(-1)).squeeze(-1)) / self.n

    def error(self, matrix: Tensor, bias: Tensor) -> float:
        """Return the squared error of a matrix and bias, summed."""
        xy = self.xy - _outer(self.x, bias)
        yy = self.yy - 2 * (self.y * bias).sum(-1) + self.n * bias.square().sum(-1)
        return float(((matrix @ self.xx) * matrix).sum() - 2 * (matrix * xy.mT).sum() + yy.sum())


@dataclass(frozen=True)
class Samples:
    """Samples as they are, for inputs that are more than these; in float64.

    Args:
        x, y: inputs and targets, (G, D, samples) and (G, O, samples).
    """

    x: Tensor
    y: Tensor

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(torch.cat([self.x, other.x], -1), torch.cat([self.y, other.y], -1))

    @cached_property
    def centered(self) -> tuple[Tensor, Tensor, Tensor]:
        """X, the inputs less their means, H⁻¹ X and Xᵀ H⁻¹ X, with H what is held of each."""
        inputs = self.x - self.x.mean(-1, keepdim=True)
        weighted = inputs / _held(inputs.square().sum(-1)).unsqueeze(-1)
        return inputs, weighted, inputs.mT @ weighted

    def solve(self, matrix: Tensor, ridge: float | None) -> tuple[Tensor, Tensor]:
        """Return what `Moments.solve` does, from products of samples (Woodbury): with r the ridge,
        (X Xᵀ + r H)⁻¹ X = H⁻¹ X (r + Xᵀ H⁻¹ X)⁻¹.
        """
        x, y = self.x.mean(-1, keepdim=True), self.y.mean(-1, keepdim=True)
        if ridge is not None:
            inputs, weighted, products = self.centered
            rest = self.y - y - matrix @ inputs
            change = _solved(products + ridge * torch.eye(products.shape[-1]).to(products), rest.mT)
            if change is not None:
                matrix = matrix + (weighted @ change).mT
        return matrix, (y - matrix @ x).squeeze(-1)

    def error(self, matrix: Tensor, bias: Tensor) -> float:
        """Return the squared error of a matrix and bias, summed."""
        return float((matrix @ self.x + bias.unsqueeze(-1) - self.y).square().sum())


Known = TypeVar("Known", Moments, Samples)


def moments(x: Tensor, y: Tensor) -> Moments:
    """Return the moments of samples, (G, D, samples) and (G, O, samples)."""
    x, y = x.double(), y.double()
    return Moments(x.shape[-1], x.sum(-1), y.sum(-1), x @ x.mT, x @ y.mT, y.square().sum((-2, -1)))


def samples(x: Tensor, y: Tensor) -> Samples:
    """Return samples, (G, D, samples) and (G, O, samples), to fit to as they are."""
    return Samples(x.double(), y.double())


def fit(known: Known, apart: Known, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix (G, O, D) and bias (G, O) of least squared error, with a ridge towards `matrix`.

    The ridge is the one that serves the samples `apart` best, which may be that the matrix stays and only the bias moves.
    With this ridge both sets are fitted.

    Example:
        >>> x = torch.randn(1, 3, 50)
        >>> sums = moments(x, torch.tensor([[1.0, 2.0, 3.0]]) @ x + 4)
        >>> matrix, bias = fit(sums, sums, torch.zeros(1, 1, 3))
        >>> (matrix, bias)
        (tensor([[[1.0000, 2.0000, 3.0000]]], dtype=torch.float64), tensor([[4.0000]], dtype=torch.float64))
    """
    matrix = matrix.double()
    best, least = None, apart.error(*known.solve(matrix, None))
    for ridge in RIDGES:
        error = apart.error(*known.solve(matrix, ridge))
        if error < least:
            best, least = ridge, error
    return (known + apart).solve(matrix, best)


def _solved(a: Tensor, b: Tensor) -> Tensor | None:
    """Return x of a x = b, where a is positive definite but for rounding; None where there is no such x."""
    factor, info = torch.linalg.cholesky_ex(a)
    x, info = torch.linalg.solve_ex(a, b) if info.any() else (torch.cholesky_solve(b, factor), info)
    return x if not info.any() and bool(x.isfinite().all()) else None


def _held(squares: Tensor) -> Tensor:
    """What a ridge of 1 holds of every input, from the sums of their squares, (G, D)."""
    return squares + TINY * squares.mean(-1, keepdim=True) + torch.finfo(torch.float64).tiny


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)
