"""Stage: calibration images from nothing but networks, and what is measured on them.

Imports `ptq.quantization` and what is below; no other stage.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
