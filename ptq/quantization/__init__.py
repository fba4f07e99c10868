"""Which tensors become integers, and the network that computes with them.

Imports `ptq.graph` and what is below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
