"""Tuning a calibrated network: with the bits that it has, or with those that a budget allows."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ptq.allocation.allocate import Choices, allocate
from ptq.allocation.results import Allocation
from ptq.allocation.smallest import Ladder, smallest
from ptq.allocation.widths import change_widths
from ptq.config.choices import MAX_BITS, REDUCED_BITS
from ptq.progress import Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.reconstruction.config import ReconstructConfig
from ptq.reconstruction.finetuning import finetune
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.results import BlockResult, FinetuneResult
from ptq.run.allocation import Goal
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.environment import Stopwatch
from ptq.utils.ranks import by_first
from ptq.utils.work_store import WorkStore

__all__ = ["Tuned", "Tuning", "tune_to_goal", "tune_to_size"]


@dataclass(frozen=True)
class Tuned:
    """A network that was tuned.

    Args:
        quantized_model: the network.
        blocks: what reconstruction did.
        finetuning: what fine-tuning did; None without it.
        allocation: the bits that were chosen for a budget; None without one.
    """

    quantized_model: QuantizedModel
    blocks: list[BlockResult]
    finetuning: FinetuneResult | None
    allocation: Allocation | None = None


@dataclass(frozen=True)
class Tuning:
    """What all networks of a run are tuned with. Call it with a calibrated quantized model, which it tunes in place.

    Args:
        many: makes images for reconstruction, mixed copies among them, as the network takes them. Nobody keeps these: they have four bytes
            where images have one.
        inputs: makes images for all else.
        apart: makes images that neither has, which tell whether fine-tuning helped; without them, nothing is fine-tuned.
        config: of both.
        cache: makes a place for activations.
        watch: of the run.
        progress: told of every iteration.
    """

    many: Callable[[], Tensor]
    inputs: Callable[[], Tensor]
    apart: Callable[[], Tensor] | None
    config: ReconstructConfig
    cache: Callable[[], ActivationCache]
    watch: Stopwatch
    progress: Progress

    def __call__(self, quantized_model: QuantizedModel, store: WorkStore) -> Tuned:
        """Reconstruct and fine-tune, or take from a store what was tuned before."""
        tuned = None
        with self.watch("reconstruct"):
            blocks = reconstruct(
                quantized_model, self.many(), self.config, cache=self.cache(), store=store, progress=self.progress
            )
        if self.apart and self.config.finetune:
            with self.watch("fine-tune"):
                tuned = finetune(
                    quantized_model, self.inputs(), self.apart(), self.config, store=store, progress=self.progress
                )
        return Tuned(quantized_model, blocks, tuned)


def tune_to_size(
    tuning: Tuning, quantized_model: QuantizedModel, choices: Choices, max_bytes: int, store: WorkStore
) -> Tuned:
    """Choose the best bits that a size allows, and tune the network with them.

    Raises:
        InputError: for a size that is too small; it says what can be met.
    """
    with tuning.watch("allocate bits"):
        found = by_first(lambda: allocate(quantized_model, tuning.inputs(), choices, max_bytes))
    return replace(tuning(change_widths(quantized_model, found.bits), store), allocation=found)


def tune_to_goal(
    tuning: Tuning, quantized_model: QuantizedModel, choices: Choices, goal: Goal, store: WorkStore
) -> Tuned:
    """Tune the smallest network that is good enough when it is tuned; a few are tried.

    Args:
        tuning: of all that are tried.
        quantized_model: with the most bits that every layer gets.
        choices: what widths cost.
        goal: what is good enough.
        store: what was tuned before.

    Raises:
        InputError: where the network is not good enough with 7 or 8 bits in all layers, which tuning does not change.
    """
    made: dict[int, Tuned] = {}

    def tune(allocation: Allocation) -> float:
        changed = change_widths(quantized_model, allocation.bits)
        made[allocation.size] = tuning(changed, store if not made else store.part(f"again-{len(made)}"))
        return goal.judge(changed.integer_forward)

    with tuning.watch("allocate bits"):
        ladder, largest = Ladder(quantized_model, tuning.inputs(), choices, goal.judge), None
        if min((spec.bits for spec in quantized_model.plan.weights.values()), default=MAX_BITS) >= REDUCED_BITS:
            largest = goal.judge(quantized_model.integer_forward)  # as good as tuned
            goal.require(largest)
        found = smallest(ladder, tune, goal.asked, goal.near, largest)
        if found.size not in made:
            tune(found)
    if found.missed:
        best = max(attempt.after for attempt in found.attempts)
        warnings.warn(
            f"the budget is missed: {best:.4g} % is the best of what was tuned, {goal.asked:.4g} % was asked for; "
            "ask for less, or let layers have more bits",
            stacklevel=2,
        )
    return replace(made[found.size], allocation=found)
