"""Small ONNX files made by hand, and what becomes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import fx

from ptq.models.onnx_import.conversion import convert
from ptq.models.onnx_import.reading import read_float
from ptq.models.onnx_import.self_check import check_import
from ptq.models.onnx_import.signature import images_of

__all__ = ["floats", "graph_of", "imported", "numbers", "saved"]

Dimension = int | str | None


def numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Return seeded standard-normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def floats(values: Sequence[float]) -> NDArray[np.float32]:
    """Return numbers as float32."""
    return np.array(values, np.float32)


def graph_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    shape: Sequence[Dimension] = ("batch", 3, 8, 8),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    """Return a model that takes "x" of `shape`."""
    held = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    # onnxruntime reads older files than this package writes.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: ModelProto, folder: Path) -> Path:
    """Write a model as net.onnx."""
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def imported(model: ModelProto, folder: Path, size: tuple[int, int] | None = None) -> fx.GraphModule:
    """Convert a model, and compare it with onnxruntime."""
    read = read_float(saved(model, folder))
    images = images_of(read.graph)
    network = convert(read, images, size or images.known_size())
    check_import(read, network, images, size or images.known_size())
    return network
