"""How much the network's output changes when an activation is rounded and clipped, to first order.

A gradient tells what an error of each value does to the output. Errors of rounding are as good as independent: their
squares add up, each times the squared gradient. Errors of clipping all point one way: they add up first and are squared
then. The output is projected at random, so that its squared change is met in the mean whatever the task is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from ptq.calibration.observers import least
from ptq.quantization.affine import fake_quant, qparams
from ptq.quantization.quantizers import Quantizer
from ptq.quantization.spec import QuantSpec
from ptq.utils.metrics import sqnr_db_in_parts

__all__ = ["OutputError", "least_output_error", "output_errors", "output_sqnr"]

LEVELS = 1024  # between the smallest and the largest value, at which clipping is known
SMALL = 64  # pixels; images up to this size hold less to learn from
MANY, FEW = (128, 64), (64, 8)  # images, and how many at once: of small images and of others


@dataclass(frozen=True)
class OutputError:
    """What the network's output loses when one activation is quantized.

    Args:
        values, squares: a sample of the activation, and the squared gradient at each of its values; (n,).
        count: values per image.
        low, high: the smallest and the largest value, each ().
        above: per image and level, the sums over all values above the level of gradient, and of gradient times value;
            (2, images, LEVELS + 1).
        below: the same of all values below the level.
    """

    values: Tensor
    squares: Tensor
    count: int
    low: Tensor
    high: Tensor
    above: Tensor
    below: Tensor

    def of(self, low: Tensor, high: Tensor, spec: QuantSpec) -> float:
        """Return the mean square change of the output, over images, when the activation has this range."""
        scale, zero_point = qparams(low, high, spec)
        first, last = (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale
        rounded = fake_quant(self.values, scale, zero_point, spec.qmin, spec.qmax)
        rounding = (self.squares * (rounded - self.values.clamp(first, last)).square()).mean() * self.count
        clipping = self._moved(self.above, last) + self._moved(self.below, first)
        return float(rounding + clipping.square().mean())

    def _moved(self, beyond: Tensor, end: Tensor) -> Tensor:
        """How far the output of each image moves when all values beyond `end` become `end`; (images,)."""
        level = ((end - self.low) / (self.high - self.low) * LEVELS).round().clamp(0, LEVELS)
        gradient: Tensor = beyond[0, :, int(level)]
        return end * gradient - beyond[1, :, int(level)]


class _Gathering:
    """Takes an activation and its gradient batch by batch, and keeps what `OutputError` needs."""

    def __init__(self, low: Tensor, high: Tensor, per_batch: int, seed: int) -> None:
        self.low, self.high, self.per_batch = low, high, per_batch
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0
        self.sampled: list[Tensor] = []
        self.sums: list[Tensor] = []

    def add(self, values: Tensor, gradient: Tensor) -> None:
        values, gradient = values.float().flatten(1).cpu(), gradient.float().flatten(1).cpu()  # sums in one order
        images, self.count = values.shape
        chosen = torch.randint(values.numel(), (self.per_batch,), generator=self.generator)
        self.sampled.append(torch.stack([values.flatten()[chosen], gradient.flatten()[chosen].square()]))
        level = ((values - self.low) / (self.high - self.low) * LEVELS).long().clamp(0, LEVELS - 1)
        place = (level + LEVELS * torch.arange(images).unsqueeze(1)).flatten()
        self.sums.append(
            torch.stack(
                [
                    torch.bincount(place, weights.flatten().double(), images * LEVELS).view(images, LEVELS)
                    for weights in (gradient, gradient * values)
                ]
            )
        )

    def gathered(self) -> OutputError:
        values, squares = torch.cat(self.sampled, 1)
        sums = torch.cat(self.sums, 1)
        none = sums.new_zeros(*sums.shape[:2], 1)
        above = torch.cat([sums.flip(2).cumsum(2).flip(2), none], 2).float()
        below = torch.cat([none, sums.cumsum(2)], 2).float()
        return OutputError(values, squares, self.count, self.low, self.high, above, below)


class _Differentiated(fx.Interpreter):
    """Runs a graph, and hands the values of nodes and, on the way back, their gradients to those that gather them."""

    def __init__(self, graph: fx.GraphModule, gathering: Mapping[str, _Gathering]) -> None:
        super().__init__(graph)
        self.gathering = gathering

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.gathering and result.requires_grad:
            values, gathering = result.detach(), self.gathering[n.name]
            result.register_hook(lambda gradient: gathering.add(values, gradient.detach()))
        return result


def batches_of(inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the images on which gradients are taken, (N, C, H, W), in batches."""
    count, batch = MANY if max(inputs.shape[2:]) <= SMALL else FEW
    return tuple(inputs[:count].split(batch))


def output_errors(
    graph: fx.GraphModule,
    inputs: Tensor,
    ends: dict[str, tuple[Tensor, Tensor]],
    *,
    sample: int = 1 << 15,
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> dict[str, OutputError]:
    """Return what the output loses per activation, from a forward and a backward pass over some of the images.

    Args:
        graph: the float network.
        inputs: as it takes them, (N, C, H, W).
        ends: per activation, by node name, its smallest and largest value on all images.
        sample: values kept per activation.
        seed: of the projections and the samples.
        step: called after every batch.

    Returns:
        By node name. An activation is left out that is constant, on which the output does not depend, or whose
        gradient is NaN or infinite.

    Example:
        >>> ends = {"stem_0": (torch.tensor(-2.0), torch.tensor(2.0))}
        >>> lost = output_errors(graph_model.module, images, ends)["stem_0"]
        >>> spec = ptq.QuantSpec(4)
        >>> lost.of(*ends["stem_0"], spec) > lost.of(*ends["stem_0"], ptq.QuantSpec(8))
        True
    """
    device = next(graph.parameters()).device
    batches = batches_of(inputs)
    projections = torch.Generator().manual_seed(seed)
    per_batch = max(sample // len(batches), 64)
    vary = {name: (low, high) for name, (low, high) in ends.items() if low < high}
    gathering = {name: _Gathering(*vary[name], per_batch, seed + i) for i, name in enumerate(vary)}
    seen = _Differentiated(graph, gathering)
    for batch in batches:
        with torch.enable_grad():
            x = batch.to(device).clone().requires_grad_()
            outputs = [y for y in tree_leaves(seen.run(x)) if isinstance(y, Tensor) and y.requires_grad]
            noise = [torch.randn(y.shape, generator=projections).to(y) for y in outputs]
            if outputs:
                torch.autograd.grad(outputs, x, noise, allow_unused=True)
        step()
    found = {name: g.gathered() for name, g in gathering.items() if g.sampled}
    return {name: error for name, error in found.items() if _tells(error)}


def _tells(error: OutputError) -> bool:
    total = float(error.squares.sum() + error.above.abs().sum())
    return 0 < total < torch.inf


def least_output_error(error: OutputError, spec: QuantSpec, steps: int = 60) -> tuple[Tensor, Tensor]:
    """Return the range with which the network's output changes least, two scalars.

    Args:
        error: of the activation, from `output_errors`.
        spec: per tensor.
        steps: candidates per search.
    """
    zero = error.low.new_zeros(())
    return least(
        lambda low, high: error.of(low, high, spec),
        torch.minimum(error.low, zero),
        error.high.clamp(min=0),
        spec,
        steps,
    )


class _Quantized(fx.Interpreter):
    """Runs a float graph with quantizers behind the nodes of their names."""

    def __init__(self, graph: fx.GraphModule, quantizers: Mapping[str, Quantizer]) -> None:
        super().__init__(graph)
        self.quantizers = quantizers

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        return self.quantizers[n.name](result) if n.name in self.quantizers else result


@torch.no_grad()
def output_sqnr(graph: fx.GraphModule, quantizers: Mapping[str, Quantizer], batches: Iterable[Tensor]) -> float:
    """Return the dB of a float network's output when its activations are quantized, and its weights are not.

    Args:
        graph: the float network.
        quantizers: with a range, by the name of the node behind which each stands.
        batches: as the network takes them, (N, C, H, W) each.
    """
    device = next(graph.parameters()).device
    quantized = _Quantized(graph, quantizers)
    return sqnr_db_in_parts(
        (wanted, given)
        for x in (batch.to(device) for batch in batches)
        for wanted, given in zip(tree_leaves(graph(x)), tree_leaves(quantized.run(x)), strict=True)
        if isinstance(wanted, Tensor)
    )
