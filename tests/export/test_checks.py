"""What fails a file, and what does not."""

import copy
import math
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from ptq.export import checks, ort
from ptq.export.checks import EQUAL_DB, MARGIN, Evidence, not_slower, run_checks
from ptq.export.comparison import Comparisons
from ptq.export.onnx_files import QuantizedFile
from ptq.export.results import PRUNED_PREDICTIONS, SAME_PREDICTIONS, Check, failures
from ptq.export.stepwise import ComparedCodes, Stepwise
from ptq.tasks.task import Task

CLASSIFIER, GENERIC = Task({"output": "classify"}, 4), Task({"output": "generic"})
LAUNCH = 0.1  # ms; that other tests set it is undone here


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> QuantizedFile:
    """A file without layers, of which nothing can be wrong."""
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", shapes[:1], shapes[1:])
    path = tmp_path_factory.mktemp("checks") / "empty.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return QuantizedFile(path)


def predicting(*classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(classes), 4).float()


def found(
    file: QuantizedFile, outputs: dict[str, Any], task: Task = CLASSIFIER, labels: Tensor | None = None, **more: Any
) -> list[Check]:
    """The answers of the checks that look at outputs."""
    known = {check.name for check in run_checks(Evidence(file))}
    compared = Comparisons(task)
    compared.add(outputs, labels)
    return [check for check in run_checks(Evidence(file, outputs=compared, **more)) if check.name not in known]


def test_scores_are_compared_where_there_are_labels(file: QuantizedFile) -> None:
    logits = {"onnx": predicting(0, 1), "simulated": predicting(0, 1), "openvino": predicting(0, 2)}
    (line,) = failures(found(file, logits, labels=torch.tensor([0, 1])))
    assert "top-1" in line and "openvino" in line and "50.00" in line


def test_without_labels_agreement_with_float_stands_for_accuracy(file: QuantizedFile) -> None:
    """At few bits two correct roundings name different classes for images that both get wrong."""
    float_, onnx_ = predicting(0, 1, 2, 3), predicting(0, 1, 2, 1)
    other = {"float": float_, "onnx": onnx_, "onnx_unoptimized": predicting(0, 1, 0, 3)}
    assert failures(found(file, other)) == []
    worse = {"float": float_, "onnx": onnx_, "onnx_unoptimized": predicting(1, 1, 1, 1)}
    (line,) = failures(found(file, worse, tolerance=25.0))
    assert "agreement with float" in line and "of the unoptimized one" in line and "50.00" in line


def test_the_unoptimized_file_may_predict_otherwise_where_numbers_are_those_of_the_simulation(
    file: QuantizedFile,
) -> None:
    logits = {"onnx": predicting(0, 1, 2, 3), "onnx_unoptimized": predicting(0, 1, 2, 1)}
    labels = torch.tensor([0, 1, 2, 3])
    right, wrong = predicting(0, 1, 2, 3), predicting(0, 1, 2, 3) + 0.5
    assert failures(found(file, {**logits, "simulated": right}, labels=labels)) == []
    (line, other) = failures(found(file, {**logits, "simulated": wrong}, labels=labels))
    assert "of the unoptimized one" in line and "simulation" in other
    assert len(failures(found(file, logits, labels=labels))) == 1


def test_without_labels_and_float_predictions_are_compared(file: QuantizedFile) -> None:
    logits = {"onnx": predicting(0, 1), "onnx_unoptimized": predicting(0, 2)}
    (line,) = failures(found(file, logits, tolerance=25.0))
    assert line.startswith("predictions") and "50.00" in line
    assert failures(found(file, logits, tolerance=50.0)) == []


@pytest.mark.parametrize(("noise", "fails"), [(0.0, False), (1e-6, False), (1e-4, True)])
def test_numbers_are_those_of_the_simulation(file: QuantizedFile, noise: float, fails: bool) -> None:
    simulated = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    logits = {"simulated": simulated, "onnx": simulated * (1 + noise)}
    lines = failures(found(file, logits))
    assert bool(lines) == fails
    assert not fails or f"at least {EQUAL_DB:.0f} dB" in lines[0]
    assert failures(found(file, {"onnx": simulated})) == []


def sure(count: int, wrong: int, unsure: int = 0) -> dict[str, Tensor]:
    """Logits of `count` images on which float is sure, of which the file gets some wrong, and of some where it is not."""
    float_logits = predicting(*[0] * count, *[1] * unsure)
    float_logits[count:] *= 0.5
    onnx_logits = predicting(*[2] * wrong, *[0] * (count - wrong), *[3] * unsure)
    return {"float": float_logits, "onnx": onnx_logits}


@pytest.mark.parametrize(
    ("bits", "logits", "fails"),
    [
        ({}, sure(64, 32), False),
        ({}, sure(64, 33), True),
        ({}, sure(15, 15), None),  # too few to say
        ({}, sure(0, 0, 64), None),  # nearly tied, as all are in a network that was not trained
        ({}, sure(64, 0, 600), False),
        ({"weight": "8", "activation": "8"}, sure(100, 10), False),
        ({"weight": "7", "activation": "8"}, sure(100, 11), True),
        ({"weight": "4,8", "activation": "8"}, sure(100, 11), False),
        ({"weight": "8", "activation": "4,8"}, sure(100, 11), False),
        ({"weight": "4,8", "activation": "4,8"}, sure(100, 95), True),
    ],
)
def test_a_network_that_lost_its_predictions_fails(
    bits: dict[str, str], logits: dict[str, Tensor], fails: bool | None, file: QuantizedFile
) -> None:
    said = copy.copy(file)
    said.metadata = {f"ptq.{kind}_bits": widths for kind, widths in bits.items()}
    answers = [c for c in found(said, logits, remedy="Do this.") if c.name == SAME_PREDICTIONS]
    assert [not answer.passed for answer in answers] == ([] if fails is None else [fails])
    assert all(answer.failure.endswith("Do this.") for answer in answers if not answer.passed)


@pytest.mark.parametrize("lost", ["by pruning", "by quantization"])
def test_what_pruning_lost_is_not_what_quantization_lost(lost: str, file: QuantizedFile) -> None:
    right, wrong = predicting(*[0] * 100), predicting(*[1] * 60, *[0] * 40)
    pruned, onnx = (wrong, wrong) if lost == "by pruning" else (right, wrong)
    answers = {c.name: c.passed for c in found(file, {"float": right, "pruned": pruned, "onnx": onnx})}
    assert answers[SAME_PREDICTIONS] == (lost == "by pruning")
    assert answers[PRUNED_PREDICTIONS] == (lost == "by quantization")


def test_one_output_names_no_classes(file: QuantizedFile) -> None:
    one = torch.linspace(-9, 9, 64)[:, None]
    (check,) = [c for c in found(file, {"float": one, "onnx": -one}, GENERIC) if c.name == SAME_PREDICTIONS]
    assert not check.passed and "variance" in check.failure
    assert all(c.passed for c in found(file, {"float": one, "onnx": one + 0.1}, GENERIC))


def stepwise(
    differing: int = 0,
    farthest: int = 1,
    count: int = 10_000,
    output: float = 90.0,
    watched: float = math.inf,
    numbers: int | None = None,
) -> Stepwise:
    compared = ComparedCodes(
        "conv", count, differing, differing if numbers is None else numbers, farthest if differing else 0
    )
    return Stepwise((ComparedCodes("x", count, 0, 0, 0), compared), output, watched)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (stepwise(), ""),
        (stepwise(differing=51), ""),
        (stepwise(differing=1, count=10), ""),
        (stepwise(differing=900, numbers=1), ""),
        (stepwise(differing=900, numbers=2), "conv (900 of 10000, by up to 1)"),
        (stepwise(differing=52), "conv (52 of 10000, by up to 1)"),
        (stepwise(differing=1, farthest=2), "conv (1 of 10000, by up to 2)"),
        (stepwise(output=59.0), "59 dB"),
        (stepwise(output=math.nan), "nan dB"),
        (stepwise(watched=20.0), "20 dB"),
    ],
)
def test_what_float_operators_round_is_compared_step_by_step(file: QuantizedFile, steps: Stepwise, said: str) -> None:
    """Where outputs differ: flipped codes become more in the blocks behind them."""
    simulated = torch.randn(8, 10, generator=torch.Generator().manual_seed(0))
    logits = {"simulated": simulated, "onnx": simulated * 1.1}
    lines = failures(found(file, logits, float_operators=["softmax"], stepwise=lambda: steps))
    assert said in "".join(lines) and bool(lines) == bool(said)
    for other in ({"stepwise": lambda: steps}, {"float_operators": ["softmax"]}):
        (line,) = failures(found(file, logits, **other))
        assert f"at least {EQUAL_DB:.0f} dB" in line


def test_a_check_that_is_passed_says_what_was_measured(file: QuantizedFile) -> None:
    logits = {"onnx": predicting(0, 1), "simulated": predicting(0, 1), "openvino": predicting(0, 1)}
    simulated, openvino, same = found(file, logits, labels=torch.tensor([0, 2]))
    assert simulated.passed and "50.00 and 50.00 %" in simulated.measured
    assert openvino.passed and "openvino" in openvino.name
    assert same.passed and same.measured.startswith("no difference")
    assert same.to_json() == {"name": same.name, "measured": same.measured, "failure": "", "passed": True}


def test_what_is_not_a_number_is_not_the_simulations(file: QuantizedFile) -> None:
    nan = torch.full((2, 4), torch.nan)
    check = found(file, {"onnx": nan, "simulated": predicting(0, 1)})[-1]
    assert not check.passed


@pytest.mark.parametrize("other", ["float", "quantize_static"])
def test_being_slower_fails(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LAUNCH", LAUNCH)

    def failed(onnx: float) -> list[str]:
        return failures(not_slower({"onnx": onnx, other: 2.0, "threads": 1}))

    limit = MARGIN * 2.0 + LAUNCH
    assert failed(limit) == []
    (line,) = failed(limit + 0.01)
    assert "slower" in line and other in line


def test_cpus_without_vnni_get_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "LAUNCH", LAUNCH)
    monkeypatch.setattr(ort, "exact_by_default", lambda: False)
    (line,) = failures(not_slower({"onnx": 9.0, "float": 2.0, "threads": 1}))
    assert line.endswith("try --reduce-range.")
