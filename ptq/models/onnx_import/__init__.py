"""A float ONNX file becomes a network of ordinary modules: read, converted operator by operator, compared with onnxruntime.

The importers at hand were tried first. onnx2torch (1.5.15, August 2024, no release since) took none of five published
files: it wants weights to be initializers, and knows no `auto_pad`.
"""
