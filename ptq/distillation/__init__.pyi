from .config import DistillConfig as DistillConfig
from .distillation import distill as distill
from .learning import learn as learn
from .results import DistillResult as DistillResult, Epoch as Epoch
from .teaching import recognized as recognized
