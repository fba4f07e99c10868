"""Settings of a run as data, and as a file that people edit.

Imports `ptq.utils`; never torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
