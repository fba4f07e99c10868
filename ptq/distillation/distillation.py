"""Distillation: a network of any kind learns what its teachers say of views of images, without a label.

Hinton et al. (2015). Images are few, so no view is shown twice: each is cropped and flipped in its own way, and half of the batches have
other images pasted into them (MixMix). The teachers say what they make of that very view (Beyer et al., CVPR 2022; SRe2L, Yin et al.,
NeurIPS 2023), so that their word is exact however far it is from the image.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ptq.data.image_ops import view
from ptq.data.views import pasted, random_crops
from ptq.distillation.config import DistillConfig
from ptq.distillation.hints import Hints, run_with_maps
from ptq.distillation.learning import learn
from ptq.distillation.results import DistillResult, Epoch
from ptq.distillation.schedule import Schedule
from ptq.distillation.teaching import averaged, check_images, check_student, outputs_alike, recognized
from ptq.errors import InputError, ModelError
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.tasks.outputs import Output, named
from ptq.utils import ranks
from ptq.utils.autocast import keep_in_float32
from ptq.utils.digest import state_digest
from ptq.utils.memory_layout import use_fastest_layout
from ptq.utils.schedules import cosine
from ptq.utils.work_store import WorkStore

__all__ = ["distill"]

KEY = "student"
LOOKS = 10  # times that a student is judged on the way
SHOWN = 256  # images, as they are, that agreement is measured on
BATCH = 64  # of them at a time
KEEP_EVERY = 30.0  # seconds of work that an interruption may cost
SURE = 90.0  # percent of its own images that a teacher should recognize


def distill(
    teacher: Model | Sequence[Model],
    student: Model,
    images: Tensor,
    config: DistillConfig | None = None,
    *,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
    more_images: Callable[[Model, int], Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    store: WorkStore | None = None,
    progress: Progress = SILENT,
) -> tuple[Model, DistillResult]:
    """Teach a network what others say of images, and return it. All weights, biases and BatchNorms learn.

    Where there are several ranks, each learns from a share of every batch; BatchNorms see that share alone.

    Teachers with the outputs of the first say together what is right; the others are not asked.

    Args:
        teacher: one, or several; stays as it is.
        student: of any architecture, with random weights or with trained ones; stays as it is.
        images: uint8, (N, 3, H, W), at the size that the student takes; `CalibrationSet.images`.
        config: how long, and how.
        labels: what the images were made to show, (N,), -1 for nothing: a teacher that does not see it gets a warning.
        device: where to learn.
        more_images: given the student as it is, in eval mode on the device, and the number of a round, 2.., returns as many images more; for
            several `config.rounds`.
        evaluate: given the student in eval mode, on the device, some ten times; returns an accuracy in percent.
        store: keeps what was learned, so that the same call continues after an interruption, and ends in the same student.
        progress: told of every epoch.

    Returns:
        The student that learned, in eval mode on the CPU, and how it went.

    Raises:
        InputError: for no teacher, a student with other outputs than its teacher, images of another size or type, fewer than two, labels of
            another number, and rounds without `more_images`.
        ModelError: when the loss is not finite any more.

    Example:
        >>> given = {"size": 16, "mean": (0.5,) * 3, "std": (0.25,) * 3}
        >>> small = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> seen = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
        >>> learned, result = ptq.distill(ptq.as_model(net, **given), ptq.as_model(small, **given), seen, ptq.DistillConfig(epochs=4))
        >>> result.last.number, learned.num_classes
        (4, 10)
    """
    config, store, device = config or DistillConfig(), store or WorkStore(), torch.device(device)
    teachers = [teacher] if isinstance(teacher, Model) else list(teacher)
    if not teachers:
        raise InputError("a student needs a teacher: give at least one.")
    check_student(student, teachers[0])
    check_images(student, images)
    if labels is not None and labels.shape != (len(images),):
        raise InputError(
            f"labels are of shape {tuple(labels.shape)}, and there are {len(images)} images: give one for each."
        )
    asked = [one for one in teachers if one is teachers[0] or outputs_alike(one, teachers[0])]
    seen = {} if labels is None else _recognized(asked, images, labels)
    if config.rounds > 1 and more_images is None:
        raise InputError(f"{config.rounds} rounds need images that are made in between: give more_images.")
    learner = _Learner(asked, student, images, config, device)
    done, epochs, before = learner.restore(store)
    started = kept = time.perf_counter()
    with progress.stage("distill", config.epochs) as task:
        if done:
            task.advance(done)
        for number, loss in learner.epochs(done, partial(_grown, store, more_images, learner)):
            if not math.isfinite(loss):
                raise ModelError(
                    f"{student.name} learns no more: its loss is {loss} in epoch {number}; take a smaller distillation.lr"
                )
            told = ranks.is_first() and number in _looks(config.epochs)
            agreement = learner.agreement() if told else None
            accuracy = evaluate(learner.module.eval()) if told and evaluate is not None else None
            epochs.append(Epoch(number, loss, agreement, accuracy))
            task.advance(loss=loss)
            now = time.perf_counter()
            if ranks.is_first() and (now - kept > KEEP_EVERY or number == config.epochs):
                learner.save(store, epochs, before + now - started)
                kept = now
    seconds = before + time.perf_counter() - started
    names = tuple(one.name for one in asked)
    return learner.taught(), DistillResult(tuple(epochs), len(learner.images), names, seen, seconds)


class _Learner:
    """A student on the device, its teachers, and its optimizer."""

    def __init__(
        self, teachers: Sequence[Model], student: Model, images: Tensor, config: DistillConfig, device: torch.device
    ) -> None:
        self.student, self.images, self.config, self.device = student, images, config, device
        self.teachers = [(self._at_work(one, weights=False), one.preprocess) for one in teachers]
        self.module = self._at_work(student, weights=True)
        self.parameters = [p.requires_grad_(True) for p in self.module.parameters() if p.is_floating_point()]
        self.hints, self.weight = self._hints() if config.hints > 0 else None, config.hints
        self.optimizer = _optimizer([*self.parameters, *(self.hints.parameters() if self.hints else ())], config)
        self.schedule = Schedule(len(images), min(config.batch, len(images)), config.epochs, config.rounds)
        self.source = f"distilled from {', '.join(one.name for one in teachers)}"

    def _at_work(self, model: Model, weights: bool) -> nn.Module:
        module = copy.deepcopy(model.module).eval().requires_grad_(False).to(self.device)
        use_fastest_layout(module, torch.zeros(1, *model.preprocess.input_shape, device=self.device))
        keep_in_float32(module, self.device, weights)
        return module

    @torch.no_grad()
    def _hints(self) -> Hints | None:
        """What compares maps of the student with those of the first teacher; None where no two have the same size."""
        x = torch.zeros(1, 3, *self.student.preprocess.size, device=self.device)
        seen = (self.module, self.student.preprocess), self.teachers[0]
        ours, theirs = (run_with_maps(module, view(x, preprocess))[1] for module, preprocess in seen)
        with torch.random.fork_rng(_cards(self.device)):
            torch.manual_seed(self.config.seed)
            hints = Hints(ours, theirs)
        return hints.to(self.device) if hints.sizes else None

    def wanted(self, x: Tensor) -> Output:
        """What the teachers say of views, (N, 3, H, W) in RGB [0, 1], and the hints of the first."""
        (first, preprocess), *others = self.teachers
        output, hints = self._run(first, view(x, preprocess))
        said = [output, *(module(view(x, preprocess)) for module, preprocess in others)]
        return averaged(said, self.student.task, self.config.temperature) | hints

    def given(self, x: Tensor) -> Output:
        """What the student says of them, and its maps."""
        output, maps = self._run(self.module, view(x, self.student.preprocess))
        return named(output) | maps

    def _run(self, module: nn.Module, x: Tensor) -> tuple[Output, dict[str, Tensor]]:
        return (module(x), {}) if self.hints is None else run_with_maps(module, x)

    def loss(self, given: Output, wanted: Output) -> tuple[Tensor, Tensor]:
        """How far outputs are from those wanted and maps from hints, the mean by their weights; and how far outputs are."""
        outputs = self.student.task.loss(given, wanted, self.config.temperature)
        if self.hints is None:
            return outputs, outputs
        maps = self.hints.loss(named(given), named(wanted))
        return (outputs + self.weight * maps) / (1 + self.weight), outputs

    def epochs(self, done: int, grow: Callable[[int], Tensor]) -> Iterator[tuple[int, float]]:
        """Learn, and yield the number and the mean loss of every epoch.

        Args:
            done: epochs that were done before.
            grow: returns the images of all rounds up to one.
        """
        config, schedule = self.config, self.schedule
        views = self._views(done)
        descent = learn(
            self.given,
            self.wanted,
            lambda: [next(views)],
            self.loss,
            self.optimizer,
            schedule.total,
            start=schedule.steps_before(done + 1),
            lr=config.learning_rate,
        )
        for number in range(done + 1, config.epochs + 1):
            if schedule.images(number) > len(self.images):
                self.images = grow(schedule.round_of(number))
            self.weight = config.hints * cosine(2 * (number - 1) / config.epochs)
            _train(self.module)
            with ExitStack() as stack:
                # What is random within the student, as dropout, depends on the epoch alone: so an interruption changes nothing.
                stack.enter_context(torch.random.fork_rng(_cards(self.device)))
                torch.manual_seed(_seed(config.seed, number))
                losses = [next(descent) for _ in range(schedule.steps(number))]
            self.module.eval()
            ranks.same_state(self.module)  # BatchNorms have seen a share of the images on each rank
            yield number, float(torch.stack(losses).mean())

    def _views(self, done: int) -> Iterator[Tensor]:
        """Views of all images in another order in every epoch, a batch at a time."""
        config, batch = self.config, self.schedule.batch
        for number in range(done + 1, config.epochs + 1):
            generator = torch.Generator().manual_seed(_seed(config.seed, number))
            order = torch.randperm(len(self.images), generator=generator)
            for index in order[: self.schedule.steps(number) * batch].split(batch):
                x = random_crops(self.images[index].to(self.device).float() / 255, config.crop, generator)
                if float(torch.rand((), generator=generator)) < config.mixing:
                    x = pasted(x, generator)
                yield x

    @torch.no_grad()
    def agreement(self) -> float:
        """With the teachers on images as they are, in percent."""
        pairs = []
        for part in self.images[:SHOWN].split(BATCH):
            x = part.to(self.device).float() / 255
            pairs.append((named(self.given(x)), named(self.wanted(x))))
        ours, theirs = ({n: torch.cat([pair[i][n] for pair in pairs]) for n in pairs[0][i]} for i in (0, 1))
        return self.student.task.agreement(ours, theirs)

    def save(self, store: WorkStore, epochs: Sequence[Epoch], seconds: float) -> None:
        """Keep the student and the optimizer as they are after some epochs."""
        tensors = {f"module.{name}": value.contiguous() for name, value in self.module.state_dict().items()}
        if self.hints is not None:
            tensors |= {f"hints.{name}": value for name, value in self.hints.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value.contiguous() for name, value in values.items()}
        rows = [[e.number, e.loss, e.agreement, e.accuracy] for e in epochs]
        store.write(KEY, tensors, {"epochs": rows, "seconds": seconds})

    def restore(self, store: WorkStore) -> tuple[int, list[Epoch], float]:
        """Take what was kept; return how many epochs that is, what they were, and the seconds they took."""
        kept = ranks.by_first(partial(store.read, KEY))
        if kept is None:
            return 0, [], 0.0
        tensors, facts = kept
        for name, module in (("module", self.module), ("hints", self.hints)):
            if module is not None:
                module.load_state_dict(
                    {n.removeprefix(f"{name}."): v for n, v in tensors.items() if n.startswith(f"{name}.")}
                )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, number, kind = name.split(".", 2)
                state.setdefault(int(number), {})[kind] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        epochs = [Epoch(*row) for row in facts["epochs"]]
        return len(epochs), epochs, float(facts["seconds"])

    def at_work(self) -> Model:
        """The student as it is now, in eval mode on the device: it learns no more than it is asked to."""
        module = copy.deepcopy(self.module).eval().requires_grad_(False)
        return replace(self.student, module=module, weights_source=self.source, sha256="")

    def taught(self) -> Model:
        """The student as it is now, in eval mode on the CPU."""
        module = copy.deepcopy(self.student.module)
        module.load_state_dict({name: value.cpu().contiguous() for name, value in self.module.state_dict().items()})
        module.eval().requires_grad_(False)
        return replace(self.student, module=module, weights_source=self.source, sha256=state_digest(module))


def _grown(
    store: WorkStore, more_images: Callable[[Model, int], Tensor] | None, learner: _Learner, last: int
) -> Tensor:
    """The images of all rounds up to one; those that are missing are made against the student as it is."""
    assert more_images is not None
    parts, first = [learner.images], learner.images[: learner.schedule.count]
    for number in range(len(learner.images) // len(first) + 1, last + 1):
        key = f"{KEY}-images-{number}"
        kept = ranks.by_first(partial(store.read, key))
        if kept is None:
            made = more_images(learner.at_work(), number)
            if made.dtype != first.dtype or made.shape != first.shape:
                raise InputError(
                    f"round {number} needs {len(first)} more images, {str(first.dtype).removeprefix('torch.')} of shape {tuple(first.shape[1:])}: "
                    f"more_images gives {str(made.dtype).removeprefix('torch.')} of shape {tuple(made.shape)}."
                )
            if ranks.is_first():
                store.write(key, {"images": made.contiguous()}, {})
        else:
            made = kept[0]["images"]
        parts.append(made)
    return torch.cat(parts)


def _optimizer(parameters: Sequence[Tensor], config: DistillConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _recognized(teachers: Sequence[Model], images: Tensor, labels: Tensor) -> dict[str, float]:
    """The share of the images that each teacher recognizes, in percent, with a warning where that is little."""
    found = {one.name: share for one in teachers if (share := recognized(one, images, labels)) is not None}
    for name, share in found.items():
        if share < SURE:
            warnings.warn(
                f"{name} recognizes {share:.0f} % of the images as what they were made to show: it teaches little with "
                "them. More iterations for them may help (calibration.synthesis.iterations), or images of another source",
                stacklevel=3,
            )
    return found


def _train(module: nn.Module) -> None:
    """Have layers learn, and nothing else: what is built of them may give other outputs in training, as auxiliary heads."""
    for part in module.modules():
        if isinstance(part, _BatchNorm) or not any(part.children()):  # some BatchNorms hold an activation
            part.train()


def _looks(epochs: int) -> set[int]:
    """The numbers of the epochs after which a student is judged."""
    return {math.ceil(epochs * look / LOOKS) for look in range(1, LOOKS + 1)}


def _seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _cards(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
