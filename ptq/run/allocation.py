"""What a run with a budget for bits chooses by: widths, measured once and kept in the run directory, and how it judges."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq.allocation.allocate import Choices, find_choices
from ptq.allocation.storage import read_choices, write_choices
from ptq.calibration.data_mixing import mixed_copies
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.synthesis_config import is_small
from ptq.config.bit_budget import BUDGETS
from ptq.config.settings import QuantizationSettings, Settings
from ptq.data.datasets import EvalSet
from ptq.errors import InputError
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.quantization.plan import layers_matched
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.kinds import Tally
from ptq.tasks.outputs import Output
from ptq.tasks.task import Task
from ptq.utils.ranks import by_first
from ptq.utils.sampling import evenly
from ptq.utils.units import limit_text
from ptq.utils.work_store import WorkStore

__all__ = ["APART_FINETUNE", "Goal", "find_widths", "fixed_layers", "held_apart", "kept_widths"]

FOLDER = "widths"  # of a run directory: what another budget there need not measure again
APART = 4  # of so many calibration images one is held apart to judge how many predictions are as before
APART_FINETUNE = 8  # and one of so many to tell whether fine-tuning helped, which takes fewer
JUDGES = 256  # mixed copies of the images held apart: those themselves are predicted with such certainty that 4 bits change none
BATCH = 50
JUDGED, JUDGED_SMALL = 500, 2000  # images at most that choices are judged by; small ones cost little
NEAR = 0.5  # points: more than is asked for by less makes no smaller file


def kept_widths(folder: Path, decides: Mapping[str, Any], settings: Settings) -> WorkStore:
    """Open what runs with other budgets have measured in a run directory.

    Args:
        folder: the run directory.
        decides: what decides the run; all but budgets and reconstruction decides what widths cost.
        settings: of the run, which say how many images are held apart.
    """
    shared = (*BUDGETS, "data", "method")
    ours = {name: value for name, value in decides.items() if name not in shared and "reconstruction" not in name}
    return WorkStore(folder / FOLDER, {**ours, "one image held apart of": _apart(settings)})


def held_apart(images: CalibrationSet, settings: Settings) -> tuple[CalibrationSet, CalibrationSet | None]:
    """Return the images to tune with, and those to judge by, which nothing is tuned with; None where nobody asks for them."""
    every = _apart(settings)
    if not every or len(images) < 2:
        return images, None
    tuned_with, apart = images.hold_apart(every)
    return tuned_with, _judges(apart, settings.execution.seed) if _agreement_without_data(settings) else apart


def _judges(apart: CalibrationSet, seed: int) -> CalibrationSet:
    """Mixed copies of images; a single one has no other to be mixed with."""
    if len(apart) < 2:
        return apart
    copies = mixed_copies(apart, -(-JUDGES // len(apart)), seed).pick(slice(len(apart), None))
    return copies.few(JUDGES)


def _agreement_without_data(settings: Settings) -> bool:
    return settings.quantization.min_agreement is not None and settings.evaluation.data is None


def _apart(settings: Settings) -> int:
    """Of how many images one is held apart; 0 for none."""
    if _agreement_without_data(settings):
        return APART
    return APART_FINETUNE if settings.reconstruction.finetune else 0


def fixed_layers(settings: QuantizationSettings, float_model: GraphModel) -> list[str]:
    """Return the names of the layers that have bits of their own in the settings: no budget changes these."""
    return layers_matched(float_model, [name for name, bits in settings.layers.items() if bits])


def find_widths(
    settings: Settings,
    quantized_model: QuantizedModel,
    inputs: Tensor,
    kept: WorkStore,
    metadata: Mapping[str, str],
    progress: Progress = SILENT,
) -> Choices:
    """Measure what widths cost, or take what was measured before.

    Args:
        settings: of the run.
        quantized_model: calibrated, with the most bits that every layer gets.
        inputs: to measure on, as the network takes them.
        kept: what was measured before.
        metadata: of the file.
        progress: told of every layer.
    """
    if (known := read_choices(kept)) is not None:
        return known
    float_model = quantized_model.require_float_model()
    fixed = fixed_layers(settings.quantization, float_model)
    choices = find_choices(
        quantized_model, inputs, fixed=fixed, metadata=metadata, format=settings.output.format, progress=progress
    )
    write_choices(kept, choices)
    return choices


class Goal:
    """What the predictions shall be like, for which the smallest file is wanted; judged on images that tune nothing.

    Where there are several ranks, the first one judges: labeled images are with it alone.

    Args:
        settings: with such a budget.
        model: the network.
        quantized_model: with its float network.
        images: to judge on: labeled ones for a drop of accuracy.

    Attributes:
        asked: what `judge` must give at least.
        near: how much more it may give until a smaller file is tried.
    """

    def __init__(
        self, settings: Settings, model: Model, quantized_model: QuantizedModel, images: EvalSet | CalibrationSet
    ) -> None:
        most = JUDGED_SMALL if is_small(model.preprocess) else JUDGED
        index = evenly(torch.arange(len(images)), most)
        if isinstance(images, EvalSet):
            pixels = torch.stack([images.read(i) for i in index.tolist()]).float() / 255
        else:
            pixels = images.floats(index)
        self.task: Task = quantized_model.task
        self.labels, self.inputs = images.labels[index], model.preprocess.normalize(pixels)
        self.float_network = quantized_model.require_float_model().module
        self.device = next(self.float_network.parameters()).device
        self.reference = [self.float_network(x) for x in self._batches()]
        self.near = max(NEAR, 100 / len(self.inputs))
        self.by_data = isinstance(images, EvalSet)
        self.drop = settings.quantization.max_drop
        self.asked = settings.quantization.min_agreement or 0.0
        if self.drop is not None:
            self.asked = self._right(self.reference) - self.drop
        self.asked, self.near = by_first(lambda: (self.asked, self.near))

    def judge(self, network: Callable[[Tensor], Output]) -> float:
        """Return the percent of right predictions, or of those that are float's; of several outputs the least.

        A network that is tuned is judged in integers: what the file gives is promised, and real numbers on the grids of codes
        round otherwise.
        """
        return by_first(lambda: self._judge(network))

    @torch.no_grad()
    def _judge(self, network: Callable[[Tensor], Output]) -> float:
        if self.drop is not None:
            return self._right([network(x) for x in self._batches()])
        tallies: dict[str, Tally] = {}
        for x, reference in zip(self._batches(), self.reference, strict=True):
            for name, tally in self.task.tally(network(x), reference).items():
                tallies[name] = tallies.get(name, Tally()) + tally
        return min(tally.percent for tally in tallies.values())

    def require(self, best: float) -> None:
        """Refuse the goal where the best that there is misses it.

        Raises:
            InputError: it says what can be met.
        """
        if best >= self.asked:
            return
        judged = f"with all bits that layers may have, on {len(self.inputs)} images"
        if self.drop is None:
            raise InputError(
                f"--min-agreement {self.asked:g} cannot be met: it is {limit_text(best, 4, up=False)} {judged}."
                + ("" if self.by_data else " Mixed images are harder than photographs: with --data, those judge.")
            )
        raise InputError(
            f"--max-drop {self.drop:g} cannot be met: it is {limit_text(self.asked + self.drop - best, up=True)} points {judged}."
        )

    def _right(self, outputs: list[Any]) -> float:
        total = Tally()
        for output, labels in zip(outputs, self.labels.split(BATCH), strict=True):
            tally = self.task.metric(output, labels.to(self.device))
            total += tally if tally is not None else Tally()
        return total.percent

    def _batches(self) -> list[Tensor]:
        return [x.to(self.device) for x in self.inputs.split(BATCH)]
