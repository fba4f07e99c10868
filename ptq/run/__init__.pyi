from .finished_runs import load as load, validate_run as validate_run
from .inspection import inspect_model as inspect_model, inspect_run as inspect_run
from .pipeline import (
    Calibrated as Calibrated,
    Run as Run,
    calibrate_datafree as calibrate_datafree,
    quantize as quantize,
)
