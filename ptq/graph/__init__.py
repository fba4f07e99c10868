"""A module in, a float graph in canonical form out, and its blocks.

Imports `ptq.utils`; knows nothing of models by name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
