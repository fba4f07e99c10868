"""A run before the run: what will be quantized, and from a few real steps of every stage, what it will take.

Nothing is written. The file is exported, with ranges from a few images, and run: what stays in float, size
and latency are those of a real file, and only time and memory are extrapolated.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptq.calibration import RECIPES, CalibrationSet, calibrate, synthesis_preset
from ptq.calibration.teachers import batch_count, labelled, shares
from ptq.config.settings import Settings
from ptq.export import Validation, export_qdq, validate
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import Prepared, prepare
from ptq.models.model import Model
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.placement import Student
from ptq.reconstruction.activation_cache import Memory
from ptq.reconstruction.config import method_preset
from ptq.reconstruction.loop import BlockResult, reconstruct
from ptq.reporting.report import Stopwatch, peak_rss_bytes
from ptq.run.inputs import (
    ValidationBatches,
    calibration_images,
    load_evaluation,
    load_network,
    load_teachers,
    place_quantizers,
    synthesized,
    zoo_of,
)
from ptq.utils.environment import use_device

__all__ = ["Forecast", "PlannedBlock", "rehearse"]

STEPS = 12  # of synthesis per teacher: some at half resolution, some at full
IMAGES = 16
ITERATIONS = 12  # of reconstruction, per block


@dataclass(frozen=True)
class PlannedBlock:
    """A block that will be reconstructed.

    Args:
        name: of its last layer.
        bits: node name of a layer -> bits of its weights, None for float.
    """

    name: str
    bits: dict[str, int | None]


@dataclass(frozen=True)
class Forecast:
    """What a run will do and take.

    Args:
        name: of the network.
        notes: of the plan, in words.
        blocks: in order of computation.
        kept_float: layers and operators that onnxruntime will run in float.
        images: how many the network will be calibrated with.
        size_bytes, latency_ms: as in `Validation`, of a file exported now.
        seconds: per stage of the run, extrapolated from a few steps on this machine.
        memory_bytes: the largest resident memory of the process, extrapolated.
        cached_bytes: activations that reconstruction will keep, in memory or past the limit on disk.
    """

    name: str
    notes: tuple[str, ...]
    blocks: tuple[PlannedBlock, ...]
    kept_float: tuple[str, ...]
    images: int
    size_bytes: dict[str, int]
    latency_ms: dict[str, float]
    seconds: dict[str, float]
    memory_bytes: int
    cached_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON-able data."""
        return asdict(self)


def rehearse(
    settings: Settings, progress: Progress = SILENT, model: Model | None = None
) -> Forecast:
    """Say what a run with these settings will do and take, without writing anything.

    Args:
        settings: of the run.
        progress: told of the stages.
        model: the network, where it is not to be loaded by ``settings.model``.

    Raises:
        PtqError: for whatever would stop the run before its long stages, or its export.

    Example:
        >>> rehearse(Settings("resnet18", bits=4)).seconds["synthesize"]
        412.7
    """
    watch, device = Stopwatch(), use_device(settings.device, settings.threads)
    with watch("load"):
        model = model or load_network(settings)
        teachers = load_teachers(settings)
        evaluation = load_evaluation(settings, model)
        prepared = prepare(model.module, (3, *model.preprocess.size))
        student = place_quantizers(prepared, settings)
    with progress.stage("rehearse", 4) as task:
        images, count, synthesis = _images(model, teachers, settings, device)
        task.advance()
        few = replace(images, images=images.images[:IMAGES], labels=images.labels[:IMAGES])
        inputs = model.preprocess.normalize(few.floats())
        for module in (student.module, prepared.module):
            module.to(device)
        ranges, passing = _calibration(student, inputs, settings.seed)
        task.advance()
        growing, fitting, cached = _reconstruction(prepared, settings, inputs, model, device)
        task.advance()
        for module in (student.module, prepared.module):
            module.cpu()
        measured, export, validation = _file(student, model, few, settings)
        task.advance()
    share = count * (1 + settings.mixed_copies) / len(inputs)
    shown = count if evaluation is None else len(evaluation)
    one = _timed(lambda: student(inputs.cpu())) / len(inputs)
    return Forecast(
        name=model.name,
        notes=student.plan.notes,
        blocks=_blocks(student),
        kept_float=(*measured.float_layers, *measured.float_operators),
        images=count,
        size_bytes=measured.size_bytes,
        latency_ms=measured.latency_ms,
        seconds={
            "load": watch.seconds["load"],
            "synthesize": synthesis,
            "calibrate": ranges + passing * (share - 1),
            "reconstruct": growing * share + fitting,
            "export": export,
            "validate": validation + one * max(0, shown - len(few)),
        },
        memory_bytes=peak_rss_bytes() + int(cached * (share - 1)),
        cached_bytes=int(cached * share),
    )


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _images(
    model: Model, teachers: list[Model], settings: Settings, device: torch.device
) -> tuple[CalibrationSet, int, float]:
    """A batch of images after a few steps, how many there will be, and the seconds until they are there."""
    if settings.images not in RECIPES:
        started = time.perf_counter()
        # Nothing is written: only synthesis keeps its batches.
        images = calibration_images(model, teachers, settings, device)
        return images, len(images), time.perf_counter() - started
    config = synthesis_preset(
        settings.preset, model.preprocess, settings.images, seed=settings.seed
    )
    zoo = zoo_of(model, teachers)
    groups = shares(labelled(zoo), config.feature_mixing)
    batches = batch_count(config.images, config.batch, len(groups))
    tried, steps = min(batches, len(groups)), STEPS * max(map(len, groups))
    few = replace(config, images=tried * -(-config.images // batches), iterations=steps)
    clock = _Clock()
    started = time.perf_counter()
    images = synthesized(model, teachers, few, device, clock)
    seconds = time.perf_counter() - started
    # What is done once is not done again for the steps that are still to come.
    half = round(config.half * steps)
    each = [clock.steps[start : start + steps] for start in range(0, tried * steps, steps)]
    at_half = statistics.mean(_mean(one[:half]) for one in each)
    at_full = statistics.mean(_mean(one[half:]) for one in each)
    step = config.half * at_half + (1 - config.half) * at_full
    return images, config.images, seconds + step * (config.iterations * batches - steps * tried)


def _calibration(student: Student, inputs: Tensor, seed: int) -> tuple[float, float]:
    """Seconds to set all ranges from these images, and those of them that grow with the images: the float pass.

    The search for the ranges sees a sample of the same size however many images there are.
    """
    assert len(inputs) <= IMAGES  # one batch, so one step
    clock = _Clock()

    def once() -> float:
        return _timed(lambda: calibrate(student, inputs, seed=seed, progress=clock))

    first = once()
    once()  # without what is done once
    return first, clock.steps[0]


def _reconstruction(
    prepared: Prepared,
    settings: Settings,
    inputs: Tensor,
    model: Model,
    device: torch.device,
) -> tuple[float, float, int]:
    """Seconds that grow with the images, of these; seconds of all iterations; bytes cached of these images."""
    config = method_preset(settings.method, settings.preset, model.preprocess.size)

    def tune(iterations: int) -> tuple[float, float, int]:
        student = place_quantizers(prepared, settings)
        student.module.to(device)
        calibrate(student, inputs, seed=settings.seed)
        clock, one, spent, cached = _Clock(), 0.0, 0.0, 0

        def settle(_: int, result: BlockResult) -> None:
            nonlocal one, spent, cached
            one, spent = one + _mean(clock.steps), spent + sum(clock.steps)
            cached = max(cached, result.memory)
            clock.restart()

        few = replace(config, iterations=min(iterations, config.iterations))
        memory = Memory(1 << 62)
        seconds = _timed(
            lambda: reconstruct(
                student, inputs, few, memory=memory, progress=clock, on_block=settle
            )
        )
        return max(0.0, seconds - spent), one * config.iterations, cached

    tune(1)  # kernels are compiled once
    return tune(ITERATIONS)


class _Clock:
    """Takes the seconds between the steps that a stage reports."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the steps so far."""
        self.steps: list[float] = []
        self._last = time.perf_counter()

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Task]:
        """Open a stage."""
        self.restart()
        yield self

    def advance(self, n: int = 1, **figures: float) -> None:
        """Take the time of `n` steps."""
        now = time.perf_counter()
        self.steps += [(now - self._last) / n] * n
        self._last = now


def _mean(steps: list[float]) -> float:
    """The mean step, without the first, which waits for what is done once."""
    return statistics.fmean(steps[1:] or steps or [0.0])


def _file(
    student: Student, model: Model, images: CalibrationSet, settings: Settings
) -> tuple[Validation, float, float]:
    """What the file of this student is like, and the seconds that export and validation take."""
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        path = Path(folder) / "model.onnx"
        export = _timed(lambda: export_qdq(student, path, format=settings.format))
        measured: list[Validation] = []
        batches = ValidationBatches(None, images)
        validation = _timed(
            lambda: measured.append(
                validate(path, student, model.preprocess, batches, threads=settings.threads)
            )
        )
    return measured[0], export, validation


def _blocks(student: Student) -> tuple[PlannedBlock, ...]:
    found: dict[int, dict[str, int | None]] = {}
    for node in student.prepared.module.graph.nodes:
        if isinstance(module_of(student.prepared.module, node), LAYERS):
            spec = student.plan.weights.get(node.name)
            bits = None if spec is None else spec.bits
            found.setdefault(student.blocks[node.name], {})[node.name] = bits
    return tuple(PlannedBlock(list(bits)[-1], bits) for bits in found.values())
