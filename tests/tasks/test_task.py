"""A task is found from shapes or said, and its four parts mean what they say."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ptq
from ptq.tasks.kinds import KINDS, Tally
from ptq.tasks.task import Task, find_task

SHAPE = (3, 16, 16)
REAL = [kind for kind in KINDS if kind != "discrete"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outputs(kind: str, seed: int = 0) -> Tensor:
    x = noise(8, 5, seed=seed) if kind in ("classify", "embed") else noise(8, 5, 16, 16, seed=seed)
    return F.normalize(x) if kind == "embed" else x


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (noise(2, 10), "classify"),
        (F.normalize(noise(2, 10)), "embed"),
        (noise(2, 1), "generic"),
        (noise(2), "generic"),
        (noise(2, 21, 16, 16), "dense"),
        (noise(2, 3, 16, 16), "generic"),  # an image, as far as its shape tells
        (noise(2, 1, 16, 16), "generic"),
        (noise(2, 17, 4, 4), "generic"),  # heatmaps, features
        (noise(2, 100, 4), "generic"),
        (noise(2, 16, 16).long(), "discrete"),
        (noise(2, 10) > 0, "discrete"),
    ],
)
def test_kinds_are_found_from_shapes(output: Tensor, kind: str) -> None:
    task = find_task(output, SHAPE)
    assert task.kinds == {"output": kind}
    assert task.classes == (10 if kind == "classify" else None)
    assert Task.from_json(task.to_json()) == task


def test_kinds_are_said() -> None:
    heads = {"scores": noise(2, 10), "boxes": noise(2, 4), "features": noise(2, 8, 4, 4)}
    assert find_task(heads, SHAPE).kinds == {"scores": "classify", "boxes": "classify", "features": "generic"}
    assert set(find_task(heads, SHAPE, "generic").kinds.values()) == {"generic"}
    assert find_task(heads, SHAPE, "embed").kinds == {"scores": "embed", "boxes": "embed", "features": "generic"}
    assert find_task(heads, SHAPE, "dense").kinds["features"] == "dense"
    said = find_task(heads, SHAPE, "boxes=generic, features=dense")
    assert said.kinds == {"scores": "classify", "boxes": "generic", "features": "dense"} and said.classes == 10


@pytest.mark.parametrize("said", ["clasify", "dense", "scores=dense", "boxes=generic", "scores=", "scores=auto"])
def test_what_cannot_be_is_refused(said: str) -> None:
    with pytest.raises(ptq.InputError):
        find_task({"scores": noise(2, 10)}, SHAPE, said)


@pytest.mark.parametrize("kind", REAL)
def test_what_is_equal_agrees_and_what_is_not_does_less_the_farther_it_is(kind: str) -> None:
    task, wanted = Task({"output": kind}), outputs(kind)
    assert task.agreement(wanted, wanted) == pytest.approx(100)
    assert float(task.loss(wanted, wanted)) == pytest.approx(0, abs=1e-6)
    near, far = (wanted + share * outputs(kind, seed=1) for share in (0.1, 2))
    assert 100 >= task.agreement(near, wanted) > task.agreement(far, wanted) >= 0
    assert 0 < float(task.loss(near, wanted)) < float(task.loss(far, wanted))


@pytest.mark.parametrize("kind", REAL)
def test_losses_have_gradients_and_outputs_matter(kind: str) -> None:
    task, wanted = Task({"output": kind}), outputs(kind)
    given = outputs(kind, seed=1).requires_grad_()
    for scalar in (task.loss(given, wanted), task.surprise(given, torch.Generator())):
        (gradient,) = torch.autograd.grad(scalar, given)
        assert torch.isfinite(gradient).all() and gradient.any()


@pytest.mark.parametrize("kind", REAL)
def test_batches_add_up(kind: str) -> None:
    """But for the mean, around which the variance of a batch is taken."""
    task, wanted, given = Task({"output": kind}), outputs(kind), outputs(kind) + 0.3 * outputs(kind, seed=1)
    parts = sum((task.tally(given[p], wanted[p])["output"] for p in (slice(3), slice(3, 8))), Tally())
    assert parts.percent == pytest.approx(task.agreement(given, wanted), rel=0.02 if kind == "generic" else 1e-9)
    assert parts.count == (8 * 256 if kind == "dense" else 8)


def test_of_several_outputs_the_worst_counts() -> None:
    task = Task({"a": "classify", "b": "generic"}, 5)
    wanted = {"a": outputs("classify"), "b": outputs("generic")}
    given = {"a": wanted["a"], "b": wanted["b"] + 0.5 * noise(8, 5, 16, 16, seed=2)}
    found = {name: tally.percent for name, tally in task.tally(given, wanted).items()}
    assert found["a"] == 100 > found["b"] == task.agreement(given, wanted)
    assert float(task.loss(given, wanted)) == pytest.approx(float(KINDS["generic"].loss(given["b"], wanted["b"])))
    assert task.unit == ""


def test_only_what_is_sure_counts() -> None:
    reference = torch.tensor([[0.0, 3.0], [0.0, 0.1]])
    given = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    task = Task({"output": "classify"}, 2)
    assert task.tally(given, reference)["output"].percent == 50
    assert task.tally(given, reference, sure=True)["output"] == Tally(1, 1, 1)


def test_labels_speak_of_the_first_class_scores() -> None:
    task = Task({"boxes": "generic", "scores": "classify", "others": "classify"}, 2)
    output: Any = {"boxes": noise(2, 4), "scores": torch.eye(2), "others": 1 - torch.eye(2)}
    right = task.metric(output, torch.tensor([0, 0]))
    assert right is not None and right.percent == 50
    assert Task({"output": "dense"}).metric(outputs("dense"), torch.zeros(8)) is None


def test_whole_numbers_are_equal_or_not() -> None:
    task = Task({"mask": "discrete", "output": "classify"}, 5)
    wanted = {"mask": torch.tensor([[1, 2], [3, 4]]), "output": noise(2, 5)}
    given = {"mask": torch.tensor([[1, 2], [3, 0]]), "output": noise(2, 5)}
    assert task.tally(given, wanted)["mask"].percent == 75
    assert float(task.loss(given, wanted)) == pytest.approx(0.25)
    assert math.isfinite(float(task.surprise(given, torch.Generator())))
    assert find_task(wanted, SHAPE, "generic").kinds == {"mask": "discrete", "output": "generic"}
    assert Task({"mask": "discrete"}).unit != Task({"output": "generic"}).unit


def test_a_constant_output_is_right_or_wrong() -> None:
    task = Task({"output": "generic"})
    assert task.agreement(torch.ones(4, 1), torch.ones(4, 1)) == 100
    assert task.agreement(torch.zeros(4, 1), torch.ones(4, 1)) == 0
