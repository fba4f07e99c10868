"""How the outputs of several networks compare, summed up batch by batch: none of them is kept."""

import math
from collections.abc import Mapping

from torch import Tensor

from ptq.tasks.kinds import Tally
from ptq.tasks.outputs import Output, named
from ptq.tasks.task import Task
from ptq.utils.metrics import decibels, energies

__all__ = ["REFERENCES", "Comparisons"]

REFERENCES = ("float", "pruned", "onnx")
"""What the other networks are compared with."""


class _Pair:
    """One network and a reference."""

    def __init__(self, task: Task) -> None:
        self.same = {name: Tally() for name in task.kinds}
        self.sure = {name: Tally() for name in task.kinds}
        self.signal: dict[str, float] = {}
        self.noise: dict[str, float] = {}

    def add(self, task: Task, given: Output, reference: Output) -> None:
        for sums, sure in ((self.same, False), (self.sure, True)):
            for name, tally in task.tally(given, reference, sure=sure).items():
                sums[name] += tally
        ours, theirs = named(given), named(reference)
        for name in task.kinds:
            if theirs[name].is_floating_point():
                signal, noise = energies(theirs[name].double(), ours[name].double())
                self.signal[name] = self.signal.get(name, 0.0) + signal
                self.noise[name] = self.noise.get(name, 0.0) + noise


class Comparisons:
    """How several networks compare with the float one and with the file, on the same images.

    Args:
        task: what they are for.

    Example:
        >>> from ptq.tasks.task import find_task
        >>> logits = torch.eye(4)
        >>> found = Comparisons(find_task(logits, (3, 16, 16)))
        >>> found.add({"float": logits, "onnx": 2 * logits, "simulated": 2 * logits}, labels=torch.tensor([0, 1, 2, 0]))
        >>> found.agreement("onnx", "float"), found.top1["onnx"], found.decibels("simulated")
        (100.0, 75.0, inf)
    """

    def __init__(self, task: Task) -> None:
        self.task, self.images = task, 0
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._right: dict[str, Tally] = {}

    def add(self, outputs: Mapping[str, Output], labels: Tensor | None = None) -> None:
        """Take in a batch.

        Args:
            outputs: of every network, by its name.
            labels: of the images, (n,); None where they are not known.
        """
        for reference in set(REFERENCES) & outputs.keys():
            for name, output in outputs.items():
                pair = self._pairs.setdefault((name, reference), _Pair(self.task))
                pair.add(self.task, output, outputs[reference])
        for name, output in outputs.items():
            right = None if labels is None else self.task.metric(output, labels)
            if right is not None:
                self._right[name] = self._right.get(name, Tally()) + right
        self.images += len(next(iter(named(next(iter(outputs.values()))).values())))

    @property
    def names(self) -> tuple[str, ...]:
        """The networks, in the order in which they were given first."""
        return tuple(dict.fromkeys(name for name, _ in self._pairs))

    @property
    def top1(self) -> dict[str, float]:
        """The percentage of images on which the largest score is at the label; empty without labels or class scores."""
        return {name: right.percent for name, right in self._right.items() if right.count == self.images}

    def by_output(self, name: str, reference: str) -> dict[str, float]:
        """Return on how much of every output a network agrees with a reference, in percent."""
        return {output: tally.percent for output, tally in self._pairs[name, reference].same.items()}

    def agreement(self, name: str, reference: str) -> float:
        """Return on how much of an output a network agrees with a reference, in percent; of several the least."""
        return min(self.by_output(name, reference).values())

    def sure(self, name: str, reference: str) -> dict[str, Tally]:
        """Return the same of every output, counted where the reference is sure."""
        return self._pairs[name, reference].sure

    def decibels(self, name: str, reference: str = "onnx") -> float:
        """Return the signal of a reference over a network's noise against it, in dB; of several outputs the least.

        Whole numbers do not count: where floats are nearly tied, another rounding gives another class. Agreement has them.
        """
        pair = self._pairs[name, reference]
        found = [decibels(pair.signal[output], pair.noise[output]) for output in pair.signal]
        return next((value for value in found if value != value), min(found, default=math.inf))  # NaN is the worst
