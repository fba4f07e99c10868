"""Stage: where quantization hurts, layer by layer and block by block.

Imports `ptq.quantization` and what is below; no other stage.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
