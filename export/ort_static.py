"""onnxruntime's own post-training quantization: the baseline of an exported file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ExportError, reason
from ptq.export import ort
from ptq.export.network_inputs import split_channels
from ptq.export.onnx_files import data_file

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
            inputs = ort.session(source).get_inputs()
            parts = split_channels(images, [one.shape[1] for one in inputs])
            feeds = {one.name: part for one, part in zip(inputs, parts, strict=True)}
            self.left = iter([{name: part[i : i + 1] for name, part in feeds.items()} for i in range(len(images))])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.left, None)

    prepared = target.with_name(f"{target.stem}.prepared.onnx")
    large = data_file(source).exists()
    try:
        quant_pre_process(
            str(source),
            str(prepared),
            skip_optimization=large,  # its documentation says so for models above 2 GB
            # Sizes are fixed, so ONNX's own inference is enough; this one leaves files in the working directory where it gives up.
            skip_symbolic_shape=True,
            save_as_external_data=large,
            all_tensors_to_one_file=True,
            external_data_location=data_file(prepared).name,
        )
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            per_channel=True,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
        )
    except Exception as error:  # it raises whatever it meets
        raise ExportError(f"onnxruntime.quantization.quantize_static fails on this network: {reason(error)}") from error
    finally:
        for file in (prepared, data_file(prepared)):
            file.unlink(missing_ok=True)
    return target
