"""Images from disk, and what stands between an image and a network.

Imports `ptq.config` and `ptq.utils`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
