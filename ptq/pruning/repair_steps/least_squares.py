"""Least squares from sums over samples: which matrix and bias give the targets, near to the matrix that there is.

Every layer has moments of two sets of samples: one to fit, and one that says how strong the ridge must be.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments", "fit", "moments"]

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

    def around(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return xx, xy and yy of x and y less these vectors, (G, D) and (G, O)."""
        xx = self.xx - _outer(self.x, x) - _outer(x, self.x) + self.n * _outer(x, x)
        xy = self.xy - _outer(self.x, y) - _outer(x, self.y) + self.n * _outer(x, y)
        yy = self.yy - 2 * (self.y * y).sum(-1) + self.n * y.square().sum(-1)
        return xx, xy, yy


def moments(x: Tensor, y: Tensor) -> Moments:
    """Return the moments of samples, (G, D, samples) and (G, O, samples)."""
    x, y = x.double(), y.double()
    return Moments(x.shape[-1], x.sum(-1), y.sum(-1), x @ x.mT, x @ y.mT, y.square().sum((-2, -1)))


def fit(known: Moments, apart: Moments, matrix: Tensor) -> tuple[Tensor, Tensor]:
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
    best, least = None, _error(apart, *_solve(known, matrix, None))
    for ridge in RIDGES:
        error = _error(apart, *_solve(known, matrix, ridge))
        if error < least:
            best, least = ridge, error
    return _solve(known + apart, matrix, best)


def _solve(known: Moments, matrix: Tensor, ridge: float | None) -> tuple[Tensor, Tensor]:
    x, y = known.x / known.n, known.y / known.n
    if ridge is not None:
        xx, xy, _ = known.around(x, y)
        diagonal = xx.diagonal(dim1=-2, dim2=-1)
        held = ridge * (diagonal + TINY * diagonal.mean(-1, keepdim=True) + torch.finfo(torch.float64).tiny)
        rest = xy - xx @ matrix.mT
        change, info = torch.linalg.solve_ex(xx + torch.diag_embed(held), rest)
        if not info.any() and bool(change.isfinite().all()):
            matrix = matrix + change.mT
    return matrix, y - (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _error(samples: Moments, matrix: Tensor, bias: Tensor) -> float:
    xx, xy, yy = samples.around(torch.zeros_like(samples.x), bias)
    return float(((matrix @ xx) * matrix).sum() - 2 * (matrix * xy.mT).sum() + yy.sum())


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-2)
