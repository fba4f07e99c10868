"""A network learns what others say: they look at the same views of images, and no label is needed.

Imports `ptq.models` and what is below. Its loop is also what pruning and reconstruction tune whole networks with.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
