from .config import METHODS as METHODS, ReconstructConfig as ReconstructConfig, method_preset as method_preset
from .finetuning import finetune as finetune
from .loop import reconstruct as reconstruct
from .results import BlockResult as BlockResult, FinetuneResult as FinetuneResult
