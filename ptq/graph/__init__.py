"""A module in, a float graph in canonical form out, and its blocks.

Imports `ptq.models`, for the check of weights alone, and `ptq.utils`; knows no model by its name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
