from .config import METHODS as METHODS, ReconstructConfig as ReconstructConfig, method_preset as method_preset
from .loop import BlockResult as BlockResult, reconstruct as reconstruct
