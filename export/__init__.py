"""Stage: from a quantized model to an ONNX file, and the proof that the file does what the model did.

Imports `ptq.quantization` and what is below; no other stage.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
