"""The file in which a run ends that changes a network and leaves it in float."""

from pathlib import Path

from torch import nn

from ptq.export import export_float, validate
from ptq.export.results import Validation
from ptq.graph.preparation import GraphModel
from ptq.models.model import Model
from ptq.progress import SILENT, Progress
from ptq.run.evaluation import ValidationBatches
from ptq.tasks.user_metric import UserMetric
from ptq.utils.environment import Stopwatch

__all__ = ["write_float_file"]


def write_float_file(
    graph_model: GraphModel,
    path: Path,
    model: Model,
    batches: ValidationBatches,
    watch: Stopwatch,
    *,
    reference: nn.Module,
    threads: int | None = None,
    metric: UserMetric | None = None,
    progress: Progress = SILENT,
) -> Validation:
    """Write a float network as ONNX, and measure the file.

    Args:
        graph_model: the network.
        path: of the file.
        model: says what images go through, and what the network is for.
        batches: to measure on.
        watch: of the run.
        reference: what the file shall predict the same as.
        threads: of onnxruntime.
        metric: the user's own.
        progress: told of every batch.
    """
    with watch("export"):
        export_float(graph_model.module, path, graph_model.example(2))
    with watch("validate"):
        return validate(
            path,
            None,
            model.preprocess,
            batches,
            reference=reference,
            threads=threads,
            baseline=False,
            task=model.task,
            metric=metric,
            progress=progress,
        )
