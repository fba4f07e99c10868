"""OpenVINO on CPUs: a second opinion on an exported file, from a runtime that shares no code with onnxruntime."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq.errors import ExportError, MachineError, reason
from ptq.export.network_inputs import split_channels

__all__ = ["open_openvino"]


def open_openvino(path: Path | str, threads: int = 1) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Compile an ONNX file for the CPU; what is returned maps normalized (N, C, H, W) to the outputs.

    Operators that stay in float compute in float32, not in bfloat16, so that results can be compared.

    Args:
        path: of the file.
        threads: that compute.

    Raises:
        MachineError: where the package is missing (extra `openvino`).
        ExportError: where it cannot read the file.

    Example:
        >>> network = open_openvino("model.onnx")  # doctest: +SKIP
        >>> network(images.numpy())[0].argmax(1)  # doctest: +SKIP
    """
    try:
        import openvino
    except ImportError as error:
        raise MachineError(
            "OpenVINO is not installed: pip install 'ptq[openvino]', or leave out --runtime openvino."
        ) from error
    logging.getLogger("openvino").setLevel(logging.ERROR)
    try:
        core = openvino.Core()
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    except Exception as error:  # RuntimeErrors of several lines, the reason last
        raise ExportError(
            f"OpenVINO cannot read {path} ({reason(error)}): weights of 2 and 3 bits may be in a type it "
            "does not know; export them with --format int8."
        ) from error

    channels = [one.partial_shape[1].get_length() for one in compiled.inputs]

    def network(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found = compiled(split_channels(images, channels))
        return [np.asarray(found[output]) for output in compiled.outputs]

    return network
