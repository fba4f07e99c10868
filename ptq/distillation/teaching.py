"""What teachers say of a view, and whether they recognize images at all."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ptq.data.image_ops import view
from ptq.errors import InputError
from ptq.models.model import Model
from ptq.tasks.outputs import Output, named
from ptq.tasks.task import Task

__all__ = ["averaged", "called_alike", "check_images", "check_student", "outputs_alike", "recognized"]

BATCH = 64  # images at a time where nothing is learned
T = TypeVar("T")


def averaged(outputs: Sequence[Output], task: Task, temperature: float) -> dict[str, Tensor]:
    """Return what several teachers say together: scores of the mean of their probabilities, and the mean of other outputs.

    Args:
        outputs: of every teacher for the same images.
        task: of all of them, by the names that are wanted.
        temperature: at which probabilities are averaged.

    Example:
        >>> sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> averaged([sure, unsure], Task({"output": "classify"}, 2), 1.0)["output"].softmax(1)
        tensor([[0.7410, 0.2590]])
    """
    every = [called_alike(named(output), task) for output in outputs]
    if len(every) == 1:
        return every[0]
    found = {}
    for name in task.kinds:
        values = [one[name].float() for one in every]
        if task.kind(name).decides:
            values = [(value / temperature).log_softmax(1) for value in values]
            found[name] = torch.stack(values).logsumexp(0) * temperature
        else:
            found[name] = torch.stack(values).mean(0)
    return found


def outputs_alike(one: Model, other: Model) -> bool:
    """Return whether two networks give outputs of the same names, shapes and kinds, as far as these tell the classes.

    What a single output is called does not matter: files have names of their own for it.
    """
    kinds, shapes = (called_alike(found, one.task) for found in (other.task.kinds, _shapes(other)))
    return one.num_classes == other.num_classes and one.task.kinds == kinds and _shapes(one) == shapes


def called_alike(values: Mapping[str, T], task: Task) -> dict[str, T]:
    """Return what there is of every output of a network, under the names of a task's; single ones belong together.

    Example:
        >>> called_alike({"logits": 1}, Task({"output": "classify"}, 2)), called_alike({"a": 1, "b": 2}, Task({"a": "generic"}))
        ({'output': 1}, {'a': 1, 'b': 2})
    """
    if len(values) == len(task.kinds) == 1:
        return dict(zip(task.kinds, values.values(), strict=True))
    return dict(values)


def check_images(student: Model, images: Tensor) -> None:
    """Refuse images that a student cannot learn from.

    Raises:
        InputError: for other numbers or another shape than uint8 (N, 3, H, W) at the student's size, and for fewer than two.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
        raise InputError(
            f"images are {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}: give uint8, (N, 3, H, W)."
        )
    size, wanted = tuple(images.shape[2:]), student.preprocess.size
    if size != wanted:
        raise InputError(
            f"{student.name} takes images of {wanted[0]}x{wanted[1]} pixels, and these have {size[0]}x{size[1]}: "
            "load it with their size."
        )
    if len(images) < 2:
        raise InputError(f"{len(images)} images are too few to learn from: give two or more.")


def check_student(student: Model, teacher: Model) -> None:
    """Refuse a student that cannot learn what its teacher says.

    Raises:
        InputError: for other outputs or classes, and for a teacher of whole numbers.
    """
    if student.num_classes != teacher.num_classes:
        raise InputError(
            f"{student.name} tells {student.num_classes or 'no'} classes apart, and {teacher.name} {teacher.num_classes or 'none'}: "
            "a student needs as many as its teacher."
        )
    if not outputs_alike(student, teacher):
        raise InputError(
            f"{student.name} gives {_described(student)}, and {teacher.name} {_described(teacher)}: a student needs the outputs "
            "of its teacher."
        )
    if not teacher.task.learnable:
        raise InputError(
            f"{teacher.name} gives whole numbers alone, which teach nothing: leave out what makes them (argmax)."
        )


@torch.no_grad()
def recognized(teacher: Model, images: Tensor, labels: Tensor) -> float | None:
    """Return on what share of images a teacher's prediction is their label, in percent; None where no image has one.

    Args:
        teacher: with class scores.
        images: uint8, (N, 3, H, W).
        labels: of these, (N,); -1 where there is none.

    Example:
        >>> model = ptq.as_model(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> recognized(model, torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.full((4,), -1)) is None
        True
    """
    known = labels >= 0
    if teacher.num_classes is None or not bool(known.any()):
        return None
    images, labels, right = images[known], labels[known], 0
    for part, label in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        scores = teacher.task.scores(teacher.module(view(part.float() / 255, teacher.preprocess)))
        assert scores is not None
        right += int((scores.argmax(1) == label).sum())
    return 100 * right / len(images)


@torch.no_grad()
def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    output = named(model.module(torch.zeros(1, *model.preprocess.input_shape)))
    return {name: tuple(value.shape[1:]) for name, value in output.items()}


def _described(model: Model) -> str:
    return ", ".join(f"{name} ({model.task.kinds[name]}) {shape}" for name, shape in _shapes(model).items())
