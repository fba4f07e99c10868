"""The bits of a run that has a budget: widths measured once and kept in the run directory, then chosen in seconds."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq.allocation.allocate import allocate, find_choices, smallest
from ptq.allocation.results import Allocation
from ptq.allocation.storage import read_choices, write_choices
from ptq.calibration.dataset import CalibrationSet
from ptq.config.bit_budget import BUDGETS, bit_budget
from ptq.config.settings import Settings
from ptq.data.datasets import EvalSet
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.quantization.plan import layers_matched
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.kinds import Tally
from ptq.tasks.task import Task
from ptq.utils.work_store import WorkStore

__all__ = ["allocate_bits", "held_apart", "kept_widths"]

FOLDER = "widths"  # of a run directory: what another budget there need not measure again
APART = 4  # of so many calibration images one is held apart
BATCH = 50
JUDGED = 500  # labeled images at most that choices are judged by


def kept_widths(folder: Path, decides: Mapping[str, Any]) -> WorkStore:
    """Open what runs with other budgets have measured in a run directory.

    Args:
        folder: the run directory.
        decides: what decides the run; all but budgets and reconstruction decides what widths cost.
    """
    apart = bool(decides.get("min_agreement")) and not decides.get("data")
    shared = (*BUDGETS, "data", "method")
    ours = {name: value for name, value in decides.items() if name not in shared and "reconstruction" not in name}
    return WorkStore(folder / FOLDER, {**ours, "images held apart": apart})


def held_apart(images: CalibrationSet, settings: Settings) -> tuple[CalibrationSet, CalibrationSet | None]:
    """Return the images to tune with, and those to judge by, which nothing is tuned with; None where nobody asks for them."""
    budget = bit_budget(settings.quantization)
    if budget is None or budget[0] != "min_agreement" or settings.evaluation.data is not None or len(images) < APART:
        return images, None
    judged = torch.arange(len(images)) % APART == APART - 1
    tuned, apart = (
        replace(images, images=images.images[chosen], labels=images.labels[chosen]) for chosen in (~judged, judged)
    )
    return tuned, apart


def allocate_bits(
    settings: Settings,
    model: Model,
    quantized_model: QuantizedModel,
    inputs: Tensor,
    judged: EvalSet | CalibrationSet | None,
    kept: WorkStore,
    metadata: Mapping[str, str],
    progress: Progress = SILENT,
) -> Allocation:
    """Choose the bits of every layer for the budget in the settings.

    Args:
        settings: with a budget.
        model: the network.
        quantized_model: calibrated, with the most bits that every layer gets.
        inputs: to measure widths on, as the network takes them.
        judged: images by which the network is judged, where the budget is about what it predicts.
        kept: what was measured before is taken from there.
        metadata: of the file.
        progress: told of every layer.

    Raises:
        InputError: for a budget that cannot be met; it says what can.
    """
    budget = bit_budget(settings.quantization)
    assert budget is not None
    choices = read_choices(kept)
    if choices is None:
        float_model = quantized_model.require_float_model()
        fixed = layers_matched(float_model, [name for name, bits in settings.quantization.layers.items() if bits])
        choices = find_choices(
            quantized_model, inputs, fixed=fixed, metadata=metadata, format=settings.output.format, progress=progress
        )
        write_choices(kept, choices)
    name, value = budget
    if name == "max_size":
        max_bytes = settings.quantization.max_bytes()
        assert max_bytes is not None
        return allocate(quantized_model, inputs, choices, max_bytes)
    assert judged is not None
    judge = _Judge(model, quantized_model, judged)
    if name == "min_agreement":
        goal = f"an agreement of {value:g} % on {len(judge.inputs)} images"
        return smallest(quantized_model, inputs, choices, lambda network: judge.agreement(network) >= value, goal)
    goal = f"a drop of at most {value:g} points on {len(judge.inputs)} images"
    return smallest(quantized_model, inputs, choices, lambda network: judge.drop(network) <= value, goal)


class _Judge:
    """Says how a network compares with the float one on images that nothing is tuned with."""

    def __init__(self, model: Model, quantized_model: QuantizedModel, images: EvalSet | CalibrationSet) -> None:
        index = torch.linspace(0, len(images) - 1, min(JUDGED, len(images))).round().long()
        if isinstance(images, EvalSet):
            pixels = torch.stack([images.read(i) for i in index.tolist()]).float() / 255
        else:
            pixels = images.floats(index)
        self.task: Task = quantized_model.task
        self.labels, self.inputs = images.labels[index], model.preprocess.normalize(pixels)
        self.float_network = quantized_model.require_float_model().module
        self.device = next(self.float_network.parameters()).device
        self.reference = [self.float_network(x) for x in self._batches()]
        self.float_right = self._right(self.reference)

    def agreement(self, network: nn.Module) -> float:
        """Percent of an output on which the networks agree; of several outputs the least."""
        tallies: dict[str, Tally] = {}
        for x, reference in zip(self._batches(), self.reference, strict=True):
            for name, tally in self.task.tally(network(x), reference).items():
                tallies[name] = tallies.get(name, Tally()) + tally
        return min(tally.percent for tally in tallies.values())

    def drop(self, network: nn.Module) -> float:
        """By how many points top-1 is below float's."""
        return self.float_right - self._right([network(x) for x in self._batches()])

    def _right(self, outputs: list[Any]) -> float:
        total = Tally()
        for output, labels in zip(outputs, self.labels.split(BATCH), strict=True):
            tally = self.task.metric(output, labels.to(self.device))
            total += tally if tally is not None else Tally()
        return total.percent

    def _batches(self) -> list[Tensor]:
        return [x.to(self.device) for x in self.inputs.split(BATCH)]
