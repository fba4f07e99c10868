"""What groups of operators take in onnxruntime, in integers and in float: measured once per machine, and kept.

Files of all groups are run in turns, so that each finds the caches as another network left them. onnxruntime's profile
says what every kernel took. The least of all turns counts: whatever else the machine does only adds to it. What changes
the layout of a tensor in memory does not count for a group, but for the conversion between integers and float.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import onnxruntime
from onnx import ModelProto

from ptq.errors import ExportError
from ptq.export.ort import KernelTime, kernel_times
from ptq.placement.cut import Cost
from ptq.placement.kernels import END, Kernel, Shape, build, crossing
from ptq.progress import SILENT, Progress
from ptq.utils.environment import this_machine
from ptq.utils.files import atomic

__all__ = ["Measure", "cache_file", "measure_costs"]

Measure = Callable[[Sequence[Kernel], Sequence[Shape], int, Progress], Mapping[Kernel | Shape, Cost]]
"""Kernels, shapes of tensors, threads, progress -> costs of groups, and of tensors that are converted."""

UNCOUNTED = ("Transpose", "ReorderInput", "ReorderOutput", END)
LAYERS = ("Conv", "FusedConv", "QLinearConv")
TOGETHER = 24  # groups that are open at once
RUNS = 12


def measure_costs(
    kernels: Sequence[Kernel], shapes: Sequence[Shape], threads: int, progress: Progress = SILENT
) -> dict[Kernel | Shape, Cost]:
    """Return what kernels and conversions take on this machine; one that onnxruntime refuses has no cost.

    Args:
        kernels: of groups of operators.
        shapes: of tensors.
        threads: of onnxruntime.
        progress: told of everything that is measured.

    Raises:
        MachineError: when the costs cannot be kept.

    Example:
        >>> add = Kernel("Add", ((1, 8, 4, 4), (1, 8, 4, 4)))
        >>> found = measure_costs([add], [(1, 8, 4, 4)], threads=1)  # doctest: +SKIP
        >>> found[add].integers > 0  # doctest: +SKIP
        True
    """
    wanted: dict[str, Kernel | Shape] = {repr(kernel): kernel for kernel in kernels}
    wanted |= {repr(shape): shape for shape in shapes}
    file = cache_file(threads)
    known = _read(file)
    missing = [each for key, each in wanted.items() if key not in known]
    if missing:
        with progress.stage("measure operators", len(missing)) as task:
            for start in range(0, len(missing), TOGETHER):
                some = missing[start : start + TOGETHER]
                known |= {repr(each): cost for each, cost in _measured(some, threads).items()}
                task.advance(len(some))
        known = _read(file) | known  # another run may have written
        with atomic(file) as path:
            path.write_text(json.dumps({key: [cost.integers, cost.floats] for key, cost in known.items()}, indent=0))
    return {each: known[key] for key, each in wanted.items() if key in known}


def cache_file(threads: int) -> Path:
    """Return where the costs of this machine are kept: by processor, version of onnxruntime and threads.

    Example:
        >>> cache_file(1) == cache_file(2)
        False
    """
    machine = f"{this_machine().cpu} {onnxruntime.__version__} {threads}"
    name = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "ptq", f"kernel-times-{name}.json")


def _read(file: Path) -> dict[str, Cost]:
    """What is kept; nothing where that is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(key): Cost(float(integers), float(floats)) for key, (integers, floats) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measured(wanted: Sequence[Kernel | Shape], threads: int) -> dict[Kernel | Shape, Cost]:
    """The costs of those that onnxruntime takes: an operator that it refuses alone is no reason to end a run."""
    models: list[ModelProto] = []
    for each in wanted:
        models += [build(each, True), build(each, False)] if isinstance(each, Kernel) else [crossing(each)]
    try:
        times = iter(kernel_times(models, threads, RUNS))
    except ExportError:
        if len(wanted) == 1:
            return {}
        return {k: cost for each in wanted for k, cost in _measured([each], threads).items()}
    return {
        each: Cost(_sum(next(times)), _sum(next(times))) if isinstance(each, Kernel) else _ways(next(times))
        for each in wanted
    }


def _sum(kernels: Iterable[KernelTime]) -> float:
    return sum(kernel.microseconds for kernel in kernels if kernel.operator not in UNCOUNTED)


def _ways(kernels: Sequence[KernelTime]) -> Cost:
    """Into codes, and back: what stands before the layer in integers, and behind it; between the layers in float."""
    layers = [index for index, kernel in enumerate(kernels) if kernel.operator in LAYERS]
    if len(layers) != 3:
        into = [kernel for kernel in kernels if kernel.operator == "QuantizeLinear"]
        back = [kernel for kernel in kernels if kernel.operator == "DequantizeLinear"]
    else:
        first, middle, last = layers
        into, back = list(kernels[first + 1 : middle]), list(kernels[middle + 1 : last])
    return Cost(*(sum(kernel.microseconds for kernel in some) for some in (into, back)))
