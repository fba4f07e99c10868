"""What an exported file must be, read from the file alone: no runtime, no quantized model."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from ptq.export.onnx_files import read_onnx

__all__ = ["QuantizedFile"]

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class QuantizedFile:
    """An ONNX file, and the questions a gate asks about it.

    Args:
        path: of the file.

    Raises:
        PtqError: for a file that is not there or no valid ONNX.

    Example:
        >>> QuantizedFile("model.onnx").wrong_bias_scales()
        []
    """

    def __init__(self, path: Path | str) -> None:
        model = read_onnx(path)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._constants = {t.name: t for t in model.graph.initializer}
        self._layers = [node for node in model.graph.node if node.op_type in LAYER_OPS]

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
