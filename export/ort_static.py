"""onnxruntime's own post-training quantization: the baseline of an exported file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ExportError, reason
from ptq.export import ort

__all__ = ["quantize_static"]


def quantize_static(source: Path, target: Path, images: NDArray[np.float32]) -> Path:
    """Quantize a float ONNX file as onnxruntime's documentation says: preparation, QDQ, weights per channel.

    Args:
        source: the float file.
        target: where the quantized one goes.
        images: normalized, (N, C, H, W); for latency one is enough.

    Raises:
        ExportError: where onnxruntime's tool fails, with what it says.

    Example:
        >>> source = ptq.export.export_float(graph_model.module, "float.onnx", graph_model.example(2))
        >>> quantize_static(source, source.with_name("static.onnx"), images.numpy()).name
        'static.onnx'
    """
    # Imported here, because it takes a second.
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            name = ort.session(source).get_inputs()[0].name
            self.left = iter([{name: image[None]} for image in images])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.left, None)

    prepared = target.with_name(f"{target.stem}.prepared.onnx")
    try:
        quant_pre_process(str(source), str(prepared))
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            per_channel=True,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    except Exception as error:  # it raises whatever it meets
        raise ExportError(f"onnxruntime.quantization.quantize_static fails on this network: {reason(error)}") from error
    finally:
        prepared.unlink(missing_ok=True)
    return target
