"""What a network is for, and so what counts as the same answer: everything that would otherwise assume a classifier.

Imports `ptq.config` and what is below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
