"""Does a converted network give what onnxruntime gives for the file? If not: where do they part?"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, fx

from ptq.errors import ModelError, reason
from ptq.models.onnx_import.signature import Images
from ptq.models.onnx_import.values import Array

__all__ = ["check_import"]

CLOSE = 1e-4  # of the largest number: what other orders of summation change
LEAST = 1e-6  # onnxruntime's own sigmoid is off by a tenth of it


def check_import(model: ir.Model, network: fx.GraphModule, images: Images, size: tuple[int, int]) -> None:
    """Compare a converted network with onnxruntime on random images.

    Args:
        model: what was converted.
        network: what became of it.
        images: what the file takes.
        size: (height, width) that it was converted for.

    Raises:
        ModelError: where they differ, naming the first node that does, or where onnxruntime does not run the file.
    """
    batch = 2 * (images.batch or 1)
    pixels = images.random(batch, size)
    outputs = [value.name or "" for value in model.graph.outputs]
    if not _different(network, pixels, outputs, _run(model, outputs, pixels, images)):
        return
    named = [node.meta["onnx"] for node in network.graph.nodes if node.meta.get("onnx")]
    places = [(value.name or "", node) for node in model.graph for value in node.outputs if value.name in named]
    pixels = pixels[: batch // 2]  # once: the images may stand in any dimension
    wanted = _run(model, [name for name, _ in places], pixels, images)
    wrong = _different(network, pixels, list(wanted), wanted)
    where = next((f"{node.name or name} ({node.op_type})" for name, node in places if name in wrong), outputs[0])
    raise ModelError(
        f"the network that became of the file gives other numbers than onnxruntime, first at {where}: please report this "
        "with the file"
    )


def _different(network: fx.GraphModule, pixels: Tensor, names: Sequence[str], wanted: Mapping[str, Array]) -> set[str]:
    """Which values of the file differ from those of the network."""
    ours = _values(network, pixels, names)
    return {
        name for name in names if not _apart(ours[name], wanted[name]) <= max(CLOSE * _largest(wanted[name]), LEAST)
    }


def _values(network: fx.GraphModule, pixels: Tensor, names: Sequence[str]) -> dict[str, Array]:
    """What the network gives for some values of the file."""
    seen: dict[str, Array] = {}

    class Watched(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.meta.get("onnx") in names:
                seen[n.meta["onnx"]] = result.numpy()
            return result

    with torch.no_grad():
        outputs = Watched(network).run(pixels)
    return seen | {name: value.numpy() for name, value in outputs.items()}


def _run(model: ir.Model, names: Sequence[str], pixels: Tensor, images: Images) -> dict[str, Array]:
    """What onnxruntime gives for some values of the file."""
    kept = list(model.graph.outputs)
    values = {value.name: value for node in model.graph for value in node.outputs}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # sizes that the file states may be others than those asked for
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        model.graph.outputs.extend([values[name] for name in names if name in values and values[name] not in kept])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="weights")  # which may be above 2 GB
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0].name
        parts = [session.run(list(names), {source: part}) for part in images.fed(pixels)]
    except Exception as error:  # onnxruntime's exceptions share no base class
        why = reason(error).rpartition("failed:")[2]  # before it stands the name of a file that is gone
        raise ModelError(f"onnxruntime does not run the file: {why}") from error
    finally:
        del model.graph.outputs[len(kept) :]
    columns = zip(*parts, strict=True)
    return {
        name: np.concatenate([np.atleast_1d(p) for p in column]) for name, column in zip(names, columns, strict=True)
    }


def _apart(one: Array, other: Array) -> float:
    """The largest difference; infinite for other shapes, but not for another grouping of the same numbers."""
    if one.size != other.size:
        return float("inf")
    difference = one.astype(np.float64).reshape(-1) - other.astype(np.float64).reshape(-1)
    return float(np.abs(difference).max(initial=0.0))


def _largest(numbers: Array) -> float:
    return float(np.abs(numbers.astype(np.float64)).max(initial=0.0))
