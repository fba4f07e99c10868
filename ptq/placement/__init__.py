"""Which groups of operators compute in integers: those that are not slower there than in float, as onnxruntime measures it.

Stands on the stages: kernels are onnxruntime's, files are export's.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
