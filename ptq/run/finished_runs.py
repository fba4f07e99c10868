"""What can be done with a finished run directory: bring its quantized model back, measure its file again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ptq.calibration.dataset import CalibrationSet
from ptq.errors import InputError
from ptq.export import validate
from ptq.export.results import Validation
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.quantization.quantized_model import QuantizedModel
from ptq.quantization.storage import load_quantized, read_metadata, settings_of
from ptq.reporting.advice import remedy
from ptq.reporting.html.page import refresh
from ptq.reporting.report_files import read_report, write_report
from ptq.run.evaluation import PICTURES, ValidationBatches, data_of, labeled_images, own_metric
from ptq.run.inputs import IMAGES, load_network
from ptq.run.planning import prepare_network
from ptq.run.pruning import pruned_by

__all__ = ["load", "validate_run"]


def load(folder: Path | str, model: nn.Module | Model | None = None) -> QuantizedModel:
    """Return the quantized model of a run directory.

    Args:
        folder: as `quantize` wrote it.
        model: the float network, or the `Model` of a network of several inputs. Needed where the run was made from a module and not by a name, and wherever
            the float network is to be compared with. Without it ``float_model`` is None.

    Raises:
        InputError: when it is damaged or of another network.
    """
    folder = Path(folder)
    pruned = read_metadata(folder / "quantized.safetensors")["about"].get("pruned")
    return load_quantized(folder, model, pruned_by(folder) if pruned else None)


def validate_run(
    folder: Path,
    *,
    data: str | None = None,
    metric: str | None = None,
    threads: int | None = None,
    exact: bool = False,
    runtimes: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Validation:
    """Measure a finished run again, and bring its report up to date.

    `data`, `metric` and `threads` are the run's, when not given, so that what was measured before can be compared.
    `exact` compares the file with exact integer arithmetic, too; `runtimes` are others that shall run it ("openvino").

    Raises:
        InputError: when files are missing or damaged.
        ValidationError: when the ONNX file fails a check.
    """
    about = read_metadata(folder / "quantized.safetensors")["about"]
    report = read_report(folder)
    if about["model"] is None:
        raise InputError(f"{folder} was made from a Python module: use ptq.validate with that module.")
    model = load_network(settings_of(folder).model)
    if model.sha256 != report.model.sha256:
        raise InputError(f"{model.name} has other weights now than when {folder} was made.")
    images = CalibrationSet.load(folder / IMAGES)
    data = data or data_of(report.settings.evaluation)
    evaluation = labeled_images(data, model) if data else None
    own = replace(report.settings.evaluation, metric=metric or report.settings.evaluation.metric)
    quantized_model = load(folder, model.module)
    original = None
    if report.pruning is not None:
        original = prepare_network(model, report.settings.quantization).module
    measured = validate(
        folder / "model.onnx",
        quantized_model,
        model.preprocess,
        ValidationBatches(evaluation, images),
        original=original,
        threads=threads or report.settings.execution.threads,
        exact=exact,
        runtimes=runtimes,
        remedy=remedy(report.settings, report.worst_layers),
        metric=own_metric(own, model),
        pictures=folder / PICTURES,
        progress=progress,
    )
    write_report(replace(report, validation=measured), folder)
    refresh(folder)
    measured.raise_for_failure()
    return measured
