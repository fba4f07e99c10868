from .config import METHODS as METHODS, ReconstructConfig as ReconstructConfig, method_preset as method_preset
from .loop import reconstruct as reconstruct
from .results import BlockResult as BlockResult
