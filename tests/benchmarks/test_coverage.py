"""Coverage counts what is wrong with a file, and not what a network without training predicts."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.coverage import failures_but_of_predictions
from ptq.export import export_qdq
from ptq.export.checks import EQUAL_DB, Evidence, run_checks
from ptq.export.comparison import Comparisons
from ptq.export.onnx_files import QuantizedFile
from ptq.export.results import failures
from ptq.quantization.quantized_model import QuantizedModel
from tests.helpers.networks import quantized_network


def compared(quantized_model: QuantizedModel, logits: dict[str, Tensor]) -> Comparisons:
    outputs = Comparisons(quantized_model.task)
    outputs.add(logits)
    return outputs


def test_predictions_do_not_count_and_numbers_do(tmp_path: Path) -> None:
    quantized_model = quantized_network("resnet")
    file = QuantizedFile(export_qdq(quantized_model, tmp_path / "model.onnx"))
    one, other = (5.0 * F.one_hot(torch.full((32,), label), 10) for label in (0, 1))
    logits = {"float": one, "onnx": other, "onnx_unoptimized": one, "simulated": other}
    checks = run_checks(Evidence(file, quantized_model, outputs=compared(quantized_model, logits)))
    assert len(failures(checks)) == 2  # float, and the unoptimized file, predict another class
    assert failures_but_of_predictions(checks) == []
    checks = run_checks(
        Evidence(file, quantized_model, outputs=compared(quantized_model, {**logits, "simulated": one}))
    )
    (said,) = failures_but_of_predictions(checks)
    assert f"{EQUAL_DB:.0f} dB" in said
