"""The command line: options are checked before torch is imported.

Imports everything; nothing imports it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
