"""What a run found out: report.json for programs; pages, charts and advice for people.

Imports the stages for what they found, and what is below.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
