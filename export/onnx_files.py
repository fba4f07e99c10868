"""ONNX files as they are read, without a runtime: sound ones or a message, and what they say of their layers.

A file of more than 2 GB, which protobuf does not write, has its weights in a second file beside it: model.onnx.data.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ptq.errors import ExportError, InputError, reason

__all__ = ["INTEGER_LAYER_OPS", "LARGE", "LAYER_OPS", "QuantizedFile", "data_file", "read_onnx", "size_bytes"]

LARGE = 2_000_000_000
"""Bytes of weights above which they have a file of their own; protobuf ends at 2^31, and the graph needs some."""

INTEGER_LAYER_OPS = ("Conv", "Gemm", "MatMul")
"""Layers that onnxruntime has integer kernels for."""
LAYER_OPS = (*INTEGER_LAYER_OPS, "ConvTranspose")


def data_file(path: Path | str) -> Path:
    """Return where the weights of an ONNX file lie that is too large for one file.

    Example:
        >>> data_file("runs/mine/model.onnx").name
        'model.onnx.data'
    """
    path = Path(path)
    return path.with_name(f"{path.name}.data")


def size_bytes(path: Path | str) -> int:
    """Return the size of an ONNX file, and of its weights where they lie beside it."""
    return sum(file.stat().st_size for file in (Path(path), data_file(path)) if file.exists())


def read_onnx(path: Path | str) -> ModelProto:
    """Read an ONNX file.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that is no valid ONNX.

    Example:
        >>> read_onnx(ptq.export_qdq(quantized_model, "model.onnx")).graph.output[0].name
        'output'
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}: quantize again.")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(str(path))  # by its name: as a message it could not be above 2 GB
        for constant in model.graph.initializer:  # which the checker leaves out
            if constant.data_type not in helper.get_all_tensor_dtypes():
                raise ValueError(f"{constant.name!r} is of type {constant.data_type}, which is none")
    except Exception as error:  # protobuf, onnx and the system each raise their own
        raise ExportError(f"{path} is no valid ONNX file: {reason(error)}") from error
    return model


class QuantizedFile:
    """An exported file, and what it says of its layers.

    Args:
        path: of the file.

    Raises:
        InputError: for a file that is not there.
        ExportError: for one that is no valid ONNX.

    Example:
        >>> QuantizedFile(ptq.export_qdq(quantized_model, "model.onnx")).wrong_bias_scales()
        []
    """

    def __init__(self, path: Path | str) -> None:
        model = read_onnx(path)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._constants = {t.name: t for t in model.graph.initializer}
        self._layers = [node for node in model.graph.node if node.op_type in LAYER_OPS]

    def narrowest(self) -> int | None:
        """The fewest bits that the file says it has for weights and activations; None where it does not say."""
        kinds = (self.metadata.get(f"ptq.{kind}_bits", "") for kind in ("weight", "activation"))
        widths = [int(bits) for bits in ",".join(kinds).split(",") if bits.isdigit()]
        return min(widths, default=None)

    def layers(self) -> list[str]:
        """Names of all convolutions and matrix products."""
        return [node.name for node in self._layers]

    def unquantized(self) -> list[str]:
        """Names of the layers whose weight or input is float in the file."""
        return [
            node.name
            for node in self._layers
            if self._scale(node.input[0]) is None or self._scale(node.input[1]) is None
        ]

    def without_kernel(self) -> list[str]:
        """Names of the layers of a kind that onnxruntime has no integer kernel for."""
        return [node.name for node in self._layers if node.op_type not in INTEGER_LAYER_OPS]

    def wrong_bias_scales(self) -> list[str]:
        """Names of the layers whose int32 bias is not on the grid scale_x * scale_w (float32)."""
        wrong = []
        for node in self._layers:
            if len(node.input) < 3 or not node.input[2]:
                continue
            x, weight, bias = (self._scale(name) for name in node.input[:3])
            if x is None or weight is None or bias is None:
                continue
            if bias.size % weight.size or not np.array_equal(bias, _tile(x * weight, bias.size)):
                wrong.append(node.name)
        return wrong

    def wrong_axes(self) -> list[str]:
        """Names of the layers whose weight has its scales along another axis than its output channels.

        onnxruntime's integer kernels take no notice of the axis; the standard, and every other runtime, do.
        """
        wrong = []
        for node in self._layers:
            source = self._producer.get(node.input[1])
            scale = self._scale(node.input[1])
            if source is None or scale is None or scale.size == 1:
                continue
            axes = [a.i for a in source.attribute if a.name == "axis"] or [1]
            if axes[0] != (0 if node.op_type == "Conv" else 1):
                wrong.append(node.name)
        return wrong

    def _scale(self, name: str) -> NDArray[np.float32] | None:
        """The scale a tensor is dequantized with, flat, or None when it is no dequantized tensor."""
        node: NodeProto | None = self._producer.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        constant = self._constants.get(node.input[1])
        return None if constant is None else numpy_helper.to_array(constant).astype(np.float32).flatten()


def _tile(scale: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.tile(scale, size // scale.size)
