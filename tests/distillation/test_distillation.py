"""A student learns from its teachers; an interruption changes nothing; the same seed gives the same student."""

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ptq
from ptq.distillation.config import HINTS, DistillConfig
from ptq.models.model import Model
from ptq.utils.work_store import WorkStore
from tests.helpers.progress import Recorder

CONFIG = DistillConfig(epochs=4, batch=32)


def student(seed: int = 0, dropout: float = 0.0) -> Model:
    """A plain network of another kind than the residual one that teaches."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 24, 2), (24, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(32, 10))
    return ptq.as_model(body, size=16, mean=0.5, std=0.25, name="small")


@pytest.fixture(scope="module")
def teacher(digits: Any) -> Model:
    return ptq.as_model(digits.model, size=16, mean=digits.mean, std=digits.std, name="digits")


def same(one: Model, other: Model) -> bool:
    ours, theirs = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("hints", [0.0, HINTS])
def test_a_student_of_another_kind_learns_from_images_without_labels(digits: Any, teacher: Model, hints: float) -> None:
    def accuracy(module: nn.Module) -> float:
        assert not module.training
        x = (digits.images.float() / 255 - 0.5) / 0.25
        return 100 * float((module(x).argmax(1) == digits.labels).float().mean())

    images, began = digits.train_images[:384], student()
    # A short run: views are near the images.
    config = DistillConfig(epochs=10, batch=32, lr=0.02, mixing=0.0, crop=1.0, hints=hints)
    learned, result = ptq.distill(teacher, began, images, config, evaluate=accuracy)
    assert result.last.accuracy is not None and result.last.accuracy > 70
    assert accuracy(learned.module) == pytest.approx(result.last.accuracy, abs=0.5)
    assert result.last.agreement is not None and result.last.agreement > 70
    if not hints:  # with hints predictions hardly count in the beginning
        assert result.epochs[0].loss > 3 * result.last.loss
    assert learned.sha256 != began.sha256 and same(began, student())


def test_the_same_seed_gives_the_same_student_and_another_seed_another(digits: Any, teacher: Model) -> None:
    images = digits.train_images[:64]
    first, again = (ptq.distill(teacher, student(dropout=0.3), images, CONFIG)[0] for _ in range(2))
    assert same(first, again)
    assert not same(first, ptq.distill(teacher, student(dropout=0.3), images, DistillConfig(4, 32, seed=1))[0])


@pytest.mark.parametrize("hints", [0.0, HINTS])
def test_a_compiled_student_learns_the_same(
    digits: Any, teacher: Model, monkeypatch: pytest.MonkeyPatch, hints: float
) -> None:
    """As far as torch follows what is computed: writing and compiling C++ of it would take a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    images, config = digits.train_images[:64], replace(CONFIG, hints=hints)
    (_, plain), (learned, fast) = (
        ptq.distill(teacher, student(), images, replace(config, compile=compile)) for compile in (False, True)
    )
    assert [e.loss for e in fast.epochs] == pytest.approx([e.loss for e in plain.epochs], rel=1e-2)
    assert learned.module.state_dict().keys() == student().module.state_dict().keys()


def test_a_machine_without_a_compiler_is_told_so(digits: Any, teacher: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fails))
    with pytest.raises(ptq.MachineError, match="no compiler"):
        ptq.distill(teacher, student(), digits.train_images[:64], replace(CONFIG, compile=True))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interruption_changes_nothing(
    digits: Any, teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Any
) -> None:
    monkeypatch.setattr("ptq.distillation.distillation.KEEP_EVERY", 0.0)
    images, config = digits.train_images[:64], DistillConfig(4, 32, optimizer)
    whole, result = ptq.distill(teacher, student(dropout=0.3), images, config)

    def stop(_: nn.Module) -> float:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return 50.0

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        ptq.distill(
            teacher, student(dropout=0.3), images, config, evaluate=stop, store=WorkStore(tmp_path, made_by="this")
        )
    store = WorkStore(tmp_path, made_by="this")
    assert store.found == ["student"]
    progress = Recorder()
    resumed, after = ptq.distill(teacher, student(dropout=0.3), images, config, store=store, progress=progress)
    assert same(whole, resumed)
    assert [e.loss for e in after.epochs] == [e.loss for e in result.epochs]
    assert [e.accuracy for e in after.epochs] == [50.0, 50.0, None, None]


def test_networks_without_maps_of_a_size_teach_by_what_they_predict(digits: Any, teacher: Model) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    flat, images = ptq.as_model(body, size=16, mean=0.5, std=0.25, name="flat"), digits.train_images[:64]
    with_hints, without = (ptq.distill(teacher, flat, images, replace(CONFIG, hints=hints)) for hints in (10.0, 0.0))
    assert same(with_hints[0], without[0])
    assert with_hints[1].last.loss == without[1].last.loss


def test_teachers_with_other_classes_are_not_asked(digits: Any, teacher: Model) -> None:
    other = ptq.as_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), size=16, name="four")
    twin = ptq.as_model(digits.model, size=16, mean=digits.mean, std=digits.std, name="twin")
    images, config = digits.train_images[:32], DistillConfig(1, 32)
    alone, result = ptq.distill([teacher, other], student(), images, config)
    assert result.teachers == ("digits",)
    both, result = ptq.distill([teacher, twin], student(), images, config)
    assert result.teachers == ("digits", "twin")
    assert torch.allclose(alone.module[0].weight, both.module[0].weight, atol=1e-3)  # type: ignore[index]


def test_a_teacher_that_does_not_recognize_the_images_gets_a_warning(digits: Any, teacher: Model) -> None:
    images: Tensor = digits.images[:32]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, result = ptq.distill(teacher, student(), images, DistillConfig(1, 32), labels=digits.labels[:32])
    assert result.recognized["digits"] > 90
    with pytest.warns(UserWarning, match="digits recognizes"):
        ptq.distill(teacher, student(), images, DistillConfig(1, 32), labels=(digits.labels[:32] + 1) % 10)


def test_bad_input_is_refused(teacher: Model) -> None:
    for images in (torch.rand(8, 3, 16, 16), torch.zeros(8, 1, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ptq.InputError):
            ptq.distill(teacher, student(), images)
    with pytest.raises(ptq.ModelError):
        ptq.distill(
            teacher, student(), torch.zeros(8, 3, 16, 16, dtype=torch.uint8), DistillConfig(3, 8, "sgd", lr=1e30)
        )


def test_no_teacher_and_labels_of_other_images_are_refused(digits: Any, teacher: Model) -> None:
    images = digits.train_images[:4]
    for teachers, labels in (([], None), ([teacher], torch.zeros(3, dtype=torch.long))):
        with pytest.raises(ptq.InputError):
            ptq.distill(teachers, teacher, images, ptq.DistillConfig(epochs=1), labels=labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 1},
        {"optimizer": "lion"},
        {"lr": 0.0},
        {"temperature": float("inf")},
        {"crop": 0.0},
        {"crop": 1.5},
        {"mixing": 1.5},
        {"weight_decay": -1.0},
    ],
)
def test_settings_have_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(ptq.InputError):
        DistillConfig(**wrong)


def test_rounds_add_images_made_against_the_student_and_an_interruption_changes_nothing(
    digits: Any, teacher: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptq.distillation.distillation.KEEP_EVERY", 0.0)
    images, config = digits.train_images[:32], DistillConfig(5, 32, rounds=3)
    asked: list[tuple[int, float]] = []

    def more(learner: Model, number: int) -> Tensor:
        with torch.no_grad():
            asked.append((number, float(learner.module(torch.zeros(1, 3, 16, 16)).sum())))
        if stops and number == 3:
            raise KeyboardInterrupt
        wanted: Tensor = digits.train_images[32 * number : 32 * number + 32]
        return wanted

    stops = False
    whole, result = ptq.distill(teacher, student(), images, config, more_images=more)
    assert [number for number, _ in asked] == [2, 3] and asked[0][1] != asked[1][1]
    assert result.images == 96
    stops, store = True, WorkStore(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        ptq.distill(teacher, student(), images, config, more_images=more, store=store)
    stops, before = False, len(asked)
    again, _ = ptq.distill(teacher, student(), images, config, more_images=more, store=store)
    assert same(whole, again)
    assert asked[before:] == [asked[1]]  # those of the second round are there


@pytest.mark.parametrize("rounds", [2, 9])
def test_rounds_that_cannot_be(digits: Any, teacher: Model, rounds: int) -> None:
    with pytest.raises(ptq.InputError):
        ptq.distill(teacher, student(), digits.train_images[:32], DistillConfig(4, 32, rounds=rounds))


def test_a_round_of_other_images_is_refused(digits: Any, teacher: Model) -> None:
    with pytest.raises(ptq.InputError):
        ptq.distill(
            teacher,
            student(),
            digits.train_images[:32],
            DistillConfig(2, 32, rounds=2),
            more_images=lambda *_: digits.train_images[:8],
        )


class AsWritten(nn.Module):
    """What people write: `view` behind a convolution, and other outputs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head, self.auxiliary = nn.Linear(8 * 64, 10), nn.Linear(8 * 64, 10)
        self.five = nn.Parameter(torch.ones(1, 1, 1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        x = x.view(x.size(0), -1) * self.five.view(1)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


def test_networks_teach_and_learn_as_they_are_written(digits: Any) -> None:
    torch.manual_seed(0)
    net = ptq.as_model(AsWritten(), size=16, mean=0.5, std=0.25, name="written")
    began = {name: value.clone() for name, value in net.module.state_dict().items()}
    learned, result = ptq.distill(net, net, digits.train_images[:64], CONFIG)
    assert result.last.loss < 1
    after = learned.module.state_dict()
    changed = {name for name, value in began.items() if not torch.equal(value, after[name])}
    assert {"body.1.running_mean", "body.0.weight"} <= changed and "auxiliary.weight" not in changed
    assert not learned.module.training
