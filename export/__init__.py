"""From a student to an ONNX file, and the proof that the file does what the student did."""

from ptq.export.qdq import export_float, export_qdq
from ptq.export.validation import Validation, validate

__all__ = ["Validation", "export_float", "export_qdq", "validate"]
