"""The smallest file that does what is asked for: judged before it is tuned, tuned, and judged again.

Tuning takes minutes where a judgment takes seconds. So files are judged untuned, and only those are tuned that what tuning
has brought the others tells to be near.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ptq.allocation.allocate import RESERVE, Choices, allocate
from ptq.allocation.harms import rounded_network
from ptq.allocation.results import Allocation, Attempt
from ptq.allocation.solver import frontier
from ptq.quantization.quantized_model import QuantizedModel
from ptq.utils.ranks import by_first

__all__ = ["STEPS", "TUNED", "Ladder", "smallest"]

STEPS = 32  # from the smallest file to the largest
TUNED = 3  # files at most

Judge = Callable[[nn.Module], float]
"""How good a network is; more is better."""


@dataclass
class Ladder:
    """Files from the smallest to the largest in equal steps, each with the best bits; made and judged when asked for.

    Args:
        quantized_model, inputs, choices: as `allocate` takes them.
        judge: of the float network with rounded weights.
    """

    quantized_model: QuantizedModel
    inputs: Tensor
    choices: Choices
    judge: Judge
    _known: dict[int, tuple[Allocation, float]] = field(default_factory=dict)

    def at(self, step: int) -> tuple[Allocation, float]:
        """Return the choice for a file, 0 the smallest and `STEPS` the largest, and how good it is untuned."""
        if step not in self._known:
            self._known[step] = by_first(lambda: self._judged(step))
        return self._known[step]

    def _judged(self, step: int) -> tuple[Allocation, float]:
        least, most = self.choices.tradeoffs.least(), self.choices.tradeoffs.most()
        size = RESERVE + least + (most - least) * step // STEPS
        found = allocate(self.quantized_model, self.inputs, self.choices, size, points=False)
        weights = {name: self.choices.weights[name][bits] for name, bits in found.bits.items()}
        with rounded_network(self.quantized_model.require_float_model(), weights) as network, torch.no_grad():
            return found, self.judge(network)

    def first(
        self, asked: float, low: int = -1, high: int = STEPS, gain: Callable[[int], float] = lambda step: 0.0
    ) -> int:
        """Return the lowest step between two that is good enough, found by halving; the higher one where none is.

        Args:
            asked: what is good enough.
            low: a step that is not.
            high: a step that is returned if nothing else is.
            gain: what tuning is believed to bring at a step.
        """
        while high - low > 1:
            middle = (low + high) // 2
            if self.at(middle)[1] + gain(middle) >= asked:
                high = middle
            else:
                low = middle
        return high


def smallest(
    ladder: Ladder, tune: Callable[[Allocation], float], asked: float, near: float = 0.0, largest: float | None = None
) -> Allocation:
    """Choose the bits of every layer so that the file is the smallest that is good enough when it is tuned.

    The smallest that is good enough untuned is tuned first. What tuning has brought says what it will bring for sizes in
    between, and so which is tuned next: a larger one where that was not enough, a smaller one where it was more. Three are
    tuned at most.

    Args:
        ladder: of files.
        tune: makes the network with these bits, tunes it, and judges it as the ladder does.
        asked: what is good enough.
        near: by how much a result may be better than asked, so that no smaller file is tried.
        largest: how good the largest file is when it is tuned, where that is known.

    Returns:
        The smallest that is good enough, or the best where none is, with all `attempts`.

    Example:
        >>> graph = graph_model.module
        >>> def judge(network):  # here: how small the error of the output is
        ...     return -float((network(images) - graph(images)).square().mean())
        >>> ladder = Ladder(quantized_model, images, ptq.find_choices(quantized_model, images, count=4), judge)
        >>> found = smallest(ladder, lambda allocation: -1.0, asked=-1e9)  # anything is good enough
        >>> found.size == ladder.at(0)[0].size, found.attempts[-1].enough
        (True, True)
    """
    after: dict[int, float] = {} if largest is None else {STEPS: largest}
    tuned: dict[int, float] = {ladder.at(step)[0].size: value for step, value in after.items()}
    left = TUNED

    def gain(step: int) -> float:
        """Between two steps that were tuned by their distances, beyond them as the nearest."""
        known = sorted(after)
        return float(np.interp(step, known, [after[at] - ladder.at(at)[1] for at in known]))

    step = ladder.first(asked)
    while left:
        found = ladder.at(step)[0]
        if found.size not in tuned:  # a large layer makes a step of many: all have the file below it
            tuned[found.size] = tune(found)
            left -= 1
        after[step] = tuned[found.size]
        missed = max((at for at, value in after.items() if value < asked), default=-1)
        met = min((at for at, value in after.items() if value >= asked), default=STEPS + 1)
        if met - missed <= 1 or 0 <= after[step] - asked <= near:
            break
        step = ladder.first(asked, missed, min(met, STEPS), gain)
        if step == met:  # nothing in between is believed to be good enough
            step = (missed + met) // 2
    best = min(after, key=lambda at: (after[at] < asked, at if after[at] >= asked else -after[at]))
    before = {ladder.at(at)[0].size: ladder.at(at)[1] for at in after}
    attempts = tuple(Attempt(size, before[size], value, value >= asked) for size, value in tuned.items())
    return replace(ladder.at(best)[0], frontier=frontier(ladder.choices.tradeoffs), attempts=attempts)
