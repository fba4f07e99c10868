"""Which nodes of a network compute in float since that is faster, by what their kernels take and by the whole network.

What kernels take says which division is fastest. Only where that is another than all in integers, or where float is
nearly as fast, files are written and the whole networks are timed in turns; and where the float network takes less than its
kernels did, which are timed once and kept: other work ran beside them then. Integers stay unless something else is clearly
faster: they are exact. Where the float network is clearly faster than both, all computes in float, with weights that are
as small as before.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptq.calibration.activation_ranges import calibrate
from ptq.errors import InputError
from ptq.export import ort
from ptq.export.qdq import export_float, export_qdq
from ptq.graph.preparation import GraphModel
from ptq.placement.costs import Measure, measure_costs
from ptq.placement.cut import Cost, cheapest, total
from ptq.placement.network import divide
from ptq.progress import SILENT, Progress
from ptq.quantization.insertion import insert_quantizers
from ptq.quantization.integer_ops import is_layer
from ptq.quantization.plan import select
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.spec import QuantPlan

__all__ = ["Placement", "Time", "place", "placed_plan", "time_files"]

NOISE = 1.03  # times as long: clocks tell no less apart
CLEAR = 0.8  # of float's time by the kernels: the whole network need not be timed
BESIDE_OTHERS = 1.25  # times the float network's time: kernels that take longer in all were timed while other work ran
RUNS = 40
FEW = 2  # images that give ranges: times do not depend on them
INTEGERS, PLACED, FLOAT = "integers", "placed", "float"

Time = Callable[[Mapping[str, Path], int], Mapping[str, float]]
"""Files by name, threads -> milliseconds of each."""


@dataclass(frozen=True)
class Placement:
    """What computes in float, and why.

    Args:
        in_float: names of nodes that have integer kernels and are slower there.
        groups: of so many the network has.
        milliseconds: of the whole network, "integers", "placed" and "float", as far as they were timed.
    """

    in_float: tuple[str, ...]
    groups: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=dict)

    def note(self) -> str:
        """Say what stays in float and what it brings, for the report; empty where nothing does."""
        if not self.in_float:
            return ""
        shown = ", ".join(self.in_float[:6]) + (f" and {len(self.in_float) - 6} more" if len(self.in_float) > 6 else "")
        took = ", ".join(f"{ms:.3g} ms {_WORDS[name]}" for name, ms in self.milliseconds.items())
        return f"computed in float, where that is faster on this machine: {shown}" + (f" ({took})" if took else "")


_WORDS = {INTEGERS: "all in integers", PLACED: "so", FLOAT: "the float network"}


def placed_plan(graph_model: GraphModel, plan: QuantPlan, in_float: Collection[str]) -> QuantPlan:
    """Return a plan with some more nodes computing in float; weights keep their bits.

    Args:
        graph_model: the float network.
        plan: of it.
        in_float: names of nodes.

    Raises:
        InputError: for a node that the network does not have.

    Example:
        >>> plan = ptq.make_plan(graph_model, 4)
        >>> placed = placed_plan(graph_model, plan, ["blocks_0_conv1", "blocks_0_conv2"])
        >>> set(plan.activations) - set(placed.activations), placed.weights == plan.weights
        ({'blocks_0_relu'}, True)
    """
    graph = graph_model.module
    known = {node.name for node in graph.graph.nodes}
    if unknown := [name for name in in_float if name not in known]:
        raise InputError(f"quantization.in_float: the network has no node {unknown[0]!r}.")
    layers = [node.name for node in graph.graph.nodes if is_layer(graph, node)]
    selection = select(graph_model, [name for name in layers if name not in plan.weights], in_float)
    quantized = {node.name for node in selection.tensors}
    activations = {name: spec for name, spec in plan.activations.items() if name in quantized}
    return replace(plan, activations=activations, in_float=tuple(in_float))


def place(
    graph_model: GraphModel,
    plan: QuantPlan,
    threads: int,
    *,
    float_path: Path | None = None,
    measure: Measure = measure_costs,
    time: Time | None = None,
    progress: Progress = SILENT,
) -> Placement:
    """Decide which nodes compute in float.

    Args:
        graph_model: the float network, on the CPU.
        plan: of it, with all in integers that can be.
        threads: of onnxruntime.
        float_path: the float network as a file; None writes it.
        measure: gives what kernels take; one without a cost stays in integers.
        time: gives what whole files take.
        progress: told of everything that is measured.

    Raises:
        ExportError: for a network that cannot be written.
        MachineError: when the disk is full.

    Example:
        >>> def slow_sums(kernels, shapes, threads, progress):
        ...     slow = {k: Cost(99 if k.operator == "Add" else 9, 9) for k in kernels}
        ...     return slow | {shape: Cost(2, 2) for shape in shapes}
        >>> plan, times = ptq.make_plan(graph_model, 8), {"integers": 2.0, "placed": 1.0, "float": 2.0}
        >>> found = place(graph_model, plan, 1, measure=slow_sums, time=lambda files, threads: times)
        >>> {"add", "add_1", "add_2"} <= set(found.in_float)
        True
    """

    def made(in_float: Collection[str]) -> QuantizedModel:
        quantized_model = insert_quantizers(graph_model, placed_plan(graph_model, plan, in_float))
        return calibrate(quantized_model, graph_model.example(FEW), observer="minmax")

    quantized_model = made(())
    network = divide(quantized_model)
    kernels = list(dict.fromkeys(group.kernel for group in network.groups if group.kernel is not None))
    shapes = list(dict.fromkeys(shape for _, shape, _ in network.tensors))
    costs = measure(kernels, shapes, threads, progress)
    groups = [None if group.kernel is None else costs.get(group.kernel) for group in network.groups]
    # A linear layer writes float numbers as fast as codes. What is unknown counts for nothing: whole files are timed, too.
    converted = [(tensor, costs.get(shape, Cost(0.0, 0.0)), linear) for tensor, shape, linear in network.tensors]
    tensors = [(tensor, Cost(c.integers, 0.0 if linear else c.floats)) for tensor, c, linear in converted]
    best, every = cheapest(groups, tensors), frozenset(range(len(groups)))
    expected = {some: total(groups, tensors, set(some)) for some in (frozenset(), best, every)}
    integers = expected[frozenset()]
    names = {some: tuple(name for index in sorted(some) for name in network.groups[index].nodes) for some in expected}
    clear = integers <= NOISE * expected[best] and integers <= CLEAR * expected[every]
    example = graph_model.example(2)
    timed = time or partial(time_files, image=example[:1].numpy())
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder, progress.stage("time placements", 3) as task:
        files = {FLOAT: float_path or export_float(graph_model.module, Path(folder) / "float.onnx", example)}
        if clear and expected[every] <= BESIDE_OTHERS * 1000 * timed(files, threads)[FLOAT]:
            return Placement((), len(groups))
        task.advance()
        files[INTEGERS] = export_qdq(quantized_model, Path(folder) / "integers.onnx")
        if best and best != every:
            files[PLACED] = export_qdq(made(names[best]), Path(folder) / "placed.onnx")
        task.advance()
        times = timed(files, threads)
        task.advance()
    chosen = next(
        name for name in (INTEGERS, PLACED, FLOAT) if times.get(name, float("inf")) <= NOISE * min(times.values())
    )
    in_float = {INTEGERS: (), PLACED: names[best], FLOAT: names[every]}[chosen]
    return Placement(in_float, len(groups), {name: times[name] for name in _WORDS if name in times})


def time_files(files: Mapping[str, Path], threads: int, *, image: NDArray[np.float32]) -> dict[str, float]:
    """Return the milliseconds of files, the least of many runs in turns: other work on the machine only adds to it."""
    opened = {name: partial(ort.run_all, ort.session(path, threads=threads)) for name, path in files.items()}
    return ort.latencies(opened, image, RUNS, of=min)
