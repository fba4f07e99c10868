"""What an exported file costs, latency and bytes, beside the float network and onnxruntime's own quantization."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ptq.errors import PtqError
from ptq.export import ort
from ptq.export.check import Check, failures
from ptq.export.openvino import open_openvino
from ptq.export.ort_static import quantize_static
from ptq.export.qdq import export_float

__all__ = ["Costs", "measure_costs"]

Network = Callable[[NDArray[np.float32]], Any]

ATTEMPTS = 3
# By which a file may be slower before it counts: medians of a busy machine differ by that.
MARGIN = 1.1
# Milliseconds that do not count: what the operators of a tiny network take to be called.
LAUNCH = 0.1
_BASELINES = (("float", "the float network"), ("quantize_static", "onnxruntime's quantize_static"))


@dataclass(frozen=True)
class Costs:
    """Latency and size.

    Attributes:
        latency_ms: of "onnx" and, as far as they were measured, "float", "quantize_static" and "openvino"; medians
            at batch 1 in turns; and the "threads".
        size_bytes: of "onnx", "float" and "quantize_static".
        unmeasured: what could not be measured, and why.
    """

    latency_ms: dict[str, float]
    size_bytes: dict[str, int]
    unmeasured: tuple[str, ...] = ()

    def checks(self) -> list[Check]:
        """Return a check for each of float and quantize_static that was measured: it may not be faster."""
        checks = []
        for name, what in _BASELINES:
            if name in self.latency_ms:
                both = f"{self.latency_ms['onnx']:.2f} against {self.latency_ms[name]:.2f} ms"
                failure = f"the file is slower than {what}: {both}, in each of {ATTEMPTS} measurements{_advice()}."
                limit = MARGIN * self.latency_ms[name] + LAUNCH
                slower = self.latency_ms["onnx"] > limit
                measured = f"{both}; up to {limit:.2f} counts as equal"
                checks.append(Check(f"not slower than {what}", measured, failure if slower else ""))
        return checks


def _advice() -> str:
    if ort.exact_by_default():
        return ""
    return "; this CPU has no VNNI, and exact sums of 8-bit weights are slow on it: try --reduce-range"


def measure_costs(
    path: Path | str,
    reference: nn.Module | None,
    image: NDArray[np.float32],
    *,
    threads: int,
    runs: int = 30,
    float_path: Path | str | None = None,
    baseline: bool = True,
    runtimes: Sequence[str] = (),
) -> Costs:
    """Measure a file. Where it looks slower than it may be, the whole measurement is taken again, at most thrice.

    Args:
        path: of the exported file.
        reference: the float network; None leaves out everything but the file.
        image: (1, C, H, W), normalized.
        threads: of every runtime.
        runs: of each network, in turns.
        float_path: keep the float ONNX file here.
        baseline: quantize the float network with onnxruntime's quantize_static, too.
        runtimes: others to measure the file in ("openvino").

    Raises:
        PtqError: for a network that cannot be written or a file that cannot be run.
    """
    unmeasured: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"onnx": Path(path)}
        if reference is not None:
            example = torch.from_numpy(image).repeat(2, 1, 1, 1)
            target = Path(folder) / "float.onnx" if float_path is None else Path(float_path)
            files = {"float": export_float(reference, target, example), **files}
            if baseline:
                try:
                    static = quantize_static(target, Path(folder) / "static.onnx", image)
                    files["quantize_static"] = static
                except PtqError as error:
                    unmeasured.append(str(error))
        networks: dict[str, Network] = {
            name: partial(ort.run, ort.session(file, threads=threads)) for name, file in files.items()
        }
        if "openvino" in runtimes:
            networks["openvino"] = open_openvino(path, threads)
        size = {name: file.stat().st_size for name, file in files.items()}
        for _ in range(ATTEMPTS):
            latency = {**ort.latencies(networks, image, runs), "threads": threads}
            costs = Costs(latency, size, tuple(unmeasured))
            if not failures(costs.checks()):
                break
    return costs
