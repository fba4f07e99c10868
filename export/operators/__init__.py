"""Operators that torch's exporter does not write as onnxruntime's integer kernels want them."""
