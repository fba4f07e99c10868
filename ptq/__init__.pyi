from .allocation.allocate import Choices as Choices, allocate as allocate, find_choices as find_choices
from .allocation.results import Allocation as Allocation, Attempt as Attempt, Tradeoffs as Tradeoffs
from .allocation.smallest import Ladder as Ladder, smallest as smallest
from .allocation.widths import change_widths as change_widths
from .analysis.sensitivity import Sensitivity as Sensitivity, measure_sensitivity as measure_sensitivity
from .calibration.activation_ranges import calibrate as calibrate
from .calibration.dataset import CalibrationSet as CalibrationSet
from .calibration.synthesis import synthesize as synthesize
from .calibration.synthesis_config import SynthesisConfig as SynthesisConfig
from .calibration.universal import universal_set as universal_set
from .config.flat_options import make_settings as make_settings
from .config.recipe_file import read_recipe as read_recipe, write_recipe as write_recipe
from .config.settings import Settings as Settings
from .data.preprocess import Preprocess as Preprocess
from .distillation.config import DistillConfig as DistillConfig
from .distillation.distillation import distill as distill
from .distillation.results import DistillResult as DistillResult, Epoch as Epoch
from .errors import (
    ExportError as ExportError,
    InputError as InputError,
    MachineError as MachineError,
    ModelError as ModelError,
    PtqError as PtqError,
    ValidationError as ValidationError,
)
from .export.qdq import export_qdq as export_qdq
from .export.results import Validation as Validation
from .export.validation import validate as validate
from .graph.preparation import GraphModel as GraphModel, prepare as prepare
from .models.model import Model as Model, as_model as as_model, load_model as load_model
from .pruning.config import PruneConfig as PruneConfig
from .pruning.pruning import prune as prune
from .pruning.results import PrunedLayer as PrunedLayer, PruneResult as PruneResult, RepairStep as RepairStep
from .quantization.insertion import insert_quantizers as insert_quantizers
from .quantization.plan import make_plan as make_plan
from .quantization.quantized_model import QuantizedModel as QuantizedModel
from .quantization.spec import QuantPlan as QuantPlan, QuantSpec as QuantSpec
from .reconstruction.config import ReconstructConfig as ReconstructConfig
from .reconstruction.finetuning import finetune as finetune
from .reconstruction.loop import reconstruct as reconstruct
from .reconstruction.results import BlockResult as BlockResult, FinetuneResult as FinetuneResult
from .reporting.html.page import write_html_report as write_html_report
from .reporting.inspection import Inspection as Inspection
from .reporting.report import Report as Report
from .run.datafree import Calibrated as Calibrated, calibrate_datafree as calibrate_datafree
from .run.finished_runs import load as load
from .run.inspection import inspect_model as inspect_model, inspect_run as inspect_run
from .run.pipeline import Run as Run, quantize as quantize
from .tasks.task import Task as Task, find_task as find_task
