"""The task of a network: the kind of each of its outputs, and what follows from that.

Four things depend on it: the *loss* between outputs, the *labels* that images are synthesized for, the *agreement* of
two networks, and the *metric* that labeled data give.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq.config.choices import check_choice, kinds_by_output
from ptq.errors import InputError
from ptq.tasks.kinds import KINDS, Kind, Tally
from ptq.tasks.outputs import Output, named

__all__ = ["Task", "find_task"]

UNIT = 1e-4  # by which the length of a normalized embedding may be off


@dataclass(frozen=True)
class Task:
    """What a network is for.

    Args:
        kinds: name of an output -> its kind, a key of `ptq.tasks.kinds.KINDS`; in the order of the outputs.
        classes: how many the first output of kind "classify" knows; None without such an output.

    Example:
        >>> task = find_task({"class": torch.rand(2, 10), "mask": torch.rand(2, 5, 16, 16)}, (3, 16, 16))
        >>> task.kinds, task.classes
        ({'class': 'classify', 'mask': 'dense'}, 10)
    """

    kinds: Mapping[str, str]
    classes: int | None = None

    def kind(self, output: str) -> Kind:
        """Return what counts in an output."""
        return KINDS[self.kinds[output]]

    def scores(self, output: Output) -> Tensor | None:
        """Return the class scores, (N, classes), that labels speak of; None where there are none."""
        found = named(output)
        return next((found[name] for name, kind in self.kinds.items() if kind == "classify"), None)

    def loss(self, given: Output, wanted: Output, temperature: float = 1.0) -> Tensor:
        """Return how far outputs are from those wanted: the sum of their losses, ().

        It is differentiable, but for discrete outputs.

        Args:
            given, wanted: outputs for the same images.
            temperature: class scores are divided by it, and their loss is multiplied by its square (Hinton et al., 2015):
                above 1 the classes that are not predicted have a say, too.

        Example:
            >>> task, logits = Task({"output": "classify"}, 2), torch.tensor([[2.0, 0.0]])
            >>> task.loss(logits + 1, logits)
            tensor(0.)
        """
        ours, theirs = named(given), named(wanted)
        return _total(_at(temperature, self.kind(name), ours[name], theirs[name]) for name in self.kinds)

    def surprise(self, output: Output, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Return a scalar whose gradient says how much each number of the outputs matters, summed over images.

        Of class scores it is the cross-entropy with the network's own prediction. Others are projected at random. Whole
        numbers have no gradients.

        Args:
            output: of the network.
            generator: of the projections.
            temperature: class scores are divided by it: where a network is sure of its prediction, nothing would matter otherwise.
        """
        found = {name: value for name, value in named(output).items() if value.is_floating_point()}
        kinds = {name: self.kind(name) for name in found}
        softened = {name: value / temperature if kinds[name].decides else value for name, value in found.items()}
        return _total(kinds[name].surprise(value, generator) for name, value in softened.items())

    def tally(self, given: Output, reference: Output, *, sure: bool = False) -> dict[str, Tally]:
        """Return of every output on how much of it two networks agree.

        Args:
            given: outputs for some images.
            reference: those of another network for the same images.
            sure: count only where the reference is sure of its class.
        """
        ours, theirs = named(given), named(reference)
        return {name: self.kind(name).tally(ours[name], theirs[name], sure) for name in self.kinds}

    def agreement(self, given: Output, reference: Output) -> float:
        """Return on how much of an output two networks agree, in percent; of several outputs the least.

        Example:
            >>> Task({"output": "classify"}, 2).agreement(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]))
            100.0
        """
        return min(tally.percent for tally in self.tally(given, reference).values())

    def metric(self, output: Output, labels: Tensor) -> Tally | None:
        """Return on how many images the largest score is at the label, (N,); None without class scores."""
        scores = self.scores(output)
        if scores is None:
            return None
        return Tally(float((scores.argmax(1) == labels).sum()), len(labels), len(labels))

    @property
    def learnable(self) -> bool:
        """Whether any output has gradients; whole numbers have none."""
        return any(kind != "discrete" for kind in self.kinds.values())

    @property
    def unit(self) -> str:
        """What the loss is counted in; empty where outputs of several kinds are added up."""
        units = {self.kind(name).unit for name in self.kinds}
        return units.pop() if len(units) == 1 else ""

    def to_json(self) -> dict[str, object]:
        """Return the task as JSON-able data."""
        return {"kinds": dict(self.kinds), "classes": self.classes}

    @staticmethod
    def from_json(data: Any) -> "Task":
        """Return the task that `to_json` gave.

        Raises:
            ValueError, LookupError, TypeError: for anything else.
        """
        kinds = {str(name): str(kind) for name, kind in data["kinds"].items()}
        if not kinds or not set(kinds.values()) <= KINDS.keys():
            raise ValueError(f"{kinds} are no kinds of outputs")
        return Task(kinds, None if data["classes"] is None else operator.index(data["classes"]))


def find_task(output: Output, input_shape: tuple[int, ...], said: str = "auto") -> Task:
    """Find out what a network is for from what it gave for an image or several.

    - (N, C) are class scores, and embeddings where each row has length 1;
    - (N, C, H, W) are class scores of pixels, where H and W are those of the input, and C is neither 1 nor the input's;
    - whole numbers and truth values are "discrete";
    - everything else is of kind "generic".

    Args:
        output: as a prepared network gives it.
        input_shape: (C, H, W).
        said: "auto", or a kind for all outputs that can be of it. ``"scores=classify,boxes=generic"`` speaks of single
            outputs. What is not said is found out.

    Raises:
        InputError: for an unknown kind, an output that there is not, or a kind that its shape cannot have.
    """
    outputs = named(output)
    kinds = {name: _found(value, input_shape) for name, value in outputs.items()}
    for name, kind in kinds_by_output(said).items():
        if name:
            check_choice(name, outputs, "output in --task")
        able = [one for one in ([name] if name else outputs) if _possible(outputs[one], kind)]
        if not able:
            shapes = ", ".join(f"{one} {_shape(outputs[one])}" for one in ([name] if name else outputs))
            raise InputError(f"--task {said}: {kind} wants an output of {_SHAPES[kind]}; the network gives {shapes}")
        kinds.update({one: kind for one in able if kinds[one] != "discrete"})  # which are generic, too
    first = next((outputs[name] for name, kind in kinds.items() if kind == "classify"), None)
    return Task(kinds, None if first is None else first.shape[1])


_SHAPES = {
    "classify": "(N, classes), of at least two",
    "dense": "(N, classes, height, width), of at least two",
    "embed": "(N, features)",
    "generic": "any shape",
    "discrete": "whole numbers",
}


def _possible(value: Tensor, kind: str) -> bool:
    if kind == "generic":
        return True
    if kind == "discrete" or not value.is_floating_point():
        return kind == "discrete" and not value.is_floating_point()
    return value.dim() == (4 if kind == "dense" else 2) and value.shape[1] > 1


def _found(value: Tensor, input_shape: tuple[int, ...]) -> str:
    if not value.is_floating_point():
        return "discrete"
    if _possible(value, "classify"):
        lengths = value.double().norm(dim=1)
        return "embed" if bool(((lengths - 1).abs() < UNIT).all() and (value < 0).any()) else "classify"
    channels, *size = input_shape
    pixels = _possible(value, "dense") and list(value.shape[2:]) == size and value.shape[1] != channels
    return "dense" if pixels else "generic"


def _shape(value: Tensor) -> str:
    return f"({', '.join(map(str, ('N', *value.shape[1:])))})"


def _at(temperature: float, kind: Kind, given: Tensor, wanted: Tensor) -> Tensor:
    """The loss of one output; only scores of classes have a temperature."""
    if temperature == 1 or not kind.decides:
        return kind.loss(given, wanted)
    return temperature**2 * kind.loss(given / temperature, wanted / temperature)


def _total(losses: Iterable[Tensor]) -> Tensor:
    parts = list(losses)
    if len(parts) < 2:  # of a single one no copy, and none of what has no gradients
        return parts[0] if parts else torch.zeros(())
    return torch.stack([part.to(parts[0]) for part in parts]).sum()
