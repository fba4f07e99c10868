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
from torch import Tensor, nn

from ptq.allocation.smallest import TUNED
from ptq.calibration.activation_ranges import calibrate
from ptq.calibration.dataset import CalibrationSet
from ptq.calibration.teachers import batch_count, knows_classes, teacher_groups
from ptq.config.bit_budget import bit_budget
from ptq.config.settings import Settings
from ptq.export import Validation, export_qdq, validate
from ptq.graph.fx_helpers import LAYERS, module_of
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress, Task
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan
from ptq.reconstruction.finetuning import finetune
from ptq.reconstruction.loop import reconstruct
from ptq.reconstruction.results import BlockResult
from ptq.run.evaluation import ValidationBatches, load_evaluation
from ptq.run.inputs import (
    ImageSource,
    calibration_images,
    image_source,
    load_network,
    load_teachers_and_verifier,
    reconstruct_config,
    synthesis_teachers,
)
from ptq.run.placing import forecast_placement
from ptq.run.planning import plan_by_images, plan_by_settings, prepare_network
from ptq.run.pruning import estimate_pruning
from ptq.utils.activation_cache import ActivationCache
from ptq.utils.device import use_device
from ptq.utils.environment import Stopwatch, peak_memory_bytes

__all__ = ["Estimate", "PlannedBlock", "estimate_run"]

STEPS = 12  # of synthesis per teacher: some at half resolution, some at full
IMAGES = 16
ITERATIONS = 12  # of reconstruction, per block
FINETUNE = 3  # iterations of the whole network


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
class Estimate:
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


def estimate_run(settings: Settings, progress: Progress = SILENT, model: Model | None = None) -> Estimate:
    """Say what a run with these settings will do and take, without writing anything.

    Args:
        settings: of the run.
        progress: told of the stages.
        model: the network, where it is not to be loaded by ``settings.model``.

    Raises:
        PtqError: for whatever would stop the run before its long stages, or its export.

    Example:
        >>> found = estimate_run(ptq.make_settings("resnet18", bits=4))  # doctest: +SKIP
        >>> list(found.seconds)  # doctest: +SKIP
        ['load', 'synthesize', 'calibrate', 'reconstruct', 'export', 'validate']
    """
    watch, device = Stopwatch(), use_device(settings.execution.device, settings.execution.threads)
    with watch("load"):
        model = model or load_network(settings.model)
        teachers, verifier = load_teachers_and_verifier(settings.calibration, model)
        evaluation = load_evaluation(settings.evaluation, model)
        graph_model = prepare_network(model, settings.quantization)
        plan_by_settings(graph_model, settings.quantization)  # what it refuses, it refuses before images are made
    with progress.stage("estimate_run", 4) as task:
        source = image_source(settings.calibration, settings.execution, model.preprocess)
        images, count, synthesis = _images(model, source, teachers, verifier, device)
        task.advance()
        few = images.pick(slice(IMAGES))
        inputs = model.preprocess.normalize(few.floats())
        pruning, original = 0.0, None
        if settings.pruning.budget is not None:
            original = graph_model.module
            graph_model, pruning = estimate_pruning(graph_model, inputs, count, settings, device)
        graph_model.module.to(device)
        plan = forecast_placement(graph_model, plan_by_images(graph_model, settings.quantization, inputs), settings)
        quantized_model = insert_quantizers(graph_model, plan)
        ranges, passing = _calibration(quantized_model, inputs, settings.execution.seed)
        task.advance()
        growing, fitting, cached = _reconstruction(graph_model, plan, settings, inputs, model)
        finetuning = _finetuning(quantized_model, settings, inputs, model)
        task.advance()
        quantized_model.to(torch.device("cpu"))
        measured, export, validation = _file(quantized_model, model, few, settings, original)
        task.advance()
    share = count * (1 + settings.calibration.mixed_copies) / len(inputs)
    shown = count if evaluation is None else len(evaluation)
    one = _timed(lambda: quantized_model.integer_forward(inputs.cpu())) / len(inputs)
    return Estimate(
        name=model.name,
        notes=(*quantized_model.plan.notes, *_budget(settings)),
        blocks=_blocks(quantized_model),
        kept_float=(*measured.float_layers, *measured.float_operators),
        images=count,
        size_bytes=measured.size_bytes,
        latency_ms=measured.latency_ms,
        seconds={
            "load": watch.seconds["load"],
            "synthesize": synthesis,
            **({"prune": pruning} if pruning else {}),
            "calibrate": ranges + passing * (share - 1),
            "reconstruct": growing * share + fitting,
            **({"fine-tune": finetuning} if finetuning else {}),
            "export": export,
            "validate": validation + one * max(0, shown - len(few)),
        },
        memory_bytes=peak_memory_bytes() + int(cached * (share - 1)),
        cached_bytes=int(cached * share),
    )


def _budget(settings: Settings) -> tuple[str, ...]:
    """What an estimate does not know yet where bits are chosen in the run."""
    budget, bits = bit_budget(settings.quantization), settings.quantization.bits
    if budget is None:
        return ()
    note = f"bits are chosen in the run: blocks, size and latency are those of {bits} bits in every layer"
    return (note,) if budget[0] == "max_size" else (note, f"up to {TUNED} sizes are tuned: here is the time for one")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _images(
    model: Model, source: ImageSource, teachers: list[Model], verifier: Model | None, device: torch.device
) -> tuple[CalibrationSet, int, float]:
    """A batch of images after a few steps, how many there will be, and the seconds until they are there."""
    if not source.synthesized:
        started = time.perf_counter()
        images = calibration_images(model, source, teachers, verifier, device=device)
        return images, len(images), time.perf_counter() - started
    config = source.config
    groups = teacher_groups(knows_classes(synthesis_teachers(model, teachers)), config.feature_mixing)
    batches = batch_count(config.count, config.batch, len(groups))
    tried, steps = min(batches, len(groups)), STEPS * max(map(len, groups))
    few = replace(config, count=tried * -(-config.count // batches), iterations=steps)
    clock = _Clock()
    started = time.perf_counter()
    images = calibration_images(model, replace(source, config=few), teachers, verifier, device=device, progress=clock)
    seconds = time.perf_counter() - started
    # What is done once is not done again for the steps that are still to come.
    half = round(config.half_resolution * steps)
    each = [clock.steps[start : start + steps] for start in range(0, tried * steps, steps)]
    at_half = statistics.mean(_mean(one[:half]) for one in each)
    at_full = statistics.mean(_mean(one[half:]) for one in each)
    step = config.half_resolution * at_half + (1 - config.half_resolution) * at_full
    return images, config.count, seconds + step * (config.iterations * batches - steps * tried)


def _calibration(quantized_model: QuantizedModel, inputs: Tensor, seed: int) -> tuple[float, float]:
    """Seconds to set all ranges from these images, and those of them that grow with the images: the float pass.

    The search for the ranges sees a sample of the same size however many images there are.
    """
    assert len(inputs) <= IMAGES  # one batch, so one step
    clock = _Clock()

    def once() -> float:
        return _timed(lambda: calibrate(quantized_model, inputs, seed=seed, progress=clock))

    first = once()
    once()  # without what is done once
    return first, clock.steps[0]


def _finetuning(quantized_model: QuantizedModel, settings: Settings, inputs: Tensor, model: Model) -> float:
    """Seconds of all iterations on the whole network; none where that is good enough before it is reconstructed."""
    config = reconstruct_config(settings.reconstruction, settings.execution, model.preprocess.size)
    if not config.finetune:
        return 0.0
    clock = _Clock()
    found = finetune(quantized_model, inputs, inputs, replace(config, finetune=FINETUNE), progress=clock)
    return 0.0 if found is None else _mean(clock.steps) * config.finetune


def _reconstruction(
    graph_model: GraphModel, plan: QuantPlan, settings: Settings, inputs: Tensor, model: Model
) -> tuple[float, float, int]:
    """Seconds that grow with the images, of these; seconds of all iterations; bytes cached of these images."""
    config = reconstruct_config(settings.reconstruction, settings.execution, model.preprocess.size)

    def tune(iterations: int) -> tuple[float, float, int]:
        quantized_model = insert_quantizers(graph_model, plan)
        calibrate(quantized_model, inputs, preprocess=model.preprocess, seed=config.seed)
        clock, one, spent, cached = _Clock(), 0.0, 0.0, 0

        def count(_: int, result: BlockResult) -> None:
            nonlocal one, spent, cached
            if result.losses:  # what was not tuned took no iterations
                one, spent = one + _mean(clock.steps), spent + sum(clock.steps)
            cached = max(cached, result.memory)
            clock.restart()

        few = replace(config, iterations=min(iterations, config.iterations))
        cache = ActivationCache(1 << 62)
        seconds = _timed(lambda: reconstruct(quantized_model, inputs, few, cache=cache, progress=clock, on_block=count))
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
    quantized_model: QuantizedModel,
    model: Model,
    images: CalibrationSet,
    settings: Settings,
    original: nn.Module | None,
) -> tuple[Validation, float, float]:
    """What the file of this quantized model is like, and the seconds that export and validation take."""
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        path = Path(folder) / "model.onnx"
        export = _timed(lambda: export_qdq(quantized_model, path, format=settings.output.format))
        measured: list[Validation] = []
        batches, threads = ValidationBatches(None, images), settings.execution.threads
        validation = _timed(
            lambda: measured.append(
                validate(path, quantized_model, model.preprocess, batches, original=original, threads=threads)
            )
        )
    return measured[0], export, validation


def _blocks(quantized_model: QuantizedModel) -> tuple[PlannedBlock, ...]:
    found: dict[int, dict[str, int | None]] = {}
    graph = quantized_model.require_float_model().module
    for node in graph.graph.nodes:
        if isinstance(module_of(graph, node), LAYERS):
            spec = quantized_model.plan.weights.get(node.name)
            bits = None if spec is None else spec.bits
            found.setdefault(quantized_model.blocks[node.name], {})[node.name] = bits
    return tuple(PlannedBlock(list(bits)[-1], bits) for bits in found.values())
