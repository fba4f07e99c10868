"""Stage: channels removed from a float network, and what is left repaired.

Imports `ptq.graph` and what is below; no other stage.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
