from .datafree import Calibrated as Calibrated, calibrate_datafree as calibrate_datafree
from .finished_runs import load as load, validate_run as validate_run
from .inspection import inspect_model as inspect_model, inspect_run as inspect_run
from .pipeline import Run as Run, quantize as quantize
