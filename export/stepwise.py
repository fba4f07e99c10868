"""A file and its simulation compared at every quantized tensor, each computed from the same codes.

Where float operators stand between integers, two runtimes that are both right do not give the same output. Sums are
in another order, a number in the middle between two codes falls to the other side, and the layers behind it make
more of that: in a network of many blocks every code differs in the end. onnxruntime with and without its
optimizations is 20 dB apart for DeiT-Tiny with random weights at W8A8. So the output says nothing there.

What does is a comparison of one step at a time. The file is run with its codes as further outputs. The simulation
computes each quantized tensor from the *file's* codes of the tensors before it: nothing adds up, and what is left
are the numbers in the middle. Of 15 networks of timm and torchvision with GELU, LayerNorm, softmax and attention (W8A8
and W4A4, random weights) at most 1 code in 10,000 of a tensor differs, by one; most often none does.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from ptq.export import ort
from ptq.export.onnx_files import data_file, read_onnx
from ptq.quantization.integer_simulation import replay
from ptq.quantization.quantized_model import QuantizedModel
from ptq.tasks.outputs import named
from ptq.utils.metrics import sqnr_db

__all__ = ["IMAGES", "ComparedCodes", "Stepwise", "compare_stepwise"]

IMAGES = 16
"""That are compared; all codes of all of them are in memory at once."""


@dataclass(frozen=True)
class ComparedCodes:
    """A quantized tensor in the file and in the simulation.

    Args:
        name: of the quantizer.
        count: of codes.
        differing: how many are not the same.
        numbers: how many different numbers those were that differ, where a float operator gave them; otherwise `differing`.
        farthest: the largest difference, in codes.
    """

    name: str
    count: int
    differing: int
    numbers: int
    farthest: int


@dataclass(frozen=True)
class Stepwise:
    """What was found out step by step.

    Args:
        tensors: in order of computation.
        output_db: SQNR of the simulation's outputs, computed from the file's last codes; of several the least. Whole numbers
            do not count: where floats are nearly tied, another rounding gives another class.
        watched_db: SQNR of the file's outputs when its codes are outputs, too. It is infinite unless onnxruntime, which
            optimizes less around an output, computes something else then.
    """

    tensors: tuple[ComparedCodes, ...]
    output_db: float
    watched_db: float


@torch.no_grad()
def compare_stepwise(path: Path | str, quantized_model: QuantizedModel, x: Tensor, *, threads: int = 1) -> Stepwise:
    """Compare a file with its simulation at every quantized tensor, each computed from the file's codes before it.

    Args:
        path: of the file.
        quantized_model: what it was exported from.
        x: normalized images, (N, C, H, W); the first `IMAGES` are compared.
        threads: of onnxruntime.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that onnxruntime cannot run.

    Example:
        >>> found = compare_stepwise(ptq.export_qdq(quantized_model, "model.onnx"), quantized_model, images)
        >>> sum(tensor.differing for tensor in found.tensors), found.output_db > 100, found.watched_db
        (0, True, inf)
    """
    x = x[:IMAGES]
    plain = ort.run_all(ort.session(path, threads=threads), x.numpy())
    watched, codes = _with_codes(path, quantized_model, x.numpy(), threads)
    tensors: list[ComparedCodes] = []

    def compare(name: str, simulated: Tensor, given: Tensor, real: Tensor | None) -> None:
        apart = (simulated - given).abs()
        differing = int(apart.count_nonzero())
        numbers = differing if real is None else real[apart > 0].unique().numel()
        tensors.append(ComparedCodes(name, apart.numel(), differing, numbers, int(apart.max())))

    output = replay(quantized_model.module, x, codes, compare)
    unwatched = [torch.from_numpy(y) for y in plain]
    return Stepwise(tuple(tensors), _least(watched, list(named(output).values())), _least(unwatched, watched))


def _least(references: list[Tensor], given: list[Tensor]) -> float:
    """The SQNR of the worst output, in dB; NaN where one is."""
    pairs = [pair for pair in zip(references, given, strict=True) if pair[0].is_floating_point()]
    found = [sqnr_db(reference, output) for reference, output in pairs]
    return next((value for value in found if value != value), min(found, default=math.inf))


def _with_codes(
    path: Path | str, quantized_model: QuantizedModel, images: NDArray[np.float32], threads: int
) -> tuple[list[Tensor], Mapping[str, Tensor]]:
    """The outputs of a file, and the codes of every quantizer that it has."""
    model = read_onnx(path)
    count = len(model.graph.output)
    tensors = {node.name: node.output[0] for node in model.graph.node}
    places = {name: _codes_of(tensors, name) for name in quantized_model.quantizers()}
    known = {name: tensor for name, tensor in places.items() if tensor is not None}
    model.graph.output.extend(helper.make_tensor_value_info(t, TensorProto.UINT8, None) for t in known.values())
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        with_codes = Path(folder) / "codes.onnx"
        onnx.save(model, str(with_codes), save_as_external_data=data_file(path).exists())
        given = [torch.from_numpy(y) for y in ort.run_all(ort.session(with_codes, threads=threads), images)]
    return given[:count], dict(zip(known, given[count:], strict=True))


def _codes_of(tensors: Mapping[str, str], name: str) -> str | None:
    """The tensor that has the codes of a quantizer, named as `export_qdq` names nodes; None where there is none."""
    return tensors.get(f"quantizers.{name}/Clip") or tensors.get(f"quantizers.{name}/QuantizeLinear")
