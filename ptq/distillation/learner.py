"""A student as it learns: its teachers, views of the images, its optimizer, and what is kept of it."""

import copy
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
from ptq.distillation.hints import Hints, WithMaps
from ptq.distillation.learning import learn
from ptq.distillation.results import Epoch
from ptq.distillation.schedule import Schedule
from ptq.distillation.teaching import averaged
from ptq.models.model import Model
from ptq.tasks.outputs import Output, named
from ptq.utils import ranks
from ptq.utils.autocast import keep_in_float32
from ptq.utils.compilation import compiled
from ptq.utils.digest import state_digest
from ptq.utils.memory_layout import use_fastest_layout
from ptq.utils.modules import eager
from ptq.utils.schedules import cosine
from ptq.utils.work_store import WorkStore

__all__ = ["KEY", "Learner"]

Runner = Callable[[Tensor], tuple[Output, dict[str, Tensor]]]
KEY = "student"  # of what is kept
SHOWN = 256  # images, as they are, that agreement is measured on
BATCH = 64  # of them at a time


class Learner:
    """A student on the device, its teachers, and its optimizer.

    Args:
        teachers: with the outputs of the student, at least one; the first gives hints.
        student: as it begins; stays as it is.
        images: uint8, (N, 3, H, W), of the first round.
        config: how long, and how, as `DistillConfig.for_student` gives it.
        device: where to learn.
    """

    def __init__(
        self, teachers: Sequence[Model], student: Model, images: Tensor, config: DistillConfig, device: torch.device
    ) -> None:
        self.student, self.images, self.config, self.device = student, images, config, device
        self.module = self._at_work(student, weights=True)
        parameters = [p.requires_grad_(True) for p in self.module.parameters() if p.is_floating_point()]
        assert config.hints is not None
        self.most = config.hints
        hinted = self.most > 0
        self.run = self._runner(self.module, student, hinted)
        self.teachers = [
            self._runner(self._at_work(one, weights=False), one, hinted and number == 0)
            for number, one in enumerate(teachers)
        ]
        self.hints = self._hints() if hinted else None
        self.weight = 0.0  # of hints; that of predictions is 1
        self.optimizer = _optimizer([*parameters, *(self.hints.parameters() if self.hints else ())], config)
        self.schedule = Schedule(len(images), min(config.batch, len(images)), config.epochs, config.rounds)
        self.source = f"distilled from {', '.join(one.name for one in teachers)}"

    def _at_work(self, model: Model, weights: bool) -> nn.Module:
        module = copy.deepcopy(model.module).eval().requires_grad_(False).to(self.device)
        use_fastest_layout(module, torch.zeros(1, *model.preprocess.input_shape, device=self.device))
        keep_in_float32(module, self.device, weights)
        return module

    def _runner(self, module: nn.Module, model: Model, maps: bool) -> Runner:
        """What gives a network's output and, where they are wanted, its maps for images, (N, 3, H, W) in RGB [0, 1]."""
        run: Runner = WithMaps(module) if maps else lambda x: (module(x), {})
        fast = compiled(run) if self.config.compile else run
        return lambda x: fast(view(x, model.preprocess))

    @torch.no_grad()
    def _hints(self) -> Hints | None:
        """What compares maps of the student with those of the first teacher; None where no two have the same size."""
        x = torch.zeros(1, 3, *self.student.preprocess.size, device=self.device)
        with eager():
            (_, ours), (_, theirs) = self.run(x), self.teachers[0](x)
        with torch.random.fork_rng(_cards(self.device)):
            torch.manual_seed(self.config.seed)
            hints = Hints(ours, theirs)
        return hints.to(self.device) if hints.sizes else None

    def wanted(self, x: Tensor) -> Output:
        """What the teachers say of views, (N, 3, H, W) in RGB [0, 1], and the hints of the first."""
        said = [run(x) for run in self.teachers]
        _, hints = said[0]
        return averaged([output for output, _ in said], self.student.task, self.config.temperature) | hints

    def given(self, x: Tensor) -> Output:
        """What the student says of them, and its maps."""
        output, maps = self.run(x)
        return named(output) | maps

    def loss(self, given: Output, wanted: Output) -> tuple[Tensor, Tensor]:
        """How far outputs are from those wanted and maps from hints, the mean by their weights; and how far outputs are."""
        outputs = self.student.task.loss(given, wanted, self.config.temperature)
        if self.hints is None or not self.weight:
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
        )
        for number in range(done + 1, config.epochs + 1):
            if schedule.images(number) > len(self.images):
                self.images = grow(schedule.round_of(number))
            self.weight = self.most * cosine(2 * (number - 1) / config.epochs) if self.hints else 0.0
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
            with eager():  # once in many epochs
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


def _optimizer(parameters: Sequence[Tensor], config: DistillConfig) -> torch.optim.Optimizer:
    assert config.lr is not None and config.weight_decay is not None
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=config.lr)


def _train(module: nn.Module) -> None:
    """Have layers learn, and nothing else: what is built of them may give other outputs in training, as auxiliary heads."""
    for part in module.modules():
        if isinstance(part, _BatchNorm) or not any(part.children()):  # some BatchNorms hold an activation
            part.train()


def _seed(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**63


def _cards(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
