"""A latency as a budget: networks of several sizes are measured in onnxruntime until one is as fast as asked for."""

import math
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

import torch

from ptq.calibration.activation_ranges import calibrate
from ptq.config.budgets import Budget
from ptq.config.choices import Arithmetic
from ptq.config.settings import Settings
from ptq.errors import InputError
from ptq.export import export_float, export_qdq, ort
from ptq.graph.preparation import GraphModel
from ptq.progress import Progress
from ptq.pruning.config import PruneConfig
from ptq.pruning.removal import remove
from ptq.pruning.results import LatencySearch
from ptq.pruning.selection.ranking import Ranking
from ptq.quantization.insertion import insert_quantizers
from ptq.run.planning import plan_by_settings
from ptq.utils.units import limit_text

__all__ = ["Sizes", "find_ends", "find_factor"]

PROBES = 6  # networks between the whole one and the smallest
CLOSE = 0.95  # of the limit: nearer to it than clocks can tell
AIM = 0.975  # of the limit
RUNS = 30
FEW = 2  # images that give ranges: latency does not depend on them

Latency = Callable[[float], float]
"""Milliseconds of a network with so many times fewer multiply-accumulates."""


class Sizes:
    """Networks of several sizes, made from one and measured at batch 1; a context that keeps their files.

    Args:
        graph_model: the float network; stays untouched.
        ranking: of its channels.
        config: granule and allocation; its budget does not count.
        settings: bits, format and threads.
        of: what to measure, the networks in int8 or in float.
        progress: told of every network that is measured.
    """

    def __init__(
        self,
        graph_model: GraphModel,
        ranking: Ranking,
        config: PruneConfig,
        settings: Settings,
        of: Arithmetic,
        progress: Progress,
    ) -> None:
        self.graph_model, self.ranking, self.config, self.settings = graph_model, ranking, config, settings
        self.of, self.progress = of, progress
        self.threads = settings.execution.threads or os.cpu_count() or 1
        self.most = math.floor(100 * ranking.most(config.granule)) / 100
        self._folder = tempfile.TemporaryDirectory(prefix="ptq-")

    def __enter__(self) -> "Sizes":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def ends(self, limit: float) -> None:
        """Refuse a limit in milliseconds that the smallest network does not meet.

        Raises:
            InputError: it says what can be met.
        """
        with self.progress.stage("measure sizes", 2) as task:
            find_ends(lambda factor: self._latency(factor, task.advance), limit, self.most)

    def search(self, limit: float) -> LatencySearch:
        """Find how many times fewer multiply-accumulates meet a limit in milliseconds.

        Raises:
            InputError: for a limit that the smallest network does not meet.
        """
        tried: dict[float, float] = {}
        with self.progress.stage("measure sizes", 2 + PROBES) as task:

            def latency(factor: float) -> float:
                tried[factor] = self._latency(factor, task.advance)
                return tried[factor]

            factor = find_factor(latency, limit, self.most)
        return LatencySearch(limit, self.of, self.threads, factor, tuple(sorted(tried.items())))

    def _latency(self, factor: float, advance: Callable[..., object]) -> float:
        _, kept = self.ranking.choose(Budget("macs", 1 / factor), self.config.granule, self.config.allocation)
        smaller = remove(self.graph_model, self.ranking.channels, kept)
        smaller.module.to(torch.device("cpu"))
        opened = ort.session(self._written(smaller), threads=self.threads)
        found = ort.latencies({"": partial(ort.run_all, opened)}, smaller.example().numpy(), RUNS)[""]
        advance(ms=found)
        return found

    def _written(self, graph_model: GraphModel) -> Path:
        """The network as a file, as it is or quantized with any ranges."""
        file = Path(self._folder.name) / "network.onnx"
        if self.of == "float":
            return export_float(graph_model.module, file, graph_model.example(2))
        plan = plan_by_settings(graph_model, self.settings.quantization)
        quantized_model = insert_quantizers(graph_model, plan)
        calibrate(quantized_model, graph_model.example(FEW), observer="minmax")
        return export_qdq(quantized_model, file, format=self.settings.output.format)


def find_ends(latency: Latency, limit: float, most: float) -> tuple[float, float]:
    """Return the milliseconds of the whole network and of the smallest; the former's twice where it meets the limit.

    Raises:
        InputError: when the smallest does not meet it.
    """
    whole = latency(1.0)
    if whole <= limit:
        return whole, whole
    least = latency(most) if most > 1 else whole
    if least > limit:
        raise InputError(
            f"{limit:g} ms cannot be met: the network takes {whole:.3g} ms, and with {most:g}x fewer multiply-accumulates, the "
            f"fewest that the granule allows, {limit_text(least, up=True)} ms. Ask for that or more, or for a smaller pruning.granule."
        )
    return whole, least


def find_factor(latency: Latency, limit: float, most: float) -> float:
    """Return the smallest factor found whose latency is within a limit, after a few measurements.

    Latency is about linear in what is left, the inverse of the factor: the next one is where a straight line between the
    nearest two meets the limit.

    Args:
        latency: factor of at least 1 -> milliseconds.
        limit: milliseconds.
        most: the largest factor that there can be.

    Raises:
        InputError: when even that is not fast enough.

    Example:
        >>> find_factor(lambda factor: 1 + 4 / factor, limit=3, most=8)
        2.08
    """
    slow, fast = 1.0, most
    slow_ms, fast_ms = find_ends(latency, limit, most)
    if slow_ms <= limit:
        return slow
    for _ in range(PROBES):
        along = (AIM * limit - fast_ms) / (slow_ms - fast_ms) if slow_ms > fast_ms else 0.5
        along = min(0.9, max(0.1, along))  # clocks err, and the rest shall shrink
        factor = round(1 / (1 / fast + along * (1 / slow - 1 / fast)), 2)
        if not slow < factor < fast:
            break
        found = latency(factor)
        if found > limit:
            slow, slow_ms = factor, found
        else:
            fast, fast_ms = factor, found
            if found >= CLOSE * limit:
                break
    return fast
