"""ptq: post-training quantization of vision networks without data.

    from ptq import quantize
    made = quantize(model, bits=4)      # made.folder holds model.onnx and the report

The names below are imported when first used, so that `import ptq` and the command line start at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptq.analysis.sensitivity import Sensitivity, measure_sensitivity
    from ptq.calibration import CalibrationSet, SynthesisConfig, calibrate, synthesize
    from ptq.config.recipe_file import read_recipe, write_recipe
    from ptq.config.settings import Settings
    from ptq.data.preprocess import Preprocess
    from ptq.errors import PtqError
    from ptq.export import Validation, export_qdq, validate
    from ptq.graph.preparation import GraphModel, prepare
    from ptq.models.model import Model, as_model, load_model
    from ptq.quantization.placement import QuantizedModel, insert_quantizers, make_plan
    from ptq.quantization.spec import QuantPlan, QuantSpec
    from ptq.reconstruction.config import ReconstructConfig
    from ptq.reconstruction.loop import BlockResult, reconstruct
    from ptq.reporting.html import write_html_report
    from ptq.run.finished_runs import load
    from ptq.run.inspection import Inspection, inspect_model, inspect_run
    from ptq.run.pipeline import Calibrated, Run, calibrate_datafree, quantize

__all__ = [
    "BlockResult",
    "Calibrated",
    "CalibrationSet",
    "GraphModel",
    "Inspection",
    "Model",
    "Preprocess",
    "PtqError",
    "QuantPlan",
    "QuantSpec",
    "QuantizedModel",
    "ReconstructConfig",
    "Run",
    "Sensitivity",
    "Settings",
    "SynthesisConfig",
    "Validation",
    "as_model",
    "calibrate",
    "calibrate_datafree",
    "export_qdq",
    "insert_quantizers",
    "inspect_model",
    "inspect_run",
    "load",
    "load_model",
    "make_plan",
    "measure_sensitivity",
    "prepare",
    "quantize",
    "read_recipe",
    "reconstruct",
    "synthesize",
    "validate",
    "write_html_report",
    "write_recipe",
]

_HOMES = {
    "ptq.calibration": ("CalibrationSet", "SynthesisConfig", "calibrate", "synthesize"),
    "ptq.errors": ("PtqError",),
    "ptq.export": ("Validation", "export_qdq", "validate"),
    "ptq.run.finished_runs": ("load",),
    "ptq.graph.preparation": ("GraphModel", "prepare"),
    "ptq.reporting.html": ("write_html_report",),
    "ptq.run.inspection": ("Inspection", "inspect_model", "inspect_run"),
    "ptq.models.model": ("Model", "as_model", "load_model"),
    "ptq.run.pipeline": ("Calibrated", "Run", "calibrate_datafree", "quantize"),
    "ptq.quantization.placement": ("QuantizedModel", "make_plan", "insert_quantizers"),
    "ptq.data.preprocess": ("Preprocess",),
    "ptq.reconstruction.config": ("ReconstructConfig",),
    "ptq.config.recipe_file": ("read_recipe", "write_recipe"),
    "ptq.reconstruction.loop": ("BlockResult", "reconstruct"),
    "ptq.analysis.sensitivity": ("Sensitivity", "measure_sensitivity"),
    "ptq.config.settings": ("Settings",),
    "ptq.quantization.spec": ("QuantPlan", "QuantSpec"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ptq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
