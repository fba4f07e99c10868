from .distillation_settings import DistillationSettings as DistillationSettings
from .flat_options import make_settings as make_settings
from .pruning_settings import PruningSettings as PruningSettings
from .recipe_file import read_recipe as read_recipe, write_recipe as write_recipe
from .settings import (
    CalibrationSettings as CalibrationSettings,
    EvaluationSettings as EvaluationSettings,
    ExecutionSettings as ExecutionSettings,
    ModelSettings as ModelSettings,
    OutputSettings as OutputSettings,
    QuantizationSettings as QuantizationSettings,
    ReconstructionSettings as ReconstructionSettings,
    Settings as Settings,
    SynthesisSettings as SynthesisSettings,
)
