"""A name, a file or a module becomes a network with everything known about it.

Imports `ptq.data` and what is below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
