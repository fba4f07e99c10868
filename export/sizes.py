"""How large a file gets: exactly, before its weights have their widths."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ptq.export.onnx_files import size_bytes
from ptq.export.packing import LEAST, UNPACKING, Container, pack, supported
from ptq.export.qdq import export_qdq
from ptq.quantization.quantized_model import QuantizedModel

__all__ = ["FileSizes", "file_sizes"]

CODES = ".weight.codes"  # behind the path of a layer: the name of its weights in a file


@dataclass(frozen=True)
class FileSizes:
    """The bytes of a file, as a sum over its layers.

    Args:
        int8: of the file with every weight in a byte.
        saved: layer -> bits of a smaller container -> the bytes that it saves. A layer is left out that no container makes
            smaller.
    """

    int8: int
    saved: Mapping[str, Mapping[int, int]]


def file_sizes(
    quantized_model: QuantizedModel, metadata: Mapping[str, str] | None = None, *, format: str | None = None
) -> FileSizes:
    """Return what the weights of each layer cost in the file of a calibrated quantized model, whatever their widths.

    The file is written once, with all weights in INT8. What a smaller container saves is measured on the nodes of the
    layer alone. Sums are exact up to a few bytes, in which protobuf writes lengths.

    Args:
        quantized_model: its layers by their nodes' names.
        metadata: as `export_qdq` will get it.
        format: as `export_qdq` will get it; with "int8" nothing can be saved.

    Raises:
        ExportError: for what cannot be exported.

    Example:
        >>> sizes = file_sizes(quantized_model)
        >>> sorted(sizes.saved["blocks_2_conv1"])
        [2, 4]
    """
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        path = export_qdq(quantized_model, Path(folder) / "model.onnx", metadata, format="int8")
        size, nodes = size_bytes(path), _weights(ir.load(path))
    containers = () if format == "int8" else supported()
    graph = quantized_model.module.graph
    paths = {node.name: str(node.target) for node in graph.nodes if node.name in quantized_model.plan.weights}
    found = {name: nodes[path] for name, path in paths.items() if path in nodes}
    return FileSizes(
        size,
        {
            name: {container.bits: _saved(node, container) for container in containers}
            for name, node in found.items()
            if containers and _numbers(node) >= LEAST
        },
    )


def _weights(model: ir.Model) -> dict[str, ir.Node]:
    """What unpacks the weight of a layer, by the layer's path."""
    nodes = [n for n in model.graph if n.op_type in UNPACKING and n.inputs[0] and n.inputs[0].is_initializer()]
    names = {str(node.inputs[0].name): node for node in nodes if node.inputs[0]}
    return {name.removesuffix(CODES): node for name, node in names.items() if name.endswith(CODES)}


def _numbers(node: ir.Node) -> int:
    codes = node.inputs[0]
    assert codes is not None and codes.const_value is not None
    return int(codes.const_value.size)


def _saved(node: ir.Node, container: Container) -> int:
    """By how many bytes a weight in a container, with what unpacks it, is smaller than in INT8."""
    sizes = []
    for containers in ((), (container,)):
        alone = _alone(node)
        pack(alone, containers)
        sizes.append(len(ir.to_proto(alone).SerializeToString()))
    return sizes[0] - sizes[1]


def _alone(node: ir.Node) -> ir.Model:
    """A network of one node, with codes that fit everywhere."""
    codes = node.inputs[0]
    assert codes is not None and codes.const_value is not None and codes.name is not None
    zeros = ir.tensor(np.zeros(codes.const_value.shape.numpy(), np.int8), name=codes.name)
    weight = ir.Value(name=codes.name, const_value=zeros, shape=codes.shape, type=codes.type)
    others = [ir.Value(name=value.name) for value in node.inputs[1:] if value is not None]
    copy = ir.node(node.op_type, [weight, *others], dict(node.attributes), name=node.name)
    graph = ir.Graph(others, copy.outputs, nodes=[copy], initializers=[weight], opset_imports={"": 25}, name="one")
    return ir.Model(graph, ir_version=10)
