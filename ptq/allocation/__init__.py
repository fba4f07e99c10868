"""Bits of every layer for a budget: what widths cost in bytes and in harm, and the best choice among them.

Stands on the stages: ranges are calibration's, containers are the file's, how far an output moves is analysis's.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
