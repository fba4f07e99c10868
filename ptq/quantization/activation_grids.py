"""Gates in integers: grids of codes on which hard sigmoids and sigmoids cost next to nothing.

A hard sigmoid is ``clamp(x + 3, 0, 6) / 6``. Where the scale of x is 3 / k for an integer k, and x = -3 has code 0,
it is the same codes, clamped at 2 k and read with the scale 1 / (2 k): no arithmetic at all. A hard swish,
``x * hardsigmoid(x)``, loses nothing by a range that begins at -3, because it is 0 from there on.

A sigmoid of codes is a table of 256 entries (onnxruntime's QLinearSigmoid). The runtime approximates the
function, so its table is known for certain only where no entry is close to the middle between two codes; the
scale is moved by some ten thousandths until none is.
"""

import torch
from torch import Tensor

from ptq.quantization.spec import QuantSpec

__all__ = ["BEND", "ZERO_TO_ONE_SCALE", "clear_of_ties", "gate_codes", "hard_grid", "is_hard", "observed", "suits"]

BEND = 3.0  # where a hard sigmoid becomes constant, and a hard swish 0
ZERO_TO_ONE_SCALE = 1 / 256  # of a tensor within [0, 1)
CLOSE = 5e-4  # in codes; approximations of the sigmoid in float32 are off by less than a fifth of it
NUDGE = 1e-4


def observed(values: Tensor, spec: QuantSpec) -> Tensor:
    """Clamp a sample of a gate's input to what makes a difference behind the gate; shape stays."""
    if spec.grid == "hardsigmoid":
        return values.clamp(-BEND, BEND)
    return values.clamp(min=-BEND) if spec.grid == "hardswish" else values


def hard_grid(high: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """Return scale 3 / k and zero point k, with the largest k for which codes up to `qmax` reach `high`.

    Example:
        >>> hard_grid(torch.tensor(6.0), 255)
        (tensor(0.0353), tensor(85.))
    """
    k = (BEND * qmax / (BEND + high.clamp(min=BEND))).floor().clamp(min=1.0)
    return BEND / k, k


def suits(high: Tensor) -> bool:
    """Whether a hard grid has codes enough for a hard swish of values up to `high`: its scale is at least 3 / 127.

    They are always fine enough for a hard sigmoid, which varies by 1 over 254 of them.
    """
    return bool(high >= BEND / 2)


def is_hard(scale: Tensor, zero_point: Tensor) -> bool:
    """Whether scale and zero point are those of a hard grid."""
    return abs(float(scale * zero_point) / BEND - 1) < 1e-6


def gate_codes(scale: Tensor, zero_point: Tensor) -> tuple[Tensor, int]:
    """Return scale and largest code of the hard sigmoid of codes on a `hard_grid`; its zero point is 0.

    Example:
        >>> gate_codes(torch.tensor(3 / 85), torch.tensor(85.0))
        (tensor(0.0059), 170)
    """
    return scale.detach() / (2 * BEND), 2 * int(zero_point)


def clear_of_ties(scale: Tensor, zero_point: Tensor, qmax: int) -> Tensor:
    """Return a scale, less than a hundredth larger, with which no sigmoid of a code is close to a tie.

    Args:
        scale, zero_point: of the sigmoid's input, each ().
        qmax: its largest code; the smallest is 0. The output has the scale `ZERO_TO_ONE_SCALE`.
    """
    codes = torch.arange(qmax + 1, device=scale.device) - zero_point
    for nudge in range(100):
        moved = scale * (1 + NUDGE * nudge)
        scaled = torch.sigmoid((codes * moved).double()) / ZERO_TO_ONE_SCALE
        if float((scaled - scaled.floor() - 0.5).abs().min()) > CLOSE:
            return moved
    return scale
