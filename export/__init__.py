"""From a quantized model to an ONNX file, and the proof that the file does what the quantized model did."""

from ptq.export.qdq import export_float, export_qdq
from ptq.export.validation import Validation, validate

__all__ = ["Validation", "export_float", "export_qdq", "validate"]
