"""Rounding in closed form: each weight takes over what its predecessors' rounding has done to the output.

Optimal brain quantization with a fixed order of the weights, as GPTQ has it (Frantar et al., ICLR 2023). It costs a
Cholesky factorization per layer, where reconstruction costs hundreds of iterations.
"""

import torch
from torch import Tensor

from ptq.quantization.spec import QuantSpec

__all__ = ["feedback_rounding"]

DAMPING = 0.01  # of the mean square of an input: what few images do not tell
COLUMNS = 128  # rounded before all that stand behind them are corrected at once


def feedback_rounding(matrix: Tensor, moments: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Round a layer's weights one input after the other, and let the later ones make good for the earlier.

    Args:
        matrix: (groups, outputs, inputs), as `ptq.pruning.repair_steps.patches.matrix_of` gives it.
        moments: sums of products of the inputs, (groups, inputs, inputs).
        scale: what a code stands for, (groups, outputs).
        spec: signed and symmetric.

    Returns:
        Integer-valued codes, shaped like the matrix.

    Example:
        >>> spec = ptq.QuantSpec(4, signed=True, symmetric=True)
        >>> matrix, x = torch.tensor([[[0.3, 0.3]]]), torch.ones(1, 2, 10)  # two inputs that are always equal
        >>> feedback_rounding(matrix, x @ x.mT, torch.ones(1, 1), spec)
        tensor([[[0., 1.]]])
    """
    left = matrix.double().clone()
    codes = torch.empty_like(left)
    factor = _factor(moments.double())
    step = scale.double()
    for start in range(0, left.shape[-1], COLUMNS):
        part = slice(start, min(start + COLUMNS, left.shape[-1]))
        block, rows = left[..., part], factor[:, part]
        errors = torch.empty_like(block)
        for j in range(block.shape[-1]):
            row = rows[:, j, part]
            codes[..., start + j] = (block[..., j] / step).round().clamp(spec.qmin, spec.qmax)
            errors[..., j] = (block[..., j] - codes[..., start + j] * step) / row[:, None, j]
            block[..., j + 1 :] -= errors[..., j, None] * row[:, None, j + 1 :]
        left[..., part.stop :] -= errors @ rows[..., part.stop :]
    return codes.to(matrix)


def _factor(moments: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the moments, (groups, inputs, inputs)."""
    diagonal = moments.diagonal(dim1=-2, dim2=-1)
    damping = DAMPING * diagonal.mean(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    damped = moments + torch.diag_embed(damping.expand_as(diagonal))
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor
