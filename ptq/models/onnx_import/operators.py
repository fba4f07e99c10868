"""All operators that can be converted, by their names."""

from collections.abc import Mapping

from ptq.models.onnx_import.elementwise import ELEMENTWISE
from ptq.models.onnx_import.layers import LAYERS
from ptq.models.onnx_import.op import Converter
from ptq.models.onnx_import.recurrent import RECURRENT
from ptq.models.onnx_import.reductions import REDUCTIONS
from ptq.models.onnx_import.resizing import RESIZING
from ptq.models.onnx_import.shaping import SHAPING
from ptq.models.onnx_import.windows import POOLS

__all__ = ["OPERATORS"]

OPERATORS: Mapping[str, Converter] = {
    **LAYERS,
    **RECURRENT,
    **POOLS,
    **ELEMENTWISE,
    **SHAPING,
    **REDUCTIONS,
    **RESIZING,
}
"""Operator -> what converts it where it reads anything but constants."""
