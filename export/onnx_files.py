"""ONNX files as they are read: sound ones, or a message."""

from pathlib import Path

import onnx
from onnx import ModelProto, helper

from ptq.errors import ExportError, InputError, reason

__all__ = ["read_onnx"]


def read_onnx(path: Path | str) -> ModelProto:
    """Read an ONNX file.

    Raises:
        PtqError: for a file that is not there or no valid ONNX.

    Example:
        >>> read_onnx("model.onnx").graph.input[0].name
        'x'
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}: quantize again.")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        for constant in model.graph.initializer:  # which the checker leaves out
            if constant.data_type not in helper.get_all_tensor_dtypes():
                raise ValueError(f"{constant.name!r} is of type {constant.data_type}, which is none")
    except Exception as error:  # protobuf, onnx and the system each raise their own
        raise ExportError(f"{path} is no valid ONNX file: {reason(error)}") from error
    return model
