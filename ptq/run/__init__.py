"""The story of a run, from a model to a validated file; read `pipeline` first.

Imports everything but `ptq.cli`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
