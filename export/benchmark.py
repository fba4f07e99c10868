"""What an exported file costs, latency and bytes, beside the float network and onnxruntime's own quantization."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
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
from ptq.export.checks import ATTEMPTS, not_slower
from ptq.export.onnx_files import size_bytes
from ptq.export.openvino import open_openvino
from ptq.export.ort_static import quantize_static
from ptq.export.qdq import export_float
from ptq.export.results import failures

__all__ = ["Costs", "measure_costs"]

Network = Callable[[NDArray[np.float32]], Any]


@dataclass(frozen=True)
class Costs:
    """Latency and size.

    Attributes:
        latency_ms: of "onnx" and, as far as they were measured, "float", "pruned", "quantize_static" and "openvino";
            medians at batch 1 in turns; and the "threads".
        size_bytes: of "onnx", "float", "pruned" and "quantize_static".
        unmeasured: what could not be measured, and why.
    """

    latency_ms: dict[str, float]
    size_bytes: dict[str, int]
    unmeasured: tuple[str, ...] = ()


def measure_costs(
    path: Path | str,
    floats: Mapping[str, nn.Module],
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
        floats: the float network, and behind it what is left of it where channels were removed; by name.
        image: (1, C, H, W), normalized.
        threads: of every runtime.
        runs: of each network, in turns.
        float_path: the ONNX file of "float"; written where it is not there yet, and kept.
        baseline: quantize the last of them with onnxruntime's quantize_static, too.
        runtimes: others to measure the file in ("openvino").

    Raises:
        InputError: for a file that is not there.
        ExportError: for a network that cannot be written or a file that cannot be run.
        MachineError: where a runtime is not installed, or the disk is full.
    """
    unmeasured: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"onnx": Path(path)}
        example = torch.from_numpy(image).repeat(2, 1, 1, 1)
        kept = Path(folder) / "float.onnx" if float_path is None else Path(float_path)
        for name, module in reversed([*floats.items()]):
            target = kept if name == "float" else Path(folder) / f"{name}.onnx"
            files = {name: target if target.exists() else export_float(module, target, example), **files}
        if floats and baseline:
            try:
                static = quantize_static(files[list(floats)[-1]], Path(folder) / "static.onnx", image)
                ort.session(static)  # it writes files that onnxruntime refuses, of transformers for example
                files["quantize_static"] = static
            except PtqError as error:
                unmeasured.append(str(error))
        networks: dict[str, Network] = {
            name: partial(ort.run_all, ort.session(file, threads=threads)) for name, file in files.items()
        }
        if "openvino" in runtimes:
            networks["openvino"] = open_openvino(path, threads)
        size = {name: size_bytes(file) for name, file in files.items()}
        for _ in range(ATTEMPTS):
            latency = {**ort.latencies(networks, image, runs), "threads": threads}
            costs = Costs(latency, size, tuple(unmeasured))
            if not failures(not_slower(latency)):
                break
    return costs
