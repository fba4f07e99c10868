"""What fails a file, and what does not."""

import pytest
import torch
from torch import Tensor

from ptq.export.check import failures
from ptq.export.checks import EQUAL, deviation, differences


def predicting(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 4).float()


def test_scores_are_compared_where_there_are_labels() -> None:
    logits = {"onnx": predicting(0, 1), "simulated": predicting(0, 1), "openvino": predicting(2, 2)}
    scores = {"onnx": 80.0, "simulated": 80.5, "openvino": 70.0}
    (line,) = failures(differences(logits, scores, 1.0))
    assert line == "top-1 of the optimized file and of openvino differ by 10.00 points (at most 1.00)."


def test_without_labels_agreement_with_float_stands_for_accuracy() -> None:
    """At few bits two correct roundings name different classes for images that both get wrong."""
    float_, onnx = predicting(0, 1, 2, 3), predicting(0, 1, 2, 1)
    other = {"float": float_, "onnx": onnx, "onnx_unoptimized": predicting(0, 1, 0, 3)}
    assert failures(differences(other, {}, 1.0)) == []
    worse = {"float": float_, "onnx": onnx, "onnx_unoptimized": predicting(1, 1, 1, 1)}
    (line,) = failures(differences(worse, {}, 25.0))
    assert "agreement with float" in line and "of the unoptimized one" in line and "50.00" in line


def test_without_labels_and_float_predictions_are_compared() -> None:
    logits = {"onnx": predicting(0, 1), "onnx_unoptimized": predicting(0, 2)}
    (line,) = failures(differences(logits, {}, 25.0))
    assert line.startswith("predictions") and "50.00" in line
    assert failures(differences(logits, {}, 50.0)) == []


@pytest.mark.parametrize(("noise", "fails"), [(0.0, False), (1e-6, False), (1e-4, True)])
def test_numbers_are_those_of_the_simulation(noise: float, fails: bool) -> None:
    simulated = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    found = failures(deviation({"simulated": simulated, "onnx": simulated * (1 + noise)}))
    assert bool(found) == fails
    assert not fails or f"at least {EQUAL:.0f} dB" in found[0]
    assert failures(deviation({"onnx": simulated})) == []


def test_a_gate_that_is_passed_says_what_was_measured() -> None:
    logits = {"onnx": predicting(0, 1), "simulated": predicting(0, 1), "openvino": predicting(0, 1)}
    scores = {"onnx": 80.0, "simulated": 80.5, "openvino": 79.5}
    simulated, openvino = differences(logits, scores, 1.0)
    assert simulated.passed and "80.00 and 80.50 %" in simulated.measured
    assert openvino.passed and "openvino" in openvino.name
    (same,) = deviation(logits)
    assert same.passed and same.measured.startswith("no difference")
    assert same.to_json() == {"name": same.name, "measured": same.measured, "failure": "", "passed": True}


def test_what_is_not_a_number_is_not_the_simulations() -> None:
    nan = torch.full((2, 4), torch.nan)
    (check,) = deviation({"onnx": nan, "simulated": predicting(0, 1)})
    assert not check.passed
